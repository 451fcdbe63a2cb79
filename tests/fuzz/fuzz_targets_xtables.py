# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz targets: tables of iptables and lists of ipset, as the kernel gives them."""

import struct
from functools import partial

from fuzz_targets import Target
from fuzz_targets_kernel import attribute, netlink

from spind.wire.errors import WireError
from spind.wire.ipset import Header, parse_headers
from spind.wire.xtables import (
    Entry,
    XtRule,
    from_mac,
    in_set,
    jump,
    limit,
    log,
    pack_entry,
    parse_table,
    read_counters,
    without_counters,
)


def table(family: int) -> bytes:
    """FORWARD, whose policy is its only rule, and a chain."""
    rules = [
        XtRule("", jump("")),
        XtRule("", jump("ERROR")),
        XtRule("", jump(""), (in_set("x", "src", 3), limit(20, 100)), "lan", "! wan", 6),
        XtRule("", log(5, "spin up"), (from_mac(b"\2\0\0\0\0\1"),)),
        XtRule("", jump("")),
        XtRule("", jump("ERROR")),
    ]
    return b"".join(pack_entry(rule, family) for rule in rules)


def read_table(data: bytes, family: int) -> dict[str, list[Entry]]:
    return parse_table(data, family, {0: "FORWARD"})


def check_table(data: bytes, chains: dict[str, list[Entry]], family: int) -> None:
    mask = without_counters(data, family)
    assert len(mask) == len(data)
    for chain in chains.values():
        for entry in chain:
            read_counters(data, entry)
            assert not any(mask[entry.counters : entry.counters + 16])


def check_headers(_data: bytes, headers: list[Header]) -> None:
    for header in headers:
        assert header.family in (4, 6)
        assert header.name.replace("\ufffd", "").isascii()


SET = netlink(
    6 << 8 | 7,
    bytes(4)
    + attribute(1, b"\7")
    + attribute(2, b"spin_4s_x.0\0")
    + attribute(3, b"hash:ip\0")
    + attribute(5, b"\2")
    + attribute(0x8007, attribute(0x4018, struct.pack("!I", 12)) + attribute(0x4019, struct.pack("!I", 3))),
)

TARGETS = {
    f"xtables-{family}": Target(
        partial(read_table, family=family),
        (WireError,),
        [table(family)],
        [b"ERROR\0", b"limit\0", b"\x28\0", b"\xff\xff\xff\xff"],
        partial(check_table, family=family),
    )
    for family in (4, 6)
} | {
    "ipset": Target(
        lambda data: list(parse_headers(data)), (WireError,), [SET, SET + SET], [b"\x07\x06"], check_headers
    ),
}
