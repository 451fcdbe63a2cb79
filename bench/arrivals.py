# SPDX-License-Identifier: GPL-2.0-or-later
"""What arrives at a machine of the lab, packet by packet, with the kernel's own time of arrival.

Sees packets beside and before any rule of that machine. Reads headers by itself: what judges spind must
not share its mistakes. Packets wait in the kernel until they are asked for, so that looking costs the
traffic next to nothing; where the kernel had no room for one, nothing is said at all.
"""

import socket
import struct
from contextlib import ExitStack
from typing import NamedTuple, Self

from spind.lab import Node

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
RST = 0x04

_ETH_P = {4: 0x0800, 6: 0x86DD}
_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options: RFC 8200 section 4
_FRAGMENT = 44
_HEAD = 256  # bytes of a packet that are looked at
_ROOM = 512 << 20  # of traffic that waits to be looked at; the kernel counts whole packets

# linux/socket.h, linux/if_packet.h, asm-generic/socket.h
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35


class Arrival(NamedTuple):
    """A packet that came in.

    ``at`` in nanoseconds of CLOCK_REALTIME; ``hops`` is what is left of TTL or hop limit; ``size``
    bytes of payload of TCP or UDP. Ports are 0 where it has none, as in a later fragment.
    """

    at: int
    source: bytes
    target: bytes
    protocol: int
    source_port: int
    target_port: int
    hops: int
    flags: int
    size: int


def parse(at: int, packet: bytes, length: int) -> Arrival | None:
    """An IP packet of ``length`` bytes of which ``packet`` is the beginning; ``None`` for what is none."""
    try:
        if packet[0] >> 4 == 4:
            head = (packet[0] & 15) * 4
            first = not struct.unpack_from("!H", packet, 6)[0] & 0x1FFF
            protocol, hops, source, target = packet[9], packet[8], packet[12:16], packet[16:20]
        else:
            head, first = 40, True
            protocol, hops, source, target = packet[6], packet[7], packet[8:24], packet[24:40]
            while protocol in _EXTENSIONS or protocol == _FRAGMENT:
                if protocol == _FRAGMENT:
                    first = first and not struct.unpack_from("!H", packet, head + 2)[0] & 0xFFF8
                    size = 8
                else:
                    size = packet[head + 1] * 8 + 8
                protocol, head = packet[head], head + size
        ports = flags = 0
        if first and protocol in (TCP, UDP):
            (ports,) = struct.unpack_from("!I", packet, head)
            if protocol == TCP:
                flags = packet[head + 13]
                head += (packet[head + 12] >> 4) * 4
            else:
                head += 8
    except (IndexError, struct.error):
        return None
    return Arrival(
        at, source, target, protocol, ports >> 16, ports & 0xFFFF, hops, flags, max(0, length - head)
    )


class Sniffer:
    """Packets of both families that arrive at ``interface`` of ``node`` while the block lasts."""

    def __init__(self, node: Node, interface: str) -> None:
        self._node = node
        self._interface = interface
        self._stack = ExitStack()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        for kind in _ETH_P.values():
            # Bound to one protocol, it gets what comes in and not what goes out.
            link = self._node.call(lambda kind=kind: self._open(kind))  # type: ignore[misc]
            self._sockets.append(self._stack.enter_context(link))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, kind: int) -> socket.socket:
        link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        link.setblocking(False)
        link.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        link.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        link.bind((self._interface, kind))
        return link

    def take(self) -> list[Arrival]:
        """Those since the last call, in the order they came; ``RuntimeError`` where some were lost."""
        found: list[Arrival] = []
        for link in self._sockets:
            buffer = bytearray(_HEAD)
            while True:
                try:
                    size, control, _, _ = link.recvmsg_into([buffer], 64, socket.MSG_TRUNC)
                except BlockingIOError:
                    break
                for _, number, value in control:
                    if number == _SO_TIMESTAMPNS:
                        seconds, nanoseconds = struct.unpack("=qq", value[:16])
                        one = parse(seconds * 10**9 + nanoseconds, bytes(buffer[: min(size, _HEAD)]), size)
                        found += [one] if one is not None else []
            _, dropped = struct.unpack("=II", link.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            if dropped:
                raise RuntimeError(f"{dropped:,} packets came faster than they could be kept to be looked at")
        return sorted(found)
