# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the kernel's connection table: dumps for what goes on, DESTROY events for what ended.

Owns two netlink sockets, the rhythm of dumps, and recovery from lost events. What the messages mean
is ``spind.accounting``'s; what a delta is good for, the engine's. Never resets a counter
(``CT_GET_CTRZERO``), never deletes an entry.

Why DESTROY events only: the deltas of running connections come from dumps. NEW and UPDATE events
carry nothing that a dump a second later does not carry (who opened a connection is seen by
``spind.capture``), and TCP sends up to ten of them a connection, each of which would cost what a
whole delta costs. Without DESTROY, the bytes after the last dump, and all of a connection that lives
shorter than the interval, would be lost.

Why events may be lost (no ``NETLINK_BROADCAST_ERROR``): see docs/decisions/0002.
"""

import errno
import logging
import os
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable
from socket import socket

from spind.accounting import Accounting
from spind.dump_reader import DumpReader
from spind.events import ConnDelta, Traffic, TrafficEnd
from spind.netlink_socket import (
    NETLINK_NETFILTER,
    enable_accounting,
    event_buffer_size,
    open_netlink,
)
from spind.wire.conntrack import CT_GET, DUMP_ALL, NFNLGRP_CONNTRACK_DESTROY
from spind.wire.netlink import NLM_F_DUMP, NLM_F_REQUEST, pack_message

_LOG = logging.getLogger(__name__)

# Bytes asked for at once. The kernel makes the pieces of a dump as big as we read them: 15 entries
# or so in 4 KiB, which is what can be decoded *and* taken in by the engine in 0.3 ms.
_DUMP_BYTES = 4_096
_EVENT_BYTES = 8_192  # one event is some 250 bytes

# A slice of events: at most so many, and no more once so many seconds have gone by.
_SLICE_EVENTS = 100
_SLICE_SECONDS = 0.001

# Dumps may take this share of the time; big tables are read less often than the interval says.
_DUMP_SHARE = 0.06
# But no longer than this, since a dump that had much news is followed by cheaper ones: 100,000 entries
# without news take a third of a second.
_LONGEST_PAUSE = 5.0

# After so many readings without news, readings come more seldom: each walks all of the kernel's
# buckets. Who opens a connection or looks at the numbers calls ``hurry``.
_QUIET_DUMPS = 5
_QUIET_PAUSE = 4.0

# Ends wait here while the daemon cannot read. One takes 1,280 bytes of kernel memory (measured), so
# that this is room for 13,000 on small routers, and 100,000 where there is memory: half a minute of
# 3,000 connections a second. The memory is taken only while they wait.
_EVENT_BUFFER_SMALLEST = 16 << 20
_EVENT_BUFFER_LARGEST = 128 << 20

# After how many slices that did not come to the end of the events a dump goes on regardless.
_PATIENCE = 1_000

_RETRY_SECONDS = 10.0


# The kernel tells of a connection's end right before it takes it out of its table (nf_ct_delete): a
# dump that begins so much later than the event does not show it any more.
_GHOST_SECONDS = 0.25


class ConntrackReader:
    """Emits ``Traffic`` for each buffer that brought deltas, and ``TrafficEnd`` after each dump.

    ``interval`` is the time between dumps in seconds, as far as the table's size allows it.
    ``limit`` bounds the connections that are followed. ``event_buffer`` is the receive buffer for
    events in bytes (0: by the machine's memory).
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        emit: Callable[[Traffic | TrafficEnd], None],
        interval: float = 1.0,
        *,
        limit: int = 65_536,
        event_buffer: int = 0,
    ) -> None:
        self._loop = loop
        self._emit = emit
        self._interval = interval
        self._event_buffer = event_buffer or event_buffer_size(_EVENT_BUFFER_SMALLEST, _EVENT_BUFFER_LARGEST)
        self._accounting = Accounting(limit)
        self._events: socket | None = None
        self._dumps: DumpReader | None = None
        self._buffers: deque[bytes] = deque()  # read, not taken yet
        self._timer: TimerHandle | None = None
        self._dumping = False
        self._event_at = self._aged_at = float("-inf")  # when the last event came; see _age
        self._deferred = 0  # slices for which the dump has waited for events
        self._quiet = 0  # dumps without news, one after the other
        self._news = False  # in the running dump
        self._finished_at = 0.0
        self._sequence = 0
        self._cost = 0.0  # seconds that the running dump has taken so far
        self._lost = False  # events, since the last dump began
        self._lost_before = False  # events, before the running dump began
        self._overruns = 0
        self._resyncs = 0
        self._failed_dumps = 0
        self._dump_count = 0

    def start(self) -> None:
        """Make the kernel count, subscribe, and begin the first dump.

        Raises ``OSError`` where the kernel has no ctnetlink or refuses it.
        """
        enable_accounting()
        # Events first: what ends during the first dump must not be missed.
        self._events = open_netlink(NETLINK_NETFILTER, (NFNLGRP_CONNTRACK_DESTROY,), self._event_buffer)
        try:
            self._dumps = self._open_dumps()
        except OSError:
            self._events.close()
            raise
        self._loop.add_reader(self._events.fileno(), self._on_events)
        self._begin_dump()

    def stop(self) -> None:
        """Close the sockets. Kernel settings stay, since their reset would falsify later counts."""
        if self._timer is not None:
            self._timer.cancel()
        if self._events is not None:
            self._loop.remove_reader(self._events.fileno())
            self._events.close()
        if self._dumps is not None:
            self._dumps.close()
        self._events = self._dumps = None

    def set_interval(self, interval: float) -> None:
        """Dump every ``interval`` seconds from the next dump on."""
        self._interval = interval

    def hurry(self) -> None:
        """Something goes on: read at the usual pace again."""
        if self._quiet >= _QUIET_DUMPS and self._timer is not None:
            self._timer.cancel()
            self._next_dump(max(0.0, self._finished_at + self._interval - self._loop.time()))
        self._quiet = 0

    def counters(self) -> dict[str, int]:
        """Numbers for ``status``."""
        return {
            "conntrack.entries": self._accounting.entries,
            "conntrack.tracked": self._accounting.tracked,
            "conntrack.untracked": self._accounting.untracked,
            "conntrack.dumps": self._dump_count,
            "conntrack.failed_dumps": self._failed_dumps,
            "conntrack.overruns": self._overruns,
            "conntrack.resyncs": self._resyncs,
            "conntrack.lost_ends": self._accounting.lost_ends,
            "conntrack.malformed": self._accounting.malformed,
        }

    def _emit_deltas(self, deltas: list[ConnDelta]) -> None:
        if deltas:
            self._news = True
            self._emit(Traffic(deltas))

    def _on_events(self) -> bool:
        """Take a slice of events; whether there are no more."""
        if self._events is None:
            return True
        deltas: list[ConnDelta] = []
        receive, take = self._events.recv, self._accounting.event_buffer
        stop_at = time.perf_counter() + _SLICE_SECONDS
        empty = False
        for _count in range(_SLICE_EVENTS):
            try:
                deltas += take(receive(_EVENT_BYTES))
            except BlockingIOError:
                empty = True
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # What is in the buffer is still good. What was dropped shows as entries that dumps
                # no longer have; the next dump brings all others up to date.
                self._overruns += 1
                self._lost = True
            if time.perf_counter() > stop_at:
                break
        if deltas:
            self._age(self._loop.time())
        self._emit_deltas(deltas)
        return empty

    def _age(self, now: float) -> None:
        """Note that events came, and keep apart those that no later dump can contradict."""
        self._event_at = now
        if not self._dumping and now - self._aged_at >= _GHOST_SECONDS:
            self._accounting.age_gone()
            self._aged_at = now

    def _have_read(self, buffers: list[bytes], cost: float) -> None:
        self._cost += cost
        self._buffers.extend(buffers)
        self._take_buffer()

    def _take_buffer(self) -> None:
        """Take one buffer of a dump, once all events that are older than it have been taken."""
        if self._dumps is None or not self._buffers:
            return
        if not self._on_events() and self._deferred < _PATIENCE:
            self._deferred += 1
            self._loop.call_soon(self._take_buffer)
            return
        self._deferred = 0
        started = time.thread_time()
        self._emit_deltas(self._accounting.dump_buffer(self._buffers.popleft()))
        self._cost += time.thread_time() - started
        if self._buffers:
            self._loop.call_soon(self._take_buffer)
        elif self._accounting.done:
            self._finish_dump()
        else:
            self._dumps.read_on()

    def _begin_dump(self) -> None:
        self._timer = None
        if self._dumps is None:
            return
        now = self._loop.time()
        if now - self._aged_at >= _GHOST_SECONDS:
            self._accounting.forget_gone(recent=now - self._event_at >= _GHOST_SECONDS)
        self._accounting.begin_dump()
        self._dumping = True
        self._lost_before |= self._lost
        self._lost = False
        self._sequence += 1
        self._cost = 0.0
        flags = NLM_F_DUMP | NLM_F_REQUEST
        self._dumps.ask(pack_message(CT_GET, flags, self._sequence, DUMP_ALL))

    def _finish_dump(self) -> None:
        accounting = self._accounting
        self._dumping = False
        self._dump_count += 1
        if accounting.error:
            self._failed_dumps += 1
            _LOG.error("conntrack: dump refused: %s", os.strerror(accounting.error))
            self._next_dump(_RETRY_SECONDS)
            return
        self._aged_at = self._loop.time()  # the end of a dump ages what is gone, too
        self._emit_deltas(accounting.end_of_dump(self._aged_at))
        resynced = False
        if accounting.interrupted:
            self._failed_dumps += 1
        elif self._lost_before:
            resynced = True
            self._resyncs += 1
            self._lost_before = False
        self._emit(TrafficEnd(accounting.entries, resynced))
        self._quiet = 0 if self._news else self._quiet + 1
        self._news = False
        self._finished_at = self._loop.time()
        pause = max(self._interval, min(self._cost / _DUMP_SHARE, _LONGEST_PAUSE))
        self._next_dump(max(pause, _QUIET_PAUSE) if self._quiet >= _QUIET_DUMPS else pause)

    def _next_dump(self, delay: float) -> None:
        self._timer = self._loop.call_later(delay, self._begin_dump)

    def _reopen_dumps(self, error: OSError) -> None:
        """Replace a dump socket that failed, since the rest of its dump may never come."""
        _LOG.error("conntrack: dump failed: %s", error.strerror or error)
        self._failed_dumps += 1
        self._dumping = False
        self._buffers.clear()
        if self._dumps is not None:
            self._dumps.close()
        self._dumps = self._open_dumps()
        self._next_dump(_RETRY_SECONDS)

    def _open_dumps(self) -> DumpReader:
        return DumpReader(self._loop, NETLINK_NETFILTER, _DUMP_BYTES, self._have_read, self._reopen_dumps)
