# SPDX-License-Identifier: GPL-2.0-or-later
"""One packet capture, from its start to its end: by time, by size, by hand, or by failure.

Owns its processes (``pcap_source``), one for each interface, and its bytes (``pcap_file``), which are in
memory and never on a disk. What its process writes is cut at the borders of records. Must not know the
other captures.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from spind.deeds_captures import CaptureRequest, request_shape
from spind.pcap_file import PcapFile
from spind.pcap_source import Source, SourceError
from spind.pcap_stream import HEADER_SIZE, PcapError, PcapStream
from spind.shapes import Json

log = logging.getLogger(__name__)

START_SECONDS = 30.0
"""What a capturing process has to begin: an emulated router takes some seconds to import scapy."""


class _Input:
    """One of a capture's processes, and the stream it writes."""

    def __init__(self, capture: "Capture", interface: str, arguments: list[str]) -> None:
        self.stream = PcapStream()
        self.source = Source(interface, arguments, partial(capture.take, self))


class Capture:
    """One capture, from its start until it is given up."""

    def __init__(
        self,
        number: int,
        request: CaptureRequest,
        inputs: list[tuple[str, list[str]]],
        changed: Callable[[], None],
    ) -> None:
        """``inputs`` are (interface, argument list of a process). Raises ``OSError`` without memory."""
        self.number = number
        self.request = request
        self.file = PcapFile()
        self.state = "starting"
        self.reason = ""
        self.ended = 0.0
        """When it ended, in the loop's time; 0 while it has not."""
        self._started = int(time.time())
        self._loop = asyncio.get_running_loop()
        self._packets = 0
        self._notes: list[str] = []
        self._inputs = [_Input(self, *one) for one in inputs]
        self._kind: tuple[bytes, int] | None = None
        self._deadline = 0.0
        self._timer = self._loop.call_later(START_SECONDS, self._end, "error: it could not begin in time")
        self._changed = changed
        self.task = self._loop.create_task(self._run(), name=f"capture {number}")

    @property
    def running(self) -> bool:
        """It may grow still, or its processes are not gone yet."""
        return self.state != "ended"

    @property
    def missing(self) -> int:
        """Bytes by which it may still grow."""
        return self.request.max_bytes - self.file.size if self.running else 0

    def shape(self) -> Json:
        """As the methods tell it."""
        left = max(0.0, self._deadline - self._loop.time()) if self._deadline else self.request.seconds
        shape: Json = {
            "id": self.number,
            "state": self.state,
            "bytes": self.file.size,
            "packets": self._packets,
            "url": f"/api/v1/captures/{self.number}.pcap",
            **request_shape(self.request),
            "started": self._started,
            "seconds_left": round(left) if self.state in ("starting", "running") else 0,
            "interfaces": [each.source.interface for each in self._inputs],
        }
        if self.reason:
            shape["reason"] = self.reason
        if self._notes:
            shape["notes"] = list(self._notes)
        dropped = sum(each.source.dropped for each in self._inputs)
        if dropped:
            shape["dropped"] = dropped
        return shape

    def stop(self) -> None:
        """Have it end; ``task`` is done when it has."""
        self._end("stopped")

    def take(self, source: _Input, data: bytes) -> None:
        """Bytes of one of the processes."""
        if self.reason:
            return  # it ends: what still comes is read and forgotten
        try:
            piece = source.stream.feed(data, self.request.max_bytes - max(self.file.size, HEADER_SIZE))
            if source.stream.header and self._kind != source.stream.kind:
                self._begin(source)
            if piece.data:
                self.file.append(piece.data)
        except (PcapError, OSError) as error:
            self._end(f"error: {error}")
            return
        self._packets += piece.packets
        if piece.full:
            self._end("size")
        elif piece.packets:
            self._changed()

    def _begin(self, source: _Input) -> None:
        """A process has begun to capture: the first one gives the file its header."""
        if self._kind is not None:
            raise PcapError(f"{source.source.interface} is of another kind than the other interfaces")
        self._kind = source.stream.kind
        self.file.append(source.stream.header)
        self.state = "running"
        self._timer.cancel()
        self._deadline = self._loop.time() + self.request.seconds
        self._timer = self._loop.call_at(self._deadline, self._end, "time")
        self._changed()

    def _end(self, reason: str) -> None:
        if self.reason:
            return
        self.reason = reason
        self.state = "stopping"
        self._timer.cancel()
        for each in self._inputs:
            each.source.end()
        self._changed()

    async def _run(self) -> None:
        try:
            results = await asyncio.gather(*map(self._follow, self._inputs), return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    log.error("capture %d failed", self.number, exc_info=result)
                    self._notes.append(f"it failed: {type(result).__name__}")
            if not self.reason:
                self._end(f"error: {self._notes[-1] if self._notes else 'it ended by itself'}")
        finally:
            self._timer.cancel()
            self.file.finish()
            self.state = "ended"
            self.ended = self._loop.time()
            self._changed()
            log.info("capture %d ended (%s): %d packets", self.number, self.reason, self._packets)

    async def _follow(self, each: _Input) -> None:
        try:
            await each.source.run()
        except SourceError as error:
            self._notes.append(f"{each.source.interface}: {error}")
