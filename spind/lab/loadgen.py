# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that make load, run inside namespaces: ``python -m spind.lab.loadgen ROLE '<json>'``.

``load`` starts them and reads their results (one JSON object on standard output). They use plain
sockets and epoll: at thousands of connections a second on two shared cores every microsecond in
the generator is missing for what is measured. Everything is bounded in count and time.
"""

import json
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from spind.lab.patience import patient

CHURN_PORTS = tuple(range(9000, 9008))  # several, so that a tuple of ports comes back late
BULK_PORT = 9100
REQUEST, REPLY = b"q" * 100, b"r" * 200
MAX_OPEN = 4000
LATE_SECONDS = 3.0  # how long after the last start an answer still counts
_BUFFER = 1 << 20


def percentiles(samples: list[int]) -> dict[str, float]:
    """Median, 99th percentile and maximum, from nanoseconds to microseconds."""
    if not samples:
        return {"median_us": 0.0, "p99_us": 0.0, "max_us": 0.0}
    ordered = sorted(samples)
    pick = [ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], ordered[-1]]
    return dict(zip(("median_us", "p99_us", "max_us"), (value / 1000 for value in pick), strict=True))


class Server:
    """Answers ``churn`` and ``latency`` on ``CHURN_PORTS`` and ``bulk`` on ``BULK_PORT``, until SIGTERM."""

    def __init__(self) -> None:
        self.served = 0
        self.received = 0
        self._running = True

    def serve(self) -> None:
        """Serve, then print what was served."""
        signal.signal(signal.SIGTERM, self._stop)
        poll = select.epoll()
        listeners = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for port in (*CHURN_PORTS, BULK_PORT):
                listener = listen(family, port)
                listeners[listener.fileno()] = (listener, port)
                poll.register(listener, select.EPOLLIN)
        say({"ready": True})
        while self._running:
            for number, _ in poll.poll(0.2):
                listener, port = listeners[number]
                (self._accept_bulk if port == BULK_PORT else self._accept_churn)(listener)
        say({"served": self.served, "received": self.received})

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._running = False

    def _accept_churn(self, listener: socket.socket) -> None:
        for _ in range(64):
            try:
                link, _ = listener.accept()
            except BlockingIOError:
                return
            # Accepting was put off until the request was there (TCP_DEFER_ACCEPT), so one
            # call each will do; a connection that is closed without a request gives b"".
            try:
                link.setblocking(False)
                self.received += len(link.recv(4096))
                link.send(REPLY)
                self.served += 1
            except OSError:
                pass
            link.close()

    def _accept_bulk(self, listener: socket.socket) -> None:
        link, _ = listener.accept()
        link.setblocking(True)
        link.settimeout(patient(30))
        threading.Thread(target=self._bulk, args=(link,), daemon=True).start()

    def _bulk(self, link: socket.socket) -> None:
        with link:
            head = link.recv(20, socket.MSG_WAITALL)
            way, size = head[:1], int(head[1:])
            if way == b"D":
                send_zeros(link, size)
            else:
                self.received += discard(link)
                link.sendall(b"%019d\n" % size)
            self.served += 1


def listen(family: socket.AddressFamily, port: int) -> socket.socket:
    """A listener on every address of ``family`` that does not block."""
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 3)
    listener.setblocking(False)
    listener.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104 - in the namespace
    listener.listen(8192)
    return listener


def send_zeros(link: socket.socket, size: int) -> None:
    """Send ``size`` bytes."""
    block = memoryview(bytes(_BUFFER))
    while size > 0:
        size -= link.send(block[: min(size, _BUFFER)])


def discard(link: socket.socket) -> int:
    """Read to the end without copying (MSG_TRUNC, tcp(7)); how much it was."""
    total, buffer = 0, bytearray(_BUFFER)
    while count := link.recv_into(buffer, _BUFFER, socket.MSG_TRUNC):
        total += count
    return total


def churn(host: str, rate: float, seconds: float) -> dict[str, Any]:
    """Open ``rate`` short connections a second: connect, a request, a reply, the end."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    poll = select.epoll()
    links: dict[int, socket.socket] = {}
    total = int(rate * seconds)
    counts = {"attempted": 0, "completed": 0, "failed": 0, "skipped": 0, "received": 0}
    events = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
    start = time.monotonic()
    last_start = 0.0
    due = 0
    while True:
        now = time.monotonic() - start
        while due < total and due < now * rate:
            due += 1
            if len(links) >= MAX_OPEN:
                counts["skipped"] += 1
                continue
            link = socket.socket(family)
            link.setblocking(False)
            counts["attempted"] += 1
            if link.connect_ex((host, CHURN_PORTS[due % len(CHURN_PORTS)])) not in (0, 115):  # EINPROGRESS
                counts["failed"] += 1
                link.close()
                continue
            links[link.fileno()] = link
            poll.register(link, events)
            last_start = now
        if due >= total and (not links or now > last_start + patient(LATE_SECONDS)):
            break
        for number, event in poll.poll(0.001):
            link = links[number]
            done = _step(link, event, counts)
            if done:
                del links[number]
                link.close()
    for link in links.values():
        link.close()
    counts["failed"] += len(links)
    return {**counts, "sent": counts["attempted"] * len(REQUEST), "seconds": last_start}


def _step(link: socket.socket, event: int, counts: dict[str, int]) -> bool:
    """Go on with one connection; whether it is over."""
    try:
        if event & select.EPOLLIN:
            data = link.recv(4096)
            counts["received"] += len(data)
            counts["completed" if len(data) == len(REPLY) else "failed"] += 1
            return True
        if event & (select.EPOLLERR | select.EPOLLHUP):
            counts["failed"] += 1
            return True
        link.send(REQUEST)
    except OSError:
        counts["failed"] += 1
        return True
    return False


def latency(host: str, rate: float, seconds: float) -> dict[str, Any]:
    """How long ``connect`` takes, at ``rate`` new connections a second, one after the other."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    samples: list[int] = []
    failed = 0
    start = time.monotonic()
    for number in range(int(rate * seconds)):
        wait = start + number / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        with socket.socket(family) as link:
            # A blocking connect with the kernel's own limit: settimeout would add a poll to it.
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, b"\x02" + bytes(15))
            before = time.perf_counter_ns()
            try:
                link.connect((host, CHURN_PORTS[number % len(CHURN_PORTS)]))
            except OSError:
                failed += 1
                continue
            samples.append(time.perf_counter_ns() - before)
            link.send(REQUEST)
    return {"completed": len(samples), "failed": failed, **percentiles(samples)}


def bulk(host: str, size: int, way: str) -> dict[str, Any]:
    """One TCP connection that carries ``size`` bytes up (``U``) or down (``D``)."""
    with socket.create_connection((host, BULK_PORT), timeout=patient(60)) as link:
        start = time.monotonic()
        link.sendall(f"{way}{size:019d}".encode())
        if way == "U":
            send_zeros(link, size)
            link.shutdown(socket.SHUT_WR)
            got = size if link.recv(20, socket.MSG_WAITALL) == b"%019d\n" % size else 0
        else:
            got = discard(link)
        seconds = time.monotonic() - start
        return {"bytes": got, "seconds": seconds, "port": link.getsockname()[1]}


def say(words: dict[str, Any]) -> None:
    """One line of JSON on standard output."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Play the role that the command line names."""
    from spind.lab.dnsload import ask  # noqa: PLC0415 - only this role needs it

    if sys.argv[1] == "server":
        Server().serve()
        return
    roles: dict[str, Callable[..., dict[str, Any]]] = {
        "churn": churn,
        "latency": latency,
        "bulk": bulk,
        "dns": ask,
    }
    say(roles[sys.argv[1]](**json.loads(sys.argv[2])))


if __name__ == "__main__":
    main()
