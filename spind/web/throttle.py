# SPDX-License-Identifier: GPL-2.0-or-later
"""How long somebody who guesses passwords has to wait. Pure.

Owns the counts of failed logins: per address, per name, and altogether. Must not know what a password
is, nor whether it was right before it is told so.

An attempt counts as failed until ``succeeded`` says otherwise, so that many at once are many. Who may
not try yet is not counted: waiting is enough. Nobody waits longer than ``ADDRESS_LONGEST``, and nothing
is locked for good: an address from which a name has logged in before has to wait for its own mistakes
only, not for those that strangers make with the same name.
"""

import math
from collections import OrderedDict
from typing import Final, NamedTuple, TypeVar

from spind.model import parse_address

ADDRESS_FREE: Final = 3
"""Failures of an address that cost nothing: people mistype. Each further one doubles the time."""

ADDRESS_LONGEST: Final = 300
"""Seconds: at most 288 guesses a day from one address."""

NAME_FREE: Final = 10
NAME_LONGEST: Final = 30
"""Seconds: at most 2,880 guesses a day of one name's password, from wherever. It is shorter, since it
also keeps away who knows the password and comes from a new address."""

BURST: Final = 30
"""Attempts of all together that may come at once; further ones come one a second."""

FORGET: Final = 900
"""Seconds after its last failure until an address or name is as good as new."""

ADDRESSES: Final = 1024
NAMES: Final = 256
"""Entries; the one whose last failure is longest ago goes. At one attempt a second the oldest of so many
addresses is forgotten anyhow, so that nobody gains by filling the table."""

KNOWN: Final = 64
"""Pairs of an address and a name that logged in; the least recent goes."""


_Key = TypeVar("_Key", bytes, str)


class _Failures(NamedTuple):
    failed: int
    last: float
    name: str
    """Whose password was wrong; empty where it was several people's."""


class Throttle:
    """The counts. Times are Unix seconds; a clock that is set back makes nobody wait longer."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[bytes, _Failures] = OrderedDict()
        self._names: OrderedDict[str, _Failures] = OrderedDict()
        self._known: OrderedDict[tuple[bytes, str], None] = OrderedDict()
        self._level = 0.0  # of a bucket that loses one a second
        self._level_at = 0.0

    def attempt(self, address: str, name: str, now: float) -> int:
        """Seconds to wait before the next attempt; 0 where this one may be made, which is then counted."""
        place = place_of(address)
        self._drain(now)
        wait = _wait(self._addresses, place, ADDRESS_FREE, ADDRESS_LONGEST, now)
        known = (place, name) in self._known
        if not known:
            wait = max(
                wait,
                _wait(self._names, name, NAME_FREE, NAME_LONGEST, now),
                self._level - BURST + 1,
            )
        if wait > 0:
            return math.ceil(wait)
        _count(self._addresses, place, name, ADDRESSES, now)
        if not known:  # whoever can make these fail must not keep others waiting
            _count(self._names, name, name, NAMES, now)
            self._level += 1
        return 0

    def succeeded(self, address: str, name: str, now: float) -> None:
        """The attempt was right: forget the failures with this name, and know the place again.

        What failed at this address with other names stays: a guest who logs in between two guesses of
        the owner's password goes on waiting.
        """
        place = place_of(address)
        self.forgive(address, name)
        failures = self._addresses.get(place)
        if failures is not None and failures.name == name:
            del self._addresses[place]
        self._names.pop(name, None)
        self._drain(now)
        self._known[place, name] = None
        self._known.move_to_end((place, name))
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def forgive(self, address: str, name: str) -> None:
        """The attempt is not to be counted: it was right, or could not be judged."""
        place = place_of(address)
        _forgive(self._addresses, place)
        if (place, name) not in self._known:
            _forgive(self._names, name)
            self._level = max(0.0, self._level - 1)

    def sizes(self) -> dict[str, int]:
        """Entries of each table, for ``status`` and tests."""
        return {"addresses": len(self._addresses), "names": len(self._names), "known": len(self._known)}

    def _drain(self, now: float) -> None:
        passed = now - self._level_at
        self._level_at = now
        self._level = max(0.0, self._level - max(0.0, passed))


def place_of(address: str) -> bytes:
    """What counts as one address: of IPv6 the /64, which is what one host can choose from (RFC 4291
    section 2.5.4); what is no address is all one place."""
    try:
        packed = parse_address(address.partition("%")[0])
    except ValueError:
        return b""
    if packed[:12] == bytes(10) + b"\xff\xff":
        return packed[12:]  # IPv4 on a socket for both
    return packed[:8] if len(packed) == 16 else packed


def _wait(table: OrderedDict[_Key, _Failures], key: _Key, free: int, longest: int, now: float) -> float:
    failures = table.get(key)
    if failures is None or failures.failed < free:
        return 0
    if not 0 <= now - failures.last < FORGET:
        return 0
    delay = min(longest, 1 << min(failures.failed - free, 30))
    return max(0.0, failures.last + delay - now)


def _count(table: OrderedDict[_Key, _Failures], key: _Key, name: str, most: int, now: float) -> None:
    before = table.pop(key, None)
    if before is None or not 0 <= now - before.last < FORGET:
        before = _Failures(0, now, name)
    table[key] = _Failures(before.failed + 1, now, name if before.name == name else "")
    if len(table) > most:
        table.popitem(last=False)


def _forgive(table: OrderedDict[_Key, _Failures], key: _Key) -> None:
    failures = table.get(key)
    if failures is None:
        return
    if failures.failed <= 1:
        del table[key]
    else:
        table[key] = failures._replace(failed=failures.failed - 1)
