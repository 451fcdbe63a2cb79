# SPDX-License-Identifier: GPL-2.0-or-later
"""Netlink messages: headers, attributes, error replies; both directions, bytes only.

Owns the framing that every netlink protocol shares (``linux/netlink.h``, netlink(7)). It knows
no protocol and opens no socket. Header fields are in host byte order.

A buffer from the kernel is a sequence of messages, each a 16-byte ``nlmsghdr`` and its payload,
padded to 4 bytes. Payloads end in attributes: a 4-byte ``nlattr`` (length with the header, type)
and a value, padded to 4 bytes; nested ones hold attributes again.
"""

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from spind.wire.errors import WireError

HEADER = Struct("=IHHII")  # nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid
ATTRIBUTE = Struct("=HH")  # nla_len, nla_type
_ERROR = Struct("=i")

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_OVERRUN = 4

NLM_F_REQUEST = 0x01
NLM_F_MULTI = 0x02
NLM_F_ACK = 0x04
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300

# The two flags in nla_type (NLA_F_NESTED, NLA_F_NET_BYTEORDER) say nothing that a reader needs.
TYPE_MASK = 0x3FFF


class Message(NamedTuple):
    """One message of a buffer; its payload is ``data[start:end]``."""

    type: int
    flags: int
    seq: int
    pid: int
    start: int
    end: int


def messages(data: bytes) -> Iterator[Message]:
    """Messages of one received buffer; ``WireError`` where lengths do not fit."""
    position, size = 0, len(data)
    while position < size:
        if size - position < HEADER.size:
            raise WireError("netlink: header cut short")
        length, kind, flags, seq, pid = HEADER.unpack_from(data, position)
        end = position + length
        if length < HEADER.size or end > size:
            raise WireError("netlink: message length out of bounds")
        yield Message(kind, flags, seq, pid, position + HEADER.size, end)
        position = (end + 3) & ~3


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Attributes in ``data[start:end]`` as (type without flags, value start, value end)."""
    while start < end:
        if end - start < ATTRIBUTE.size:
            raise WireError("netlink: attribute cut short")
        length, kind = ATTRIBUTE.unpack_from(data, start)
        stop = start + length
        if length < ATTRIBUTE.size or stop > end:
            raise WireError("netlink: attribute length out of bounds")
        yield kind & TYPE_MASK, start + ATTRIBUTE.size, stop
        start += (length + 3) & ~3


def attribute_map(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """Attributes in ``data[start:end]`` by type; of a repeated one the last, as in the kernel."""
    return {kind: data[first:stop] for kind, first, stop in attributes(data, start, end)}


def error_code(data: bytes, message: Message) -> int:
    """The errno of an ``NLMSG_ERROR`` or ``NLMSG_DONE`` message, 0 for an acknowledgement."""
    if message.end - message.start < _ERROR.size:
        if message.type == NLMSG_DONE:
            return 0  # old kernels end a dump without a status
        raise WireError("netlink: error message cut short")
    return -int(_ERROR.unpack_from(data, message.start)[0])


def pack_message(kind: int, flags: int, seq: int, payload: bytes) -> bytes:
    """One request with its header; ``payload`` is already padded."""
    return HEADER.pack(HEADER.size + len(payload), kind, flags, seq, 0) + payload


def pack_attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) & 3)
