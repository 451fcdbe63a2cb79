# SPDX-License-Identifier: GPL-2.0-or-later
"""DHCPv4 messages (RFC 2131), as far as they tell which address a device got and what it is called.

Owns the step from the payload of a UDP packet to the few fields that say so. It keeps no leases
and does not know who may be believed.
"""

from struct import Struct
from typing import Final, NamedTuple

from spind.model import Address, Mac
from spind.text import inert
from spind.wire.cursor import Cursor
from spind.wire.errors import WireError

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68

REQUEST: Final = 3
ACK: Final = 5

# RFC 2131 2: op, htype, hlen; ciaddr, yiaddr; chaddr; then sname and file, and at 236 the cookie.
_HEAD: Final = Struct("!BBB9x4s4s8x6s").unpack_from
_OPTIONS: Final = 240
_COOKIE: Final = b"\x63\x82\x53\x63"
_REPLY: Final = 2
_ETHERNET: Final = 1

# RFC 2132: 3.2 pad and end, 3.3 subnet mask, 3.14 host name, 9.6 message type.
_PAD: Final = 0
_SUBNET_MASK: Final = 1
_HOST_NAME: Final = 12
_MESSAGE_TYPE: Final = 53
_END: Final = 255

_MAX_NAME: Final = 63
"""Characters of a host name that are kept: one label's (RFC 1035 2.3.4)."""


class DhcpMessage(NamedTuple):
    """One message.

    ``kind`` is option 53 (``REQUEST``, ``ACK``), 0 for plain BOOTP. ``reply`` says that a server
    sent it. ``address`` is the one that a server gives, in a client's message the one it has
    (0.0.0.0 where it has none). ``prefix_bits`` is the length of the subnet mask, 0 where the
    message has none or one with holes. ``hostname`` is printable text, empty where there is none.
    """

    reply: bool
    kind: int
    mac: Mac
    address: Address
    prefix_bits: int
    hostname: str


def parse_dhcp(payload: bytes) -> DhcpMessage | None:
    """Parse a message; ``None`` where its client is not known by an Ethernet address.

    Options that continue in the ``sname`` and ``file`` fields (RFC 2131 4.1) are not read.
    Raises :class:`WireError` where it is cut short or is no DHCP or BOOTP message.
    """
    if len(payload) < _OPTIONS:
        raise WireError("shorter than a DHCP header")
    op, hardware, size, client, yours, mac = _HEAD(payload)
    if op not in (1, _REPLY) or payload[_OPTIONS - 4 : _OPTIONS] != _COOKIE:
        raise WireError("not a DHCP message")
    if (hardware, size) != (_ETHERNET, 6) or mac[0] & 1 or not any(mac):
        return None
    kind = bits = 0
    hostname = ""
    cursor = Cursor(payload, _OPTIONS)
    while not cursor.at_end():
        code = cursor.u8()
        if code == _PAD:
            continue
        if code == _END:
            break
        value = cursor.take(cursor.u8())
        if code == _MESSAGE_TYPE and len(value) == 1:
            kind = value[0]
        elif code == _SUBNET_MASK and len(value) == 4:
            bits = _prefix_bits(value)
        elif code == _HOST_NAME:
            hostname = inert(value.rstrip(b"\0").decode("utf-8", "replace"), _MAX_NAME)
    reply = op == _REPLY
    return DhcpMessage(reply, kind, mac, yours if reply else client, bits, hostname)


def _prefix_bits(mask: bytes) -> int:
    text = f"{int.from_bytes(mask):032b}"
    bits = text.rstrip("0")
    return 0 if "0" in bits else len(bits)
