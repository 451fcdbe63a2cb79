# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz targets: netlink messages of the kernel, and DHCP."""

import struct
import sys

from fuzz_seeds import MACS, V4, V6
from fuzz_targets import Target

from spind.accounting import Accounting
from spind.events import ConnDelta
from spind.wire import conntrack
from spind.wire.dhcp import DhcpMessage, parse_dhcp
from spind.wire.errors import WireError
from spind.wire.netlink import NLMSG_DONE, NLMSG_ERROR, attribute_map, error_code, messages

# DHCP

DHCP_HEAD = struct.pack("!BBBBIHH4s4s4s4s", 2, 1, 6, 0, 9, 0, 0, bytes(4), V4[0], bytes(4), bytes(4))
DHCP_HEAD += MACS[:6] + bytes(10) + bytes(192) + b"\x63\x82\x53\x63"
DHCP = [
    DHCP_HEAD + b"\x35\1\5" + b"\1\4\xff\xff\xff\0" + b"\x0c\7my-plug" + b"\xff",
    b"\1" + DHCP_HEAD[1:] + b"\x35\1\3\0\0" + b"\x0c\3\xff\0\x0a" + b"\xff",
    DHCP_HEAD,
]


# Netlink, in host byte order


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) & 3)


def netlink(kind: int, payload: bytes, flags: int = 2) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 99) + payload


def ct_tuple(kind: int, addresses: tuple[bytes, bytes], proto: int, ports: list[tuple[int, bytes]]) -> bytes:
    first = 1 if len(addresses[0]) == 4 else 3
    ip = attribute(0x8001, attribute(first, addresses[0]) + attribute(first + 1, addresses[1]))
    parts = attribute(1, bytes([proto])) + b"".join(attribute(*port) for port in ports)
    return attribute(0x8000 | kind, ip + attribute(0x8002, parts))


def ct_entry(
    message: int, addresses: tuple[bytes, bytes], proto: int, ports: list[tuple[int, bytes]]
) -> bytes:
    back = addresses[1], addresses[0]
    counters = attribute(1, (5).to_bytes(8)) + attribute(2, (1500).to_bytes(8))
    family = 2 if len(addresses[0]) == 4 else 10
    return netlink(
        message,
        struct.pack("!BBH", family, 0, 0)
        + ct_tuple(1, addresses, proto, ports)
        + ct_tuple(2, back, proto, ports)
        + attribute(12, b"\0\0\x12\x34")
        + attribute(0x8009, counters)
        + attribute(0x800A, counters)
        + attribute(7, b"\0\0\1\x2c"),
    )


PORTS = [(2, b"\xc3\x50"), (3, b"\x01\xbb")]
CONNTRACK = [
    ct_entry(0x100, V4, 6, PORTS),
    ct_entry(0x102, V6, 17, PORTS),
    ct_entry(0x100, V4, 1, [(4, b"\x12\x34"), (5, b"\x08"), (6, b"\0")]),
    ct_entry(0x100, V6, 58, [(7, b"\x12\x34"), (8, b"\x80"), (9, b"\0")]),
    ct_entry(0x100, V4, 47, []),
    ct_entry(0x100, V4, 6, PORTS) + ct_entry(0x100, V4, 6, PORTS),
]
NETLINK = [
    *CONNTRACK[:2],
    netlink(3, struct.pack("=i", 0)),
    netlink(2, struct.pack("=i", -105) + netlink(0x101, b"")),
    netlink(28, struct.pack("=BxxxiHBB", 2, 3, 2, 0, 1) + attribute(1, V4[0]) + attribute(2, MACS[:6])),
    netlink(1, b""),
]


# Targets


def check_dhcp(_data: bytes, message: DhcpMessage) -> None:
    assert len(message.mac) == 6
    assert len(message.address) == 4
    assert 0 <= message.prefix_bits <= 32
    assert message.hostname.isprintable()


def parse_netlink(data: bytes) -> list[object] | None:
    found: list[object] = []
    for message in messages(data):
        assert 16 <= message.start <= message.end <= len(data)
        if message.type in (NLMSG_DONE, NLMSG_ERROR):
            found.append(error_code(data, message))
        else:
            found.append(attribute_map(data, min(message.start + 4, message.end), message.end))
    return found or None


LEARNED: dict[int, list[conntrack.Layout]] = {}
for seed in CONNTRACK:
    layout = conntrack.learn(seed, 0, int.from_bytes(seed[:4], sys.byteorder))[1]
    LEARNED.setdefault(layout.length, []).append(layout)


def parse_conntrack(data: bytes) -> list[conntrack.Entry] | None:
    entries = []
    for message in messages(data):
        first, last = message.start - 16, message.end
        known = [layout for layout in LEARNED.get(last - first, ()) if layout.matches(data, first)]
        try:
            entry, layout = conntrack.learn(data, first, last)
        except WireError:
            assert not known
            raise
        conntrack.decode_counters(entry.counters)
        # The fast way, and the way back from an ident, end in the same place.
        for other in known:
            assert other.take(data, first) == (entry.ident, entry.counters)
            assert other.key(data, first) == entry.key
        if layout.usable:
            assert layout.matches(data, first)
            assert layout.take(data, first) == (entry.ident, entry.counters)
            assert conntrack.key_of(entry.ident) == entry.key
        entries.append(entry)
    return entries or None


def account(data: bytes) -> list[ConnDelta] | None:
    """A dump, a cut one, and the same once more as events."""
    accounting = Accounting(limit=8)
    accounting.begin_dump()
    deltas = accounting.dump_buffer(data) + accounting.end_of_dump(0.0)
    accounting.begin_dump()
    deltas += accounting.dump_buffer(data[: len(data) // 2])
    deltas += accounting.event_buffer(data) + accounting.end_of_dump(1e9)
    assert accounting.tracked <= 8
    return deltas or None


def check_deltas(_data: bytes, deltas: list[ConnDelta]) -> None:
    for delta in deltas:
        assert min(delta[2:6]) >= 0
        assert len(delta.key.src) == len(delta.key.dst)


TARGETS = {
    "dhcp": Target(parse_dhcp, (WireError,), DHCP, (b"\x0c\4", b"\x35\1\5", b"\xff", b"\1\4"), check_dhcp),
    "netlink": Target(parse_netlink, (WireError,), NETLINK),
    "conntrack": Target(parse_conntrack, (WireError,), CONNTRACK),
    "accounting": Target(account, (), CONNTRACK, (), check_deltas),
}
