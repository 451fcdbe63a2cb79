# SPDX-License-Identifier: GPL-2.0-or-later
"""IP packets as NFQUEUE and capture files deliver them."""

from typing import NamedTuple

from spind.model import Address, ConnKey


class Packet(NamedTuple):
    """One IP packet, parsed up to its transport payload.

    ``length`` is the IP-layer length in bytes (IPv4 total length, IPv6 payload length + 40).
    For TCP and UDP the ports are as on the wire. For ICMP and ICMPv6 ``sport`` is the echo
    identifier (0 for other types) and ``dport`` is ``type << 8 | code``.
    Later fragments have ``fragment`` true, ports 0 and an empty payload.
    """

    proto: int
    src: Address
    sport: int
    dst: Address
    dport: int
    length: int
    flags: int  # TCP flags byte (RFC 9293 3.1), 0 otherwise
    seq: int  # TCP sequence number, 0 otherwise
    payload: bytes  # transport payload that was captured
    fragment: bool

    @property
    def key(self) -> ConnKey:
        """The connection in this packet's own direction."""
        return ConnKey(self.proto, self.src, self.sport, self.dst, self.dport)
