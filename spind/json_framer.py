# SPDX-License-Identifier: GPL-2.0-or-later
"""Where one JSON text ends and the next begins in a stream of bytes; pure.

SPIN 1.0's clients send one JSON text and wait, without a line end; other clients send one
text a line, or several at once. So the end of a text is found in the text itself: where its
outermost bracket closes. This module must not judge whether what is between the brackets is
JSON: that is the parser's part.
"""

import re

MAX_TEXT = 64 * 1024  # bytes; as the longest request (jsonrpc.MAX_REQUEST)
MAX_DEPTH = 64  # brackets; twice what a request may nest, so that the parser gives the sentence

_SPACE = re.compile(rb"[ \t\r\n]*")  # RFC 8259 section 2
# A whole string without escapes counts as one step: most are.
_BRACKET_OR_STRING = re.compile(rb'"[^"\\]*"|["{}\[\]]')
_QUOTE_OR_ESCAPE = re.compile(rb'["\\]')


class FrameError(ValueError):
    """No JSON object or array can begin here, or it is too long or too deep: give up."""


class JsonFramer:
    """Collects bytes and hands out the JSON texts (objects and arrays) in them.

    Holds at most ``MAX_TEXT`` bytes more than it was fed since the last ``next`` that
    returned ``None``.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._depth = 0
        self._in_string = False
        self.bare = False

    @property
    def pending(self) -> int:
        """Bytes that wait for the rest of their text."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole text, or ``None`` where more bytes are needed; ``FrameError``.

        ``bare`` then tells that no line end has followed the last text (so far).
        """
        if not self._depth and not self._start():
            return None
        end = self._find_end()
        if max(end or 0, self._scanned) > MAX_TEXT:
            raise FrameError(f"a request has at most {MAX_TEXT} bytes")
        if end is None:
            return None
        text = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._scanned = 0
        self.bare = True
        self._skip_space()
        return text

    def _start(self) -> bool:
        """Whether a text begins at the head of the buffer."""
        self._skip_space()
        if not self._buffer:
            return False
        if self._buffer[0] not in b"{[":
            raise FrameError("a request must be a JSON object or an array of them")
        return True

    def _skip_space(self) -> None:
        match = _SPACE.match(self._buffer)
        if match is not None and match.end():
            if b"\n" in match.group():
                self.bare = False
            del self._buffer[: match.end()]

    def _find_end(self) -> int | None:
        """Offset behind the closing bracket; remembers how far it has looked."""
        buffer = self._buffer
        position = self._scanned
        while True:
            match = (_QUOTE_OR_ESCAPE if self._in_string else _BRACKET_OR_STRING).search(buffer, position)
            if match is None:
                self._scanned = len(buffer)
                return None
            char = buffer[match.start()]
            position = match.end()
            if char == 0x22:  # quote
                if position == match.start() + 1:
                    self._in_string = not self._in_string
            elif char == 0x5C:  # escape: whatever comes next is part of the string
                if position == len(buffer):
                    self._scanned = position - 1
                    return None
                position += 1
            elif char in b"{[":
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    raise FrameError(f"a request nests at most {MAX_DEPTH} deep")
            else:
                self._depth -= 1
                if not self._depth:
                    return position
