# SPDX-License-Identifier: GPL-2.0-or-later
"""A web interface on loopback, with the real parts behind it, and a client that says what bytes it likes."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from spind.api import Api
from spind.captures import Captures
from spind.engine import Engine
from spind.events import ConnDelta, LocalAddresses, NeighbourSeen, Traffic
from spind.feed import Feed
from spind.limits import CaptureLimits
from spind.model import ConnKey, parse_address, parse_mac
from spind.web.gate import Gate
from spind.web.identity import GateSettings
from spind.web.server import Limits, WebServer, WebSettings
from spind.web.streams import Streams

T0 = 1_000_000.0
LOOPBACK = WebSettings(port=0)
NO_LOGIN = GateSettings()
LIMITS = Limits()
MAC = "02:00:00:00:08:11"


def engine() -> Engine:
    """A home with a camera that has talked to one party."""
    made = Engine()
    gateway = parse_address("192.168.8.1")
    prefix = (parse_address("192.168.8.0"), 24)
    made.handle(
        LocalAddresses(frozenset({gateway}), frozenset({parse_mac("02:00:00:00:00:01")}), (prefix,)), T0
    )
    camera = parse_address("192.168.8.11")
    made.handle(NeighbourSeen(camera, parse_mac(MAC)), T0)
    key = ConnKey(6, camera, 5000, parse_address("198.18.0.20"), 443)
    made.handle(Traffic([ConnDelta(1, key, 1, 2**33, 1, 2**40, False)]), T0)
    return made


class Served(NamedTuple):
    """What runs."""

    server: WebServer
    streams: Streams
    api: Api

    @property
    def port(self) -> int:
        return int(self.server.url.rstrip("/").rpartition(":")[2])


@asynccontextmanager
async def served(
    *,
    api: Api | None = None,
    settings: WebSettings = LOOPBACK,
    gate: GateSettings = NO_LOGIN,
    limits: Limits = LIMITS,
    feed: object = None,
    captures: object = None,
) -> AsyncIterator[Served]:
    """Serve, by default with nobody having to log in; ``feed`` and ``captures`` may be stand-ins."""
    loop = asyncio.get_running_loop()
    home = engine()
    api = api or Api(home, lambda: T0 + 5, lambda _commands: None)
    streams = Streams(loop, Feed(home, lambda: T0 + 5, "test", "0"))
    downloads = Captures(loop, lambda: (), CaptureLimits())
    keeper = Gate(gate)
    keeper.start()
    server = WebServer(loop, api, settings, keeper, feed or streams, captures or downloads, limits)
    await server.start()
    try:
        yield Served(server, streams, api)
    finally:
        await streams.stop()
        await downloads.stop_all()
        await server.stop()
        await keeper.stop()


class Answer(NamedTuple):
    """A response as it came; ``headers`` by lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Answer:
        """The next response, without its body."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines[1:] if line]
        return Answer(
            int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, b""
        )

    async def answer(self, *, body: bool = True) -> Answer:
        """The next response, with its body if it ``body`` has one."""
        head = await self.head()
        if not body:
            return head
        if head.headers.get("transfer-encoding") == "chunked":
            content = b""
            while chunk := await self.chunk():
                content += chunk
        else:
            content = await self.reader.readexactly(int(head.headers.get("content-length", 0)))
        return head._replace(body=content)

    async def chunk(self) -> bytes:
        """The next chunk of a body; empty at its end."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        """A request and its response."""
        await self.send(request(method, target, body, **headers))
        return await self.answer(body=method != "HEAD")

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


def request(method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of a request of a program on this machine."""
    sent = {"Host": "localhost", "Content-Type": "application/json"}
    if body or method in {"POST", "PUT", "PATCH"}:
        sent["Content-Length"] = str(len(body))
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items() if value)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def connected(
    port: int, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None, limit: int = 2**16
) -> AsyncIterator[Client]:
    """A connection to what is served."""
    reader, writer = await asyncio.open_connection(
        address, port, ssl=tls, server_hostname="localhost" if tls else None, limit=limit
    )
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass
