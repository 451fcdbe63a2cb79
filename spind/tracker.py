# SPDX-License-Identifier: GPL-2.0-or-later
"""Connection tracking for capture files: what conntrack does for live traffic, on packets.

Owns the table of connections of a capture, with bytes and packets for each direction, and the
decision which packets the live capture would have queued. It follows the kernel's rules where
they matter for counting, and says so where it does not:

* a connection is one 5-tuple, both directions; the initiator is the sender of the first packet,
  or its receiver where that packet is a TCP SYN-ACK or an ICMP reply;
* a TCP SYN with another sequence number, after both sides sent FIN or one sent RST, begins a new
  connection; TCP does not end by time;
* everything else ends after an hour of silence, which is long enough to keep what people call
  one exchange together (the kernel forgets UDP after half a minute to three);
* ICMP errors are connections of their own, from the one who sends them (the kernel counts them
  nowhere);
* later fragments belong to the connection of their first one. Where that was not seen they are a
  connection with ports 0.

Must not know about devices, names or files. Time is an argument.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from spind.events import ConnDelta
from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Address, ConnKey
from spind.wire.packet import Packet

IDLE_SECONDS: Final = 3600.0
"""Silence that ends a connection of a protocol other than TCP."""

FRAGMENT_SECONDS: Final = 60.0
"""How long a first fragment waits for the others (RFC 8200 4.5; RFC 791 3.2 says less)."""

FRAGMENTS: Final = 4096
"""Fragmented packets remembered; the oldest goes, and its late fragments count under ports 0."""

CONNECTIONS: Final = 65536
"""Connections in the table; the one unseen for longest goes (some 40 MB at the bound)."""

DNS_PORT: Final = 53

_FIN: Final = 0x01
_SYN: Final = 0x02
_RST: Final = 0x04
_SYN_ACK: Final = 0x12
_BOTH_FINS: Final = 3

# Requests and their replies: the types that the kernel tracks (nf_conntrack_proto_icmp.c and
# nf_conntrack_proto_icmpv6.c): echo, timestamp, information, address mask; echo, node information.
_REQUESTS: Final = {IPPROTO_ICMP: {8: 0, 13: 14, 15: 16, 17: 18}, IPPROTO_ICMPV6: {128: 129, 139: 140}}
_REPLIES: Final = {
    proto: {reply: request for request, reply in kinds.items()} for proto, kinds in _REQUESTS.items()
}

# RFC 8200 4: headers that may stand before the fragment header.
_HOP_BY_HOP: Final = 0
_ROUTING: Final = 43
_FRAGMENT_HEADER: Final = 44
_DESTINATION: Final = 60
_UNFRAGMENTABLE: Final = frozenset((_HOP_BY_HOP, _ROUTING, _DESTINATION))
_MAX_HEADERS: Final = 8


class Interest(NamedTuple):
    """Which packets of a connection the live capture queues, as counts of packets.

    ``unanswered``: an initiator's packets before the first reply. ``client``: those of a TCP
    initiator among which payload is looked at. ``tcp_dns``: both directions of DNS over TCP.
    """

    unanswered: int
    client: int
    tcp_dns: int


class Fragment(NamedTuple):
    """Which packet a fragment is a part of, as the fields that say so, and whether it is the first."""

    packet: tuple[Address, Address, int, bytes]
    first: bool


def fragment_of(data: bytes) -> Fragment | None:
    """Tell what fragment ``data``, a good IP packet, is; ``None`` where it is whole.

    IPv4 fragments are identified by addresses, protocol and identification (RFC 791 3.2), IPv6
    ones by addresses and identification (RFC 8200 4.5), so that their protocol is 0 here.
    """
    if data[0] >> 4 == 4:
        field = (data[6] << 8 | data[7]) & 0x3FFF  # more fragments, and the offset
        if not field:
            return None
        return Fragment((data[12:16], data[16:20], data[9], data[4:6]), not field & 0x1FFF)
    follows = data[6]
    offset = 40
    for _ in range(_MAX_HEADERS):
        if offset + 8 > len(data):
            return None
        if follows == _FRAGMENT_HEADER:
            field = data[offset + 2] << 8 | data[offset + 3]
            if not field & 0xFFF9:  # an atomic fragment (RFC 6946) is whole
                return None
            return Fragment((data[8:24], data[24:40], 0, data[offset + 4 : offset + 8]), field < 8)
        if follows not in _UNFRAGMENTABLE:
            return None
        follows = data[offset]
        offset += (data[offset + 1] + 1) << 3
    return None


class Connection:
    """One connection of a capture.

    ``first`` and ``last`` are times in seconds; bytes are IP-layer bytes, ``orig`` from
    ``key.src`` to ``key.dst``. ``settled`` is for the owner to say that nothing more is to be learned
    from what the initiator sends.
    """

    __slots__ = (
        "_fins",
        "_isn",
        "_reported",
        "cid",
        "ended",
        "first",
        "key",
        "last",
        "orig_bytes",
        "orig_packets",
        "reply_bytes",
        "reply_packets",
        "settled",
    )

    def __init__(self, cid: int, key: ConnKey, now: float, isn: int) -> None:
        self.cid = cid
        self.key = key
        self.first = now
        self.last = now
        self.orig_packets = 0
        self.orig_bytes = 0
        self.reply_packets = 0
        self.reply_bytes = 0
        self.ended = False
        self.settled = False
        self._reported = (0, 0, 0, 0)
        self._isn = isn
        self._fins = 0

    def is_over(self, proto: int, flags: int, seq: int, *, forward: bool, now: float) -> bool:
        """Tell whether a packet of this 5-tuple begins another connection."""
        if proto != IPPROTO_TCP:
            return now - self.last > IDLE_SECONDS
        return flags & _SYN_ACK == _SYN and self._fins >= _BOTH_FINS and (not forward or seq != self._isn)

    def count(self, length: int, flags: int, *, forward: bool, now: float) -> None:
        """Add one packet."""
        if forward:
            self.orig_packets += 1
            self.orig_bytes += length
        else:
            self.reply_packets += 1
            self.reply_bytes += length
        if flags & (_FIN | _RST):
            self._fins |= 4 if flags & _RST else 1 if forward else 2
        if now > self.last:  # noqa: PLR1730 - runs for every packet, and max() costs four times that
            self.last = now

    @property
    def unreported(self) -> bool:
        """Whether it transferred anything since the last report."""
        return self._reported != (self.orig_packets, self.orig_bytes, self.reply_packets, self.reply_bytes)

    def take_delta(self, *, ended: bool) -> ConnDelta:
        """Report what was not yet reported of it."""
        packets, size, reply_packets, reply_size = self._reported
        self._reported = (self.orig_packets, self.orig_bytes, self.reply_packets, self.reply_bytes)
        return ConnDelta(
            self.cid,
            self.key,
            self.orig_packets - packets,
            self.orig_bytes - size,
            self.reply_packets - reply_packets,
            self.reply_bytes - reply_size,
            ended,
        )


class Tracker:
    """The table of connections."""

    def __init__(self, connections: int, interest: Interest) -> None:
        """``connections`` bounds the table."""
        self._limit = connections
        self._interest = interest
        # Both directions of a connection; true for the initiator's.
        self._table: dict[tuple[int, Address, int, Address, int], tuple[Connection, bool]] = {}
        # cid -> connection, the one unseen for longest first
        self._live: OrderedDict[int, Connection] = OrderedDict()
        self._changed: dict[int, Connection] = {}
        self._fragments: OrderedDict[tuple[Address, Address, int, bytes], tuple[Connection, bool, float]]
        self._fragments = OrderedDict()
        self._next = 1
        self.evicted = 0
        self.ended: list[Connection] = []
        """Connections that left the table, for the owner to report and to empty the list."""

    def __len__(self) -> int:
        return len(self._live)

    def track(self, packet: Packet, now: float, fragment: Fragment | None) -> tuple[Connection, bool]:
        """Count a packet; returns its connection, and whether the initiator sent it.

        ``fragment`` is what :func:`fragment_of` says about the packet. Look at ``ended`` after
        each call: a connection with the same 5-tuple may have made room for this one.
        """
        proto, src, sport, dst, dport, length, flags, seq, _, _ = packet
        conn: Connection | None = None
        forward = False
        if fragment is not None and not fragment.first:
            conn, forward = self._first_fragment(fragment, now)
        if conn is None:
            entry = self._table.get((proto, src, sport, dst, dport))
            if entry is not None:
                conn, forward = entry
                if conn.is_over(proto, flags, seq, forward=forward, now=now):
                    self._end(conn)
                    conn = None
            if conn is None:
                conn, forward = self._open(packet, now)
            if fragment is not None and fragment.first:
                self._remember(fragment, conn, now, forward=forward)
        conn.count(length, flags, forward=forward, now=now)
        self._live.move_to_end(conn.cid)
        self._changed[conn.cid] = conn
        return conn, forward

    def wanted(self, packet: Packet, conn: Connection, *, forward: bool) -> bool:
        """Tell whether the live capture would have queued this packet, which was just counted.

        That is DNS in both directions; an initiator's packets as long as nobody answered; and what
        an initiator sends over TCP, until the owner has called the connection ``settled``.
        """
        proto = packet.proto
        interest = self._interest
        if DNS_PORT in (packet.sport, packet.dport) and proto in (IPPROTO_UDP, IPPROTO_TCP):
            if proto == IPPROTO_UDP:
                return True
            if packet.payload and conn.orig_packets + conn.reply_packets <= interest.tcp_dns:
                return True
        if not forward:
            return False
        if not conn.reply_packets and conn.orig_packets <= interest.unanswered:
            return True
        if proto != IPPROTO_TCP or conn.settled or not packet.payload:
            return False
        return conn.orig_packets <= interest.client

    def deltas(self) -> list[ConnDelta]:
        """Report what the connections in the table transferred since the last call."""
        changed = [conn.take_delta(ended=False) for conn in self._changed.values()]
        self._changed.clear()
        return changed

    def finish(self) -> None:
        """End all connections: the capture is over."""
        for conn in list(self._live.values()):
            self._end(conn)

    def _open(self, packet: Packet, now: float) -> tuple[Connection, bool]:
        """Make a connection for its first packet; false where the packet comes from its responder."""
        proto, src, sport, dst, dport, _, flags, seq, _, _ = packet
        if len(self._live) >= self._limit:
            self.evicted += 1
            self._end(next(iter(self._live.values())))
        forward = True
        key = ConnKey(proto, src, sport, dst, dport)
        back: ConnKey | None = ConnKey(proto, dst, dport, src, sport)
        if proto in _REQUESTS:
            kind, code = dport >> 8, dport & 0xFF
            if kind in _REPLIES[proto]:
                forward = False
                back = key
                key = ConnKey(proto, dst, sport, src, _REPLIES[proto][kind] << 8 | code)
            elif kind in _REQUESTS[proto]:
                back = ConnKey(proto, dst, sport, src, _REQUESTS[proto][kind] << 8 | code)
            else:
                back = None
        elif proto == IPPROTO_TCP and flags & _SYN_ACK == _SYN_ACK:
            forward = False
            key, back = ConnKey(proto, dst, dport, src, sport), key
        conn = Connection(self._next, key, now, seq if forward else -1)
        self._next += 1
        if back is not None:
            self._table[back] = (conn, False)
        self._table[key] = (conn, True)
        self._live[conn.cid] = conn
        return conn, forward

    def _end(self, conn: Connection) -> None:
        key = conn.key
        del self._table[key]
        if key.proto in _REQUESTS:
            reply = _REQUESTS[key.proto].get(key.dport >> 8)
            if reply is not None:
                back = (key.proto, key.dst, key.sport, key.src, reply << 8 | key.dport & 0xFF)
                self._table.pop(back, None)
        else:
            self._table.pop((key.proto, key.dst, key.dport, key.src, key.sport), None)
        del self._live[conn.cid]
        self._changed.pop(conn.cid, None)
        conn.ended = True
        self.ended.append(conn)

    def _first_fragment(self, fragment: Fragment, now: float) -> tuple[Connection | None, bool]:
        known = self._fragments.get(fragment.packet)
        if known is None or known[0].ended or now - known[2] > FRAGMENT_SECONDS:
            return None, False
        return known[0], known[1]

    def _remember(self, fragment: Fragment, conn: Connection, now: float, *, forward: bool) -> None:
        self._fragments[fragment.packet] = (conn, forward, now)
        self._fragments.move_to_end(fragment.packet)
        if len(self._fragments) > FRAGMENTS:
            self._fragments.popitem(last=False)
