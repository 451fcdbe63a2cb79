# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is asking, and in what role.

Owns which accounts count, in this order:

    file      spinweb_password_file is set                      those in the file, whatever is in it
    router    rpcd is on the bus (OpenWrt)                      the router's own accounts
    unknown   ubusd is there, and has not said so yet           nobody, for a moment
    open      all of spinweb_interfaces are loopback            nobody has to log in: all are the owner
    closed    otherwise                                         nobody, until 'spind passwd' has been run

Programs have tokens, in each of these. Must not know HTTP: the edge hands in the values of the cookie
and the header. Nothing here takes longer than a look at two small files, but for ``login``, which waits
for a thread or for rpcd.
"""

import asyncio
import contextlib
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from spind.hostile import NAME_LENGTH
from spind.model import parse_address
from spind.text import inert
from spind.web import accounts, roles, tokens
from spind.web.accounts import AccountError, Accounts
from spind.web.identity import GateSettings, Identity, Login, LoginError
from spind.web.roles import Roles
from spind.web.rpcd import AccountsError, RouterLogin, WrongPasswordError
from spind.web.sessions import AT_HOME, OUTSIDE, SECRET_BYTES, Session, Sessions
from spind.web.throttle import Throttle
from spind.web.tokens import Tokens
from spind.web.watched import WatchedFile

__all__ = ["Gate", "GateSettings", "Identity", "Login", "LoginError"]

log = logging.getLogger(__name__)

MOST_LOGINS: Final = 8
"""Passwords that wait to be verified, one after the other; further logins are refused for now."""

_BUSY_SECONDS: Final = 2
_MOST_WARNINGS: Final = 16  # of one kind; further ones are not told
_LOOK_SOON: Final = 1.0  # seconds until ubusd is asked again, while nothing is known
_LOOK_AGAIN: Final = 30.0  # and while rpcd is not there

_WRONG: Final = "the name or the password is wrong"
_NO_ACCOUNTS: Final = "nobody can log in yet: run 'spind passwd NAME' on this machine to set a password"


class Router(Protocol):
    """The router's own accounts, see ``rpcd.RouterAccounts``."""

    @property
    def present(self) -> bool | None:
        """Whether there are any; None while nobody knows."""

    async def look(self) -> None:
        """Find out, if that is possible now."""

    def stamp(self) -> str:
        """Changes whenever somebody changes the accounts."""

    async def login(self, user: str, password: str) -> RouterLogin:
        """Verify a password."""


class Gate:
    """The gate; all calls from the loop's thread."""

    def __init__(self, settings: GateSettings, router: Router | None = None) -> None:
        """``router`` is None where there is no bus to find such accounts on."""
        self._router = router
        self._sessions = Sessions()
        self._throttle = Throttle()
        self._executor: ThreadPoolExecutor | None = None
        self._looking: asyncio.Task[None] | None = None
        self._waiting = 0
        self._logins = self._refused = 0
        self._told = ""
        self._warned: set[str] = set()
        self._take(settings)

    def _take(self, settings: GateSettings) -> None:
        self._settings = settings
        self._loopback = all(map(_is_loopback, settings.interfaces))
        self._accounts: WatchedFile[Accounts] = WatchedFile(
            settings.password_file, accounts.MAX_BYTES, accounts.parse
        )
        self._roles: WatchedFile[Roles] = WatchedFile(
            settings.password_file + roles.SUFFIX, roles.MAX_BYTES, roles.parse
        )
        self._tokens: WatchedFile[Tokens] = WatchedFile(settings.token_file, tokens.MAX_BYTES, tokens.parse)

    # -- life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look for the router's accounts, and say in the log who may log in."""
        if self._router is not None:
            self._looking = asyncio.get_running_loop().create_task(self._look(self._router), name="web-gate")
        self._tell()

    async def stop(self) -> None:
        """Stop looking; passwords that are being verified are let go of."""
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
            self._looking = None
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def configure(self, settings: GateSettings) -> None:
        """Obey other settings from now on; sessions of accounts that do not count any more are over."""
        if settings != self._settings:
            self._take(settings)
            self._tell()

    async def _look(self, router: Router) -> None:
        while not router.present:
            await router.look()
            self._tell()
            await asyncio.sleep(_LOOK_SOON if router.present is None else _LOOK_AGAIN)

    def _tell(self) -> None:
        """Say in the log which accounts count, when that changes."""
        where = ", ".join(self._settings.interfaces)
        source = self.source
        told = f"{source} {where}"
        if told == self._told:
            return
        self._told = told
        if source == "open":
            log.warning(
                "web: open: whoever can use this machine (%s) controls the home, without a password; "
                "'spind passwd NAME' sets one",
                where,
            )
        elif source == "closed":
            log.error("web: it listens on %s, and %s", where, _NO_ACCOUNTS)
        elif source == "file":
            log.info("web: users log in as %s says", self._settings.password_file)
            self._accounts.get()  # what is wrong with it is told now, not when somebody cannot log in
            if self.problem:
                log.error("web: %s", self.problem)
        elif source == "router":
            log.info("web: users log in with the router's own accounts (rpcd)")

    # -- what the edge asks --------------------------------------------------------------

    @property
    def source(self) -> str:
        """Which accounts count now: file, router, unknown, open or closed."""
        if self._settings.password_file:
            return "file"
        present = self._router.present if self._router is not None else False
        if present is None:
            return "unknown"
        if present:
            return "router"
        return "open" if self._loopback else "closed"

    @property
    def open(self) -> bool:
        """Whether nobody has to log in."""
        return self.source == "open"

    @property
    def problem(self) -> str:
        """Why nobody can log in, for people; empty where somebody can, or need not."""
        source = self.source
        if source == "closed":
            return _NO_ACCOUNTS
        if source == "file":
            found = self._accounts.get()
            if found is None:
                return f"nobody can log in: {self._accounts.problem or f'there is no {self._accounts.path}'}"
            if not found.by_name:
                return _NO_ACCOUNTS
            if self._roles.get() is None and self._roles.problem:
                return f"nobody can log in: {self._roles.problem}"
        return ""

    @property
    def counters(self) -> dict[str, int]:
        """For ``status``: sessions, logins, and those refused."""
        return {"sessions": len(self._sessions), "logins": self._logins, "refused": self._refused}

    def identify(self, cookie: str, bearer: str, now: float, *, touch: bool = True) -> Identity | None:
        """Whose cookie or token it is at ``now`` (Unix seconds); None where it is nobody's.

        A token counts more than a cookie, and a wrong one is nobody's, whatever else is there.
        ``touch`` counts as use: leave it out where a program asks by itself, such as for a stream that
        is still open.
        """
        if bearer:
            found = self._tokens.get() if self._settings.token_file else None
            token = found.find(bearer, now) if found is not None else None
            return self._identity(token.name, token.role, "token") if token is not None else None
        session = self._sessions.find(cookie, now, touch=touch) if cookie else None
        if session is not None:
            role = self._still(session)
            if role:
                return self._identity(session.name, role, "session")
            self._sessions.end(cookie)
        return Identity("", "owner", "open", "owner") if self.open else None

    def logout(self, cookie: str) -> None:
        """End a session; nothing happens where there is none."""
        self._sessions.end(cookie)

    async def login(self, user: str, password: str, address: str, now: float) -> Login:
        """Begin a session; ``LoginError`` says why not. ``address`` is the caller's, as text."""
        try:
            login = await self._login(user, password, address, now)
        except LoginError as error:
            self._refused += 1
            log.debug("web: login of %r from %s refused: %s", inert(user, 32), inert(address, 64), error)
            raise
        self._logins += 1
        log.info("web: %r (%s) logged in from %s", user, login.identity.role, inert(address, 64))
        return login

    # -- inside --------------------------------------------------------------------------

    async def _login(self, user: str, password: str, address: str, now: float) -> Login:
        if self.source == "unknown" and self._router is not None:
            await self._router.look()
        if self.source == "unknown":
            raise LoginError("the router is starting: try again in a moment", _BUSY_SECONDS)
        if self.open:
            raise LoginError("nobody has to log in here")
        if self.problem:
            raise LoginError(self.problem)
        if self._waiting >= MOST_LOGINS:
            raise LoginError("too many people log in at this moment: try again", _BUSY_SECONDS)
        name = user[:NAME_LENGTH]
        wait = self._throttle.attempt(address, name, now)
        if wait:
            raise LoginError(f"too many failed logins: try again in {wait} s", wait)
        self._waiting += 1
        try:
            session, notice = await self._verify(user, password, now)
        except WrongPasswordError as error:
            # As often as the throttle lets it be: whoever waits is not worth a line.
            log.warning("web: wrong name or password: %r from %s", inert(user, 32), inert(address, 64))
            raise LoginError(_WRONG) from error
        except AccountsError as error:
            self._throttle.forgive(address, name)
            self._tell_once(f"{user}: {error}")
            raise LoginError(str(error)) from error
        finally:
            self._waiting -= 1
        self._throttle.succeeded(address, name, now)
        identity = self._identity(session.name, session.role, "session")
        if identity is None:
            raise LoginError("accounts of the access provider are switched off (spinweb_provider)")
        secret = secrets.token_urlsafe(SECRET_BYTES)
        self._sessions.begin(secret, session)
        return Login(secret, identity, int(session.ends - now), notice)

    async def _verify(self, user: str, password: str, now: float) -> tuple[Session, str]:
        """The session of a user with this password, and a notice."""
        if not _is_possible(user, password):
            raise WrongPasswordError
        if self.source == "router" and self._router is not None:
            stamp = self._router.stamp()  # before: what changes meanwhile ends it
            found = await self._router.login(user, password)
            notice = ""
            if found.unprotected:
                notice = f"{user} has no password on this router: everybody can log in; set one"
                self._tell_once(notice)
            return _session(user, found.role, "router", stamp, now), notice
        return await self._verify_in_thread(user, password, now), ""

    async def _verify_in_thread(self, user: str, password: str, now: float) -> Session:
        found = self._accounts.get()
        if self._executor is None:
            # One: whoever makes us hash shall not have all of a router's cores.
            self._executor = ThreadPoolExecutor(1, "web-login")
        verify = (found or Accounts()).verify
        account = await asyncio.get_running_loop().run_in_executor(self._executor, verify, user, password)
        if account is None:
            raise WrongPasswordError
        role = self._role_of(user)
        if not role:
            raise AccountsError(f"the role of {user} cannot be told: see the log")
        return _session(user, role, "file", account.stamp, now)

    def _role_of(self, user: str) -> str:
        """The role of a user of the password file now; empty where nobody can tell."""
        found = self._roles.get()
        if found is None:
            return "" if self._roles.problem else "owner"
        return found.of(user)

    def _tell_once(self, warning: str) -> None:
        if warning not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add(warning)
            log.warning("web: %s", warning)

    def _still(self, session: Session) -> str:
        """The role of a session's user now; empty where it is over."""
        if session.source != self.source:
            return ""
        if session.source == "file":
            found = self._accounts.get()
            account = found.by_name.get(session.name) if found is not None else None
            same = account is not None and account.stamp == session.stamp
            return self._role_of(session.name) if same else ""
        return session.role if self._router is not None and self._router.stamp() == session.stamp else ""

    def _identity(self, name: str, role: str, via: str) -> Identity | None:
        """An identity, as far as ``spinweb_provider`` lets it in."""
        if role != "provider" or self._settings.provider == "act":
            return Identity(name, role, via, role)
        return Identity(name, "viewer", via, role) if self._settings.provider == "view" else None


def _session(name: str, role: str, source: str, stamp: str, now: float) -> Session:
    idle, longest = OUTSIDE if role == "provider" else AT_HOME
    return Session(name, role, source, stamp, now, now + longest, idle)


def _is_possible(user: str, password: str) -> bool:
    try:
        accounts.check_name(user)
    except AccountError:
        return False
    return accounts.is_possible(password)


def _is_loopback(address: str) -> bool:
    try:
        packed = parse_address(address)
    except ValueError:
        return False
    return packed[0] == 127 if len(packed) == 4 else packed == bytes(15) + b"\1"
