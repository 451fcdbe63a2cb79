# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of a packet, by the verdict, its hook and its queue."""

import struct
from collections.abc import Callable

import pytest

from spind.capture import Capture
from spind.capture_held import HOLD_SECONDS, MAX_CONNECTION_PACKETS
from spind.commands import Verdict
from spind.events import PacketSeen

DONE, CUT, INSPECT, OTHERS = 0x02000000, 0x04000000, 0x08000000, 0x11
FORWARD, LOCAL_OUT, INPUT = 2, 3, 1
HOLD = Verdict(accept=False, hold=True)
ACCEPT, REFUSE = Verdict(accept=True), Verdict(accept=False)
ACCEPT_DONE, RESET = Verdict(accept=True, done=True), Verdict(accept=False, cut=True)

log: list[tuple[str, int, int]] = []


class Packet:
    """What the library hands out: a verdict may be given once, also later."""

    physindev, indev = 0, 1

    def __init__(
        self, number: int, sport: int = 4000, hook: int = FORWARD, mark: int = INSPECT | OTHERS
    ) -> None:
        self.number = number
        self.hook = hook
        self.mark = mark
        self.given = ""
        self.payload = struct.pack("!BBHIBBH4s4s", 0x45, 0, 44, 0, 64, 6, 0, b"\x0a\0\0\1", b"\xc0\0\2\1")
        self.payload += struct.pack("!HHIIBBHI", sport, 443, number, 0, 0x50, 0x18, 9, 0) + b"data"

    def get_payload(self) -> bytes:
        return self.payload

    def set_payload(self, payload: bytes) -> None:
        self.payload = payload

    def get_hw(self) -> bytes:
        return b"\2\0\0\0\0\1\0\0"

    def set_mark(self, mark: int) -> None:
        self.mark = mark

    def _give(self, verdict: str) -> None:
        assert not self.given, "one verdict a packet"
        self.given = verdict
        log.append((verdict, self.number, self.mark))

    def accept(self) -> None:
        self._give("accept")

    def drop(self) -> None:
        self._give("drop")

    def repeat(self) -> None:
        self._give("repeat")


class Loop:
    """A clock and the timers that were set by it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> object:
        self.timers.append((when, callback))
        return object()

    def until(self, now: float) -> None:
        self.now = now
        due = [timer for timer in self.timers if timer[0] <= now]
        self.timers = [timer for timer in self.timers if timer[0] > now]
        for _when, callback in due:
            callback()


class Queue:
    """A capture whose packets come from the test. ``decide`` is the handler's next answer."""

    def __init__(self, *, inspect: bool = True) -> None:
        self.loop = Loop()
        self.decide: Verdict | Exception = ACCEPT
        self.events: list[PacketSeen] = []
        self.capture = Capture(
            self.loop,
            7,
            self._decide,
            lambda index: index == 1,
            done_mark=DONE,
            cut_mark=CUT,
            inspect_mark=INSPECT,
            inspect=inspect,
        )
        log.clear()

    def _decide(self, event: PacketSeen) -> Verdict:
        self.events.append(event)
        if isinstance(self.decide, Exception):
            raise self.decide
        return self.decide

    def give(self, packet: Packet, verdict: Verdict | Exception) -> list[tuple[str, int, int]]:
        """Hand over a packet; what has been done meanwhile."""
        self.decide = verdict
        before = len(log)
        self.capture._handle(packet)
        return log[before:]

    def count(self, name: str) -> int:
        return self.capture.counters()[f"capture.{name}"]


@pytest.fixture
def queue() -> Queue:
    return Queue()


def test_the_bit_comes_off_and_others_stay(queue: Queue) -> None:
    assert queue.give(Packet(1), ACCEPT) == [("accept", 1, OTHERS)]
    assert queue.give(Packet(2), ACCEPT_DONE) == [("repeat", 2, OTHERS | DONE)]
    assert queue.give(Packet(3), RESET) == [("repeat", 3, OTHERS | CUT)]
    assert queue.give(Packet(4), REFUSE) == [("drop", 4, OTHERS | INSPECT)]
    assert all(event.inspect and event.from_lan for event in queue.events)
    assert [queue.count(name) for name in ("done", "cut", "dropped")] == [1, 1, 1]


def test_another_queue_leaves_the_bit_alone() -> None:
    queue = Queue(inspect=False)
    assert queue.give(Packet(1), ACCEPT) == [("accept", 1, OTHERS | INSPECT)]
    assert not queue.events[0].inspect


@pytest.mark.parametrize("inspect", [False, True])
def test_where_marks_may_be_set(inspect: bool) -> None:
    queue = Queue(inspect=inspect)
    for hook in (FORWARD, LOCAL_OUT, INPUT):
        can = hook == FORWARD or (hook == LOCAL_OUT and inspect)
        (done,) = queue.give(Packet(1, hook=hook, mark=0), ACCEPT_DONE)
        (cut,) = queue.give(Packet(2, hook=hook, mark=0), RESET)
        assert done == (("repeat", 1, DONE) if can else ("accept", 1, 0))
        assert cut == (("repeat", 2, CUT) if can else ("drop", 2, 0)), "what is cut never passes"


def test_a_repeat_that_comes_back_ends(queue: Queue) -> None:
    """The rules that take the bits are gone."""
    assert queue.give(Packet(1, mark=DONE), ACCEPT_DONE) == [("accept", 1, DONE)]
    assert queue.give(Packet(2, mark=CUT), RESET) == [("drop", 2, CUT)]


def test_what_is_held_goes_on_before_what_decided(queue: Queue) -> None:
    assert queue.give(Packet(1), HOLD) == []
    assert queue.give(Packet(2, sport=5000), HOLD) == []
    assert queue.give(Packet(3), HOLD) == []
    assert queue.count("held") == 3
    assert queue.give(Packet(4), ACCEPT) == [("accept", 4, OTHERS)], "an acknowledgement decides nothing"
    assert queue.give(Packet(5), ACCEPT_DONE) == [
        ("accept", 1, OTHERS),
        ("accept", 3, OTHERS),
        ("repeat", 5, OTHERS | DONE),
    ]
    assert queue.count("held") == 1
    assert queue.give(Packet(6), ACCEPT_DONE) == [("repeat", 6, OTHERS | DONE)]


@pytest.mark.parametrize(("verdict", "last"), [(RESET, "repeat"), (REFUSE, "drop")])
def test_what_is_held_is_dropped_with_its_connection(queue: Queue, verdict: Verdict, last: str) -> None:
    queue.give(Packet(1), HOLD)
    queue.give(Packet(2, sport=5000), HOLD)
    queue.give(Packet(3), HOLD)
    assert [given[:2] for given in queue.give(Packet(4), verdict)] == [("drop", 1), ("drop", 3), (last, 4)]
    assert queue.count("held") == 1


def test_patience_ends_by_one_timer(queue: Queue) -> None:
    queue.give(Packet(1), HOLD)
    queue.loop.now += 1.0
    queue.give(Packet(2, sport=5000), HOLD)
    queue.give(Packet(3), HOLD)
    assert len(queue.loop.timers) == 1
    queue.loop.until(100.0 + HOLD_SECONDS)
    assert [given[:2] for given in log] == [("drop", 1), ("drop", 3)]
    assert len(queue.loop.timers) == 1
    queue.loop.until(101.0 + HOLD_SECONDS)
    assert [given[:2] for given in log] == [("drop", 1), ("drop", 3), ("drop", 2)]
    assert queue.loop.timers == []
    assert (queue.count("held_expired"), queue.count("held")) == (3, 0)


def test_what_finds_no_room_is_dropped(queue: Queue) -> None:
    for number in range(MAX_CONNECTION_PACKETS):
        assert queue.give(Packet(number), HOLD) == []
    assert [given[:2] for given in queue.give(Packet(99), HOLD)] == [("drop", 99)]
    assert queue.count("held_crowded") == 1


def test_a_packet_can_be_changed(queue: Queue) -> None:
    packet = Packet(1)
    assert queue.give(packet, Verdict(accept=True, payload=b"other")) == [("accept", 1, OTHERS)]
    assert packet.payload == b"other"


def test_dns_is_never_done(queue: Queue) -> None:
    """But what is held of it goes on."""
    queue.give(Packet(1, sport=53), HOLD)
    assert queue.give(Packet(2, sport=53), ACCEPT_DONE) == [("accept", 1, OTHERS), ("accept", 2, OTHERS)]


@pytest.mark.parametrize("inspect", [False, True])
def test_what_cannot_be_judged(inspect: bool, caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue(inspect=inspect)
    broken = Packet(1)
    broken.payload = b"\x45"
    verdict = "drop" if inspect else "accept"
    for _time in range(2):
        assert queue.give(Packet(2), RuntimeError("a bug"))[0][:2] == (verdict, 2)
    assert queue.give(broken, ACCEPT)[0][:2] == (verdict, 1)
    assert [queue.count(name) for name in ("failed", "malformed")] == [2, 1]
    assert caplog.text.count("handler failed") == 1
    assert caplog.text.count("parser failed") == inspect


def test_an_error_of_the_library_ends_nothing(queue: Queue) -> None:
    class Unbound(Packet):
        def drop(self) -> None:
            raise RuntimeError("Parent queue has already been unbound")

        accept = repeat = drop

    for verdict in (ACCEPT, REFUSE, RESET, ACCEPT_DONE, HOLD):
        assert queue.give(Unbound(1), verdict) == []
    assert queue.give(Packet(2), REFUSE)[0][:2] == ("drop", 2)
