# SPDX-License-Identifier: GPL-2.0-or-later
"""Packet captures: several at a time, read while they run, kept for a while.

Owns the list of captures (``pcap_capture``) and its bounds: how many, how much memory, how long one is
kept. Must not know nodes or names: a filter of addresses is what it gets.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from spind.calls import NotFoundError, UnavailableError
from spind.deeds_captures import CaptureRequest, refuse_all_but_owner
from spind.limits import CaptureLimits
from spind.pcap_capture import Capture
from spind.pcap_file import Download
from spind.pcap_source import command, find_tcpdump
from spind.shapes import Json

KEEP_SECONDS = 600.0
"""How long a capture that has ended is kept for download, unless newer ones need the room."""

CHANGE_SECONDS = 1.0
"""The pace of news about a running capture."""

MAX_INTERFACES = 8
"""Interfaces of one capture, each with a process of its own."""

MAX_READERS = 16
"""Downloads of one capture at a time."""


class Captures:
    """All captures. ``start``, ``stop`` and ``list`` are for the methods; ``open`` is for downloads."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interfaces: Callable[[], tuple[str, ...]],
        limits: CaptureLimits,
        on_change: Callable[[], None] = lambda: None,
        *,
        tcpdump: str | None = None,
    ) -> None:
        """``interfaces`` tells where the home's packets are seen. ``on_change`` is called when the list
        would say something new, and at most once a second meanwhile. ``tcpdump`` is its path, empty for
        none; by default it is looked for at each start."""
        self.limits = limits
        self._loop = loop
        self._interfaces = interfaces
        self._on_change = on_change
        self._tcpdump = tcpdump
        self._captures: dict[int, Capture] = {}
        self._next = 1
        self._changes: asyncio.TimerHandle | None = None
        self._told = float("-inf")
        self._expiry: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self, request: CaptureRequest) -> Json:
        """Start one: it is told in the state ``starting``. ``UnavailableError`` says what is in the way."""
        interfaces = self._interfaces()[:MAX_INTERFACES]
        if self._closed:
            raise UnavailableError("spind is stopping")
        if not interfaces:
            raise UnavailableError("none of the home's interfaces is there: see the option lan")
        self._check_memory(request.max_bytes)
        self._make_room()
        tcpdump = find_tcpdump() if self._tcpdump is None else self._tcpdump
        try:
            inputs = [(name, command(tcpdump, name, request.wanted)) for name in interfaces]
            capture = Capture(self._next, request, inputs, self._change)
        except (OSError, ValueError) as error:
            raise UnavailableError(f"nothing can be captured: {error}") from error
        self._captures[self._next] = capture
        self._next += 1
        capture.task.add_done_callback(lambda _task: self._tell())
        self._tell()
        return capture.shape()

    def stop(self, number: int) -> Json:
        """End one; one that has ended stays as it is."""
        capture = self._find(number)
        capture.stop()
        return capture.shape()

    def list(self) -> list[Json]:
        """All there are, the latest first."""
        return [capture.shape() for capture in reversed(self._captures.values())]

    def open(self, number: int, role: str) -> Download:
        """A reader of the whole capture from its beginning, live until it ends.

        ``NotFoundError`` where there is none, ``DeniedError`` for whoever is not the owner.
        """
        refuse_all_but_owner(role)
        capture = self._find(number)
        if capture.file.readers >= MAX_READERS:
            raise UnavailableError(f"capture {number} is being read by {MAX_READERS} others")
        return Download(capture.file)

    async def stop_all(self) -> None:
        """End all of them, and give all memory back; for the daemon's stop."""
        self._closed = True
        for timer in (self._changes, self._expiry):
            if timer is not None:
                timer.cancel()
        self._changes = self._expiry = None
        for capture in self._captures.values():
            capture.stop()
        await asyncio.gather(*(capture.task for capture in self._captures.values()))
        for capture in self._captures.values():
            capture.file.close()
        self._captures.clear()

    def _find(self, number: int) -> Capture:
        capture = self._captures.get(number)
        if capture is None:
            raise NotFoundError(f"there is no capture {number} (any more)")
        return capture

    def _make_room(self) -> None:
        """Give up the oldest that has ended, first one that nobody reads."""
        while len(self._captures) >= self.limits.captures:
            ended = [capture for capture in self._captures.values() if not capture.running]
            if not ended:
                raise UnavailableError(
                    f"{len(self._captures)} captures are running, more are not allowed (limit_captures)"
                )
            self._give_up(min(ended, key=lambda capture: (capture.file.readers > 0, capture.ended)))

    def _give_up(self, capture: Capture) -> None:
        capture.file.close()
        del self._captures[capture.number]

    def _check_memory(self, size: int) -> None:
        needed = size + sum(capture.missing for capture in self._captures.values())
        free = _free_memory()
        if free is not None and needed > free // 2:
            raise UnavailableError(
                f"max_bytes: captures would take up to {needed} bytes, over half of the memory that is free"
            )

    def _change(self) -> None:
        """Something is new: tell it now, or when a second is over."""
        if self._changes is None and not self._closed:
            wait = self._told + CHANGE_SECONDS - self._loop.time()
            self._changes = self._loop.call_later(max(0.0, wait), self._tell)

    def _tell(self) -> None:
        if self._changes is not None:
            self._changes.cancel()
            self._changes = None
        if self._closed:
            return
        self._told = self._loop.time()
        self._expire()
        self._on_change()

    def _expire(self) -> None:
        """Give up what ended long ago, and come back when the next one is due."""
        now = self._loop.time()
        ended = [capture for capture in self._captures.values() if not capture.running]
        for capture in ended:
            if now >= capture.ended + KEEP_SECONDS and not capture.file.readers:
                self._give_up(capture)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        due = [capture.ended + KEEP_SECONDS for capture in ended if capture.number in self._captures]
        if due:
            self._expiry = self._loop.call_at(max(min(due), now + CHANGE_SECONDS), self._tell)


def _free_memory() -> int | None:
    """Bytes that programs can have without anything being pushed out (proc_meminfo(5)); None: unknown."""
    try:
        with Path("/proc/meminfo").open() as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
