# SPDX-License-Identifier: GPL-2.0-or-later
"""Logging in with the router's own accounts, which rpcd knows (OpenWrt).

Owns how rpcd's object ``session`` is asked over ubus (rpcd's session.c), and what its access lists mean
for roles: who may call the writing methods of ``spin`` is an owner, who may call the reading ones only
is a viewer (the groups are in openwrt/files/rpcd-acl.json). The password goes to rpcd and nowhere else.

rpcd opens a session of its own for each login. It is asked to end at once, since ours is another one,
and ends by itself after ``RPCD_SECONDS`` where it does not hear that. But while changes that somebody
makes in LuCI wait for their confirmation, rpcd answers with that person's session instead of a new one;
it can be told by its timeout, and must not be ended.
"""

import contextlib
import secrets
from pathlib import Path
from typing import Final, NamedTuple

from spind.ubus.client import Status, UbusClient, UbusError

SESSION: Final = "session"

RPCD_SECONDS: Final = 13
"""Timeout of rpcd's session, and how it is told from others': nobody else asks for so odd a one."""

CALL_SECONDS: Final = 10.0

_PROBES: Final = (("owner", "add_rule"), ("viewer", "list_nodes"))
"""Roles, the highest first, and a method of ``spin`` that only they may call."""

_FILES: Final = ("/etc/shadow", "/etc/config/rpcd")
"""Where the accounts are: a change of these ends our sessions."""


class WrongPasswordError(Exception):
    """There is no such account, or the password is another one."""


class AccountsError(Exception):
    """Nothing was decided, or the account may not use SPIN. The text is for people."""


class RouterLogin(NamedTuple):
    """What rpcd says of an account: its role, and whether any password is taken for it."""

    role: str
    unprotected: bool


class RouterAccounts:
    """rpcd, if it is there. All calls from the loop's thread."""

    def __init__(self, client: UbusClient, socket_path: str, files: tuple[str, ...] = _FILES) -> None:
        """``client`` is started and stopped by whoever made it; ``socket_path`` is ubusd's."""
        self._client = client
        self._socket = Path(socket_path)
        self._files = files
        self._found: bool | None = None

    @property
    def present(self) -> bool | None:
        """Whether there are such accounts; None while nobody knows. Once there, they are there for good:
        a restart of rpcd must not open what it keeps closed."""
        if self._found is None and not self._client.connections and not self._socket.exists():
            return False
        return self._found

    async def look(self) -> None:
        """Find out, if that is possible now."""
        if self._found:
            return
        try:
            self._found = bool(await self._client.lookup(SESSION))
        except UbusError as error:
            if error.status == Status.NOT_FOUND:
                self._found = False

    def stamp(self) -> str:
        """Changes whenever somebody changes the accounts."""
        parts = []
        for path in self._files:
            try:
                status = Path(path).stat()
            except OSError:
                parts.append("-")
            else:
                parts.append(f"{status.st_ino}.{status.st_size}.{status.st_mtime_ns}")
        return " ".join(parts)

    async def login(self, user: str, password: str) -> RouterLogin:
        """The role of an account; ``WrongPasswordError`` or ``AccountsError`` where nobody gets in."""
        role = await self._role(user, password)
        try:
            # An account without a password takes any (session.c): as LuCI does, say so.
            await self._role(user, secrets.token_urlsafe(16))
        except (WrongPasswordError, AccountsError):
            return RouterLogin(role, unprotected=False)
        return RouterLogin(role, unprotected=True)

    async def _role(self, user: str, password: str) -> str:
        arguments: dict[str, object] = {"username": user, "password": password, "timeout": RPCD_SECONDS}
        try:
            reply = await self._call("login", arguments)
        except UbusError as error:
            if error.status == Status.PERMISSION_DENIED:
                raise WrongPasswordError from error
            raise AccountsError(f"the router's login service (rpcd) does not answer: {error}") from error
        ident = reply.get("ubus_rpc_session")
        if not isinstance(ident, str) or not 0 < len(ident) <= 64:
            raise AccountsError("the router's login service (rpcd) answers something else than a session")
        try:
            for role, method in _PROBES:
                if await self._may_call(ident, method):
                    return role
        except UbusError as error:
            raise AccountsError(f"the router's login service (rpcd) does not answer: {error}") from error
        finally:
            if reply.get("timeout") == RPCD_SECONDS:
                with contextlib.suppress(UbusError):
                    await self._call("destroy", {"ubus_rpc_session": ident})
        raise AccountsError(
            "this account may not use SPIN: give it the access group 'spin' in /etc/config/rpcd"
        )

    async def _may_call(self, ident: str, method: str) -> bool:
        question: dict[str, object] = {
            "ubus_rpc_session": ident,
            "scope": "ubus",
            "object": "spin",
            "function": method,
        }
        return (await self._call("access", question)).get("access") is True

    async def _call(self, method: str, arguments: dict[str, object]) -> dict[str, object]:
        return await self._client.call(SESSION, method, arguments, CALL_SECONDS)
