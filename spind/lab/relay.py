# SPDX-License-Identifier: GPL-2.0-or-later
"""A port of this machine's loopback that leads to one of a lab's machine: to look at the page from outside.

Owns its thread and its connections. Changes nothing of either side's network: listening is done outside,
connecting inside.
"""

import asyncio
import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from spind.lab.errors import LabError
from spind.lab.node import Node

MAX_CONNECTIONS = 64
_CHUNK = 64 * 1024


class Relay:
    """Passes connections to ``127.0.0.1:port`` here on to the same address and ``target`` in ``node``.

    ``port`` 0 takes any that is free; ``LabError`` where it is taken. Use it with ``with``.
    """

    def __init__(self, node: Node, target: int, port: int = 0) -> None:
        self._node = node
        self._target = target
        try:
            self._listener = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise LabError(f"port {port} of this machine: {error.strerror}") from error
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        async with await asyncio.start_server(self._accepted, sock=self._listener):
            self._ready.set()
            await self._stop.wait()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if len(self._tasks) <= MAX_CONNECTIONS:
                inner = await asyncio.open_connection(sock=self._node.call(self._connect))
                await _both(reader, writer, *inner)
        writer.close()

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._target), timeout=5)


async def _both(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    inner_reader: asyncio.StreamReader,
    inner_writer: asyncio.StreamWriter,
) -> None:
    """Carry bytes both ways until either side ends."""
    ways = [
        asyncio.ensure_future(_carry(reader, inner_writer)),
        asyncio.ensure_future(_carry(inner_reader, writer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        inner_writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
