# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns a DNS response on its way to a device into one that says: there is no such name. Pure.

Owns the rewriting of one packet. Whether a name is to be refused is for the caller to say, who has
read the message already.
"""

from struct import Struct
from typing import Final

from spind.model import IPPROTO_UDP
from spind.wire.cursor import Cursor
from spind.wire.errors import WireError
from spind.wire.packet import parse_ip

_HEADER: Final = Struct("!HHHHHH")
_U16: Final = Struct("!H")
_UDP: Final = Struct("!HHHH")
_NXDOMAIN: Final = 3
_TYPE_OPT: Final = 41

_RESPONSE: Final = 0x8000
# Kept of the flags (RFC 1035 4.1.1, RFC 4035 3): all but TC, as nothing is missing (it would have the
# client ask again over TCP), AD, as this is not authentic, and the code.
_KEPT: Final = 0xFDD0

_MAX_LABEL: Final = 63
_POINTER: Final = 0xC0
_MORE_OR_LATER_FRAGMENT: Final = 0x3FFF
_MAX_NAME: Final = 255  # RFC 1035 2.3.4

# Among so many records OPT is looked for: more do not come over UDP, but for making us work.
_MAX_RECORDS: Final = 200


def refuse(packet: bytes) -> bytes | None:
    """Return the packet with NXDOMAIN (RFC 1035 4.1.1) in place of what it answers.

    ``packet`` is a whole IPv4 or IPv6 packet with a UDP DNS response to one question. IP header, ports,
    id and question stay; lengths and checksums are computed anew, whatever they were: of a packet that
    this machine sends they may not have been filled in yet. No record stays but OPT, since a client
    takes its absence for a server that has no EDNS (RFC 6891 7), its options with it (a cookie is
    waited for, RFC 7873 5.3).

    ``None`` where that cannot be made of it: not UDP, not a response, none or several questions (RFC
    9619), a fragment, IPv6 with extension headers, lengths that contradict each other, a malformed
    question. An OPT record that cannot be reached or is not the only one is left out.
    """
    try:
        parsed = parse_ip(packet)
        if parsed.proto != IPPROTO_UDP or len(packet) < parsed.length:
            return None
        if len(parsed.src) == 4:
            start = (packet[0] & 15) << 2
            if _U16.unpack_from(packet, 6)[0] & _MORE_OR_LATER_FRAGMENT:
                return None
        else:
            start = 40
            if packet[6] != IPPROTO_UDP:
                return None
        if start + 8 + len(parsed.payload) != parsed.length:
            return None
        answer = _no_such_name(parsed.payload)
    except WireError:
        return None
    if answer is None:
        return None
    size = 8 + len(answer)
    header = bytearray(packet[:start])
    if len(parsed.src) == 4:
        # RFC 791 3.1: total length and header checksum.
        _U16.pack_into(header, 2, start + size)
        _U16.pack_into(header, 10, 0)
        _U16.pack_into(header, 10, _checksum(header))
    else:
        _U16.pack_into(header, 4, size)
    # RFC 768, RFC 8200 8.1: over a pseudo header, too. None at all (0) is allowed in IPv4 only.
    pseudo = parsed.src + parsed.dst + b"\0\0" + _U16.pack(size) + b"\0\x11"
    checksum = _checksum(pseudo + _UDP.pack(parsed.sport, parsed.dport, size, 0) + answer) or 0xFFFF
    return bytes(header) + _UDP.pack(parsed.sport, parsed.dport, size, checksum) + answer


def _no_such_name(message: bytes) -> bytes | None:
    """A DNS message as one without records; ``WireError`` where its question is malformed."""
    cursor = Cursor(message)
    ident, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(
        message, cursor.advance(_HEADER.size)
    )
    if not flags & _RESPONSE or questions != 1:
        return None
    if not _skip_name(cursor) or cursor.pos - _HEADER.size > _MAX_NAME:
        return None
    cursor.advance(4)
    question = message[_HEADER.size : cursor.pos]
    option = _find_opt(cursor, answers + authorities, additionals)
    return _HEADER.pack(ident, flags & _KEPT | _NXDOMAIN, 1, 0, 0, 1 if option else 0) + question + option


def _skip_name(cursor: Cursor) -> bool:
    """Step over a name (RFC 1035 4.1.4). Whether it was written out, without a pointer."""
    while size := cursor.u8():
        if size >= _POINTER:
            cursor.advance(1)
            return False
        if size > _MAX_LABEL:
            raise WireError("label type is reserved")
        cursor.advance(size)
    return True


def _find_opt(cursor: Cursor, others: int, additionals: int) -> bytes:
    """The OPT record (RFC 6891 6.1.2) of a message, of which its code's upper bits are taken; or nothing.

    ``cursor`` is behind the question, with ``others`` records before the ``additionals``.
    """
    found = b""
    try:
        for number in range(min(others + additionals, _MAX_RECORDS)):
            start = cursor.pos
            _skip_name(cursor)
            named = cursor.pos - start > 1
            kind = cursor.u16()
            cursor.advance(6)
            cursor.advance(cursor.u16())
            if kind == _TYPE_OPT and number >= others:
                if named or found:
                    return b""
                record = cursor.data[start : cursor.pos]
                found = record[:5] + b"\0" + record[6:]
    except WireError:
        pass
    return found


def _checksum(data: bytes | bytearray) -> int:
    """The Internet checksum (RFC 1071): the complement of the sum in one's complement arithmetic."""
    # 2^16 is 1 modulo 65535: so is the sum of 16-bit words the number itself; 0 comes of zeros only.
    number = int.from_bytes(data) << (8 if len(data) & 1 else 0)
    return ~(number % 0xFFFF or (0xFFFF if number else 0)) & 0xFFFF
