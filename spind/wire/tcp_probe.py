# SPDX-License-Identifier: GPL-2.0-or-later
"""A TCP segment that its receiver answers, whatever the state of the connection. Pure.

An acknowledgement with a sequence number out of its window is answered with what the receiver has and
expects (RFC 9293 3.10.7.4, first check), and changes nothing. A random number is in the window of few:
without data, it changes nothing there either.
"""

import struct

from spind.model import IPPROTO_TCP, Address

HOP_LIMIT = 64

_ACK = 0x10
_TCP = struct.Struct("!HHIIBBHHH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")


def tcp_probe(source: Address, sport: int, target: Address, dport: int, number: int) -> bytes:
    """The IP packet with such a segment; ``number`` (32 bits, random) is its sequence number."""
    number &= 0xFFFFFFFF
    head = [sport, dport, number, number, _TCP.size // 4 << 4, _ACK, 0, 0, 0]
    pseudo = source + target + struct.pack("!HH", IPPROTO_TCP, _TCP.size)  # zeros do not change the sum
    head[7] = _checksum(pseudo + _TCP.pack(*head))
    segment = _TCP.pack(*head)
    if len(source) == 16:
        return _IPV6.pack(6 << 28, len(segment), IPPROTO_TCP, HOP_LIMIT, source, target) + segment
    fields = [0x45, 0, _IPV4.size + len(segment), 0, 0x4000, HOP_LIMIT, IPPROTO_TCP, 0, source, target]
    fields[7] = _checksum(_IPV4.pack(*fields))
    return _IPV4.pack(*fields) + segment


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
