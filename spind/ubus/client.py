# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of OpenWrt's bus that outlives ubusd: offers objects, calls others', sends events.

Owns when to connect, and that every object of ours is on the bus while there is one. The bytes are
``messages`` and ``blob``, one connection is ``link``.

Life, one row a transition:

    STOPPED       start()                 -> WAITING
    WAITING       a socket takes us       -> GREETING
    GREETING      ubusd says hello        -> UP          every object is added, anew
    GREETING, UP  the connection ends     -> WAITING     try again every quarter of a second
    any           stop()                  -> STOPPED

Trying is one connect(2) that fails. There is no back-off: ubusd may come back at any moment, and
nobody should have to wait for us then.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple

from spind.ubus import messages
from spind.ubus.blob import decode_table, encode_table, signed32
from spind.ubus.link import Link, UbusError
from spind.ubus.messages import Fields, Message, Status
from spind.ubus.objects import Call, UbusObject
from spind.wire.errors import WireError

__all__ = ["Call", "Found", "Status", "UbusClient", "UbusError", "UbusObject"]

log = logging.getLogger(__name__)

RETRY: Final = 0.25
"""Seconds between attempts to connect."""

MAX_OPEN_CALLS: Final = 64
"""Calls that wait for a deferred reply; further ones are refused."""

_READD: Final = 1.0  # seconds until an object that ubusd refused is offered again
_STOP: Final = 1.0  # seconds for what waits to be sent


class Found(NamedTuple):
    """An object on the bus; ``methods`` is method -> argument -> blobmsg type."""

    id: int
    path: str
    methods: dict[str, object]


class UbusClient:
    """The client; all calls from the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str) -> None:
        """``path`` is ubusd's socket, which need not exist yet."""
        self._loop = loop
        self._path = path
        self._objects: list[UbusObject] = []
        self._by_id: dict[int, UbusObject] = {}
        self._open: set[Call] = set()
        self._link: Link | None = None
        self._life: asyncio.Task[None] | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._told = ""
        self.connections = 0
        """How often ubusd said hello."""

    @property
    def up(self) -> bool:
        """Whether ubusd is there, and all objects are on the bus."""
        return self._link is not None and self._link.up and all(each.id for each in self._objects)

    @property
    def busy(self) -> bool:
        """Whether ubusd takes nothing more for now, or is not there."""
        return self._link is None or self._link.busy

    def start(self) -> None:
        """Begin to connect; returns at once, whether or not there is ubusd."""
        if self._life is None:
            self._life = self._loop.create_task(self._live(), name="ubus")

    async def stop(self) -> None:
        """Send what waits and leave the bus, as far as that takes no longer than a second."""
        if self._life is None:
            return
        self._life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._life
        self._life = None
        link = self._link
        if link is not None:
            link.close()
            await asyncio.wait([link.lost], timeout=_STOP)
            link.abort("stopped")
            await asyncio.wait([link.lost], timeout=_STOP)
            self._down()

    # -- life ----------------------------------------------------------------------------

    async def _live(self) -> None:
        while True:
            try:
                link = await self._connect()
            except OSError as error:
                self._tell(error.strerror or str(error))
            else:
                await asyncio.shield(link.lost)
                self._tell(link.reason)
                self._down()
            await asyncio.sleep(RETRY)

    async def _connect(self) -> Link:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # At once or not at all (unix(7)): EAGAIN while ubusd's queue is full.
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        link = self._link = Link(self._loop, self)
        await self._loop.create_unix_connection(lambda: link, sock=sock)
        return link

    def _tell(self, reason: str) -> None:
        """Log why we are not on the bus, once. Most systems but OpenWrt have none: no reason to warn."""
        if reason != self._told:
            self._told = reason
            level = logging.WARNING if self.connections else logging.INFO
            log.log(level, "ubus: not on %s: %s; trying again", self._path, reason)

    def _down(self) -> None:
        self._link = None
        self._by_id.clear()
        self._open.clear()
        for each in self._objects:
            each.reset()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def link_up(self, link: Link) -> None:
        """See ``LinkOwner``, as for the next."""
        if link is self._link:
            self.connections += 1
            self._told = ""
            log.info("ubus: connected to %s", self._path)
            for each in self._objects:
                self._offer(each)

    def link_message(self, link: Link, message: Message, fields: Fields) -> None:
        """A call or a notification for one of our objects, or word of its subscriptions."""
        if link is not self._link or fields.object is None:
            return
        target = self._by_id.get(fields.object)
        if message.type == messages.INVOKE:
            self._invoked(target, Call(link, message, fields, self._open.discard))
        elif target is None:
            return
        elif message.type == messages.NOTIFY and fields.active is not None:
            target.has_subscribers = fields.active
        elif message.type == messages.UNSUBSCRIBE and fields.target is not None:
            target.on_unsubscribed(fields.target)

    def _invoked(self, target: UbusObject | None, call: Call) -> None:
        if target is None:
            call.done(Status.NOT_FOUND)
        elif not target.takes(call.method):
            call.done(Status.METHOD_NOT_FOUND)
        elif len(self._open) >= MAX_OPEN_CALLS:
            call.done(Status.SYSTEM_ERROR)
        else:
            try:
                target.on_call(call)
            except Exception:
                # What went wrong is for the log; a caller learns only that it did.
                log.exception("ubus: %.64r failed", call.method)
                call.done(Status.UNKNOWN_ERROR)
            if not call.finished:
                self._open.add(call)

    # -- objects -------------------------------------------------------------------------

    def add(self, new: UbusObject) -> None:
        """Have an object on the bus, now and whenever ubusd comes back."""
        self._objects.append(new)
        self._offer(new)

    async def remove(self, old: UbusObject) -> None:
        """Take an object off the bus; ``UbusError`` where ubusd does not let go of it."""
        self._objects.remove(old)
        if old.id:
            body = messages.number(messages.ATTR_OBJID, old.id)
            del self._by_id[old.id]
            old.reset()
            await self._request(messages.REMOVE_OBJECT, 0, body)

    def _offer(self, new: UbusObject) -> None:
        link = self._link
        if link is None or not link.up or new.id or new not in self._objects:
            return
        body = b""
        if new.name:
            body += messages.text(messages.ATTR_OBJPATH, new.name)
            body += messages.table(messages.ATTR_SIGNATURE, encode_table(new.methods))

        def heard(fields: Fields) -> None:
            if fields.object and new in self._objects:
                new.id = fields.object
                self._by_id[new.id] = new

        def added(future: "asyncio.Future[list[Fields]]") -> None:
            error = future.exception()
            if link is self._link and new in self._objects and not new.id:
                self._refused(new, error)

        # At once: the first call may be right behind the reply.
        link.request(messages.ADD_OBJECT, 0, body, heard=heard).add_done_callback(added)

    def _refused(self, new: UbusObject, error: BaseException | None) -> None:
        """Offer it again. ubusd does not say why: the name is taken, or an ACL keeps us from it."""
        reason = f"ubusd refuses the object {new.name}: {error}"
        if reason != self._told:
            self._told = reason
            log.warning("%s. Is another one running, or are we not root? Trying again", reason)

        def again() -> None:
            self._timers.discard(timer)
            self._offer(new)

        timer = self._loop.call_later(_READD, again)
        self._timers.add(timer)

    # -- what others offer ---------------------------------------------------------------

    async def lookup(self, path: str = "") -> list[Found]:
        """Objects by path (one that ends in ``*`` is a prefix, none is all)."""
        body = messages.text(messages.ATTR_OBJPATH, path) if path else b""
        return [
            Found(fields.object, fields.path, _decoded(fields.signature))
            for fields in await self._request(messages.LOOKUP, 0, body)
            if fields.object is not None and fields.path is not None
        ]

    async def call(
        self,
        target: int | str,
        method: str,
        arguments: Mapping[str, object] | None = None,
        seconds: float = 30.0,
    ) -> dict[str, object]:
        """Call a method of an object, by id or path; what it replies (of several tables the last)."""
        ident = await self._resolve(target)
        body = messages.invocation(ident, method, encode_table(arguments or {}))
        replies = await self._request(messages.INVOKE, ident, body, seconds)
        return _decoded(replies[-1].data if replies else None)

    async def ping(self) -> None:
        """Return when ubusd has taken all that was sent before."""
        await self._request(messages.PING, 0, b"")

    async def subscribe(self, subscriber: UbusObject, target: int | str) -> None:
        """Have an object's notifications as calls to ``subscriber``, until it or the connection goes."""
        body = messages.number(messages.ATTR_OBJID, subscriber.id)
        body += messages.number(messages.ATTR_TARGET, await self._resolve(target))
        await self._request(messages.SUBSCRIBE, 0, body)

    async def listen(self, listener: UbusObject, pattern: str) -> None:
        """Have events as calls to ``listener``, until the connection goes: those of one type, or of all
        types that begin with what comes before a ``*``."""
        arguments = {"object": signed32(listener.id), "pattern": pattern}
        await self.call(messages.EVENT_OBJECT, "register", arguments)

    async def _resolve(self, target: int | str) -> int:
        if isinstance(target, int):
            return target
        found = await self.lookup(target)
        if not found:
            raise UbusError(Status.NOT_FOUND)  # ubusd hides what its ACL keeps from us
        return found[0].id

    async def _request(self, kind: int, peer: int, body: bytes, seconds: float = 30.0) -> list[Fields]:
        if self._link is None:
            raise UbusError(Status.CONNECTION_FAILED)
        return await self._link.request(kind, peer, body, seconds)

    # -- for whoever listens -------------------------------------------------------------

    def notify(self, source: UbusObject, kind: str, members: Mapping[str, object]) -> bool:
        """Tell the subscribers of an object of ours; whether there are any, and ubusd takes it."""
        link = self._link
        if link is None or link.busy or not source.has_subscribers:
            return False
        body = messages.invocation(source.id, kind, encode_table(members))
        body += messages.flag(messages.ATTR_NO_REPLY, value=True)
        link.send(messages.NOTIFY, 0, source.id, body)
        return True

    def send_event(self, kind: str, members: Mapping[str, object]) -> bool:
        """Send an event to whoever listens; whether ubusd takes it."""
        link = self._link
        if link is None or link.busy:
            return False
        event = encode_table({"id": kind, "data": members})
        body = messages.invocation(messages.EVENT_OBJECT, "send", event)
        link.request(messages.INVOKE, messages.EVENT_OBJECT, body).add_done_callback(self._event_sent)
        return True

    def _event_sent(self, future: "asyncio.Future[list[Fields]]") -> None:
        error = future.exception()
        if isinstance(error, UbusError) and error.status == Status.PERMISSION_DENIED:
            reason = "ubusd refuses our events: are we not root?"
            if reason != self._told:
                self._told = reason
                log.warning("%s", reason)


def _decoded(data: bytes | None) -> dict[str, object]:
    """A table that somebody sent; ``UbusError`` where it is malformed."""
    try:
        return decode_table(data or b"", _MAX_VALUES)
    except WireError as error:
        raise UbusError(Status.PARSE_ERROR) from error


_MAX_VALUES: Final = 65536  # of what others reply to us: we asked for it
