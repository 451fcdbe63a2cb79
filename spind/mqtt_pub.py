# SPDX-License-Identifier: GPL-2.0-or-later
"""Publishes what the engine tells over MQTT, and keeps the broker's retained state true.

Owns when to connect, what to send first after a connection, what waits and what is given up.
It must not hold state of the home: after each connection it asks for a ``snapshot``, and
what the broker still retains of nodes that are not in it is removed. The bytes on the wire
are ``mqtt_messages``, the connection is ``mqtt_link``.

Life, one row a transition:

    STOPPED     start()                 -> CONNECTING
    CONNECTING  link up                 -> GATHERING   say "online", ask what is retained
    CONNECTING  link down               -> WAITING     1 s, doubling to 60 s, with jitter
    GATHERING   all retained seen       -> ONLINE      remove the old, send the snapshot
    ONLINE      state lost (queue full) -> GATHERING
    GATHERING, ONLINE  link down        -> WAITING
    WAITING     time over               -> CONNECTING
    any         stop()                  -> STOPPED     say "offline", leave in order
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Iterator
from enum import Enum, auto

from spind.commands import Command, NodeChanged
from spind.mqtt_link import MqttLink, MqttSettings
from spind.mqtt_messages import Message, Topics
from spind.mqtt_queue import OutQueue

__all__ = ["MqttPublisher", "MqttSettings"]

_BACKOFF_MIN = 1.0
_BACKOFF_MAX = 60.0
_STEADY = 10.0  # seconds that a connection must have lasted to be thought good

# A broker sends what it retains right after (or before) its answer to the subscription, but
# nothing marks the last one: a pause of this length does. Consumers see nothing meanwhile.
_GATHER_PAUSE = 0.25
_GATHER_MAX = 3.0
_GATHER_IDS = 65536  # node topics of an earlier run that are remembered; the rest stays

_SLICE_TIME = 0.001  # seconds of the loop's time at once
_SLICE_MESSAGES = 32
_STOP_TIME = 2.0  # seconds, for all that is left to say

log = logging.getLogger(__name__)


class _State(Enum):
    STOPPED = auto()
    CONNECTING = auto()
    GATHERING = auto()
    ONLINE = auto()
    WAITING = auto()


class MqttPublisher:
    """One daemon's voice on a broker; all calls from the loop's thread.

    ``snapshot`` gives the commands that describe the current state (nodes, counters).
    ``on_request`` answers a JSON-RPC text (``jsonrpc.handle``), used where ``settings.rpc``.
    ``announce_restart``: say ``serverRestart`` once, since node ids may have changed.
    ``ValueError`` where the traffic topic is none.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: MqttSettings,
        snapshot: Callable[[], list[Command]],
        on_request: Callable[[bytes], bytes | None] | None = None,
        *,
        announce_restart: bool = True,
        queue: OutQueue | None = None,
        backoff: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.topics = Topics(settings.channel_traffic)
        self._loop = loop
        self._settings = settings
        self._snapshot = snapshot
        self._on_request = on_request if settings.rpc else None
        self._announce_restart = announce_restart
        self._queue = OutQueue() if queue is None else queue
        self._backoff = backoff
        # Always the same, so that a broker that has not noticed our end replaces the old
        # connection (and publishes its will) before the new one says "online". Letters and
        # digits, at most 23: what every broker takes (MQTT 3.1.1 section 3.1.3.1).
        self._client_id = "spind" + hashlib.sha256(settings.channel_traffic.encode()).hexdigest()[:16]
        self._state = _State.STOPPED
        self._link: MqttLink | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._version5 = True
        self._version5_worked = False
        self._attempts = 0
        self._up_since: float | None = None
        self._told = ""
        self._subscription = 0
        self._gathered: set[int] = set()
        self._gather_end = self._gather_quiet = 0.0
        self._first: Iterator[Message] = iter(())  # what goes before the queue
        self._pump_handle: asyncio.Handle | None = None
        self._drained = True
        self._stopping = False
        self._connections = 0
        self._published = 0
        self._dropped = 0
        self._changed = asyncio.Event()

    @property
    def counters(self) -> dict[str, int]:
        """For ``status``: messages published and dropped, now queued, reconnects, connected (0, 1)."""
        return {
            "published": self._published,
            "dropped": self._dropped + self._queue.dropped,
            "queued": len(self._queue),
            "reconnects": max(0, self._connections - 1),
            "connected": int(self._link is not None and self._link.up),
        }

    def start(self) -> None:
        """Begin to connect; returns at once, whether or not there is a broker."""
        if self._state is _State.STOPPED:
            self._attempt()

    def publish(self, command: Command) -> None:
        """Tell of ``command``; commands that are not for MQTT are none of its business."""
        messages = self.topics.messages(command)
        if messages and self._state is not _State.STOPPED and not self._stopping:
            for message in messages:
                self._queue.put(message)
            self._wake()

    async def stop(self, *, forget: bool = False) -> None:
        """Send what waits and ``offline``, as far as that takes no longer than two seconds.

        ``forget`` takes back what the broker retains: nobody will keep it true from now on.
        """
        link = self._link
        if forget and link is not None and link.up:
            for command in self._snapshot():
                for message in self.topics.messages(command):
                    if message.retain:
                        self._queue.put(message._replace(payload=b""))
            self._wake()
        self._stopping = True
        if link is not None:
            now = self._loop.time()
            if link.up:
                # What waits gets half of the time; the rest is for the broker to take it.
                await self._until(
                    lambda: (self._drained and not link.busy) or not link.up, now + _STOP_TIME / 2
                )
                self._send(link, self.topics.online(up=False))
                link.disconnect()
                await self._until(lambda: self._link is None, now + _STOP_TIME)
            link.abort("stopped")
            await self._until(lambda: self._link is None, now + 2 * _STOP_TIME)
        self._cancel_timer()
        self._state = _State.STOPPED

    async def _until(self, condition: Callable[[], bool], end: float) -> None:
        while not condition() and self._loop.time() < end:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), end - self._loop.time())
            except TimeoutError:
                return

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Connecting

    def _attempt(self) -> None:
        self._timer = None
        self._state = _State.CONNECTING
        will = self.topics.online(up=False)
        self._link = MqttLink(
            self._loop, self, self._settings, self._client_id, will, version5=self._version5
        )
        self._link.open()

    def link_up(self, link: MqttLink) -> None:
        """See ``LinkOwner``, as for all that follow."""
        if self._state is not _State.CONNECTING or not link.up:
            return
        self._connections += 1
        self._up_since = self._loop.time()
        self._told = ""
        self._version5_worked = self._version5_worked or self._version5
        log.info("MQTT: connected to %s port %d", self._settings.host, self._settings.port)
        self._send(link, self.topics.online(up=True))
        if self._on_request is not None:
            link.subscribe(self.topics.request)
        self._gather(link)

    def link_down(self, link: MqttLink) -> None:
        """Try again after a while."""
        if link is not self._link:
            return
        self._link = None
        self._changed.set()
        if self._pump_handle is not None:
            self._pump_handle.cancel()
            self._pump_handle = None
        self._cancel_timer()
        if self._stopping:
            return
        self._choose_version(link)
        if self._up_since is not None and self._loop.time() - self._up_since >= _STEADY:
            self._attempts = 0
        self._up_since = None
        if link.reason != self._told:
            self._told = link.reason
            where = (self._settings.host, self._settings.port)
            log.warning("MQTT: no broker at %s port %d: %s; trying again", *where, link.reason)
        delay = _BACKOFF_MIN * 2 ** min(self._attempts, 6) * self._backoff(1.0, 1.5)
        self._attempts += 1
        self._state = _State.WAITING
        self._timer = self._loop.call_later(min(delay, _BACKOFF_MAX), self._attempt)

    def _choose_version(self, link: MqttLink) -> None:
        """Fall back to MQTT 3.1.1 for a broker that says it must, or hangs up without a word."""
        if link.wrong_version:
            self._version5 = False
        elif link.reached and not link.answered and not self._version5_worked:
            self._version5 = not self._version5

    # Bringing the broker's retained state in line

    def _gather(self, link: MqttLink) -> None:
        self._state = _State.GATHERING
        self._gathered.clear()
        self._subscription = link.subscribe(self.topics.any_node)
        link.flush()
        now = self._loop.time()
        self._gather_end = now + _GATHER_MAX
        self._gather_quiet = now + _GATHER_PAUSE
        self._cancel_timer()
        self._timer = self._loop.call_at(self._gather_quiet, self._gathered_all)

    def link_granted(self, link: MqttLink, mid: int) -> None:
        """What is retained comes about now."""
        if link is self._link and mid == self._subscription:
            self._subscription = 0
            self._gather_quiet = self._loop.time() + _GATHER_PAUSE

    def link_message(self, link: MqttLink, message: Message) -> None:
        """A request, or a node that the broker retains."""
        if link is not self._link:
            return
        if message.topic == self.topics.request:
            self._answer(message)
        elif message.retain and self._state is _State.GATHERING:
            ident = self.topics.node_id(message.topic)
            if ident is not None and len(self._gathered) < _GATHER_IDS:
                self._gathered.add(ident)
            self._gather_quiet = self._loop.time() + _GATHER_PAUSE

    def _gathered_all(self) -> None:
        self._timer = None
        link = self._link
        if self._state is not _State.GATHERING or link is None:
            return
        now = self._loop.time()
        wait_until = now + _GATHER_PAUSE if self._subscription else self._gather_quiet
        if now < min(wait_until, self._gather_end):
            self._timer = self._loop.call_at(min(wait_until, self._gather_end), self._gathered_all)
            return
        link.unsubscribe(self.topics.any_node)
        self._queue.lost_state = False
        try:
            commands = self._snapshot()
        except Exception:
            log.exception("MQTT: the current state cannot be told")
            commands = []
            self._gathered.clear()  # not knowing what is there, remove nothing
        current = {command.node.get("id") for command in commands if isinstance(command, NodeChanged)}
        gone = sorted(ident for ident in self._gathered if ident not in current)
        self._first = self._current_state(gone, commands)
        self._gathered = set()
        self._state = _State.ONLINE
        self._wake()

    def _current_state(self, gone: list[int], commands: list[Command]) -> Iterator[Message]:
        """Rendered as it is sent, so that a large home does not hold up the loop."""
        for ident in gone:
            yield self.topics.forget(ident)
        if self._announce_restart:
            # After the removals, since SPIN 1.0's page loads itself again at this.
            yield self.topics.restarted()
            self._announce_restart = False
        for command in commands:
            yield from self.topics.messages(command)

    # Requests

    def _answer(self, message: Message) -> None:
        # A retained request would be carried out again after each connection.
        if self._on_request is None or message.retain:
            return
        try:
            reply = self._on_request(message.payload)
        except Exception:
            log.exception("MQTT: a request failed")
            return
        if reply is not None:
            self._queue.put(Message(self.topics.reply, reply, retain=False))
            self._wake()

    # Sending

    def _wake(self) -> None:
        self._drained = False
        if self._state is _State.ONLINE and self._pump_handle is None and self._link and not self._link.busy:
            self._pump_handle = self._loop.call_soon(self._pump)

    def link_ready(self, link: MqttLink) -> None:
        """Go on sending."""
        self._changed.set()
        if link is self._link and not self._drained:
            self._wake()

    def _pump(self) -> None:
        """Send for a slice of time; goes on when the broker has taken it."""
        self._pump_handle = None
        link = self._link
        if link is None or not link.up or link.busy:
            return
        end = self._loop.time() + _SLICE_TIME
        for _ in range(_SLICE_MESSAGES):
            message = next(self._first, None) or self._queue.get()
            if message is None:
                self._drained = True
                break
            self._send(link, message)
            if self._loop.time() > end:
                break
        link.flush()
        self._changed.set()
        if self._drained and self._queue.lost_state and not self._stopping:
            self._gather(link)
        elif not self._drained:
            self._wake()

    def _send(self, link: MqttLink, message: Message) -> None:
        # A broker cuts the connection at a packet beyond its bound (MQTT 5 section 3.2.2.3.6).
        if len(message.payload) + 3 * len(message.topic) + 16 > link.max_packet:
            self._dropped += 1
            return
        try:
            link.publish(message)
            self._published += 1
        except ValueError as error:
            self._dropped += 1
            log.warning("MQTT: %.100r cannot be published: %s", message.topic, error)
