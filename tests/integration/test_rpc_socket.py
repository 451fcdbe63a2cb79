# SPDX-License-Identifier: GPL-2.0-or-later
"""The Unix socket: framing at every cut, bounds, SPIN 1.0's clients, and the life of the file."""

import asyncio
import json
import os
import socket
import stat
import time

import pytest

from spind.calls import ApiError
from spind.rpc_socket import Limits, RpcSocket, RpcSocketError

PATIENT = Limits(bare=30)  # for pieces that come late on a busy machine
QUICK = Limits(clients=3, idle=0.5, request=0.2, bare=0.05, drain=0.3, stop=0.3)


class Table:
    def call(self, name, params, caller):
        assert (caller.interface, caller.role) == ("socket", "owner")
        if name == "echo":
            return params
        if name == "long":
            return "x" * params["size"]
        raise ApiError(-32601, "no such method")


def request(ident, method="echo", **params):
    return json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}).encode()


def serve(scenario, path, limits=Limits()):  # noqa: B008
    async def run():
        server = RpcSocket(Table(), str(path), limits)
        await server.start()
        try:
            await scenario(server)
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(run(), 180))


async def connect(path):
    return await asyncio.open_unix_connection(str(path), limit=1 << 20)


async def read_reply(reader):
    return json.loads(await asyncio.wait_for(reader.readline(), 60))


async def close(writer):
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass


async def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rpc.sock"


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_request_cut_at_every_byte(path, end):
    text = request(1, a='}"\\{[', b="ü") + end

    async def scenario(server):
        for cut in range(1, len(text)):
            reader, writer = await connect(path)
            writer.write(text[:cut])
            await writer.drain()
            await until(lambda: server.counters["clients"] == 1)
            writer.write(text[cut:])
            assert (await read_reply(reader))["result"] == {"a": '}"\\{[', "b": "ü"}
            await close(writer)
            await until(lambda: server.counters["clients"] == 0)

    serve(scenario, path)


def test_one_byte_at_a_time(path):
    async def scenario(_server):
        reader, writer = await connect(path)
        for ident in range(3):
            for byte in request(ident) + b"\n":
                writer.write(bytes([byte]))
                await writer.drain()
            assert (await read_reply(reader))["id"] == ident
        await close(writer)

    serve(scenario, path, PATIENT)


@pytest.mark.parametrize("separator", [b"\n", b"", b"\r\n\r\n"])
def test_pipelined_requests_are_answered_in_order(path, separator):
    async def scenario(_server):
        reader, writer = await connect(path)
        writer.write(separator.join(request(ident, n="x" * 100) for ident in range(2000)) + b"\n")
        assert [(await read_reply(reader))["id"] for _ in range(2000)] == list(range(2000))
        await close(writer)

    serve(scenario, path, PATIENT)


def test_requests_of_many_clients_take_turns(path):
    async def scenario(server):
        greedy_reader, greedy = await connect(path)
        greedy.write(b"\n".join(request(ident) for ident in range(5000)) + b"\n")
        reader, writer = await connect(path)
        writer.write(request(1) + b"\n")
        await read_reply(reader)
        assert server.counters["requests"] < 5000  # the greedy one is not through yet
        for ident in range(5000):
            assert (await read_reply(greedy_reader))["id"] == ident
        await close(writer)
        await close(greedy)

    serve(scenario, path)


def spinweb_client(path, data):
    """As SPIN 1.0's web server asks: a bare JSON text, then read until the end of the stream."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(data)
        reply = b""
        while chunk := sock.recv(1024):
            reply += chunk
        return reply


def test_spin_1_client_that_reads_to_the_end(path):
    async def scenario(_server):
        pretty = json.dumps(json.loads(request(1)), indent=4).encode()  # cJSON_Print's form
        begin = time.monotonic()
        reply = await asyncio.to_thread(spinweb_client, path, pretty)
        assert reply == b'{"jsonrpc":"2.0","id":1,"result":{}}\n'
        assert time.monotonic() - begin < Limits().idle / 10

    serve(scenario, path)


def test_a_connection_with_line_ends_stays(path):
    async def scenario(server):
        reader, writer = await connect(path)
        for ident in range(3):
            writer.write(request(ident) + b"\n")
            await read_reply(reader)
            end = time.monotonic() + 3 * QUICK.bare
            await until(lambda end=end: time.monotonic() > end)
            assert server.counters["clients"] == 1
        await close(writer)

    serve(scenario, path)


def test_a_client_that_shuts_its_side_gets_all_replies(path):
    async def scenario(_server):
        reader, writer = await connect(path)
        writer.write(request(1) + request(2))
        writer.write_eof()
        assert (await read_reply(reader))["id"] == 1
        assert (await read_reply(reader))["id"] == 2
        assert await reader.read() == b""
        await close(writer)

    serve(scenario, path)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"hello\n", "object"),
        (b"GET / HTTP/1.1\r\n", "object"),
        (b'{"a":"' + b"x" * 70_000, "bytes"),
        (b"[" * 100, "deep"),
        (b"{", "inside a request"),
    ],
)
def test_what_is_no_request_is_answered_and_cut(path, data, sentence):
    async def scenario(_server):
        reader, writer = await connect(path)
        writer.write(data)
        writer.write_eof()
        reply = await read_reply(reader)
        assert (reply["id"], reply["error"]["code"]) == (None, -32600)
        assert sentence in reply["error"]["message"]
        assert await reader.read() == b""
        await close(writer)

    serve(scenario, path)


def test_bad_json_inside_brackets_does_not_end_the_connection(path):
    async def scenario(_server):
        reader, writer = await connect(path)
        writer.write(b'{"a":nope}\n' + request(2) + b"\n")
        assert (await read_reply(reader))["error"]["code"] == -32700
        assert (await read_reply(reader))["id"] == 2
        await close(writer)

    serve(scenario, path)


def test_notifications_are_silent(path):
    async def scenario(_server):
        reader, writer = await connect(path)
        writer.write(b'{"jsonrpc":"2.0","method":"echo"}\n' + request(2) + b"\n")
        assert (await read_reply(reader))["id"] == 2
        await close(writer)

    serve(scenario, path)


def test_too_many_clients(path):
    async def scenario(server):
        writers = []
        for _ in range(QUICK.clients):
            _, writer = await connect(path)
            writers.append(writer)
        await until(lambda: server.counters["clients"] == QUICK.clients)
        reader, writer = await connect(path)
        assert "clients already" in (await read_reply(reader))["error"]["message"]
        assert await reader.read() == b""
        await close(writer)
        assert server.counters["refused"] == 1
        await close(writers.pop())
        await until(lambda: server.counters["clients"] == QUICK.clients - 1)
        reader, writer = await connect(path)
        writer.write(request(1))
        assert (await read_reply(reader))["id"] == 1
        for each in [writer, *writers]:
            await close(each)

    serve(scenario, path, QUICK._replace(idle=10))


@pytest.mark.parametrize(
    ("data", "what"), [(b"", "idle"), (b'{"a":', "partial"), (request(1) + b"\n", "idle after a request")]
)
def test_a_silent_client_is_let_go(path, data, what):
    async def scenario(_server):
        reader, writer = await connect(path)
        writer.write(data)
        begin = time.monotonic()
        await asyncio.wait_for(reader.read(), 60)
        assert time.monotonic() - begin >= 0.1, what
        await close(writer)

    serve(scenario, path, QUICK)


def test_a_trickling_client_does_not_extend_its_time(path):
    async def scenario(server):
        reader, writer = await connect(path)
        end = asyncio.ensure_future(reader.read())
        begin = time.monotonic()
        writer.write(b"[")
        while not end.done():
            assert time.monotonic() - begin < 30
            writer.write(b" ")
            await asyncio.sleep(0.02)
        assert server.counters["dropped"] == 1
        await close(writer)

    serve(scenario, path, QUICK)


def test_a_client_that_does_not_read_is_dropped_and_bounded(path):
    async def scenario(server):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.connect(str(path))
        data = b"\n".join([request(1, "long", size=200_000)] * 500) + b"\n"
        await asyncio.get_running_loop().sock_sendall(sock, data[:40_000])
        await until(lambda: server.counters["dropped"] == 1)
        assert server.counters["requests"] < 20
        await until(lambda: server.counters["clients"] == 0)
        sock.close()

    serve(scenario, path, QUICK)


def test_what_a_client_sends_without_reading_is_not_taken_in(path):
    async def scenario(server):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.connect(str(path))
        data = b"\n".join([request(1, "long", size=200_000)] * 1000) + b"\n"
        taken, refused = 0, 0
        while refused < 50:  # half a second in which nothing more is taken
            try:
                taken += sock.send(data)
                refused = 0
            except BlockingIOError:
                refused += 1
                await asyncio.sleep(0.01)
            assert taken < 4_000_000
        assert server.counters["requests"] < 20
        sock.close()
        await until(lambda: server.counters["clients"] == 0)

    serve(scenario, path, PATIENT._replace(drain=60))


@pytest.mark.parametrize("umask", [0, 0o022, 0o177, 0o077])
def test_the_mode_is_0600_whatever_the_umask(path, umask):
    async def scenario(_server):
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600

    before = os.umask(umask)
    try:
        serve(scenario, path)
    finally:
        os.umask(before)


def test_the_file_is_removed_at_the_end(path):
    async def scenario(_server):
        assert path.exists()

    serve(scenario, path)
    assert not path.exists()


def test_the_file_of_another_is_not_removed(path):
    async def scenario(_server):
        path.unlink()
        path.write_text("mine")

    serve(scenario, path)
    assert path.read_text() == "mine"


def test_a_dead_daemons_socket_is_replaced(path):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.listen()
    dead.close()

    async def scenario(_server):
        reader, writer = await connect(path)
        writer.write(request(1))
        assert (await read_reply(reader))["id"] == 1
        await close(writer)

    serve(scenario, path)


def test_a_living_daemon_is_left_alone(path):
    async def scenario(_server):
        with pytest.raises(RpcSocketError, match="another spind answers"):
            await RpcSocket(Table(), str(path)).start()
        reader, writer = await connect(path)
        writer.write(request(1))
        assert (await read_reply(reader))["id"] == 1
        await close(writer)

    serve(scenario, path)


@pytest.mark.parametrize(
    "what", ["file", "directory", "symlink", "missing directory", "too long", "nul", "empty"]
)
def test_paths_that_cannot_be(tmp_path, what):
    path = tmp_path / "x"
    if what == "file":
        path.write_text("precious")
    elif what == "directory":
        path.mkdir()
    elif what == "symlink":
        (tmp_path / "target").write_text("precious")
        path.symlink_to(tmp_path / "target")
    elif what == "missing directory":
        path = tmp_path / "no" / "x"
    elif what == "too long":
        path = tmp_path / ("x" * 120)
    text = {"nul": f"{path}\0b", "empty": ""}.get(what, str(path))

    async def scenario():
        with pytest.raises(RpcSocketError):
            await RpcSocket(Table(), text).start()

    asyncio.run(scenario())
    if what == "file":
        assert path.read_text() == "precious"
    if what == "symlink":
        assert path.read_text() == "precious"


def test_stop_sends_what_is_under_way(path):
    async def run():
        server = RpcSocket(Table(), str(path))
        await server.start()
        reader, writer = await connect(path)
        writer.write(request(1, "long", size=250_000) + b"\n")
        await until(lambda: server.counters["requests"] == 1)
        stopping = asyncio.ensure_future(server.stop())
        assert len((await read_reply(reader))["result"]) == 250_000
        await stopping
        assert await reader.read() == b""
        await close(writer)
        await server.stop()  # again is nothing

    asyncio.run(run())


def test_stop_does_not_wait_for_ever(path):
    async def run():
        server = RpcSocket(Table(), str(path), QUICK)
        await server.start()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.connect(str(path))
        sock.sendall(request(1, "long", size=250_000) * 2)
        await until(lambda: server.counters["requests"] >= 1)
        begin = time.monotonic()
        await server.stop()
        assert time.monotonic() - begin < 15
        sock.close()

    asyncio.run(run())


@pytest.mark.parametrize("turns", range(6))
def test_who_comes_while_it_stops_is_not_forgotten(tmp_path, turns):
    """Accepted in one turn of the loop, a connection is served in a later one: the end may lie between."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as late:

        async def scenario(server):
            late.connect(str(path))
            for _ in range(turns):
                await asyncio.sleep(0)
            await server.stop()
            late.setblocking(False)
            receiving = asyncio.get_running_loop().sock_recv(late, 1)
            try:
                assert await asyncio.wait_for(receiving, 60) == b""
            except ConnectionError:
                pass

        serve(scenario, path)
