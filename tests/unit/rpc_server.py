# SPDX-License-Identifier: GPL-2.0-or-later
"""The real socket and table of methods, served from a thread, for tests of blocking clients."""

import asyncio
import socket
import threading
from contextlib import contextmanager, suppress

from spind.rpc_socket import RpcSocket


@contextmanager
def serving(api, path):
    """Serves ``api`` on ``path`` while the block runs."""
    ready = threading.Event()
    ends = []

    async def main():
        server = RpcSocket(api, str(path))
        await server.start()
        end = asyncio.Event()
        ends.append((asyncio.get_running_loop(), end))
        ready.set()
        await end.wait()
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        loop, end = ends[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def answering(path, *replies):
    """A server that is not spind: takes one connection and sends ``replies``, whatever is asked."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve():
        connection, _ = listener.accept()
        with connection, suppress(OSError):  # the client may have had enough
            for reply in replies:
                connection.recv(65536)
                connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join(10)
        listener.close()
        assert not thread.is_alive()
