# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connection has to go where there are too many. Pure.

Owns that whoever opens connections and says nothing keeps nobody else out: a new one always gets in, and the
one that goes is of the address with the most. Streams stay, since they are few and somebody let them in. Must
not know what a connection is.
"""

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)


class Crowd(Generic[_Key]):
    """Connections by the address they came from; the one that was quiet for longest first."""

    def __init__(self, most: int) -> None:
        """``most`` connections fit, if those are streams only, too."""
        self._most = most
        self._addresses: OrderedDict[_Key, str] = OrderedDict()
        self._held: set[_Key] = set()

    def __len__(self) -> int:
        return len(self._addresses)

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._addresses)

    def add(self, key: _Key, address: str) -> _Key | None:
        """A new one; which one has to go for it, and is none of us any more. That may be the new one."""
        self._addresses[key] = address
        if len(self._addresses) <= self._most:
            return None
        gone = self._next()
        del self._addresses[gone]
        return gone

    def touch(self, key: _Key) -> None:
        """It asks for something."""
        if key in self._addresses:
            self._addresses.move_to_end(key)

    def hold(self, key: _Key) -> None:
        """It is a stream now, and stays until it is released."""
        if key in self._addresses:
            self._held.add(key)

    def release(self, key: _Key) -> None:
        """It is no stream any more."""
        self._held.discard(key)

    def remove(self, key: _Key) -> None:
        """It ended, or was one that had to go."""
        self._addresses.pop(key, None)
        self._held.discard(key)

    def _next(self) -> _Key:
        waiting = [key for key in self._addresses if key not in self._held]
        counts = Counter(map(self._addresses.__getitem__, waiting))
        most = max(counts.values())  # the new one waits, if no other does
        return next(key for key in waiting if counts[self._addresses[key]] == most)
