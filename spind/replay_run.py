# SPDX-License-Identifier: GPL-2.0-or-later
"""Captured packets through the same engine that runs live.

Makes of them the events that the adapters would have made: packets that capture would have
queued, traffic of connections, neighbours, leases. Must not decide whose anything is: that is the
engine's part, and before it that of ``replay_home``.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from spind.capfile import CapturedPacket, CaptureFileError
from spind.capture_rules import CLIENT_PACKETS, NEW_PACKETS, TCP_DNS_PACKETS
from spind.commands import Command, Verdict
from spind.engine import Engine
from spind.events import ConnDelta, Event, PacketSeen, Tick, Traffic, TrafficEnd
from spind.limits import Limits
from spind.model import Mac
from spind.replay_home import Home
from spind.replay_report import Record, Totals
from spind.replay_routers import Prefix, RouterFinder
from spind.tracker import CONNECTIONS, Interest, Tracker, fragment_of
from spind.wire.errors import WireError
from spind.wire.link import ETH_P_ARP, Frame, parse_link
from spind.wire.packet import Packet, parse_ip

AHEAD_PACKETS: Final = 50_000
AHEAD_BYTES: Final = 32 * 1024 * 1024
"""So much of a capture is read before the first of it is replayed, to find the routers in it.
Files and pipes are treated alike: a pipe cannot be read twice."""

BATCH_SECONDS: Final = 1.0
"""Capture time between two reports of traffic to the engine, as conntrack is read live."""

TICK_SECONDS: Final = 10.0
"""Capture time between two ticks, which here only let the engine forget what is over."""

PROGRESS_PACKETS: Final = 8192
"""Packets between two looks at the clock."""

MALFORMED_KINDS: Final = 32
"""Reasons that are counted apart; each is a sentence of a parser."""

LIMITS: Final = Limits(
    devices=4096,
    sites=65536,
    sites_per_device=65536,
    # More than the tracker's, so that no connection loses its attribution before it is printed.
    connections=2 * CONNECTIONS,
    flows=131072,
    names=131072,
)


INTEREST: Final = Interest(unanswered=NEW_PACKETS, client=CLIENT_PACKETS, tcp_dns=TCP_DNS_PACKETS)


class _Item(NamedTuple):
    """A parsed record; ``packet`` is ``None`` for ARP."""

    time: float
    frame: Frame
    packet: Packet | None


class Replay:
    """One capture on its way through tracker and engine."""

    def __init__(
        self,
        home: Home,
        sink: Callable[[Record], None],
        connections: int = CONNECTIONS,
        publish: Callable[[Command], None] | None = None,
    ) -> None:
        """``sink`` gets each connection when it is over, ``publish`` what the engine wants done."""
        self.engine = Engine(LIMITS, retain=float("inf"))
        self._handle = self.engine.handle if publish is None else self._published(publish)
        self.tracker = Tracker(connections, INTEREST)
        self.connections = 0
        self._home = home
        self._sink = sink
        self.now = float("-inf")
        """The latest time of a frame, Unix seconds."""
        self._flush_at = float("-inf")
        self._tick_at = float("-inf")

    def feed(self, item: _Item) -> None:
        """Take in one frame."""
        seen, frame, packet = item
        if seen > self.now:
            if seen >= self._flush_at:
                self._flush(seen)
            self.now = seen
        now = self.now
        handle = self._handle
        if packet is None:
            for event in self._home.arp(frame):
                handle(event, now)
            return
        for event in self._home.packet(frame, packet):
            handle(event, now)
        tracker = self.tracker
        fragment = fragment_of(frame.payload)
        conn, forward = tracker.track(packet, seen, fragment)
        if tracker.ended:
            self._close_ended(now)
        if tracker.wanted(packet, conn, forward=forward):
            mac = self._home.sender(frame)
            commands = handle(PacketSeen(packet, mac, from_lan=mac is not None), now)
            last = commands[-1]
            if isinstance(last, Verdict) and last.done:
                conn.settled = True

    def finish(self) -> None:
        """End what is still alive."""
        if self._flush_at == float("-inf"):
            return
        self._report(self.now)
        self.tracker.finish()
        self._close_ended(self.now)
        self._handle(Tick(), self.now)

    def _published(self, publish: Callable[[Command], None]) -> "Callable[[Event, float], list[Command]]":
        """The engine's ``handle``, whose commands somebody else hears of, too."""
        engine = self.engine

        def handle(event: Event, now: float) -> list[Command]:
            commands = engine.handle(event, now)
            for command in commands:
                publish(command)
            return commands

        return handle

    def _flush(self, seen: float) -> None:
        if self._flush_at == float("-inf"):
            self._handle(self._home.start(), seen)
        else:
            # The traffic was before the silence that this packet ends.
            self._report(min(self._flush_at, seen))
        self._flush_at = seen + BATCH_SECONDS
        if seen >= self._tick_at:
            self._handle(Tick(), seen)
            self._tick_at = seen + TICK_SECONDS

    def _report(self, now: float) -> None:
        self._handle(Traffic(self.tracker.deltas()), now)
        self._handle(TrafficEnd(len(self.tracker), resynced=False), now)

    def _close_ended(self, now: float) -> None:
        ended, self.tracker.ended = self.tracker.ended, []
        engine = self.engine
        self._handle(Traffic([conn.take_delta(ended=False) for conn in ended if conn.unreported]), now)
        for conn in ended:
            known = engine.connections.get(conn.key)
            outbound = known is None or known.outbound
            self._sink(Record(conn, engine.attribution(conn.key), outbound))
        self._handle(Traffic([ConnDelta(conn.cid, conn.key, 0, 0, 0, 0, ended=True) for conn in ended]), now)
        self.connections += len(ended)


class _Source:
    """A capture file as parsed items, and the count of what is in it."""

    def __init__(
        self, packets: Iterable[CapturedPacket], progress: Callable[[int, int], None] | None
    ) -> None:
        self._packets = packets
        self._progress = progress
        self.packets = 0
        self.ip_packets = 0
        self.ip_bytes = 0
        self.other = 0
        self.bytes = 0
        self.malformed: Counter[str] = Counter()
        self.first = 0.0
        self.last = 0.0

    def __iter__(self) -> Iterator[_Item]:
        for captured in self._packets:
            seen, linktype, data, wirelen = captured
            if not self.packets:
                self.first = self.last = seen
            self.packets += 1
            self.bytes += len(data)
            if seen > self.last:
                self.last = seen
            elif seen < self.first:
                self.first = seen
            if self._progress is not None and not self.packets % PROGRESS_PACKETS:
                self._progress(self.packets, self.bytes)
            try:
                frame = parse_link(linktype, data)
                if frame is None:
                    self.other += 1
                    continue
                if frame.ethertype == ETH_P_ARP:
                    self.other += 1
                    yield _Item(seen, frame, None)
                    continue
                packet = parse_ip(frame.payload)
            except WireError as error:
                self._note(str(error))
                continue
            if wirelen > len(data) and packet.length == len(frame.payload):
                packet = _whole(packet, frame.payload, wirelen - len(data))
            self.ip_packets += 1
            self.ip_bytes += packet.length
            yield _Item(seen, frame, packet)

    def _note(self, reason: str) -> None:
        known = reason in self.malformed or len(self.malformed) < MALFORMED_KINDS
        self.malformed[reason if known else "other reasons"] += 1


def _whole(packet: Packet, data: bytes, missing: int) -> Packet:
    """Correct the length of a packet cut by the capture whose header does not tell it.

    Segmentation offload leaves 0 in IPv4's total length and IPv6's payload length; the parser then
    takes what was captured.
    """
    field = data[2:4] if data[0] >> 4 == 4 else data[4:6]
    return packet if any(field) else packet._replace(length=packet.length + missing)


class Outcome(NamedTuple):
    """What came of a replay. ``error`` says why the file was not read to its end."""

    engine: Engine
    totals: Totals
    error: CaptureFileError | None


class Playback:
    """A capture that is replayed packet by packet, as fast as its owner iterates.

    Yields the time of each item, Unix seconds as in the file, before the engine gets it.
    """

    def __init__(
        self,
        packets: Iterable[CapturedPacket],
        sink: Callable[[Record], None],
        *,
        lan: tuple[Prefix, ...] = (),
        gateways: frozenset[Mac] = frozenset(),
        connections: int = CONNECTIONS,
        progress: Callable[[int, int], None] | None = None,
        publish: Callable[[Command], None] | None = None,
    ) -> None:
        """As ``replay``; reads what is read ahead. ``publish`` gets what the engine wants done."""
        self._started = time.monotonic()
        self._source = _Source(packets, progress)
        self._items = iter(self._source)
        self._error: CaptureFileError | None = None
        self._ahead: deque[_Item] = deque()
        finder = RouterFinder()
        try:
            for item in self._items:
                self._ahead.append(item)
                finder.look(item.frame, item.packet)
                if len(self._ahead) >= AHEAD_PACKETS or self._source.bytes >= AHEAD_BYTES:
                    break
        except CaptureFileError as caught:
            self._error = caught
        self._routers = gateways or finder.gateways()
        home = Home(self._routers, finder.own_addresses(self._routers), lan)
        self._run = Replay(home, sink, connections, publish)

    @property
    def engine(self) -> Engine:
        """The engine that gets it all."""
        return self._run.engine

    @property
    def first(self) -> float:
        """When the capture begins; 0 where there is nothing in it."""
        return self._source.first

    @property
    def broken(self) -> bool:
        """Was nothing in it that could be read?"""
        return self._error is not None and not self._source.packets

    @property
    def now(self) -> float:
        """The latest time that the engine has heard of; 0 where it has heard nothing."""
        return max(self._run.now, 0.0)

    def __iter__(self) -> Iterator[float]:
        feed = self._run.feed
        while self._ahead:
            item = self._ahead.popleft()
            yield item.time
            feed(item)
        if self._error is None:
            try:
                for item in self._items:
                    yield item.time
                    feed(item)
            except CaptureFileError as caught:
                self._error = caught
        self._run.finish()

    def outcome(self) -> "Outcome":
        """What came of it, once it is over."""
        source, run, error = self._source, self._run, self._error
        if error is None and source.packets and source.malformed.total() == source.packets:
            reason = next(iter(source.malformed))
            error = CaptureFileError(f"none of the packets could be read: {reason}", source.packets)
        return Outcome(
            run.engine,
            Totals(
                packets=source.packets,
                ip_packets=source.ip_packets,
                ip_bytes=source.ip_bytes,
                other=source.other,
                malformed=source.malformed,
                first=source.first,
                last=source.last,
                connections=run.connections,
                evicted=run.tracker.evicted,
                gateways=self._routers,
                seconds=time.monotonic() - self._started,
            ),
            error,
        )


def replay(
    packets: Iterable[CapturedPacket],
    sink: Callable[[Record], None],
    *,
    lan: tuple[Prefix, ...] = (),
    gateways: frozenset[Mac] = frozenset(),
    connections: int = CONNECTIONS,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Replay captured packets; ``sink`` gets each connection when it is over.

    ``lan`` and ``gateways`` stand in for what is otherwise found out. ``connections`` bounds the
    table of connections. ``progress`` is called now and then with the packets and bytes read.
    """
    playback = Playback(packets, sink, lan=lan, gateways=gateways, connections=connections, progress=progress)
    deque(playback, maxlen=0)
    return playback.outcome()
