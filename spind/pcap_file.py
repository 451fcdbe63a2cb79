# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture's bytes, in memory, with as many readers as like to.

Owns an anonymous file (memfd_create(2)): it is in no file system, so it never touches flash, and its
memory is the kernel's again once the capture and its last reader are gone. Readers read the file at
their own pace: a slow one costs nothing.
"""

import asyncio
import os
from typing import Self

from spind.calls import NotFoundError
from spind.pcap_stream import EMPTY

CHUNK = 65536
"""Bytes that a reader gets at once: 20 µs of copying."""


class PcapFile:
    """Grows until it is finished. It always holds a header, if any byte, and then whole records."""

    def __init__(self) -> None:
        """Raises ``OSError`` where there is no memory for it."""
        self._fd = os.memfd_create("spind-capture", os.MFD_CLOEXEC)
        self.size = 0
        self.finished = False
        self.closed = False
        self.readers = 0
        self._grown: asyncio.Event | None = None  # made when somebody waits

    def append(self, data: bytes) -> None:
        """Add to the end; raises ``OSError`` where memory is short, and is as before then."""
        written = 0
        while written < len(data):
            try:
                written += os.pwrite(self._fd, data[written:], self.size + written)
            except OSError:
                os.ftruncate(self._fd, self.size)
                raise
        self.size += written
        self._wake()

    def finish(self) -> None:
        """There will be no more: readers end at the end. A file without packets is a valid one, too."""
        if not self.finished:
            if not self.size:
                self.append(EMPTY)
            self.finished = True
            self._wake()

    def close(self) -> None:
        """Give the memory back; readers that are not at the end fail."""
        if not self.closed:
            self.closed = True
            os.close(self._fd)
            self._wake()

    async def read(self, offset: int) -> bytes:
        """What there is from ``offset`` on, at most a chunk; waits for more; nothing only at the very end."""
        while offset >= self.size and not (self.finished or self.closed):
            if self._grown is None:
                self._grown = asyncio.Event()
            await self._grown.wait()
        if offset >= self.size and self.finished:
            return b""
        if self.closed:
            raise NotFoundError("the capture was given up meanwhile: newer ones needed the room")
        return os.pread(self._fd, min(CHUNK, self.size - offset), offset)

    def _wake(self) -> None:
        grown, self._grown = self._grown, None
        if grown is not None:
            grown.set()


class Download:
    """A reader: an async iterator of the whole file from its beginning on, live until the capture ends.

    ``NotFoundError`` comes out of it where the capture is given up before the end. ``aclose`` ends it
    early; whoever starts to read closes it.
    """

    def __init__(self, file: PcapFile) -> None:
        self._file = file
        self._offset = 0
        self._open = True
        file.readers += 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._open:
            raise StopAsyncIteration
        try:
            chunk = await self._file.read(self._offset)
        except NotFoundError:
            self.close()
            raise
        if not chunk:
            self.close()
            raise StopAsyncIteration
        self._offset += len(chunk)
        return chunk

    def close(self) -> None:
        """Read no more."""
        if self._open:
            self._open = False
            self._file.readers -= 1

    async def aclose(self) -> None:
        """The same, as async generators have it."""
        self.close()
