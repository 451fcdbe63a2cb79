# SPDX-License-Identifier: GPL-2.0-or-later
"""What people decide about a home, by calls and by editing its configuration: lists, rules, profiles, undo.

Each back-end has one lab and one daemon for all tests here; every test leaves both as it found them.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from blocking import REFUSED, Service, Talk, fresh_port, wait_for
from blocking_home import (
    BACKENDS,
    BESIDE,
    HOST_NAME,
    OTHER_SITE,
    SITE_NAME,
    TARGET_PREFIXES,
    TARGETS,
    Blocks,
    an_address,
    arriving_outside,
    blocking_of,
    blocks,
    lan_address,
    reached,
    rule,
)
from spind_home import Listener, covers, samples, shape

from spind.client import CallError
from spind.lab import plan
from spind.lab.watch import Watch

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", params=BACKENDS)
def home(request: pytest.FixtureRequest) -> Iterator[Blocks]:
    with blocks(request.param) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def outside(home: Blocks) -> Iterator[Watch]:
    with arriving_outside(home) as watch:
        yield watch


# -- lists, messages, counters -------------------------------------------------------------------


def test_allow_beats_block(home: Blocks) -> None:
    good, bad = TARGETS[4].format(60), TARGETS[4].format(61)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        services = {ip: enter(Service(home.lab.internet, ip, "udp", fresh_port())) for ip in (good, bad)}
        for service in services.values():
            enter(Talk(home.tv, service)).establish()
        enter(blocking_of(home, home.tv))
        entry = {"list": "allow", "node": home.node_of(good)}
        home.call("add_iplist_node", **entry)
        assert home.call("list_iplist", list="allow") == [good]
        assert set(home.call("list_iplist", list="block")) >= {home.tv.ipv4, home.tv.link_local}
        node = home.call("get_device_data", node=entry["node"])
        assert node["is_excepted"]
        assert home.call("get_device_data", node=home.node_of(home.tv.mac, "device"))["is_blocked"]
        enter(Talk(home.tv, services[good])).establish()
        with Talk(home.tv, services[bad]) as talk:
            talk.begin()
            assert talk.error() in REFUSED
        home.call("remove_iplist_node", **entry)
        assert home.call("list_iplist", list="allow") == []
        with Talk(home.tv, services[good]) as talk:
            talk.begin()
            assert talk.error() in REFUSED
    home.unchanged()


def test_what_is_ignored_stays_blocked(home: Blocks) -> None:
    address = TARGETS[4].format(62)
    with Service(home.lab.internet, address, "udp", fresh_port()) as service, Listener(home.lab) as listener:
        with Talk(home.tv, service) as talk:
            talk.establish()
        nodes = [home.node_of(home.tv.mac, "device"), home.node_of(address)]
        for node in nodes:
            home.call("set_ignore", node=node, ignore=True)
        try:
            with blocking_of(home, home.tv), Talk(home.tv, service) as talk:
                talk.begin()
                assert talk.error() in REFUSED
                wait_for(lambda: listener.commands("block"), "a message on the list")
                # Of packets that were blocked earlier it may hear late, on a busy machine.
                told = [message["result"]["to"] for message in listener.commands("blocked")]
                assert nodes[1] not in told, "it is hidden"
            assert listener.commands("ignore")
        finally:
            for node in nodes:
                home.call("set_ignore", node=node, ignore=False)
    home.unchanged()


@pytest.mark.parametrize("version", [4, 6])
def test_lists_are_told_as_spin_told_them(home: Blocks, version: int) -> None:
    address = TARGETS[version].format(63)
    with Service(home.lab.internet, address, "tcp", fresh_port()) as service, Listener(home.lab) as listener:
        with Talk(home.tv, service) as talk:
            talk.establish()
        node, tv = home.node_of(address), home.node_of(home.tv.mac, "device")
        for name in ("block", "allow"):
            home.call("add_iplist_node", list=name, node=node)
            assert home.call("list_iplist", list=name) == [address]
            home.call("remove_iplist_node", list=name, node=node)
            wait_for(lambda name=name: len(listener.commands(name)) == 2, f"messages on {name}")
            assert [message["result"] for message in listener.commands(name)] == [[address], []]
        home.call("add_iplist_ip", list="block", ip=address)
        try:
            with Talk(home.tv, service) as talk:
                talk.begin()
                assert talk.error() in REFUSED
            (blocked, *_) = wait_for(  # those of the test before may still come
                lambda: [each for each in listener.commands("blocked") if each["result"]["to"] == node],
                "a message on a blocked packet",
            )
        finally:
            home.call("remove_iplist_ip", list="block", ip=address)
        assert (blocked["result"]["from"], blocked["result"]["to"]) == (tv, node)
        assert (blocked["result"]["protocol"], blocked["result"]["to_port"]) == (6, service.port)
        for name in ("block", "allow", "blocked"):
            recorded = [json.loads(each["payload"]) for each in samples(f"mqtt-{name}")]
            (full, *_) = [each for each in recorded if each.get("result")]
            ours = next(message for message in listener.commands(name) if message["result"])
            covers(shape(ours), shape(full), name)
    home.unchanged()


def test_every_blocked_packet_is_counted(home: Blocks) -> None:
    address = TARGETS[4].format(64)
    arriving = [f"ip daddr {address}"]
    with (
        Service(home.lab.internet, address, "udp", fresh_port()) as service,
        Talk(home.tv, service) as talk,
        Watch(home.lab.gateway, "counted", arriving) as watch,
    ):
        talk.establish()
        node = home.node_of(address)

        def counted() -> tuple[int, int, int]:
            """Packets of the flow that were reported, all blocked ones, those that came to the gateway."""
            (flow,) = home.call("list_flows", device=home.tv.mac, node=node)["items"]
            return flow["blocked"], home.call("status")["blocking"]["packets"], watch.read().packets

        def grown(before: tuple[int, int, int]) -> tuple[int, ...]:
            return tuple(now - then for now, then in zip(counted(), before, strict=True))

        undo = an_address(home, address, "udp", 0)
        try:
            begun = counted()
            for _ in range(20):
                talk.send()  # where an error is pending, it takes the place of a packet
            few = grown(begun)[2]
            assert few > 5
            wait_for(lambda: grown(begun) == (few, few, few), "each packet blocked, and reported")
            for _ in range(1000):
                talk.send()
            wait_for(lambda: len({*grown(begun)[1:]}) == 1, "each packet counted")
            reported, _, many = grown(begun)
            assert reported < many, "reports are limited in the kernel"
        finally:
            undo()
    home.unchanged()


# -- time and profiles ---------------------------------------------------------------------------


def test_a_rule_ends_at_its_time(home: Blocks) -> None:
    with Service(home.lab.internet, TARGETS[4].format(70), "udp", fresh_port()) as service:
        assert reached(home, home.tv, service)
        made = home.call(
            "add_rule", device=home.tv.mac, ip=service.address, action="block", until=int(time.time()) + 2
        )
        section = f"rule{made['id']}"
        assert section in home.spind.config.read_text()
        assert not reached(home, home.tv, service)
        wait_for(lambda: reached(home, home.tv, service), "the end of the rule")
        wait_for(lambda: not home.call("list_rules"), "the rule to be gone")
        assert section not in home.spind.config.read_text()
        (entry, *_) = home.call("list_audit")["items"]
        assert entry["method"] == "until"
        assert (entry["author"], entry["interface"]) == ("spind", "clock")
        assert not entry["undoable"]
    home.unchanged()


def test_a_rule_holds_by_its_schedule(home: Blocks) -> None:
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    today = time.localtime().tm_wday  # midnight may come meanwhile
    now, later = (",".join(days[(today + n) % 7] for n in of) for of in ((-1, 0, 1), (3,)))
    with Service(home.lab.internet, TARGETS[4].format(71), "udp", fresh_port()) as service:
        for when, blocked in ((now, True), (later, False)):
            fields = {"device": home.tv.mac, "ip": service.address, "schedule": f"{when} 00:00-24:00"}
            undo = rule(home, **fields)
            (listed,) = home.call("list_rules")
            assert listed["active"] is blocked
            assert reached(home, home.tv, service) is not blocked
            undo()
        assert reached(home, home.tv, service)
    home.unchanged()


PROFILES = {
    # profile: (internet, another private network, another device, the gateway)
    "": (True, True, True, True),
    "full": (True, True, True, True),
    "local": (False, False, True, True),
    "nointernet": (False, True, True, True),
    "quarantine": (False, False, False, False),
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("profile", PROFILES)
def test_shipped_profiles_do_what_they_say(home: Blocks, profile: str, version: int) -> None:
    private = {4: "10.9.8.7", 6: "fd00:9::7"}[version]
    bits = {4: 32, 6: 128}[version]
    internet = home.lab.internet
    internet.run(["ip", "addr", "replace", f"{private}/{bits}", "dev", "lo"])
    if version == 6:
        internet.run(["ip", "-6", "route", "replace", plan.ULA6, "via", plan.WAN6])
    places = {
        "internet": (internet, TARGETS[version].format(80)),
        "private": (internet, private),
        "home": (home.phone, lan_address(home.phone, version)),
        "gateway": (home.lab.gateway, {4: plan.GATEWAY4, 6: plan.GATEWAY6}[version]),
    }
    with contextlib.ExitStack() as stack:
        services = [
            stack.enter_context(Service(node, address, "udp", fresh_port()))
            for node, address in places.values()
        ]
        home.call("set_device_profile", device=home.tv.mac, profile=profile)
        try:
            for place, service, wanted in zip(places, services, PROFILES[profile], strict=True):
                assert reached(home, home.tv, service) is wanted, place
            assert reached(home, home.phone, services[0]), "others have other profiles"
        finally:
            home.call("set_device_profile", device=home.tv.mac, profile="")
        assert all(reached(home, home.tv, service) for service in services)
    home.unchanged()


def test_the_learned_profile_reaches_what_was_used(home: Blocks) -> None:
    plug = home.lab.device("plug")
    used, unused = TARGETS[4].format(90), TARGETS[4].format(91)
    home.resolve("plug", OTHER_SITE)
    with contextlib.ExitStack() as stack:
        serve = lambda address: stack.enter_context(  # noqa: E731
            Service(home.lab.internet, address, "udp", fresh_port())
        )
        good = [serve(used), serve(BESIDE[4].format(10)), serve(BESIDE[6].format(10))]
        bad = [serve(unused), serve(TARGETS[4].format(10)), serve(TARGETS[6].format(10))]
        near = stack.enter_context(Service(home.phone, home.phone.ipv4, "udp", fresh_port()))
        assert all(reached(home, plug, service) for service in good)
        home.settle()
        home.call("set_device_profile", device=plug.mac, profile="learned")
        (made,) = [p for p in home.call("list_profiles") if plug.mac in p["devices"]]
        try:
            assert "beside.test" in made["allow_domain"]
            assert used in made["allow_ip"]
            home.resolve("plug", SITE_NAME)
            assert all(reached(home, plug, service) for service in (*good, near))
            assert not any(reached(home, plug, service) for service in bad)
        finally:
            home.call("set_device_profile", device=plug.mac, profile="")
            home.call("remove_profile", profile=made["name"])
        assert all(reached(home, plug, service) for service in (*good, *bad))
    home.unchanged()


def test_a_new_device_gets_the_profile_for_new_devices(home: Blocks, outside: Watch) -> None:
    with (
        Service(home.lab.internet, TARGETS[4].format(95), "udp", fresh_port()) as service,
        edited(
            home,
            lambda text: text.replace(
                "\toption mode", "\toption new_device_profile quarantine\n\toption mode"
            ),
        ),
    ):
        spec = plan.DeviceSpec(f"guest{home.backend[0]}", "plug", plan.device_mac(60))
        there = outside.read()
        guest = home.lab.add_device(spec)
        assert not reached(home, guest, service)
        assert outside.read().since(there).packets == 0
        (node,) = home.call("list_nodes", kind="device", query=guest.mac)["items"]
        assert node["profile"] == "quarantine"
        assert reached(home, home.tv, service), "it is not new"
        home.call("set_device_profile", device=guest.mac, profile="full")
        assert reached(home, guest, service)
        home.call("set_device_profile", device=guest.mac, profile="")
        assert not reached(home, guest, service)
        home.call("set_device_profile", device=guest.mac, profile="full")


# -- the configuration file ----------------------------------------------------------------------


def reload(home: Blocks, text: str) -> None:
    """Write the configuration and have it read."""
    home.spind.config.write_text(text)
    marker = "configuration read again"
    before = home.log().count(marker)
    pid = home.lab.gateway.pid("spind")
    assert pid is not None
    os.kill(pid, signal.SIGHUP)
    wait_for(lambda: home.log().count(marker) > before, "the configuration to be read")
    home.call("status")  # what follows in the same turn of the loop is done


@contextlib.contextmanager
def edited(home: Blocks, edit: Callable[[str], str]) -> Iterator[None]:
    """The configuration file is edited meanwhile."""
    before = home.spind.config.read_text()
    assert edit(before) != before
    reload(home, edit(before))
    try:
        yield
    finally:
        reload(home, before)


def section(kind: str, name: str, **options: str) -> str:
    lines = [f"\nconfig {kind} '{name}'", *(f"\toption {key} '{value}'" for key, value in options.items())]
    return "\n".join(lines) + "\n"


def test_editing_the_file_is_like_a_call(home: Blocks) -> None:
    rules = {
        "address": section("rule", "here", action="block", ip=TARGETS[4].format(96)),
        "device": section("rule", "rule9000", action="block", device=home.tv.mac),
        "profile": section("device", "tv", mac=home.tv.mac, profile="quarantine"),
        "name": section("rule", "", action="block", domain=HOST_NAME).replace(" ''", ""),
    }
    home.resolve("tv", HOST_NAME)
    for what, text in rules.items():
        number = 20 if what == "name" else 96
        address = TARGETS[4].format(number)
        with (
            Service(home.lab.internet, address, "udp", fresh_port()) as service,
            Talk(home.tv, service) as old,
        ):
            old.establish()
            with edited(home, lambda before, text=text: before + text):
                assert not reached(home, home.tv, service), what
                old.send()
                assert not old.heard(0.2), what
                assert len(home.call("list_rules")) == (what != "profile")
            assert reached(home, home.tv, service), what
            home.unchanged()


def test_a_bad_rule_is_told_and_the_others_hold(home: Blocks) -> None:
    text = section("rule", "good", action="block", ip=TARGETS[4].format(97))
    bad = {
        "a": section("rule", "a", action="blok", ip=TARGETS[4].format(98)),
        "b": section("rule", "b", action="block", ip="198.18.100.999"),
        "c": section("rule", "c", action="block", domain="x'\"; nft flush ruleset".replace("'", "")),
        "d": section("rule", "d", action="block"),
    }
    with contextlib.ExitStack() as stack:
        services = [
            stack.enter_context(Service(home.lab.internet, TARGETS[4].format(number), "udp", fresh_port()))
            for number in (97, 98)
        ]
        assert all(reached(home, home.tv, service) for service in services)
        with edited(home, lambda before: before + "".join(bad.values()) + text):
            assert [reached(home, home.tv, service) for service in services] == [False, True]
            problems = home.call("status")["config"]["problems"]
            for name in bad:
                assert any(
                    f"spin.{name}." in problem or f"spin.{name}:" in problem for problem in problems
                ), problems
            assert [rule["ip"] for rule in home.call("list_rules")] == [TARGETS[4].format(97)]
        assert home.call("status")["config"]["problems"] == []
    home.unchanged()


def test_the_owner_beats_the_provider(home: Blocks) -> None:
    address = TARGETS[4].format(99)
    with Service(home.lab.internet, address, "udp", fresh_port()) as service:
        provider = section(
            "rule", "theirs", action="block", ip=address, device=home.tv.mac, author="provider"
        )
        with edited(home, lambda before: before + provider):
            assert not reached(home, home.tv, service)
            made = home.call("add_rule", action="allow", ip=TARGET_PREFIXES[4])
            assert reached(home, home.tv, service), "however unspecific"
            home.call("remove_rule", id=made["id"])
            assert not reached(home, home.tv, service)
        assert reached(home, home.tv, service)
    home.unchanged()


# -- what cannot be, and what is odd -------------------------------------------------------------


def kernel_rules(home: Blocks) -> str:
    """All that is ours in the gateway's kernel, without counters."""
    gateway = home.lab.gateway
    if home.backend == "nftables":
        tables = (["nft", "-s", "list", "table", family, "spin"] for family in ("inet", "bridge"))
        return "".join(gateway.run(argv, check=False).stdout for argv in tables)
    saved = "".join(gateway.run([program]).stdout for program in ("iptables-save", "ip6tables-save"))
    rules = "".join(line + "\n" for line in saved.splitlines() if not line.startswith(("#", ":")))
    return rules + gateway.run(["ipset", "save"]).stdout + gateway.run(["ebtables", "-L"]).stdout


HOSTILE = (
    "; nft flush ruleset",
    "ads.test; nft flush ruleset",
    'a"b.test',
    "a'b.test",
    "a\nb.test",
    "a}{b.test",
    "$(reboot).test",
    "`reboot`.test",
    "-j ACCEPT.test",
    "@set.test",
    "#comment.test",
    "x" * 300 + ".test",
    ".".join(["x" * 60] * 6),
    "..",
    "com",
    "co.uk",
    "*",
    "\x00.test",
    "a b.test",
    "http://ads.test/",
    "\u202etest.example",
)


def refused(home: Blocks, method: str, **params: Any) -> str:
    """The sentence with which a call is refused, after which all is as it was."""
    before = kernel_rules(home), home.spind.config.read_text(), home.call("list_rules")
    with pytest.raises(CallError) as error:
        home.call(method, **params)
    assert (kernel_rules(home), home.spind.config.read_text(), home.call("list_rules")) == before
    return str(error.value)


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_hostile_names_are_refused(home: Blocks, name: str) -> None:
    said = refused(home, "add_rule", domain=name, action="block")
    assert "domain" in said
    assert said.isprintable()
    assert len(said) < 500


REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no action": ("add_rule", {"ip": "198.18.0.1"}, "action"),
    "odd action": ("add_rule", {"ip": "198.18.0.1", "action": "; drop"}, "action"),
    "everything": ("add_rule", {"action": "block"}, "everything"),
    "all addresses": ("add_rule", {"ip": "0.0.0.0/0", "action": "block"}, "ip"),
    "no address": ("add_rule", {"ip": "198.18.0.1; drop", "action": "block"}, "ip"),
    "multicast": ("add_rule", {"ip": "224.0.0.1", "action": "block"}, "ip"),
    "loopback": ("add_rule", {"ip": "::1", "action": "block"}, "ip"),
    "no MAC": ("add_rule", {"device": "02:00:00:00:08", "action": "block"}, "device"),
    "group MAC": ("add_rule", {"device": "01:00:5e:00:00:01", "action": "block"}, "device"),
    "no node": ("add_rule", {"node": 99_999, "action": "block"}, "node"),
    "two parties": ("add_rule", {"ip": "198.18.0.1", "domain": "ads.test", "action": "block"}, "together"),
    "port of ICMP": ("add_rule", {"port": 7, "protocol": "icmp", "action": "block"}, "port"),
    "no port": ("add_rule", {"port": 70_000, "action": "block"}, "port"),
    "negative port": ("add_rule", {"port": -1, "action": "block"}, "port"),
    "no protocol": ("add_rule", {"protocol": "nft", "action": "block"}, "protocol"),
    "the past": ("add_rule", {"ip": "198.18.0.1", "action": "block", "until": 1}, "until"),
    "no schedule": ("add_rule", {"ip": "198.18.0.1", "action": "block", "schedule": "always"}, "schedule"),
    "comment": ("add_rule", {"ip": "198.18.0.1", "action": "block", "comment": "x" * 300}, "comment"),
    "newline": ("add_rule", {"ip": "198.18.0.1", "action": "block", "comment": "a\nconfig rule"}, "comment"),
    "unknown field": ("add_rule", {"ip": "198.18.0.1", "action": "block", "mark": 1}, "mark"),
    "no rule": ("remove_rule", {"id": 99_999}, "id"),
    "list": ("add_iplist_ip", {"list": "blok", "ip": "198.18.0.1"}, "list"),
    "list address": ("add_iplist_ip", {"list": "block", "ip": "198.18.0.256"}, "IP"),
    "list node": ("add_iplist_node", {"list": "block", "node": 99_999}, "node"),
    "flow of sites": ("set_flow_block", {"node1": 99_999, "node2": 1, "block": 1}, "node"),
    "flow": ("set_device_flow_block", {"device": "02:00:00:00:00:01", "node": 1, "block": 1}, "evice"),
    "flow block": ("set_flow_block", {"node1": 1, "node2": 2, "block": 7}, "block"),
    "profile": ("set_device_profile", {"device": plan.device_mac(2), "profile": "; reboot"}, "profile"),
    "profile name": ("set_profile", {"profile": "a b'\n", "default": "block"}, "profile"),
    "profile entry": ("set_profile", {"profile": "odd", "block_domain": ["$(reboot)"]}, "block_domain"),
    "undo": ("undo", {"id": 99_999}, "id"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_cannot_be_is_refused_with_a_sentence(home: Blocks, what: str) -> None:
    method, params, word = REFUSALS[what]
    said = refused(home, method, **params)
    assert word in said
    assert said.isprintable()


def test_names_with_other_letters_mean_their_ascii_form(home: Blocks) -> None:
    address = TARGETS[4].format(110)
    home.lab.set_name("xn--bcher-kva.letters.test", [address])
    with Service(home.lab.internet, address, "udp", fresh_port()) as service:
        home.lab.device("tv").run(["dig", "+short", "@192.168.8.1", "xn--bcher-kva.letters.test", "A"])
        assert reached(home, home.tv, service)
        undo = rule(home, domain="BÜCHER.letters.test.", comment="$(reboot); 'quotes' \"too\"")
        try:
            assert not reached(home, home.tv, service)
            (listed,) = home.call("list_rules")
            assert (listed["domain"], listed["comment"]) == (
                "xn--bcher-kva.letters.test",
                "$(reboot); 'quotes' \"too\"",
            )
            reload(home, home.spind.config.read_text())
            assert home.call("list_rules") == [listed]
        finally:
            undo()
        assert reached(home, home.tv, service)
    home.unchanged()


def test_names_that_devices_ask_for_can_be_anything(home: Blocks) -> None:
    label = b'"; nft flush ruleset\n$(reboot)'
    number = struct.pack("!6H", 77, 0x0100, 1, 0, 0, 0)
    query = number + bytes([len(label)]) + label + b"\x04wild\x04test\0" + struct.pack("!2H", 1, 1)
    with Service(home.lab.internet, "198.18.0.29", "udp", fresh_port()) as service:
        with home.tv.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.settimeout(5)
            sock.sendto(query, (plan.DNS4, 53))
            assert b"\xc6\x12\x00\x1d" in sock.recv(2000)
        node = home.node_of("wild.test")
        with Talk(home.tv, service) as talk:
            talk.establish()
        home.call("add_iplist_node", list="block", node=node)
        try:
            assert not reached(home, home.tv, service)
        finally:
            home.call("remove_iplist_node", list="block", node=node)
        assert reached(home, home.tv, service)
    home.unchanged()


OVERLAPS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    # rules about the target 198.18.100.120, and whether it is blocked; the last rule is then removed
    "prefix and address": ([{"ip": "198.18.100.0/24"}, {"ip": "198.18.100.120"}], True),
    "nested prefixes": (
        [{"ip": "198.18.100.0/24"}, {"ip": "198.18.100.64/26"}, {"ip": "198.18.96.0/20"}],
        True,
    ),
    "twice the same": ([{"ip": "198.18.100.120"}, {"ip": "198.18.100.120"}], True),
    "an exception": ([{"ip": "198.18.100.0/24"}, {"ip": "198.18.100.120", "action": "allow"}], False),
    "the reverse": ([{"ip": "198.18.100.0/24", "action": "allow"}, {"ip": "198.18.100.120"}], True),
    "contradictory": ([{"ip": "198.18.100.120"}, {"ip": "198.18.100.120", "action": "allow"}], False),
    "a port of a prefix": ([{"ip": "198.18.100.0/24", "port": 9999}, {"ip": "198.18.100.0/25"}], True),
    "an exception of an exception": (
        [
            {"ip": "198.18.0.0/16"},
            {"ip": "198.18.100.0/24", "action": "allow"},
            {"ip": "198.18.100.112/28"},
            {"ip": "198.18.100.120/31", "action": "allow"},
        ],
        False,
    ),
}


@pytest.mark.parametrize("what", OVERLAPS)
def test_overlapping_rules_mean_what_the_documents_say(home: Blocks, what: str) -> None:
    rules, blocked = OVERLAPS[what]
    after = {"nested prefixes", "twice the same", "prefix and address", "an exception", "contradictory"}
    with Service(home.lab.internet, TARGETS[4].format(120), "udp", fresh_port()) as service:
        made = [home.call("add_rule", **{"action": "block", **fields})["id"] for fields in rules]
        try:
            assert reached(home, home.tv, service) is not blocked
            home.call("remove_rule", id=made.pop())
            assert reached(home, home.tv, service) is not (what in after or "of an exception" in what)
        finally:
            for number in made:
                home.call("remove_rule", id=number)
        assert reached(home, home.tv, service)
    home.unchanged()


# -- undo ----------------------------------------------------------------------------------------

Call = tuple[str, dict[str, Any]]


def undoable(home: Blocks, address: str) -> dict[str, tuple[list[Call], Call, bool, list[Call]]]:
    """Decisions: what comes before, the decision, whether the target is blocked by it, what cleans up."""
    tv, node = home.node_of(home.tv.mac, "device"), home.node_of(address)
    mac = home.tv.mac
    block = {"ip": address, "action": "block"}
    pair = {"node1": tv, "node2": node}
    return {
        "add_rule": ([], ("add_rule", block), True, []),
        "remove_rule": ([("add_rule", block)], ("remove_rule", {}), False, [("remove_rule", {})]),
        "add_iplist_node": ([], ("add_iplist_node", {"list": "block", "node": node}), True, []),
        "add_iplist_ip": ([], ("add_iplist_ip", {"list": "block", "ip": address}), True, []),
        "allow": (
            [("add_rule", block)],
            ("add_iplist_node", {"list": "allow", "node": node}),
            False,
            [("remove_rule", {})],
        ),
        "set_flow_block": ([], ("set_flow_block", {**pair, "block": 1}), True, []),
        "set_device_flow_block": (
            [],
            ("set_device_flow_block", {"device": mac, "node": node, "block": 1}),
            True,
            [],
        ),
        "set_device_profile": (
            [],
            ("set_device_profile", {"device": mac, "profile": "quarantine"}),
            True,
            [],
        ),
        "set_profile": (
            [("set_device_profile", {"device": mac, "profile": "full"})],
            ("set_profile", {"profile": "full", "block_ip": [address]}),
            True,
            [("set_device_profile", {"device": mac, "profile": ""})],
        ),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "add_rule",
        "remove_rule",
        "add_iplist_node",
        "add_iplist_ip",
        "allow",
        "set_flow_block",
        "set_device_flow_block",
        "set_device_profile",
        "set_profile",
    ],
)
def test_undo_has_it_as_before(home: Blocks, kind: str) -> None:
    with Service(home.lab.internet, TARGETS[4].format(130), "udp", fresh_port()) as service:
        assert reached(home, home.tv, service)
        before, (method, params), blocked, after = undoable(home, service.address)[kind]
        for name, given in before:
            home.call(name, **given)
        if method == "remove_rule":
            params = {"id": home.call("list_rules")[0]["id"]}
        first = reached(home, home.tv, service)
        assert first is blocked
        home.call(method, **params)
        assert reached(home, home.tv, service) is not blocked
        (entry, *_) = home.call("list_audit")["items"]
        assert (entry["author"], entry["interface"], entry["method"]) == ("owner", "socket", method)
        assert entry["undoable"]
        home.call("undo", id=entry["id"])
        assert reached(home, home.tv, service) is first
        (undo, undone, *_) = home.call("list_audit")["items"]
        assert (undo["undoes"], undone["undone"]) == (entry["id"], undo["id"])
        assert "undone already" in refused(home, "undo", id=entry["id"])
        home.call("undo", id=undo["id"])  # and that, too
        assert reached(home, home.tv, service) is not blocked
        (again, *_) = home.call("list_audit")["items"]
        home.call("undo", id=again["id"])
        for name, given in after:
            if name == "remove_rule":
                given = {"id": home.call("list_rules")[0]["id"]}  # noqa: PLW2901
            home.call(name, **given)
        assert reached(home, home.tv, service)
    home.unchanged()
