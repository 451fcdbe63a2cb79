# SPDX-License-Identifier: GPL-2.0-or-later
"""Connection tracking entries (ctnetlink), from the kernel's bytes to a key and its counters.

Owns the messages of ``linux/netfilter/nfnetlink_conntrack.h``: the decoding of entries, and the requests
to delete some. Pure: sockets are in ``spind.conntrack`` and ``spind.conntrack_delete``, and what a
connection moved since the last look is ``spind.accounting``'s.

There are two decoders with one result. :func:`learn` walks all attributes, which costs some 22 µs:
too much for tables of 50,000 connections that are read every few seconds. But the kernel writes the
entries of one kind of connection alike, the same attributes in the same order, so that the same
fields stand at the same offsets. A :class:`Layout` remembers where the attribute headers of a walked
message stood. Another message of that length is taken apart by slices once *every* attribute header
in it has been compared with the learned ones, in one operation; if any bit differs, it is walked.
So the fast way is only taken where the slow way would end in the same place.
"""

from struct import Struct
from typing import NamedTuple

from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6, ConnKey
from spind.wire.errors import WireError
from spind.wire.netlink import ATTRIBUTE, HEADER, attributes, pack_attribute

# linux/netfilter/nfnetlink.h: nlmsg_type is subsystem << 8 | message.
CT_NEW = 0x100  # an entry, in a dump or as an event
CT_GET = 0x101
CT_DELETE = 0x102
NFNLGRP_CONNTRACK_DESTROY = 3

NFGENMSG = Struct("!BBH")  # nfgen_family, version, res_id
_BODY = HEADER.size + NFGENMSG.size  # where the attributes of a message start

_TUPLE_ORIG = 1
_TUPLE_REPLY = 2
_COUNTERS_ORIG = 9
_COUNTERS_REPLY = 10
_ID = 12
_ZONE = 18
# In a tuple:
_IP = 1
_PROTO = 2
_V4_SRC = 1
_V6_SRC = 3
_NUM = 1
_SRC_PORT = 2
_DST_PORT = 3
_ICMP_ID = 4  # followed by type and code
_ICMPV6_ID = 7  # the same
# In a counter:
_PACKETS = 1
_BYTES = 2

_NLA_F_NESTED = 0x8000

_NESTED = frozenset(
    {(kind,) for kind in (_TUPLE_ORIG, _TUPLE_REPLY, _COUNTERS_ORIG, _COUNTERS_REPLY)}
    | {(kind, part) for kind in (_TUPLE_ORIG, _TUPLE_REPLY) for part in (_IP, _PROTO)}
)

Counters = tuple[int, int, int, int]  # packets and bytes of the initiator, then of the responder

NO_COUNTERS: Counters = (0, 0, 0, 0)

Span = tuple[int, int]
_Found = dict[tuple[int, ...], Span]


class Entry(NamedTuple):
    """One conntrack entry, as far as accounting needs it.

    ``ident`` tells connections apart: both tuples as the kernel wrote them, and the id that it
    gives the entry. The id alone would not do: it is a 32-bit hash, and one table of 50,000
    connections in four has two with the same. ``counters`` are the counter attributes as they were
    written, for :func:`decode_counters`; empty where the entry has none, because it is older than
    ``nf_conntrack_acct``.
    """

    ident: bytes
    counters: bytes
    key: ConnKey


class Layout:
    """Where the fields of one kind of message are, in bytes from its start, and how to make sure."""

    __slots__ = (
        "_dport", "_dst", "_mask", "_proto", "_sport", "_src", "_want",
        "counters", "id", "length", "tuples", "usable",
    )  # fmt: skip

    def __init__(self, data: bytes, start: int, end: int, headers: list[int], spans: dict[str, Span]) -> None:
        self.length = end - start
        mask = bytearray(self.length)
        for position in (0, *headers):  # nlmsg_len, and each nlattr
            mask[position : position + 4] = b"\xff\xff\xff\xff"
        self._mask = int.from_bytes(mask, "little")
        self._want = int.from_bytes(data[start:end], "little") & self._mask
        relative = {name: (first - start, stop - start) for name, (first, stop) in spans.items()}
        self.tuples, self.id, self.counters = relative["tuples"], relative["id"], relative["counters"]
        self._proto = relative["proto"][0]
        self._src, self._dst = relative["src"], relative["dst"]
        self._sport, self._dport = relative.get("sport"), relative.get("dport")
        # Whether each part of the entry is in one piece. The kernel never writes it otherwise.
        self.usable = False

    def matches(self, data: bytes, start: int) -> bool:
        """Whether the message at ``start`` has its length and all attribute headers as learned."""
        return int.from_bytes(data[start : start + self.length], "little") & self._mask == self._want

    def key(self, data: bytes, start: int) -> ConnKey:
        """Key of the message at ``start``, which matches."""
        src, dst, sport, dport = self._src, self._dst, self._sport, self._dport
        return ConnKey(
            data[start + self._proto],
            data[start + src[0] : start + src[1]],
            data[start + sport[0]] << 8 | data[start + sport[1]] if sport else 0,
            data[start + dst[0] : start + dst[1]],
            data[start + dport[0]] << 8 | data[start + dport[1]] if dport else 0,
        )

    def take(self, data: bytes, start: int) -> tuple[bytes, bytes]:
        """``Entry.ident`` and ``Entry.counters`` of the message at ``start``, which matches."""
        a, b = self.tuples
        c, d = self.id
        e, f = self.counters
        return data[start + a : start + b] + data[start + c : start + d], data[start + e : start + f]


def parse_entry(data: bytes, start: int, end: int) -> Entry:
    """Decode the conntrack message ``data[start:end]``, its netlink header included, by walking it.

    ``WireError`` where it is malformed or lacks an address.
    """
    return learn(data, start, end)[0]


def learn(data: bytes, start: int, end: int) -> tuple[Entry, Layout]:
    """Decode like :func:`parse_entry`, and learn the layout of such messages."""
    if end - start < _BODY:
        raise WireError("conntrack: message cut short")
    found: _Found = {}
    headers = [first - start for first in _walk(data, start + _BODY, end, (), found)]
    spans = _find_key(found)
    orig, reply = _whole(found, _TUPLE_ORIG, end), _whole(found, _TUPLE_REPLY, end)
    up, down = _whole(found, _COUNTERS_ORIG, end), _whole(found, _COUNTERS_REPLY, end)
    spans["tuples"] = (orig[0], reply[1])
    spans["counters"] = (up[0], down[1])
    spans["id"] = _value(found, 4, _ID) if (_ID,) in found else (start, start)
    layout = Layout(data, start, end, headers, spans)
    entry = Entry(
        data[slice(*orig)] + data[slice(*reply)] + data[slice(*spans["id"])],
        data[slice(*up)] + data[slice(*down)],
        layout.key(data, start),
    )
    decode_counters(entry.counters)
    layout.usable = orig[1] == reply[0] and up[1] == down[0]
    return entry, layout


def key_of(ident: bytes) -> ConnKey:
    """Key of the entry that has ``ident``."""
    found: _Found = {}
    end = 0
    for _tuple in range(2):  # the id that follows is no attribute
        length = (ATTRIBUTE.unpack_from(ident, end)[0] + 3) & ~3
        _walk(ident, end, end + length, (), found)
        end += length
    spans = _find_key(found)
    spans.update(tuples=(0, end), id=(end, len(ident)), counters=(end, end))
    return Layout(ident, 0, len(ident), [], spans).key(ident, 0)


def _walk(data: bytes, start: int, end: int, path: tuple[int, ...], found: _Found) -> list[int]:
    """Note where each attribute's value is, by its path, and return where all headers are."""
    headers = []
    for kind, first, stop in attributes(data, start, end):
        headers.append(first - ATTRIBUTE.size)
        here = (*path, kind)
        found[here] = (first, stop)
        if here in _NESTED:
            headers += _walk(data, first, stop, here, found)
    return headers


def _value(found: _Found, size: int, *path: int) -> Span:
    span = found.get(path)
    if span is None or span[1] - span[0] != size:
        raise WireError("conntrack: attribute missing or of a wrong size")
    return span


def _whole(found: _Found, kind: int, end: int) -> Span:
    """Find an attribute with its header and padding; an empty span where it is missing."""
    span = found.get((kind,))
    if span is None:
        return end, end
    return span[0] - ATTRIBUTE.size, min(span[1] + (span[0] - span[1]) % 4, end)


def _find_key(found: _Found) -> dict[str, Span]:
    family, size = (_V6_SRC, 16) if (_TUPLE_ORIG, _IP, _V6_SRC) in found else (_V4_SRC, 4)
    spans = {
        "src": _value(found, size, _TUPLE_ORIG, _IP, family),
        # The responder and its port, after destination NAT, are where the replies come from.
        "dst": _value(found, size, _TUPLE_REPLY, _IP, family),
        "proto": _value(found, 1, _TUPLE_ORIG, _PROTO, _NUM),
    }
    # Each byte of a port has its own offset, since ICMP's type and code are two attributes.
    for icmp in (_ICMP_ID, _ICMPV6_ID):
        if (_TUPLE_ORIG, _PROTO, icmp) in found:
            first = _value(found, 2, _TUPLE_ORIG, _PROTO, icmp)[0]
            spans["sport"] = (first, first + 1)
            kind = _value(found, 1, _TUPLE_ORIG, _PROTO, icmp + 1)[0]
            spans["dport"] = (kind, _value(found, 1, _TUPLE_ORIG, _PROTO, icmp + 2)[0])
            return spans
    if (_TUPLE_ORIG, _PROTO, _SRC_PORT) in found:
        first = _value(found, 2, _TUPLE_ORIG, _PROTO, _SRC_PORT)[0]
        spans["sport"] = (first, first + 1)
        first = _value(found, 2, _TUPLE_REPLY, _PROTO, _SRC_PORT)[0]
        spans["dport"] = (first, first + 1)
    return spans


# Both counter attributes where 64-bit values need no padding, as big-endian words:
# nest, packets header, packets, bytes header, bytes; twice.
_PLAIN = Struct(">IIQIQIIQIQ")


def _word(length: int, kind: int) -> int:
    return int.from_bytes(ATTRIBUTE.pack(length, kind), "big")


_PLAIN_WORDS = tuple(
    _word(length, kind)
    for direction in (_COUNTERS_ORIG, _COUNTERS_REPLY)
    for length, kind in ((28, direction | _NLA_F_NESTED), (12, _PACKETS), (12, _BYTES))
)


def decode_counters(raw: bytes) -> Counters:
    """Counters of ``Entry.counters``; zeros where there are none. 64-bit, so they never wrap."""
    if len(raw) == _PLAIN.size:
        a, b, up_packets, c, up_bytes, d, e, down_packets, f, down_bytes = _PLAIN.unpack(raw)
        if (a, b, c, d, e, f) == _PLAIN_WORDS:
            return up_packets, up_bytes, down_packets, down_bytes
    values = {}
    for direction, start, end in attributes(raw, 0, len(raw)):
        for kind, first, stop in attributes(raw, start, end):
            if kind in (_PACKETS, _BYTES):
                if stop - first != 8:
                    raise WireError("conntrack: counter of a wrong size")
                values[direction, kind] = int.from_bytes(raw[first:stop], "big")
    return (
        values.get((_COUNTERS_ORIG, _PACKETS), 0),
        values.get((_COUNTERS_ORIG, _BYTES), 0),
        values.get((_COUNTERS_REPLY, _PACKETS), 0),
        values.get((_COUNTERS_REPLY, _BYTES), 0),
    )


# Body of a CT_GET request for the entries of all families (AF_UNSPEC).
DUMP_ALL = NFGENMSG.pack(0, 0, 0)


# The answers to ICMP's messages that have some, as the kernel's nf_conntrack_proto_icmp.c and
# nf_conntrack_proto_icmpv6.c pair them.
_ICMP_ANSWERS = {
    IPPROTO_ICMP: {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17},
    IPPROTO_ICMPV6: {128: 129, 129: 128, 139: 140, 140: 139},
}


def delete_request(key: ConnKey, *, reply: bool) -> bytes:
    """Body of a ``CT_DELETE`` request for the entry with ``key``.

    It is found by its initiator's packets, which go from ``src`` to ``dst`` unless the kernel
    translates their destination; or, with ``reply``, by the responder's, which come from ``dst`` and go
    to ``src`` unless it translates their source.
    """
    proto, src, sport, dst, dport = key
    ports: tuple[tuple[int, bytes], ...]
    answers = _ICMP_ANSWERS.get(proto)
    if answers is not None:
        first = _ICMP_ID if proto == IPPROTO_ICMP else _ICMPV6_ID
        kind, code = dport >> 8, dport & 0xFF
        if reply:
            kind = answers.get(kind, kind)
        ports = (
            (first, sport.to_bytes(2, "big")), (first + 1, bytes((kind,))), (first + 2, bytes((code,)))
        )  # fmt: skip
    else:
        if reply:
            sport, dport = dport, sport
        ports = (_SRC_PORT, sport.to_bytes(2, "big")), (_DST_PORT, dport.to_bytes(2, "big"))
    if reply:
        src, dst = dst, src
    family, address = (2, _V4_SRC) if len(src) == 4 else (10, _V6_SRC)
    ip = pack_attribute(address, src) + pack_attribute(address + 1, dst)
    protocol = pack_attribute(_NUM, bytes((proto,))) + b"".join(pack_attribute(*port) for port in ports)
    return NFGENMSG.pack(family, 0, 0) + pack_attribute(
        _NLA_F_NESTED | (_TUPLE_REPLY if reply else _TUPLE_ORIG),
        pack_attribute(_NLA_F_NESTED | _IP, ip) + pack_attribute(_NLA_F_NESTED | _PROTO, protocol),
    )


def delete_entry_request(data: bytes, start: int, end: int) -> bytes:
    """Body of a ``CT_DELETE`` request for the very entry that the message ``data[start:end]`` shows.

    A later connection between the same ends is not meant. ``WireError`` where the entry has no tuple:
    a request without one would empty the table.
    """
    if end - start < _BODY:
        raise WireError("conntrack: message cut short")
    body = [data[start + HEADER.size : start + _BODY]]
    whole = False
    for kind, first, stop in attributes(data, start + _BODY, end):
        if kind in (_TUPLE_ORIG, _ZONE, _ID):
            if kind == _TUPLE_ORIG:
                whole = stop > first
            body.append(data[first - ATTRIBUTE.size : stop] + bytes(-(stop - first) & 3))
    if not whole:
        raise WireError("conntrack: no tuple")
    return b"".join(body)
