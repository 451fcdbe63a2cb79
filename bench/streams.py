# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs for the rows on blocking: ``python -m bench.streams ROLE '<json>'``.

They run in devices and in the internet. As those of ``bench.programs``: standard library only, JSON
lines on standard output, bounded in count, times in nanoseconds. Those that stay until their standard
input ends say ``{"ready": ...}`` first.

==========  =================================================================================
serve       takes what ``run`` and ``pull`` send, and sends what they ask for
run         TCP up, TCP down, UDP both ways, all at once, on and on; says how each ended
burst       a datagram, a SYN and an echo request from each of ``sources``, ``count`` times
attempts    looks up names one by one; with each answer a datagram and a SYN to its address
handshakes  TLS handshakes one by one, each with the next of ``names``; how long each took
pull        a ClientHello for ``name``, then takes ``size`` bytes as fast as they come
lookups     DNS queries one by one; how long each took
flood       DNS queries, ``window`` under way, of which each ``every``-th is for ``special``
==========  =================================================================================
"""

import contextlib
import json
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.programs import MAX_COUNT, family_of, lookup, pace, say
from spind.lab.resolver import TYPE_A, TYPE_AAAA, build_query

PORT_UP, PORT_DOWN, PORT_BOTH = 9300, 9301, 9302
EXTENDED = 10
"""Added to a port: the same, with IPv6 extension headers in each packet."""

DATAGRAMS = 1000  # a second, each way
_GOES_ON = 10.0  # seconds for which datagrams are sent to who is not heard any more
_BLOCK = bytes(1 << 18)
# linux/in6.h. An empty header of each kind: 8 bytes, PadN (RFC 8200 section 4.2); the kernel puts in
# what comes next.
_OPTIONS = {54: bytes((0, 0, 1, 4, 0, 0, 0, 0)), 59: bytes((0, 0, 1, 4, 0, 0, 0, 0))}
_IPV6_FREEBIND = 78
_ECHO = {4: (8, socket.IPPROTO_ICMP), 6: (128, socket.IPPROTO_ICMPV6)}


def extend(link: socket.socket) -> None:
    """Send hop-by-hop and destination options with each IPv6 packet from now on."""
    for option, header in _OPTIONS.items():
        link.setsockopt(socket.IPPROTO_IPV6, option, header)


# -- streams that run ----------------------------------------------------------------------------


def serve(hosts: list[str], size: int = 0) -> None:
    """Take and send until our standard input ends; ``size`` bytes a connection down (0: without end).

    Datagrams are answered from the addresses ``hosts``, one a family.
    """
    for host in hosts:
        family = family_of(host)
        for extra in (0, EXTENDED) if family == socket.AF_INET6 else (0,):
            for port, handle in ((PORT_UP, _take), (PORT_DOWN, lambda link: _give(link, size))):
                _listen(family, port + extra, handle, extended=bool(extra))
            link = _bound(host, socket.SOCK_DGRAM, PORT_BOTH + extra)
            if extra:
                extend(link)
            _begin(_answer, link)
    say(ready=True)
    sys.stdin.read()


def _bound(host: str, kind: socket.SocketKind, port: int) -> socket.socket:
    link = socket.socket(family_of(host), kind)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if link.family == socket.AF_INET6:
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # The lab's addresses are local by a route, not by being configured.
        link.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    link.bind((host, port))
    return link


def _begin(work: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()


def _listen(
    family: socket.AddressFamily, port: int, handle: Callable[[socket.socket], None], *, extended: bool
) -> None:
    listener = _bound("::" if family == socket.AF_INET6 else "0.0.0.0", socket.SOCK_STREAM, port)
    if extended:
        extend(listener)  # connections have it from there, and leave room for it in their segments
    listener.listen(64)

    def accept() -> None:
        while True:
            _begin(quietly, handle, listener.accept()[0])

    _begin(accept)


def quietly(handle: Callable[[socket.socket], None], link: socket.socket) -> None:
    """An end of the connection, whatever it is, is no error here."""
    with link, contextlib.suppress(OSError):
        handle(link)


def _take(link: socket.socket) -> None:
    buffer = bytearray(len(_BLOCK))
    while link.recv_into(buffer, len(buffer), socket.MSG_TRUNC):
        pass


def _give(link: socket.socket, size: int) -> None:
    link.recv(4096)
    left = size
    while left > 0 or not size:
        left -= link.send(_BLOCK[: min(len(_BLOCK), left)] if size else _BLOCK)
    link.shutdown(socket.SHUT_WR)
    link.recv(1)


def _answer(link: socket.socket) -> None:
    """Send to who was heard lately, at a steady rate, whatever becomes of it."""
    heard: dict[Any, float] = {}
    link.settimeout(0.001)
    start, number = time.monotonic(), 0
    while True:
        with contextlib.suppress(OSError):
            _, sender = link.recvfrom(4096)
            heard[sender] = time.monotonic()
        due = int((time.monotonic() - start) * DATAGRAMS)
        for _ in range(min(due - number, 10)):
            for peer, at in heard.items():
                if time.monotonic() - at < _GOES_ON:
                    with contextlib.suppress(OSError):
                        link.sendto(b"d" * 512, peer)
        number = due


def run(host: str, *, extended: bool = False) -> None:
    """All streams at once until standard input ends; says ``ready`` when each has carried something."""
    extra = EXTENDED if extended else 0
    family = family_of(host)
    moved = {"tcp-up": threading.Event(), "tcp-down": threading.Event(), "udp": threading.Event()}
    ended: dict[str, Any] = {}

    def connected(port: int) -> socket.socket:
        link = socket.socket(family)
        if extended:
            extend(link)
        link.connect((host, port + extra))
        return link

    def stream(name: str, port: int, step: Callable[[socket.socket], int]) -> None:
        with connected(port) as link:
            link.send(b"x")
            try:
                while step(link):
                    moved[name].set()
                how = "end"
            except OSError as error:
                how = type(error).__name__
            ended[name] = {"how": how, "at": time.time_ns()}

    buffer = bytearray(len(_BLOCK))
    _begin(stream, "tcp-up", PORT_UP, lambda link: link.send(_BLOCK))
    _begin(stream, "tcp-down", PORT_DOWN, lambda link: link.recv_into(buffer, len(buffer), socket.MSG_TRUNC))

    def datagrams() -> None:
        # Longer than a packet may be where there are extension headers: fragments have one, too.
        data = b"u" * (2000 if extended else 512)
        with socket.socket(family, socket.SOCK_DGRAM) as link:
            if extended:
                extend(link)
            link.setblocking(False)
            link.connect((host, PORT_BOTH + extra))
            start, number = time.monotonic(), 0
            while True:
                pace(start, number, DATAGRAMS)
                number += 1
                with contextlib.suppress(OSError):
                    link.send(data)
                with contextlib.suppress(OSError):
                    if link.recv(4096):
                        moved["udp"].set()

    _begin(datagrams)
    carried = [name for name, event in moved.items() if event.wait(5)]
    say(ready=len(carried) == len(moved), carried=carried)
    sys.stdin.read()
    say(ended=ended)


def burst(host: str, sources: list[str], count: int) -> None:
    """From each of our addresses ``sources`` to ``host``; says how many packets were given to the kernel."""
    sent = 0
    version = 6 if ":" in host else 4
    kind, protocol = _ECHO[version]
    for source in sources:
        for number in range(min(count, MAX_COUNT)):
            with (
                socket.socket(family_of(host), socket.SOCK_DGRAM) as datagram,
                socket.socket(family_of(host), socket.SOCK_STREAM) as stream,
                socket.socket(family_of(host), socket.SOCK_RAW, protocol) as echo,
            ):
                stream.setblocking(False)
                for link in (datagram, stream, echo):
                    link.bind((source, 0))
                with contextlib.suppress(OSError):
                    datagram.sendto(b"x", (host, PORT_BOTH))
                    sent += 1
                with contextlib.suppress(BlockingIOError):
                    stream.connect((host, PORT_UP))
                sent += 1
                message = struct.pack("!BBHHH", kind, 0, 0, 77, number)
                # The kernel makes the checksum for IPv6 only (RFC 3542 section 3.1).
                message = message if version == 6 else message[:2] + checksum(message) + message[4:]
                with contextlib.suppress(OSError):
                    echo.sendto(message, (host, 0))
                    sent += 1
                time.sleep(0.002)
    say(sent=sent)


def checksum(message: bytes) -> bytes:
    """RFC 1071; of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total >> 16) + (total & 0xFFFF)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


# -- names -----------------------------------------------------------------------------------------


def attempts(names: list[str], dns: str, port: int = 443, *, again: bool = True) -> None:
    """One name after the other, IPv4 and IPv6 in turn; says how many had an address.

    ``again``: then all addresses once more, without asking, as programs do that keep what they heard.
    """
    found: list[str] = []
    with socket.socket(family_of(dns), socket.SOCK_DGRAM) as asking:
        asking.settimeout(2)
        asking.connect((dns, 53))
        for number, name in enumerate(names[:MAX_COUNT]):
            address = lookup(asking, name, TYPE_AAAA if number % 2 else TYPE_A)
            if address:
                _knock(address, port)
                found.append(address)
    if again:
        for address in found:
            _knock(address, port)
            time.sleep(0.001)
    say(asked=len(names), found=len(found))


def _knock(address: str, port: int) -> None:
    with (
        socket.socket(family_of(address), socket.SOCK_DGRAM) as datagram,
        socket.socket(family_of(address)) as stream,
    ):
        stream.setblocking(False)
        with contextlib.suppress(OSError):
            datagram.sendto(b"x", (address, port))
        with contextlib.suppress(OSError):
            stream.connect((address, port))
        select.select([], [stream], [], 0.002)  # until it is refused


def handshakes(host: str, names: list[str], count: int, rate: float, dns: str = "", port: int = 443) -> None:
    """``count`` TLS handshakes with ``host``; says for each name how long each took, and our ports.

    ``dns``: each of the names is looked up first, once.
    """
    context = ssl.create_default_context()
    if dns:
        with socket.socket(family_of(dns), socket.SOCK_DGRAM) as asking:
            asking.settimeout(2)
            asking.connect((dns, 53))
            for name in names:
                lookup(asking, name, TYPE_AAAA if ":" in host else TYPE_A)
    told: dict[str, dict[str, Any]] = {name: {"took": [], "failed": 0, "ports": []} for name in names}
    start = time.monotonic()
    for number in range(min(count, MAX_COUNT)):
        pace(start, number, rate)
        name = names[number % len(names)]
        with socket.socket(family_of(host)) as link:
            link.settimeout(2)
            before = time.perf_counter_ns()
            try:
                link.connect((host, port))
                told[name]["ports"].append(link.getsockname()[1])
                with context.wrap_socket(link, server_hostname=name):
                    told[name]["took"].append(time.perf_counter_ns() - before)
            except OSError:  # which ssl's errors are, too
                told[name]["failed"] += 1
    say(names=told)


def client_hello(name: str) -> bytes:
    """What a client sends first."""
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def pull(host: str, name: str, size: int, times: int = 1) -> None:
    """Take ``size`` bytes, ``times`` times; says the seconds of each."""
    took = []
    buffer = bytearray(1 << 20)
    for _ in range(times):
        with socket.create_connection((host, PORT_DOWN), timeout=30) as link:
            start = time.monotonic()
            link.sendall(client_hello(name))
            got = 0
            while count := link.recv_into(buffer, len(buffer), socket.MSG_TRUNC):
                got += count
            took.append(time.monotonic() - start if got == size else 0.0)
    say(took=took)


def lookups(names: list[str], dns: str, rate: float) -> None:
    """Queries one by one; says how long each took that was answered."""
    took = []
    with socket.socket(family_of(dns), socket.SOCK_DGRAM) as link:
        link.settimeout(2)
        link.connect((dns, 53))
        start = time.monotonic()
        for number, name in enumerate(names[:MAX_COUNT]):
            pace(start, number, rate)
            before = time.perf_counter_ns()
            link.send(build_query(name, TYPE_A, number & 0xFFFF))
            with contextlib.suppress(TimeoutError):
                link.recv(4096)
                took.append(time.perf_counter_ns() - before)
    say(took=took)


def flood(dns: str, count: int, plain: str, special: str, every: int, window: int = 64) -> None:
    """``count`` queries for ``plain`` and ``special`` names, whose ``{}`` is a number; says what became of
    them. What is not answered within a second is lost."""
    links = [socket.socket(family_of(dns), socket.SOCK_DGRAM) for _ in range(8)]
    poll = select.epoll()
    for link in links:
        link.setblocking(False)
        link.connect((dns, 53))
        poll.register(link, select.EPOLLIN)
    by_number = {link.fileno(): link for link in links}
    sent = answered = 0
    start = last = time.monotonic()
    while answered < count and time.monotonic() - last < 1:
        while sent < min(count, MAX_COUNT) and sent - answered < window:
            special_one = sent % every == 0
            name = special.format(sent // every) if special_one else plain.format(sent)
            links[sent % 8].send(build_query(name, TYPE_A, sent // 8 & 0xFFFF))
            sent += 1
        for number, _ in poll.poll(0.1):
            with contextlib.suppress(BlockingIOError):
                while by_number[number].recv(4096):
                    answered += 1
                    last = time.monotonic()
    say(sent=sent, answered=answered, seconds=last - start)


ROLES: dict[str, Callable[..., None]] = {
    "serve": serve,
    "run": run,
    "burst": burst,
    "attempts": attempts,
    "handshakes": handshakes,
    "pull": pull,
    "lookups": lookups,
    "flood": flood,
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](**json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}"))
