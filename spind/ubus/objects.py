# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects that we have on the bus, and the calls that others make to them.

Owns how a call is answered, once and on the connection that it came by. Must not know how an object
comes to be on the bus: that is ``client``.
"""

from collections.abc import Callable, Mapping

from spind.ubus import messages
from spind.ubus.blob import decode_table
from spind.ubus.link import Link
from spind.ubus.messages import Fields, Message, Status


class Call:
    """A method call, notification or event for an object of ours; ``done`` ends it, now or later."""

    __slots__ = ("_ended", "_link", "_object", "_peer", "_seq", "data", "finished", "group", "method", "user")

    def __init__(
        self,
        link: Link,
        message: Message,
        fields: Fields,
        ended: Callable[["Call"], None] = lambda _call: None,
    ) -> None:
        """``ended`` hears of its end."""
        self._link = link
        self._ended = ended
        self._seq = message.seq
        self._peer = message.peer
        self._object = fields.object or 0
        self.method = fields.method or ""
        self.data = fields.data or b""
        self.user = fields.user or ""
        """The caller's, as ubusd knows it from the socket; empty for an event."""
        self.group = fields.group or ""
        self.finished = bool(fields.no_reply) or not message.peer
        """Whether nobody waits: after ``done``, and from the start for notifications and events."""

    def arguments(self) -> dict[str, object]:
        """What came with the call; ``WireError`` where it is malformed or unreasonably much."""
        return decode_table(self.data)

    def reply(self, data: bytes) -> None:
        """Send an encoded table to the caller; nothing happens where nobody waits."""
        if not self.finished:
            body = messages.number(messages.ATTR_OBJID, self._object)
            body += messages.table(messages.ATTR_DATA, data)
            self._link.send(messages.DATA, self._seq, self._peer, body)

    def done(self, status: int = Status.OK) -> None:
        """End the call with a status; nothing happens where nobody waits."""
        if not self.finished:
            self.finished = True
            body = messages.number(messages.ATTR_STATUS, status)
            body += messages.number(messages.ATTR_OBJID, self._object)
            self._link.send(messages.STATUS, self._seq, self._peer, body)
            self._ended(self)


class UbusObject:
    """An object: its name, its methods, and who hears of calls.

    ``methods`` is method -> argument -> blobmsg type. ubusd shows it to people (``ubus -v list``)
    and checks nothing. An object without ``name`` can not be looked up; it is for hearing events and
    notifications, of any name. ``on_call`` may end a call later than it returns.
    """

    def __init__(
        self,
        name: str,
        methods: Mapping[str, Mapping[str, int]],
        on_call: Callable[[Call], None],
        on_unsubscribed: Callable[[int], None] = lambda _target: None,
    ) -> None:
        """``on_unsubscribed`` hears the id of an object that was subscribed to and has gone."""
        self.name = name
        self.methods = methods
        self.on_call = on_call
        self.on_unsubscribed = on_unsubscribed
        self.id = 0
        """ubusd's number for it, another one on each connection; 0 while it is not on the bus."""
        self.has_subscribers = False

    def takes(self, method: str) -> bool:
        """Whether it has this method."""
        return not self.name or method in self.methods

    def reset(self) -> None:
        """It is not on the bus any more."""
        self.id = 0
        self.has_subscribers = False
