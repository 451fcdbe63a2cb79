# SPDX-License-Identifier: GPL-2.0-or-later
"""How late the event loop runs: a packet may be waiting for its verdict meanwhile."""

from asyncio import AbstractEventLoop, TimerHandle

_EVERY = 0.2
"""Seconds between two looks: 5 a second cost 0.1 % of a core, 20 cost 0.4 %."""


class LoopWatch:
    """Measures how much later than asked for the loop wakes us up."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: TimerHandle | None = None
        self._due = 0.0
        self._longest = 0.0
        self._recent = 0.0

    def start(self) -> None:
        """Begin to watch."""
        self._due = self._loop.time() + _EVERY
        self._timer = self._loop.call_at(self._due, self._look)

    def stop(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()

    def counters(self) -> dict[str, int]:
        """Longest stall in microseconds: since the start, and since this was last asked."""
        recent, self._recent = self._recent, 0.0
        return {
            "loop.longest-stall-us": round(self._longest * 1e6),
            "loop.recent-stall-us": round(recent * 1e6),
        }

    def _look(self) -> None:
        now = self._loop.time()
        late = now - self._due
        self._recent = max(self._recent, late)
        self._longest = max(self._longest, late)
        self._due = now + _EVERY
        self._timer = self._loop.call_at(self._due, self._look)
