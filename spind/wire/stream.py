# SPDX-License-Identifier: GPL-2.0-or-later
"""The beginning of a TCP stream, put together from the segments that carry it.

Owns sequence numbers: order, overlap, retransmission, wrap. Holds one direction of one
connection, bounded by the limits it is made with. It knows nothing of flags or handshakes and
acknowledges nothing.
"""

from bisect import bisect_right
from typing import Final

from spind.wire.errors import WireError

_SEQUENCES: Final = 1 << 32
_HALF: Final = 1 << 31


class Reassembler:
    """Collects segments until their owner has read what it wants.

    At most ``limit_bytes`` from the unread start of the stream on are held, gaps included, and
    at most ``limit_segments`` segments may bring something new until the owner consumes: that
    bounds how often the owner looks at the same bytes again. There is no eviction; a stream
    that goes beyond is refused with :class:`WireError`, and should be given up.
    """

    __slots__ = ("_ahead", "_data", "_limit_bytes", "_limit_segments", "_segments", "_start")

    def __init__(self, limit_bytes: int, limit_segments: int) -> None:
        self._limit_bytes = limit_bytes
        self._limit_segments = limit_segments
        self._start: int | None = None
        self._segments = 0
        self._data = bytearray()
        # Behind a gap: (offset, bytes), by offset from the start, without overlap.
        self._ahead: list[tuple[int, bytes]] = []

    def set_start(self, seq: int) -> None:
        """Say which sequence number the stream starts with: that of the SYN, plus one.

        Without effect once the start is known, as for a SYN that is sent again.
        """
        if self._start is None:
            self._start = seq % _SEQUENCES

    def add(self, seq: int, payload: bytes) -> bytes | None:
        """Add the segment that starts with sequence number ``seq`` (RFC 9293 3.4).

        Returns the contiguous bytes from the start of the stream, where this segment made them
        more, else ``None``. The first segment sets the start, if ``set_start`` did not; what
        lies before the start is dropped. Where segments overlap, the bytes that came first
        stay, so that a copy sent later can not change what was judged.

        Raises :class:`WireError` where the segment goes beyond a limit; it is then not kept.
        """
        if not payload:
            return None
        if self._start is None:
            self._start = seq % _SEQUENCES
        offset = (seq - self._start) % _SEQUENCES
        if offset >= _HALF:
            offset -= _SEQUENCES
        known = len(self._data)
        end = offset + len(payload)
        if end <= known:
            return None
        if end > self._limit_bytes:
            raise WireError("stream is longer than what is kept of it")
        pieces = self._new_pieces(max(offset, known), end)
        if not pieces:
            return None
        if self._segments + len(pieces) > self._limit_segments:
            raise WireError("stream is in more segments than are kept of it")
        self._segments += len(pieces)
        self._ahead += [(first, payload[first - offset : last - offset]) for first, last in pieces]
        self._ahead.sort()
        return self._join()

    @property
    def held(self) -> int:
        """Bytes that are held."""
        return len(self._data) + sum(len(piece) for _, piece in self._ahead)

    def consume(self, count: int) -> None:
        """Forget the first ``count`` contiguous bytes, which the owner has read.

        The stream then starts behind them. Raises ``ValueError`` where there are fewer.
        """
        if self._start is None or not 0 <= count <= len(self._data):
            raise ValueError("more than there is")
        del self._data[:count]
        self._start = (self._start + count) % _SEQUENCES
        self._ahead = [(offset - count, piece) for offset, piece in self._ahead]
        self._segments = len(self._ahead)

    def _new_pieces(self, offset: int, end: int) -> list[tuple[int, int]]:
        """Parts of the range from ``offset`` to ``end`` that no earlier segment covers."""
        pieces = []
        index = bisect_right(self._ahead, offset, key=lambda item: item[0])
        if index:
            before, piece = self._ahead[index - 1]
            offset = max(offset, before + len(piece))
        for after, piece in self._ahead[index:]:
            if after >= end:
                break
            if offset < after:
                pieces.append((offset, after))
            offset = after + len(piece)
        if offset < end:
            pieces.append((offset, end))
        return pieces

    def _join(self) -> bytes | None:
        """Move what is contiguous from ``_ahead`` to ``_data``."""
        joined = 0
        for offset, piece in self._ahead:
            if offset != len(self._data):
                break
            self._data += piece
            joined += 1
        if not joined:
            return None
        del self._ahead[:joined]
        return bytes(self._data)
