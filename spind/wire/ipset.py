# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of ipset as netlink messages: make, fill, empty, list, destroy.

Owns the requests and the headers of sets in replies (``linux/netfilter/ipset/ip_set.h``, nfnetlink
subsystem 6). Pure: it opens no socket and knows nothing of what the sets are for.

Requests speak protocol 6, and revisions of the set types that every kernel since 3.10 understands and
that today's ``ipset`` can list.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from struct import Struct
from typing import NamedTuple

from spind.wire.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    attribute_map,
    messages,
    pack_attribute,
    pack_message,
)

NFNL_SUBSYS_IPSET = 6
CMD_CREATE, CMD_DESTROY, CMD_LIST, CMD_ADD, CMD_DEL = 2, 3, 7, 9, 10

NAME_BYTES = 31
"""A set's name has at most so many bytes (IPSET_MAXNAMELEN with its NUL)."""

Address = bytes
Element = Address | tuple[Address, int] | tuple[Address, int, int] | tuple[Address, int, int, int]
"""By the set's type. ``hash:ip``: address; ``hash:net``: address, prefix length (1 or more);
``hash:ip,port``: address, IP protocol, port; ``hash:net,port``: address, prefix length, protocol, port."""

_PROTOCOL = 6
_NESTED, _NET_ORDER = 0x8000, 0x4000  # flags in nla_type
_NLM_F_EXCL, _NLM_F_CREATE = 0x200, 0x400
_NLM_F_CHANGE = NLM_F_REQUEST | NLM_F_ACK
_REVISIONS = {"hash:ip": 1, "hash:net": 3, "hash:ip,port": 2, "hash:net,port": 4}  # those with counters
_FAMILY = {4: 2, 6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6
_LIST_HEADER = 1 << 2  # IPSET_FLAG_LIST_HEADER

# At command level.
_ATTR_PROTOCOL, _ATTR_SETNAME, _ATTR_TYPENAME, _ATTR_REVISION = 1, 2, 3, 4
_ATTR_FAMILY, _ATTR_FLAGS, _ATTR_DATA, _ATTR_ADT, _ATTR_LINENO = 5, 6, 7, 8, 9
# Inside of IPSET_ATTR_DATA.
_ATTR_IP, _ATTR_CIDR, _ATTR_PORT, _ATTR_PROTO = 1, 3, 4, 7
_ATTR_HASHSIZE, _ATTR_MAXELEM, _ATTR_ELEMENTS, _ATTR_REFERENCES = 18, 19, 24, 25
_ATTR_IPADDR = {4: 1, 16: 2}  # by the bytes of an address

_NFGENMSG = Struct("!BBH")
_NFGENMSG_NONE = _NFGENMSG.pack(0, 0, 0)
_PROTOCOL_ATTRIBUTE = pack_attribute(_ATTR_PROTOCOL, bytes([_PROTOCOL]))
_ATTRIBUTE = Struct("=HH")
_BYTE = Struct("=HHBxxx")  # attributes with their values and padding
_PORT = Struct("=HH2sxx")

# Elements of one message: an attribute has at most 65,535 bytes, an element at most 48.
_MESSAGE_ELEMENTS = 1_000

_ERRORS = {
    2: "there is no such set",  # ENOENT
    4097: "the kernel speaks another protocol",
    4098: "the kernel has no such type of sets",
    4099: "no more sets are possible",
    4100: "the set is in use",
    4102: "a set of another type has that name",
    4103: "the element is there already, or is missing",
    4104: "not a prefix length",
    4352: "the set is full",
}


class Header(NamedTuple):
    """A set as the kernel lists it. ``elements`` is ``None`` where an old kernel does not count them."""

    name: str
    type: str
    family: int  # 4 or 6
    elements: int | None
    references: int


def error_text(number: int) -> str:
    """What an error code of an ipset reply means; empty where it is an errno."""
    return _ERRORS.get(number, f"error {number} of ipset" if number > 4095 else "")


def create_request(seq: int, name: str, kind: str, family: int, hash_size: int, limit: int) -> bytes:
    """A new, empty set of type ``kind``; refused where one of that name exists.

    ``hash_size`` is the initial number of buckets, ``limit`` the most elements that it may ever hold.
    """
    data = pack_attribute(_ATTR_HASHSIZE | _NET_ORDER, hash_size.to_bytes(4, "big"))
    data += pack_attribute(_ATTR_MAXELEM | _NET_ORDER, limit.to_bytes(4, "big"))
    payload = (
        _start(name)
        + pack_attribute(_ATTR_TYPENAME, kind.encode() + b"\0")
        + pack_attribute(_ATTR_REVISION, bytes([_REVISIONS[kind]]))
        + pack_attribute(_ATTR_FAMILY, bytes([_FAMILY[family]]))
        + pack_attribute(_ATTR_DATA | _NESTED, data)
    )
    return _message(CMD_CREATE, _NLM_F_CHANGE | _NLM_F_CREATE | _NLM_F_EXCL, seq, payload)


def destroy_request(seq: int, name: str) -> bytes:
    """Take a set out; refused while a rule refers to it."""
    return _message(CMD_DESTROY, _NLM_F_CHANGE, seq, _start(name))


def change_requests(seq: int, name: str, *, add: bool, elements: Iterable[Element]) -> Iterator[bytes]:
    """Messages that add or delete ``elements``, numbered from ``seq`` on; none where there are none.

    The kernel refuses to add what is there and to delete what is not. ``ValueError`` where an element
    is malformed.
    """
    command = CMD_ADD if add else CMD_DEL
    # Several elements in one message are taken only with a line number, which refusals then carry.
    start = _start(name) + pack_attribute(_ATTR_LINENO | _NET_ORDER, bytes(4))
    waiting = iter(elements)
    while block := list(islice(waiting, _MESSAGE_ELEMENTS)):
        try:
            packed = b"".join([_element(element) for element in block])
        except (struct.error, KeyError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"ipset: malformed element for {name}: {error}") from None
        payload = start + pack_attribute(_ATTR_ADT | _NESTED, packed)
        yield _message(command, _NLM_F_CHANGE | _NLM_F_EXCL, seq, payload)
        seq += 1


def list_request(seq: int) -> bytes:
    """Ask for the headers of all sets, without their elements."""
    payload = _NFGENMSG_NONE + _PROTOCOL_ATTRIBUTE
    payload += pack_attribute(_ATTR_FLAGS | _NET_ORDER, _LIST_HEADER.to_bytes(4, "big"))
    return _message(CMD_LIST, NLM_F_REQUEST | NLM_F_DUMP, seq, payload)


def parse_headers(data: bytes) -> Iterator[Header]:
    """Headers in one buffer of the reply; ``WireError`` if malformed. Other messages are skipped."""
    for message in messages(data):
        start = message.start + _NFGENMSG.size
        if message.type != (NFNL_SUBSYS_IPSET << 8 | CMD_LIST) or start > message.end:
            continue
        top = attribute_map(data, start, message.end)
        inner = top.get(_ATTR_DATA, b"")
        values = attribute_map(inner, 0, len(inner))
        count = values.get(_ATTR_ELEMENTS)
        yield Header(
            _string(top.get(_ATTR_SETNAME, b"")),
            _string(top.get(_ATTR_TYPENAME, b"")),
            6 if top.get(_ATTR_FAMILY) == bytes([_FAMILY[6]]) else 4,
            None if count is None else int.from_bytes(count, "big"),
            int.from_bytes(values.get(_ATTR_REFERENCES, b""), "big"),
        )


def _message(command: int, flags: int, seq: int, payload: bytes) -> bytes:
    return pack_message(NFNL_SUBSYS_IPSET << 8 | command, flags, seq, payload)


def _start(name: str) -> bytes:
    encoded = name.encode("ascii", "replace")
    if not 0 < len(encoded) <= NAME_BYTES or b"\0" in encoded:
        raise ValueError(f"not the name of a set: {name!r}")
    return _NFGENMSG_NONE + _PROTOCOL_ATTRIBUTE + pack_attribute(_ATTR_SETNAME, encoded + b"\0")


def _element(element: Element) -> bytes:
    if isinstance(element, bytes):
        return _HEADS[len(element), 0] + element
    address, *others = element
    rest = b""
    if len(others) != 2:
        bits = others.pop(0)
        if not 1 <= bits <= 8 * len(address):
            raise ValueError(f"ipset: no prefix length of an address: {bits}")
        rest = _BYTE.pack(5, _ATTR_CIDR, bits)
    if others:
        if len(others) != 2:
            raise ValueError(f"ipset: not an element: {element!r}")
        protocol, port = others
        if protocol not in (6, 17):
            raise ValueError(f"ipset: no protocol with ports: {protocol}")
        rest += _PORT.pack(6, _ATTR_PORT | _NET_ORDER, port.to_bytes(2, "big"))
        rest += _BYTE.pack(5, _ATTR_PROTO, protocol)
    return _HEADS[len(address), len(rest)] + address + rest


def _head(size: int, rest: int) -> bytes:
    """IPSET_ATTR_DATA, IPSET_ATTR_IP and the address's attribute, up to the address itself."""
    return (
        _ATTRIBUTE.pack(12 + size + rest, _ATTR_DATA | _NESTED)
        + _ATTRIBUTE.pack(8 + size, _ATTR_IP | _NESTED)
        + _ATTRIBUTE.pack(4 + size, _ATTR_IPADDR[size] | _NET_ORDER)
    )


# By the bytes of the address, and by those of the attributes that follow it.
_HEADS = {(size, rest): _head(size, rest) for size in (4, 16) for rest in (0, 8, 16, 24)}


def _string(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("ascii", "replace")
