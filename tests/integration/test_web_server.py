# SPDX-License-Identifier: GPL-2.0-or-later
"""The edge on real sockets: HTTP as clients speak it, well or badly; bounds; TLS; listeners; streams."""

import asyncio
import logging
import shutil
import socket
import ssl
import struct
import subprocess
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from mosquitto_broker import until
from web_served import Client, connected, request, served

from spind.calls import NotFoundError
from spind.web.server import Limits, WebSettings

RPC = b'{"jsonrpc":"2.0","id":1,"method":"list_devices"}'


def run(test: Callable[[], Awaitable[None]]) -> None:
    """A test has to end by itself, whatever the server does."""
    asyncio.run(asyncio.wait_for(test(), 30))


class Source:
    """A stream: counts what was taken, waits where nothing is left, and knows how it ended."""

    def __init__(self, items: int, size: int = 10, error: Exception | None = None) -> None:
        self.left, self.size, self.error = items, size, error
        self.taken = self.closed = 0
        self.last_event_id = ""
        self.on_drop: Callable[[], None] = lambda: None

    def subscribe(self, last_event_id: str, _name: str, _via: str) -> "Source":
        self.last_event_id = last_event_id
        return self

    def open(self, _number: int, _role: str) -> "Source":
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            if self.error is not None:
                raise self.error
            await asyncio.Event().wait()
        self.left -= 1
        self.taken += 1
        return b"x" * self.size

    def close(self) -> None:
        self.closed += 1


# -- HTTP ----------------------------------------------------------------------------------


def test_many_requests_over_one_connection() -> None:
    async def test() -> None:
        async with served() as web, connected(web.port) as client:
            for _ in range(3):
                answer = await client.ask("POST", "/spin_api/jsonrpc", RPC)
                assert (answer.status, answer.json()["id"]) == (200, 1)
            await client.send(request("GET", "/api/v1/status") * 5)  # pipelined
            assert [(await client.answer()).status for _ in range(5)] == [200] * 5
            assert (await client.ask("DELETE", "/api/v1/rules/7")).status == 404
            created = await client.ask("POST", "/api/v1/rules", b'{"action":"block","domain":"a.test"}')
            assert (created.status, created.headers["location"]) == (201, "/api/v1/rules/1")
            gone = await client.ask("DELETE", "/api/v1/rules/1")
            assert (gone.status, gone.body) == (204, b"")
            assert "content-length" not in gone.headers
            assert (await client.ask("GET", "/api/v1/nodes?query=%C3%A4")).json()["total"] == 0
            assert web.server.counters["requests"] == 12
            assert web.server.counters["connections"] == 1

    run(test)


def test_head_has_the_length_and_no_body() -> None:
    async def test() -> None:
        async with served() as web, connected(web.port) as client:
            full = await client.ask("GET", "/api/v1/profiles")
            head = await client.ask("HEAD", "/api/v1/profiles")
            assert head.headers["content-length"] == str(len(full.body))
            assert head.headers["content-type"] == "application/json"
            assert (await client.ask("GET", "/api/v1/profiles")).body == full.body  # nothing in between

    run(test)


def test_http_1_0_is_answered_and_closed() -> None:
    async def test() -> None:
        async with served() as web:
            for path, wanted in (("/api/v1/status", b"200 OK"), ("/", b"\r\n")):
                async with connected(web.port) as client:
                    await client.send(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                    assert wanted in (await client.rest()).partition(b"\r\n\r\n")[0] + b"\r\n"

    run(test)


def test_a_body_in_chunks_and_one_that_waits_for_leave() -> None:
    async def test() -> None:
        async with served() as web, connected(web.port) as client:
            head = b"POST /spin_api/jsonrpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            chunks = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (10, RPC[:10], len(RPC) - 10, RPC[10:])
            await client.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
            assert (await client.answer()).json()["id"] == 1
            await client.send(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(RPC))
            assert (await client.head()).status == 100
            await client.send(RPC)
            assert (await client.answer()).json()["id"] == 1

    run(test)


HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /spin_api/jsonrpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET  /  HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        HEAD + b"X: a\x00b\r\n\r\n",
        HEAD + b" folded: first\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS on a port without it
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\n{}xyz\r\n",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_harms_nobody(data: bytes) -> None:
    async def test() -> None:
        async with served(limits=Limits(idle=0.5, receive=0.5)) as web:
            async with connected(web.port) as client:
                await client.send(data)
                first = (await client.rest()).partition(b"\r\n")[0]
                assert first == b"" or b" 400 " in first or b" 421 " in first, first
            async with connected(web.port) as client:
                assert (await client.ask("GET", "/api/v1/status")).status == 200

    run(test)


@pytest.mark.parametrize(
    "target",
    [
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/static/....//....//etc/passwd",
        "/static/..%5c..%5cserver.py",
        "/static/../server.py",
        "/api/v1/../../static/../server.py",
        "http://localhost/etc/passwd",
        "*",
    ],
)
def test_no_file_but_the_pages(target: str) -> None:
    async def test() -> None:
        async with served() as web, connected(web.port) as client:
            answer = await client.ask("GET", target)
            assert answer.status in {400, 404}
            assert answer.headers["content-type"] == "application/problem+json"
            assert b"root:" not in answer.body

    run(test)


# -- bounds --------------------------------------------------------------------------------


def test_headers_have_a_bound() -> None:
    async def test() -> None:
        async with served() as web:
            for line in (b"X: " + b"a" * 20_000, b"X: y\r\n" * 4000):
                async with connected(web.port) as client:
                    await client.send(HEAD + line + b"\r\n\r\n")
                    assert b"200" not in (await client.rest()).partition(b"\r\n")[0]
            async with connected(web.port) as client:
                assert (await client.ask("GET", "/api/v1/status", X="a" * 10_000)).status == 200

    run(test)


def test_bodies_have_a_bound_and_the_refusal_arrives() -> None:
    async def test() -> None:
        async with served() as web:
            for size in (70_000, 1_000_000):
                async with connected(web.port) as client:
                    answer = await client.ask("POST", "/spin_api/jsonrpc", b" " * size)
                    assert (answer.status, answer.json()["title"]) == (413, "Request Entity Too Large")
                    assert answer.headers["x-frame-options"] == "DENY"
                    assert (await client.ask("GET", "/api/v1/status")).status == 200
            async with connected(web.port) as client:
                await client.send(
                    POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"4000\r\n%b\r\n" % (b" " * 0x4000) * 5
                )
                await client.send(b"0\r\n\r\n")
                assert (await client.answer()).status == 413
            async with connected(web.port) as client:
                await client.send(POST + b"Content-Length: 2000000\r\n\r\n")
                assert b" 400 " in (await client.rest()).partition(b"\r\n")[0]

    run(test)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: loc",
        HEAD,
        POST + b"Content-Length: 10\r\n\r\n{",
        POST + b"Transfer-Encoding: chunked\r\n\r\n4\r\n{",
    ],
)
def test_who_is_slow_is_given_up(data: bytes) -> None:
    async def test() -> None:
        async with served(limits=Limits(idle=0.2, receive=0.2)) as web:
            async with connected(web.port) as client:
                await client.send(data)
                assert await client.rest() == b""
            await until(lambda: web.server.counters["connections"] == 0)

    run(test)


def test_a_drop_at_a_time_is_slow_too() -> None:
    """The time runs from a request's first byte, whatever trickles in."""

    async def test() -> None:
        async with served(limits=Limits(idle=0.3)) as web, connected(web.port) as client:
            closed = asyncio.create_task(client.reader.read())
            await client.send(HEAD)
            while not closed.done():
                client.writer.write(b"X: y\r\n")
                await asyncio.wait([closed], timeout=0.05)
            assert closed.result() == b""

    run(test)


def test_connections_have_a_bound_and_a_new_one_gets_in() -> None:
    async def test() -> None:
        async with served(limits=Limits(connections=2)) as web:
            async with connected(web.port) as first, connected(web.port) as second:
                for client in (first, second, first):
                    assert (await client.ask("GET", "/api/v1/status")).status == 200
                async with connected(web.port) as third:
                    assert (await third.ask("GET", "/api/v1/status")).status == 200
                    assert await second.rest() == b""
                    assert (await first.ask("GET", "/api/v1/status")).status == 200
                    assert (web.server.counters["refused"], web.server.counters["connections"]) == (1, 2)
            await until(lambda: web.server.counters["connections"] == 0)

    run(test)


def test_who_is_silent_keeps_nobody_out_and_streams_go_on() -> None:
    async def test() -> None:
        async with served(limits=Limits(connections=3)) as web, connected(web.port) as stream:
            await stream.send(request("GET", "/api/v1/events"))
            await stream.head()
            for head in (b"", HEAD, POST + b"Content-Length: 9000\r\n\r\n{") * 3:
                async with connected(web.port) as slow, connected(web.port) as slower:
                    await slow.send(head)
                    await slower.send(head)
                    async with connected(web.port) as client:
                        assert (await client.ask("GET", "/api/v1/status")).status == 200
            text = b""
            while b"event: ready" not in text:
                text += await stream.chunk()

    run(test)


def test_bodies_together_have_a_bound() -> None:
    async def test() -> None:
        async with served(limits=Limits(bodies=100_000)) as web:
            async with connected(web.port) as sender, connected(web.port) as client:
                await sender.send(POST + b"Content-Length: 60001\r\n\r\n" + b" " * 60_000)
                await until(lambda: web.server.bodies.received == 60_000)
                assert (await client.ask("POST", "/spin_api/jsonrpc", RPC)).status == 200
                refused = await client.ask("POST", "/spin_api/jsonrpc", b" " * 60_000)
                assert (refused.status, refused.headers["retry-after"]) == (503, "5")
                assert web.server.counters["refused"] == 1
            await until(lambda: web.server.bodies.received == 0)

    run(test)


def test_a_crowd_of_requests_is_answered_one_by_one() -> None:
    """Between two answers the loop looks at what else there is: a packet may be waiting."""

    async def test() -> None:
        async with served() as web:
            clients = [await asyncio.open_connection("127.0.0.1", web.port) for _ in range(40)]
            loop, served_at, looks = asyncio.get_running_loop(), [], 0

            def look() -> None:
                nonlocal looks
                looks += 1
                loop.call_soon(look)

            real = web.server.turn

            async def turn() -> None:
                await real()
                served_at.append(looks)

            web.server.turn = turn  # type: ignore[method-assign]
            look()
            for _reader, writer in clients:
                writer.write(request("GET", "/api/v1/status"))
            for reader, writer in clients:
                assert b" 200 " in await reader.readuntil(b"\r\n")
                writer.close()
            assert len(served_at) == 40
            assert max(served_at.count(at) for at in served_at) <= 2

    run(test)


# -- streams -------------------------------------------------------------------------------


def test_live_events_of_a_real_home() -> None:
    async def test() -> None:
        async with served() as web, connected(web.port) as client:
            await client.send(request("GET", "/api/v1/events"))
            head = await client.head()
            assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
            text = b""
            while b"event: ready" not in text:
                text += await client.chunk()
            assert text.startswith(b"event: hello\n")
            assert b"event: nodes\n" in text
            async with connected(web.port) as other:
                await other.ask("PATCH", "/api/v1/nodes/1", b'{"name":"camera"}')
            web.streams.mention("rules")
            while b"event: delta" not in text:
                text += await client.chunk()
            assert web.server.counters["streams"] == 1

    run(test)


def test_who_is_gone_is_let_go_of() -> None:
    async def test() -> None:
        source = Source(1)
        async with served(feed=source) as web:
            async with connected(web.port) as client:
                await client.send(request("GET", "/api/v1/events", Last_Event_ID="test-7"))
                await client.head()
                assert await client.chunk() == b"x" * 10
                assert source.last_event_id == "test-7"
                assert source.closed == 0
            await until(lambda: source.closed == 1)
            assert web.server.counters["streams"] == 0

    run(test)


@pytest.mark.parametrize("target", ["/api/v1/status", "/api/v1/events"])
def test_who_is_gone_before_the_answer_fills_no_log(target: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with served() as web:
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", web.port)) as rude:
                    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    rude.sendall(request("GET", target))  # and a reset, before anybody has read that
            await until(lambda: web.server.counters["requests"] == 3)
            await until(lambda: web.server.counters["connections"] == 0)
            async with connected(web.port) as client:
                assert (await client.ask("GET", "/api/v1/status")).status == 200

    run(test)
    told = [record for record in caplog.records if record.name == "spind.web.server"]
    assert [record for record in told if record.levelno >= logging.WARNING] == []


def test_a_slow_reader_is_waited_for_and_then_cut() -> None:
    async def test() -> None:
        source = Source(100_000, 64 * 1024)
        limits = Limits(send=1.0)
        async with served(feed=source, limits=limits) as web, connected(web.port, limit=1024) as client:
            await client.send(request("GET", "/api/v1/events"))
            await client.head()
            await until(lambda: source.closed == 1)
            # What was taken is in the kernel's buffers, not in ours.
            assert source.taken * source.size < 32 * 2**20
            assert web.server.counters["dropped"] == 1

    run(test)


def test_the_feed_cuts_a_stream_that_is_stuck_in_a_write() -> None:
    async def test() -> None:
        source = Source(100_000, 64 * 1024)
        async with served(feed=source) as web, connected(web.port, limit=1024) as client:
            await client.send(request("GET", "/api/v1/events"))
            await client.head()
            taken = [-1]

            def stuck() -> bool:
                taken.append(source.taken)
                return taken[-1] == taken[-2] > 0

            await until(stuck)
            source.on_drop()
            await until(lambda: source.closed == 1 and web.server.counters["connections"] == 0)
            assert web.server.counters["streams"] == 0

    run(test)


def test_streams_have_a_bound_and_leave_room_for_calls() -> None:
    async def test() -> None:
        source = Source(1)
        async with served(feed=source, limits=Limits(streams=1)) as web, connected(web.port) as first:
            await first.send(request("GET", "/api/v1/events"))
            assert (await first.head()).status == 200
            async with connected(web.port) as second:
                refused = await second.ask("GET", "/api/v1/events")
                assert (refused.status, refused.headers["retry-after"]) == (503, "10")
                assert source.closed == 1  # what was refused has not been left open
                assert (await second.ask("GET", "/api/v1/status")).status == 200

    run(test)


@pytest.mark.parametrize("error", [NotFoundError("given up"), KeyError("broken")])
def test_a_download_that_fails_shows_that_something_is_missing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        source = Source(2, error=error)
        async with served(captures=source) as web, connected(web.port) as client:
            await client.send(request("GET", "/api/v1/captures/1.pcap"))
            assert (await client.head()).status == 200
            rest = await client.rest()
            assert rest.count(b"x" * 10) == 2
            assert not rest.endswith(b"0\r\n\r\n")
            await until(lambda: source.closed == 1)

    run(test)
    unexpected = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert bool(unexpected) is isinstance(error, KeyError)


def test_a_stop_ends_everything_soon() -> None:
    async def test() -> None:
        sources = Source(100_000, 64 * 1024)
        async with served(feed=sources, captures=sources, limits=Limits(stop=5.0)) as web:
            port = web.port
            async with connected(port, limit=1024) as stuck, connected(port) as idle, connected(port) as half:
                await stuck.send(request("GET", "/api/v1/events"))
                await stuck.head()
                await half.send(HEAD)
                await idle.ask("GET", "/api/v1/status")
                before = asyncio.get_running_loop().time()
                await web.server.stop()
                assert asyncio.get_running_loop().time() - before < 3
                assert await idle.rest() == b""
                assert await half.rest() == b""
            assert sources.closed == 1
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)
            counters = web.server.counters
            assert (counters["connections"], counters["streams"]) == (0, 0)
            await web.server.stop()  # twice is once

    run(test)


# -- listeners -----------------------------------------------------------------------------


def test_several_addresses_of_both_families() -> None:
    async def test() -> None:
        settings = WebSettings(("127.0.0.1", "::1", "127.0.0.2"), 0)
        async with served(settings=settings) as web:
            assert web.server.url == f"http://127.0.0.1:{web.port}/"
            for address in settings.addresses:
                host = f"[{address}]" if ":" in address else address
                async with connected(web.port, address) as client:
                    answer = await client.ask("GET", "/api/v1/status", Host=f"{host}:{web.port}")
                    assert answer.status == 200, address
                    assert (await client.ask("GET", "/", Host="192.0.2.1")).status == 421

    run(test)


def test_an_address_that_is_not_there_harms_no_other() -> None:
    async def test() -> None:
        settings = WebSettings(("198.18.255.254", "127.0.0.1"), 0)
        async with served(settings=settings) as web:
            assert len(web.server.problems) == 1
            assert "198.18.255.254" in web.server.problems[0]
            async with connected(web.port) as client:
                assert (await client.ask("GET", "/api/v1/status")).status == 200

    run(test)


def test_a_port_in_use_is_told_and_tried_again() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            async with served(settings=WebSettings(port=port), limits=Limits(retry=0.1)) as web:
                assert web.server.url == ""
                assert web.server.problems == [
                    f"no web interface on 127.0.0.1 port {port}: Address already in use"
                ]
                taken.close()
                await until(lambda: web.server.url)
                assert web.server.problems == []
                async with connected(port) as client:
                    assert (await client.ask("GET", "/api/v1/status")).status == 200

    run(test)


# -- TLS -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for localhost, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls")
    names = (str(path / "cert.pem"), str(path / "key.pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-out", names[0], "-keyout", names[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return names


def test_https(certificate: tuple[str, str]) -> None:
    async def test() -> None:
        settings = WebSettings(("127.0.0.1",), 0, *certificate)
        async with served(settings=settings, limits=Limits(idle=0.5)) as web:
            assert web.server.url.startswith("https://")
            context = ssl.create_default_context(cafile=certificate[0])
            async with connected(web.port, tls=context) as client:
                origin = f"https://localhost:{web.port}"
                answer = await client.ask(
                    "POST", "/spin_api/jsonrpc", RPC, Host=f"localhost:{web.port}", Origin=origin
                )
                assert answer.status == 200
                assert answer.headers["strict-transport-security"] == "max-age=86400"
            async with connected(web.port) as plain:
                await plain.send(request("GET", "/api/v1/status"))
                assert b"HTTP" not in await plain.rest()
            async with connected(web.port) as silent:  # a handshake that never comes
                assert await silent.rest() == b""
            await until(lambda: web.server.counters["connections"] == 0)

    run(test)


def test_old_versions_of_tls_are_refused(certificate: tuple[str, str]) -> None:
    async def test() -> None:
        async with served(settings=WebSettings(("127.0.0.1",), 0, *certificate)) as web:
            context = ssl.create_default_context(cafile=certificate[0])
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with connected(web.port, tls=context):
                    pass
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            async with connected(web.port, tls=context) as client:
                assert (await client.ask("GET", "/api/v1/status")).status == 200

    run(test)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda cert, _key, _path: (cert, ""), "need each other"),
        (lambda _cert, key, _path: ("", key), "need each other"),
        (lambda cert, _key, path: (cert, str(path / "none.pem")), "No such file"),
        (lambda cert, _key, path: (cert, str(path / "junk.pem")), "junk.pem"),
        (lambda cert, key, _path: (key, cert), "PEM"),
    ],
)
def test_a_bad_certificate_is_told_and_nothing_is_served_instead(
    wrong: Callable[[str, str, Path], tuple[str, str]],
    sentence: str,
    certificate: tuple[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "junk.pem").write_text("junk")

    async def test() -> None:
        async with served(settings=WebSettings(("127.0.0.1",), 0, *wrong(*certificate, tmp_path))) as web:
            assert web.server.url == ""
            assert len(web.server.problems) == 1
            assert sentence in web.server.problems[0]

    run(test)
    assert sentence in caplog.text


def test_an_encrypted_key_is_refused_and_nobody_is_asked(
    certificate: tuple[str, str], tmp_path: Path
) -> None:
    key = str(tmp_path / "encrypted.pem")
    subprocess.run(
        ["openssl", "pkey", "-in", certificate[1], "-aes256", "-passout", "pass:secret", "-out", key],
        check=True, capture_output=True,
    )  # fmt: skip

    async def test() -> None:
        async with served(settings=WebSettings(("127.0.0.1",), 0, certificate[0], key)) as web:
            assert "encrypted.pem" in web.server.problems[0]

    run(test)


def test_clients_are_told_apart() -> None:
    """Each connection has its own request, whatever the others do meanwhile."""

    async def test() -> None:
        async def one(port: int, number: int) -> None:
            async with connected(port) as client:
                for _ in range(5):
                    answer = await call(client, number)
                    assert answer == number

        async def call(client: Client, number: int) -> object:
            body = RPC.replace(b'"id":1', b'"id":%d' % number)
            return (await client.ask("POST", "/spin_api/jsonrpc", body)).json()["id"]

        async with served() as web:
            await asyncio.gather(*(one(web.port, number) for number in range(40)))
            await until(lambda: web.server.counters["connections"] == 0)

    run(test)
