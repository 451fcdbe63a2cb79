# SPDX-License-Identifier: GPL-2.0-or-later
"""Load for the web interface: ``python -m spind.lab.webload '<json>'``, run beside the daemon.

Opens event streams and sends JSON-RPC calls at a given rate, on plain sockets and epoll. What the streams
carry is only kept while it comes; it is looked at when the load is over, so that this program takes little
from the machine that is measured. Everything is bounded in count, size and time.

Says ``{"ready": ...}`` once every stream has its snapshot, and then the result of the calls. Then it reads
a line: a text that will come in a delta of every stream. Once it has, or after ``PATIENCE`` seconds, it says
what each stream carried, and which flows it leaves behind.
"""

import json
import resource
import select
import socket
import sys
import time
from typing import Any

from spind.lab.loadgen import percentiles, say
from spind.lab.patience import patient
from spind.lab.webstate import State

MAX_STREAMS, MAX_RATE, MAX_SECONDS = 256, 2000.0, 120.0
MAX_KEPT = 16 << 20
"""Bytes that are kept of one stream; a stream with more is reported as broken."""

PATIENCE = 10.0
CALLERS = 8  # connections that calls take turns on
_CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("list_nodes", {"kind": "device", "limit": 50}),
    ("list_flows", {"limit": 50}),
    ("status", {}),
    ("list_rules", {}),
    ("get_traffic", {}),
)


class Dechunk:
    """The body of a reply, chunked (RFC 9112 section 7.1) or to the end of the connection."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._head = b""
        self._chunked = False
        self.body = bytearray()

    @property
    def status(self) -> int:
        """The status, 0 before there is one."""
        return int(self._head.split(b" ", 2)[1]) if self._head else 0

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._raw += data
        if not self._head:
            head, end, rest = bytes(self._raw).partition(b"\r\n\r\n")
            if not end:
                return
            self._head = head
            self._chunked = b"transfer-encoding: chunked" in head.lower()
            self._raw = bytearray(rest)
        if not self._chunked:
            self.body += self._raw
            self._raw.clear()
            return
        while True:
            line = self._raw.find(b"\r\n")
            if line < 0:
                return
            size = int(bytes(self._raw[:line]).partition(b";")[0], 16)
            if len(self._raw) < line + size + 4:
                return
            self.body += self._raw[line + 2 : line + 2 + size]
            del self._raw[: line + size + 4]


class EventStream:
    """One event stream, kept as it comes."""

    def __init__(self, address: tuple[str, int], cookie: str) -> None:
        self.socket = socket.create_connection(address, timeout=patient(10))
        accept = "Accept: text/event-stream\r\n"
        self.socket.sendall(_request("GET", "/api/v1/events", address, cookie, accept))
        self.socket.setblocking(False)
        self._reply = Dechunk()
        self._looked = 0
        self.ready = False
        self.ended = False

    @property
    def text(self) -> bytes:
        """All that has come."""
        return bytes(self._reply.body)

    def read(self) -> None:
        """Take what has come."""
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(self._reply.body) > MAX_KEPT:
            self.ended = True
            return
        self._reply.feed(data)
        if not self.ready:
            self.ready = self.has(b"event: ready")

    def has(self, text: bytes) -> bool:
        """Whether ``text`` has come, and was not found by an earlier call."""
        found = self._reply.body.find(text, max(0, self._looked - len(text)))
        self._looked = len(self._reply.body) if found < 0 else found + len(text)
        return found >= 0


class Calls:
    """JSON-RPC calls at a rate, on connections that stay; each waits for its reply before the next."""

    def __init__(self, address: tuple[str, int], cookie: str, rate: float) -> None:
        self._address, self._cookie, self._rate = address, cookie, rate
        self._free = [socket.create_connection(address, timeout=patient(10)) for _ in range(CALLERS)]
        self._busy: dict[int, tuple[socket.socket, int, bytearray]] = {}
        self.sent = self.answered = self.failed = self.late = 0
        self.samples: list[int] = []
        self._begun = time.monotonic()

    def start(self) -> None:
        """The rate counts from now."""
        self._begun = time.monotonic()

    def due(self, poll: "select.epoll") -> None:
        """Send what has to be sent by now, as far as connections are free."""
        while self._free and self.sent < (time.monotonic() - self._begun) * self._rate:
            link = self._free.pop(0)
            method, params = _CALLS[self.sent % len(_CALLS)]
            call = {"jsonrpc": "2.0", "id": self.sent, "method": method, "params": params}
            body = json.dumps(call).encode()
            more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            link.sendall(_request("POST", "/spin_api/jsonrpc", self._address, self._cookie, more) + body)
            self._busy[link.fileno()] = (link, time.perf_counter_ns(), bytearray())
            poll.register(link, select.EPOLLIN)
            self.sent += 1
        self.late += not self._free

    def readable(self, number: int, poll: "select.epoll") -> None:
        """Take a reply, or a part of it."""
        link, begun, reply = self._busy[number]
        data = link.recv(1 << 18)
        reply += data
        head, end, body = bytes(reply).partition(b"\r\n\r\n")
        if data and (not end or len(body) < _length(head)):
            return
        poll.unregister(link)
        del self._busy[number]
        if not data:
            self.failed += 1
            link.close()
            link = socket.create_connection(self._address, timeout=patient(10))
        elif b" 200 " in head[:20] and b'"result"' in body:
            self.answered += 1
            self.samples.append(time.perf_counter_ns() - begun)
        else:
            self.failed += 1
        self._free.append(link)

    def result(self) -> dict[str, Any]:
        """Counts and how long the answers took."""
        spent = time.monotonic() - self._begun
        return {
            "sent": self.sent,
            "answered": self.answered,
            "failed": self.failed,
            "open": len(self._busy),
            "seconds": spent,
            **percentiles(self.samples),
        }

    def owns(self, number: int) -> bool:
        """Whether this descriptor waits for a reply."""
        return number in self._busy


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)


def _request(method: str, path: str, address: tuple[str, int], cookie: str, more: str) -> bytes:
    login = f"Cookie: spin_session={cookie}\r\n" if cookie else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n{login}{more}\r\n".encode()


def slow_reader(address: tuple[str, int], cookie: str) -> socket.socket:
    """A stream whose client never reads, with little room in the kernel: of loopback's long segments, the
    other side would keep room for some."""
    link = socket.socket()
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    link.settimeout(patient(10))
    link.connect(address)
    link.sendall(_request("GET", "/api/v1/events", address, cookie, ""))
    return link


def run(
    host: str = "127.0.0.1",
    port: int = 13026,
    streams: int = 50,
    rate: float = 200,
    seconds: float = 10,
    slow: int = 0,
    cookie: str = "",
) -> None:
    """Make the load, and say what came of it."""
    if not (0 <= streams + slow <= MAX_STREAMS and 0 < rate <= MAX_RATE and 0 < seconds <= MAX_SECONDS):
        raise SystemExit("too much load")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    address = (host, port)
    poll = select.epoll()
    opened = [EventStream(address, cookie) for _ in range(streams)]
    never = [slow_reader(address, cookie) for _ in range(slow)]
    by_number = {stream.socket.fileno(): stream for stream in opened}
    for number in by_number:
        poll.register(number, select.EPOLLIN)

    def step(calls: Calls | None = None) -> None:
        for number, _ in poll.poll(0.004):
            if calls is not None and calls.owns(number):
                calls.readable(number, poll)
                continue
            stream = by_number[number]
            stream.read()
            if stream.ended:
                poll.unregister(number)

    began = time.monotonic()
    while not all(stream.ready or stream.ended for stream in opened):
        step()
        if time.monotonic() > began + patient(PATIENCE):
            break
    say({"ready": sum(stream.ready for stream in opened), "seconds": time.monotonic() - began})
    calls = Calls(address, cookie, rate)
    calls.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        calls.due(poll)
        step(calls)
    say(calls.result())
    while not select.select([sys.stdin], [], [], 0)[0]:
        step(calls)
    marker = sys.stdin.readline().strip().encode()
    waiting = [stream for stream in opened if not stream.ended]
    deadline = time.monotonic() + patient(PATIENCE)
    while waiting and time.monotonic() < deadline:
        step(calls)
        waiting = [stream for stream in waiting if not stream.has(marker) and not stream.ended]
    _conclude(opened, never, len(waiting))


def _conclude(opened: list[EventStream], never: list[socket.socket], waiting: int) -> None:
    states = []
    for stream in opened:
        state = State()
        state.take(stream.text)
        states.append(state)
    dropped = sum(_is_closed(link) for link in never)
    say(
        {
            "streams": [
                {
                    "deltas": state.deltas,
                    "first": state.first,
                    "last": state.last,
                    "missed": state.missed,
                    "snapshots": state.snapshots,
                    "flows": len(state.flows),
                    "nodes": len(state.nodes),
                    "digest": state.digest(),
                    "bytes": len(stream.text),
                    "ended": stream.ended,
                }
                for state, stream in zip(states, opened, strict=True)
            ],
            "without_marker": waiting,
            "slow_dropped": dropped,
            "flows": list(states[0].flows.values()) if states else [],
        }
    )


def _is_closed(link: socket.socket) -> bool:
    """Whether the other side has given up on a connection that nobody reads from."""
    link.settimeout(patient(2))
    try:
        while link.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


if __name__ == "__main__":
    run(**json.loads(sys.argv[1]))
