# SPDX-License-Identifier: GPL-2.0-or-later
"""The block rules for nftables as text. ``SPIND_UPDATE_GOLDEN=1`` writes the golden files anew."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.block_nftables_sets import advance, element_keys, element_text
from spind.block_nftables_table import There
from spind.block_nftables_text import TABLE, render, render_bridge, render_removal
from spind.model import Address, parse_address, parse_mac
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
from spind.wire.nftables import ElementsChange, SetElement

GOLDEN = Path(__file__).parents[1] / "golden" / "block_rules"

MARKS = Marks(done=0x02000000, cut=0x04000000, inspect=0x08000000)
PHONE, TV = parse_mac("02:00:00:00:00:01"), parse_mac("02:00:00:00:00:02")
PHONE4, PHONE6 = parse_address("192.168.1.10"), parse_address("fd00::10")
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
                Step(Action.BLOCK, "netdoors"),
                Step(Action.BLOCK, "ports"),
                Step(Action.INSPECT, "shared"),
                Step(Action.BLOCK, "bad", 6),
                Step(Action.BLOCK, "", 1),
            ),
            "off": (Step(Action.BLOCK),),
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
            "ports": {(6, 25), (17, 53)},
        },
        macs={PHONE: "kids", TV: "off"},
        addresses={PHONE4: "kids", PHONE6: "kids"},
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


def text_of(ruleset: Ruleset) -> str:
    return render(ruleset) + render_bridge(ruleset)


@pytest.mark.parametrize("name", RULESETS)
def test_rules_are_as_written(name: str) -> None:
    text = text_of(RULESETS[name])
    file = GOLDEN / f"{name}.nft"
    if os.environ.get("SPIND_UPDATE_GOLDEN") == "1":
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", RULESETS)
def test_whatever_is_called_is_there_and_is_removed(name: str) -> None:
    text = render(RULESETS[name])
    chains = set(re.findall(r"^add chain inet spin (\S+)", text, re.MULTILINE))
    sets = set(re.findall(r"^add (?:set|map) inet spin (\S+)", text, re.MULTILINE))
    assert set(re.findall(r"(?:jump|goto) (\S+?)(?:,| |$)", text, re.MULTILINE)) <= chains
    assert set(re.findall(r"@(block_\S+)", text)) <= sets
    assert all(each.startswith("block_") for each in chains | sets)
    there = There(dict.fromkeys(chains), dict.fromkeys(sets, False))
    removal = render_removal(there).splitlines()
    assert {f"delete chain inet spin {each}" for each in chains} <= set(removal)
    assert {f"delete set inet spin {each}" for each in sets} <= set(removal)


@pytest.mark.parametrize("name", RULESETS)
def test_nothing_is_ever_opened_and_every_refusal_is_counted(name: str) -> None:
    lines = text_of(RULESETS[name]).splitlines()
    assert [line for line in lines if re.search(r"\baccept$", line)] == []
    for verdict in ("drop", "reject"):
        chains = {line.split()[4] for line in lines if line.startswith("add rule") and verdict in line}
        for chain in chains:
            mine = [line for line in lines if line.startswith("add rule") and line.split()[4] == chain]
            first = next(line for line in mine if not line.endswith(" return"))
            assert " counter name " in first, f"{chain} ends packets that nobody counts"


def test_dhcp_and_neighbours_pass_without_being_a_way_out() -> None:
    for mode in ("router", "bridge"):
        lines = render(everything(place(mode, ("x",)))).splitlines()
        for base in ("input", "output"):
            first = next(line for line in lines if line.startswith(f"add rule inet spin block_{base} "))
            assert first.endswith(" udp dport { 67, 68, 546, 547 } return")
        forward = [line for line in lines if line.startswith("add rule inet spin block_forward ")]
        assert len(forward) == 2
        for direction in ("up", "down"):
            start = f"add rule inet spin block_refuse_{direction} "
            passes = [line for line in lines if line.startswith(start) and line.endswith(" return")]
            assert passes[0] == f"{start}icmpv6 type 133-137 ip6 hoplimit 255 return"
            assert ["68 . 67" in line for line in passes[1:]] == ([True] if mode == "bridge" else [])


def test_what_is_known_is_not_sent_again() -> None:
    known = everything(place())
    chains = dict.fromkeys(re.findall(r"^add chain \S+ \S+ (\S+)", render(known), re.MULTILINE))
    base = {f"block_{hook}": (number, -160) for hook, number in (("forward", 2), ("input", 1), ("output", 3))}
    base |= {f"block_cut_{name[6:]}": (number, -140) for name, (number, _) in base.items()}
    sets = dict.fromkeys(re.findall(r"^add (?:set|map) \S+ \S+ (\S+)", render(known), re.MULTILINE), False)
    there = There(chains | base, sets)
    lines = render(known, there, known).splitlines()
    assert [line for line in lines if "element" in line or "delete" in line] == []
    assert not any(line.startswith(("add set", "add map")) for line in lines)

    wanted = everything(place())
    wanted.classes["new"] = (Step(Action.BLOCK, "more"),)
    wanted.shapes["more"], wanted.sets["more"] = Shape.ADDRESS, {SITE4}
    wanted.sets["bad"] = {SITE6}
    wanted.sets["nets"] |= {(parse_address("192.0.2.0"), 24)}
    wanted.shapes["ports"], wanted.sets["ports"] = Shape.ADDRESS, {SITE6}
    wanted.macs = {PHONE: "new"}
    del wanted.sets["shared"], wanted.shapes["shared"]
    wanted.classes["kids"] = tuple(step for step in wanted.classes["kids"] if step.set != "shared")
    lines = render(wanted, there, known).splitlines()
    changed = [line for line in lines if re.match(r"(add|delete) (element|set|map|chain .*class)", line)]
    assert changed == [
        "delete element inet spin block_mac_class { 02:00:00:00:00:01, 02:00:00:00:00:02 }",
        "delete element inet spin block_kids_macs { 02:00:00:00:00:01 }",
        "delete element inet spin block_off_macs { 02:00:00:00:00:02 }",
        "delete element inet spin block_bad4 { 198.51.100.1 }",
        "delete set inet spin block_ports_port",
        "delete set inet spin block_shared4",
        "delete set inet spin block_shared6",
        "add element inet spin block_mac_class { 02:00:00:00:00:01 : goto block_mac_new }",
        "add set inet spin block_new_macs { type ether_addr; }",
        "add element inet spin block_new_macs { 02:00:00:00:00:01 }",
        "add set inet spin block_more4 { type ipv4_addr; }",
        "add element inet spin block_more4 { 198.51.100.1 }",
        "add set inet spin block_more6 { type ipv6_addr; }",
        "add element inet spin block_nets4 { 192.0.2.0/24 }",
        "add set inet spin block_ports4 { type ipv4_addr; }",
        "add set inet spin block_ports6 { type ipv6_addr; }",
        "add element inet spin block_ports6 { 2001:db8::1 }",
    ]  # fmt: skip


def test_what_is_elsewhere_or_unknown_goes() -> None:
    there = There(
        {"block_forward": (2, 0), "block_input": (1, -160), "block_up": (2, -160), "block_old": None},
        {"block_bad4": True, "block_foo": False},
    )
    lines = render(everything(place()), there).splitlines()
    assert [line for line in lines if line.startswith(("flush", "delete"))] == [
        "flush chain inet spin block_forward",
        "flush chain inet spin block_input",
        "flush chain inet spin block_up",
        "flush chain inet spin block_old",
        "delete map inet spin block_bad4",
        "delete set inet spin block_foo",
        "delete chain inet spin block_forward",
        "delete chain inet spin block_up",
        "delete chain inet spin block_old",
    ]


def test_a_bridge_has_a_table_while_it_is_needed() -> None:
    assert render_bridge(Ruleset(place())) == ""
    assert render_bridge(Ruleset(place()), There()) == "delete table bridge spin\n"


def test_a_bridges_base_chain_stays_since_what_waits_in_queues_would_go_with_it() -> None:
    there = There({"block_forward": (2, -160), "block_between": None}, {"block_isolated": False})
    assert render_bridge(Ruleset(place()), there).splitlines() == [
        "add table bridge spin",
        "add counter bridge spin block_between",
        "flush chain bridge spin block_forward",
        "flush chain bridge spin block_between",
        "delete set bridge spin block_isolated",
        "delete chain bridge spin block_between",
        "add chain bridge spin block_forward { type filter hook forward priority -160; policy accept; }",
    ]


def test_a_bridges_elements_change_one_by_one() -> None:
    wanted = everything(place())
    there = There({"block_forward": (2, -160), "block_between": None}, dict.fromkeys(
        ("block_apart", "block_together", "block_isolated", "block_seeking"), False))  # fmt: skip
    wanted.isolated = {PHONE}
    changed = [
        line for line in render_bridge(wanted, there, everything(place())).splitlines() if "elem" in line
    ]
    assert changed == [
        "delete element bridge spin block_isolated { 02:00:00:00:00:02 }",
        "delete element bridge spin block_seeking { 02:00:00:00:00:02 }",
        "add element bridge spin block_isolated { 02:00:00:00:00:01 }",
        "add element bridge spin block_seeking { 02:00:00:00:00:01 }",
    ]


@pytest.mark.parametrize("name", ["", "br lan", 'a"b', "x;y", "br-lan\n", "a" * 16, "eth+", "wl*", "é"])
def test_names_that_no_interface_has_do_not_get_into_rules(name: str) -> None:
    with pytest.raises(ValueError, match="interface name"):
        render(Ruleset(place(interfaces=(name,))))


@pytest.mark.parametrize("name", ["", "a b", "x;flush", 'a"', "a\n", "a" * 21, "é", "a{"])
def test_names_that_are_not_plain_do_not_get_into_rules(name: str) -> None:
    for bad in (
        Ruleset(place(), {name: ()}),
        Ruleset(place(), shapes={name: Shape.PORT}, sets={name: set()}),
        Ruleset(place(), macs={PHONE: name}),
        Ruleset(place("local", own=name)),
    ):
        with pytest.raises(ValueError, match="plain name"):
            render(bad)


@pytest.mark.parametrize(
    "bad",
    [
        Ruleset(place(interfaces=())),
        Ruleset(place("elsewhere")),
        Ruleset(place()._replace(log_group=65536)),
        Ruleset(place()._replace(marks=MARKS._replace(cut=0))),
        Ruleset(place()._replace(marks=MARKS._replace(done=3))),
        Ruleset(place(), {"x": (Step(Action.BLOCK, "none"),)}),
        Ruleset(place(), addresses={PHONE4: "none"}),
        Ruleset(place(), addresses={b"12345": "all"}),
        Ruleset(place(), macs={b"12345": "all"}),
        Ruleset(place(), shapes={"a": Shape.ADDRESS}, sets={"a": {b"12345"}}),
        Ruleset(place(), shapes={"a": Shape.PREFIX}, sets={"a": {(PHONE4, 0)}}),
        Ruleset(place(), shapes={"a": Shape.PREFIX}, sets={"a": {(PHONE4, 33)}}),
        Ruleset(place(), shapes={"a": Shape.PORT}, sets={"a": {(6, 65536)}}),
        Ruleset(place(), shapes={"a": Shape.ADDRESS_PORT}, sets={"a": {(PHONE4, 300, 80)}}),
    ],
)
def test_what_makes_no_sense_is_an_error(bad: Ruleset) -> None:
    with pytest.raises(ValueError, match="n"):
        render(bad)


# -- elements, one by one --


def four(text: str) -> Address:
    return parse_address(text)


@pytest.mark.parametrize(
    ("shape", "element", "text", "keys"),
    [
        (Shape.ADDRESS, SITE4, "198.51.100.1", [SetElement(SITE4)]),
        (
            Shape.PREFIX,
            (four("10.0.0.0"), 8),
            "10.0.0.0/8",
            [SetElement(four("10.0.0.0")), SetElement(four("11.0.0.0"), end=True)],
        ),
        (Shape.PREFIX, (four("128.0.0.0"), 1), "128.0.0.0/1", [SetElement(four("128.0.0.0"), open=True)]),
        (
            Shape.PREFIX,
            (four("0.0.0.0"), 1),
            "0.0.0.0/1",
            [SetElement(bytes(4)), SetElement(four("128.0.0.0"), end=True)],
        ),
        (
            Shape.PREFIX,
            (SITE6, 128),
            "2001:db8::1/128",
            [SetElement(SITE6), SetElement(parse_address("2001:db8::2"), end=True)],
        ),
        (Shape.PREFIX, (b"\xff" * 16, 128), f"{'ffff:' * 7}ffff/128", [SetElement(b"\xff" * 16, open=True)]),
        (
            Shape.ADDRESS_PORT,
            (SITE4, 6, 443),
            "198.51.100.1 . 6 . 443",
            [SetElement(SITE4 + b"\6\0\0\0\x01\xbb\0\0")],
        ),
        (
            Shape.PREFIX_PORT,
            (four("10.0.0.0"), 15, 17, 53),
            "10.0.0.0/15 . 17 . 53",
            [
                SetElement(
                    four("10.0.0.0") + b"\x11\0\0\0\0\x35\0\0", four("10.1.255.255") + b"\x11\0\0\0\0\x35\0\0"
                )
            ],
        ),
        (Shape.PORT, (6, 25), "6 . 25", [SetElement(b"\6\0\0\0\0\x19\0\0")]),
    ],
)
def test_elements_as_text_and_as_messages(
    shape: Shape, element: Element, text: str, keys: list[SetElement]
) -> None:
    assert element_text(shape, element) == text
    assert list(element_keys(shape, element)) == keys


@given(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), st.integers(1, 128))
def test_a_prefix_ends_where_it_should(address: bytes, bits: int) -> None:
    size = len(address) * 8
    if bits > size:
        return
    first, *rest = element_keys(Shape.PREFIX, (address, bits))
    low = int.from_bytes(first.key, "big")
    high = int.from_bytes(rest[0].key, "big") if rest else 1 << size
    assert high - low == 1 << size - bits
    assert low <= int.from_bytes(address, "big") < high
    assert first.open == (not rest)


def test_changes_become_messages() -> None:
    ruleset = everything(place())
    new4 = parse_address("203.0.113.9")
    told = advance(
        ruleset,
        [
            SetChange("bad", added=(new4, SITE6), removed=(SITE4, new4)),
            SetChange("ports", added=((6, 23),)),
            ClassesChange(
                macs=((PHONE, "off"), (TV, ""), (TV, "")), addresses=((PHONE4, "off"), (new4, "all"))
            ),
        ],
    )
    assert told == [
        ElementsChange("block_bad4", True, (SetElement(SITE4),)),
        ElementsChange("block_bad4", False, (SetElement(new4),)),
        ElementsChange("block_ports_port", False, (SetElement(b"\6\0\0\0\0\x17\0\0"),)),
        ElementsChange("block_mac_class", True, (SetElement(PHONE),)),
        ElementsChange("block_kids_macs", True, (SetElement(PHONE),)),
        ElementsChange("block_mac_class", False, (SetElement(PHONE, chain="block_mac_off"),)),
        ElementsChange("block_off_macs", False, (SetElement(PHONE),)),
        ElementsChange("block_mac_class", True, (SetElement(TV),)),
        ElementsChange("block_off_macs", True, (SetElement(TV),)),
        ElementsChange("block_up4_class", True, (SetElement(PHONE4),)),
        ElementsChange("block_down4_class", True, (SetElement(PHONE4),)),
        ElementsChange("block_up4_class", False, (SetElement(PHONE4, chain="block_from4_off"),)),
        ElementsChange("block_down4_class", False, (SetElement(PHONE4, chain="block_down4_off"),)),
        ElementsChange("block_up4_class", False, (SetElement(new4, chain="block_from4_all"),)),
        ElementsChange("block_down4_class", False, (SetElement(new4, chain="block_down4_all"),)),
    ]
    assert ruleset.sets["bad"] == {new4, SITE6}
    assert ruleset.macs == {PHONE: "off"}
    assert ruleset.addresses == {PHONE4: "off", PHONE6: "kids", new4: "all"}
    assert advance(ruleset, [SetChange("bad", added=(new4,), removed=(SITE4,))]) == []


def test_a_prefix_that_is_split_goes_before_its_parts_come() -> None:
    ruleset = everything(place())
    net = parse_address("203.0.113.0")
    told = advance(ruleset, [SetChange("nets", added=((net, 25),), removed=((net, 24),))])
    assert [change.delete for change in told] == [True, False]


def test_this_machine_alone_has_no_maps_to_change() -> None:
    ruleset = everything(place("local", ()))
    assert advance(ruleset, [ClassesChange(((PHONE, "off"),), ((PHONE4, ""),))]) == []


@pytest.mark.parametrize(
    "change",
    [
        SetChange("none", (SITE4,)),
        SetChange("bad", (b"12345",)),
        SetChange("nets", ((SITE4, 33),)),
        ClassesChange(macs=((PHONE, "none"),)),
        ClassesChange(macs=((b"12345", "off"),)),
        ClassesChange(addresses=((b"12345", "off"),)),
    ],
)
def test_changes_of_what_is_not_there_are_errors(change: SetChange | ClassesChange) -> None:
    with pytest.raises(ValueError, match="n"):
        advance(everything(place()), [change])


def test_a_table_for_trying_has_no_hooks() -> None:
    assert "hook" not in render(everything(place()), table="inet spin_probe")
    assert "hook" not in render_bridge(everything(place()), table="bridge spin_probe")
    assert "hook forward priority -160" in render(everything(place()), table=TABLE)
