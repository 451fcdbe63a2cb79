# SPDX-License-Identifier: GPL-2.0-or-later
"""The bounds-checked reader that nested formats (DNS, TLS) are parsed with.

Owns the rule that no read passes the end of the structure it belongs to: a nested length
becomes a cursor of its own (``sub``), which can not see what follows it. Numbers are in
network byte order.
"""

from struct import Struct
from typing import Final

from spind.wire.errors import WireError

_U16: Final = Struct("!H").unpack_from


class Cursor:
    """A position in ``data`` that moves forward and never beyond ``end``.

    Every read raises :class:`WireError` where fewer bytes remain than it needs, and then
    leaves the position where it was.
    """

    __slots__ = ("data", "end", "pos")

    def __init__(self, data: bytes, pos: int = 0, end: int | None = None) -> None:
        self.data = data
        self.pos = pos
        self.end = len(data) if end is None else end

    def advance(self, count: int) -> int:
        """Step over ``count`` bytes; returns the position they start at."""
        pos = self.pos
        if count > self.end - pos:
            raise WireError("cut short")
        self.pos = pos + count
        return pos

    def at_end(self) -> bool:
        """Whether everything has been read."""
        return self.pos >= self.end

    def u8(self) -> int:
        """Read one byte."""
        return self.data[self.advance(1)]

    def u16(self) -> int:
        """Read a 16-bit number."""
        number: int = _U16(self.data, self.advance(2))[0]
        return number

    def take(self, count: int) -> bytes:
        """Read ``count`` bytes."""
        pos = self.advance(count)
        return self.data[pos : pos + count]

    def sub(self, count: int) -> "Cursor":
        """Cursor over the next ``count`` bytes, which this one steps over."""
        pos = self.advance(count)
        return Cursor(self.data, pos, pos + count)
