# SPDX-License-Identifier: GPL-2.0-or-later
"""Live events for whoever listens: the pace of the deltas, and a bounded queue for each subscriber.

Owns when messages are made, who gets which, and when a slow reader is given up. Must not know what they
say (that is ``feed``), nor how they are sent.

A message is encoded once. Snapshots and deltas are made one slice at a time, all of them together no more
than one slice between two looks at the sockets: a packet may be waiting.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from spind.commands import Command
from spind.feed import Feed, Steps, Urgency
from spind.web.messages import RefusedError

log = logging.getLogger(__name__)

MAX_SUBSCRIBERS: Final = 64
"""Streams at once: each costs a connection, a snapshot, and a queue."""

MAX_OF_ONE: Final = 32
"""Of one user or token: a program that forgets to close its own leaves room for others' pages."""

QUEUE_BYTES: Final = 2 << 20
"""What may wait for one subscriber; it is dropped rather than given a bigger queue."""

STALLED_SECONDS: Final = 60.0
"""A subscriber that takes nothing of what waits for so long is dropped."""

KEEP_ALIVE_SECONDS: Final = 15.0
KEEP_ALIVE: Final = b": \n\n"
"""A comment (HTML, section 9.2.7): proxies close what is silent, and a lost peer is noticed."""

PACE_SECONDS: Final = 1.0
"""Between two deltas with counters, unless somebody decided something."""

SOON_SECONDS: Final = 0.2
"""Between any two deltas; so soon people see a query, or what they decided."""

LINGER_SECONDS: Final = 60.0
"""Changes are followed for so long after the last subscriber has gone, for it may come back."""

SLICE_SECONDS: Final = 0.001

SHARE_SECONDS: Final = 5.0
"""Who comes so soon after a snapshot was begun gets the same one, and the deltas since: after a restart of
the daemon all come at once."""


class TooManySubscribers(RefusedError):  # noqa: N818 - a refusal, no error
    """There are as many streams as there may be, or as one user or token may have."""

    def __init__(self, name: str = "") -> None:
        """``name``: who has too many."""
        have = f"{name} has {MAX_OF_ONE}" if name else f"there are {MAX_SUBSCRIBERS}"
        super().__init__(f"{have} streams of events already; close one", int(KEEP_ALIVE_SECONDS))


class Snapshot:
    """A snapshot that is made as it is read, by all who share it."""

    def __init__(self, steps: Steps, position: str, now: float) -> None:
        """``position``: the delta after which it was begun."""
        self.position = position
        self.began = now
        self.texts: list[bytes] = []
        self.complete = False
        self._steps = steps

    def advance(self, end: Callable[[], bool]) -> None:
        """Make some of it: its next message, or as much as there is time for."""
        for text in self._steps:
            if text is not None:
                self.texts.append(text)
                return
            if end():
                return
        self.complete = True


class Subscriber:
    """One reader: an asynchronous iterator of complete texts of server-sent events. It ends when the
    subscriber is closed, dropped for being slow, or the daemon stops."""

    def __init__(
        self, streams: "Streams", first: list[bytes], snapshot: Snapshot | None, listener: tuple[str, str]
    ) -> None:
        """``first`` is what it missed since its last event, or since ``snapshot``, if it needs one.
        ``listener`` is a name, and how it came."""
        self.listener = listener
        self.on_drop: Callable[[], None] = _nothing
        """Called once when the reader is dropped, so that a write that is stuck can be given up."""
        self._streams = streams
        self._queue: deque[bytes] = deque(first)
        self._bytes = sum(map(len, self._queue))
        self._snapshot = snapshot
        self._read = 0  # messages of the snapshot
        self._waiter: asyncio.Future[None] | None = None
        self._since = streams.time()
        self.closed = False

    def __aiter__(self) -> "Subscriber":
        return self

    async def __anext__(self) -> bytes:
        self._since = self._streams.time()
        while not self.closed:
            if self._snapshot is not None:
                text = await self._next(self._snapshot)
                if text:
                    return text
            elif self._queue:
                text = self._queue.popleft()
                self._bytes -= len(text)
                return text
            elif not await self._wait():
                return KEEP_ALIVE
        raise StopAsyncIteration

    def close(self) -> None:
        """Have no more events; may be called at any time, and twice."""
        if not self.closed:
            self.closed = True
            self._queue.clear()
            self._bytes = 0
            self._snapshot = None
            self._wake()
            self._streams.left(self)

    def put(self, text: bytes) -> bool:
        """Have ``text`` wait for the reader; False where there is no room."""
        if self._bytes + len(text) > QUEUE_BYTES:
            return False
        if not self._queue:
            self._since = self._streams.time()
        self._queue.append(text)
        self._bytes += len(text)
        self._wake()
        return True

    @property
    def waiting(self) -> int:
        """Bytes that wait for the reader."""
        return self._bytes

    def reads(self, snapshot: Snapshot) -> bool:
        """Does it still need this snapshot?"""
        return self._snapshot is snapshot

    def stalled(self, now: float) -> bool:
        """Does the reader take nothing of what waits?"""
        return bool(self._queue) and self._waiter is None and now - self._since > STALLED_SECONDS

    def begin_again(self, snapshot: Snapshot) -> None:
        """All that it was told is void: it gets a new snapshot instead of what waits."""
        self._queue.clear()
        self._bytes = 0
        self._snapshot, self._read = snapshot, 0
        self._wake()

    async def _next(self, snapshot: Snapshot) -> bytes:
        """The next message of the snapshot; empty where it is to be asked again."""
        if self._read == len(snapshot.texts) and not snapshot.complete:
            await self._streams.make(snapshot)
        else:
            await asyncio.sleep(0)
        if self._snapshot is not snapshot:
            return b""
        if self._read < len(snapshot.texts):
            self._read += 1
            return snapshot.texts[self._read - 1]
        if snapshot.complete:
            self._snapshot = None
        return b""

    def drop(self) -> None:
        """Give the reader up."""
        self.close()
        try:
            self.on_drop()
        except Exception:
            log.exception("a slow reader cannot be cut off")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> bool:
        """Until there is something; False where there was nothing for as long as a stream may be silent."""
        loop = self._streams.loop
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(KEEP_ALIVE_SECONDS, _resolve, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            self._since = self._streams.time()
            timer.cancel()
        return bool(self._queue) or self._snapshot is not None or self.closed


class Streams:
    """All subscribers of one feed; all calls from the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, feed: Feed) -> None:
        self.loop = loop
        self.time = loop.time
        self._feed = feed
        self._subscribers: set[Subscriber] = set()
        self._turn = asyncio.Lock()  # whose turn it is to use a slice of the loop's time
        self._news = asyncio.Event()
        self._urgency = Urgency.NONE
        self._task: asyncio.Task[None] | None = None
        self._shared: Snapshot | None = None
        self._empty_since = 0.0
        self._stopped = False
        self._subscribed = self._dropped = self._deltas = self._bytes = self._restarts = 0

    @property
    def counters(self) -> dict[str, int]:
        """For ``status``: subscribers now and in all, slow ones dropped, deltas and their bytes, as encoded
        once, and how often all had to begin again."""
        return {
            "subscribers": len(self._subscribers),
            "subscribed": self._subscribed,
            "dropped": self._dropped,
            "deltas": self._deltas,
            "delta_bytes": self._bytes,
            "restarts": self._restarts,
        }

    def subscribe(self, last_event_id: str = "", name: str = "", via: str = "") -> Subscriber:
        """A new subscriber, going on after the event of this id where that is still known, else with a
        snapshot; ``TooManySubscribers``."""
        if self._stopped or len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise TooManySubscribers
        listener = name, via
        if name and sum(one.listener == listener for one in self._subscribers) >= MAX_OF_ONE:
            raise TooManySubscribers(name)
        self._feed.wake()
        missed = self._feed.resume(last_event_id)
        snapshot = None
        if missed is None:
            snapshot, missed = self._share()
        subscriber = Subscriber(self, missed, snapshot, listener)
        self._subscribers.add(subscriber)
        self._subscribed += 1
        if self._task is None or self._task.done():
            self._task = self.loop.create_task(self._run(), name="live events")
        return subscriber

    def publish(self, command: Command) -> None:
        """Take in one of the engine's commands, after the engine has carried it out."""
        self._hurry(self._feed.publish(command))

    def mention(self, name: str) -> None:
        """Something that clients ask for changed, such as ``captures``."""
        self._feed.mention(name)
        self._hurry(Urgency.SOON if self._feed.awake else Urgency.NONE)

    async def stop(self) -> None:
        """End all streams."""
        self._stopped = True
        for subscriber in list(self._subscribers):
            subscriber.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._feed.sleep()

    # -- for subscribers -----------------------------------------------------------------

    def left(self, subscriber: Subscriber) -> None:
        """The subscriber is gone."""
        self._subscribers.discard(subscriber)
        self._empty_since = self.time()

    async def make(self, snapshot: Snapshot) -> None:
        """One slice of work on a snapshot, unless another one who shares it has done that meanwhile."""
        made = len(snapshot.texts)
        async with self._turn:
            if made == len(snapshot.texts) and not snapshot.complete:
                try:
                    snapshot.advance(self._slice())
                except Exception:
                    log.exception("a snapshot of the home failed")
                    self._give_up(snapshot)
                await asyncio.sleep(0)

    def _give_up(self, snapshot: Snapshot) -> None:
        """Close the streams of all who share it: half a home would not be told from a whole one."""
        self._shared = None
        for subscriber in [one for one in self._subscribers if one.reads(snapshot)]:
            self._drop(subscriber)

    def _share(self) -> tuple[Snapshot, list[bytes]]:
        """A snapshot that was begun lately, or now, and the deltas since."""
        shared = self._shared
        if shared is not None and self.time() - shared.began < SHARE_SECONDS:
            missed = self._feed.resume(shared.position)
            if missed is not None:
                return shared, missed
        self._shared = Snapshot(self._feed.snapshot(), self._feed.position, self.time())
        return self._shared, []

    # -- the pace ------------------------------------------------------------------------

    def _hurry(self, urgency: Urgency) -> None:
        if urgency > self._urgency:
            self._urgency = urgency
            self._news.set()

    async def _run(self) -> None:
        """Deltas, until nobody has listened for a while."""
        told = counted = self.time()  # the last delta, the last one with counters
        while self._subscribers or self.time() - self._empty_since < LINGER_SECONDS:
            due = counted + PACE_SECONDS
            if self._urgency:
                due = min(due, told + SOON_SECONDS)
            delay = due - self.time()
            if delay > 0:
                self._news.clear()
                await self._until_news(delay)
                continue
            told = self.time()
            urgency, self._urgency = self._urgency, Urgency.NONE
            counters = urgency is Urgency.DECIDED or told >= counted + PACE_SECONDS
            if counters:
                counted = told
            try:
                await self._tell(counters=counters)
            except Exception:
                log.exception("live events begin again")
                self._restart()
            self._drop_stalled()
            if self._shared is not None and self.time() - self._shared.began >= SHARE_SECONDS:
                self._shared = None  # its readers keep it as long as they need it
        self._shared = None
        self._feed.sleep()

    async def _until_news(self, delay: float) -> None:
        timer = self.loop.call_later(delay, self._news.set)
        try:
            await self._news.wait()
        finally:
            timer.cancel()

    async def _tell(self, *, counters: bool) -> None:
        if self._feed.overflowed:
            self._restart()
            return
        steps = self._feed.delta(counters=counters)
        more = True
        while more:
            async with self._turn:
                more = self._advance(steps)
                await asyncio.sleep(0)

    def _advance(self, steps: Steps) -> bool:
        end = self._slice()
        for text in steps:
            if text is not None:
                self._deltas += 1
                self._bytes += len(text)
                self._send(text)
            if end():
                return True
        return False

    def _send(self, text: bytes) -> None:
        for subscriber in list(self._subscribers):
            if not subscriber.put(text):
                self._drop(subscriber)

    def _restart(self) -> None:
        self._restarts += 1
        self._feed.restart()
        self._shared = None
        for subscriber in list(self._subscribers):
            subscriber.begin_again(self._share()[0])

    def _drop_stalled(self) -> None:
        now = self.time()
        for subscriber in [one for one in self._subscribers if one.stalled(now)]:
            self._drop(subscriber)

    def _drop(self, subscriber: Subscriber) -> None:
        self._dropped += 1
        subscriber.drop()

    def _slice(self) -> Callable[[], bool]:
        end = self.time() + SLICE_SECONDS
        return lambda: self.time() >= end


def _nothing() -> None:
    """Nobody wants to hear of it."""


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
