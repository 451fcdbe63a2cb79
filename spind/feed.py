# SPDX-License-Identifier: GPL-2.0-or-later
"""The home as a stream of server-sent events: a snapshot, and what changed since. Pure.

Owns what the messages say (docs/web-events.md) and that they converge. Must not know who listens, how
fast, or what the time is.

All that a message says of something is absolute: its whole value as of now, or that it is gone. So a
snapshot may be made in slices while traffic goes on. What changes meanwhile is in a delta that begins
after the change, and a subscriber gets the deltas since it subscribed after its snapshot.

What changed is found, not told: flows and cells are in the journal of the tables; nodes are looked through,
for whether they changed, were announced or were seen since the last look. Commands only bring what has no
state: queries, packets that were blocked, merges, notifications.

Snapshots and deltas are iterators that yield a message, or ``None`` after a little work, where its owner
may do something else first. Only one delta is made at a time.
"""

import json
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeVar

from spind.commands import (
    BlockedReport,
    Command,
    Dismissed,
    DnsQuerySeen,
    ListChanged,
    NodeMerged,
    Notify,
    RecordAudit,
    Save,
)
from spind.engine import Engine
from spind.flows import WINDOW_SECONDS, WINDOW_STEP, Cell, Flow, FlowKey, Journal
from spind.nodes import Kind, Node
from spind.shapes import Json, flow_shape
from spind.views import Views

Item = TypeVar("Item")
Steps = Iterator[bytes | None]

RING_BYTES: Final = 1 << 20
RING_DELTAS: Final = 1024
"""Deltas kept for those who come back, so many bytes and so many of them: some ten minutes of a home."""

QUERIES: Final = 200
"""DNS queries, and as many blocked packets, of one delta; the others are counted in it."""

MERGED: Final = 1024
"""Merges between two deltas: beyond it, all is told anew."""

CLOCK_SLIP: Final = 1.0
"""Seconds that the clock may be set back without anybody telling; beyond it, all is told anew."""

_STEP: Final = 20  # items of work between two places to stop: some 0.2 ms on a PC
_MESSAGE: Final = 200  # items of one message
_CELLS: Final = 400  # cells of one step of work: an array of six numbers each

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Urgency(IntEnum):
    """How soon a delta should follow: with the next one, soon without counters, soon with everything."""

    NONE = 0
    SOON = 1
    DECIDED = 2


class Delta(NamedTuple):
    """A delta as it was sent, by its number."""

    number: int
    text: bytes


class Parcel:
    """A message that is being filled: its parts are encoded as they come, a bit at a time."""

    def __init__(self) -> None:
        self._lists: dict[str, list[str]] = {}
        self._values: dict[str, object] = {}
        self.weight = 0
        """Items in it."""

    def clear(self) -> None:
        """Begin with nothing."""
        self._lists, self._values, self.weight = {}, {}, 0

    def add(self, member: str, items: Sequence[object]) -> None:
        """Add to a list."""
        if items:
            self._lists.setdefault(member, []).append(_encode(items)[1:-1])
            self.weight += len(items)

    def put(self, member: str, value: object) -> None:
        """Have a member that is no list."""
        self._values[member] = value

    def text(self, event: str, ident: str = "") -> bytes:
        """The server-sent event. JSON escapes every line end, whatever names hold."""
        head = f"id: {ident}\n" if ident else ""
        members = [f"{_encode(name)}:{_encode(value)}" for name, value in self._values.items()]
        members += [f"{_encode(name)}:[{','.join(parts)}]" for name, parts in self._lists.items()]
        return f"{head}event: {event}\ndata: {{{','.join(members)}}}\n\n".encode()


def message(event: str, data: Json) -> bytes:
    """One server-sent event that is small."""
    parcel = Parcel()
    for name, value in data.items():
        parcel.put(name, value)
    return parcel.text(event)


class Feed:
    """Makes the messages."""

    look_at_once = 500
    """Nodes looked at between two places to stop."""

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float],
        instance: str,
        version: str,
        about: Json | None = None,
    ) -> None:
        """``clock`` gives Unix seconds, ``instance`` is another one after each start (letters and digits).
        ``about`` is more for ``hello``: a home out of a capture file says its name, and how fast its time
        goes."""
        self._engine = engine
        self._clock = clock
        self._instance = instance
        self._version = version
        self._about = about or {}
        self._stale = False  # what was told, or hello said, does not hold any more
        self._views = Views(engine, clock)
        self.awake = False
        """Are changes followed?"""
        self._number = 0
        self._ring: deque[Delta] = deque()
        self._ring_bytes = 0
        self._floor = 0  # whoever has heard the delta of this number, or a later one, can go on
        # What subscribers may have been told, as of the last delta.
        self._known: set[int] = set()
        self._shown: set[int] = set()
        self._looked = 0.0
        self._told: dict[int, int] = {}  # node -> hash of what the last delta said of it
        self._told_before: dict[int, int] = {}  # the same of the one before, while one is made
        self._seen: dict[int, int] = {}  # node -> its lastseen in the last delta
        self._fresh: set[int] = set()  # that came since the last look at counters
        self._decided: tuple[object, ...] = ()
        # What commands brought since the last delta.
        self._queries: list[tuple[float, object]] = []
        self._blocked: list[tuple[float, object]] = []
        self._left_out: Json = {}
        self._merged: list[tuple[int, int]] = []
        self._changed: dict[str, None] = {}
        self._notifications: OrderedDict[int, Json] = OrderedDict()

    # -- following -----------------------------------------------------------------------

    def wake(self) -> None:
        """Somebody listens: follow what changes from now on."""
        if not self.awake:
            self.awake, self._stale = True, False
            self._begin()

    def sleep(self) -> None:
        """Nobody listens any more."""
        self.awake = False
        self._engine.flows.listen(None)
        self._forget_ring()
        self._known, self._shown = set(), set()
        self._told, self._told_before, self._seen = {}, {}, {}
        self._clear()

    def describe(self, about: Json) -> None:
        """``hello`` says this from now on, and everybody has to hear it."""
        self._about = about
        self._stale = True

    def restart(self) -> None:
        """Everybody has to take a new snapshot."""
        self._stale = False
        self._forget_ring()
        self._begin()

    @property
    def overflowed(self) -> bool:
        """Is it unknown what changed? Then ``restart``."""
        journal = self._engine.flows.journal
        if journal is not None and journal.overflowed:
            return True
        return self._stale or len(self._merged) > MERGED or self._clock() < self._looked

    def publish(self, command: Command) -> Urgency:
        """Take in one of the engine's commands; how soon somebody wants to hear of it."""
        if not self.awake:
            return Urgency.NONE
        if isinstance(command, DnsQuerySeen):
            self._add(self._queries, command)
            return Urgency.SOON
        if isinstance(command, BlockedReport):
            if command.key is not None:
                self._add(self._blocked, command.key)
            return Urgency.SOON
        if isinstance(command, NodeMerged):
            self._merged.append((command.id, command.merged_to))
        elif isinstance(command, Notify):
            self._notifications[int(str(command.notification["id"]))] = command.notification
            if len(self._notifications) > QUERIES:
                self._notifications.popitem(last=False)
            self.mention("notifications")
            return Urgency.SOON
        elif isinstance(command, Dismissed):
            self._notifications.pop(command.id, None)
            self.mention("notifications")
            return Urgency.SOON
        elif isinstance(command, ListChanged):
            self.mention("lists")
            return Urgency.DECIDED
        elif isinstance(command, Save | RecordAudit):
            return Urgency.DECIDED
        return Urgency.NONE

    def mention(self, name: str) -> None:
        """Something that clients ask for changed: rules, profiles, lists, audit, notifications, captures."""
        if self.awake:
            self._changed[name] = None

    @property
    def position(self) -> str:
        """The id of the latest delta: whoever took all of a snapshot that began now may resume from it."""
        return f"{self._instance}-{self._number}"

    def resume(self, last_event_id: str) -> list[bytes] | None:
        """The deltas since the one with this id; ``None`` where a snapshot is needed."""
        instance, _, number = last_event_id.rpartition("-")
        if not self.awake or instance != self._instance or not (number.isascii() and number.isdigit()):
            return None
        last = int(number[:18])
        if not self._floor <= last <= self._number:
            return None
        return [delta.text for delta in self._ring if delta.number > last]

    # -- messages ------------------------------------------------------------------------

    def snapshot(self) -> Steps:
        """All there is, ``hello`` first, ``ready`` last."""
        engine = self._engine
        hello: Json = {
            "version": self._version,
            "time": self._time(),
            "instance": self._instance,
            "window_seconds": WINDOW_SECONDS,
            "step": WINDOW_STEP,
            **self._about,
        }
        yield message("hello", hello)
        yield from self._items("nodes", self._all_nodes())
        yield from self._items("flows", self._flows_now(engine.flows.keys()))
        for time, pairs in engine.flows.cells():
            for some in _some(pairs, _CELLS):
                step = engine.flows.step(time)
                rows = (self._cell_row(step, Cell(time, *pair)) for pair in some)
                cells = [row for row in rows if row is not None]
                yield message("window", {"time": time, "cells": cells}) if cells else None
        yield message("ready", {"time": self._time()})

    def delta(self, *, counters: bool) -> Steps:
        """What changed since the last one, as messages of a bounded size; none if nothing did.

        Without ``counters`` it has just what people wait for: queries, blocked packets, new nodes,
        notifications, and what they should ask for again.
        """
        queries, blocked, left_out = self._queries, self._blocked, self._left_out
        merged, changed, notifications = self._merged, self._changed, self._notifications
        self._clear()
        self._compare(changed)
        fresh = self._engine.nodes.by_id.keys() - self._known
        self._known |= fresh
        self._shown |= {ident for ident in fresh if not self._hidden(ident)}
        self._fresh |= fresh
        parcel = Parcel()
        if counters:
            yield from self._counters(parcel, merged)
        else:
            self._merged = merged  # they go with the nodes that are gone
            yield from self._fill(parcel, "nodes", self._nodes_now(fresh))
        told = [self._query(at, one) for at, one in queries if isinstance(one, DnsQuerySeen)]
        parcel.add("queries", [row for row in told if row is not None])
        refused = [self._refused(at, one) for at, one in blocked if isinstance(one, FlowKey)]
        parcel.add("blocked", [row for row in refused if row is not None])
        parcel.add("changed", list(changed))
        parcel.add("notifications", list(notifications.values()))
        for name, count in left_out.items():
            parcel.put(name, count)
        if parcel.weight:
            yield self._delta(parcel)

    def _counters(self, parcel: Parcel, merged: list[tuple[int, int]]) -> Steps:
        """Nodes, flows and cells: first nodes, which the others mention, last what is gone."""
        engine = self._engine
        began = self._clock()
        journal = engine.flows.listen(engine.flows.new_journal())
        if journal is None or journal.overflowed or began < self._looked:
            self._stale = True  # it came to light only after the delta had begun
            return
        touched = journal.flows
        cells = journal.cells
        before = self._shown  # of whose flows subscribers may know
        gone = self._known - engine.nodes.by_id.keys()
        full: list[int] = []
        seen: list[tuple[int, int]] = []
        shown: set[int] = set()
        since, self._looked = self._looked - CLOCK_SLIP, began
        fresh, self._fresh = self._fresh, set()
        for count, (ident, node) in enumerate(list(engine.nodes.by_id.items()), 1):
            if count % self.look_at_once == 0:
                yield None
            if not self._views.hidden(node):
                shown.add(ident)
            if node.changed or node.announced >= since or ident in fresh:
                full.append(ident)
            elif node.lastseen >= since:
                if node.kind is Kind.DEVICE:
                    full.append(ident)
                else:
                    seen.append((ident, int(node.lastseen)))
        self._known -= gone
        self._shown = shown
        # Devices keep their ids, and may have been away; sites have other ids after that.
        turned = (before ^ shown) - gone | {ident for ident in fresh if self._is_device(ident)}
        if turned:
            for ident in turned:
                touched |= dict.fromkeys(flow.key for flow in engine.flows.flows(ident))
            cells |= dict.fromkeys(engine.flows.cells_of(turned))
        yield None
        yield from self._fill(parcel, "nodes", self._news(full))
        told, self._seen = self._seen, dict(seen)
        changed = [pair for pair in seen if told.get(pair[0]) != pair[1]]
        yield from self._fill(parcel, "seen", _some(changed, _CELLS))
        yield from self._fill(parcel, "merged", _some(merged, _CELLS))
        yield from self._fill(parcel, "gone_nodes", _some(sorted(gone), _CELLS))
        lost: list[FlowKey] = []
        yield from self._fill(parcel, "flows", self._flows_now(touched, before, lost))
        yield from self._fill(parcel, "gone_flows", _some(lost, _CELLS))
        yield from self._fill(parcel, "cells", self._cells(cells, before | {0}))

    def _fill(self, parcel: Parcel, member: str, items: Iterator[Sequence[object]]) -> Steps:
        """Add items bit by bit, and send whenever a message is full."""
        for some in items:
            parcel.add(member, some)
            if parcel.weight >= _MESSAGE:
                yield self._delta(parcel)
            else:
                yield None

    def _cells(self, touched: Iterable[Cell], before: Container[int]) -> Iterator[list[Json]]:
        """Cells that changed, by their step; those of nodes that are hidden now have no traffic any more."""
        for some in _some(list(touched), _STEP):
            found = {time: self._engine.flows.step(time) for time in {cell.time for cell in some}}
            steps: dict[int, list[list[int]]] = {}
            for cell in some:
                row = self._cell_row(found[cell.time], cell)
                if row is None and cell.device in before and cell.node in before:
                    row = [cell.device, cell.node, 0, 0, 0, 0]
                if row is not None:
                    steps.setdefault(cell.time, []).append(row)
            yield [{"time": time, "cells": cells} for time, cells in steps.items()]

    # -- items ---------------------------------------------------------------------------

    def _nodes_now(self, idents: Iterable[int]) -> Iterator[list[Json]]:
        for some in _some(list(idents), _STEP):
            found = map(self._engine.nodes.by_id.get, some)
            yield [self._views.node_item(node) for node in found if node is not None]

    def _all_nodes(self) -> Iterator[list[Json]]:
        """All nodes for one subscriber, which may hear something else than the last delta said."""
        for some in _some(list(self._known), _STEP):
            for ident in some:
                for told in (self._told, self._told_before, self._seen):
                    told.pop(ident, None)
            yield from self._nodes_now(some)

    def _news(self, idents: list[int]) -> Iterator[list[Json]]:
        """Nodes, unless the last delta said the same of them: an ignored one waits to be announced."""
        told = self._told_before = self._told
        self._told = {}
        for some in self._nodes_now(idents):
            items = []
            for item in some:
                ident, value = int(str(item["id"])), hash(_encode(item))
                self._told[ident] = value
                if told.get(ident) != value:
                    items.append(item)
            yield items

    def _flows_now(
        self,
        keys: Iterable[FlowKey],
        before: Container[int] = (),
        lost: list[FlowKey] | None = None,
    ) -> Iterator[list[Json]]:
        """Those of the flows that are there to be seen. The others, where subscribers may know of them, are
        added to ``lost``."""
        for some in _some(list(keys), _STEP):
            items = []
            for key in some:
                flow = self._visible(key)
                if flow is not None:
                    items.append(flow_shape(flow))
                elif lost is not None and key.device in before and key.node in before:
                    lost.append(key)
            yield items

    def _visible(self, key: FlowKey) -> Flow | None:
        flow = self._engine.flows.find(key)
        if flow is None or not flow.used:
            return None
        if self._may(key.device) and self._may(key.node):
            return flow
        if self._waits(key.device) or self._waits(key.node):
            self._journal.touch_flow(key)
        return None

    def _may(self, ident: int) -> bool:
        """May the node be seen, as of the last look, and now?"""
        return ident in self._shown and not self._hidden(ident)

    def _waits(self, ident: int) -> bool:
        """Was it hidden, or did it go, since the last look? It may be back before the next one, which would
        not notice: so that looks at what was left out here again."""
        return ident in self._shown and self._hidden(ident)

    @property
    def _journal(self) -> Journal:
        flows = self._engine.flows
        if flows.journal is None:
            flows.listen(flows.new_journal())
        return flows.journal or flows.new_journal()

    def _hidden(self, ident: int) -> bool:
        return self._views.hidden(self._engine.nodes.by_id.get(ident))

    def _is_device(self, ident: int) -> bool:
        node: Node | None = self._engine.nodes.by_id.get(ident)
        return node is not None and node.kind is Kind.DEVICE

    def _cell_row(self, step: Mapping[tuple[int, int], Sequence[int]], cell: Cell) -> list[int] | None:
        _, device, node = cell
        if not (self._may(device) and (not node or self._may(node))):
            if self._waits(device) or self._waits(node):
                self._journal.touch_cell(*cell)
            return None
        values = step.get((device, node))
        return None if values is None else [device, node, *values]

    def _query(self, at: float, query: DnsQuerySeen) -> Json | None:
        if not (self._may(query.from_node) and self._may(query.queried_node)):
            return None
        return {"time": at, "device": query.from_node, "node": query.queried_node, "name": query.query}

    def _refused(self, at: float, key: FlowKey) -> Json | None:
        if not (self._may(key.device) and self._may(key.node)):
            return None
        return {
            "time": at,
            "device": key.device,
            "node": key.node,
            "protocol": key.proto,
            "port": key.port,
            "family": key.family,
            "inbound": key.inbound,
        }

    # -- inside --------------------------------------------------------------------------

    def _begin(self) -> None:
        engine = self._engine
        self._clear()
        engine.flows.listen(engine.flows.new_journal())
        self._known = set(engine.nodes.by_id)
        self._shown = {ident for ident, node in engine.nodes.by_id.items() if not self._views.hidden(node)}
        self._looked = self._clock()
        self._told, self._told_before, self._seen = {}, {}, {}
        self._fresh = set()
        self._decided = self._decisions()

    def _clear(self) -> None:
        self._queries, self._blocked, self._left_out = [], [], {}
        self._merged, self._changed, self._notifications = [], {}, OrderedDict()

    def _add(self, rows: list[tuple[float, object]], row: object) -> None:
        if len(rows) < QUERIES:
            rows.append((self._time(), row))
        else:
            name = "queries_left_out" if rows is self._queries else "blocked_left_out"
            self._left_out[name] = int(str(self._left_out.get(name, 0))) + 1

    def _decisions(self) -> tuple[object, ...]:
        """What tells whether people, their configuration or the time decided something."""
        engine = self._engine
        return (
            engine.rules.revision,
            engine.decisions.profiles,
            engine.audit.last_id,
            engine.ignored.texts(),
        )

    def _compare(self, changed: dict[str, None]) -> None:
        before, self._decided = self._decided, self._decisions()
        names = ("rules", "profiles", "audit", "lists")
        changed |= dict.fromkeys(
            name for name, old, new in zip(names, before, self._decided, strict=True) if old != new
        )

    def _time(self) -> float:
        return round(self._clock(), 3)

    @staticmethod
    def _items(event: str, items: Iterator[Sequence[object]]) -> Steps:
        """Messages with lists of items."""
        parcel = Parcel()
        for some in items:
            parcel.add("items", some)
            if parcel.weight >= _MESSAGE:
                yield parcel.text(event)
                parcel = Parcel()
            else:
                yield None
        if parcel.weight:
            yield parcel.text(event)

    def _delta(self, parcel: Parcel) -> bytes:
        """The delta that is in the parcel, which is empty then."""
        self._number += 1
        parcel.put("time", self._time())
        text = parcel.text("delta", self.position)
        parcel.clear()
        self._ring.append(Delta(self._number, text))
        self._ring_bytes += len(text)
        while self._ring_bytes > RING_BYTES or len(self._ring) > RING_DELTAS:
            oldest = self._ring.popleft()
            self._ring_bytes -= len(oldest.text)
            self._floor = oldest.number
        return text

    def _forget_ring(self) -> None:
        self._number += 1  # nobody has heard this one, so nobody goes on
        self._floor = self._number
        self._ring.clear()
        self._ring_bytes = 0


def _some(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
