# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocking while the daemon is stopped, killed, stuck or reloaded, while others change its rules, while
the disk is full: what is blocked stays blocked, everything else goes on.
"""

import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from difflib import unified_diff
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from capture_net import IN_VM, inside, tool
from endless import EVERY, ROUNDS, Attempts, Watch, again, attempting, longest_gap
from spind_home import Home

from spind import uci
from spind.client import CallError, Client, ClientError
from spind.lab import Lab
from spind.lab.node import wait_until
from spind.lab.patience import patient

pytestmark = pytest.mark.lab

BOTH = ["nftables"] if IN_VM else ["nftables", "iptables"]
OTHER = {"nftables": "iptables", "iptables": "nftables"}

NAME = "cam.vendor.test"
NAMED = ("198.18.0.10", "2001:db8:2:1::10")
ADDRESS = ("198.18.0.61", "2001:db8:2:1::61")
FREE = ("198.18.0.62", "2001:db8:2:1::62")
ANY = ("198.18.0.63", "2001:db8:2:1::63")

MOMENTS = 50 if os.environ.get("SPIND_TEST_ALL_MOMENTS") else 6
"""At how many moments the daemon is killed while it works."""


def make(lab: Lab, **options: Any) -> Home:
    return Home(lab, history_dir=str(lab.root / "data" / "history"), **options)


@contextmanager
def running(home: Home) -> Iterator[Home]:
    home.broker.start()
    home.spind.start()
    try:
        yield home
    finally:
        home.stop()


@pytest.fixture(scope="module", params=BOTH)
def shared(request: pytest.FixtureRequest) -> Iterator[Home]:
    """The camera may reach nobody; the plug may not reach an address and a name."""
    with Lab(devices=2) as lab, running(make(lab, block_backend=request.param)) as fresh:
        assert fresh.call("status")["blocking"]["backend"] == request.param
        plug = lab.device("plug")
        fresh.call("add_rule", device=lab.device("camera").mac, action="block")
        for address in ADDRESS:
            fresh.call("add_rule", device=plug.mac, ip=address, action="block")
        fresh.call("add_rule", device=plug.mac, domain=NAME, action="block")
        plug.run(["getent", "ahosts", NAME], check=False)
        with traffic(fresh):  # all addresses of the devices are known from here on
            pass
        yield fresh


@pytest.fixture
def home(shared: Home) -> Iterator[Home]:
    """The same, running, with the configuration that it had."""
    text = shared.spind.config.read_text()
    yield shared
    shared.spind.config.write_text(text)
    if shared.lab.gateway.pid("spind") is None:
        again(shared)
    hang_up(shared)
    backend = shared.spind.options["block_backend"]
    wait_until(lambda: shared.call("status")["blocking"]["backend"] == backend, 10, str(backend))


class Traffic(NamedTuple):
    """Attempts of all kinds, all the time."""

    watch: Watch
    attempts: list[Attempts]

    def go_on(self, rounds: int = ROUNDS) -> None:
        for each in self.attempts:
            each.go_on(rounds)

    def leaked(self, since: float = 0.0) -> dict[str, int]:
        """Packets to where none may get."""
        blocked = (*NAMED, *ADDRESS, *ANY)
        return {to: count for to in blocked if (count := len(self.watch.arrivals(to, since)))}

    def open_for(self, since: float) -> float:
        """Seconds between the first and the last packet that got where none may get, since then."""
        times = [each.time for to in (*NAMED, *ADDRESS, *ANY) for each in self.watch.arrivals(to, since)]
        return max(times) - min(times) + EVERY if times else 0.0

    def pause(self, kind: str, since: float) -> float:
        """Seconds for which nothing of a kind got where it may."""
        now = time.time()
        return max(longest_gap(self.watch.arrivals(to), kind, since, now) for to in FREE)


@contextmanager
def traffic(home: Home) -> Iterator[Traffic]:
    pairs = [("plug", to) for to in (*NAMED, *ADDRESS, *FREE)] + [("camera", to) for to in ANY]
    with Watch(home) as watch, attempting(home, *pairs) as attempts:
        made = Traffic(watch, attempts)
        made.go_on()
        yield made


def rules_of(home: Home) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := home.call("list_rules", limit=500, offset=len(found)):
        found += page
    return found


def hang_up(home: Home) -> None:
    """Have the configuration read again, and wait until it was."""
    pid = home.lab.gateway.pid("spind")
    assert pid is not None
    before = home.log().count("configuration read again")
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: home.log().count("configuration read again") > before, 10, "the reload")
    home.call("status")  # a reload that has nothing to wait for is over by then


def configure(home: Home, **options: str) -> None:
    """Set options of the configuration file as it is."""
    text = home.spind.config.read_text()
    for name, value in options.items():
        text = re.sub(rf"\n\toption {name} .*", "", text)
        text = re.sub(r"(config spind .*\n)", rf"\1\toption {name} '{value}'\n", text, count=1)
    home.spind.config.write_text(text)


# -- what the kernel has of ours -----------------------------------------------------------------


def kernel(home: Home) -> dict[str, Any]:
    """All that blocks, in an order of its own, without what is counted or made up each time."""
    with inside(home.lab.gateway.namespace):
        return {"nftables": _nftables(), "iptables": _iptables(), "sets": _sets()}


def _nftables() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in json.loads(tool("nft", "-j", "list", "ruleset"))["nftables"]:
        ((kind, about),) = entry.items()
        name = about.get("chain" if kind == "rule" else "name", "")
        if kind == "metainfo" or about.get("table") != "spin" or name.startswith("capture_"):
            continue
        about = {key: value for key, value in about.items() if key not in ("handle", "packets", "bytes")}
        if "elem" in about:
            about["elem"] = sorted(map(json.dumps, about["elem"]))
        found.setdefault(f"{about['family']} {kind} {name}", []).append(about)
    if not any(name.startswith("bridge rule ") for name in found):
        # A base chain stays when its rules go, since what waits in queues would go with it.
        found = {name: about for name, about in found.items() if not name.startswith("bridge ")}
    return found


def _iptables() -> list[str]:
    lines = []
    for program in ("iptables-legacy-save", "ip6tables-legacy-save"):
        lines += [f"{program} {line}" for line in tool(program).splitlines()]
    ours = (line for line in lines if re.search("SPIN_(BLOCK|INSPECT)", line))
    return [re.sub(r"(spin_\w+)\.\d+", r"\1", re.sub(r"\[\d+:\d+\]", "", line)) for line in ours]


def _sets() -> list[str]:
    found = []
    for line in tool("ipset", "save").splitlines():
        words = re.sub(r"(spin_\w+)\.\d+", r"\1", line).split()
        found.append(" ".join(words[:5] if words[0] == "create" else words))
    return sorted(found)


def difference(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    texts = (json.dumps(found, indent=1, sort_keys=True).splitlines() for found in (one, other))
    return [line for line in unified_diff(*texts, n=4) if line.strip()]


def empty(found: dict[str, Any]) -> bool:
    return not any(found.values())


def flush(home: Home) -> None:
    """Take out all that blocks."""
    with inside(home.lab.gateway.namespace):
        for family in ("inet", "bridge"):
            tool("nft", "delete", "table", family, "spin", check=False)
        for program in ("iptables-legacy", "ip6tables-legacy"):
            for table in ("filter", "mangle"):
                tool(program, "-t", table, "-F")
                tool(program, "-t", table, "-X")
        tool("ipset", "flush")
        tool("ipset", "destroy")


# -- the daemon ----------------------------------------------------------------------------------


def test_stopped_killed_and_started_again_nothing_that_is_blocked_passes(home: Home) -> None:
    before = kernel(home)
    with traffic(home) as moving:
        begun = time.time()
        for number in (signal.SIGTERM, signal.SIGKILL):
            home.spind.stop(number)
            moving.go_on()
            assert kernel(home) == before
            again(home)
            moving.go_on()
        assert moving.leaked() == {}
        # A connection's first packets may have waited for who was killed; the others do not wait.
        assert moving.pause("udp", begun) < patient(0.5)
        assert moving.pause("tcp", begun) < patient(1)
    assert kernel(home) == before


def test_stuck_it_holds_up_new_connections_for_a_second_and_nothing_that_is_blocked_passes(
    home: Home,
) -> None:
    pid = home.lab.gateway.pid("spind")
    assert pid is not None
    with traffic(home) as moving:
        begun = time.time()
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: time.time() >= begun + 5, 10, "five seconds to pass")
        finally:
            os.kill(pid, signal.SIGCONT)
        stuck = time.time()
        moving.go_on()
        assert moving.leaked() == {}
        assert moving.pause("udp", begun) < patient(0.5)
        # The dead man's switch: 1 s, and what had been beaten for before.
        arrivals = moving.watch.arrivals(FREE[0])
        assert longest_gap(arrivals, "tcp", begun, stuck) < 1.5 + patient(0.5)
    assert home.call("status")["problems"] == []


def test_a_stop_takes_the_rules_out_where_it_shall(home: Home) -> None:
    before = kernel(home)
    configure(home, block_on_stop="0")
    hang_up(home)
    with traffic(home) as moving:
        assert moving.leaked() == {}
        home.spind.stop()
        assert empty(kernel(home))
        begun = time.time()
        moving.go_on()
        assert moving.leaked(begun).keys() == {*NAMED, *ADDRESS, *ANY}
        again(home)
        begun = time.time()
        moving.go_on()
        assert moving.leaked(begun) == {}
        assert kernel(home) == before
        # Killed, it had no chance to.
        home.spind.stop(signal.SIGKILL)
        begun = time.time()
        moving.go_on()
        assert moving.leaked(begun) == {}


def test_a_stop_in_the_middle_of_a_reload_leaves_no_rules_where_it_shall(home: Home) -> None:
    backend = home.call("status")["blocking"]["backend"]
    configure(home, block_on_stop="0")
    hang_up(home)
    configure(home, block_backend=OTHER[backend])
    pid = home.lab.gateway.pid("spind")
    assert pid is not None
    os.kill(pid, signal.SIGHUP)
    home.spind.stop()
    assert empty(kernel(home))


# -- other programs ------------------------------------------------------------------------------


def _an_element() -> list[str]:
    """A command that takes an element out of what is blocked."""
    for name, entries in _nftables().items():
        for about in entries:
            if name.startswith("inet set ") and about.get("elem"):
                element = json.loads(about["elem"][0])
                if isinstance(element, str):
                    return ["nft", "delete", "element", "inet", "spin", about["name"], f"{{ {element} }}"]
    raise AssertionError("no set has an element")


def _a_member() -> list[str]:
    line = next(line for line in tool("ipset", "save").splitlines() if line.startswith("add spin_"))
    return ["ipset", "del", *line.split()[1:3]]


def _firewall_again(home: Home) -> list[str]:
    """What a firewall does that is sure of being alone: all away, and its own anew, in one step."""
    listed = tool("nft", "list", "ruleset")
    tables = re.split(r"^(?=table )", listed, flags=re.MULTILINE)
    own = "".join(table for table in tables if not re.match(r"table \w+ spin ", table))
    file = home.lab.root / "data" / "firewall.nft"
    file.write_text("flush ruleset\n" + own)
    return ["nft", "-f", str(file)]


DISTURBANCES: dict[str, list[tuple[str, Callable[[Home], list[str]]]]] = {
    "nftables": [
        ("flush ruleset", _firewall_again),
        ("delete table", lambda _: ["nft", "delete", "table", "inet", "spin"]),
        ("flush chain", lambda _: ["nft", "flush", "chain", "inet", "spin", "block_forward"]),
        ("delete element", lambda _: _an_element()),
    ],
    "iptables": [
        ("iptables -F", lambda _: ["iptables-legacy", "-F"]),
        ("iptables -D FORWARD 1", lambda _: ["iptables-legacy", "-D", "FORWARD", "1"]),
        ("ip6tables -F FORWARD", lambda _: ["ip6tables-legacy", "-F", "FORWARD"]),
        ("ipset flush", lambda _: ["ipset", "flush"]),
        ("ipset del", lambda _: _a_member()),
    ],
}
OPEN_SECONDS = {"nftables": 0.5, "iptables": 2.0}
"""How long it may take: nftables tells of changes, iptables has to be asked."""


def test_what_others_change_is_put_back(home: Home, record_property: Callable[[str, object], None]) -> None:
    backend = home.call("status")["blocking"]["backend"]
    before = kernel(home)
    with traffic(home) as moving:
        for what, command in DISTURBANCES[backend]:
            home.spind.stop()  # repairs wait for one another: let each be the first of its daemon
            again(home)
            with inside(home.lab.gateway.namespace):
                words = command(home)
                begun = time.time()
                tool(*words)
            wait_until(
                lambda: home.call("status")["blocking"]["repairs"] > 0,
                10,
                f"rules to be put back after {what}",
            )
            wait_until(lambda: kernel(home) == before, 10, f"everything to be back after {what}")
            mended = time.time()
            moving.go_on()
            assert moving.leaked(mended) == {}, what
            seconds = moving.open_for(begun)
            record_property(f"open after {what} (ms)", round(seconds * 1000))
            assert seconds < patient(OPEN_SECONDS[backend]), what
            assert home.call("status")["problems"] == []


def test_capture_comes_back_too(home: Home) -> None:
    before = kernel(home)
    capture = home.call("status")["capture"]["backend"]
    with inside(home.lab.gateway.namespace):
        if capture == "nftables":
            tool("nft", "delete", "table", "inet", "spin")
        else:
            tool("iptables-legacy", "-t", "mangle", "-F")
    repaired = home.call("status")["capture"]["rule_repairs"]
    wait_until(lambda: home.call("status")["capture"]["rule_repairs"] > repaired, 15, "capture to be back")
    wait_until(lambda: kernel(home) == before, 10, "blocking to be back")
    received = home.call("status")["capture"]["received"]
    with traffic(home) as moving:
        assert moving.leaked() == {}
    wait_until(lambda: home.call("status")["capture"]["received"] > received, 10, "captured packets")


# -- reload --------------------------------------------------------------------------------------


def test_a_reload_opens_nothing(home: Home) -> None:
    before = kernel(home)
    with traffic(home) as moving:
        begun = time.time()
        for _ in range(5):
            hang_up(home)
            moving.go_on(5)
        assert moving.leaked() == {}
        assert moving.pause("tcp", begun) < patient(0.5)
    assert kernel(home) == before


def test_another_back_end_opens_nothing_and_leaves_nothing(home: Home) -> None:
    backend = home.call("status")["blocking"]["backend"]
    before = kernel(home)
    with traffic(home) as moving:
        for name in (OTHER[backend], backend) * 2:
            begun = time.time()
            configure(home, block_backend=name)
            hang_up(home)
            wait_until(lambda: home.call("status")["blocking"]["backend"] == name, 10, name)  # noqa: B023
            wait_until(lambda: only(home, name), 10, f"nothing but {name}")  # noqa: B023
            moving.go_on()
            assert moving.leaked(begun) == {}, f"while {name} took over"
    assert kernel(home) == before


def only(home: Home, backend: str) -> bool:
    there = kernel(home)
    return bool(there["nftables"]) is (backend == "nftables") and bool(there["iptables"]) is bool(
        there["sets"]
    ) is (backend == "iptables")


def test_interfaces_come_and_go_and_nothing_opens(home: Home) -> None:
    text = home.spind.config.read_text()
    configured = text.replace("\tlist lan 'br-lan'\n", "\tlist lan 'br-lan'\n\tlist lan 'br-two'\n")
    assert configured != text
    home.spind.config.write_text(configured)
    before = kernel(home)
    with traffic(home) as moving, inside(home.lab.gateway.namespace):
        hang_up(home)
        for _ in range(3):
            tool("ip", "link", "add", "br-two", "type", "bridge")
            wait_until(lambda: "br-two" in home.call("status")["interfaces"], 10, "the new interface")
            assert "br-two" in json.dumps(kernel(home))
            moving.go_on(5)
            tool("ip", "link", "del", "br-two")
            wait_until(lambda: "br-two" not in home.call("status")["interfaces"], 10, "it to be gone")
            moving.go_on(5)
        assert moving.leaked() == {}
    assert kernel(home) == before


# -- the disk ------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    tool("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path))
    try:
        yield tmp_path
    finally:
        tool("umount", "-l", str(tmp_path))


def fill(folder: Path) -> Path:
    file = folder / "ballast"
    with suppress(OSError), file.open("wb", buffering=0) as ballast:
        while ballast.write(bytes(512)):
            pass
    return file


def test_what_cannot_be_kept_is_refused_and_changes_nothing(small: Path) -> None:
    with Lab(devices=2) as lab:
        fresh = make(lab)
        fresh.spind.config = small / "spin"
        with running(fresh):
            plug = lab.device("plug")
            kept = fresh.call("add_rule", device=plug.mac, ip=ADDRESS[0], action="block")
            node = next(n["id"] for n in fresh.pages("list_nodes", kind="device") if n["mac"] == plug.mac)
            refused: list[tuple[str, dict[str, Any]]] = [
                ("add_rule", {"device": plug.mac, "action": "block", "comment": "x" * 200}),
                ("add_rule", {"device": plug.mac, "domain": NAME, "action": "block"}),
                ("add_rule", {"ip": "198.18.0.0/24", "action": "block"}),
                ("set_device_profile", {"device": plug.mac, "profile": "nointernet"}),
                ("set_device_name", {"node": node, "name": "x" * 60}),
                ("add_iplist_node", {"list": "block", "node": node}),
                ("add_iplist_ip", {"list": "block", "ip": ADDRESS[1]}),
                ("set_ignore", {"node": node, "ignore": True}),
                ("remove_rule", {"id": kept["id"] if isinstance(kept, dict) else kept}),
            ]

            def state() -> tuple[Any, ...]:
                device = fresh.call("get_device_data", node=node)
                told = {key: device[key] for key in ("name", "profile", "ignored") if key in device}
                lists = [fresh.call("list_iplist", list=name) for name in ("ignore", "block", "allow")]
                audit = fresh.call("list_audit")
                return (
                    kernel(fresh),
                    fresh.spind.config.read_bytes(),
                    fresh.call("list_rules"),
                    told,
                    lists,
                    audit,
                )

            def all_refused() -> None:
                before = state()
                for method, params in refused:
                    with pytest.raises(CallError, match="cannot be kept"):
                        fresh.call(method, **params)
                    assert state() == before, method

            ballast = fill(small)
            all_refused()
            ballast.unlink()
            tool("mount", "-o", "remount,ro", str(small))
            all_refused()
            tool("mount", "-o", "remount,rw", str(small))
            before = kernel(fresh)
            for method, params in refused:
                fresh.call(method, **params)
            assert kernel(fresh) != before
            assert [file.name for file in small.iterdir()] == ["spin"]
            assert "Traceback" not in fresh.log()


def test_without_room_for_history_decisions_are_made_all_the_same(small: Path) -> None:
    with Lab(devices=2) as lab:
        fresh = Home(lab, history_dir=str(small / "history"))
        fill(small)
        with running(fresh):
            plug = lab.device("plug")
            fresh.call("add_rule", device=plug.mac, domain=NAME, action="block")
            for address in ADDRESS:
                fresh.call("add_rule", device=plug.mac, ip=address, action="block")
            plug.run(["getent", "ahosts", NAME], check=False)
            before = kernel(fresh)
            with (
                Watch(fresh) as watch,
                attempting(fresh, *(("plug", to) for to in (*NAMED, *ADDRESS))) as made,
            ):
                made[-1].go_on()
                assert not any(watch.arrivals(to) for to in (*NAMED, *ADDRESS))
            assert len(fresh.call("list_audit")["items"]) == 3
            assert "the audit list is not kept" in fresh.log()
            fresh.spind.stop(signal.SIGKILL)
            again(fresh)
            assert len(rules_of(fresh)) == 3
            assert kernel(fresh)["nftables"].keys() >= {
                key for key in before["nftables"] if key.split()[1] == "chain"
            }
            assert "Traceback" not in fresh.log()


# -- killed while it works -----------------------------------------------------------------------


class Editor:
    """A client that changes rules, profiles and lists of its own at random, until the daemon is gone.

    ``sure`` is what the daemon has said yes to, ``perhaps`` what it may have done before it died.
    """

    def __init__(self, home: Home, number: int, ids: dict[str, int]) -> None:
        self._home = home
        self._number = number
        self._random = random.Random(number)
        self._made = 0
        self._ids = ids  # of rules, by comment
        self.sure: set[str] = set()
        self.perhaps: set[str] | None = None
        self.changes = 0

    def run(self) -> None:
        """Change things until nobody answers."""
        self.perhaps = None
        with suppress(ClientError), Client(str(self._home.spind.rpc_socket), patient(10)) as client:
            while True:
                method, params, after = self._choose()
                self.perhaps = after
                result = client.call(method, params)
                if method == "add_rule":
                    self._ids[params["comment"]] = result["id"] if isinstance(result, dict) else result
                self.sure, self.perhaps = after, None
                self.changes += 1

    def settled(self, there: set[str]) -> None:
        """See that what is there is what was said, or what was asked last, too."""
        own = {word for word in there if word.startswith(f"{self._number}-")}
        assert own in (self.sure, self.perhaps if self.perhaps is not None else self.sure)
        self.sure = own

    def _choose(self) -> tuple[str, dict[str, Any], set[str]]:
        pick = self._random
        removable = sorted(
            word for word in self.sure if word.partition("-")[2][0] == "r" and word in self._ids
        )
        if removable and pick.random() < 0.4:
            word = pick.choice(removable)
            return "remove_rule", {"id": self._ids[word]}, self.sure - {word}
        if pick.random() < 0.15:
            address = f"10.{self._number}.{pick.randrange(4)}.1"
            word = f"{self._number}-i{address}"
            if word in self.sure:
                return "remove_iplist_ip", {"list": "ignore", "ip": address}, self.sure - {word}
            return "add_iplist_ip", {"list": "ignore", "ip": address}, self.sure | {word}
        self._made += 1
        word = f"{self._number}-r{self._made}"
        return "add_rule", self._rule() | {"comment": word}, self.sure | {word}

    def _rule(self) -> dict[str, Any]:
        pick = self._random
        devices = [device.mac for device in self._home.lab.devices.values()]
        rule: dict[str, Any] = {"action": pick.choice(("block", "block", "allow"))}
        what = pick.randrange(6)
        number = pick.randrange(1, 250)
        if what == 0:
            rule["ip"] = pick.choice((f"198.18.2.{number}", f"2001:db8:2:2::{number}"))
        elif what == 1:
            rule["ip"] = pick.choice((f"198.18.{number}.0/24", f"2001:db8:2:{number:x}::/64"))
        elif what == 2:
            rule["domain"] = pick.choice((NAME, "tv.test", "ads.tracker.test", f"n{number}.wild.test"))
        elif what == 3:
            rule |= {"ip": f"198.18.3.{number}", "port": pick.choice((53, 443, 8000 + number))}
        elif what == 4:
            rule |= {"port": 1000 + number, "protocol": pick.choice(("tcp", "udp"))}
        else:
            rule["device"] = pick.choice(devices)
        if "device" not in rule and pick.random() < 0.6:
            rule["device"] = pick.choice([*devices, f"02:00:00:00:99:{number:02x}"])
        return rule


def written(config: Path) -> tuple[set[str], dict[str, int]]:
    """What editors have left in the configuration, and ids of rules by comment; it can be read as a whole."""
    package = uci.parse(config.read_text(), "spin")
    there: set[str] = set()
    ids: dict[str, int] = {}
    for section in package.sections:
        if section.type == "rule":
            comment = str(section.options["comment"])
            assert comment not in there
            there.add(comment)
            ids[comment] = int(section.name.removeprefix("rule"))
        for address in section.options.get("ignore_ip", ()):
            there.add(f"{address.split('.')[1]}-i{address.partition('/')[0]}")
    return there, ids


@pytest.mark.parametrize("backend", BOTH)
def test_killed_at_any_moment_it_starts_with_what_was_decided(
    backend: str, record_property: Callable[[str, object], None]
) -> None:
    """... and the kernel has what it would have if nothing had ever been there before."""
    pick = random.Random(7)
    with Lab(devices=2) as lab, running(make(lab, block_backend=backend)) as fresh:
        plug = lab.device("plug")
        for name in (NAME, "stream.tv.test", "img.tv.test", "ads.tracker.test"):
            plug.run(["getent", "ahosts", name], check=False)
        ids: dict[str, int] = {}
        editors = [Editor(fresh, number, ids) for number in range(8)]
        for _ in range(MOMENTS):
            threads = [threading.Thread(target=editor.run) for editor in editors]
            for thread in threads:
                thread.start()
            enough = sum(editor.changes for editor in editors) + 20
            wait_until(lambda: sum(e.changes for e in editors) >= enough, 30, "changes")  # noqa: B023
            moment = time.monotonic() + pick.random() * 0.3
            wait_until(lambda: time.monotonic() >= moment, 20, "the moment", 0.001)  # noqa: B023
            fresh.spind.stop(signal.SIGKILL)
            for thread in threads:
                thread.join()
            there, found = written(fresh.spind.config)
            ids.clear()
            ids.update(found)
            for editor in editors:
                editor.settled(there)
            assert there == set().union(*(editor.sure for editor in editors))
            again(fresh)
            mended = kernel(fresh)
            rules = {rule["comment"]: rule["id"] for rule in rules_of(fresh)}
            assert rules == ids
            fresh.spind.stop(signal.SIGKILL)
            flush(fresh)
            again(fresh)
            differs = difference(mended, kernel(fresh))
            assert not differs, "\n".join(differs)
        changes = sum(editor.changes for editor in editors)
        record_property("changes", changes)
        assert changes >= 20 * MOMENTS
        assert "Traceback" not in fresh.log()


# -- many rules ----------------------------------------------------------------------------------


def test_ten_thousand_rules_and_a_thousand_names_are_in_force_soon(
    record_property: Callable[[str, object], None],
) -> None:
    with Lab(devices=2) as lab:
        macs = [device.mac for device in lab.devices.values()]
        macs += [f"02:00:00:00:99:{number:02x}" for number in range(28)]
        sections = []
        for number in range(1, 10_001):
            options = [f"device '{macs[number % len(macs)]}'"] if number % 2 else []
            if number <= 1000:
                options = [f"domain 'n{number}.wild.test'"]
            else:
                options.append(f"ip '198.{19 + number // 60000}.{number // 250}.{number % 250}'")
            options += ["action 'block'", "author 'owner'", "created '1700000000'"]
            lines = "".join(f"\toption {option}\n" for option in options)
            sections.append(f"\nconfig rule 'rule{number}'\n{lines}")
        fresh = make(lab, limit_rules=20_000)
        fresh.spind.more = "".join(sections)
        fresh.broker.start()
        with ExitStack() as stack:
            stack.callback(fresh.stop)
            begun = time.monotonic()
            fresh.spind.start()
            seconds = time.monotonic() - begun
            assert len(rules_of(fresh)) == 10_000
            assert fresh.call("status")["problems"] == []
            in_kernel = json.dumps(kernel(fresh)["nftables"])
            assert in_kernel.count("198.19.") > 8000
            with Watch(fresh) as watch, attempting(fresh, ("plug", "198.19.20.2"), ("plug", FREE[0])) as made:
                made[0].go_on()
                assert watch.arrivals("198.19.20.2") == []
                assert watch.arrivals(FREE[0])
            record_property("start (s)", round(seconds, 2))
            begun = time.monotonic()
            fresh.spind.stop(signal.SIGKILL)
            again(fresh)
            record_property("start over old rules (s)", round(time.monotonic() - begun, 2))
            record_property("memory (MB)", fresh.call("status")["memory_bytes"] >> 20)
        assert seconds < patient(5)
