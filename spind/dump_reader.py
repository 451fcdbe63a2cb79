# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads netlink dumps on a thread of its own, since the kernel walks its table in our time.

A table of few entries in many buckets is one call of 5 to 10 ms (262,144 buckets, measured), in which
packets would wait for their verdict. While the thread is in the kernel the loop runs. The thread does
nothing but send and receive; what it read is decoded on the loop.
"""

import time
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from socket import socket

from spind.netlink_socket import open_netlink

# Buffers that one turn on the thread reads at most: what waits to be decoded stays at half a MiB.
_BUFFERS = 128

Answer = Callable[[list[bytes], float], None]
Failure = Callable[[OSError], None]


class DumpReader:
    """One netlink socket for dumps.

    ``on_buffers`` gets what was read and the seconds that took, ``on_error`` why nothing could be.
    Both are called on the loop, one of them for each ``ask`` and ``read_on``, until ``close``.
    """

    def __init__(
        self, loop: AbstractEventLoop, protocol: int, size: int, on_buffers: Answer, on_error: Failure
    ) -> None:
        """``size`` is how many bytes are asked for at once. Raises ``OSError``."""
        self._loop = loop
        self._size = size
        self._on_buffers = on_buffers
        self._on_error = on_error
        self._socket = open_netlink(protocol)
        self._pool = ThreadPoolExecutor(1, "netlink dump")
        self._closed = False
        self._job: Future[tuple[list[bytes], float]] | None = None

    def ask(self, message: bytes) -> None:
        """Send a dump's request, and read the beginning of what comes."""
        self._job = self._loop.run_in_executor(self._pool, _read, self._socket, self._size, message)
        self._job.add_done_callback(self._have_read)

    def read_on(self) -> None:
        """Read more of the dump."""
        self.ask(b"")

    def close(self) -> None:
        """Nothing is called any more; the socket closes once the thread has let go of it."""
        self._closed = True
        self._pool.submit(self._socket.close)
        self._pool.shutdown(wait=False)

    def _have_read(self, job: "Future[tuple[list[bytes], float]]") -> None:
        if self._closed or job.cancelled():
            return
        error = job.exception()
        if error is None:
            self._on_buffers(*job.result())
        else:  # whatever it was, the next dump may do better
            self._on_error(error if isinstance(error, OSError) else OSError(repr(error)))


def _read(sock: socket, size: int, message: bytes) -> tuple[list[bytes], float]:
    started = time.thread_time()
    if message:
        sock.send(message)
    buffers: list[bytes] = []
    for _ in range(_BUFFERS):
        try:
            buffers.append(sock.recv(size))
        except BlockingIOError:
            break
    if not buffers:
        raise OSError("the kernel said nothing")
    return buffers, time.thread_time() - started
