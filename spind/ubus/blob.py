# SPDX-License-Identifier: GPL-2.0-or-later
r"""Blobs and blobmsg, the encoding of OpenWrt's bus (libubox ``blob.h``, ``blobmsg.h``). Pure.

A blob attribute is a 32-bit head and a value, padded with zeros to 4 bytes; all numbers are in
network byte order::

    extended (1 bit) | id (7 bits) | length of head and value, without padding (24 bits)

blobmsg has a type as the id, and sets the extended bit where a name comes before the value: 16
bits of length, the name, a NUL, padding to 4 bytes. Values by type:

=====  ======  ==================================================================
id     type    value
=====  ======  ==================================================================
0      UNSPEC  none: JSON's null
1      ARRAY   attributes, whose names (always empty) mean nothing
2      TABLE   attributes, each with a name
3      STRING  UTF-8 here (libubox does not say), and a NUL
4..7   INT64, INT32, INT16, INT8: signed; INT8 is a boolean
8      DOUBLE  IEEE 754, 64 bits
=====  ======  ==================================================================

Reading is stricter than libubox, which skips what it does not understand, and other programs
might understand: whatever is malformed, an empty or repeated name in a table, NaN and a NUL
inside a string are a ``WireError``. Writing chooses types as ``blobmsg_json.c`` does.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import isfinite
from struct import Struct
from typing import Final

from spind.wire.errors import WireError

ARRAY: Final = 1
TABLE: Final = 2
STRING: Final = 3
INT64: Final = 4
INT32: Final = 5
INT16: Final = 6
INT8: Final = 7
DOUBLE: Final = 8

MAX_DEPTH: Final = 32
"""Nested tables and arrays, as in JSON-RPC; no method takes more than four."""

MAX_VALUES: Final = 4096
"""Values of a table that is read, with all in it: some 4 ms of work. No method takes a tenth."""

_EXTENDED: Final = 0x80000000
_LENGTH: Final = 0x00FFFFFF

_HEAD: Final = Struct(">I")
_NAME: Final = Struct(">H")
_DOUBLE: Final = Struct(">d")
_INTEGERS: Final = {INT64: Struct(">q"), INT32: Struct(">i"), INT16: Struct(">h")}
_PAD: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


def pack_attribute(ident: int, value: bytes) -> bytes:
    """A plain blob attribute, padded; ``ValueError`` where the value has more than 16 MiB."""
    length = len(value) + 4
    if length > _LENGTH:
        raise ValueError("a blob attribute has at most 16 MiB")
    return _HEAD.pack(ident << 24 | length) + value + _PAD[length & 3]


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The plain blob attributes that ``data`` consists of, as (id, value)."""
    position, size = 0, len(data)
    while position < size:
        ident, start, stop, following = _attribute(data, position, size)
        yield ident & 0x7F, data[start:stop]
        position = following


def signed32(number: int) -> int:
    """An unsigned 32-bit number as the signed one of the same bits, to be written as an INT32."""
    return number - (1 << 32) if number >= 1 << 31 else number


def _attribute(data: bytes, position: int, end: int) -> tuple[int, int, int, int]:
    """The attribute at ``position``: id with the extended bit (0x80), value's start and stop, next one."""
    if end - position < 4:
        raise WireError("blob: attribute cut short")
    (head,) = _HEAD.unpack_from(data, position)
    length = head & _LENGTH
    following = position + ((length + 3) & ~3)
    if length < 4 or following > end:
        raise WireError("blob: attribute length out of bounds")
    return head >> 24, position + 4, position + length, following


# Reading


def decode_table(data: bytes, max_values: int = MAX_VALUES) -> dict[str, object]:
    """The table whose attributes ``data`` consists of; values are of JSON's types.

    ``WireError`` where it is malformed, nests deeper than ``MAX_DEPTH`` or has more than
    ``max_values`` values.
    """
    return _Reader(data, max_values).table(0, len(data), 1)


class _Reader:
    """Reads one table; ``left`` is how many more values it may have."""

    __slots__ = ("data", "left")

    def __init__(self, data: bytes, left: int) -> None:
        self.data = data
        self.left = left

    def table(self, position: int, end: int, depth: int) -> dict[str, object]:
        data = self.data
        members: dict[str, object] = {}
        while position < end:
            ident, start, stop, position = _attribute(data, position, end)
            if not ident & 0x80:
                raise WireError("blobmsg: a member of a table has no name")
            first = self._after_name(start, stop)
            size = _NAME.unpack_from(data, start)[0]
            name = _text(data[start + 2 : start + 2 + size])
            if not name:
                raise WireError("blobmsg: a member of a table has an empty name")
            if name in members:
                raise WireError("blobmsg: two members of a table have the same name")
            members[name] = self._value(ident & 0x7F, first, stop, depth)
        return members

    def _array(self, position: int, end: int, depth: int) -> list[object]:
        items: list[object] = []
        while position < end:
            ident, start, stop, position = _attribute(self.data, position, end)
            if ident & 0x80:
                start = self._after_name(start, stop)
            items.append(self._value(ident & 0x7F, start, stop, depth))
        return items

    def _after_name(self, start: int, stop: int) -> int:
        """Where the value begins, after a name that begins at ``start``."""
        if stop - start < 4:  # the shortest, of an empty name
            raise WireError("blobmsg: name cut short")
        size = _NAME.unpack_from(self.data, start)[0]
        first: int = start + ((size + 6) & ~3)  # 2 bytes of length and a NUL, padded
        if first > stop or self.data[start + 2 + size]:
            raise WireError("blobmsg: name out of bounds")
        return first

    def _value(self, kind: int, start: int, stop: int, depth: int) -> object:
        self.left -= 1
        if self.left < 0:
            raise WireError("blobmsg: too many values")
        data = self.data
        if kind == STRING:
            if start == stop or data[stop - 1]:
                raise WireError("blobmsg: string without an end")
            return _text(data[start : stop - 1])
        integer = _INTEGERS.get(kind)
        if integer is not None:
            if stop - start != integer.size:
                raise WireError("blobmsg: integer of a wrong length")
            return integer.unpack_from(data, start)[0]
        if kind == INT8:
            if stop - start != 1:
                raise WireError("blobmsg: boolean of a wrong length")
            return data[start] != 0
        if kind in (TABLE, ARRAY):
            if depth >= MAX_DEPTH:
                raise WireError("blobmsg: nested too deep")
            return (self.table if kind == TABLE else self._array)(start, stop, depth + 1)
        if kind == DOUBLE:
            if stop - start != 8:
                raise WireError("blobmsg: double of a wrong length")
            (real,) = _DOUBLE.unpack_from(data, start)
            if not isfinite(real):
                raise WireError("blobmsg: not a number")
            return real
        if kind == 0 and start == stop:
            return None
        raise WireError("blobmsg: unknown type")


def _text(value: bytes) -> str:
    if 0 in value:
        raise WireError("blobmsg: NUL in a text")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise WireError("blobmsg: text is not UTF-8") from error


# Writing


def encode_table(members: Mapping[str, object]) -> bytes:
    """The attributes of a table of JSON-like values: what ``decode_table`` reads.

    Whole numbers are INT32 where they fit, else INT64. What a string can not carry (NUL, lone
    surrogates) is replaced in values, since those quote the network. ``ValueError`` where a name is
    empty, too long or has a NUL, where a number is not finite or has more than 64 bits, and where
    it nests deeper than ``MAX_DEPTH``; ``TypeError`` for what JSON does not have.
    """
    return _members(members, 1)


def _members(members: Mapping[str, object], depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise ValueError(f"blobmsg nests at most {MAX_DEPTH} deep here")
    return b"".join([_pack(_name(name), value, depth) for name, value in members.items()])


def _items(items: Sequence[object], depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise ValueError(f"blobmsg nests at most {MAX_DEPTH} deep here")
    return b"".join([_pack(_NO_NAME, value, depth) for value in items])


_NO_NAME: Final = bytes(4)


@lru_cache(maxsize=512)  # names of members are few, and the same again and again
def _name(name: str) -> bytes:
    """The name as it comes before a value."""
    text = name.encode()
    if not text or len(text) > 0xFFFF or 0 in text:
        raise ValueError("a name in a table has 1 to 65535 bytes, none of them NUL")
    return _NAME.pack(len(text)) + text + bytes(4 - ((len(text) + 2) & 3))


def _pack(name: bytes, value: object, depth: int) -> bytes:
    kind = type(value)
    body: bytes
    if kind is str:
        body = value.encode("utf-8", "replace")  # type: ignore[attr-defined]  # it is a str
        if 0 in body:
            body = body.replace(b"\0", b"\xef\xbf\xbd")  # U+FFFD
        ident = STRING
        body += b"\0"
    elif kind is int:
        if -0x80000000 <= value <= 0x7FFFFFFF:  # type: ignore[operator]  # it is an int
            return _HEAD.pack(_EXTENDED | INT32 << 24 | len(name) + 8) + name + _INTEGERS[INT32].pack(value)
        if not -(1 << 63) <= value < 1 << 63:  # type: ignore[operator]
            raise ValueError("a number has more than 64 bits")
        return _HEAD.pack(_EXTENDED | INT64 << 24 | len(name) + 12) + name + _INTEGERS[INT64].pack(value)
    elif kind is bool:
        ident, body = INT8, b"\1" if value else b"\0"
    elif value is None:
        ident, body = 0, b""
    elif kind is float:
        if not isfinite(value):  # type: ignore[arg-type]  # it is a float
            raise ValueError("a number is not finite")
        ident, body = DOUBLE, _DOUBLE.pack(value)
    elif isinstance(value, Mapping):
        ident, body = TABLE, _members(value, depth + 1)
    elif isinstance(value, list | tuple):
        ident, body = ARRAY, _items(value, depth + 1)
    else:
        raise TypeError(f"blobmsg has no type for {kind.__name__}")
    length = len(name) + len(body) + 4
    if length > _LENGTH:
        raise ValueError("a blob attribute has at most 16 MiB")
    return _HEAD.pack(_EXTENDED | ident << 24 | length) + name + body + _PAD[length & 3]
