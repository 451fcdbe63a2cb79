# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel does with the rules of a ruleset: one suite for every back-end.

Where something must not arrive, the test waits until the kernel has counted it as blocked: then it
has been judged, and what a packet socket has not seen by then will not come.
"""

import contextlib
import importlib
import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from errno import EACCES, ECONNREFUSED, ECONNRESET, EHOSTUNREACH
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from block_net import (
    BAD,
    BAD_PREFIX,
    DEVICES,
    GATEWAY,
    GOOD,
    MACS,
    OTHER_PORT,
    PORT,
    RST,
    BlockNet,
    Sniffer,
    Talk,
    report,
    reports,
    wait_for,
)
from capture_net import IN_VM, SmallNet, inside, set_net, tool

from spind.block_nftables import NftablesBlock
from spind.capture_nftables import NftablesRules
from spind.capture_rules import CaptureSpec
from spind.model import IPPROTO_TCP, IPPROTO_UDP, parse_address, parse_mac
from spind.nft_elements import NftWatch
from spind.ruleset import (
    Action,
    ClassesChange,
    Element,
    Marks,
    Placement,
    Ruleset,
    SetChange,
    Shape,
    Step,
)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]

MARKS = Marks(done=0x02000000, cut=0x04000000, inspect=0x08000000)
GROUP = 47
BLOCK = (Step(Action.BLOCK),)
BACKENDS = {
    "nftables": "spind.block_nftables.NftablesBlock",
    "iptables": "spind.block_iptables.IptablesBlock",
}
BOTH = [pytest.param("nftables", marks=pytest.mark.vm), "iptables"]

Backend = Any  # NftablesBlock, or one with the same methods


def make(name: str) -> Backend:
    module, _, cls = BACKENDS[name].rpartition(".")
    try:
        return getattr(importlib.import_module(module), cls)()
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        pytest.skip(f"there is no {module}")


@pytest.fixture(scope="module")
def shared() -> Iterator[BlockNet]:
    with BlockNet() as made:
        yield made


@pytest.fixture
def net(shared: BlockNet) -> Iterator[BlockNet]:
    """The network, with this thread in the gateway."""
    with inside(shared.gateway):
        yield shared


@contextlib.contextmanager
def removed(block: Backend) -> Iterator[Backend]:
    try:
        block.probe()
    except OSError as error:
        if IN_VM:
            raise
        pytest.skip(f"this kernel cannot: {error}")
    try:
        yield block
    finally:
        block.remove()
        close(block)


def close(block: Backend) -> None:
    """Not every back-end keeps sockets."""
    getattr(block, "close", lambda: None)()


@pytest.fixture(params=BOTH)
def block(request: pytest.FixtureRequest, net: BlockNet) -> Iterator[Backend]:
    with removed(make(request.param)) as made:
        yield made


@pytest.fixture
def nft(net: BlockNet) -> Iterator[NftablesBlock]:
    with removed(NftablesBlock()) as made:
        yield made


def home(mode: str = "router", interfaces: tuple[str, ...] = ("lan",), own: str = "all") -> Placement:
    return Placement(mode, interfaces, MARKS, GROUP, own)


def sets(**shapes: tuple[Shape, set[Element]]) -> tuple[dict[str, Shape], dict[str, set[Element]]]:
    return {name: shape for name, (shape, _) in shapes.items()}, {
        name: of for name, (_, of) in shapes.items()
    }


def numbers(proto: str) -> int:
    return {"tcp": 6, "udp": 17, "icmp": 1}[proto]


class Case(NamedTuple):
    """Rules that block what device ``one`` has with BAD, how to lift that without a new install, a
    conversation that the rules must leave alone, and whether they know a packet of the host."""

    rules: Ruleset
    lift: SetChange | ClassesChange
    beside: tuple[str, str, int]  # device, address, port
    down: bool = True


def by_mac(version: int, proto: str) -> Case:
    lift = ClassesChange(macs=((MACS["one"], ""),))
    rules = Ruleset(home(), {"off": BLOCK}, macs={MACS["one"]: "off"})
    return Case(rules, lift, ("two", BAD[version], PORT), down=False)


def by_address(version: int, proto: str) -> Case:
    address = parse_address(DEVICES["one"][version])
    lift = ClassesChange(addresses=((address, ""),))
    return Case(
        Ruleset(home(), {"off": BLOCK}, addresses={address: "off"}), lift, ("two", BAD[version], PORT)
    )


def for_all(shape: Shape, element: Element, beside: tuple[str, str, int]) -> Case:
    shapes, of = sets(x=(shape, {element}))
    rules = Ruleset(home(), {"all": (Step(Action.BLOCK, "x"),)}, shapes, of)
    return Case(rules, SetChange("x", removed=(element,)), beside)


def an_address(version: int, proto: str) -> Case:
    return for_all(Shape.ADDRESS, parse_address(BAD[version]), ("one", GOOD[version], PORT))


def a_prefix(version: int, proto: str) -> Case:
    network, bits = BAD_PREFIX[version]
    return for_all(Shape.PREFIX, (parse_address(network), bits), ("one", GOOD[version], PORT))


def a_port(version: int, proto: str) -> Case:
    return for_all(Shape.PORT, (numbers(proto), PORT), ("one", BAD[version], OTHER_PORT))


def an_address_and_port(version: int, proto: str) -> Case:
    element = (parse_address(BAD[version]), numbers(proto), PORT)
    return for_all(Shape.ADDRESS_PORT, element, ("one", BAD[version], OTHER_PORT))


def a_prefix_and_port(version: int, proto: str) -> Case:
    network, bits = BAD_PREFIX[version]
    element = (parse_address(network), bits, numbers(proto), PORT)
    return for_all(Shape.PREFIX_PORT, element, ("one", BAD[version], OTHER_PORT))


def a_protocol(version: int, proto: str) -> Case:
    rules = Ruleset(
        home(), {"off": (Step(Action.BLOCK, protocol=numbers(proto)),)}, macs={MACS["one"]: "off"}
    )
    return Case(rules, ClassesChange(macs=((MACS["one"], ""),)), ("two", BAD[version], PORT), down=False)


def allowed_before_a_shared_block(version: int, proto: str) -> Case:
    """Device two has an exception from what is blocked for all; device one has the class, but no ..."""
    bad = parse_address(BAD[version])
    shapes, of = sets(x=(Shape.ADDRESS, {bad}), good=(Shape.ADDRESS, {bad}))
    classes = {
        "all": (Step(Action.BLOCK, "x"),),
        "kids": (Step(Action.ALLOW, "good"), Step(Action.BLOCK, "x")),
    }
    two = parse_address(DEVICES["two"][version])
    rules = Ruleset(home(), classes, shapes, of, {MACS["two"]: "kids"}, {two: "kids"})
    return Case(rules, SetChange("x", removed=(bad,)), ("two", BAD[version], PORT))


CASES: list[Callable[[int, str], Case]] = [
    by_mac,
    by_address,
    an_address,
    a_prefix,
    a_port,
    an_address_and_port,
    a_prefix_and_port,
    a_protocol,
    allowed_before_a_shared_block,
]


def packets(block: Backend) -> int:
    count: int = block.counters()["block.packets"]
    return count


def arrived(sniffer: Sniffer, talk: Talk) -> list[Any]:
    """What has arrived of a protocol, but for resets, which are ours."""
    return [each for each in sniffer.packets() if each.proto == talk.number and not each.flags & RST]


@pytest.mark.parametrize("proto", ["tcp", "udp", "icmp"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_blocked_is_blocked(
    net: BlockNet, block: Backend, case: Callable[[int, str], Case], version: int, proto: str
) -> None:
    if proto == "icmp" and "port" in case.__name__:
        pytest.skip("no ports")
    made = case(version, proto)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context

        def talk(device: str = "one", address: str = BAD[version], port: int = PORT) -> Talk:
            return enter(Talk(net, device, version, address, proto, port))

        old = talk()
        old.establish()
        beside = talk(*made.beside)
        beside.establish()
        there, here = enter(Sniffer(net.host, version)), enter(Sniffer(net.device["one"], version))
        block.install(made.rules)

        # The running conversation stops, in both directions.
        if made.down and proto != "icmp":
            before = packets(block)
            old.answer()
            wait_for(lambda: packets(block) > before, "a packet down that is blocked")
            assert arrived(here, old) == []
        if proto != "tcp" or not made.down:
            before = packets(block)
            old.send()
            wait_for(lambda: packets(block) > before, "a packet up that is blocked")
        assert arrived(there, old) == []
        old.close()

        # So does a new one, and the device is told.
        before = packets(block)
        new = talk()
        new.begin()
        wait_for(lambda: packets(block) > before, "a first packet that is blocked")
        assert arrived(there, new) == []
        if proto == "tcp":
            assert new.error() == ECONNREFUSED
        elif proto == "udp":
            assert new.error() in (EHOSTUNREACH, EACCES), "administratively prohibited"
        new.close()

        # The neighbour of the rule does not feel it.
        before = packets(block)
        beside.send()
        beside.exchange()
        assert packets(block) == before

        block.update([made.lift])
        talk().establish()
        assert packets(block) == before
        assert not block.changed_by_others()


# -- what always passes, and what gets nowhere --


def off(device: str = "one") -> Ruleset:
    """Everything of a device is blocked."""
    addresses = {parse_address(DEVICES[device][version]): "off" for version in (4, 6)}
    return Ruleset(home(), {"off": BLOCK}, macs={MACS[device]: "off"}, addresses=addresses)


@pytest.mark.parametrize("version", [4, 6])
def test_a_blocked_device_gets_an_address_and_finds_the_gateway(
    net: BlockNet, block: Backend, version: int
) -> None:
    near_port, far_port = (68, 67) if version == 4 else (546, 547)
    device = DEVICES["one"][version]
    block.install(off())
    for namespace, interface in ((net.gateway, "lan"), (net.device["one"], "end")):
        tool("ip", "-n", namespace, f"-{version}", "neigh", "flush", "dev", interface)  # and find it anew
    with (
        net.open("one", version, socket.SOCK_DGRAM) as near,
        net.open("gateway", version, socket.SOCK_DGRAM) as far,
        net.open("gateway", version, socket.SOCK_DGRAM) as other,
    ):
        near.bind((device, near_port))
        far.bind((GATEWAY[version], far_port))
        other.bind((GATEWAY[version], 5353))
        near.sendto(b"discover", (GATEWAY[version], far_port))
        wait_for(lambda: received(far) == b"discover", "a request for an address")
        far.sendto(b"offer", (device, near_port))
        wait_for(lambda: received(near) == b"offer", "an offer of one")
        before = packets(block)
        near.sendto(b"anything else", (GATEWAY[version], 5353))
        wait_for(lambda: packets(block) > before, "a packet to the gateway that is blocked")
        assert received(other) is None
        with pytest.raises(PermissionError):  # what the kernel says of output that is dropped
            other.sendto(b"nor back", (device, 5353))


def received(sock: socket.socket) -> bytes | None:
    try:
        return sock.recv(2048)
    except OSError:  # nothing there, or an answer that says why not
        return None


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_extension_headers_hide_nothing(net: BlockNet, block: Backend, proto: str) -> None:
    options = bytes([0, 0, 1, 4, 0, 0, 0, 0])  # RFC 8200 4.6: next header, length, PadN
    bad = parse_address(BAD[6])
    number = IPPROTO_TCP if proto == "tcp" else IPPROTO_UDP
    shapes, of = sets(doors=(Shape.ADDRESS_PORT, {(bad, number, PORT)}))
    rules = Ruleset(home(), {"all": (Step(Action.BLOCK, "doors"),)}, shapes, of)
    with (
        Sniffer(net.host, 6) as there,
        Talk(net, "one", 6, BAD[6], proto, PORT) as plain,
        Talk(net, "one", 6, BAD[6], proto, PORT) as hidden,
        Talk(net, "one", 6, BAD[6], proto, OTHER_PORT) as beside,
    ):
        for talk in (hidden, beside):
            talk.near.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, options)
        plain.establish()
        block.install(rules)
        there.packets()
        hidden.begin()
        wait_for(lambda: packets(block) == 1, "a hidden packet that is blocked")
        assert arrived(there, hidden) == []
        beside.establish()
        assert arrived(there, beside) != []


@pytest.mark.parametrize("version", [4, 6])
def test_the_sender_s_address_and_its_mac_both_count(net: BlockNet, block: Backend, version: int) -> None:
    """A device that sends with another's address is still itself, and is that other, too."""
    other = parse_address(DEVICES["one"][version])
    shapes, of = sets(bad=(Shape.ADDRESS, {parse_address(BAD[version])}))
    classes = {"bad": (Step(Action.BLOCK, "bad"),), "free": (Step(Action.ALLOW),)}
    for mac, address in (("free", "bad"), ("bad", "free")):
        rules = Ruleset(home(), classes, shapes, of, {MACS["one"]: mac}, {other: address})
        with Talk(net, "one", version, BAD[version], "udp", PORT) as talk:
            before = packets(block)
            block.install(rules)
            talk.begin()
            wait_for(lambda: packets(block) > before, f"blocked with {mac} and {address}")  # noqa: B023


# -- reports, inspection, cut connections --


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_blocked_is_reported(net: BlockNet, block: Backend, version: int) -> None:
    with reports(GROUP) as log, Talk(net, "one", version, BAD[version], "udp", PORT) as talk:
        talk.establish()
        block.install(an_address(version, "udp").rules)
        device, bad = parse_address(DEVICES["one"][version]), parse_address(BAD[version])
        talk.answer()
        ((prefix, packet),) = report(log)
        assert (prefix, packet.src, packet.dst, packet.sport) == ("spin down", bad, device, PORT)
        talk.send()
        ((prefix, packet),) = report(log)
        assert (prefix, packet.src, packet.dst, packet.dport) == ("spin up", device, bad, PORT)
        # All are counted, few are reported.
        sent = 0
        while sent < 300:
            with contextlib.suppress(OSError):  # the answer to one before
                talk.send()
                sent += 1
        wait_for(lambda: packets(block) >= 302, "every one counted")
        log.settimeout(0)
        seen = 0
        with contextlib.suppress(BlockingIOError):
            while seen < 300:
                seen += len(report(log))
        assert 50 <= seen <= 150
        assert block.counters()["block.bytes"] >= 302 * (30 if version == 4 else 50)


@contextlib.contextmanager
def marking(net: BlockNet) -> Iterator[Callable[[], int]]:
    """Mark connections to port 8001 as *done*, to 8002 as *cut*; count what is to be inspected."""
    tool("nft", "-f", "-", text=f"""
        table inet watcher {{
            counter asked {{ }}
            chain before {{
                type filter hook prerouting priority -170; policy accept;
                th dport 8001 ct mark set ct mark | {MARKS.done:#x}
                th dport 8002 ct mark set ct mark | {MARKS.cut:#x}
            }}
            chain after {{
                type filter hook forward priority 10; policy accept;
                meta mark & {MARKS.inspect:#x} == {MARKS.inspect:#x} counter name asked
            }}
        }}""")  # fmt: skip

    def asked() -> int:
        return int(tool("nft", "list", "counter", "inet", "watcher", "asked").split("packets ")[1].split()[0])

    try:
        yield asked
    finally:
        tool("nft", "delete", "table", "inet", "watcher")


@pytest.mark.parametrize("version", [4, 6])
def test_a_shared_address_is_inspected(net: BlockNet, block: Backend, version: int) -> None:
    shapes, of = sets(shared=(Shape.ADDRESS, {parse_address(BAD[version])}))
    block.install(Ruleset(home(), {"all": (Step(Action.INSPECT, "shared"),)}, shapes, of))
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(marking(net))

        def talk(proto: str, port: int, address: str = BAD[version]) -> Talk:
            return stack.enter_context(Talk(net, "one", version, address, proto, port))

        talk("tcp", PORT).establish()
        assert 2 <= asked() <= 6, "the client's packets, and none of the host's"
        before = asked()
        talk("tcp", PORT, GOOD[version]).establish()
        talk("tcp", 8001).establish()
        talk("udp", PORT).establish()
        talk("icmp", 0).establish()
        assert asked() == before
        assert packets(block) == 0
        quic = talk("udp", 443)
        quic.begin()
        wait_for(lambda: packets(block) == 1, "QUIC that is blocked")
        assert quic.error() in (EHOSTUNREACH, EACCES)
        block.update([SetChange("shared", removed=(parse_address(BAD[version]),))])
        talk("tcp", PORT).establish()
        talk("udp", 443).establish()
        assert asked() == before


@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_that_is_cut_is_reset(net: BlockNet, block: Backend, version: int) -> None:
    block.install(Ruleset(home()))
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        device, host = (enter(Talk(net, "one", version, BAD[version], "tcp", 8002)) for _ in range(2))
        device.establish()
        host.establish()
        there, here = enter(Sniffer(net.host, version)), enter(Sniffer(net.device["one"], version))
        enter(marking(net))
        device.send()
        assert device.error() == ECONNRESET
        assert arrived(there, device) == []
        # The mark is on the connection: what comes back meets it, too.
        host.send()
        here.packets()
        host.answer()
        wait_for(lambda: block.counters()["block.cut"] >= 3, "packets that are cut")
        assert arrived(here, host) == []
        assert packets(block) == 0
        udp = enter(Talk(net, "one", version, BAD[version], "udp", 8002))
        udp.begin()
        wait_for(lambda: block.counters()["block.cut"] >= 4, "a datagram that is dropped")
        assert arrived(there, udp) == []


# -- between devices --


def between(net: BlockNet, version: int) -> bool:
    """Whether a datagram gets from device one to device two, past the gateway."""
    with (
        net.open("one", version, socket.SOCK_DGRAM) as near,
        net.open("two", version, socket.SOCK_DGRAM) as far,
    ):
        far.bind((DEVICES["two"][version], 7000))
        near.sendto(b"first", (DEVICES["two"][version], 7000))
        # The gateway sees frames in order: the second shows that the first will not come.
        with Sniffer(net.gateway, version, "lan") as gateway:
            near.sendto(b"second", (GATEWAY[version], 7001))
            wait_for(
                lambda: any(each.dport == 7001 for each in gateway.packets()), "a datagram to the gateway"
            )
        return received(far) == b"first"


def known_neighbours(net: BlockNet) -> None:
    """Entries that need no frames, so that a test knows which frames there are."""
    for here, there in (("one", "two"), ("two", "one")):
        for version in (4, 6):
            neighbour = (DEVICES[there][version], "lladdr", MACS[there].hex(":"), "dev", "end")
            tool("ip", "-n", net.device[here], "neigh", "replace", *neighbour)


@pytest.mark.parametrize("version", [4, 6])
def test_devices_are_kept_apart(net: BlockNet, block: Backend, version: int) -> None:
    if block.name != "nftables":
        pytest.skip("frames that are bridged are for nftables")
    known_neighbours(net)
    one, two = MACS["one"], MACS["two"]
    pair = {(one, two), (two, one)}
    assert between(net, version)
    for rules, passes in (
        (Ruleset(home(), isolated={one}), False),
        (Ruleset(home(), isolated={two}), False),
        (Ruleset(home(), isolated={one}, together=pair), True),
        (Ruleset(home(), apart=pair), False),
        (Ruleset(home(), apart=pair, together=pair), False),
        (Ruleset(home(), apart={(one, parse_mac("02:0a:00:00:00:09"))}, isolated=set()), True),
        (Ruleset(home()), True),
    ):
        before = block.counters()["block.between"]
        block.install(rules)
        assert between(net, version) == passes
        assert (block.counters()["block.between"] > before) == (not passes)
        with Talk(net, "one", version, BAD[version], "udp", PORT) as talk:
            talk.establish()  # the gateway and the internet are still there


# -- life --


def tampering(block: Backend) -> list[tuple[str, ...]]:
    if block.name == "nftables":
        return [
            ("nft", "insert rule inet spin block_forward accept"),
            ("nft", "insert rule inet spin block_up return"),
            ("nft", "flush chain inet spin block_forward"),
            ("nft", "flush chain inet spin block_refuse_up"),
            ("nft", "flush set inet spin block_x4; flush set inet spin block_x6"),
            ("nft", "delete element inet spin block_x4 { 203.0.113.7 }"),
            ("nft", "add table inet spin { flags dormant; }"),
            ("nft", "delete table inet spin"),
            ("nft", "flush ruleset"),
            ("nft", "flush map inet spin block_up4_class; add set inet spin block_more { type ipv4_addr; }"),
        ]
    tables = ("iptables-legacy", "ip6tables-legacy")
    return [(tool_name, "-F") for tool_name in tables] + [("ipset", "flush")]


def test_what_others_do_to_the_rules_is_put_right(net: BlockNet, block: Backend) -> None:
    shapes, of = sets(x=(Shape.ADDRESS, {parse_address(BAD[version]) for version in (4, 6)}))
    rules = Ruleset(home(), {"all": (Step(Action.BLOCK, "x"),)}, shapes, of)
    block.install(rules)
    for command in tampering(block):
        tool(*command)
        block.install(rules)
        assert not block.changed_by_others()
        for version in (4, 6):
            with (
                Sniffer(net.host, version) as there,
                Talk(net, "one", version, BAD[version], "udp", PORT) as talk,
            ):
                before = packets(block)
                talk.begin()
                wait_for(lambda: packets(block) > before, f"blocked after {command}")  # noqa: B023
                assert arrived(there, talk) == []


def test_others_are_noticed_and_we_are_not(net: BlockNet, nft: NftablesBlock) -> None:
    shapes, of = sets(x=(Shape.ADDRESS, {parse_address(BAD[4])}), big=(Shape.ADDRESS, set()))
    of["big"] = {(10 << 24 | at).to_bytes(4, "big") for at in range(10_000)}
    rules = Ruleset(home(), {"all": (Step(Action.BLOCK, "x"), Step(Action.BLOCK, "big"))}, shapes, of)
    nft.install(rules)
    nft.update([SetChange("x", (parse_address(GOOD[4]),), (parse_address(BAD[4]),))])
    nft.install(rules)
    other = NftablesRules()
    spec = CaptureSpec("router", ("lan",), 1, 2, MARKS.done, watched=False)
    with contextlib.suppress(OSError):  # where the kernel has no queue
        other.install(spec)
    other.remove()
    tool("nft", "add table inet other { set s { type ipv4_addr; elements = { 192.0.2.1 }; }; }")
    tool("nft", "add chain inet spin mine; add rule inet spin mine accept; delete chain inet spin mine")
    tool("nft", "delete table inet other")
    assert not nft.changed_by_others()
    for command in tampering(nft):
        tool(*command)
        assert readable(nft.watch_fd())
        noticed = False
        while readable(nft.watch_fd()) and not noticed:
            noticed = nft.changed_by_others()
        assert noticed, command
        nft.install(rules)
        nft.update([ClassesChange(macs=((MACS["one"], "all"),))])
        assert not nft.changed_by_others(), command


def readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def test_an_update_that_does_not_fit_is_an_error(net: BlockNet, nft: NftablesBlock) -> None:
    bad, good = parse_address(BAD[4]), parse_address(GOOD[4])
    shapes, of = sets(x=(Shape.ADDRESS, {bad}), y=(Shape.PREFIX, {(bad, 32)}))
    rules = Ruleset(home(), {"all": (Step(Action.BLOCK, "x"), Step(Action.BLOCK, "y"))}, shapes, of)
    with pytest.raises(OSError, match="anew"):
        nft.update([SetChange("x", (good,))])
    for command, change in (
        ("delete element inet spin block_x4 { 203.0.113.7 }", SetChange("x", removed=(bad,))),
        ("add element inet spin block_x4 { 198.51.100.7 }", SetChange("x", added=(good,))),
        ("delete element inet spin block_y4 { 203.0.113.7 }", SetChange("y", removed=((bad, 32),))),
        ("flush ruleset", ClassesChange(macs=((MACS["one"], "all"),))),
    ):
        nft.install(rules)
        tool("nft", command)
        with pytest.raises(OSError, match="elements"):
            nft.update([SetChange("x", added=(bytes(4),)), change])
        assert "0.0.0.0" not in tool("nft", "list", "ruleset"), "all or nothing"


@pytest.mark.parametrize("shape", [Shape.PREFIX, Shape.PREFIX_PORT])
def test_ranges_that_come_and_go_are_what_nft_would_have_made(
    net: BlockNet, nft: NftablesBlock, shape: Shape
) -> None:
    """The kernel lists the same, whether elements came one by one or all at once."""
    ends = [("0.0.0.0", 1), ("128.0.0.0", 2), ("255.255.255.255", 32), ("192.0.2.0", 25), ("192.0.2.128", 25),
            ("192.0.3.1", 32), ("::", 3), ("8000::", 1), ("2001:db8::", 32)]  # fmt: skip
    tail = (IPPROTO_TCP, 443) if shape is Shape.PREFIX_PORT else ()
    elements: list[Any] = [(parse_address(text), bits, *tail) for text, bits in ends]
    rules = Ruleset(home(), {"all": (Step(Action.BLOCK, "x"),)}, {"x": shape}, {"x": set(elements)})
    nft.install(rules)
    wanted = listed()
    nft.install(Ruleset(home(), rules.classes, rules.shapes, {"x": set()}))
    empty = listed()
    for element in elements:
        nft.update([SetChange("x", added=(element,))])
    assert listed() == wanted
    nft.update([SetChange("x", added=tuple(elements[:4]), removed=tuple(elements[:4]))])
    assert listed() == wanted
    for element in reversed(elements):
        nft.update([SetChange("x", removed=(element,))])
    assert listed() == empty
    nft.install(rules)
    assert listed() == wanted


def listed() -> list[str]:
    """The table's elements, in whatever order the kernel keeps them."""
    lines = tool("nft", "list", "table", "inet", "spin").splitlines()
    return sorted(line.replace("elements = {", "").strip(" \t,}") for line in lines if "packets" not in line)


@pytest.mark.parametrize("version", [4, 6])
def test_nothing_passes_while_the_rules_are_replaced(net: BlockNet, block: Backend, version: int) -> None:
    """A daemon that starts anew finds rules of an earlier run."""
    rules = off()
    shapes, of = sets(big=(Shape.ADDRESS, {(10 << 24 | at).to_bytes(4, "big") for at in range(500)}))
    rules.shapes, rules.sets = shapes, of
    block.install(rules)
    stop = threading.Event()
    with Talk(net, "one", version, BAD[version], "udp", PORT) as talk, Sniffer(net.host, version) as there:
        talk.near.connect((BAD[version], PORT))

        def stream() -> None:
            for _packet in range(2_000_000):
                if stop.is_set():
                    break
                with contextlib.suppress(OSError):
                    talk.near.send(b"up")

        sender = threading.Thread(target=stream)
        sender.start()
        try:
            wait_for(lambda: packets(block) > 100, "a stream of packets")
            for _restart in range(3):
                before = packets(block)
                fresh = make(block.name)
                try:
                    fresh.install(rules)
                    rules.classes["more"] = (Step(Action.ALLOW, "big"),)
                    fresh.install(rules)
                    del rules.classes["more"]
                    fresh.install(rules)
                    wait_for(lambda: packets(fresh) > before, "the stream goes on")  # noqa: B023
                finally:
                    close(fresh)
        finally:
            stop.set()
            sender.join()
        assert arrived(there, talk) == []


def test_nothing_of_ours_stays(net: BlockNet, block: Backend) -> None:
    block.install(off())
    block.remove()
    block.remove()
    for command in (
        ("nft", "list", "ruleset"),
        ("iptables-legacy-save",),
        ("ip6tables-legacy-save",),
        ("ipset", "list"),
    ):
        assert "spin" not in tool(*command, check=False).lower()
    assert block.counters()["block.packets"] == 0


def test_a_table_that_others_use_stays(net: BlockNet, nft: NftablesBlock) -> None:
    tool(
        "nft",
        "add table inet spin; add chain inet spin capture_x; add set inet spin capture_y { type mark; }",
    )
    nft.install(off())
    nft.install(Ruleset(home(), isolated={MACS["one"]}))
    nft.remove()
    left = " ".join(tool("nft", "list", "table", "inet", "spin").split())
    assert left == "table inet spin { set capture_y { type mark } chain capture_x { } }"
    assert "table bridge spin" not in tool("nft", "list", "tables")
    tool("nft", "delete table inet spin")


# -- other modes --


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", BOTH)
def test_a_machine_alone(shared: BlockNet, name: str, version: int) -> None:
    """Device one runs the daemon itself, in mode local."""
    bad = parse_address(BAD[version])
    shapes, of = sets(x=(Shape.ADDRESS, {bad}))
    classes = {"all": BLOCK, "self": (Step(Action.BLOCK, "x"),)}
    with inside(shared.where("one")), removed(make(name)) as block, contextlib.ExitStack() as stack:

        def talk(address: str = BAD[version], proto: str = "tcp") -> Talk:
            return stack.enter_context(Talk(shared, "one", version, address, proto, PORT))

        old, beside = talk(proto="udp"), talk(GOOD[version])
        old.establish()
        beside.establish()
        there = stack.enter_context(Sniffer(shared.host, version))
        block.install(Ruleset(home("local", (), own="self"), classes, shapes, of))
        old.answer()
        wait_for(lambda: packets(block) == 1, "a packet that arrives and is blocked")
        assert received(old.near) is None
        new = talk()
        new.begin()
        wait_for(lambda: packets(block) == 2, "a packet of this machine that is blocked")
        assert new.error() in (ECONNREFUSED, ECONNRESET)
        assert arrived(there, new) == []
        beside.send()
        beside.exchange()
        block.update([SetChange("x", removed=(bad,))])
        talk().establish()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", BOTH)
def test_a_bridge_judges_what_it_bridges(name: str, version: int) -> None:
    mac = "02:0a:00:00:00:0c"
    with SmallNet(bridged=True) as small, inside(small.gateway), removed(make(name)) as block:
        if not Path("/proc/sys/net/bridge").exists():
            pytest.skip("no br_netfilter")
        for kind in ("iptables", "ip6tables"):
            set_net(f"bridge/bridge-nf-call-{kind}", "1")
        tool("ip", "-n", small.client, "link", "set", "end", "address", mac)
        tool("ip", "-n", small.gateway, "link", "set", "br0", "up")
        near, far = small.udp(small.client, version), small.udp(small.server, version, PORT)
        block.install(Ruleset(home("bridge", ("br0",)), {"off": BLOCK}))
        address = small.server_address[version]

        near.sendto(b"up", (address, PORT))
        wait_for(lambda: received(far) == b"up", "a packet that is bridged")
        block.update([ClassesChange(macs=((parse_mac(mac), "off"),))])
        near.sendto(b"up", (address, PORT))
        wait_for(lambda: packets(block) == 1, "a packet that is bridged and blocked")
        assert received(far) is None
        # That it is blocked does not keep it from finding its router: IPv6 needs packets for that.
        tool("ip", "-n", small.client, f"-{version}", "neigh", "flush", "dev", "end")
        near.sendto(b"up", (address, PORT))
        wait_for(lambda: packets(block) == 2, "a packet after its receiver was found")
        block.update([ClassesChange(macs=((parse_mac(mac), ""),))])
        near.sendto(b"up", (address, PORT))
        wait_for(lambda: received(far) == b"up", "a packet that is bridged again")


def test_a_child_is_known_by_its_process_where_its_port_is_another(net: BlockNet, nft: NftablesBlock) -> None:
    nft.install(off())
    with contextlib.closing(NftWatch("spin", "block_", ())) as watch:
        command = ["nft", "-f", "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as child:
            watch.expect(child.pid)
            watch.expect(0)  # its port counts from now on
            child.communicate("add chain inet spin block_foo\n")
        assert readable(watch.fileno())
        assert not watch.touched()
        tool("nft", "delete chain inet spin block_foo")
        assert watch.touched()
