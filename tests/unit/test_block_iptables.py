# SPDX-License-Identifier: GPL-2.0-or-later
"""The block rules for iptables: as text, and walked through by packets as the kernel would.

``SPIND_UPDATE_GOLDEN=1`` writes the golden files anew.
"""

import os
import re
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.block_ebtables import bridge_rules
from spind.block_iptables_sets import (
    KINDS,
    OF_RULES,
    SetName,
    device_sets,
    elements,
    groups,
    set_shape,
)
from spind.block_iptables_text import TABLES, Rules, render, render_between
from spind.model import Address, Mac, parse_address, parse_mac
from spind.ruleset import EVERYBODY, Action, Marks, Placement, Ruleset, Shape, Step, check
from spind.wire.xtables import CHAIN_BYTES, XtRule

GOLDEN = Path(__file__).parents[1] / "golden" / "block_rules"

MARKS = Marks(done=0x02000000, cut=0x04000000, inspect=0x08000000)
PHONE, TV = parse_mac("02:00:00:00:00:01"), parse_mac("02:00:00:00:00:02")
SITE4, SITE6 = parse_address("198.51.100.1"), parse_address("2001:db8::1")


def place(mode: str = "router", interfaces: tuple[str, ...] = ("br-lan",), own: str = "all") -> Placement:
    return Placement(mode, interfaces, MARKS, 5, own)


def everything(placement: Placement) -> Ruleset:
    return Ruleset(
        placement,
        classes={
            "all": (Step(Action.ALLOW, "good"), Step(Action.BLOCK, "bad"), Step(Action.BLOCK, "nets")),
            "kids": (
                Step(Action.ALLOW, "good"),
                Step(Action.BLOCK, "doors"),
                Step(Action.INSPECT, "shared"),
                Step(Action.BLOCK, "netdoors"),
                Step(Action.BLOCK, "ports"),
                Step(Action.BLOCK, "bad", 6),
                Step(Action.BLOCK, "", 1),
            ),
            "off": (Step(Action.BLOCK),),
            "a-name-of-20-letters": (Step(Action.ALLOW, "", 47),),
        },
        shapes={
            "good": Shape.ADDRESS,
            "bad": Shape.ADDRESS,
            "shared": Shape.ADDRESS,
            "nets": Shape.PREFIX,
            "doors": Shape.ADDRESS_PORT,
            "netdoors": Shape.PREFIX_PORT,
            "ports": Shape.PORT,
        },
        sets={
            "good": set(),
            "bad": {SITE4, SITE6},
            "shared": {SITE4},
            "nets": {(parse_address("203.0.113.0"), 24), (parse_address("2001:db8:1::"), 48)},
            "doors": {(SITE4, 6, 443), (SITE6, 17, 443)},
            "netdoors": {(parse_address("203.0.0.0"), 16, 6, 80), (parse_address("2001:db8::"), 32, 6, 80)},
            "ports": {(6, 25)},
        },
        macs={PHONE: "kids", TV: "off"},
        addresses={parse_address("192.168.1.10"): "kids", parse_address("fd00::10"): "kids"},
        isolated={TV},
        apart={(PHONE, TV), (TV, PHONE)},
        together={(PHONE, TV), (TV, PHONE)},
    )


RULESETS = {
    "empty": Ruleset(place()),
    "router": everything(place(interfaces=("br-lan", "eth0.10"))),
    "bridge": everything(place("bridge", ("br0",))),
    "local": everything(place("local", (), own="kids")),
    "local-wifi": everything(place("local", ("wlan0",))),
}


def names(ruleset: Ruleset, family: int) -> list[SetName]:
    of_rules = [SetName(family, OF_RULES, name) for name in ruleset.sets]
    return of_rules + list(device_sets(ruleset, family))


def index(name: SetName) -> tuple[str, int]:
    return name.text(0), 0


def rules_of(ruleset: Ruleset, family: int) -> dict[str, Rules]:
    check(ruleset)
    return render(ruleset, family, index)


def text_of(ruleset: Ruleset) -> str:
    lines: list[str] = []
    for family in (4, 6):
        lines += [
            f"create {name.text(0)} {KINDS[set_shape(ruleset, name)]} family inet{'6' if family == 6 else ''}"
            for name in names(ruleset, family)
        ]
        for table, rules in rules_of(ruleset, family).items():
            lines.append(f"# IPv{family}, table {table}")
            lines += [f"-I {hook} -j {chain}" for hook, chain in rules.hooks.items()]
            lines += [rule.text() for chain in rules.chains.values() for rule in chain]
    lines.append("# bridged frames, ebtables")
    lines += [" ".join(rule) for rule in bridge_rules(ruleset)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", RULESETS)
def test_rules_are_as_written(name: str) -> None:
    text = text_of(RULESETS[name])
    file = GOLDEN / f"{name}.iptables"
    if os.environ.get("SPIND_UPDATE_GOLDEN") == "1":
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", RULESETS)
@pytest.mark.parametrize("family", [4, 6])
def test_whatever_is_called_is_there(name: str, family: int) -> None:
    sets = {each.text(0) for each in names(RULESETS[name], family)}
    for table, rules in rules_of(RULESETS[name], family).items():
        called = {each.target.name for chain in rules.chains.values() for each in chain}
        assert {each for each in called if each.startswith("SPIN_")} <= set(rules.chains)
        assert set(rules.hooks.values()) <= set(rules.chains)
        text = "\n".join(each.text() for chain in rules.chains.values() for each in chain)
        assert set(re.findall(r"--match-set (\S+)", text)) <= sets
        assert all(chain.startswith(TABLES[table]) for chain in rules.chains)
        assert all(len(chain) <= CHAIN_BYTES for chain in rules.chains)
        assert "ACCEPT" not in called, "other rules must still be heard"
        assert "-p icmpv6" not in text


@pytest.mark.parametrize(
    "interface", ["", "br lan", 'a"b', "x; nft flush ruleset", "eth+", "! lo", "a" * 16, "br\n", "é"]
)
def test_hostile_interfaces_are_refused(interface: str) -> None:
    with pytest.raises(ValueError, match="interface"):
        check(Ruleset(place(interfaces=(interface,))))


@pytest.mark.parametrize(
    "ruleset",
    [
        Ruleset(place("nowhere")),
        Ruleset(place(interfaces=())),
        Ruleset(place()._replace(log_group=65536)),
        Ruleset(place()._replace(marks=Marks(3, 4, 8))),
        Ruleset(place()._replace(marks=Marks(0, 4, 8))),
        Ruleset(place(own="nobody")),
        Ruleset(place(), macs={PHONE: "nobody"}),
        Ruleset(place(), addresses={SITE4: "nobody"}),
        Ruleset(place(), {"all": (Step(Action.BLOCK, "missing"),)}),
        Ruleset(place(), {"a b": ()}),
        Ruleset(place(), {"x" * 21: ()}),
        Ruleset(place(), {}, {"-": Shape.ADDRESS}, {"a\nb": set()}),
    ],
)
def test_what_cannot_be_said_is_refused(ruleset: Ruleset) -> None:
    with pytest.raises(ValueError, match=r"not|no "):
        check(ruleset)


def test_only_our_bits_are_ever_changed() -> None:
    for name, ruleset in RULESETS.items():
        text = text_of(ruleset)
        assert set(re.findall(r"-j MARK (.*)", text)) <= {"--set-xmark 0x8000000/0x8000000"}
        assert "CONNMARK" not in text
        assert ("SPIN_INSPECT_" in text) == (name in ("router", "bridge", "local"))


# -- packets --

NET4, NET6 = "198.51.100.0/31", "2001:db8::/127"
PEERS = {v: [parse_address(str(each)) for each in ip_network(net)] for v, net in ((4, NET4), (6, NET6))}
HOSTS = {v: [parse_address(text) for text in texts] for v, texts in (
    (4, ("192.168.1.10", "192.168.1.11")),
    (6, ("fd00::10", "fd00::11")),
)}  # fmt: skip
MACS = [parse_mac(f"02:00:00:00:00:0{n}") for n in range(2)]
CLASSES = ["kids", "off", "all"]
MANY = [f"c{number}" for number in range(12)]


@dataclass(frozen=True)
class Flying:
    """A packet in FORWARD."""

    version: int
    source: Address
    destination: Address
    mac: Mac
    incoming: str
    outgoing: str
    protocol: int
    sport: int = 0
    dport: int = 0
    flags: str = "ACK"
    mark: int = 0


def walk(rules: Rules, ruleset: Ruleset, packet: Flying) -> tuple[str, bool]:
    """How the packet leaves FORWARD (``DROP`` or ``RETURN``), and whether it got the mark on its way."""
    marked = False

    def through(chain: str) -> str:
        nonlocal marked
        for rule in rules.chains[chain]:
            if not matches(rule, ruleset, packet):
                continue
            target = rule.target
            if target.name == "MARK":
                marked = True
            elif target.name in ("DROP", "REJECT"):
                return "DROP"
            elif target.name == "RETURN":
                return "RETURN"
            elif target.name != "NFLOG":
                result = through(target.name)
                if result == "DROP" or target.text.startswith("-g "):
                    return result
        return "RETURN"

    hook = rules.hooks.get("FORWARD")
    return (through(hook) if hook else "RETURN"), marked


def matches(rule: XtRule, ruleset: Ruleset, packet: Flying) -> bool:
    if rule.protocol not in (0, packet.protocol):
        return False
    for name, real in ((rule.incoming, packet.incoming), (rule.outgoing, packet.outgoing)):
        assert not name.startswith("!")
        if name not in ("", real):
            return False
    for match in rule.matches:
        words = match.text.split()
        if match.name == "set":
            good = in_kernel_set(words[3], words[4].split(",")[0], ruleset, packet)
        elif match.name == "mac":
            good = parse_mac(words[3]) == packet.mac
        elif match.name == "connmark":
            value, mask = (int(number, 16) for number in words[-1].split("/"))
            good = (packet.mark & mask == value) != ("!" in words)
        elif match.name == "udp":
            ports = {"--sport": packet.sport, "--dport": packet.dport}
            good = all(
                int(spec.split(":")[0]) <= ports[option] <= int(spec.split(":")[-1])
                for option, spec in zip(words[2::2], words[3::2], strict=True)
            )
        elif match.name == "tcp":
            mask, value = words[3].split(","), words[4].split(",")
            good = [flag for flag in mask if flag in packet.flags] == [f for f in value if f != "NONE"]
        else:
            assert match.name in ("limit", "icmp6"), match.text
            good = match.name == "limit"  # no ICMPv6 flies here
        if not good:
            return False
    return True


def in_kernel_set(text: str, field: str, ruleset: Ruleset, packet: Flying) -> bool:
    address, port = (packet.source, packet.sport) if field == "src" else (packet.destination, packet.dport)
    (name,) = [each for each in names(ruleset, packet.version) if each.text(0) == text]
    if name.what != OF_RULES:
        return address in device_sets(ruleset, packet.version)[name]
    shape = ruleset.shapes[name.name]
    for element in elements(shape, packet.version, ruleset.sets[name.name]):
        network, rest = (element, ()) if isinstance(element, bytes) else (element[0], element[1:])
        bits = 8 * len(network)
        if len(rest) in (1, 3):
            bits, *rest = rest
        if ip_address(address) in ip_network((network, bits), strict=False) and (
            not rest or tuple(rest) == (packet.protocol, port)
        ):
            return True
    return False


def judgements(ruleset: Ruleset, packet: Flying) -> set[str]:
    """What the model says in ``ruleset``, in other words than the rules."""
    found: set[str] = set()
    home = ruleset.placement.interfaces
    if packet.incoming in home:
        of = {ruleset.macs.get(packet.mac), ruleset.addresses.get(packet.source)} - {None}
        for name in of or {EVERYBODY}:
            found.add(judge(ruleset, str(name), packet, packet.destination, packet.dport, up=True))
    if packet.outgoing in home:
        name = ruleset.addresses.get(packet.destination, EVERYBODY)
        found.add(judge(ruleset, name, packet, packet.source, packet.sport, up=False))
    return found


def judge(ruleset: Ruleset, name: str, packet: Flying, peer: Address, port: int, *, up: bool) -> str:
    for step in ruleset.classes.get(name, ()):
        if step.protocol not in (0, packet.protocol):
            continue
        if step.set and not held(ruleset, step.set, peer, packet.protocol, port):
            continue
        if step.action is Action.INSPECT and up:
            if packet.protocol == 17 and packet.dport == 443:
                return "block"
            return "inspect" if packet.protocol == 6 else "allow"
        return "block" if step.action is Action.BLOCK else "allow"
    return "nothing"


def held(ruleset: Ruleset, name: str, peer: Address, protocol: int, port: int) -> bool:
    shape, address = ruleset.shapes[name], ip_address(peer)
    for element in ruleset.sets[name]:
        if shape is Shape.ADDRESS:
            good = element == peer
        elif shape is Shape.PORT:
            good = element == (protocol, port)
        elif shape is Shape.ADDRESS_PORT:
            good = element == (peer, protocol, port)
        else:
            network = ip_network((element[0], element[1]), strict=False)
            good = address in network and (shape is Shape.PREFIX or element[2:] == (protocol, port))
        if good:
            return True
    return False


protocols = st.sampled_from([6, 17])
ports = st.sampled_from([53, 443])
peers = st.sampled_from(PEERS[4] + PEERS[6])
prefixes = st.sampled_from(PEERS[4]).map(lambda a: (a, 31)) | st.sampled_from(PEERS[6]).map(
    lambda a: (a, 127)
)
OF_SHAPE = {
    Shape.ADDRESS: peers,
    Shape.PREFIX: prefixes,
    Shape.ADDRESS_PORT: st.tuples(peers, protocols, ports),
    Shape.PREFIX_PORT: st.tuples(prefixes, protocols, ports).map(lambda e: (*e[0], *e[1:])),
    Shape.PORT: st.tuples(protocols, ports),
}
steps = st.builds(
    Step,
    st.sampled_from(Action),
    st.sampled_from(["", *(s.value for s in Shape)]),
    st.sampled_from([0, 0, 6, 17]),
)


@st.composite
def rulesets(draw: st.DrawFn) -> Ruleset:
    of = CLASSES + MANY * draw(st.booleans())
    some = st.sampled_from(of[: draw(st.sampled_from([3, len(of)]))])
    return Ruleset(
        place(draw(st.sampled_from(["router", "bridge"])), ("lan0", "lan1")),
        {name: tuple(draw(st.lists(steps, max_size=3))) for name in of},
        {shape.value: shape for shape in Shape},
        {shape.value: draw(st.sets(OF_SHAPE[shape], min_size=1, max_size=4)) for shape in Shape},
        {mac: draw(some) for mac in MACS if draw(st.booleans())},
        {address: draw(some) for address in HOSTS[4] + HOSTS[6] if draw(st.booleans())},
    )


@st.composite
def flying(draw: st.DrawFn) -> Flying:
    version = draw(st.sampled_from([4, 6]))
    ends = st.sampled_from(HOSTS[version] + PEERS[version])
    links = st.sampled_from(["lan0", "lan0", "lan1", "wan"])
    return Flying(
        version, draw(ends), draw(ends), draw(st.sampled_from(MACS)), draw(links), draw(links),
        draw(protocols), draw(ports), draw(ports), draw(st.sampled_from(["SYN", "ACK", "RST", "SYN,ACK"])),
        draw(st.sampled_from([0, 0, 0, 1, MARKS.done])),
    )  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(rulesets(), flying())
def test_rules_do_what_the_model_says(ruleset: Ruleset, packet: Flying) -> None:
    rules = rules_of(ruleset, packet.version)
    verdicts = judgements(ruleset, packet)
    assert walk(rules["filter"], ruleset, packet)[0] == ("DROP" if "block" in verdicts else "RETURN")
    wanted = "inspect" in verdicts and not packet.mark & MARKS.done
    way, marked = walk(rules["mangle"], ruleset, packet)
    assert (way, marked) == ("RETURN", wanted), "nobody is stopped in mangle"
    # While the tables change, nobody passes uninspected.
    between = render_between(ruleset, packet.version, index)
    hooked = Rules(between.chains, between.hooks)
    assert walk(hooked, ruleset, packet)[1] >= wanted
    cut = replace(packet, mark=MARKS.cut)
    assert walk(rules["filter"], ruleset, cut)[0] == "DROP"
    assert not walk(rules["mangle"], ruleset, cut)[1]


@pytest.mark.parametrize(
    ("of_mac", "of_address", "blocked"),
    [
        ("", "", True),  # by everybody's class
        ("", "free", False),
        ("free", "", False),
        ("free", "free", False),
        ("free", "off", True),
        ("off", "free", True),
        ("off", "", True),
        ("", "off", True),
    ],
)
def test_both_classes_of_a_sender_judge(of_mac: str, of_address: str, blocked: bool) -> None:
    ruleset = Ruleset(place(), {"all": (Step(Action.BLOCK),), "free": (), "off": (Step(Action.BLOCK),)})
    packet = Flying(4, HOSTS[4][0], PEERS[4][0], MACS[0], "br-lan", "wan", 6)
    if of_mac:
        ruleset.macs[MACS[0]] = of_mac
    if of_address:
        ruleset.addresses[HOSTS[4][0]] = of_address
    assert (judgements(ruleset, packet) >= {"block"}) is blocked
    assert (walk(rules_of(ruleset, 4)["filter"], ruleset, packet)[0] == "DROP") is blocked


def test_groups_stay_while_classes_come_and_go() -> None:
    assert groups(CLASSES) == {}
    for count in (7, 30, 300):
        names = [f"class-{number}" for number in range(count)]
        grouped = groups(names)
        assert sorted(name for members in grouped.values() for name in members) == sorted(names)
        longest = max(len(members) for members in grouped.values())
        assert len(grouped) + longest <= 6 * count**0.5, "a packet finds its class in a few steps"
    before, after = groups(names[:70]), groups(names[:80])
    assert all(set(members) <= set(after[group]) for group, members in before.items())
