# SPDX-License-Identifier: GPL-2.0-or-later
"""The addresses that names in rules have, with all other names of the same addresses. Pure.

Owns the table and its bounds. Which names rules are about, and what follows, is ``policy``'s.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from spind.model import Address

KEEP_SECONDS = 86400.0
"""How long after its DNS answer's end an address counts as one of the name: devices go on using
addresses long after, and a rule must hold as long as they do."""

NAMES_PER_ADDRESS = 32
"""Names kept of one address; what matters is whether they differ."""

ADDRESSES_PER_NAME = 512
"""Addresses kept of one name, so that a name with ever new addresses makes room at its own cost."""

UNTOLD = ""
"""Stands for the names of an address that no answer has told."""

NEWS_SECONDS = 60.0
"""That a name lasts longer than was known is news only now and then, as short as it is beside
``KEEP_SECONDS``."""

EXPIRE_MOST = 500
"""Addresses looked at for their age in one call, those that were learned longest ago."""


class NamedAddresses:
    """Address -> its names, each with the time at which its answer ends."""

    def __init__(self, limit: int, concerns: Callable[[str], bool]) -> None:
        """``concerns`` tells whether a name is one of those that the table is kept for."""
        self._limit = limit
        self._concerns = concerns
        self._names: OrderedDict[Address, dict[str, float]] = OrderedDict()  # the latest answer last
        self._addresses: dict[str, OrderedDict[Address, None]] = {}
        self._news: dict[tuple[Address, str], float] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Address]:
        return iter(list(self._names))

    def __contains__(self, address: Address) -> bool:
        return address in self._names

    def names(self, address: Address) -> Iterable[str]:
        """The names of an address; none where it is not in the table."""
        return self._names.get(address, ())

    def of(self, wanted: Callable[[str], bool]) -> list[Address]:
        """The addresses of all names that ``wanted`` is true of."""
        found: dict[Address, None] = {}
        for name, addresses in self._addresses.items():
            if wanted(name):
                found |= addresses
        return list(found)

    def entries(self) -> list[tuple[Address, str, float]]:
        """All of it."""
        return [(a, name, expires) for a, names in self._names.items() for name, expires in names.items()]

    def note(self, address: Address, answers: Iterable[tuple[str, float]]) -> list[Address]:
        """Answers that gave ``address``, as (name, end); addresses whose names are others now."""
        names = self._names.get(address)
        changed: dict[Address, None] = {}
        if names is None:
            names = self._names[address] = {}
            if len(self._names) > self._limit:
                oldest = next(iter(self._names))
                self.forget(oldest)
                changed[oldest] = None
                self.evicted += 1
        else:
            self._names.move_to_end(address)
        for name, expires in answers:
            if name not in names:
                changed[address] = None
            before = names.pop(name, 0.0)
            names[name] = max(expires, before)
            if names[name] // NEWS_SECONDS != before // NEWS_SECONDS:
                self._news[address, name] = names[name]
            own = self._addresses.setdefault(name, OrderedDict())
            own[address] = None
            own.move_to_end(address)
            if len(own) > ADDRESSES_PER_NAME and name != UNTOLD:
                oldest = next(iter(own))
                self._drop(oldest, name)
                changed[oldest] = None
            if len(names) > NAMES_PER_ADDRESS:
                self._drop(address, self._dispensable(names))
        return list(changed)

    @property
    def any_news(self) -> bool:
        """Is there anything for ``take_news``?"""
        return bool(self._news)

    def take_news(self) -> list[tuple[Address, str, float]]:
        """What has come, or lasts longer, since the last call: (address, name, end)."""
        news = [(*key, expires) for key, expires in self._news.items()]
        self._news.clear()
        return news

    def _dispensable(self, names: Iterable[str]) -> str:
        """The oldest of the names that it is not kept for, unless that is the only one: what it takes to
        know that not all of them are alike stays."""
        others = [name for name in names if not self._concerns(name)]
        return others[0] if len(others) > 1 else next(name for name in names if name not in others)

    def expire(self, now: float) -> list[Address]:
        """Forget names whose time is long over; addresses whose names are others now."""
        changed = []
        for address in [address for address, _ in zip(self._names, range(EXPIRE_MOST), strict=False)]:
            names = self._names[address]
            old = [name for name, expires in names.items() if expires + KEEP_SECONDS < now]
            for name in old:
                self._drop(address, name)
            if address in self._names and not any(map(self._concerns, names)):
                self.forget(address)
            if old or address not in self._names:
                changed.append(address)
        return changed

    def forget(self, address: Address) -> None:
        """Forget an address."""
        for name in list(self._names.get(address, ())):
            self._drop(address, name)

    def shift(self, delta: float) -> None:
        """The clock was set by ``delta`` seconds."""
        for names in self._names.values():
            for name in names:
                names[name] += delta

    def _drop(self, address: Address, name: str) -> None:
        names = self._names[address]
        del names[name]
        if not names:
            del self._names[address]
        own = self._addresses[name]
        del own[address]
        if not own:
            del self._addresses[name]
