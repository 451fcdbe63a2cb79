# SPDX-License-Identifier: GPL-2.0-or-later
"""The edge of the web interface: listeners, connections and their bounds, on Tornado's HTTP/1.1.

Owns sockets, TLS, sizes and times. Must not know what a request means: it hands whole requests to ``app`` and
sends back what that says. Imported only where the web interface is on, since Tornado takes 5 MB.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from functools import cache, partial
from http import HTTPStatus
from typing import Any, NamedTuple, cast

from tornado import httputil, iostream
from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer

from spind import jsonrpc
from spind.calls import ApiError
from spind.web.app import WebApp
from spind.web.bodies import Bodies, Body
from spind.web.crowd import Crowd
from spind.web.listen import bind, own_names, tls_context
from spind.web.messages import (
    Captures,
    Feed,
    Gate,
    Reply,
    Request,
    Response,
    Stream,
    WebError,
    parse_query,
    problem,
)
from spind.web.pages import Pages
from spind.web.protection import Hosts, security_headers
from spind.web.rest import Table

log = logging.getLogger(__name__)

MAX_BODY = jsonrpc.MAX_REQUEST


class WebSettings(NamedTuple):
    """What the configuration says: ``addresses`` to listen on, PEM files of ``certificate`` and ``key``
    (both or neither), and ``hostnames`` under which browsers may ask, beside the machine's own."""

    addresses: tuple[str, ...] = ("127.0.0.1",)
    port: int = 13026
    certificate: str = ""
    key: str = ""
    hostnames: tuple[str, ...] = ()


class Limits(NamedTuple):
    """What one client, and all together, may take; sizes in bytes, times in seconds."""

    connections: int = 256  # for one more, another one is closed (``crowd``)
    streams: int = 64
    header: int = 16 * 1024
    ahead: int = 8 * 1024  # read at once
    body: int = MAX_BODY
    bodies: int = 2 * 1024 * 1024  # of all that is being received: when it is full, only small ones get in
    small: int = 4 * 1024  # a body as calls mostly have
    drained: int = 1024 * 1024  # of a body that is too long: read to its end, so that the refusal arrives
    idle: float = 30.0  # between requests, and from a request's first byte to the end of its header
    receive: float = 15.0  # for a body
    send: float = 30.0  # for a client to take what was written last
    stop: float = 2.0  # for all to end when the daemon stops
    retry: float = 15.0  # until an address that was not there is tried again


class WebServer:
    """The server: ``await start()``, serve, ``await stop()``; all calls from the loop's thread.

    ``counters`` has ``connections`` and ``streams`` (now), ``requests``, ``refused`` (connections, streams or
    bodies too many) and ``dropped`` (too slow).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        api: Table,
        settings: WebSettings,
        gate: Gate,
        feed: Feed,
        captures: Captures,
        limits: Limits = Limits(),  # noqa: B008  (immutable)
    ) -> None:
        """Nothing is opened before ``start``."""
        self._loop = loop
        self._settings = settings
        self.limits = limits
        self.bodies = Bodies(limits.body, limits.bodies, limits.small)
        self.crowd: Crowd[iostream.IOStream] = Crowd(limits.connections)
        self._turn = asyncio.Lock()
        self.counters = {"connections": 0, "streams": 0, "requests": 0, "refused": 0, "dropped": 0}
        hosts = Hosts((*own_names(), *settings.hostnames), settings.addresses)
        self._app = partial(WebApp, api, gate, feed, captures, hosts, clock=time.time)
        self._server: _Server | None = None
        self._port = settings.port
        self._listening: list[str] = []
        self._problems: dict[str, str] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where the page is; empty where nothing is listened on."""
        return self._url(self._listening[0]) if self._listening else ""

    @property
    def problems(self) -> list[str]:
        """Sentences on what is not served, and why."""
        return list(self._problems.values())

    async def start(self) -> None:
        """Open the listeners. What cannot be opened is logged, told by ``problems``, and tried again."""
        # Tornado tells of each malformed request and failed handshake: whoever likes could fill the log.
        logging.getLogger("tornado.general").setLevel(logging.ERROR)
        try:
            tls = tls_context(self._settings.certificate, self._settings.key)
            app = self._app(pages=await asyncio.to_thread(_pages))
        except (OSError, ValueError) as error:
            self._problem("tls", f"no web interface: {error}")
            return
        self._server = _Server(
            _Connections(self, app),
            ssl_options=tls,
            max_header_size=self.limits.header,
            max_body_size=self.limits.drained,
            # What is read ahead of a stranger's requests is memory, too: 64 KiB, if not told otherwise.
            chunk_size=self.limits.ahead,
            max_buffer_size=4 * 64 * 1024,
            idle_connection_timeout=self.limits.idle,
            body_timeout=self.limits.receive,
        )
        self._server.owner = self
        self._listen()

    async def stop(self) -> None:
        """Close the listeners, end streams and connections, within ``limits.stop`` seconds."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        server, self._server = self._server, None
        if server is None:
            return
        server.stop()
        self._listening.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.limits.stop)
        server.close_streams()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.stop):
                await server.close_all_connections()

    # -- listeners -----------------------------------------------------------------------

    def _listen(self) -> None:
        """Open what is not open yet."""
        self._retry = None
        if self._server is None:
            return
        for address in self._settings.addresses:
            if address in self._listening:
                continue
            try:
                sock = bind(address, self._port)
            except OSError as error:
                reason = error.strerror or str(error)
                self._problem(address, f"no web interface on {address} port {self._port}: {reason}")
                continue
            self._problems.pop(address, None)
            self._port = sock.getsockname()[1]
            self._server.add_socket(sock)
            self._listening.append(address)
            log.info("web interface on %s", self._url(address))
        if len(self._listening) < len(self._settings.addresses):
            self._retry = self._loop.call_later(self.limits.retry, self._listen)

    def _url(self, address: str) -> str:
        host = f"[{address}]" if ":" in address else address
        return f"{'https' if self._settings.certificate else 'http'}://{host}:{self._port}/"

    def _problem(self, key: str, sentence: str) -> None:
        if self._problems.get(key) != sentence:
            log.error("%s", sentence)
        self._problems[key] = sentence

    # -- exchanges -----------------------------------------------------------------------

    async def turn(self) -> None:
        """Wait until nobody else is answered between two looks at the sockets: a packet may be waiting, and
        hundreds of connections may ask at once."""
        async with self._turn:
            await asyncio.sleep(0)

    def begin(self, exchange: "_Exchange") -> asyncio.Task[None]:
        """Have a request answered; the task is held, and awaited at the stop."""
        self.counters["requests"] += 1
        task = self._loop.create_task(exchange.run(), name="web request")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("web request failed", exc_info=error)


class _Server(HTTPServer):
    """Tornado's server with a bound on its connections."""

    owner: WebServer

    def handle_stream(self, stream: iostream.IOStream, address: Any) -> None:
        gone = self.owner.crowd.add(stream, address[0])
        if gone is not None:
            self.owner.counters["refused"] += 1
            gone.close()
        self.owner.counters["connections"] = len(self.owner.crowd)
        if gone is not stream:
            super().handle_stream(stream, address)

    def close_streams(self) -> None:
        """Cut all connections."""
        for stream in list(self.owner.crowd):
            stream.close()

    def on_close(self, server_conn: object) -> None:
        self.owner.crowd.remove(cast("HTTP1ServerConnection", server_conn).stream)
        self.owner.counters["connections"] = len(self.owner.crowd)
        super().on_close(server_conn)


class _Connections(httputil.HTTPServerConnectionDelegate):
    """Tells Tornado who takes a request."""

    def __init__(self, owner: WebServer, app: WebApp) -> None:
        self._owner = owner
        self._app = app

    def start_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        stream = cast("HTTP1ServerConnection", server_conn).stream
        return _Exchange(self._owner, self._app, stream, cast("HTTP1Connection", request_conn))

    def on_close(self, server_conn: object) -> None:
        pass


class _Exchange(httputil.HTTPMessageDelegate):
    """One request and its answer."""

    def __init__(
        self, owner: WebServer, app: WebApp, stream: iostream.IOStream, connection: HTTP1Connection
    ) -> None:
        self._owner = owner
        self._app = app
        self._stream = stream
        self._connection = connection
        self._line = httputil.RequestStartLine("", "", "")
        self._headers: dict[str, str] = {}
        self._body = Body(owner.bodies)
        self._task: asyncio.Task[None] | None = None

    # -- Tornado calls these -------------------------------------------------------------

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> None:
        self._line = cast("httputil.RequestStartLine", start_line)
        self._headers = {name.lower(): value for name, value in headers.items()}

    def data_received(self, chunk: bytes) -> None:
        self._body.add(chunk)

    def finish(self) -> None:
        self._connection.set_close_callback(self._gone)
        self._owner.crowd.touch(self._stream)
        self._task = self._owner.begin(self)
        self._task.add_done_callback(lambda _task: self._body.forget())  # it may end before it began

    def on_connection_close(self) -> None:
        self._body.forget()
        self._gone()

    def _gone(self) -> None:
        if self._task is not None:
            self._task.cancel()

    # -- the answer ----------------------------------------------------------------------

    async def run(self) -> None:
        """Answer, and send what the answer is."""
        secure = isinstance(self._stream, iostream.SSLIOStream)
        try:
            request = self._request(secure=secure)
            await self._owner.turn()
            reply: Reply = await self._app.answer(request)
        except OSError:  # it is gone already: whoever likes could fill the log with that
            self._stream.close()
            return
        except WebError as error:
            self._owner.counters["refused"] += error.status == HTTPStatus.SERVICE_UNAVAILABLE
            reply = problem(error)
            reply = reply._replace(headers=(*reply.headers, *security_headers(secure=secure)))
        try:
            if isinstance(reply, Stream):
                await self._send_stream(reply)
            else:
                await self._send(reply)
        except iostream.StreamClosedError:
            pass
        except ApiError as error:  # of a source, in the middle: what is missing must show
            log.info("a stream to %s ended early: %s", self._connection.context, error.message)
            self._stream.close()
        except Exception:
            log.exception("an answer to %s failed", self._connection.context)
            self._stream.close()

    def _request(self, *, secure: bool) -> Request:
        sock = self._stream.socket
        if sock is None:
            raise iostream.StreamClosedError
        path, _, query = self._line.path.partition("?")
        return Request(
            self._line.method,
            path,
            parse_query(query),
            self._headers,
            self._body.take(),
            sock.getpeername()[0],
            secure,
            sock.getsockname()[0],
        )

    async def _send(self, response: Response) -> None:
        headers = httputil.HTTPHeaders()
        for name, value in response.headers:
            headers.add(name, value)
        if response.content_type:
            headers["Content-Type"] = response.content_type
        if response.status not in {204, 304}:
            headers["Content-Length"] = str(len(response.body))
        body = b"" if self._line.method == "HEAD" or response.status in {204, 304} else response.body
        await self._written(self._connection.write_headers(_start_line(response.status), headers, body))
        self._connection.finish()

    async def _send_stream(self, stream: Stream) -> None:
        counters = self._owner.counters
        try:
            if counters["streams"] >= self._owner.limits.streams:
                counters["refused"] += 1
                error = WebError(503, "too many streams; try again later", (("Retry-After", "10"),))
                secure = isinstance(self._stream, iostream.SSLIOStream)
                refusal = problem(error)
                await self._send(
                    refusal._replace(headers=(*refusal.headers, *security_headers(secure=secure)))
                )
                return
            counters["streams"] += 1
            self._owner.crowd.hold(self._stream)
            try:
                await self._relay(stream)
            finally:
                counters["streams"] -= 1
                self._owner.crowd.release(self._stream)
        finally:
            stream.close()
            if isinstance(stream.source, AsyncGenerator):
                await stream.source.aclose()

    async def _relay(self, stream: Stream) -> None:
        """Send each item when the one before has been taken."""
        headers = httputil.HTTPHeaders()
        for name, value in stream.headers:
            headers.add(name, value)
        headers["Content-Type"] = stream.content_type
        stream.hook(self._drop)
        await self._written(self._connection.write_headers(_start_line(200), headers))
        async for chunk in stream.source:
            if chunk:
                await self._written(self._connection.write(chunk))
        self._connection.finish()

    def _drop(self) -> None:
        """Cut the connection of a client that is too slow."""
        self._owner.counters["dropped"] += 1
        self._stream.close()
        self._gone()

    async def _written(self, written: "asyncio.Future[None]") -> None:
        try:
            async with asyncio.timeout(self._owner.limits.send):  # wait_for may lose a cancellation
                await written
        except TimeoutError:
            self._drop()
            raise iostream.StreamClosedError from None


@cache
def _pages() -> Pages:
    """The page's files: once, however often the server is started."""
    return Pages()


def _start_line(status: int) -> httputil.ResponseStartLine:
    return httputil.ResponseStartLine("HTTP/1.1", status, HTTPStatus(status).phrase)
