# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is logged in. Pure.

Owns the table of sessions: when they end, and which one goes where there are too many. The secret that a
browser keeps is given by the caller, who has randomness; here is only its hash, so that what leaks of
our memory opens no door. Must not know how somebody came to log in.
"""

import hashlib
from collections import OrderedDict
from typing import Final, NamedTuple

MOST: Final = 64
"""Sessions; the one that was unused for longest goes."""

SECRET_BYTES: Final = 32

SECRET_LENGTH: Final = 43
"""Characters of a secret: 256 bits in base64url without padding."""


class Lifetime(NamedTuple):
    """Seconds until a session ends: unused, and at the latest."""

    idle: int
    longest: int


AT_HOME: Final = Lifetime(idle=7 * 86400, longest=30 * 86400)
"""Of those who live there: on the family's own devices, a page to look at now and then. One that asks for
the password each day teaches people to choose a short one, or to leave it out."""

OUTSIDE: Final = Lifetime(idle=1800, longest=12 * 3600)
"""Of an access provider, whose people come and go."""


class Session(NamedTuple):
    """Somebody who is logged in."""

    name: str
    role: str
    source: str
    """Which accounts vouched for the name."""

    stamp: str
    """What these said of it then: when they say something else, the session is over."""

    used: float
    """Unix time of the last request."""

    ends: float
    """Unix time at which it ends, used or not."""

    idle: int


class Sessions:
    """The table; the least recently used first."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, secret: str, session: Session) -> None:
        """Somebody logged in, and has ``secret``, random and new, from now on."""
        for key in [key for key, each in self._sessions.items() if _over(each, session.used)]:
            del self._sessions[key]
        self._sessions[_key(secret)] = session
        if len(self._sessions) > MOST:
            self._sessions.popitem(last=False)

    def find(self, secret: str, now: float, *, touch: bool = True) -> Session | None:
        """Whose secret it is; ``touch`` counts as use. None where nobody's, or not any more."""
        if len(secret) != SECRET_LENGTH:
            return None
        key = _key(secret)
        session = self._sessions.get(key)
        if session is None:
            return None
        if _over(session, now):
            del self._sessions[key]
            return None
        if touch:
            self._sessions[key] = session._replace(used=now)
            self._sessions.move_to_end(key)
        return session

    def end(self, secret: str) -> None:
        """Log out; whoever is not logged in may do so, too."""
        if len(secret) == SECRET_LENGTH:
            self._sessions.pop(_key(secret), None)


def _key(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _over(session: Session, now: float) -> bool:
    return now >= session.ends or now >= session.used + session.idle
