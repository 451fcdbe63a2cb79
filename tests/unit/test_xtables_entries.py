# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of iptables: what is packed, what a table of the kernel says, and damaged tables."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.wire.errors import WireError
from spind.wire.xtables import (
    XtRule,
    connection_mark,
    goto,
    identify,
    in_set,
    jump,
    limit,
    log,
    pack_again,
    pack_entry,
    parse_table,
    read_counters,
    reject,
    without_counters,
)

HEADER = {4: 112, 6: 168}  # struct ipt_entry, struct ip6t_entry where a long has 64 bits
COUNTERS = {4: 96, 6: 152}
VERDICTS = {"DROP": -1, "ACCEPT": -2, "RETURN": -5}

pytestmark = pytest.mark.skipif(struct.calcsize("P") != 8, reason="sizes of 64-bit systems")

OURS = {
    "OURS": [
        XtRule("OURS", jump("OTHER"), (in_set("x", "dst,src", 7),), "lan", "! wan", 6),
        XtRule("OURS", log(5, "spin up"), (limit(20, 100), connection_mark(1, 3, invert=True))),
        XtRule("OURS", goto("OTHER"), protocol=17),
    ],
    "OTHER": [XtRule("OTHER", jump("RETURN")), XtRule("OTHER", jump("DROP"))],
    "EMPTY": [],
}


def kernel_table(family: int, chains: dict[str, list[XtRule]]) -> tuple[bytes, dict[int, str]]:
    """A table as the kernel lists it: FORWARD, which jumps to OURS, then ``chains``."""
    everything = {"FORWARD": [XtRule("FORWARD", jump("OURS"))], **chains}
    starts: dict[str, int] = {}
    parts: list[tuple[bytes, str]] = []
    size = 0
    for name, rules in everything.items():
        if name != "FORWARD":
            head = bare(family, struct.pack("@H29sB", 64, b"ERROR", 0) + name.encode().ljust(32, b"\0"))
            parts.append((head, ""))
            size += len(head)
        starts[name] = size
        for rule in [*rules, XtRule(name, jump("ACCEPT" if name == "FORWARD" else "RETURN"))]:
            packed = pack_entry(rule, family)
            parts.append((packed, rule.target.name if not rule.target.data else ""))
            size += len(packed)
    parts.append((bare(family, struct.pack("@H29sB", 64, b"ERROR", 0) + b"ERROR".ljust(32, b"\0")), ""))
    data = b""
    for number, (packed, target) in enumerate(parts, 1):
        entry = bytearray(packed)
        entry[COUNTERS[family] : COUNTERS[family] + 16] = struct.pack("@QQ", number, 100 * number)
        if target:
            verdict = VERDICTS.get(target, starts.get(target, 0))
            entry[-40:] = struct.pack("@H29sBi4x", 40, b"", 0, verdict)
        elif b"limit" in entry:
            at = entry.index(b"limit") - 2
            entry[at + 40 : at + 72] = b"\xaa" * 32  # what the kernel remembers there
        data += bytes(entry)
    return data, {0: "FORWARD"}


def bare(family: int, target: bytes) -> bytes:
    head = bytearray(HEADER[family])
    at = 84 if family == 4 else 136
    head[at + 4 : at + 8] = struct.pack("@HH", len(head), len(head) + len(target))
    return bytes(head) + target


@pytest.mark.parametrize("family", [4, 6])
def test_a_table_is_read_as_the_rules_that_were_packed(family: int) -> None:
    data, builtin = kernel_table(family, OURS)
    chains = parse_table(data, family, builtin)
    assert list(chains) == ["FORWARD", "OURS", "OTHER", "EMPTY"]
    assert [entry.target for entry in chains["FORWARD"]] == ["OURS"]
    assert [entry.target for entry in chains["OURS"]] == ["OTHER", "NFLOG", "OTHER"]
    assert [entry.target for entry in chains["OTHER"]] == ["RETURN", "DROP"]
    for name, rules in OURS.items():
        packed = [pack_entry(rule, family) for rule in rules]
        assert [entry.identity for entry in chains[name]] == [identify(each, family) for each in packed]
        assert [pack_again(entry.identity, family) for entry in chains[name]] == packed
    assert read_counters(data, chains["FORWARD"][0]) == (1, 100)
    assert read_counters(data, chains["OURS"][0]) == (4, 400)


@pytest.mark.parametrize("family", [4, 6])
def test_counters_are_taken_out_and_nothing_else(family: int) -> None:
    data, _builtin = kernel_table(family, OURS)
    mask = without_counters(data, family)
    assert len(mask) == len(data)
    left = bytes(one & other for one, other in zip(data, mask, strict=True))
    assert sum(byte == 0 for byte in mask) == 16 * 14
    assert bytes(16) == left[COUNTERS[family] : COUNTERS[family] + 16]
    assert left[:84] == data[:84]


@pytest.mark.parametrize("family", [4, 6])
def test_rules_that_do_something_else_have_another_identity(family: int) -> None:
    rules = [
        XtRule("C", jump("DROP")),
        XtRule("C", jump("RETURN")),
        XtRule("C", jump("X")),
        XtRule("C", goto("X")),
        XtRule("C", jump("X"), protocol=6),
        XtRule("C", jump("X"), incoming="lan"),
        XtRule("C", jump("X"), outgoing="lan"),
        XtRule("C", jump("X"), outgoing="! lan"),
        XtRule("C", jump("X"), outgoing="lan0"),
        XtRule("C", jump("X"), (in_set("s", "dst", 1),)),
        XtRule("C", jump("X"), (in_set("s", "dst", 2),)),
        XtRule("C", jump("X"), (in_set("s", "src", 1),)),
        XtRule("C", jump("X"), (in_set("s", "src,src", 1),)),
        XtRule("C", jump("X"), (limit(20, 100),)),
        XtRule("C", jump("X"), (limit(20, 101),)),
        XtRule("C", jump("X"), (limit(21, 100),)),
        XtRule("C", reject("tcp-reset", family), protocol=6),
    ]
    assert len({identify(pack_entry(rule, family), family) for rule in rules}) == len(rules)


@given(st.sampled_from([4, 6]), st.data())
def test_damaged_tables_are_refused_or_read(family: int, data: st.DataObject) -> None:
    table, builtin = kernel_table(family, OURS)
    damaged = bytearray(table[: data.draw(st.integers(0, len(table)))])
    for _change in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        for chain in parse_table(bytes(damaged), family, builtin).values():
            for entry in chain:
                read_counters(bytes(damaged), entry)
        without_counters(bytes(damaged), family)
    except WireError:
        pass


@given(st.binary(max_size=600))
def test_noise_is_refused_or_read(noise: bytes) -> None:
    for family in (4, 6):
        try:
            parse_table(noise, family, {0: "FORWARD"})
        except WireError:
            pass
