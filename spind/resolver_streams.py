# SPDX-License-Identifier: GPL-2.0-or-later
"""DNS messages out of packets: a UDP payload is one, a TCP stream holds several (RFC 7766 8). Pure."""

from collections import OrderedDict

from spind.model import IPPROTO_TCP, ConnKey
from spind.wire.dns import split_tcp
from spind.wire.errors import WireError
from spind.wire.packet import Packet
from spind.wire.stream import Reassembler

STREAM_BYTES = 131072
"""Bytes of one direction of a DNS connection that are read: a message is at most 65,535 long."""

STREAM_SEGMENTS = 64

TOTAL_BYTES = 2 << 20
"""Of all streams together; the oldest goes."""

TCP_FIN = 0x01
TCP_SYN = 0x02
TCP_RST = 0x04


class ResolverStreams:
    """Both directions of the DNS connections over TCP, a bounded number; the oldest goes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._directions: OrderedDict[ConnKey, Reassembler] = OrderedDict()
        self._refused: OrderedDict[ConnKey, None] = OrderedDict()
        self._held = 0

    def refuse(self, packet: Packet) -> None:
        """Nothing more shall come in this direction of the packet's connection; the oldest is forgotten."""
        if packet.proto == IPPROTO_TCP:
            self._refused[packet.key] = None
            if len(self._refused) > self._limit:
                del self._refused[next(iter(self._refused))]

    def refused(self, packet: Packet) -> bool:
        """Was it said so? A segment that is dropped is sent again."""
        return packet.key in self._refused and bool(packet.payload)

    def messages(self, packet: Packet) -> list[bytes]:
        """The DNS messages that this packet completes, without their length prefix."""
        if packet.proto != IPPROTO_TCP:
            return [packet.payload] if packet.payload else []
        key = packet.key
        if packet.flags & TCP_SYN:  # whatever used these ports before is over
            for each in (key, ConnKey(key.proto, key.dst, key.dport, key.src, key.sport)):
                self._drop(each)
                self._refused.pop(each, None)
        stream = self._directions.get(key)
        if stream is None:
            if not packet.payload and not packet.flags & TCP_SYN:
                return []
            stream = self._directions[key] = Reassembler(STREAM_BYTES, STREAM_SEGMENTS)
            if len(self._directions) > self._limit:
                self._drop(next(iter(self._directions)))
        if packet.flags & TCP_SYN:
            stream.set_start((packet.seq + 1) & 0xFFFFFFFF)
        messages: list[bytes] = []
        before = stream.held
        try:
            data = stream.add(packet.seq, packet.payload)
            if data:
                messages, rest = split_tcp(data)
                stream.consume(len(data) - len(rest))
        except WireError:
            self._held -= before
            del self._directions[key]
            return []
        self._held += stream.held - before
        if packet.flags & (TCP_FIN | TCP_RST):
            self._drop(key)
        while self._held > TOTAL_BYTES:
            self._drop(next(iter(self._directions)))
        return messages

    def _drop(self, key: ConnKey) -> None:
        stream = self._directions.pop(key, None)
        if stream is not None:
            self._held -= stream.held
