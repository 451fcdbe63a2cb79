# SPDX-License-Identifier: GPL-2.0-or-later
"""What people should hear of: a bounded list, in words and as keys to translate. Pure.

Owns the list, the words, and how much of one kind is too much. Must not know what is worth telling: that
is ``lookout`` and whatever else detects something.

``WORDS`` has the key of each message and its English template; ``{0}`` and so on stand for the arguments,
which are texts. Clients in other languages have templates of their own, by the same keys.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from spind.commands import Command, Dismissed, Json, Notify
from spind.text import inert

LIMIT: Final = 200
"""Notifications kept; the oldest goes."""

TEXT_LIMIT: Final = 200
"""Characters of one argument: names come from the network."""

BURST: Final = 20
REFILL_SECONDS: Final = 30.0
"""Of one kind so many at once, and later one in so many seconds, so that whoever makes up devices or tries
a thousand blocked parties does not push out all else. The others are counted."""

KINDS: Final = 64
"""Kinds whose rate is remembered: there are as many as there are detectors."""

WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "device.new": "A new device joined the home: {0}",
        "device.profile": "{0} is new and was given the profile {1}",
        "blocked.party": "{0} tried to reach {1}, which is blocked for it",
        "blocked.device": "{0}, which is blocked, tried to reach {1}",
        "rule.ended": "This rule ended, as its time was over: {0}",
        "table.full": "There are more {0} than fit in memory (limit {1}): the oldest were forgotten",
        "daemon.trouble": "{0}",
    }
)


class Notification(NamedTuple):
    """One thing to hear of. ``time`` is in Unix seconds; ``device`` and ``node`` are node ids, 0: none."""

    id: int
    time: int
    kind: str
    key: str
    args: tuple[str, ...]
    device: int = 0
    node: int = 0

    @property
    def message(self) -> str:
        """The sentence in English."""
        return WORDS[self.key].format(*self.args)


def to_json(notification: Notification) -> Json:
    """An item of ``list_notifications``."""
    shape: Json = {"id": notification.id, "time": notification.time, "kind": notification.kind}
    if notification.device:
        shape["device"] = notification.device
    if notification.node:
        shape["node"] = notification.node
    shape["message"] = notification.message
    shape["message_key"] = notification.key
    shape["message_args"] = list(notification.args)
    return shape


class Notifications:
    """The notifications that nobody dismissed yet, oldest first."""

    def __init__(self) -> None:
        self._items: OrderedDict[int, Notification] = OrderedDict()
        self._last_id = 0
        self._room: OrderedDict[str, tuple[float, float]] = OrderedDict()  # kind -> (tokens, as of)
        self._pending: list[Command] = []
        self.suppressed = 0
        """Those that there were too many of at once."""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Notification]:
        return iter(self._items.values())

    @property
    def pending(self) -> bool:
        """Is there anything to ``take``?"""
        return bool(self._pending)

    def notify(
        self, now: float, kind: str, key: str, args: tuple[str, ...] = (), device: int = 0, node: int = 0
    ) -> bool:
        """Tell people; False where there is too much of this kind. ``KeyError``, ``IndexError``: the key is
        none of ``WORDS``, or lacks arguments."""
        if not self._may(kind, now):
            self.suppressed += 1
            return False
        told = tuple(inert(arg, TEXT_LIMIT) for arg in args)
        made = Notification(self._last_id + 1, int(now), kind, key, told, device, node)
        self._pending.append(Notify(to_json(made)))
        self._last_id = made.id
        self._items[made.id] = made
        if len(self._items) > LIMIT:
            self._items.popitem(last=False)
        return True

    def dismiss(self, ident: int) -> bool:
        """Take one off the list; False where it is not there."""
        if self._items.pop(ident, None) is None:
            return False
        self._pending.append(Dismissed(ident))
        return True

    def take(self) -> list[Command]:
        """What there is to announce since the last call."""
        pending, self._pending = self._pending, []
        return pending

    def shift(self, delta: float) -> None:
        """The clock was set by ``delta`` seconds."""
        self._room = OrderedDict((kind, (room, at + delta)) for kind, (room, at) in self._room.items())
        for ident, item in self._items.items():
            self._items[ident] = item._replace(time=int(item.time + delta))

    def _may(self, kind: str, now: float) -> bool:
        room, at = self._room.pop(kind, (float(BURST), now))
        room = min(room + max(now - at, 0.0) / REFILL_SECONDS, float(BURST))
        may = room >= 1
        self._room[kind] = (room - 1 if may else room, now)
        if len(self._room) > KINDS:
            self._room.popitem(last=False)
        return may
