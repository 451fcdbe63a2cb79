# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters: flows, the totals of each device, and the last ten minutes as a time series.

Owns every number of bytes and packets. Integers do not wrap. Must not know how traffic was
attributed, only to whom.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from spind.limits import Limits
from spind.model import EVIDENCE_RANK, IPPROTO_ICMP, IPPROTO_ICMPV6, Evidence

WINDOW_SECONDS = 600
"""How far back the time series reaches."""

WINDOW_STEP = 5
"""Seconds of one step of the time series: fine enough to see a burst, and 120 steps in all."""


class FlowKey(NamedTuple):
    """(device, node) by id; ``port`` is the responder's, or the ICMP type; ``family`` 4 or 6;
    ``inbound`` where the remote party opened the connection."""

    device: int
    node: int
    proto: int
    port: int
    family: int
    inbound: bool


class Flow:
    """What one device exchanged with one node over one service. Bytes are IP-layer bytes; up is
    from the device."""

    __slots__ = (
        "blocked",
        "down_bytes",
        "down_packets",
        "evidence",
        "firstseen",
        "key",
        "lastseen",
        "name",
        "note",
        "up_bytes",
        "up_packets",
    )

    def __init__(self, key: FlowKey, now: float) -> None:
        self.key = key
        self.up_bytes = 0
        self.down_bytes = 0
        self.up_packets = 0
        self.down_packets = 0
        self.firstseen = now
        self.lastseen = now
        self.name = ""
        self.evidence = Evidence.NONE
        self.blocked = 0
        """Packets that were blocked and reported."""
        self.note = ""
        """What people should know of its name: see ``NOTES``."""

    def describe(self, name: str, evidence: Evidence) -> None:
        """A connection of this flow is to ``name``; weaker evidence does not replace stronger."""
        if EVIDENCE_RANK[evidence] <= EVIDENCE_RANK[self.evidence]:
            self.name = name
            self.evidence = evidence

    @property
    def used(self) -> bool:
        """Was anything transferred, or tried, since we look?"""
        return bool(self.up_packets or self.down_packets or self.blocked)

    @property
    def is_icmp(self) -> bool:
        """ICMP flows carry a type where others carry a port."""
        return self.key.proto in (IPPROTO_ICMP, IPPROTO_ICMPV6)


class Counts(NamedTuple):
    """Bytes and packets, from the device and to it."""

    up_bytes: int
    down_bytes: int
    up_packets: int
    down_packets: int

    def plus(self, up_bytes: int, down_bytes: int, up_packets: int, down_packets: int) -> "Counts":
        """The sum."""
        return Counts(
            self.up_bytes + up_bytes,
            self.down_bytes + down_bytes,
            self.up_packets + up_packets,
            self.down_packets + down_packets,
        )


ZERO = Counts(0, 0, 0, 0)


class Step(NamedTuple):
    """One step of the time series: ``time`` in Unix seconds is its beginning."""

    time: int
    counts: Counts


class Cell(NamedTuple):
    """One cell of the time series: what ``device`` exchanged with ``node`` (0: with whoever has no cell of
    its own) in the step that begins at ``time``, Unix seconds."""

    time: int
    device: int
    node: int


class Journal:
    """What of the flows and of the time series was touched since somebody last looked, dropped flows
    included; the values are in the tables.

    Bounded: where more is touched than the tables hold, ``overflowed`` says that all of it has to be read
    again.
    """

    __slots__ = ("cells", "flows", "limit", "overflowed")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.overflowed = False
        self.flows: dict[FlowKey, None] = {}  # in the order of the first touch
        self.cells: dict[Cell, None] = {}

    def touch_flow(self, key: FlowKey) -> None:
        """The flow is new, has other values, or is gone."""
        self.flows[key] = None
        if len(self.flows) > self.limit:
            self.overflow()

    def touch_cell(self, time: int, device: int, node: int) -> None:
        """The cell is new or has other values."""
        self.cells[Cell(time, device, node)] = None
        if len(self.cells) > self.limit:
            self.overflow()

    def overflow(self) -> None:
        """Nobody knows any more what was touched."""
        self.overflowed = True
        self.flows.clear()
        self.cells.clear()


class Flows:
    """All flows and what is derived from the same numbers."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._flows: OrderedDict[FlowKey, Flow] = OrderedDict()
        self._by_party: dict[int, dict[FlowKey, Flow]] = {}  # device or node -> its flows
        # (device, family) -> [up bytes, down bytes, up packets, down packets]
        self._totals: dict[tuple[int, int], list[int]] = {}
        # newest last: (step's time, (device, node) -> counts)
        self._steps: deque[tuple[int, dict[tuple[int, int], list[int]]]] = deque()
        self._cells = 0
        self.evicted = 0
        self.cells_folded = 0
        self.journal: Journal | None = None
        """What changes, while somebody listens (``listen``)."""

    def __len__(self) -> int:
        return len(self._flows)

    def listen(self, journal: Journal | None) -> Journal | None:
        """From now on note changes in ``journal`` (``None``: nowhere); the one that they were noted in."""
        old, self.journal = self.journal, journal
        return old

    def new_journal(self) -> Journal:
        """An empty journal, with room for everything that there may be twice over."""
        return Journal(2 * max(self._limits.flows, self._limits.window_cells))

    def find(self, key: FlowKey) -> Flow | None:
        """The flow with this key, if there is one."""
        return self._flows.get(key)

    def get(self, key: FlowKey, now: float) -> Flow:
        """The flow with this key, made if it is new."""
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= self._limits.flows:
                self.evicted += 1
                self._drop(next(iter(self._flows)))
            flow = self._flows[key] = Flow(key, now)
            self._by_party.setdefault(key.device, {})[key] = flow
            self._by_party.setdefault(key.node, {})[key] = flow
        return flow

    def count(
        self, flow: Flow, up_bytes: int, down_bytes: int, up_packets: int, down_packets: int, now: float
    ) -> None:
        """Add traffic to a flow, its device's totals and the time series."""
        key = flow.key
        if key not in self._flows:  # evicted while a connection still used it
            flow = self.get(key, now)
        flow.up_bytes += up_bytes
        flow.down_bytes += down_bytes
        flow.up_packets += up_packets
        flow.down_packets += down_packets
        flow.lastseen = now
        self._flows.move_to_end(key)
        if self.journal is not None:
            self.journal.touch_flow(key)
        slot = (key.device, key.family)
        total = self._totals.get(slot)
        if total is None:
            total = self._totals[slot] = [0, 0, 0, 0]
        cell = self._cell(key.device, key.node, now)
        for row in (total, cell):
            row[0] += up_bytes
            row[1] += down_bytes
            row[2] += up_packets
            row[3] += down_packets

    def block(self, key: FlowKey, name: str, evidence: Evidence, now: float) -> None:
        """A packet of this flow, to ``name``, was blocked and is reported."""
        flow = self.get(key, now)
        flow.describe(name, evidence)
        flow.blocked += 1
        flow.lastseen = now
        self._touched(key)

    def describe(self, key: FlowKey, name: str, evidence: Evidence, now: float) -> None:
        """See ``Flow.describe``."""
        self.get(key, now).describe(name, evidence)
        self._touched(key)

    def remark(self, key: FlowKey, note: str, now: float) -> None:
        """See ``Flow.note``."""
        self.get(key, now).note = note
        self._touched(key)

    def move(self, old: FlowKey, new: FlowKey, counts: Counts, now: float) -> Flow:
        """Traffic that had been counted under ``old`` belongs to ``new``: a name came to light."""
        target = self.get(new, now)
        source = self._flows.get(old)
        if source is not None:
            target.firstseen = min(target.firstseen, source.firstseen)
            taken = (
                min(counts.up_bytes, source.up_bytes),
                min(counts.down_bytes, source.down_bytes),
                min(counts.up_packets, source.up_packets),
                min(counts.down_packets, source.down_packets),
            )
            source.up_bytes -= taken[0]
            source.down_bytes -= taken[1]
            source.up_packets -= taken[2]
            source.down_packets -= taken[3]
            target.up_bytes += taken[0]
            target.down_bytes += taken[1]
            target.up_packets += taken[2]
            target.down_packets += taken[3]
            if not source.up_packets and not source.down_packets and not source.blocked:
                self._drop(old)
            else:
                self._touched(old)
            self._touched(new)
        return target

    def rename_node(self, old: int, new: int, now: float) -> None:
        """Node ``old`` turned out to be node ``new``: its flows and totals go there."""
        for key, flow in list(self._by_party.get(old, {}).items()):
            fresh = key._replace(
                device=new if key.device == old else key.device, node=new if key.node == old else key.node
            )
            target = self.get(fresh, now)
            target.up_bytes += flow.up_bytes
            target.down_bytes += flow.down_bytes
            target.up_packets += flow.up_packets
            target.down_packets += flow.down_packets
            target.firstseen = min(target.firstseen, flow.firstseen)
            target.lastseen = max(target.lastseen, flow.lastseen)
            target.blocked += flow.blocked
            target.describe(flow.name, flow.evidence)
            self._touched(fresh)
            self._drop(key)
        for family in (4, 6):
            total = self._totals.pop((old, family), None)
            if total is not None:
                into = self._totals.setdefault((new, family), [0, 0, 0, 0])
                for i, value in enumerate(total):
                    into[i] += value
        self._rename_cells(old, new)

    def forget_node(self, node: int) -> None:
        """A node is gone, and so are its flows."""
        for key in list(self._by_party.get(node, ())):
            self._drop(key)
        for family in (4, 6):
            self._totals.pop((node, family), None)

    def shift(self, delta: float) -> None:
        """The clock was set by ``delta`` seconds."""
        for flow in self._flows.values():
            flow.firstseen += delta
            flow.lastseen += delta
        steps = round(delta / WINDOW_STEP) * WINDOW_STEP
        self._steps = deque((time + steps, cells) for time, cells in self._steps)
        if self.journal is not None:
            self.journal.overflow()

    # -- views ---------------------------------------------------------------------------

    def flows(self, party: int = 0) -> list[Flow]:
        """All flows, or those that one device or node takes part in."""
        if party:
            return list(self._by_party.get(party, {}).values())
        return list(self._flows.values())

    def total(self, device: int, family: int) -> Counts:
        """All that a device exchanged over IPv4 (4) or IPv6 (6), evicted flows included."""
        return Counts(*self._totals.get((device, family), (0, 0, 0, 0)))

    def series(self, now: float, since: float, step: int, device: int = 0, node: int = 0) -> list[Step]:
        """Traffic in steps of ``step`` seconds (a multiple of 5) from ``since`` to ``now``; 0 for
        ``device`` or ``node`` means all."""
        begin = int(max(since, now - WINDOW_SECONDS)) // step * step
        count = max((int(now) - begin) // step + 1, 1)
        sums = [[0, 0, 0, 0] for _ in range(count)]
        for time, cells in self._steps:
            index = (time - begin) // step
            if not 0 <= index < count:
                continue
            row = sums[index]
            for (cell_device, cell_node), values in cells.items():
                if (device and cell_device != device) or (node and cell_node != node):
                    continue
                for i in range(4):
                    row[i] += values[i]
        return [Step(begin + i * step, Counts(*row)) for i, row in enumerate(sums)]

    def keys(self) -> list[FlowKey]:
        """The keys of all flows."""
        return list(self._flows)

    def cells(self) -> list[tuple[int, list[tuple[int, int]]]]:
        """The time series as it is, oldest first: of each step its time, and its cells' (device, node)."""
        return [(time, list(cells)) for time, cells in self._steps]

    def cells_of(self, parties: set[int]) -> list[Cell]:
        """The cells that one of these takes part in."""
        return [
            Cell(time, device, node)
            for time, cells in self._steps
            for device, node in cells
            if device in parties or node in parties
        ]

    def step(self, time: int) -> Mapping[tuple[int, int], Sequence[int]]:
        """The cells of one step by (device, node), each as ``Counts``; empty where there is no such step."""
        for at, cells in reversed(self._steps):  # the newest is asked for most
            if at <= time:
                return cells if at == time else {}
        return {}

    # -- inside --------------------------------------------------------------------------

    def _drop(self, key: FlowKey) -> None:
        if self._flows.pop(key, None) is None:
            return
        self._touched(key)
        for party in {key.device, key.node}:
            own = self._by_party[party]
            del own[key]
            if not own:
                del self._by_party[party]

    def _touched(self, key: FlowKey) -> None:
        if self.journal is not None:
            self.journal.touch_flow(key)

    def _rename_cells(self, old: int, new: int) -> None:
        for time, cells in self._steps:
            for pair in [pair for pair in cells if old in pair]:
                values = cells.pop(pair)
                device, node = (new if end == old else end for end in pair)
                into = cells.setdefault((device, node), [0, 0, 0, 0])
                for i, value in enumerate(values):
                    into[i] += value
                if self.journal is not None:
                    self.journal.touch_cell(time, device, node)
        self._cells = sum(len(cells) for _, cells in self._steps)

    def _cell(self, device: int, node: int, now: float) -> list[int]:
        time = int(now) // WINDOW_STEP * WINDOW_STEP
        if not self._steps or self._steps[-1][0] < time:
            self._steps.append((time, {}))
            while self._steps[0][0] < time - WINDOW_SECONDS:
                self._cells -= len(self._steps.popleft()[1])
        cells = self._steps[-1][1]  # a clock that was set back adds to the newest step
        cell = cells.get((device, node))
        if cell is None:
            if self._cells >= self._limits.window_cells:
                self.cells_folded += 1
                node = 0
                cell = cells.get((device, 0))
            if cell is None:
                cell = cells[device, node] = [0, 0, 0, 0]
                self._cells += 1
        if self.journal is not None:
            self.journal.touch_cell(self._steps[-1][0], device, node)
        return cell
