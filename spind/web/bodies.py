# SPDX-License-Identifier: GPL-2.0-or-later
"""Bodies of requests while they come in, each and all together within bounds. Pure.

A body is in memory before anybody knows who sends it: without a bound of all together, 256 strangers that
send the longest one would take 16 MiB and more. Must not know what a body says.
"""

from spind.web.messages import WebError


class Bodies:
    """The bounds, in bytes, and what is received at this moment."""

    def __init__(self, each: int, together: int, small: int) -> None:
        """Where ``together`` is full, ``small`` bodies still get in: calls mostly have such."""
        self.each = each
        self.together = together
        self.small = small
        self.received = 0
        """Bytes that nobody has taken yet."""


class Body:
    """One of them."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._data = bytearray()
        self._refusal: WebError | None = None

    def add(self, chunk: bytes) -> None:
        """Some more; of one that is refused the rest is forgotten."""
        bodies, size = self._bodies, len(self._data) + len(chunk)
        if self._refusal is not None:
            return
        if size > bodies.each:
            self._refusal = WebError(413, f"a request has at most {bodies.each} bytes")
            self.forget()
        elif size > bodies.small and bodies.received + len(chunk) > bodies.together:
            self._refusal = WebError(503, "too much is being sent at this moment", (("Retry-After", "5"),))
            self.forget()
        else:
            self._data += chunk
            bodies.received += len(chunk)

    def take(self) -> bytes:
        """All of it; ``WebError`` where it was refused."""
        if self._refusal is not None:
            raise self._refusal
        data = bytes(self._data)
        self.forget()
        return data

    def forget(self) -> None:
        """Nobody wants it any more; may be called at any time, and twice."""
        self._bodies.received -= len(self._data)
        self._data.clear()
