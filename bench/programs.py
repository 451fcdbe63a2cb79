# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that the rows run in devices and in the internet: ``python -m bench.programs ROLE '<json>'``.

They need nothing but the standard library, so that they also run on machines beside a real router
(see README.md). Each prints JSON on standard output. Those that stay until their standard input
ends say ``{"ready": ...}`` first. Everything is bounded in count; times are CLOCK_MONOTONIC in
nanoseconds, which is one clock for all namespaces of a machine.

=======  ====================================================================================
server   takes TCP connections, returns what comes, holds them
hold     opens connections and keeps them open; ``beat`` seconds apart each sends a byte
spread   datagrams from ``ports`` sockets to each of ``addresses``, then goes on at ``again``
asks     DNS queries one by one: when each was sent
opens    TCP connections one by one: from which port, and when
queries  DNS queries, each from a port of its own
=======  ====================================================================================
"""

import contextlib
import json
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from spind.lab.resolver import TYPE_A, TYPE_AAAA, build_query, parse_answer

HOLD_PORT = 9200
MAX_COUNT = 100_000
_TRIES = 5
_LINE = b"just a line of text, no TLS and no HTTP\r\n"


def say(**words: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def many_files() -> None:
    """Raise the limit of open files as far as we may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def family_of(address: str) -> socket.AddressFamily:
    """The family of an address in text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def pace(start: float, number: int, rate: float) -> None:
    """Sleep until it is the turn of ``number`` at ``rate`` a second since ``start``."""
    wait = start + number / rate - time.monotonic()
    if wait > 0:
        time.sleep(wait)


def server(port: int = HOLD_PORT) -> None:
    """Return what comes on each connection until our standard input ends."""
    many_files()
    poll = select.epoll()
    links: dict[int, socket.socket] = {}
    listeners: dict[int, socket.socket] = {}
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(4096)
        listeners[listener.fileno()] = listener
        poll.register(listener, select.EPOLLIN)
    poll.register(sys.stdin, select.EPOLLIN)
    say(ready=True)
    while True:
        for number, _ in poll.poll():
            if number == sys.stdin.fileno():
                return
            if number in listeners:
                link, _ = listeners[number].accept()
                links[link.fileno()] = link
                poll.register(link, select.EPOLLIN)
                continue
            link = links[number]
            try:
                data = link.recv(65536)
                link.send(data)
            except OSError:
                data = b""
            if not data:
                del links[number]
                link.close()


def lookup(link: socket.socket, name: str, kind: int) -> str:
    """The first address of ``name``, asked over ``link``; empty where there is no answer."""
    for number in range(_TRIES):
        link.send(build_query(name, kind, number))
        with contextlib.suppress(TimeoutError):
            answer = parse_answer(link.recv(4096), number)
            return answer.addresses[0] if answer.addresses else ""
    return ""


def hold(
    targets: list[str],
    port: int = HOLD_PORT,
    dns: str = "",
    family: int = 4,
    rate: float = 200,
    beat: float = 0,
) -> None:
    """A connection to each of ``targets`` (addresses, or with ``dns`` names), until standard input ends.

    Says how many are open, and at the end how many beats were sent and answered.
    """
    many_files()
    links = []
    start = time.monotonic()
    with socket.socket(family_of(dns or "0.0.0.0"), socket.SOCK_DGRAM) as asking:
        if dns:
            asking.settimeout(2)
            asking.connect((dns, 53))
        for number, target in enumerate(targets[:MAX_COUNT]):
            pace(start, number, rate)
            address = lookup(asking, target, TYPE_AAAA if family == 6 else TYPE_A) if dns else target
            try:
                link = socket.create_connection((address, port), timeout=5)
                link.send(_LINE)
                link.recv(len(_LINE), socket.MSG_WAITALL)
            except OSError:
                continue
            link.settimeout(2)
            links.append(link)
    say(ready=True, open=len(links), failed=len(targets) - len(links))
    sent = answered = 0
    while not select.select([sys.stdin], [], [], beat or None)[0]:
        for link in links:
            sent += 1
            with contextlib.suppress(OSError):
                link.send(b"x")
                answered += len(link.recv(1))
    say(sent=sent, answered=answered)


def spread(
    addresses: list[str], ports: int, port: int = 7, rate: float = 1000, again: float = 0, wait: bool = True
) -> None:
    """A datagram from each of ``ports`` sockets to each of ``addresses``; so many UDP connections.

    ``again`` is the rate at which it then goes on, in turn, until standard input ends.
    """
    many_files()
    sockets = [socket.socket(family_of(addresses[0]), socket.SOCK_DGRAM) for _ in range(ports)]
    for link in sockets:
        link.setblocking(False)
    pairs = [(link, address) for link in sockets for address in addresses][:MAX_COUNT]
    answered = 0
    start = time.monotonic()
    for number, (link, address) in enumerate(pairs):
        pace(start, number, rate)
        link.sendto(b"x", (address, port))
        answered += drain(link)
    time.sleep(0.5)
    answered += sum(drain(link) for link in sockets)
    say(ready=True, sent=len(pairs), answered=answered)
    number, start = 0, time.monotonic()
    while wait and not select.select([sys.stdin], [], [], 0 if again else None)[0]:
        pace(start, number, again)
        link, address = pairs[number % len(pairs)]
        link.sendto(b"x", (address, port))
        answered += drain(link)
        number += 1


def drain(link: socket.socket) -> int:
    """Take what has come; how many datagrams that was."""
    count = 0
    with contextlib.suppress(OSError):
        while link.recv(2048):
            count += 1
    return count


def asks(server: str, zone: str, count: int, every: float) -> None:
    """``count`` queries for names of their own; says ``{"sent": {name: when}}``."""
    sent = {}
    with socket.socket(family_of(server), socket.SOCK_DGRAM) as link:
        link.settimeout(2)
        link.connect((server, 53))
        start = time.monotonic()
        for number in range(min(count, MAX_COUNT)):
            pace(start, number, 1 / every)
            name = f"e{number}.{zone}"
            sent[name] = time.monotonic_ns()
            link.send(build_query(name, TYPE_A, number & 0xFFFF))
            with contextlib.suppress(TimeoutError):
                link.recv(4096)
    say(sent=sent)


def opens(host: str, count: int, every: float, port: int = HOLD_PORT) -> None:
    """``count`` connections, kept open; says ``{"sent": {our port: when}}``."""
    sent, links = {}, []
    start = time.monotonic()
    for number in range(min(count, MAX_COUNT)):
        pace(start, number, 1 / every)
        before = time.monotonic_ns()
        link = socket.create_connection((host, port), timeout=5)
        link.send(b"x" * 100)
        link.recv(100)
        sent[link.getsockname()[1]] = before
        links.append(link)
    time.sleep(2)  # reported about once a second
    say(sent=sent)


def queries(server: str, zone: str, rate: float, seconds: float) -> None:
    """Queries as devices ask: one socket, so one connection, for each; says how many were answered."""
    sent = answered = 0
    start = time.monotonic()
    for number in range(min(int(rate * seconds), MAX_COUNT)):
        pace(start, number, rate)
        with socket.socket(family_of(server), socket.SOCK_DGRAM) as link:
            link.settimeout(1)
            link.connect((server, 53))
            link.send(build_query(f"p{number}.{zone}", TYPE_A, number & 0xFFFF))
            sent += 1
            with contextlib.suppress(OSError):
                answered += struct.unpack_from("!H", link.recv(4096))[0] == number & 0xFFFF
    say(sent=sent, answered=answered, seconds=time.monotonic() - start)


ROLES: dict[str, Callable[..., None]] = {
    "server": server,
    "hold": hold,
    "spread": spread,
    "asks": asks,
    "opens": opens,
    "queries": queries,
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](**json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}"))
