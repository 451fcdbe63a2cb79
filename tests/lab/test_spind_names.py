# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocked names with the whole daemon: what a blocked name's server gets, and what its neighbours notice.

``Tap`` sees all that reaches the internet: what must not arrive is counted there.
"""

import contextlib
import itertools
import os
import select
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from spind_home import Home, Listener
from tls_tools import (
    CDN,
    RESOLVER,
    Client,
    NameServer,
    Tap,
    ask,
    mask,
    refused,
    resolve,
    shoot,
    udp_exchange,
    wait_for,
)

from spind.lab import Lab, plan
from spind.lab.patience import patient
from spind.lab.resolver import ResolveError

pytestmark = pytest.mark.lab

ADS, IMG, SHOP = "ads.tracker.test", "img.tv.test", "www.shop.test"
OUTSIDE = {4: "198.18.0.54", 6: "2001:db8:2:1::54"}
"""A name server of the internet that only tests ask."""

QUEUE = 3
BACKENDS = ("nftables", "iptables")
ATTEMPTS = round(1000 / patient(1)) if patient(1) <= 2 else 100


@pytest.fixture(scope="module", params=BACKENDS)
def home(request: pytest.FixtureRequest) -> Iterator[Home]:
    if os.environ.get("SPIND_VM") == "1" and request.param != BACKENDS[0]:
        pytest.skip("the virtual machine is for nftables")
    with Lab() as lab:
        history = str(lab.root / "data" / "history")
        lab.set_name("use-application-dns.net", ["198.18.0.61"])
        lab.set_name("doh.resolver.test", ["198.18.0.62", "2001:db8:2:1::62"])
        fresh = Home(
            lab, block_backend=request.param, history_dir=history, doh_resolvers=["doh.resolver.test"]
        )
        fresh.start()
        assert fresh.call("status")["blocking"]["backend"] == request.param
        yield fresh
        fresh.stop()
        assert "Traceback" not in fresh.log()


@pytest.fixture
def tap(home: Home) -> Iterator[Tap]:
    with Tap(home.lab) as tap:
        yield tap


@pytest.fixture(autouse=True)
def clean(home: Home) -> Iterator[None]:
    yield
    for rule in home.call("list_rules"):
        home.call("remove_rule", id=rule["id"])
    for device in home.lab.devices.values():
        home.call("set_device_profile", device=device.mac, profile="")


@contextlib.contextmanager
def rule(home: Home, **fields: Any) -> Iterator[int]:
    number = home.call("add_rule", **{"action": "block", **fields})["id"]
    yield number
    home.call("remove_rule", id=number)


def site(home: Home, domain: str) -> int:
    return next(n["id"] for n in home.pages("list_nodes", kind="site") if n["domain"] == domain)


def flows(home: Home, device: str) -> list[dict[str, Any]]:
    return home.pages("list_flows", device=home.lab.device(device).mac)


def reached(home: Home, device: str, address: str, name: str) -> bool:
    """Whether a device gets an answer from a name: the other way to end is a reset, nothing else."""
    try:
        with Client(home.lab.device(device), address, name) as client:
            client.handshake()
            return client.fetch(3000) == 3000
    except (ConnectionResetError, ConnectionRefusedError, BrokenPipeError):
        return False


# -- an address of several names ---------------------------------------------------------------


@pytest.mark.vm
@pytest.mark.parametrize("version", [4, 6])
def test_no_byte_of_a_blocked_hello_arrives_and_the_neighbour_is_reached(
    home: Home, tap: Tap, version: int
) -> None:
    plug = home.lab.device("plug")
    home.call("add_rule", device=plug.mac, domain=ADS, action="block")
    for name in (ADS, IMG):
        assert resolve(plug, name, version) == CDN[version]
    for size, long in ((1 << 16, False), (60, False), (1400, True), (400, True)):
        with Client(plug, CDN[version], ADS, long=long) as client:
            assert len(client.hello) > (2500 if long else 200)
            assert refused(client, size) < patient(1), "told at once"
        with Client(plug, CDN[version], ADS, long=long) as client:
            assert refused(client, len(client.hello) // 4, pause=0.02) < patient(2), "in slow pieces"
        tap.settle()
        assert tap.data(CDN[version]) == []
        with Client(plug, CDN[version], IMG, long=long) as client:
            client.handshake(size)
            assert client.fetch(200_000) == 200_000, "whole and as it was"
        tap.clear()
    assert reached(home, "hub", CDN[version], ADS), "the rule is for one device"


@pytest.mark.parametrize(("size", "pause"), [(8, 0.0), (130, 0.15)])
def test_a_hello_that_never_gets_whole_does_not_arrive(home: Home, tap: Tap, size: int, pause: float) -> None:
    """Nobody acknowledges what is held: Linux sends ten segments of it, and none after a time-out."""
    plug = home.lab.device("plug")
    home.call("add_rule", device=plug.mac, domain=ADS, action="block")
    resolve(plug, ADS)
    resolve(plug, IMG)
    with Client(plug, CDN[4], ADS) as client:
        assert refused(client, size, pause) < patient(8)
        tap.settle()
        assert tap.data(CDN[4]) == []


@pytest.mark.parametrize("version", [4, 6])
def test_http_goes_by_its_host(home: Home, tap: Tap, version: int) -> None:
    plug = home.lab.device("plug")
    home.call("add_rule", device=plug.mac, domain=ADS, action="block")
    for name in (ADS, IMG):
        resolve(plug, name, version)
    request = "GET /bytes/1000 HTTP/1.1\r\nUser-Agent: x\r\nHost: {}\r\nConnection: close\r\n\r\n"
    for size in (1000, 20):
        with Client(plug, CDN[version], None, 80) as client:
            client.hello = request.format(ADS).encode()
            assert refused(client, size) < patient(1)
        tap.settle()
        assert tap.data(CDN[version]) == []
        with Client(plug, CDN[version], None, 80) as client:
            client.hello = request.format(IMG).encode()
            client.send_hello(size)
            answer = client.socket.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 200") and len(answer) > 1000  # noqa: PT018
        tap.clear()


def test_two_devices_have_their_own_rules_at_one_address_at_once(home: Home, tap: Tap) -> None:
    rules = {"plug": ADS, "tv": IMG}
    for device, blocked in rules.items():
        home.call("add_rule", device=home.lab.device(device).mac, domain=blocked, action="block")
    for device in rules:
        for name in (ADS, IMG):
            resolve(home.lab.device(device), name)
    found: dict[tuple[str, str], list[bool]] = {}

    def talk(device: str, name: str) -> None:
        found[device, name] = [reached(home, device, CDN[4], name) for _ in range(20)]

    threads = [threading.Thread(target=talk, args=pair) for pair in itertools.product(rules, (ADS, IMG))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {
        (device, name): [name != blocked] * 20 for device, blocked in rules.items() for name in (ADS, IMG)
    }
    tap.settle()
    hellos = [packet.payload for packet in tap.to(CDN[4]) if packet.payload[:1] == b"\x16"]
    assert sum(ADS.encode() in hello for hello in hellos) == 20, "the tv's"
    assert sum(IMG.encode() in hello for hello in hellos) == 20, "the plug's"


@pytest.mark.parametrize("version", [4, 6])
def test_quic_falls_back_to_tcp_and_other_datagrams_pass(home: Home, tap: Tap, version: int) -> None:
    plug = home.lab.device("plug")
    assert udp_exchange(plug, CDN[version], 443) == "answer"
    home.call("add_rule", device=plug.mac, domain=ADS, action="block")
    for name in (ADS, IMG):
        resolve(plug, name, version)
    tap.clear()
    assert udp_exchange(plug, CDN[version], 443) == "refused"
    tap.settle()
    assert tap.to(CDN[version], proto=17) == []
    assert udp_exchange(plug, CDN[version], 5683) == "answer"
    assert udp_exchange(home.lab.device("hub"), CDN[version], 443) == "answer"


def test_what_is_cut_is_shown_with_its_name(home: Home) -> None:
    plug = home.lab.device("plug")
    home.call("add_rule", device=plug.mac, domain=ADS, action="block")
    for name in (ADS, IMG):
        resolve(plug, name)

    def blocked() -> int:
        return sum(flow["blocked"] for flow in flows(home, "plug") if flow["name"] == ADS)

    before, ports = blocked(), []
    with Listener(home.lab, "SPIN/traffic") as listener:

        def told() -> list[int]:
            # By port: of what an earlier test had blocked it may hear late, on a busy machine.
            found = [message["result"] for message in listener.commands("blocked")]
            return [each["to"] for each in found if each["from_port"] in ports]

        for _ in range(5):
            with Client(plug, CDN[4], ADS) as client:
                ports.append(client.port)
                refused(client)
        wait_for(lambda: len(told()) >= 5, "messages")
    assert blocked() == before + 5
    assert set(told()) == {site(home, "tracker.test")}


def test_most_packets_of_an_allowed_stream_stay_in_the_kernel(home: Home) -> None:
    plug = home.lab.device("plug")
    home.call("add_rule", device=plug.mac, domain=ADS, action="block")
    for name in (ADS, IMG):
        resolve(plug, name)

    def queued() -> int:
        lines = home.lab.gateway.run(["cat", "/proc/net/netfilter/nfnetlink_queue"]).stdout.splitlines()
        (last,) = [line.split()[7] for line in lines if int(line.split()[0]) == QUEUE]
        return int(last)

    with Client(plug, CDN[4], IMG) as client:
        before = queued()
        client.handshake()
        assert queued() > before, "it was inspected"
        after = queued()
        assert client.fetch(100 << 20) == 100 << 20
        assert queued() == after


@pytest.mark.parametrize("version", [4, 6])
def test_inspection_costs_little_time(home: Home, version: int) -> None:
    """Bounded generously; the medians are printed."""
    plug, hub = home.lab.device("plug"), home.lab.device("hub")
    home.call("add_rule", device=plug.mac, domain=ADS, action="block")
    for name in (ADS, IMG):
        resolve(plug, name, version)
    times: dict[str, list[float]] = {"plug": [], "hub": []}
    for _ in range(40):
        for device in (plug, hub):
            with Client(device, CDN[version], IMG) as client:
                times[device.name].append(client.handshake())
    medians = {name: statistics.median(each) * 1e6 for name, each in times.items()}
    print(
        f"TLS handshake, IPv{version}: inspected {medians['plug']:.0f}, not {medians['hub']:.0f} microseconds"
    )
    assert medians["plug"] - medians["hub"] < patient(20_000)


# -- an address of the blocked name alone ------------------------------------------------------


def rotating(version: int) -> Callable[[str, str, int], list[tuple[str, str, str]]]:
    """A new address with each answer, behind an alias."""

    def answer(name: str, kind: str, number: int) -> list[tuple[str, str, str]]:
        if kind != ("A" if version == 4 else "AAAA"):
            return []
        address = (
            f"198.19.{number >> 8 & 255}.{number & 255}" if version == 4 else f"2001:db8:2:2::{number:x}"
        )
        if name.startswith("alias"):
            return [(name, "CNAME", "edge.cloud.test."), ("edge.cloud.test", kind, address)]
        return [(name, kind, address)]

    return answer


@pytest.mark.vm
@pytest.mark.parametrize("version", [4, 6])
def test_not_one_of_a_thousand_attempts_leaks_whatever_address_comes(
    home: Home, tap: Tap, version: int
) -> None:
    """Each attempt: ask, be told a new address for a second, connect at once."""
    plug, hub = home.lab.device("plug"), home.lab.device("hub")
    home.call("add_rule", device=plug.mac, domain="rotate.test", action="block")
    used: list[str] = []
    with NameServer(home.lab, OUTSIDE[version], rotating(version), 1):

        def targets(device: Any, count: int) -> Iterator[tuple[str, int]]:
            for number in range(count):
                name = f"{'alias' if number % 2 else 'host'}{number % 7}.rotate.test"
                used.append(resolve(device, name, version, server=OUTSIDE[version], tcp=number % 10 == 9))
                yield used[-1], 443 if number % 3 else 8080

        assert shoot(plug, lambda: targets(plug, ATTEMPTS)) == ATTEMPTS
        tap.settle()
        assert len(set(used)) == ATTEMPTS
        assert tap.to(*used) == []
        # Its time is over, and the device goes on.
        assert shoot(plug, lambda: iter([(address, 443) for address in used[-300:]])) == min(300, ATTEMPTS)
        tap.settle()
        assert tap.to(*used) == []
        # Another device has no such rule: its packets do arrive, so that these would have, too.
        shoot(hub, lambda: targets(hub, 20))
        wait_for(lambda: len({packet.dst for packet in tap.to(*used)}) == 20, "the other device's packets")


@pytest.mark.parametrize("version", [4, 6])
def test_not_one_leaks_through_the_homes_forwarder(home: Home, tap: Tap, version: int) -> None:
    plug = home.lab.device("plug")
    home.call("add_rule", device=plug.mac, domain="short.ttl.test", action="block")
    (address,) = {a for a in plan.resolve_site("short.ttl.test") if (":" in a) == (version == 6)}

    def targets() -> Iterator[tuple[str, int]]:
        for _ in range(ATTEMPTS):
            yield resolve(plug, "short.ttl.test", version, server=RESOLVER[version]), 443

    tap.clear()
    assert shoot(plug, targets) == ATTEMPTS
    tap.settle()
    assert tap.to(address) == []
    assert udp_exchange(plug, address, 5683) in ("refused", "silence")
    ping = plug.run(["ping", "-n", "-c", "1", "-W", "1", address], check=False)
    assert ping.returncode != 0
    for proto in (1, 6, 17, 58):
        assert tap.to(address, proto=proto) == []
    assert reached(home, "hub", address, "short.ttl.test")


def test_the_first_syn_after_the_answer_is_refused_at_once(home: Home) -> None:
    plug = home.lab.device("plug")
    home.call("add_rule", device=plug.mac, domain="api.plug.test", action="block")
    for version in (4, 6):
        address = resolve(plug, "api.plug.test", version)
        begun = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            Client(plug, address, "api.plug.test")
        assert time.monotonic() - begun < patient(1)


def test_all_of_a_long_answer_over_tcp_is_blocked(home: Home, tap: Tap) -> None:
    plug = home.lab.device("plug")
    home.call("add_rule", device=plug.mac, domain="big.dns.test", action="block")
    assert ask(plug, "big.dns.test").truncated
    addresses = ask(plug, "big.dns.test", tcp=True).addresses
    assert len(addresses) == 120
    tap.clear()
    assert shoot(plug, lambda: iter([(address, 443) for address in addresses])) == 120
    tap.settle()
    assert tap.to(*addresses) == []


def test_all_of_a_long_answer_is_known_to_a_rule_that_comes_later(home: Home, tap: Tap) -> None:
    tv = home.lab.device("tv")
    addresses = ask(tv, "big.dns.test", tcp=True).addresses
    home.call("add_rule", device=tv.mac, domain="big.dns.test", action="block")
    tap.clear()
    shoot(tv, lambda: iter([(address, 443) for address in addresses]))
    tap.settle()
    assert tap.to(*addresses) == []


def huge(name: str, kind: str, number: int) -> list[tuple[str, str, str]]:
    return [(name, "A", f"198.19.{n >> 8 | 0x80}.{n & 255}") for n in range(600)] if kind == "A" else []


def test_an_answer_too_long_to_be_read_is_not_given(home: Home, tap: Tap) -> None:
    plug = home.lab.device("plug")
    home.call("add_rule", device=plug.mac, domain="huge.test", action="block")
    with NameServer(home.lab, OUTSIDE[4], huge, 1):
        answer = ask(plug, "huge.test", server=OUTSIDE[4])
        assert (answer.rcode, answer.addresses) == (3, ())
        before = home.call("status")["statistics"]["engine.dns-refused"]
        with pytest.raises((TimeoutError, ConnectionError, ResolveError)):
            ask(plug, "huge.test", server=OUTSIDE[4], tcp=True)
        assert home.call("status")["statistics"]["engine.dns-refused"] > before
        assert len(ask(home.lab.device("hub"), "huge.test", server=OUTSIDE[4]).addresses) == 600


# -- rules that come later ---------------------------------------------------------------------


@pytest.mark.vm
@pytest.mark.parametrize("version", [4, 6])
def test_a_new_rule_cuts_what_runs_and_leaves_the_neighbour_alone(home: Home, tap: Tap, version: int) -> None:
    plug = home.lab.device("plug")
    for name in (ADS, IMG):
        resolve(plug, name, version)
    with contextlib.ExitStack() as stack:
        ads, idle, img = (stack.enter_context(Client(plug, CDN[version], name)) for name in (ADS, ADS, IMG))
        for client in (ads, idle, img):
            client.handshake()
            client.fetch(1000)
        ads.request(4 << 30)
        img.request(4 << 30)
        assert ads.read(1 << 20) == img.read(1 << 20) == 1 << 20
        ended: list[tuple[str, float]] = []

        def drain() -> None:
            try:
                ads.read(4 << 30)
            except OSError as error:
                ended.append((type(error).__name__, time.time()))

        thread = threading.Thread(target=drain)
        thread.start()
        source = {p.sport for p in tap.to(CDN[version]) if ADS.encode() in p.payload}
        assert len(source) == 2
        home.call("add_rule", device=plug.mac, domain=ADS, action="block")
        told = time.time()
        thread.join(patient(10))
        assert [how for how, _ in ended] == ["ConnectionResetError"], "the running download"
        assert ended[0][1] - told < patient(1)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            idle.fetch(1000)
        assert img.read(64 << 20) == 64 << 20, "the other name's goes on"
        tap.settle()
        late = [p for p in tap.to(CDN[version], since=told) if p.sport in source and not p.flags & 4]
        assert late == []


def test_it_is_free_again_when_the_rule_goes(home: Home) -> None:
    plug = home.lab.device("plug")
    for name in (ADS, IMG):
        resolve(plug, name)
    with rule(home, device=plug.mac, domain=ADS):
        assert not reached(home, "plug", CDN[4], ADS)
    assert reached(home, "plug", CDN[4], ADS)
    assert udp_exchange(plug, CDN[4], 443) == "answer"


# -- sites, exceptions, profiles ---------------------------------------------------------------


def numbered(names: list[str]) -> Callable[[str, str, int], list[tuple[str, str, str]]]:
    """An address of its own for each name."""

    def answer(name: str, kind: str, number: int) -> list[tuple[str, str, str]]:
        return [(name, "A", f"198.18.7.{names.index(name) + 1}")] if kind == "A" and name in names else []

    return answer


def test_sites_names_below_names_and_exceptions(home: Home) -> None:
    plug = home.lab.device("plug")
    reach = {
        "seen.party.test": False,
        "ok.party.test": True,
        "deep.ok.party.test": True,
        "new.party.test": False,
        "party.test": False,
        "notparty.test": True,
        "sub.other.test": False,
        "a.b.sub.other.test": False,
        "sibling.other.test": True,
        "notsub.other.test": True,
    }
    names = list(reach)
    with NameServer(home.lab, OUTSIDE[4], numbered(names), 5):
        resolve(plug, "seen.party.test", server=OUTSIDE[4])
        home.call("add_rule", device=plug.mac, node=site(home, "party.test"), action="block")
        home.call("add_rule", device=plug.mac, domain="ok.party.test", action="allow")
        home.call("add_rule", device=plug.mac, domain="sub.other.test", action="block")
        addresses = {name: resolve(plug, name, server=OUTSIDE[4]) for name in names}
        assert {name: reached(home, "plug", addresses[name], name) for name in names} == reach
        # The same where no DNS answer tells, by what clients say.
        assert {name: reached(home, "plug", "198.18.7.99", name) for name in names} == reach


def test_a_profile_that_blocks_by_default_lets_the_names_on_its_list_through(home: Home, tap: Tap) -> None:
    camera = home.lab.device("camera")
    home.call(
        "set_profile", profile="listed", name="Listed", default="block", allow_domain=[IMG], allow_ip=["home"]
    )
    home.call("set_device_profile", device=camera.mac, profile="listed")
    for version in (4, 6):
        for name in (IMG, ADS, "cam.vendor.test"):
            resolve(camera, name, version, server=RESOLVER[version])
        assert reached(home, "camera", CDN[version], IMG)
        tap.settle()
        tap.clear()
        assert not reached(home, "camera", CDN[version], ADS), "on the same address"
        tap.settle()
        assert tap.data(CDN[version]) == []
        with pytest.raises(ConnectionRefusedError):
            Client(camera, plan.resolve_site("cam.vendor.test")[version == 6], "cam.vendor.test")
        assert udp_exchange(camera, CDN[version], 443) == "refused"
    home.call("set_device_profile", device=camera.mac, profile="")
    home.call("remove_profile", profile="listed")


def test_what_a_device_learned_is_what_it_may_reach(home: Home) -> None:
    tv = home.lab.device("phone")
    resolve(tv, IMG)
    resolve(tv, ADS)
    assert reached(home, "phone", CDN[4], IMG)
    wait_for(lambda: any(f["name"] == IMG and f["up_packets"] for f in flows(home, "phone")), "the flow")
    home.call("set_device_profile", device=tv.mac, profile="learned")
    assert reached(home, "phone", CDN[4], IMG)
    assert not reached(home, "phone", CDN[4], ADS)
    with pytest.raises(ConnectionRefusedError):
        Client(tv, resolve(tv, "cam.vendor.test"), "cam.vendor.test")


# -- encrypted DNS -----------------------------------------------------------------------------


def reload(home: Home, **options: Any) -> None:
    def reads() -> int:
        return home.log().count("configuration read again")

    before = reads()
    home.spind.options.update(options)
    home.spind.configure()
    pid = home.lab.gateway.pid(home.spind.what)
    assert pid is not None
    os.kill(pid, signal.SIGHUP)
    wait_for(lambda: reads() > before, "the new configuration")


def test_known_resolvers_are_refused_where_people_want_that(home: Home) -> None:
    plug = home.lab.device("plug")
    canary, resolver = "use-application-dns.net", "doh.resolver.test"
    assert ask(plug, canary).rcode == 0
    addresses = [resolve(plug, resolver, version) for version in (4, 6)]
    for address in addresses:
        assert reached(home, "plug", address, resolver)
    wait_for(
        lambda: {f["family"] for f in flows(home, "plug") if f.get("note") == "encrypted-dns"} == {4, 6},
        "the note on the flow",
    )
    reload(home, refuse_doh=1)
    try:
        wait_for(lambda: ask(plug, canary).rcode == 3, "no such name")
        assert ask(plug, canary).addresses == ()
        for address in addresses:
            for port in (443, 853):
                with pytest.raises(ConnectionRefusedError):
                    Client(plug, address, resolver, port)
            assert udp_exchange(plug, address, 443) == "refused"
            assert udp_exchange(plug, address, 7) == "answer", "what else it serves is not our business"
    finally:
        reload(home, refuse_doh=0)
    wait_for(lambda: reached(home, "plug", addresses[0], resolver), "the resolver")
    assert ask(plug, canary).rcode == 0


def decided(home: Home) -> str:
    """The sections of the configuration that are about decisions."""
    text = home.spind.config.read_text()
    return text[text.index("\nconfig ", text.index("config ") + 1) :]


def test_a_name_behind_a_mask_is_cut_by_the_name_that_was_asked_for(home: Home, tap: Tap) -> None:
    phone = home.lab.device("phone")
    home.call("add_rule", device=phone.mac, domain=ADS, action="block")
    for name in (IMG, ADS):
        resolve(phone, name)
    with Client(phone, CDN[4], "mask.example.test") as client:
        mask(client)
        assert refused(client) < patient(1)
    tap.settle()
    assert tap.data(CDN[4]) == []
    assert [flow["note"] for flow in flows(home, "phone") if flow["name"] == "mask.example.test"] == ["ech"]
    with Client(phone, CDN[4], IMG) as client:  # as browsers do with each hello
        mask(client)
        client.send_hello()
        wait_for(lambda: tap.data(CDN[4]), "the hello")


# -- restarts ----------------------------------------------------------------------------------


@contextlib.contextmanager
def attempting(home: Home, address: str) -> Iterator[Callable[[], int]]:
    """Attempts to connect all the time, without asking for the name; gives how many there were."""
    stop, count = threading.Event(), [0]
    plug = home.lab.device("plug")

    def targets() -> Iterator[tuple[str, int]]:
        while not stop.is_set():
            count[0] += 1
            yield address, 443
            select.select([], [], [], 0.002)

    thread = threading.Thread(target=lambda: shoot(plug, targets))
    thread.start()
    try:
        yield lambda: count[0]
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_opens_nothing(home: Home, tap: Tap, number: signal.Signals) -> None:
    plug = home.lab.device("plug")
    home.call("add_rule", device=plug.mac, domain="cloud.hub.test", action="block")
    home.call("add_rule", device=plug.mac, domain=ADS, action="block")
    alone = resolve(plug, "cloud.hub.test")
    for name in (ADS, IMG):
        resolve(plug, name)
    tap.clear()
    with attempting(home, alone) as count:
        wait_for(lambda: count() > 50, "attempts")
        home.spind.more = decided(home)
        home.spind.stop(number)
        at = count()
        wait_for(lambda: count() > at + 50, "attempts while it is down")
        home.spind.start()
        home.spind.more = ""
        at = count()
        wait_for(lambda: count() > at + 50, "attempts after it")
    tap.settle()
    assert tap.to(alone) == []
    # Nobody asked for a name since.
    tap.clear()
    with Client(plug, CDN[4], ADS) as client:
        refused(client)
    tap.settle()
    assert tap.data(CDN[4]) == []
    assert reached(home, "plug", CDN[4], IMG)
    home.settle()
