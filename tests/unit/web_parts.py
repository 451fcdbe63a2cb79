# SPDX-License-Identifier: GPL-2.0-or-later
"""A web interface without sockets: its parts, and a client that calls it."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import cache
from typing import NamedTuple

from test_engine import CAMERA_V4, T0, home

from spind.api import Api
from spind.calls import NotFoundError
from spind.events import ConnDelta, Traffic
from spind.model import ConnKey, parse_address
from spind.web.app import WebApp
from spind.web.identity import Identity, Login, LoginError
from spind.web.messages import Feed, Reply, Request, Response, parse_query
from spind.web.pages import Pages
from spind.web.protection import Hosts

HOST = "192.168.8.1:13026"
ROLES = ("owner", "viewer", "provider")


class Gatekeeper:
    """Lets in who is on the list: cookies and tokens are the name of their role."""

    def __init__(self, *, opened: bool = False) -> None:
        self.open = opened
        self.out: set[str] = set()
        self.touched = 0
        self.roles: dict[str, str] = {}
        """Roles that have changed."""

    def identify(self, cookie: str, bearer: str, _now: float, *, touch: bool = True) -> Identity | None:
        self.touched += touch
        given = bearer or cookie
        if given in ROLES and given not in self.out:
            return Identity("anna", self.roles.get(given, given), "token" if bearer else "session")
        return Identity("", "owner", "open") if self.open and not bearer else None

    async def login(self, user: str, password: str, _address: str, _now: float) -> Login:
        if password == "slow":
            raise LoginError("too many failed logins: try again in 9 s", 9)
        if password != "right":
            raise LoginError("the user or the password is wrong")
        return Login("owner", Identity(user, "owner", "session"), 3600)

    def logout(self, cookie: str) -> None:
        self.out.add(cookie)


class Items:
    """A stream of what is given, as subscribers and downloads are."""

    def __init__(self, *items: bytes) -> None:
        self.items = list(items)
        self.on_drop = lambda: None
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self.items:
            raise StopAsyncIteration
        return self.items.pop(0)

    def close(self) -> None:
        self.closed += 1


class Sources:
    """Live events, and one capture: number 1."""

    def __init__(self) -> None:
        self.last_event_id = ""
        self.items = Items(b"data: 1\n\n", b"data: 2\n\n")

    def subscribe(self, last_event_id: str, _name: str, _via: str) -> Items:
        self.last_event_id = last_event_id
        return self.items

    def open(self, number: int, _role: str) -> Items:
        if number != 1:
            raise NotFoundError(f"there is no capture {number} (any more)")
        return self.items


class Web(NamedTuple):
    """The parts, and how to call them."""

    app: WebApp
    api: Api
    gate: Gatekeeper
    sources: Sources
    time: list[float]

    def ask(self, method: str, target: str, body: object = None, **headers: str) -> Reply:
        """A request of the page (its headers may be overridden, by names with lines below)."""
        return asyncio.run(self.app.answer(request(method, target, body, **headers)))

    def get(self, method: str, target: str, body: object = None, **headers: str) -> tuple[int, object]:
        """Status and JSON of the response."""
        reply = self.ask(method, target, body, **headers)
        assert isinstance(reply, Response)
        return reply.status, json.loads(reply.body) if reply.body else None


@cache
def shipped() -> Pages:
    """The page as it is, read once."""
    return Pages()


def web(*, opened: bool = False, pages: Pages | None = None, feed: Feed | None = None) -> Web:
    """A home with some nodes, behind a gate."""
    gate, sources, moment = Gatekeeper(opened=opened), Sources(), [T0 + 5]
    engine = home()
    site = ConnKey(6, CAMERA_V4, 5000, parse_address("198.18.0.20"), 443)
    engine.handle(Traffic([ConnDelta(1, site, 1, 100, 1, 1000, False)]), T0)
    api = Api(engine, lambda: moment[0], lambda _commands: None)
    hosts = Hosts(("gateway", "gateway.lan"), ("192.168.8.1", "fd00::1", "127.0.0.1"))
    app = WebApp(api, gate, feed or sources, sources, hosts, pages or shipped(), lambda: moment[0])
    return Web(app, api, gate, sources, moment)


def request(method: str, target: str, body: object = None, **headers: str) -> Request:
    """A request as ``Web.ask`` makes it."""
    path, _, query = target.partition("?")
    sent = {"host": HOST, "cookie": "spin_session=owner", "content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {name: value for name, value in sent.items() if value}
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Request(method, path, parse_query(query), sent, raw, "192.168.8.11", False, "192.168.8.1")


def headers(reply: Reply) -> dict[str, str]:
    """By their names."""
    return dict(reply.headers)


async def drained(source: AsyncIterator[bytes]) -> list[bytes]:
    """All that a stream has."""
    return [item async for item in source]
