# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages between a client and ubusd, as in ubus' ``ubusmsg.h``. Pure.

A message is an 8-byte header (version 0, type, sequence number, peer; network byte order) and one
blob attribute with the message's own attributes in it. ``peer`` is the object that a request is
for, or the client that a reply is for; replies have the sequence number of their request.
"""

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from spind.ubus.blob import attributes, pack_attribute
from spind.wire.errors import WireError

_HEADER: Final = Struct(">BBHII")  # struct ubus_msghdr, and the head of the blob attribute

MAX_MESSAGE: Final = 1024 * 1024
"""Bytes of a message without its header (UBUS_MAX_MSGLEN); ubusd closes the connection beyond it."""

EVENT_OBJECT: Final = 1  # UBUS_SYSTEM_OBJECT_EVENT

# enum ubus_msg_type
HELLO: Final = 0
STATUS: Final = 1
DATA: Final = 2
PING: Final = 3
LOOKUP: Final = 4
INVOKE: Final = 5
ADD_OBJECT: Final = 6
REMOVE_OBJECT: Final = 7
SUBSCRIBE: Final = 8
UNSUBSCRIBE: Final = 9
NOTIFY: Final = 10

# enum ubus_msg_attr
ATTR_STATUS: Final = 1
ATTR_OBJPATH: Final = 2
ATTR_OBJID: Final = 3
ATTR_METHOD: Final = 4
ATTR_OBJTYPE: Final = 5
ATTR_SIGNATURE: Final = 6
ATTR_DATA: Final = 7
ATTR_TARGET: Final = 8
ATTR_ACTIVE: Final = 9
ATTR_NO_REPLY: Final = 10
ATTR_USER: Final = 12
ATTR_GROUP: Final = 13

_NUMBERS: Final = {
    ATTR_STATUS: "status",
    ATTR_OBJID: "object",
    ATTR_OBJTYPE: "type",
    ATTR_TARGET: "target",
}
_TEXTS: Final = {ATTR_OBJPATH: "path", ATTR_METHOD: "method", ATTR_USER: "user", ATTR_GROUP: "group"}
_FLAGS: Final = {ATTR_ACTIVE: "active", ATTR_NO_REPLY: "no_reply"}
_TABLES: Final = {ATTR_SIGNATURE: "signature", ATTR_DATA: "data"}


class Status(IntEnum):
    """How a request ended (enum ubus_msg_status)."""

    OK = 0
    INVALID_COMMAND = 1
    INVALID_ARGUMENT = 2
    METHOD_NOT_FOUND = 3
    NOT_FOUND = 4
    NO_DATA = 5
    PERMISSION_DENIED = 6
    TIMEOUT = 7
    NOT_SUPPORTED = 8
    UNKNOWN_ERROR = 9
    CONNECTION_FAILED = 10
    NO_MEMORY = 11
    PARSE_ERROR = 12
    SYSTEM_ERROR = 13


class Message(NamedTuple):
    """One message; ``body`` are its attributes, not yet looked at."""

    type: int
    seq: int
    peer: int
    body: bytes


class Fields(NamedTuple):
    """A message's attributes, ``None`` where absent. ``signature`` and ``data`` are still encoded."""

    status: int | None = None
    path: str | None = None
    object: int | None = None
    method: str | None = None
    type: int | None = None
    signature: bytes | None = None
    data: bytes | None = None
    target: int | None = None
    active: bool | None = None
    no_reply: bool | None = None
    user: str | None = None
    group: str | None = None


class Framer:
    """Cuts a stream of bytes into messages.

    Bound: it keeps what it was fed and not asked for; one message is at most ``MAX_MESSAGE``, so a
    feeder that takes out all whole messages before it feeds again never has it keep more.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    def next(self) -> Message | None:
        """The next message, or ``None`` until more is received; ``WireError`` ends the stream."""
        buffer = self._buffer
        if len(buffer) < _HEADER.size:
            return None
        version, kind, seq, peer, head = _HEADER.unpack_from(buffer)
        length = head & 0xFFFFFF
        if version != 0 or not 4 <= length <= MAX_MESSAGE:
            raise WireError("ubus: no message")
        end = _HEADER.size - 4 + length
        if len(buffer) < end:
            return None
        body = bytes(memoryview(buffer)[_HEADER.size : end])
        del buffer[:end]
        return Message(kind, seq, peer, body)


def parse_fields(body: bytes) -> Fields:
    """A message's attributes; of a repeated one the last, as in libubus. Unknown ones are skipped."""
    found: dict[str, object] = {}
    for ident, value in attributes(body):
        if (name := _NUMBERS.get(ident)) is not None:
            if len(value) != 4:
                raise WireError("ubus: number of a wrong length")
            found[name] = int.from_bytes(value)
        elif (name := _TEXTS.get(ident)) is not None:
            if value[-1:] != b"\0":
                raise WireError("ubus: string without an end")
            try:
                found[name] = value[:-1].decode()
            except UnicodeDecodeError as error:
                raise WireError("ubus: string is not UTF-8") from error
        elif (name := _TABLES.get(ident)) is not None:
            found[name] = value
        elif (name := _FLAGS.get(ident)) is not None:
            if len(value) != 1:
                raise WireError("ubus: flag of a wrong length")
            found[name] = value != b"\0"
    return Fields(**found)  # type: ignore[arg-type]  # types are as the tables above have them


def pack_message(kind: int, seq: int, peer: int, body: bytes = b"") -> bytes:
    """A whole message; ``ValueError`` where ubusd would not take it."""
    length = len(body) + 4
    if length > MAX_MESSAGE:
        raise ValueError(f"a message has at most {MAX_MESSAGE} bytes, not {length}")
    return _HEADER.pack(0, kind, seq, peer, length) + body


def number(attribute: int, value: int) -> bytes:
    """An attribute with an unsigned 32-bit number."""
    return pack_attribute(attribute, value.to_bytes(4))


def text(attribute: int, value: str) -> bytes:
    """An attribute with a string; ``ValueError`` where there is a NUL in it."""
    if "\0" in value:
        raise ValueError("a string has no NUL inside")
    return pack_attribute(attribute, value.encode() + b"\0")


def flag(attribute: int, *, value: bool) -> bytes:
    """An attribute with a truth value."""
    return pack_attribute(attribute, b"\1" if value else b"\0")


def table(attribute: int, members: bytes) -> bytes:
    """An attribute with a table that is encoded already."""
    return pack_attribute(attribute, members)


def invocation(target: int, method: str, members: bytes) -> bytes:
    """The attributes of an INVOKE or NOTIFY: object, method, encoded arguments."""
    return number(ATTR_OBJID, target) + text(ATTR_METHOD, method) + table(ATTR_DATA, members)
