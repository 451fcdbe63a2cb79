# SPDX-License-Identifier: GPL-2.0-or-later
"""What each connection moved since the last look, from conntrack's absolute counters.

Owns the table of connections that the kernel has, and the last counters of each. Pure: buffers come
in, deltas go out; when to dump is ``spind.conntrack``'s business, and which device a connection
belongs to is the engine's. The counters are never reset in the kernel, so that other readers of
conntrack keep theirs (DESIGN 2).

How a connection is counted exactly once:

* A dump brings its counters so far, its DESTROY event the last ones; each is reported as the
  difference from the last. What both brought before is remembered under ``Entry.ident``.
* Connections that are there when the daemon starts count from the first dump on. Any that comes to
  light later, in a dump or only by its DESTROY, counts from zero.
* A dump is a snapshot that may be older than a DESTROY event that was handled before it. So an ident
  stays in a set of the gone ones for this dump and the next one, and no dump brings it back. Should
  the kernel have reused the ident meanwhile (same addresses and ports, same memory), then the new
  connection is found by the dump after that, with all its bytes.
* An entry that is missing in a dump is not at its end yet: dumps leave out expired entries, and
  their DESTROY comes when the kernel's collector comes by (``nf_conntrack``'s gc_worker: up to a
  minute or two). Its record stays until the DESTROY, or until :data:`FORGET_AFTER`, which means that
  the event was lost.
* Counters that went down belong to another connection under the same ident, whose DESTROY was lost.
"""

from itertools import islice

from spind.events import ConnDelta
from spind.model import ConnKey
from spind.wire.conntrack import CT_DELETE, CT_NEW, NO_COUNTERS, Layout, decode_counters, key_of, learn
from spind.wire.errors import WireError
from spind.wire.netlink import HEADER, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, Message, error_code

# Seconds after which a connection that dumps no longer show is taken for ended. The kernel's
# collector needs at most two minutes for one that expired.
FORGET_AFTER = 300.0

# Kinds of messages whose layout is remembered. There are some 20 (protocol, family, NAT, marks,
# labels); one that is not remembered costs more time, nothing else.
_MAX_LENGTHS = 64
_MAX_LAYOUTS = 4  # of one length

# Connections that one ``end_of_dump`` moves or gives up at most, so that it takes 2 ms at most even
# where thousands of events were lost; the others follow with the next dump.
_AT_ONCE = 500

_UNPACK = HEADER.unpack_from


class _Connection:
    __slots__ = ("cid", "counters", "seen")

    def __init__(self, cid: int, counters: bytes, seen: int) -> None:
        self.cid = cid
        self.counters = counters  # as in Entry.counters
        self.seen = seen  # number of the last dump that had it


class Accounting:
    """Connections and their last counters.

    ``limit`` bounds the table. Connections beyond it are not followed, and none is evicted for them:
    their bytes are reported when they end, or when there is room, so that totals stay right.

    The public numbers: ``tracked`` connections; ``entries`` in the last complete dump; ``untracked``
    sightings beyond the limit; ``lost_ends`` of which no DESTROY came; ``malformed`` messages.
    ``done``, ``interrupted`` and ``error`` (an errno) tell about the dump that is being read.
    """

    def __init__(self, limit: int = 65_536) -> None:
        self._limit = limit
        self._table: dict[bytes, _Connection] = {}
        self._layouts: dict[int, list[Layout]] = {}
        self._gone: set[bytes] = set()
        self._gone_before: set[bytes] = set()
        # What a dump no longer had, and when that was; oldest first.
        self._missing: dict[bytes, tuple[_Connection, float]] = {}
        self._dump = 0  # number of the dump
        self._found = 0  # entries of it so far that the table has
        self._dumped = 0  # entries of it so far
        self._baselined = False
        self._last_cid = 0
        self.entries = 0
        self.untracked = 0
        self.lost_ends = 0
        self.malformed = 0
        self.done = False
        self.interrupted = False
        self.error = 0

    @property
    def tracked(self) -> int:
        """Number of connections that are remembered."""
        return len(self._table) + len(self._missing)

    def age_gone(self) -> None:
        """Divide the gone ones by time: those known so far, and those that follow."""
        self._gone_before, self._gone = self._gone, set()

    def forget_gone(self, *, recent: bool) -> None:
        """No dump that begins now shows the gone ones of before the last ``age_gone``; with
        ``recent`` also none of those since."""
        self._gone_before = set()
        if recent:
            self._gone = set()

    def begin_dump(self) -> None:
        """Expect the buffers of a new dump."""
        self._dump += 1
        self._found = self._dumped = 0
        self.done = self.interrupted = False
        self.error = 0

    def dump_buffer(self, data: bytes) -> list[ConnDelta]:
        """Deltas from one buffer of a dump. Never raises: what is malformed is counted."""
        deltas: list[ConnDelta] = []
        table = self._table
        dump = self._dump
        position, size = 0, len(data)
        while size - position >= 16:
            length, kind, flags, seq, pid = _UNPACK(data, position)
            end = position + length
            if length < 16 or end > size:
                break
            if flags & NLM_F_DUMP_INTR:
                self.interrupted = True
            try:
                if kind == CT_NEW:
                    self._dumped += 1
                    ident, counters, layout = self._take(data, position, end)
                    connection = table.get(ident)
                    if connection is None:
                        self._discover(ident, counters, layout.key(data, position), deltas)
                    else:
                        if connection.seen != dump:
                            connection.seen = dump
                            self._found += 1
                        if connection.counters != counters:
                            key = layout.key(data, position)
                            self._advance(connection, counters, key, deltas, ended=False)
                elif kind in (NLMSG_DONE, NLMSG_ERROR):
                    self.done = True
                    self.error = error_code(data, Message(kind, flags, seq, pid, position + 16, end))
            except WireError:
                self.malformed += 1
            position = (end + 3) & ~3
        if position < size:
            self.malformed += 1
        return deltas

    def event_buffer(self, data: bytes) -> list[ConnDelta]:
        """Last deltas from one buffer of DESTROY events. Never raises."""
        deltas: list[ConnDelta] = []
        position, size = 0, len(data)
        while size - position >= 16:
            length, kind, _flags, _seq, _pid = _UNPACK(data, position)
            end = position + length
            if length < 16 or end > size:
                break
            if kind == CT_DELETE:
                try:
                    ident, counters, layout = self._take(data, position, end)
                    self._destroy(ident, counters, layout.key(data, position), deltas)
                except WireError:
                    self.malformed += 1
            position = (end + 3) & ~3
        if position < size:
            self.malformed += 1
        return deltas

    def end_of_dump(self, now: float) -> list[ConnDelta]:
        """Close a dump that is ``done``; ``now`` is in seconds, of a clock that never goes back.

        Returns the connections that are given up because no dump shows them any longer, as ended
        with zero deltas. A dump that was interrupted or failed may lack entries: it proves nothing
        about those, and nothing about what was there at the start.
        """
        deltas: list[ConnDelta] = []
        if self.interrupted or self.error:
            return deltas
        self._baselined = True
        self.entries = self._dumped
        self.age_gone()
        if self._found != len(self._table):
            unseen = (ident for ident, connection in self._table.items() if connection.seen != self._dump)
            for ident in list(islice(unseen, _AT_ONCE)):
                self._missing[ident] = (self._table.pop(ident), now)
        for _count in range(min(_AT_ONCE, len(self._missing))):
            ident, (connection, since) = next(iter(self._missing.items()))  # the oldest stands first
            if now - since < FORGET_AFTER:
                break
            del self._missing[ident]
            self.lost_ends += 1
            deltas.append(ConnDelta(connection.cid, key_of(ident), 0, 0, 0, 0, ended=True))
        return deltas

    def _take(self, data: bytes, start: int, end: int) -> tuple[bytes, bytes, Layout]:
        """Ident, counters and layout of a message, the fast way where one of its layouts matches."""
        layouts = self._layouts.get(end - start)
        if layouts is not None:
            for layout in layouts:
                if layout.matches(data, start):
                    return *layout.take(data, start), layout
        entry, layout = learn(data, start, end)
        if layout.usable:
            if layouts is None:
                if len(self._layouts) < _MAX_LENGTHS:
                    self._layouts[layout.length] = [layout]
            elif len(layouts) < _MAX_LAYOUTS:
                layouts.append(layout)
        return entry.ident, entry.counters, layout

    def _discover(self, ident: bytes, counters: bytes, key: ConnKey, deltas: list[ConnDelta]) -> None:
        """Take a connection from a dump into the table, unless it is a ghost or there is no room."""
        if ident in self._gone or ident in self._gone_before:
            return
        if max(len(self._gone), len(self._gone_before)) >= self._limit:
            return  # it may be one that a full set did not take: a later dump tells
        again = self._missing.pop(ident, None)
        if again is not None:
            connection = again[0]
            connection.seen = self._dump
            self._found += 1
            self._table[ident] = connection
            self._advance(connection, counters, key, deltas, ended=False)
            return
        if self.tracked >= self._limit:
            self.untracked += 1
            return
        self._last_cid += 1
        self._table[ident] = _Connection(self._last_cid, counters, self._dump)
        self._found += 1
        moved = decode_counters(counters) if self._baselined else NO_COUNTERS
        deltas.append(ConnDelta(self._last_cid, key, *moved, ended=False))

    def _destroy(self, ident: bytes, counters: bytes, key: ConnKey, deltas: list[ConnDelta]) -> None:
        """Report the last of a connection, which may have come and gone between two dumps."""
        if len(self._gone) < self._limit:
            self._gone.add(ident)
        connection = self._table.pop(ident, None)
        if connection is not None and connection.seen == self._dump:
            self._found -= 1
        if connection is None and ident in self._missing:
            connection = self._missing.pop(ident)[0]
        if connection is not None:
            self._advance(connection, counters, key, deltas, ended=True)
        elif self._baselined:
            self._last_cid += 1
            deltas.append(ConnDelta(self._last_cid, key, *decode_counters(counters), ended=True))
        # Before the first dump is complete there is no telling what of it was before our time.

    def _advance(
        self, connection: _Connection, counters: bytes, key: ConnKey, deltas: list[ConnDelta], *, ended: bool
    ) -> None:
        """Report how far the counters of a known connection have come."""
        before = decode_counters(connection.counters)
        after = decode_counters(counters) if counters else before
        a, b, c, d = (new - old for new, old in zip(after, before, strict=True))
        if min(a, b, c, d) < 0:
            self.lost_ends += 1
            deltas.append(ConnDelta(connection.cid, key, 0, 0, 0, 0, ended=True))
            self._last_cid += 1
            connection.cid = self._last_cid
            a, b, c, d = after
        connection.counters = counters
        if ended or a or c or b or d:
            deltas.append(ConnDelta(connection.cid, key, a, b, c, d, ended))
