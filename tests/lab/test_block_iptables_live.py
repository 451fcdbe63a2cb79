# SPDX-License-Identifier: GPL-2.0-or-later
"""What of blocking with iptables and ipset is not the same for every back-end."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator

import pytest
from block_net import DEVICES, GATEWAY, MACS, BlockNet, Sniffer, wait_for
from capture_net import inside, tool

from spind.block_ebtables import EbtablesBlock
from spind.block_iptables import IptablesBlock
from spind.block_iptables_sets import OF_CLASS, SetName, groups
from spind.block_iptables_text import render
from spind.ipset import Ipset
from spind.model import format_address, parse_address
from spind.ruleset import Action, ClassesChange, Marks, Placement, Ruleset, SetChange, Shape, Step

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]

MARKS = Marks(done=0x02000000, cut=0x04000000, inspect=0x08000000)
SAVE = {4: "iptables-legacy-save", 6: "ip6tables-legacy-save"}
TOOL = {4: "iptables-legacy", 6: "ip6tables-legacy"}
SITE4, SITE6 = parse_address("198.51.100.1"), parse_address("2001:db8::1")
PHONE4, PHONE6 = parse_address("10.78.1.11"), parse_address("fd78:1::11")


@pytest.fixture(scope="module")
def net() -> Iterator[BlockNet]:
    with BlockNet() as made:
        yield made


@pytest.fixture
def block(net: BlockNet) -> Iterator[IptablesBlock]:
    with inside(net.gateway):
        made = IptablesBlock()
        try:
            made.probe()
        except OSError as error:
            pytest.skip(f"this kernel cannot: {error}")
        try:
            yield made
        finally:
            made.remove()
            made.close()


def everything(mode: str = "router", interfaces: tuple[str, ...] = ("lan", "lan.2")) -> Ruleset:
    return Ruleset(
        Placement(mode, interfaces, MARKS, 47, "kids"),
        {
            "all": (Step(Action.BLOCK, "bad"),),
            "kids": (
                Step(Action.ALLOW, "good"),
                *(Step(Action.BLOCK, shape.value) for shape in Shape),
                Step(Action.INSPECT, "shared"),
                *(Step(Action.BLOCK, "bad", number) for number in (1, 6, 17, 47)),
            ),
        },
        dict.fromkeys(("good", "bad", "shared"), Shape.ADDRESS) | {shape.value: shape for shape in Shape},
        {
            "good": set(),
            "bad": {SITE4, SITE6},
            "shared": {SITE4},
            Shape.ADDRESS.value: {SITE4, SITE6},
            Shape.PREFIX.value: {(SITE4, 1), (SITE6, 127)},
            Shape.ADDRESS_PORT.value: {(SITE4, 6, 65535), (SITE6, 17, 0)},
            Shape.PREFIX_PORT.value: {(SITE4, 31, 17, 53), (SITE6, 64, 6, 443)},
            Shape.PORT.value: {(6, 25)},
        },
        {MACS["one"]: "kids", MACS["two"]: "kids"},
        {PHONE4: "kids", PHONE6: "kids"},
    )


def saved(family: int) -> dict[str, list[str]]:
    """Rules of ours by chain."""
    found: dict[str, list[str]] = {}
    for line in tool(SAVE[family]).splitlines():
        if line.startswith("-A SPIN_"):
            found.setdefault(line.split()[1], []).append(line.replace("-p gre", "-p 47"))
    return found


def save_sets() -> str:
    return tool("ipset", "save")


@pytest.mark.parametrize("mode", ["router", "bridge", "local"])
def test_the_kernel_has_what_is_written(block: IptablesBlock, mode: str) -> None:
    ruleset = everything(mode, () if mode == "local" else ("lan",))
    block.install(ruleset)
    for family in (4, 6):
        wanted = {
            chain: [rule.text() for rule in rules]
            for table in render(ruleset, family, lambda name: (name.text(0), 0)).values()
            for chain, rules in table.chains.items()
            if rules
        }
        assert saved(family) == wanted
    elements = set(re.findall(r"^add (\S+ \S+)", save_sets(), re.MULTILINE))
    assert elements == {
        "spin_4s_bad.0 198.51.100.1",
        "spin_6s_bad.0 2001:db8::1",
        "spin_4s_shared.0 198.51.100.1",
        "spin_4s_address.0 198.51.100.1",
        "spin_6s_address.0 2001:db8::1",
        "spin_4s_prefix.0 128.0.0.0/1",
        "spin_6s_prefix.0 2001:db8::/127",
        "spin_4s_address-port.0 198.51.100.1,tcp:65535",
        "spin_6s_address-port.0 2001:db8::1,udp:0",
        "spin_4s_prefix-port.0 198.51.100.0/31,udp:53",
        "spin_6s_prefix-port.0 2001:db8::/64,tcp:443",
        "spin_4s_port.0 0.0.0.0/1,tcp:25",
        "spin_4s_port.0 128.0.0.0/1,tcp:25",
        "spin_6s_port.0 ::/1,tcp:25",
        "spin_6s_port.0 8000::/1,tcp:25",
        "spin_4c_kids.0 10.78.1.11",
        "spin_6c_kids.0 fd78:1::11",
    }
    assert not block.changed_by_others()
    everything_saved = [tool(SAVE[family]) for family in (4, 6)]
    for family in (4, 6):  # what people save they can restore
        tool(f"{TOOL[family]}-restore", text=tool(SAVE[family]))
    assert not block.changed_by_others()
    assert [saved_text(text) for text in everything_saved] == [
        saved_text(tool(SAVE[family])) for family in (4, 6)
    ]


def saved_text(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("-")]


BAD_DEEDS: list[tuple[str, ...]] = [
    ("iptables-legacy", "-I", "FORWARD", "-j", "ACCEPT"),
    ("iptables-legacy", "-D", "FORWARD", "-j", "SPIN_BLOCK_FORWARD"),
    ("ip6tables-legacy", "-F", "SPIN_BLOCK_U_kids"),
    ("ip6tables-legacy", "-I", "SPIN_BLOCK_NO_UP", "-j", "RETURN"),
    ("iptables-legacy", "-R", "SPIN_BLOCK_UP", "1", "-j", "RETURN"),
    ("iptables-legacy", "-N", "SPIN_BLOCK_OTHER"),
    ("iptables-legacy", "-A", "INPUT", "-m", "limit", "--limit", "3/min", "-j", "SPIN_BLOCK_QUIC"),
    ("iptables-legacy", "-t", "mangle", "-F"),
    ("ip6tables-legacy", "-t", "mangle", "-I", "FORWARD", "-j", "ACCEPT"),
    ("ipset", "add", "spin_4s_bad.0", "1.2.3.4"),
    ("ipset", "del", "spin_6s_bad.0", "2001:db8::1"),
    ("ipset", "flush", "spin_4c_kids.0"),
]


@pytest.mark.parametrize("deed", BAD_DEEDS, ids=" ".join)
def test_what_others_do_is_noticed_and_put_right(block: IptablesBlock, deed: tuple[str, ...]) -> None:
    for name in ("iptables-legacy", "ip6tables-legacy"):
        tool(name, "-F")
        tool(name, "-A", "FORWARD", "-p", "udp", "--dport", "9", "-j", "LOG")
        tool(name, "-t", "mangle", "-F")
    ruleset = everything()
    block.install(ruleset)
    before = [saved(family) for family in (4, 6)]
    assert not block.changed_by_others()
    tool(*deed)
    assert block.changed_by_others()
    block.install(ruleset)
    assert not block.changed_by_others()
    rebuilt = [saved(family) for family in (4, 6)]
    for chains in rebuilt:
        for rules in chains.values():
            rules[:] = [re.sub(r"(spin_\S+)\.\d ", r"\1.0 ", rule) for rule in rules]
    assert rebuilt == before
    for family in (4, 6):
        assert "-A FORWARD -p udp -m udp --dport 9 -j LOG" in tool(SAVE[family]), "others' rules stay"


def test_capture_may_come_first_in_mangle_and_nobody_else(block: IptablesBlock) -> None:
    block.install(everything())
    mangle = ("iptables-legacy", "-t", "mangle")
    for chain in ("SPIN_CAPTURE_DONE", "SPIN_CAPTURE_FORWARD"):
        tool(*mangle, "-N", chain)
    tool(*mangle, "-I", "FORWARD", "-j", "SPIN_CAPTURE_DONE")
    tool(*mangle, "-A", "FORWARD", "-j", "SPIN_CAPTURE_FORWARD")
    assert not block.changed_by_others()
    tool(*mangle, "-I", "FORWARD", "-j", "SPIN_CAPTURE_FORWARD")
    assert block.changed_by_others()
    block.install(everything())
    assert not block.changed_by_others()
    tool(*mangle, "-F")
    for chain in ("SPIN_CAPTURE_DONE", "SPIN_CAPTURE_FORWARD"):
        tool(*mangle, "-X", chain)


def test_an_update_that_does_not_fit_is_an_error_and_an_install_mends_it(block: IptablesBlock) -> None:
    ruleset = everything()
    fits = SetChange("bad", (parse_address("1.2.3.4"),), (SITE4,))
    with pytest.raises(OSError, match="anew"):
        block.update([fits])
    for deed in (
        ("add", "spin_4s_bad.{}", "1.2.3.4"),
        ("del", "spin_4s_bad.{}", "198.51.100.1"),
        ("swap", "spin_4s_bad.{}", "spin_4s_good.0"),
    ):
        block.install(ruleset)
        (generation,) = re.findall(r"^create spin_4s_bad\.(\d)", save_sets(), re.MULTILINE)
        tool("ipset", *(word.format(generation) for word in deed))
        with pytest.raises(OSError, match="ipset spin_4s_bad"):
            block.update([fits])
        with pytest.raises(OSError, match="anew"):
            block.update([fits])
        block.install(ruleset)
        block.update([fits])
        assert re.search(r"^add spin_4s_bad\.\d 1\.2\.3\.4$", save_sets(), re.MULTILINE)
        assert not re.search(r"^add spin_4s_bad\.\d 198\.51\.100\.1$", save_sets(), re.MULTILINE)
    for unknown in (SetChange("nobody"), ClassesChange(((MACS["one"], "nobody"),))):
        block.install(ruleset)
        with pytest.raises(ValueError, match="of that name"):
            block.update([unknown])


def test_a_set_that_is_full_is_an_error(net: BlockNet) -> None:
    with inside(net.gateway), contextlib.closing(Ipset()) as sets:
        sets.create("spin_full", "hash:ip", 4, 1)
        many = (number.to_bytes(4, "big") for number in range(1, 1 << 20))
        try:
            with pytest.raises(OSError, match="full"):
                sets.change("spin_full", add=True, elements=many)
        finally:
            sets.destroy("spin_full")


def test_sets_that_stay_the_same_are_not_filled_again(block: IptablesBlock) -> None:
    ruleset = everything()
    block.install(ruleset)
    ruleset.classes["more"] = (Step(Action.BLOCK, "more"),)
    ruleset.shapes["more"], ruleset.sets["more"] = Shape.ADDRESS, {SITE4}
    ruleset.sets["shared"] = {SITE6}
    block.install(ruleset)
    made = set(re.findall(r"^create (\S+)", save_sets(), re.MULTILINE))
    assert {name for name in made if not name.endswith(".0")} == {"spin_4s_shared.1", "spin_6s_shared.1"}
    assert {"spin_4s_more.0", "spin_4c_more.0", "spin_4s_bad.0"} <= made
    assert not {"spin_4s_shared.0", "spin_6s_shared.0"} & made


def test_a_failed_install_leaves_what_was_there(block: IptablesBlock) -> None:
    block.install(everything())
    before = [saved(family) for family in (4, 6)], save_sets()
    bad = everything()
    bad.sets["prefix"] = {(SITE4, 24), (parse_address("198.51.100.9"), 24)}  # the same for the kernel
    with pytest.raises(OSError, match="there already"):
        block.install(bad)
    assert ([saved(family) for family in (4, 6)], save_sets()) == before
    bad.sets["prefix"] = {(SITE4, 77)}
    with pytest.raises(ValueError, match="prefix"):
        block.install(bad)
    assert ([saved(family) for family in (4, 6)], save_sets()) == before


def test_counters_go_on_when_rules_are_replaced(net: BlockNet, block: IptablesBlock) -> None:
    ruleset = Ruleset(Placement("router", ("lan",), MARKS, 47), {"all": (Step(Action.BLOCK, "", 17),)})
    block.install(ruleset)
    assert block.counters() == {"block.packets": 0, "block.bytes": 0, "block.cut": 0}
    for seen, group in enumerate((47, 48, 49)):
        ruleset.placement = ruleset.placement._replace(log_group=group)
        block.install(ruleset)
        assert block.counters()["block.packets"] == seen
        with net.open("one", 4, socket.SOCK_DGRAM) as near:
            near.sendto(b"x" * 100, (GATEWAY[4], 9))
        counters = block.counters()
        assert (counters["block.packets"], counters["block.bytes"]) == (seen + 1, 128 * (seen + 1))
        tool("iptables-legacy", "-Z")
        assert block.counters()["block.packets"] == seen + 1
    with contextlib.closing(IptablesBlock()) as fresh:
        fresh.install(ruleset)
        assert fresh.counters()["block.packets"] == 0, "what an earlier run counted is not ours"


def test_frames_between_devices_are_kept_apart(net: BlockNet, block: IptablesBlock) -> None:
    if block.notes:
        pytest.skip(block.notes[0])
    one, two = MACS["one"], MACS["two"]
    pair = {(one, two), (two, one)}
    for here, there in (("one", "two"), ("two", "one")):
        words = ("lladdr", MACS[there].hex(":"), "dev", "end")
        tool("ip", "-n", net.device[here], "neigh", "replace", DEVICES[there][4], *words)
    place = Placement("router", ("lan",), MARKS, 47)
    for rules, passes in (
        (Ruleset(place), True),
        (Ruleset(place, isolated={one}), False),
        (Ruleset(place, isolated={two}), False),
        (Ruleset(place, isolated={one}, together=pair), True),
        (Ruleset(place, apart=pair, together=pair), False),
        (Ruleset(place, apart={(one, bytes(6))}), True),
        (Ruleset(place, apart=pair), False),
    ):
        block.install(rules)
        assert passes_between(net) is passes
    with contextlib.closing(IptablesBlock()) as fresh:  # a daemon that starts anew
        fresh.install(Ruleset(place, isolated={one}))
        assert not passes_between(net)
        assert tool("ebtables", "-L").count("-j SPIN_BLOCK_") == 1
    EbtablesBlock().remove()
    assert "SPIN" not in tool("ebtables", "-L")
    assert passes_between(net)


def passes_between(net: BlockNet) -> bool:
    """Whether a datagram arrives at the other device; a later one to the gateway shows that it will not."""
    with (
        net.open("one", 4, socket.SOCK_DGRAM) as near,
        Sniffer(net.device["two"], 4) as two,
        Sniffer(net.gateway, 4, "lan") as gateway,
    ):
        near.sendto(b"first", (DEVICES["two"][4], 7000))
        near.sendto(b"second", (GATEWAY[4], 7001))
        wait_for(lambda: any(each.dport == 7001 for each in gateway.packets()), "a datagram to the gateway")
        return any(packet.dport == 7000 for packet in two.packets())


def test_names_of_sets_fit(net: BlockNet) -> None:
    name = SetName(6, OF_CLASS, "x" * 20).text(98)
    with inside(net.gateway), contextlib.closing(Ipset()) as sets:
        sets.create(name, "hash:ip", 6, 1)
        assert sets.headers()[name].elements == 0
        sets.destroy(name)


def test_a_device_moves_between_classes_in_groups(block: IptablesBlock) -> None:
    rules = {f"c{number}": (Step(Action.BLOCK, "", 17),) for number in range(9)}
    ruleset = Ruleset(Placement("router", ("lan",), MARKS, 47), rules)
    block.install(ruleset)
    for name in (*rules, "", "all", "c3", ""):
        block.update([ClassesChange(addresses=((PHONE4, name), (PHONE6, name)))])
        assert not block.changed_by_others()
        for address, family in ((PHONE4, 4), (PHONE6, 6)):
            in_group = {of: group for group, names in groups([*rules, "all"]).items() for of in names}
            wanted = {f"spin_{family}c_{name}.0", f"spin_{family}g_{in_group[name]}.0"} if name else set()
            text = format_address(address)
            assert set(re.findall(rf"^add (\S+) {text}$", save_sets(), re.MULTILINE)) == wanted
