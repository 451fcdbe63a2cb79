# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever happens in the home, and however a client comes, goes and comes back: it knows what there is."""

from collections.abc import Iterator

from feed_client import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import CAMERA, CAMERA_V4, home, packet
from test_engine_properties import HOME, REMOTES, Watcher, step

from spind.engine import Engine
from spind.events import (
    BlockedSeen,
    ConnDelta,
    IgnoreAddress,
    NeighbourSeen,
    ResetIgnored,
    SetName,
    SetProfile,
    Traffic,
)
from spind.feed import Feed
from spind.limits import Limits
from spind.model import ConnKey, format_address

more = st.one_of(
    step,
    step,
    st.tuples(st.just("quick")),
    st.tuples(st.just("full")),
    st.tuples(st.just("advance"), st.integers(1, 12)),
    st.tuples(st.just("subscribe"), st.booleans()),
    st.tuples(st.just("leave")),
    st.tuples(st.just("settle")),
    st.tuples(st.just("blocked"), st.sampled_from(REMOTES)),
    st.tuples(st.just("hide"), st.sampled_from([*REMOTES, *HOME.values()]), st.booleans()),
    st.tuples(st.just("show")),
    st.tuples(st.just("name"), st.integers(1, 12), st.sampled_from(["", "Küche\n\u2028", "x" * 64])),
    st.tuples(st.just("profile"), st.integers(1, 3), st.sampled_from(["", "printer", "lan_only"])),
    st.tuples(st.just("merge"), st.integers(30, 31)),
    st.tuples(st.just("stranger"), st.integers(30, 31), st.integers(0, 9)),
    st.tuples(st.just("shift"), st.sampled_from([-3600.0, 86400.0])),
)


class Hesitant(Feed):
    """A feed that stops everywhere it may."""

    look_at_once = 2


class Table(Watcher):
    """A feed, and one client whose queue is read a bit at a time."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.feed = Hesitant(engine, lambda: self.now, "abc", "1")
        self.client = Client()
        self.snapshot: Iterator[bytes | None] | None = None
        self.queue: list[bytes] = []
        self.there = False
        self.making: Iterator[bytes | None] | None = None

    def give(self, event: object) -> None:
        for command in self.engine.handle(event, self.now):
            self.feed.publish(command)

    def carry_out(self, action: tuple[object, ...]) -> None:
        kind, *rest = action
        own = getattr(self, f"do_{kind}", None)
        if own is None:
            super().carry_out(action)
        else:
            self.now += 0.01
            own(*rest)

    # -- what the streams do

    def do_subscribe(self, resumes: bool) -> None:
        self.there = True
        self.feed.wake()
        missed = self.feed.resume(self.client.last_id) if resumes and self.client.ready else None
        if missed is None:
            self.client = Client()
        self.queue = missed or []
        self.snapshot = self.feed.snapshot() if missed is None else None

    def do_leave(self) -> None:
        self.there = False
        self.queue, self.snapshot = [], None

    def do_quick(self) -> None:
        self._make(counters=False)

    def do_full(self) -> None:
        self._make(counters=True)

    def _make(self, *, counters: bool) -> None:
        """Begin the next delta, once the one before is made."""
        self._finish()
        if self.feed.awake:
            if self.feed.overflowed:
                self.feed.restart()
                if self.there:
                    self.queue, self.snapshot = [], self.feed.snapshot()
            self.making = self.feed.delta(counters=counters)

    def _finish(self) -> None:
        while self.making is not None:
            self._work()

    def _work(self) -> None:
        text = next(self.making, b"")
        if text == b"":
            self.making = None
        elif text and self.there:
            self.queue.append(text)

    def do_advance(self, steps: int) -> None:
        for _ in range(steps):
            if self.making is not None:
                self._work()
            self._read()

    def _read(self) -> None:
        if self.snapshot is not None:
            text = next(self.snapshot, b"")
            if text == b"":
                self.snapshot = None
            elif text:
                self.client.take(text)
        elif self.queue:
            self.client.take(self.queue.pop(0))

    def do_settle(self) -> None:
        """Let everything arrive, and compare."""
        if self.there:
            self._make(counters=True)
            self._make(counters=True)  # once more, since the first may find that it lost track
            self._finish()
            while self.snapshot is not None or self.queue:
                self._read()
            self.client.check(self.engine, self.now)

    # -- what else happens

    def do_blocked(self, remote: bytes) -> None:
        self.give(BlockedSeen(packet(6, CAMERA_V4, 1000, remote, 443, flags=2), CAMERA, up=True))

    def do_hide(self, address: bytes, ignored: bool) -> None:
        self.give(IgnoreAddress(format_address(address), ignored))

    def do_show(self) -> None:
        self.give(ResetIgnored())

    def do_name(self, node: int, name: str) -> None:
        if node in self.engine.nodes.by_id and self.engine.nodes.by_id[node].decision_key:
            self.give(SetName(node, name))

    def do_profile(self, node: int, profile: str) -> None:
        found = self.engine.nodes.by_id.get(node)
        if found is not None and found.mac is not None:
            self.give(SetProfile(node, profile))

    def do_stranger(self, last: int, size: int) -> None:
        """A device that is only an address has traffic."""
        key = ConnKey(6, bytes([192, 168, 8, last]), 1000, REMOTES[0], 443)
        self.give(Traffic([ConnDelta(1, key, 1, size, 1, size, ended=False)]))

    def do_merge(self, last: int) -> None:
        """The MAC of such a device comes to light."""
        self.give(NeighbourSeen(bytes([192, 168, 8, last]), bytes([2, 0, 0, 0, 9, last])))

    def do_shift(self, delta: float) -> None:
        self._finish()
        self.now += delta
        self.engine.shift(delta)


@settings(max_examples=300, deadline=None)
@given(st.lists(more, min_size=20, max_size=100))
def test_a_client_knows_what_there_is(steps: list[tuple[object, ...]]) -> None:
    table = Table(home(retain=100))
    table.do_subscribe(resumes=False)
    for action in steps:
        table.carry_out(action)
    table.do_settle()


@settings(max_examples=300, deadline=None)
@given(st.lists(more, min_size=20, max_size=100), st.integers(1, 5))
def test_so_it_does_with_tables_that_are_full(steps: list[tuple[object, ...]], size: int) -> None:
    limits = Limits(
        devices=2, sites=size, sites_per_device=size, names=size, connections=size, flows=size, queries=size,
        window_cells=size, report_rows=size, streams=size, addresses_per_node=2, domains_per_node=2,
    )  # fmt: skip
    table = Table(home(limits=limits, retain=100))
    table.do_subscribe(resumes=False)
    for action in steps:
        table.carry_out(action)
    table.do_settle()
