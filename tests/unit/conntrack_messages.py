# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes ctnetlink messages as the kernel does, or in any other order."""

import random
import struct
from typing import NamedTuple

from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6
from spind.wire.conntrack import CT_DELETE, CT_NEW

NESTED = 0x8000


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) & 3)


def message(kind: int, payload: bytes, flags: int = 2) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 0) + payload


class Connection(NamedTuple):
    """A connection; ``reply_*`` are what conntrack expects replies from, after translation."""

    proto: int
    src: bytes
    sport: int
    dst: bytes
    dport: int
    reply_src: bytes
    reply_sport: int
    id: int


def _tuple(
    kind: int, proto: int, src: bytes, dst: bytes, ports: list[tuple[int, bytes]], mix: random.Random | None
) -> bytes:
    first = 1 if len(src) == 4 else 3
    addresses = [attribute(first, src), attribute(first + 1, dst)]
    parts = [attribute(1, bytes([proto])), *(attribute(*port) for port in ports)]
    if mix is not None:
        mix.shuffle(addresses)
        mix.shuffle(parts)
        if mix.random() < 0.3:
            parts.insert(0, attribute(200, bytes(mix.randrange(9))))
    both = [attribute(NESTED | 1, b"".join(addresses)), attribute(NESTED | 2, b"".join(parts))]
    if mix is not None:
        mix.shuffle(both)
    return attribute(NESTED | kind, b"".join(both))


def _ports(connection: Connection, *, reply: bool) -> list[tuple[int, bytes]]:
    c = connection
    if c.proto in (IPPROTO_ICMP, IPPROTO_ICMPV6):
        kind = 4 if c.proto == IPPROTO_ICMP else 7
        echo = c.dport >> 8
        back = {8: 0, 128: 129}.get(echo, echo)
        return [
            (kind, c.sport.to_bytes(2, "big")),
            (kind + 1, bytes([back if reply else echo])),
            (kind + 2, bytes([c.dport & 255])),
        ]
    if c.proto not in (6, 17, 132):
        return []
    one, other = (c.reply_sport, c.sport) if reply else (c.sport, c.dport)
    return [(2, one.to_bytes(2, "big")), (3, other.to_bytes(2, "big"))]


def counters(
    kind: int, packets: int, size: int, *, padded: bool = False, mix: random.Random | None = None
) -> bytes:
    parts = [attribute(1, packets.to_bytes(8, "big")), attribute(2, size.to_bytes(8, "big"))]
    if mix is not None:
        mix.shuffle(parts)
    if padded:
        parts = [attribute(5, b"") + part for part in parts]
    return attribute(NESTED | kind, b"".join(parts))


def entry(
    connection: Connection,
    counts: tuple[int, int, int, int] | None,
    *,
    kind: int = CT_NEW,
    padded: bool = False,
    extra: bytes = b"",
    mix: random.Random | None = None,
    flags: int = 2,
) -> bytes:
    c = connection
    parts = [
        _tuple(1, c.proto, c.src, c.dst, _ports(c, reply=False), mix),
        _tuple(2, c.proto, c.reply_src, c.src, _ports(c, reply=True), mix),
        attribute(3, b"\0\0\1\x8e"),
        extra,
        attribute(12, c.id.to_bytes(4, "big")),
        attribute(11, b"\0\0\0\1"),
    ]
    if kind != CT_DELETE:
        parts.append(attribute(7, b"\0\0\0\x1e"))
    if counts is not None:
        parts.append(counters(9, counts[0], counts[1], padded=padded, mix=mix))
        parts.append(counters(10, counts[2], counts[3], padded=padded, mix=mix))
    if mix is not None:
        mix.shuffle(parts)
    family = 2 if len(c.src) == 4 else 10
    return message(kind, struct.pack("!BBH", family, 0, 0) + b"".join(parts), flags)


def destroy(connection: Connection, counts: tuple[int, int, int, int] | None) -> bytes:
    return entry(connection, counts, kind=CT_DELETE, flags=0)


def done(error: int = 0) -> bytes:
    return message(3, struct.pack("=i", -error))


def tcp(number: int = 0, *, id: int | None = None) -> Connection:  # noqa: A002 - conntrack's word
    """Return one of many TCP connections from the home to 203.0.113.9."""
    src = bytes([192, 168, 1, 2 + number % 200])
    dst = b"\xcb\x00\x71\x09"
    return Connection(6, src, 20000 + number, dst, 443, dst, 443, number + 1 if id is None else id)
