# SPDX-License-Identifier: GPL-2.0-or-later
"""One connection to ubusd, from its hello to its end.

Owns the framing, the requests under way and the bounds of both directions. It must not know
objects nor when to connect again: that is ``client``.

Descriptors that others attach to a call never arrive: what is read without room for ancillary data
loses them, and the kernel closes them (unix(7), SCM_RIGHTS).

Bounds. In: while whole messages wait for their turn nothing more is read, so that at most one read
(256 KiB) and one message (1 MiB) are kept; what ubusd has for us beyond its own bound it drops.
Out: while ubusd has not taken ``_WRITE_HIGH`` bytes no further call is looked at, and events are
refused; after ``_STUCK`` seconds of that, or beyond ``_WRITE_MAX`` bytes, the connection is ended.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol, cast

from spind.ubus import messages
from spind.ubus.messages import Fields, Framer, Message, Status
from spind.wire.errors import WireError

log = logging.getLogger(__name__)

_WRITE_HIGH: Final = 64 * 1024
_WRITE_MAX: Final = 2 * 1024 * 1024
_STUCK: Final = 10.0
_HELLO: Final = 5.0  # seconds; ubusd sends it before it looks at anything else

_SLICE: Final = 0.001  # seconds of the loop's time at once

MAX_REQUESTS: Final = 256
"""Requests under way on one connection."""

_MAX_REPLIES: Final = 1024  # messages with data in the reply to one request: a lookup of all objects


class UbusError(Exception):
    """A request that failed; ``status`` says why (a ``Status``, or a number that is none)."""

    def __init__(self, status: int, data: bytes | None = None) -> None:
        name = Status(status).name if status in Status.__members__.values() else str(status)
        super().__init__(f"ubus: {name}")
        self.status = status
        self.data = data
        """What came before the status: some objects explain themselves there. Still encoded."""


class LinkOwner(Protocol):
    """Hears of a connection."""

    def link_up(self, link: "Link") -> None:
        """The other side said hello."""

    def link_message(self, link: "Link", message: Message, fields: Fields) -> None:
        """An INVOKE, NOTIFY or UNSUBSCRIBE came."""


class _Request(NamedTuple):
    future: "asyncio.Future[list[Fields]]"
    peer: int
    timer: asyncio.TimerHandle
    heard: Callable[[Fields], None]
    replies: list[Fields]


class Link(asyncio.Protocol):
    """The connection; ``lost`` is done when it has ended, and ``reason`` says why."""

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: LinkOwner) -> None:
        self._loop = loop
        self._owner = owner
        self._framer = Framer()
        self._transport: asyncio.Transport | None = None
        self._turn: asyncio.Handle | None = None
        self._reading = True
        self._full = False
        self._timer: asyncio.TimerHandle | None = None  # for the hello; then for ubusd to read
        self._requests: dict[int, _Request] = {}
        self._seq = 0
        self.up = False
        self.reason = ""
        self.malformed = 0
        self.lost: asyncio.Future[None] = loop.create_future()

    # -- asyncio.Protocol ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the hello."""
        self._transport = cast("asyncio.Transport", transport)  # of a stream
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH)
        self._timer = self._loop.call_later(_HELLO, self.abort, "ubusd does not answer")

    def data_received(self, data: bytes) -> None:
        """Look at it in a turn of its own."""
        self._framer.feed(data)
        self._schedule()

    def pause_writing(self) -> None:
        """Look at no further calls."""
        self._full = True
        if self._timer is None:
            self._timer = self._loop.call_later(_STUCK, self.abort, "ubusd does not read")

    def resume_writing(self) -> None:
        """Go on."""
        self._full = False
        if self.up and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._schedule()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what is under way."""
        self.up = False
        self._transport = None
        self.reason = self.reason or (str(error) if error else "ubusd closed the connection")
        for handle in (self._timer, self._turn):
            if handle is not None:
                handle.cancel()
        self._timer = self._turn = None
        for request in self._requests.values():
            request.timer.cancel()
            if not request.future.done():
                request.future.set_exception(UbusError(Status.CONNECTION_FAILED))
        self._requests.clear()
        if not self.lost.done():
            self.lost.set_result(None)

    # -- out -----------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether ubusd has yet to take what was sent: what can wait, or be left out, should."""
        return self._full or not self.up

    def send(self, kind: int, seq: int, peer: int, body: bytes) -> None:
        """Send a message that is no request; lost where the connection is."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > _WRITE_MAX:
            self.abort("ubusd does not read")
            return
        self._transport.write(messages.pack_message(kind, seq, peer, body))

    def request(
        self,
        kind: int,
        peer: int,
        body: bytes,
        seconds: float = 30.0,
        heard: Callable[[Fields], None] = lambda _fields: None,
    ) -> "asyncio.Future[list[Fields]]":
        """Send a request; its replies, when ubusd says that there are no more.

        ``heard`` has each of them at once, before any message that came after it is looked at.
        ``UbusError`` where the status is not OK, after ``seconds``, and when the connection ends.
        """
        future: asyncio.Future[list[Fields]] = self._loop.create_future()
        if not self.up:
            future.set_exception(UbusError(Status.CONNECTION_FAILED))
            return future
        if len(self._requests) >= MAX_REQUESTS:
            future.set_exception(UbusError(Status.NO_MEMORY))
            return future
        seq = self._next_seq()
        timer = self._loop.call_later(seconds, self._finish, seq, Status.TIMEOUT)
        self._requests[seq] = _Request(future, peer, timer, heard, [])
        future.add_done_callback(partial(self._abandoned, seq))
        self.send(kind, seq, peer, body)
        return future

    def _next_seq(self) -> int:
        while True:
            self._seq = (self._seq + 1) & 0xFFFF
            if self._seq not in self._requests:
                return self._seq

    def _abandoned(self, seq: int, future: "asyncio.Future[list[Fields]]") -> None:
        """Forget a request that its caller has cancelled."""
        request = self._requests.get(seq)
        if request is not None and request.future is future:
            request.timer.cancel()
            del self._requests[seq]

    def close(self) -> None:
        """Send what waits, and end."""
        self.reason = self.reason or "stopped"
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """End at once."""
        self.reason = self.reason or reason
        if self._transport is not None:
            self._transport.abort()

    # -- in ------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._turn is None and not self._full and self._transport is not None:
            self._turn = self._loop.call_soon(self._take)

    def _take(self) -> None:
        """Take messages for a slice of time; reading goes on when none is left."""
        self._turn = None
        end = self._loop.time() + _SLICE
        while not self._full and self._transport is not None and not self._transport.is_closing():
            try:
                message = self._framer.next()
            except WireError as error:
                self.abort(str(error))
                return
            if message is None:
                self._read(True)
                return
            self._message(message)
            if self._loop.time() >= end:
                self._schedule()
                break
        self._read(False)

    def _read(self, on: bool) -> None:
        transport = self._transport
        if transport is not None and on is not self._reading and not transport.is_closing():
            self._reading = on
            (transport.resume_reading if on else transport.pause_reading)()

    def _message(self, message: Message) -> None:
        try:
            fields = messages.parse_fields(message.body)
        except WireError:
            self.malformed += 1
            return
        if not self.up:
            if message.type == messages.HELLO and self._timer is not None:
                self._timer.cancel()
                self._timer = None
                self.up = True
                self._owner.link_up(self)
            else:
                self.abort("ubusd did not say hello")
        elif message.type in (messages.STATUS, messages.DATA):
            self._reply(message, fields)
        else:
            self._owner.link_message(self, message, fields)

    def _reply(self, message: Message, fields: Fields) -> None:
        request = self._requests.get(message.seq)
        # A late reply may have the number that is a later request's by now.
        if request is None or request.peer != message.peer:
            return
        if message.type == messages.STATUS:
            status = Status.INVALID_ARGUMENT if fields.status is None else fields.status
            self._finish(message.seq, status)
        elif len(request.replies) < _MAX_REPLIES:
            request.replies.append(fields)
            request.heard(fields)

    def _finish(self, seq: int, status: int) -> None:
        request = self._requests.pop(seq)
        request.timer.cancel()
        if request.future.done():
            return
        if status == Status.OK:
            request.future.set_result(request.replies)
        else:
            data = request.replies[-1].data if request.replies else None
            request.future.set_exception(UbusError(status, data))
