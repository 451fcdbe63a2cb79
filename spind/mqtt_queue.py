# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits for the broker, bounded; pure.

Owns the order of messages and what is given up when the broker is absent or slow. Two rules
shape it. Of a retained topic only the latest message counts, so a newer one takes the place
of an older one that still waits. Of the others the oldest is worth least.

Bound: ``max_messages`` and ``max_bytes``. Eviction: the oldest message that is not retained;
where only retained ones are left, all of them, and ``lost_state`` says so: the publisher then
sends the engine's whole current state again, which is smaller than its history.
"""

from collections import OrderedDict, deque

from spind.mqtt_messages import Message

_OVERHEAD = 250  # bytes that the objects of one waiting message take beside its payload


class _Waiting:
    """A retained message in the queue; its payload may be replaced by a newer one."""

    __slots__ = ("message", "order")

    def __init__(self, order: int, message: Message) -> None:
        self.order = order
        self.message = message


class OutQueue:
    """Messages in the order in which consumers should see them.

    ``dropped`` counts messages that nobody will see, ``size`` is in bytes, and ``lost_state``
    says that retained messages were given up; whoever makes them good resets it.
    """

    def __init__(self, max_messages: int = 5000, max_bytes: int = 2 * 1024 * 1024) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.size = 0
        self.dropped = 0
        self.lost_state = False
        self._order = 0
        self._passing: deque[tuple[int, Message]] = deque()
        # Announcements and removals of a topic apart: a removal must not take the place of
        # the announcement before it, because messages between them mention the node.
        # (Ordered dictionaries, because taking the first out of a plain one again and again
        # walks over all the holes before it.)
        self._announced: OrderedDict[str, _Waiting] = OrderedDict()
        self._removed: OrderedDict[str, _Waiting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._passing) + len(self._announced) + len(self._removed)

    def put(self, message: Message) -> None:
        """Add a message, giving up older ones where there is no room."""
        if not message.retain:
            self._passing.append((self._next(), message))
            self.size += _cost(message)
        elif message.payload:
            self._forget(self._removed, message.topic)
            self._replace(self._announced, message)
        else:
            self._forget(self._removed, message.topic)
            self._replace(self._removed, message)
        while len(self) > self.max_messages or self.size > self.max_bytes:
            self._evict()

    def get(self) -> Message | None:
        """Take the oldest message out; ``None`` where nothing waits."""
        best: OrderedDict[str, _Waiting] | None = None
        order = self._passing[0][0] if self._passing else None
        for table in (self._announced, self._removed):
            # Replaced in place, so a table's first is its oldest.
            first = next(iter(table.values()), None)
            if first is not None and (order is None or first.order < order):
                order = first.order
                best = table
        if best is not None:
            message = best.popitem(last=False)[1].message
        elif self._passing:
            message = self._passing.popleft()[1]
        else:
            return None
        self.size -= _cost(message)
        return message

    def _next(self) -> int:
        self._order += 1
        return self._order

    def _replace(self, table: OrderedDict[str, _Waiting], message: Message) -> None:
        waiting = table.get(message.topic)
        if waiting is None:
            table[message.topic] = _Waiting(self._next(), message)
        else:
            self.size -= _cost(waiting.message)
            waiting.message = message
        self.size += _cost(message)

    def _forget(self, table: OrderedDict[str, _Waiting], topic: str) -> None:
        waiting = table.pop(topic, None)
        if waiting is not None:
            self.size -= _cost(waiting.message)

    def _evict(self) -> None:
        if self._passing:
            self.size -= _cost(self._passing.popleft()[1])
            self.dropped += 1
            return
        for table in (self._announced, self._removed):
            table.clear()
        self.size = 0
        self.lost_state = True


def _cost(message: Message) -> int:
    return len(message.payload) + _OVERHEAD
