# SPDX-License-Identifier: GPL-2.0-or-later
"""IP packets as NFQUEUE and capture files deliver them.

Owns the step from the bytes of one IP packet to addresses, ports and transport payload. It
runs for every captured packet while that packet waits for its verdict, so each header is one
``Struct.unpack_from`` and nothing loops over bytes. It does not reassemble fragments, verify
checksums or look into payloads.
"""

from struct import Struct
from typing import Final, NamedTuple

from spind.model import (
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    Address,
    ConnKey,
)
from spind.wire.errors import WireError

# RFC 791 3.1: version and header length, total length, flags and offset, protocol, addresses.
_IPV4: Final = Struct("!BxHxxHxB2x4s4s").unpack_from
# RFC 8200 3: payload length, next header, addresses.
_IPV6: Final = Struct("!4xHBx16s16s").unpack_from
# RFC 9293 3.1: ports, sequence number, data offset, flags.
_TCP: Final = Struct("!HHI4xBB").unpack_from
# RFC 768: ports, length.
_UDP: Final = Struct("!HHH").unpack_from
# RFC 792, RFC 4443 2.1: type, code, then the identifier of an echo.
_ICMP: Final = Struct("!BBxxH").unpack_from
# RFC 8200 4.5: offset and flags of the fragment header.
_FRAGMENT: Final = Struct("!2xH").unpack_from

_MORE_FRAGMENTS: Final = 0x2000
_OFFSET_MASK: Final = 0x1FFF

_HOP_BY_HOP: Final = 0
_FRAGMENT_HEADER: Final = 44
_AUTHENTICATION: Final = 51
_NO_NEXT_HEADER: Final = 59
# The headers that the kernel's ipv6_skip_exthdr() steps over: hop-by-hop, routing, fragment,
# authentication, destination options. ESP hides what follows and is a protocol of its own.
_EXTENSIONS: Final = frozenset((_HOP_BY_HOP, 43, _FRAGMENT_HEADER, _AUTHENTICATION, 60))
# RFC 8200 4.1 lists at most seven in a packet that follows its recommendations.
_MAX_EXTENSIONS: Final = 8

_ECHOES: Final = {IPPROTO_ICMP: (8, 0), IPPROTO_ICMPV6: (128, 129)}


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


# Half the cost of calling the class, whose own __new__ is a Python function.
_new: Final = tuple.__new__


def parse_ip(data: bytes) -> Packet:
    """Parse the IPv4 or IPv6 packet that ``data`` starts with.

    What follows the packet's own length is cut (Ethernet padding). A packet of which only the
    beginning was captured is parsed as far as it goes, as long as all headers up to the
    transport header (TCP 20, UDP 8, ICMP 8 bytes) are there. An IPv4 total length or IPv6
    payload length of 0, as segmentation offload and jumbograms (RFC 2675) leave it, stands
    for the captured length. A first fragment is parsed like a whole packet.

    ``proto`` is what follows the IPv6 extension headers. Protocols other than TCP, UDP, ICMP
    and ICMPv6 have ports 0 and, like ICMP (after its first 8 bytes), their content as payload.

    Raises :class:`WireError` where a length field contradicts another or the headers.
    """
    captured = len(data)
    if captured < 20:
        raise WireError("shorter than an IP header")
    version = data[0] >> 4
    if version == 4:
        first, length, field, proto, src, dst = _IPV4(data)
        offset = (first & 15) << 2
        if not length:
            length = captured
        if offset < 20 or offset > length:
            raise WireError("IPv4 header length out of range")
        more = field & _MORE_FRAGMENTS
        fragment = field & _OFFSET_MASK
    elif version == 6:
        if captured < 40:
            raise WireError("shorter than an IPv6 header")
        length, proto, src, dst = _IPV6(data)
        length = length + 40 if length or proto == _NO_NEXT_HEADER else captured
        offset = 40
        more = fragment = 0
        if proto in _EXTENSIONS:
            proto, offset, fragment, more = _skip_extensions(data, proto, min(length, captured))
    else:
        raise WireError("neither IPv4 nor IPv6")
    if fragment:
        return _new(Packet, (proto, src, 0, dst, 0, length, 0, 0, b"", True))

    end = min(length, captured)
    if proto == IPPROTO_TCP:
        if offset + 20 > end:
            raise WireError("TCP header cut short")
        sport, dport, seq, words, flags = _TCP(data, offset)
        # The upper four bits count 32-bit words.
        start = offset + (words >> 2 & 0x3C)
        if start < offset + 20 or start > length:
            raise WireError("TCP data offset out of range")
        return _new(Packet, (proto, src, sport, dst, dport, length, flags, seq, data[start:end], False))
    if proto == IPPROTO_UDP:
        if offset + 8 > end:
            raise WireError("UDP header cut short")
        sport, dport, size = _UDP(data, offset)
        # 0 is a jumbogram's (RFC 2675 4); a first fragment's length is the whole datagram's.
        if size:
            if size < 8 or (offset + size > length and not more):
                raise WireError("UDP length out of range")
            end = min(end, offset + size)
        return _new(Packet, (proto, src, sport, dst, dport, length, 0, 0, data[offset + 8 : end], False))
    if proto in _ECHOES:
        if offset + 8 > end:
            raise WireError("ICMP header cut short")
        kind, code, ident = _ICMP(data, offset)
        if kind not in _ECHOES[proto]:
            ident = 0
        payload = data[offset + 8 : end]
        return _new(Packet, (proto, src, ident, dst, kind << 8 | code, length, 0, 0, payload, False))
    if offset > end:
        raise WireError("IP header cut short")
    return _new(Packet, (proto, src, 0, dst, 0, length, 0, 0, data[offset:end], False))


def _skip_extensions(data: bytes, proto: int, end: int) -> tuple[int, int, int, int]:
    """Step over IPv6 extension headers (RFC 8200 4) from offset 40.

    Returns the upper-layer protocol, its offset, and of a fragment header its fragment offset
    and its more-fragments flag; stops behind the fragment header of a later fragment.
    """
    offset = 40
    more = 0
    for _ in range(_MAX_EXTENSIONS):
        if offset + 8 > end:
            raise WireError("IPv6 extension header cut short")
        if proto == _HOP_BY_HOP and offset != 40:
            raise WireError("hop-by-hop options are not first")
        follows, size = data[offset], data[offset + 1]
        if proto == _FRAGMENT_HEADER:
            (field,) = _FRAGMENT(data, offset)
            offset += 8
            if field >> 3:
                return follows, offset, field >> 3, field & 1
            more = field & 1
        elif proto == _AUTHENTICATION:
            offset += (size + 2) << 2  # RFC 4302 2.2: in 32-bit words, minus 2
        else:
            offset += (size + 1) << 3
        proto = follows
        if proto not in _EXTENSIONS:
            if offset > end:
                raise WireError("IPv6 extension header cut short")
            return proto, offset, 0, more
    raise WireError("too many IPv6 extension headers")
