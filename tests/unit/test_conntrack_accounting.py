# SPDX-License-Identifier: GPL-2.0-or-later
"""Each byte of each connection is counted once, whatever dumps and events do to each other."""

import random
from collections import Counter

import conntrack_messages as ct
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.accounting import FORGET_AFTER, Accounting
from spind.events import ConnDelta
from spind.model import ConnKey


def totals(deltas: list[ConnDelta]) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for delta in deltas:
        before = found.get(delta.cid, (0, 0, 0, 0))
        found[delta.cid] = tuple(a + b for a, b in zip(before, delta[2:6], strict=True))
    return found


def dump(accounting: Accounting, *messages: bytes, now: float = 0.0) -> list[ConnDelta]:
    accounting.begin_dump()
    deltas = accounting.dump_buffer(b"".join(messages))
    assert not accounting.done
    deltas += accounting.dump_buffer(ct.done())
    assert accounting.done
    return deltas + accounting.end_of_dump(now)


@pytest.fixture
def accounting() -> Accounting:
    """After its first dump, of an empty table."""
    fresh = Accounting()
    assert dump(fresh) == []
    return fresh


def test_what_was_there_at_the_start_counts_from_then_on() -> None:
    accounting = Accounting()
    (first,) = dump(accounting, ct.entry(ct.tcp(), (10, 1000, 20, 30000)))
    assert first[2:] == (0, 0, 0, 0, False)
    (second,) = dump(accounting, ct.entry(ct.tcp(), (11, 1100, 20, 30000)))
    assert second == (first.cid, first.key, 1, 100, 0, 0, False)


def test_what_comes_later_counts_from_zero(accounting: Accounting) -> None:
    (delta,) = dump(accounting, ct.entry(ct.tcp(), (10, 1000, 20, 30000)))
    assert delta[2:] == (10, 1000, 20, 30000, False)
    assert delta.key == ConnKey(6, b"\xc0\xa8\1\2", 20000, b"\xcb\0\x71\x09", 443)


def test_nothing_is_said_of_what_stands_still(accounting: Accounting) -> None:
    text = ct.entry(ct.tcp(), (10, 1000, 20, 30000))
    dump(accounting, text)
    assert dump(accounting, text) == []
    assert accounting.entries == accounting.tracked == 1


def test_the_last_bytes_come_with_the_end(accounting: Accounting) -> None:
    (first,) = dump(accounting, ct.entry(ct.tcp(), (1, 60, 0, 0)))
    (last,) = accounting.event_buffer(ct.destroy(ct.tcp(), (5, 500, 4, 4000)))
    assert last == (first.cid, first.key, 4, 440, 4, 4000, True)
    assert accounting.tracked == 0


def test_a_connection_that_no_dump_saw_is_counted_whole(accounting: Accounting) -> None:
    (delta,) = accounting.event_buffer(ct.destroy(ct.tcp(), (5, 500, 4, 4000)))
    assert delta[2:] == (5, 500, 4, 4000, True)


def test_an_end_during_the_first_dump_tells_nothing_about_our_time() -> None:
    accounting = Accounting()
    accounting.begin_dump()
    assert accounting.event_buffer(ct.destroy(ct.tcp(), (5, 500, 4, 4000))) == []


def test_a_dump_older_than_the_end_brings_nothing_back(accounting: Accounting) -> None:
    dump(accounting, ct.entry(ct.tcp(), (1, 60, 0, 0)))
    accounting.begin_dump()
    snapshot = ct.entry(ct.tcp(), (4, 400, 3, 3000))
    (last,) = accounting.event_buffer(ct.destroy(ct.tcp(), (5, 500, 4, 4000)))
    assert last.ended
    assert accounting.dump_buffer(snapshot) == []
    accounting.dump_buffer(ct.done())
    assert accounting.end_of_dump(0.0) == []
    assert accounting.tracked == 0
    # The kernel tells of the end before it takes the entry out: the next dump may have it once more.
    assert dump(accounting, snapshot) == []


def test_the_same_ident_again_is_another_connection(accounting: Accounting) -> None:
    """Same addresses, ports and memory: even the kernel's id is the same."""
    dump(accounting, ct.entry(ct.tcp(), (9, 900, 9, 9000)))
    accounting.event_buffer(ct.destroy(ct.tcp(), (9, 900, 9, 9000)))
    seen = []
    for bytes_ in (100, 200, 300):
        seen += dump(accounting, ct.entry(ct.tcp(), (1, bytes_, 0, 0)))
    assert [sum(total[1] for total in totals(seen).values())] == [300]


def test_counters_that_went_down_are_another_connection(accounting: Accounting) -> None:
    (old,) = dump(accounting, ct.entry(ct.tcp(), (9, 900, 9, 9000)))
    ended, new = dump(accounting, ct.entry(ct.tcp(), (1, 60, 0, 0)))
    assert ended == (old.cid, old.key, 0, 0, 0, 0, True)
    assert new[2:] == (1, 60, 0, 0, False)
    assert new.cid != old.cid
    assert accounting.lost_ends == 1


def test_ids_alone_do_not_make_a_connection(accounting: Accounting) -> None:
    """The kernel's id is a 32-bit hash: two connections may have the same."""
    one, other = ct.tcp(1, id=7), ct.tcp(2, id=7)
    deltas = dump(accounting, ct.entry(one, (1, 60, 0, 0)), ct.entry(other, (1, 70, 0, 0)))
    assert len({delta.cid for delta in deltas}) == 2
    assert dump(accounting, ct.entry(one, (1, 60, 0, 0)), ct.entry(other, (1, 70, 0, 0))) == []


def test_counters_are_64_bits(accounting: Accounting) -> None:
    size = 2**63 + 5
    (first,) = dump(accounting, ct.entry(ct.tcp(), (3, size - 2**33, 0, 0)))
    (second,) = dump(accounting, ct.entry(ct.tcp(), (4, size, 0, 0)))
    assert (first.orig_bytes, second.orig_bytes) == (size - 2**33, 2**33)


def test_what_dumps_no_longer_show_waits_for_its_end(accounting: Accounting) -> None:
    """Dumps leave out expired entries, whose DESTROY comes when the kernel's collector comes by."""
    dump(accounting, ct.entry(ct.tcp(), (1, 60, 0, 0)), now=0.0)
    assert dump(accounting, now=1.0) == []
    assert dump(accounting, now=90.0) == []
    (last,) = accounting.event_buffer(ct.destroy(ct.tcp(), (3, 180, 0, 0)))
    assert last[2:] == (2, 120, 0, 0, True)
    assert accounting.lost_ends == 0


def test_what_dumps_show_again_goes_on(accounting: Accounting) -> None:
    dump(accounting, ct.entry(ct.tcp(), (1, 60, 0, 0)), now=0.0)
    dump(accounting, now=1.0)
    (delta,) = dump(accounting, ct.entry(ct.tcp(), (2, 120, 0, 0)), now=2.0)
    assert delta[2:] == (1, 60, 0, 0, False)
    assert dump(accounting, ct.entry(ct.tcp(), (2, 120, 0, 0)), now=FORGET_AFTER * 2) == []


def test_an_end_that_was_lost_is_told_at_last(accounting: Accounting) -> None:
    (first,) = dump(accounting, ct.entry(ct.tcp(), (1, 60, 0, 0)), now=0.0)
    assert dump(accounting, now=1.0) == []
    assert dump(accounting, now=FORGET_AFTER) == []
    (last,) = dump(accounting, now=1.0 + FORGET_AFTER)
    assert last == (first.cid, first.key, 0, 0, 0, 0, True)
    assert (accounting.lost_ends, accounting.tracked) == (1, 0)


def test_an_end_in_the_middle_of_a_dump_hides_nothing_that_is_missing(accounting: Accounting) -> None:
    one, other = ct.entry(ct.tcp(1), (1, 60, 0, 0)), ct.entry(ct.tcp(2), (1, 60, 0, 0))
    dump(accounting, one, other, now=0.0)
    accounting.begin_dump()
    accounting.dump_buffer(one)
    accounting.event_buffer(ct.destroy(ct.tcp(1), (1, 60, 0, 0)))
    accounting.dump_buffer(ct.done())
    accounting.end_of_dump(1.0)
    (last,) = dump(accounting, now=1.0 + FORGET_AFTER)
    assert last.ended


def test_more_ends_than_are_remembered_bring_nothing_back() -> None:
    accounting = Accounting(limit=2)
    dump(accounting)
    accounting.begin_dump()
    for n in range(3):
        accounting.event_buffer(ct.destroy(ct.tcp(n), (1, 60, 0, 0)))
    assert accounting.dump_buffer(ct.entry(ct.tcp(2), (1, 60, 0, 0))) == []


def test_an_interrupted_dump_ends_nothing_and_is_no_baseline() -> None:
    accounting = Accounting()
    accounting.begin_dump()
    accounting.dump_buffer(ct.entry(ct.tcp(1), (5, 500, 0, 0), flags=0x12) + ct.done())
    assert accounting.interrupted
    assert accounting.end_of_dump(0.0) == []
    # The second was there before us as well, and the interrupted dump lacked it.
    deltas = dump(accounting, ct.entry(ct.tcp(1), (5, 500, 0, 0)), ct.entry(ct.tcp(2), (7, 700, 0, 0)))
    assert [delta[2:] for delta in deltas] == [(0, 0, 0, 0, False)]


def test_a_refused_dump_tells_its_error(accounting: Accounting) -> None:
    accounting.begin_dump()
    accounting.dump_buffer(ct.message(2, b"\xf0\xff\xff\xff" + ct.message(0x101, b"")))
    assert accounting.done
    assert accounting.error == 16


def test_the_table_is_bounded_and_totals_stay_right() -> None:
    accounting = Accounting(limit=2)
    dump(accounting)
    texts = [ct.entry(ct.tcp(n), (1, 100, 0, 0)) for n in range(4)]
    seen = dump(accounting, *texts)
    assert (accounting.tracked, accounting.untracked) == (2, 2)
    for n in range(4):
        seen += accounting.event_buffer(ct.destroy(ct.tcp(n), (2, 200, 0, 0)))
    assert sum(total[1] for total in totals(seen).values()) == 4 * 200


def test_a_malformed_message_does_not_end_the_buffer(accounting: Accounting) -> None:
    bad = ct.message(0x100, b"\2\0\0\0" + ct.attribute(1, b"xx"))
    (delta,) = dump(accounting, bad, ct.entry(ct.tcp(), (1, 60, 0, 0)))
    assert delta.orig_bytes == 60
    assert accounting.malformed == 1
    accounting.dump_buffer(b"\x10\0\0")
    assert accounting.malformed == 2


class Kernel:
    """A connection table, what its dumps and events would say, and all that was ever moved.

    A dump is read buffer by buffer, each of which the kernel makes when the one before is read, and
    sends its events before it takes the entry out (``slow`` ends leave it in for a while).
    """

    def __init__(self, choice: random.Random) -> None:
        self.choice = choice
        self.table: dict[ct.Connection, list[int]] = {}
        self.expired: dict[ct.Connection, list[int]] = {}
        self.leaving: dict[ct.Connection, list[int]] = {}
        self.events: list[bytes] = []
        self.moved: Counter[tuple[int, bool]] = Counter()
        self.pending: list[ct.Connection] | None = None
        self.ahead = b""
        self.left: set[ct.Connection] = set()

    def step(self) -> None:
        """Something happens to a connection."""
        what = self.choice.random()
        if what < 0.35 or not self.table:
            connection = ct.tcp(self.choice.randrange(6))
            if not any(connection in where for where in (self.table, self.expired, self.leaving)):
                self.table[connection] = [0, 0]
        connection = self.choice.choice(sorted(self.table)) if self.table else None
        if connection is None:
            return
        if what < 0.7:
            for reply in (False, True):
                size = self.choice.randrange(1, 1000)
                self.table[connection][reply] += size
                self.moved[connection.sport, reply] += size
        elif what < 0.8:
            self.leaving[connection] = self.end(connection, self.table)
        elif what < 0.9:
            self.expired[connection] = self.table.pop(connection)
        else:
            self.leaving.clear()
            for gone in list(self.expired):
                self.end(gone, self.expired)

    def end(self, connection: ct.Connection, table: dict[ct.Connection, list[int]]) -> list[int]:
        up, down = table.pop(connection)
        self.events.append(ct.destroy(connection, (0, up, 0, down)))
        return [up, down]

    def begin(self) -> None:
        # What is about to leave does so within microseconds: it may be in one more dump, not in two.
        for connection in self.left:
            self.leaving.pop(connection, None)
        self.left = set(self.leaving)
        self.pending = sorted({**self.table, **self.leaving})
        self.choice.shuffle(self.pending)
        self.ahead = self.piece()

    def piece(self) -> bytes:
        """The kernel makes the next buffer, of what is there now."""
        assert self.pending is not None
        if not self.pending:
            return ct.done()
        connection = self.pending.pop()
        counts = self.table.get(connection) or self.leaving.get(connection)
        return b"" if counts is None else ct.entry(connection, (0, counts[0], 0, counts[1]))

    def read(self) -> bytes:
        data = self.ahead
        self.ahead = self.piece() if self.pending is not None else b""
        return data


@pytest.mark.parametrize("seed", range(300))
def test_every_byte_is_counted_once(seed: int) -> None:
    """Random life of a few connections that share idents, against random dumps; no event is lost."""
    accounting = Accounting()
    dump(accounting)
    choice = random.Random(seed)
    kernel = Kernel(choice)
    seen: list[ConnDelta] = []
    dumping = False
    now = 0.0
    for _step in range(choice.randrange(20, 400)):
        kernel.step()
        what = choice.random()
        if what < 0.3 and kernel.events:
            seen += accounting.event_buffer(kernel.events.pop(0))
        elif what < 0.6 and not dumping:
            accounting.begin_dump()
            kernel.begin()
            dumping = True
        elif dumping:
            # The reader takes all events before each buffer of a dump.
            while kernel.events:
                seen += accounting.event_buffer(kernel.events.pop(0))
            seen += accounting.dump_buffer(kernel.read())
            if accounting.done:
                now += 1.0
                seen += accounting.end_of_dump(now)
                dumping = False
    for table in (kernel.table, kernel.expired):
        for connection in list(table):
            kernel.end(connection, table)
    for event in kernel.events:
        seen += accounting.event_buffer(event)

    counted: Counter[tuple[int, bool]] = Counter()
    for delta in seen:
        counted[delta.key.sport, False] += delta.orig_bytes
        counted[delta.key.sport, True] += delta.reply_bytes
    assert +counted == +kernel.moved
    assert accounting.lost_ends == 0
    assert len([delta for delta in seen if delta.ended]) == len({delta.cid for delta in seen})


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(data: bytes) -> None:
    accounting = Accounting()
    accounting.begin_dump()
    assert accounting.dump_buffer(data) == []
    assert accounting.event_buffer(data) == []


def test_a_reused_ident_is_found_at_once_where_no_dump_can_be_that_old(accounting: Accounting) -> None:
    accounting.event_buffer(ct.destroy(ct.tcp(), (5, 500, 4, 4000)))
    accounting.age_gone()
    accounting.forget_gone(recent=False)
    (again,) = dump(accounting, ct.entry(ct.tcp(), (1, 60, 0, 0)))
    assert again[2:6] == (1, 60, 0, 0)
    accounting.event_buffer(ct.destroy(ct.tcp(), (5, 500, 4, 4000)))
    accounting.forget_gone(recent=False)
    assert dump(accounting, ct.entry(ct.tcp(), (1, 60, 0, 0))) == [], "that event is too recent"
