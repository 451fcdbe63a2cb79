# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocking with the whole daemon in a home: what is decided holds at once, and for nobody else.

Each back-end has one lab and one daemon for all tests here; every test leaves both as it found them.
"""

import contextlib
import functools
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from errno import ECONNRESET
from socket import IPPROTO_IPV6
from typing import NamedTuple

import blocking
import pytest
from blocking import (
    PROTOCOLS,
    REFUSED,
    Service,
    Stream,
    Talk,
    blocked_packets,
    fresh_port,
    heard_of_it,
    readable,
    wait_for,
)
from blocking_home import (
    BACKENDS,
    BESIDE,
    HOST_NAME,
    SITE_NAME,
    TARGET_PREFIXES,
    TARGETS,
    Blocks,
    Decision,
    a_device,
    an_address,
    arriving_inside,
    arriving_outside,
    blocking_of,
    blocks,
    lan_address,
    rule,
)

from spind.lab import dhcp6, netns, plan
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


@pytest.fixture(scope="module")
def inside(home: Blocks) -> Iterator[Watch]:
    with arriving_inside(home) as watch:
        yield watch


# -- the matrix ----------------------------------------------------------------------------------


class Case(NamedTuple):
    """A decision against what the tv has with an address, and what it must leave alone.

    ``beside`` are (device, prefix, number, same port) of conversations that go on.
    """

    block: Decision
    number: int = 30
    beside: tuple[tuple[str, dict[int, str], int, bool], ...] = (("phone", TARGETS, 30, True),)
    name: str = ""


def a_device_by_rule(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    return rule(home, device=home.tv.mac)


def a_site(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    entry = {"list": "block", "node": home.node_of("target.test")}
    home.call("add_iplist_node", **entry)
    return functools.partial(home.call, "remove_iplist_node", **entry)


def a_host_name(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    return rule(home, domain=HOST_NAME)


def a_host_name_for_a_device(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    return rule(home, domain=HOST_NAME, device=home.tv.mac)


def a_prefix(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    return rule(home, ip=TARGET_PREFIXES[6 if ":" in address else 4])


def a_port(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    return rule(home, port=port)


def a_port_of_an_address_for_a_device(
    home: Blocks, address: str, proto: str, port: int
) -> Callable[[], object]:
    return rule(home, port=port, ip=address, device=home.tv.mac, protocol=proto)


def a_protocol_for_a_device(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    return rule(home, device=home.tv.mac, protocol=proto)


def a_flow(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    pair = {"node1": home.node_of(home.tv.mac, "device"), "node2": home.node_of(address)}
    home.call("set_flow_block", **pair, block=1)
    return functools.partial(home.call, "set_flow_block", **pair, block=0)


def a_flow_of_a_device(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    pair = {"device": home.tv.mac, "node": home.node_of("target.test")}
    home.call("set_device_flow_block", **pair, block=1)
    return functools.partial(home.call, "set_device_flow_block", **pair, block=0)


def a_node_for_a_device(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    return rule(home, device=home.tv.mac, node=home.node_of(address))


def a_profile(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    home.call("set_device_profile", device=home.tv.mac, profile="quarantine")
    return functools.partial(home.call, "set_device_profile", device=home.tv.mac, profile="")


SAME, OTHER_PORT = True, False
CASES = (
    Case(a_device),
    Case(a_device_by_rule),
    Case(a_site, 10, (("tv", BESIDE, 10, SAME), ("phone", BESIDE, 10, SAME)), SITE_NAME),
    Case(a_host_name, 20, (("tv", BESIDE, 20, SAME), ("phone", BESIDE, 20, SAME)), HOST_NAME),
    Case(a_host_name_for_a_device, 20, (("tv", BESIDE, 20, SAME), ("phone", TARGETS, 20, SAME)), HOST_NAME),
    Case(an_address, 30, (("tv", TARGETS, 31, SAME), ("phone", TARGETS, 29, SAME))),
    Case(a_prefix, 30, (("tv", BESIDE, 30, SAME), ("phone", BESIDE, 30, SAME))),
    Case(a_port, 30, (("tv", TARGETS, 30, OTHER_PORT), ("phone", BESIDE, 30, OTHER_PORT))),
    Case(
        a_port_of_an_address_for_a_device,
        30,
        (("tv", TARGETS, 30, OTHER_PORT), ("tv", BESIDE, 30, SAME), ("phone", TARGETS, 30, SAME)),
    ),
    Case(a_protocol_for_a_device, 30, (("phone", TARGETS, 30, SAME),)),
    Case(a_flow, 30, (("tv", TARGETS, 31, SAME), ("phone", TARGETS, 30, SAME))),
    Case(a_flow_of_a_device, 10, (("tv", BESIDE, 10, SAME), ("phone", TARGETS, 10, SAME)), SITE_NAME),
    Case(a_node_for_a_device, 30, (("tv", TARGETS, 31, SAME), ("phone", TARGETS, 30, SAME))),
    Case(a_profile),
)


def matrix() -> Iterator[object]:
    """All of it; in a slow virtual machine each decision meets each family, by one protocol."""
    for number, case in enumerate(CASES):
        name = case.block.__name__
        protocols = PROTOCOLS[:2] if "port" in name else PROTOCOLS
        for version in (4, 6):
            chosen = protocols[(number + version // 6) % len(protocols)]
            for proto in protocols:
                marks = [pytest.mark.vm] if proto == chosen else []
                yield pytest.param(case, version, proto, marks=marks, id=f"{name}-{version}-{proto}")


@pytest.mark.parametrize(("case", "version", "proto"), list(matrix()))
def test_blocked_is_blocked_and_nothing_else(
    home: Blocks, outside: Watch, inside: Watch, case: Case, version: int, proto: str
) -> None:
    address, port = TARGETS[version].format(case.number), fresh_port()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        if case.name:
            home.resolve("tv", case.name)
        serve = functools.cache(lambda *where: enter(Service(home.lab.internet, *where)))
        service = serve(address, proto, port)
        old = enter(Talk(home.tv, service)).establish()
        beside = []
        for device, where, number, same in case.beside:
            other = serve(where[version].format(number), proto, port if same else fresh_port())
            beside.append(enter(Talk(home.lab.device(device), other)).establish())

        undo = case.block(home, address, proto, port)
        there, here = outside.read(), inside.read()
        try:
            # The running conversation has ended, and the device hears of it.
            heard_of_it(home, old)
            before = blocked_packets(home)
            old.answer()
            if version == 6 and proto != "icmp":  # with NAT, its way back has been forgotten
                wait_for(lambda: blocked_packets(home) > before, "a packet down that is blocked")
            # So does a new one.
            before = blocked_packets(home)
            new = enter(Talk(home.tv, service))
            new.begin()
            wait_for(lambda: blocked_packets(home) > before, "a first packet that is blocked")
            if proto != "icmp":
                assert new.error() in REFUSED
            assert outside.read().since(there).packets == 0
            assert inside.read().since(here).packets == 0
            # The neighbours of the rule do not feel it.
            for one in beside:
                one.exchange()
        finally:
            old.close()
            undo()
        new.close()
        enter(Talk(home.tv, service)).establish()
        for one in beside:
            one.exchange()
    home.unchanged()


# -- from the reply of the call on ---------------------------------------------------------------

DECISIONS = (a_device, an_address, a_host_name, a_flow)


@pytest.mark.vm
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: decision.__name__)
def test_no_packet_of_running_streams_arrives_after_the_reply(
    home: Blocks,
    outside: Watch,
    inside: Watch,
    decision: Decision,
    version: int,
    record_property: Callable[[str, object], None],
) -> None:
    address = TARGETS[version].format(20)
    home.resolve("tv", HOST_NAME)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        streams = {
            (proto, down): enter(
                Stream(home.tv, enter(Service(home.lab.internet, address, proto, fresh_port())), down=down)
            )
            for proto in ("tcp", "udp")
            for down in (False, True)
        }
        wait_for(lambda: all(stream.moved > 500 for stream in streams.values()), "traffic in all streams")
        begun = outside.read(), inside.read()
        node = "mixed.test" if decision is a_flow else address
        undo = decision(home, node, "", 0)
        replied = time.monotonic()
        there, here = outside.read(), inside.read()
        try:
            tcp = [streams["tcp", down] for down in (False, True)]
            wait_for(lambda: all(stream.ended for stream in tcp), "the end of the TCP streams")
            assert [stream.error for stream in tcp] == [ECONNRESET, ECONNRESET]
            assert max(stream.ended for stream in tcp) - replied < 1
            before, moved = blocked_packets(home), streams["udp", True].moved
            wait_for(
                lambda: blocked_packets(home) > before + 200 and streams["udp", True].moved > moved + 200,
                "datagrams that are blocked",
            )
            resets = {
                "device": inside.read().since(begun[1]).resets,
                "peer": outside.read().since(begun[0]).resets,
            }
            record_property("resets", resets)
            assert outside.read().since(there).packets == 0
            assert inside.read().since(here).packets == 0
            assert resets["device"] >= 2
            if version == 6:
                assert resets["peer"] >= 1
        finally:
            stack.close()
            undo()
    home.unchanged()


@pytest.mark.vm
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("decision", [a_device, an_address], ids=lambda decision: decision.__name__)
def test_a_device_that_waits_for_data_hears_at_once(home: Blocks, decision: Decision, version: int) -> None:
    address = TARGETS[version].format(25)
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(Service(home.lab.internet, address, "tcp", fresh_port()))
        talks = [stack.enter_context(Talk(home.tv, service)).establish() for _ in range(20)]
        home.settle()  # all is still
        undo = decision(home, address, "tcp", 0)
        try:
            assert [talk.error(1) for talk in talks] == [ECONNRESET] * len(talks)
        finally:
            stack.close()
            undo()
    home.unchanged()


# -- all that a device has -----------------------------------------------------------------------

HEADERS = {
    "hop-by-hop": (IPPROTO_IPV6, socket.IPV6_HOPOPTS, bytes((0, 0, 1, 4, 0, 0, 0, 0))),
    "destination": (IPPROTO_IPV6, socket.IPV6_DSTOPTS, bytes((0, 0, 1, 4, 0, 0, 0, 0))),
}


@pytest.mark.parametrize("proto", PROTOCOLS)
@pytest.mark.parametrize("version", [4, 6])
def test_an_address_that_comes_later_is_blocked_from_its_first_packet(
    home: Blocks, outside: Watch, version: int, proto: str
) -> None:
    later = {4: "192.168.8.240", 6: "2001:db8:8::240"}[version]
    with Service(home.lab.internet, TARGETS[version].format(40), proto, fresh_port()) as service:
        with blocking_of(home, home.tv):
            blocking.add_address(home.tv, later)
            try:
                there, before = outside.read(), blocked_packets(home)
                with Talk(home.tv, service, later) as talk:
                    talk.begin()
                    wait_for(lambda: blocked_packets(home) > before, "a first packet that is blocked")
                    assert outside.read().since(there).packets == 0
            finally:
                blocking.remove_address(home.tv, later)
        with Talk(home.tv, service) as talk:
            talk.establish()


@pytest.mark.parametrize("decision", [a_device, an_address, a_port], ids=lambda decision: decision.__name__)
@pytest.mark.parametrize(
    ("header", "proto"), [*itertools.product(HEADERS, ("tcp", "udp")), ("fragments", "udp")]
)
def test_extension_headers_do_not_hide_a_packet(
    home: Blocks, outside: Watch, decision: Decision, header: str, proto: str
) -> None:
    address, port = TARGETS[6].format(41), fresh_port()
    options = (HEADERS[header],) if header in HEADERS else ()
    size = 0 if header in HEADERS else 4000
    with (
        Service(home.lab.internet, address, proto, port) as service,
        Talk(home.tv, service, "", options) as old,
    ):
        old.establish()
        there = outside.read()
        old.send(size)
        assert old.heard(), "such packets get through"
        assert outside.read().since(there).packets > 0
        undo = decision(home, address, proto, port)
        try:
            there = outside.read()
            heard_of_it(home, old, size)
            before = blocked_packets(home)
            with Talk(home.tv, service, "", options) as new:
                new.begin()
                wait_for(lambda: blocked_packets(home) > before, "a first packet that is blocked")
            assert outside.read().since(there).packets == 0
        finally:
            old.close()
            undo()
    home.unchanged()


@pytest.mark.parametrize("proto", PROTOCOLS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("apart", ["a_device", "a_pair", "a_pair_of_nodes"])
def test_devices_on_the_bridge_are_kept_apart(home: Blocks, apart: str, version: int, proto: str) -> None:
    hub = home.lab.device("hub")
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        service = enter(Service(home.phone, lan_address(home.phone, version), proto, fresh_port()))
        talk = enter(Talk(home.tv, service)).establish()
        beside = enter(Talk(hub, service)).establish()
        tv, phone = (home.node_of(device.mac, "device") for device in (home.tv, home.phone))
        watch = enter(Watch(home.phone, "tv", [f"ether saddr {home.tv.mac}"]))
        if apart == "a_device":
            enter(blocking_of(home, home.tv))
        elif apart == "a_pair":
            home.call("set_flow_block", node1=phone, node2=tv, block=1)
            stack.callback(home.call, "set_flow_block", node1=tv, node2=phone, block=0)
        else:
            stack.callback(rule(home, device=home.phone.mac, node=tv))
        before = watch.read()
        talk.send()
        with Talk(home.tv, service) as new:
            new.begin()
            beside.exchange()
            beside.exchange()
        assert watch.read().since(before).packets == 0
        if apart != "a_device":
            near = enter(Service(hub, lan_address(hub, version), proto, fresh_port()))
            enter(Talk(home.tv, near)).establish()
        talk.close()
        stack.pop_all().close()
    address = lan_address(home.phone, version)
    with Service(home.phone, address, proto, fresh_port()) as service, Talk(home.tv, service) as talk:
        talk.establish()
    home.unchanged()


@pytest.mark.vm
def test_an_allowed_device_is_reached_from_a_blocked_one(home: Blocks) -> None:
    hub = home.lab.device("hub")
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        services = {
            device.name: enter(Service(device, lan_address(device, 4), "tcp", fresh_port()))
            for device in (home.phone, hub)
        }
        enter(blocking_of(home, home.tv))
        allowed = {"action": "allow", "device": home.tv.mac, "node": home.node_of(home.phone.mac, "device")}
        stack.callback(home.call, "remove_rule", id=home.call("add_rule", **allowed)["id"])
        enter(Talk(home.tv, services["phone"])).establish()
        with (
            Watch(hub, "tv", [f"ether saddr {home.tv.mac}"]) as watch,
            Talk(home.tv, services["hub"]) as talk,
        ):
            talk.begin()
            assert not readable(services["hub"].socket, 0.3)
            assert watch.read().packets == 0


@pytest.fixture
def detour(home: Blocks) -> Iterator[None]:
    """The tv and the phone reach each other through the gateway."""
    gateway = home.lab.gateway
    redirects = {
        "net.ipv4.conf.all.send_redirects": "0",
        f"net.ipv4.conf.{plan.LAN_BRIDGE}.send_redirects": "0",
    }
    netns.write_sysctls(gateway.namespace, redirects)
    pairs = [(home.tv, home.phone), (home.phone, home.tv)]
    for here, there in pairs:
        netns.write_sysctls(here.namespace, {"net.ipv6.conf.eth0.accept_redirects": "0"})
        lines = [
            f"route add {lan_address(there, 4)}/32 via {plan.GATEWAY4}",
            f"-6 route add {lan_address(there, 6)}/128 via {plan.GATEWAY6}",
        ]
        for line in lines:
            here.run(["ip", *line.split()])
    yield
    for here, there in pairs:
        here.run(["ip", "route", "del", f"{lan_address(there, 4)}/32"])
        here.run(["ip", "-6", "route", "del", f"{lan_address(there, 6)}/128"])


@pytest.mark.parametrize("proto", PROTOCOLS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("apart", ["the_caller", "the_called", "a_pair"])
@pytest.mark.usefixtures("detour")
def test_devices_are_kept_apart_when_routed(home: Blocks, apart: str, version: int, proto: str) -> None:
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        service = enter(Service(home.phone, lan_address(home.phone, version), proto, fresh_port()))
        source = lan_address(home.tv, version)
        talk = enter(Talk(home.tv, service, source)).establish()
        word = "ip" if version == 4 else "ip6"
        watch = enter(Watch(home.phone, "tv", [f"{word} saddr {source}"]))
        if apart == "a_pair":
            nodes = {f"node{n}": home.node_of(d.mac, "device") for n, d in ((1, home.tv), (2, home.phone))}
            home.call("set_flow_block", **nodes, block=1)
            stack.callback(home.call, "set_flow_block", **nodes, block=0)
        else:
            enter(blocking_of(home, home.tv if apart == "the_caller" else home.phone))
        arrived = watch.read()
        heard_of_it(home, talk)
        before = blocked_packets(home)
        with Talk(home.tv, service, source) as new:
            new.begin()
            wait_for(lambda: blocked_packets(home) > before, "a first packet that is blocked")
        assert watch.read().since(arrived).packets == 0
        talk.close()
    home.unchanged()


@pytest.mark.vm
@pytest.mark.parametrize("version", [4, 6])
def test_a_blocked_device_gets_nothing_of_the_gateway_but_its_lease(home: Blocks, version: int) -> None:
    gateway = {4: plan.GATEWAY4, 6: plan.GATEWAY6}[version]
    always = ("udp sport { 67, 68, 546, 547 }", "icmpv6 type 133-137")
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        services = [enter(Service(home.lab.gateway, gateway, proto, fresh_port())) for proto in PROTOCOLS]
        talks = [enter(Talk(home.tv, service)).establish() for service in services]
        watch = enter(Watch(home.tv, "gateway", [f"ether saddr {plan.GATEWAY_LAN_MAC}"], always))
        with blocking_of(home, home.tv):
            arrived = watch.read()
            for service, talk in zip(services, talks, strict=True):
                heard_of_it(home, talk)
                with Talk(home.tv, service) as new:
                    new.begin()
                    if service.proto != "icmp":
                        assert new.error() in REFUSED
                assert not talk.heard(0.05)
            assert watch.read().since(arrived).packets == 0
            if version == 4:
                leases = blocking.leases(home.tv)
                blocking.renew(home.tv)
                wait_for(lambda: blocking.leases(home.tv) > leases, "a lease that is renewed")
            else:
                home.tv.call(lambda: dhcp6.acquire(plan.DEVICE_INTERFACE, home.tv.mac, "tv"))
    with Service(home.lab.gateway, gateway, "tcp", fresh_port()) as service, Talk(home.tv, service) as talk:
        talk.establish()
    home.unchanged()


@pytest.mark.parametrize("proto", PROTOCOLS)
def test_nothing_comes_in_from_the_internet(home: Blocks, inside: Watch, proto: str) -> None:
    source = TARGETS[6].format(50)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(blocking.wan_open(home))
        service = enter(Service(home.tv, lan_address(home.tv, 6), proto, fresh_port()))
        old = enter(Talk(home.lab.internet, service, source)).establish()
        with blocking_of(home, home.tv):
            arrived, before = inside.read(), blocked_packets(home)
            old.send()
            wait_for(lambda: blocked_packets(home) > before, "a packet that is blocked")
            before = blocked_packets(home)
            new = enter(Talk(home.lab.internet, service, source))
            new.begin()
            wait_for(lambda: blocked_packets(home) > before, "a first packet that is blocked")
            assert inside.read().since(arrived).packets == 0
        new.close()
        enter(Talk(home.lab.internet, service, source)).establish()
    home.unchanged()


@pytest.mark.parametrize("proto", PROTOCOLS)
def test_nobody_hears_from_an_address_that_was_never_used(
    home: Blocks, inside: Watch, outside: Watch, proto: str
) -> None:
    """Who knows it may send a first packet: the gateway learns whose it is by delivering that."""
    address, source = f"2001:db8:8::{fresh_port():x}", TARGETS[6].format(51)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(blocking.wan_open(home))
        blocking.add_address(home.tv, address)
        stack.callback(blocking.remove_address, home.tv, address)
        service = enter(Service(home.tv, address, proto, fresh_port()))
        with blocking_of(home, home.tv):
            there = outside.read()
            with Talk(home.lab.internet, service, source) as first:
                first.begin()
                wait_for(lambda: address in home.call("list_iplist", list="block"), "the address on the list")
            arrived, before = inside.read(), blocked_packets(home)
            with Talk(home.lab.internet, service, source) as second:
                second.begin()
                wait_for(lambda: blocked_packets(home) > before, "a packet that is blocked")
            assert inside.read().since(arrived).packets == 0
            assert outside.read().since(there).packets == 0
        enter(Talk(home.lab.internet, service, source)).establish()
    home.unchanged()
