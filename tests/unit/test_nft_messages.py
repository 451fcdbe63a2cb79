# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of nftables against bytes that nft and the kernel have written, and against damage."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.wire.errors import WireError
from spind.wire.netlink import attribute_map, messages, pack_attribute, pack_message
from spind.wire.nftables import (
    NFPROTO_BRIDGE,
    NFPROTO_INET,
    ChainThere,
    ElementsChange,
    SetElement,
    SetThere,
    TableEvents,
    pack_elements,
    parse_chains,
    parse_counter,
    parse_counters,
    parse_events,
    parse_sets,
)

NEWTABLE, DELTABLE, NEWCHAIN, NEWRULE, DELRULE, NEWSET, NEWSETELEM, DELSETELEM, NEWGEN, NEWOBJ = (
    0, 2, 3, 6, 8, 9, 12, 14, 15, 18,
)  # fmt: skip
DESTROYTABLE = 26


def text(kind: int, value: str) -> bytes:
    return pack_attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    return pack_attribute(kind, struct.pack("!i", value))


def message(kind: int, body: bytes, family: int = NFPROTO_INET) -> bytes:
    return pack_message(10 << 8 | kind, 0, 7, struct.pack("!BBH", family, 0, 0) + body)


def test_a_range_as_nft_sends_it() -> None:
    """The element list of "add element inet t p4 { 10.0.0.0/8, 128.0.0.0/1 }", from nft --debug=mnl."""
    batch, last = pack_elements(
        [
            ElementsChange(
                "p4",
                False,
                (
                    SetElement(bytes([10, 0, 0, 0])),
                    SetElement(bytes([11, 0, 0, 0]), end=True),
                    SetElement(bytes([128, 0, 0, 0]), open=True),
                ),
            )
        ],
        "t",
        5,
    )
    begin, elements, end = messages(batch)
    assert (begin.type, elements.type, end.type) == (16, 2572, 17)
    assert [each.seq for each in (begin, elements, end)] == [5, 6, 7]
    assert last == 6
    assert elements.flags == 0x1 | 0x4 | 0x200 | 0x400, "request, acknowledge, exclusive, create"
    assert batch[begin.start : begin.end] == bytes.fromhex("0000000a")
    body = batch[elements.start : elements.end]
    flags = bytes.fromhex("0800030000000001")
    listed = attribute_map(body, 4, len(body))
    assert listed[1] == b"t\0"
    assert listed[2] == b"p4\0"

    def value(first: int) -> bytes:
        inner = struct.pack("=HH4B", 8, 1, first, 0, 0, 0)
        return struct.pack("=HH", 12, 0x8001) + inner

    opened = struct.pack("=HHBBIxx", 10, 6, 1, 4, 1)
    assert listed[3] == (
        struct.pack("=HH", 16, 0x8001) + value(10)
        + struct.pack("=HH", 24, 0x8001) + value(11) + flags
        + struct.pack("=HH", 28, 0x8001) + value(128) + opened
    )  # fmt: skip


def test_the_batch_is_acknowledged_once_and_cut_into_messages() -> None:
    many = tuple(SetElement(at.to_bytes(4, "big")) for at in range(1001))
    changes = [ElementsChange("a", True, many[:1]), ElementsChange("b", False, many)]
    batch, last = pack_elements(changes, "spin", 1, NFPROTO_BRIDGE)
    found = list(messages(batch))
    assert [each.type & 0xFF for each in found] == [16, DELSETELEM, NEWSETELEM, NEWSETELEM, NEWSETELEM, 17]
    assert [each.seq for each in found if each.flags & 0x4] == [last] == [5]
    assert not found[1].flags & 0x600, "a deletion creates nothing"
    assert all(batch[each.start] == NFPROTO_BRIDGE for each in found[1:-1])
    sent = b"".join(attribute_map(batch, e.start + 4, e.end)[3] for e in found[2:-1])
    keys = [attribute_map(sent, *where)[1] for _kind, *where in _elements(sent)]
    assert [key[4:] for key in keys] == [each.key for each in many]
    assert pack_elements([], "spin", 9)[1] == 9, "nothing to wait for"


def _elements(data: bytes) -> list[tuple[int, int, int]]:
    found, at = [], 0
    while at < len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        found.append((kind, at + 4, at + length))
        at += length + 3 & ~3
    return found


def test_a_verdict_and_a_range_of_concatenations() -> None:
    batch, _last = pack_elements(
        [ElementsChange("m", False, (SetElement(b"123456", b"654321", chain="block_x"),))], "spin", 1
    )
    found = list(messages(batch))[1]
    body = attribute_map(batch, found.start + 4, found.end)[3]
    element = attribute_map(body, 4, len(body))
    assert element[1][4:10] == b"123456"
    assert element[10][4:10] == b"654321"
    verdict = attribute_map(element[2], 4, len(element[2]))
    assert verdict == {1: b"\xff\xff\xff\xfc", 2: b"block_x\0"}


def test_counters() -> None:
    counter = pack_attribute(1, (1500).to_bytes(8, "big")) + pack_attribute(2, (3).to_bytes(8, "big"))
    reply = message(NEWOBJ, text(1, "spin") + text(2, "block_up") + pack_attribute(4, counter))
    assert parse_counters(reply) == (3, 1500)
    assert parse_counter(reply) == 3
    assert parse_counters(message(NEWOBJ, text(1, "spin"))) is None
    assert parse_counters(pack_message(2, 0, 7, struct.pack("=i", -2))) is None


def test_chains_and_sets() -> None:
    hook = pack_attribute(4, number(1, 2) + number(2, -160))
    dump = (
        message(NEWCHAIN, text(1, "spin") + text(3, "block_forward") + hook + text(7, "filter"))
        + message(NEWCHAIN, text(1, "fw4") + text(3, "block_up"), NFPROTO_BRIDGE)
        + pack_message(3, 2, 7, bytes(4))
    )
    assert list(parse_chains(dump)) == [
        ChainThere(NFPROTO_INET, "spin", "block_forward", "filter", 2, -160),
        ChainThere(NFPROTO_BRIDGE, "fw4", "block_up", "", -1, 0),
    ]
    dump = message(NEWSET, text(1, "spin") + text(2, "m") + number(3, 8 | 4)) + message(
        NEWSET, text(1, "spin") + text(2, "s") + number(3, 4)
    )
    assert list(parse_sets(dump)) == [
        SetThere(NFPROTO_INET, "spin", "m", is_map=True),
        SetThere(NFPROTO_INET, "spin", "s", is_map=False),
    ]


def generation(pid: int) -> bytes:
    return message(NEWGEN, number(1, 99) + number(2, pid) + text(3, "nft"), 0)


@pytest.mark.parametrize(
    ("event", "touched"),
    [
        (message(DELTABLE, text(1, "spin")), True),
        (message(DESTROYTABLE, text(1, "spin"), NFPROTO_BRIDGE), True),
        (message(NEWTABLE, text(1, "spin") + number(2, 0)), False),
        (message(NEWTABLE, text(1, "spin") + number(2, 1)), True),
        (message(NEWRULE, text(1, "spin") + text(2, "block_up")), True),
        (message(DELRULE, text(1, "spin") + text(2, "capture_dns")), False),
        (message(NEWSETELEM, text(1, "spin") + text(2, "block_bad4")), True),
        (message(NEWSETELEM, text(1, "spin") + text(2, "capture_alive")), False),
        (message(NEWOBJ, text(1, "spin") + text(2, "block_up")), True),
        (message(NEWRULE, text(1, "fw4") + text(2, "block_up")), False),
        (message(NEWRULE, text(1, "spinner") + text(2, "block_up")), False),
        (message(NEWRULE, text(1, "spin") + text(2, "block_up"), 2), False),
        (pack_message(1 << 8, 0, 7, struct.pack("!BBH", 1, 0, 0) + text(1, "spin")), False),
    ],
)
def test_events(event: bytes, touched: bool) -> None:
    other = message(DELRULE, text(1, "fw4") + text(2, "x"))
    assert parse_events(other + event + other, "spin", "block_") == TableEvents(touched, 0)
    assert parse_events(event + generation(77), "spin", "block_") == TableEvents(touched, 77)


@given(st.binary(max_size=200), st.sampled_from([NEWTABLE, NEWRULE, NEWCHAIN, NEWSET, NEWOBJ, NEWGEN]))
def test_damage_is_an_error_or_nothing(body: bytes, kind: int) -> None:
    data = message(kind, text(1, "spin") + body)
    for parse in (parse_events, parse_chains, parse_sets, parse_counters):
        try:
            result = parse(data, "spin", "block_") if parse is parse_events else list(parse(data) or ())
        except WireError:
            continue
        assert result is not None
