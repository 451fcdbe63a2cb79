# SPDX-License-Identifier: GPL-2.0-or-later
"""DNS queries at a given rate, or as fast as they are answered; each one accounted for.

No query is sent twice, so what is not answered is lost, and said to be.
"""

import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from spind.lab.loadgen import LATE_SECONDS, percentiles
from spind.lab.patience import patient
from spind.lab.resolver import TYPE_A, build_query

SOCKETS = 8  # source ports; each has the whole range of ids for itself


def ask(
    server: str, zone: str, rate: float, seconds: float, distinct: int = 0, window: int = 64
) -> dict[str, Any]:
    """Ask ``server`` for names under ``zone``.

    ``rate`` queries a second for ``seconds``; with ``rate`` 0 as many as get answered with
    ``window`` under way. ``distinct`` names in turn, or a new one each time where it is 0.
    """
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    poll = select.epoll()
    links = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(SOCKETS)]
    by_number = {link.fileno(): index for index, link in enumerate(links)}
    for link in links:
        link.setblocking(False)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        link.connect((server, 53))
        poll.register(link, select.EPOLLIN)
    waiting: dict[tuple[int, int], int] = {}
    samples: list[int] = []
    counts = {"sent": 0, "answered": 0, "errors": 0}
    queries = _queries(zone, distinct)
    total = int(rate * seconds)
    start = time.monotonic()
    last = start
    while True:
        now = time.monotonic()
        while _due(counts["sent"], now - start, rate, seconds, total, len(waiting), window):
            index = counts["sent"] % SOCKETS
            number = counts["sent"] // SOCKETS & 0xFFFF
            if not _send(links[index], struct.pack("!H", number) + next(queries)):
                break
            waiting[index, number] = time.perf_counter_ns()
            counts["sent"] += 1
            last = now = time.monotonic()
        ended = counts["sent"] >= total if rate else now - start >= seconds
        if ended and (not waiting or now > last + patient(LATE_SECONDS)):
            break
        for number, _ in poll.poll(0.001):
            _collect(links[by_number[number]], by_number[number], waiting, samples, counts)
    for link in links:
        link.close()
    spent = last - start
    lost = counts["sent"] - counts["answered"]
    return {**counts, "lost": lost, "seconds": spent, **percentiles(samples)}


def _queries(zone: str, distinct: int) -> Iterator[bytes]:
    """Query messages without their id."""
    number = 0
    while True:
        label = number % distinct if distinct else number
        yield build_query(f"q{label}.{zone}", TYPE_A, 0)[2:]
        number += 1


def _due(
    sent: int, now: float, rate: float, seconds: float, total: int, waiting: int, window: int
) -> bool:
    """Whether one more has to be sent now."""
    if rate:
        return sent < total and sent < now * rate
    return waiting < window and now < seconds


def _send(link: socket.socket, query: bytes) -> bool:
    try:
        link.send(query)
    except (BlockingIOError, ConnectionRefusedError):
        return False
    return True


def _collect(
    link: socket.socket,
    index: int,
    waiting: dict[tuple[int, int], int],
    samples: list[int],
    counts: dict[str, int],
) -> None:
    for _ in range(64):
        try:
            message = link.recv(4096)
        except (BlockingIOError, ConnectionRefusedError):
            return
        number, flags = struct.unpack_from("!2H", message)
        asked = waiting.pop((index, number), None)
        if asked is not None:
            samples.append(time.perf_counter_ns() - asked)
            counts["answered"] += 1
            counts["errors"] += bool(flags & 15)
