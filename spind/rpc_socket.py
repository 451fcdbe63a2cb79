# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON-RPC 2.0 on a Unix stream socket, for the command line and for SPIN 1.0's clients.

Owns the socket file, its mode and life, the connections and their bounds. It must not know
any method nor look into a request: it frames bytes (``json_framer``) and passes them to
``jsonrpc.handle``.

Two kinds of client are served. One ends each request with a line end and may send many over
one connection, also before it has read the replies. SPIN 1.0's send one bare JSON text and
read until the daemon closes the connection; so a connection whose last request was not
followed by a line end is closed soon after its reply (docs/decisions/0003). Every reply ends
with a line end and holds no other.
"""

import asyncio
import errno
import logging
import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple, cast

from spind import jsonrpc
from spind.calls import Caller
from spind.json_framer import FrameError, JsonFramer

log = logging.getLogger(__name__)

SOCKET_MODE = 0o600  # root's own (API.md 2): who can write here controls the home


class Limits(NamedTuple):
    """What one client, and all together, may take; times in seconds."""

    clients: int = 32
    idle: float = 300.0  # between requests: ``spind top`` and scripts keep a connection
    request: float = 10.0  # from a request's first byte to its last
    bare: float = 0.05  # for more to come after a request without line end
    drain: float = 10.0  # for a client to read its reply
    stop: float = 1.0  # for replies under way when the daemon stops


_ACCEPT_TURNS = 3  # of the loop, from the acceptance of a connection to its client
_WRITE_HIGH = 64 * 1024  # bytes of unread replies at which a client's next request waits


class RpcSocketError(Exception):
    """The socket cannot be opened; the sentence says why and what to do."""


class RpcSocket:
    """The server: ``await start()``, serve, ``await stop()``.

    ``counters`` has ``clients`` (now), ``requests``, ``refused`` (too many clients) and
    ``dropped`` (too slow, too long or not JSON).
    """

    def __init__(self, api: jsonrpc.Methods, path: str, limits: Limits = Limits()) -> None:  # noqa: B008  (immutable)
        self.api = api
        self.path = path
        self.limits = limits
        self.counters = {"clients": 0, "requests": 0, "refused": 0, "dropped": 0}
        self._clients: set[_Client] = set()
        self._server: asyncio.Server | None = None
        self._inode: tuple[int, int] | None = None
        self._all_gone = asyncio.Event()

    async def start(self) -> None:
        """Open the socket; ``RpcSocketError`` where another daemon answers or the path is bad."""
        sock = _bind(self.path)
        try:
            status = Path(self.path).stat()
            self._inode = (status.st_dev, status.st_ino)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: _Client(self), sock=sock)
        except BaseException:
            sock.close()
            raise
        log.info("JSON-RPC on %s", self.path)

    async def stop(self) -> None:
        """Close all connections, sending replies under way, and remove the socket file."""
        if self._server is None:
            return
        server, self._server = self._server, None
        # Who has been accepted becomes a client a few turns later; asyncio forgets them, open, if the
        # server is closed meanwhile. So first nobody is accepted any more.
        for sock in server.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        for _turn in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)
        server.close()
        self._unlink()
        for client in list(self._clients):
            client.close()
        if self._clients:
            try:
                await asyncio.wait_for(self._all_gone.wait(), self.limits.stop)
            except TimeoutError:
                for client in list(self._clients):
                    client.abort()

    def _unlink(self) -> None:
        # Only what we made: a daemon that was started in our place may own the path by now.
        path = Path(self.path)
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) == self._inode:
                path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("cannot remove %s: %s", self.path, error.strerror)

    def joined(self, client: "_Client") -> bool:
        """Count a client in; False where there are too many."""
        if len(self._clients) >= self.limits.clients:
            self.counters["refused"] += 1
            return False
        self._clients.add(client)
        self._all_gone.clear()
        self.counters["clients"] = len(self._clients)
        return True

    def left(self, client: "_Client") -> None:
        """Count a client out."""
        self._clients.discard(client)
        self.counters["clients"] = len(self._clients)
        if not self._clients:
            self._all_gone.set()


class _Client(asyncio.Protocol):
    """One connection: requests are answered in order, one a turn of the loop."""

    _CALLER = Caller("socket", "owner")

    def __init__(self, server: RpcSocket) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._framer = JsonFramer()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None  # for the client's next bytes
        self._in_request = False
        self._drain: asyncio.TimerHandle | None = None  # for the client to read
        self._full = False
        self._reading = True
        self._ended = False
        self._turn: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # of a stream
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH)
        if self._server.joined(self):
            self._wait(self._limits.idle)
        else:
            self._refuse(f"there are {self._limits.clients} clients already; try again later")

    def data_received(self, data: bytes) -> None:
        self._framer.feed(data)
        self._schedule()

    def eof_received(self) -> bool:
        self._ended = True
        self._schedule()
        return True  # keep the other direction until the replies are out

    def pause_writing(self) -> None:
        self._full = True
        if self._drain is None:
            self._drain = self._loop.call_later(
                self._limits.drain, self._drop, "did not read its replies"
            )

    def resume_writing(self) -> None:
        self._full = False
        if self._transport is None or self._transport.is_closing():
            return  # the timer of close() runs on
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None
        self._schedule()

    def connection_lost(self, _error: Exception | None) -> None:
        for handle in (self._timer, self._drain, self._turn):
            if handle is not None:
                handle.cancel()
        self._timer = self._drain = self._turn = None
        self._transport = None
        self._server.left(self)

    def close(self) -> None:
        """Send what is under way, then close; a client that does not read is cut off."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.close()
        if self._drain is None:
            self._drain = self._loop.call_later(self._limits.drain, self.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _drop(self, reason: str) -> None:
        self._server.counters["dropped"] += 1
        log.info("a client of %s %s: dropped", self._server.path, reason)
        self.abort()

    def _refuse(self, sentence: str) -> None:
        if self._transport is not None:
            self._transport.write(jsonrpc.refusal(sentence) + b"\n")
            self.close()

    def _schedule(self) -> None:
        """See to it that the next request is answered in a turn of its own."""
        if self._turn is None and not self._full and self._transport is not None:
            self._turn = self._loop.call_soon(self._answer_one)

    def _answer_one(self) -> None:
        self._turn = None
        if self._transport is None or self._transport.is_closing():
            return
        try:
            request = self._framer.next()
        except FrameError as error:
            self._server.counters["dropped"] += 1
            self._refuse(str(error))
            return
        if request is None:
            self._await_more()
            return
        self._hold_reading(self._framer.pending > 0)
        self._in_request = False
        self._server.counters["requests"] += 1
        reply = jsonrpc.handle(self._server.api, request, self._CALLER)
        if reply is not None:
            self._transport.write(reply + b"\n")
        self._schedule()

    def _hold_reading(self, hold: bool) -> None:
        """Stop reading while requests wait, so that their number has no say in our memory."""
        if self._transport is None or hold is not self._reading or self._ended:
            return
        self._reading = not hold
        if hold:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _await_more(self) -> None:
        """All requests are answered: wait for the next one, or see the connection end."""
        self._hold_reading(False)
        if self._ended:
            if self._framer.pending:
                self._refuse("the connection ended inside a request")
            self.close()
        elif self._framer.pending:
            if not self._in_request:  # the time runs from its first byte, not its latest
                self._in_request = True
                self._wait(self._limits.request)
        elif self._framer.bare:
            self._wait(self._limits.bare)
        else:
            self._wait(self._limits.idle)

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._waited)

    def _waited(self) -> None:
        self._timer = None
        if self._full or self._turn is not None:
            self._in_request = False  # the next turn decides anew what to wait for
        elif self._framer.pending:
            self._drop("did not finish its request")
        else:
            self.close()


def _bind(path: str) -> socket.socket:
    """A socket bound to ``path`` with ``SOCKET_MODE``, in place of a dead one."""
    # An empty path, or one with a NUL, would mean another place than it says (unix(7)).
    if not path.startswith("/") or "\0" in path:
        raise RpcSocketError(f"rpc_socket must be an absolute path, not {path!r:.100}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # The mode of the file is that of the socket when it is bound (net/unix/af_unix.c,
        # unix_bind_bsd), less the umask: there is no moment with a wider one.
        os.fchmod(sock.fileno(), SOCKET_MODE)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            sock.bind(path)
    except (OSError, ValueError) as error:
        sock.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RpcSocketError(f"cannot open the socket {path}: {reason}") from error
    except RpcSocketError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket of a daemon that is gone; ``RpcSocketError`` where it is not gone."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise RpcSocketError(f"{path} exists and is not a socket: choose another rpc_socket, or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # it listens, and its queue is full
    raise RpcSocketError(f"another spind answers on {path}: stop it, or choose another rpc_socket")
