# SPDX-License-Identifier: GPL-2.0-or-later
"""Attempts without an end, and a watch on the internet's side that sees each one that gets there.

For tests of what happens to blocking while something else happens to the daemon or its rules.
"""

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple, Self

from capture_net import IN_VM, inside
from spind_home import Home

from spind.client import ClientError
from spind.lab import plan
from spind.lab.node import wait_until
from spind.lab.patience import patient
from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, parse_address

EVERY = 0.01 * patient(1)
"""Seconds between two attempts of one kind."""

ROUNDS = 6 if IN_VM else 20
"""Attempts of each kind that something is watched for: an emulated processor has enough with a few."""

PORT = 7907
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
_STREAMS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ETH_P_ALL = 3
_RST = 4
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_KINDS = {IPPROTO_ICMPV6: "icmp", IPPROTO_ICMP: "icmp", IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp"}
_identifiers = itertools.count(1)


class Arrival(NamedTuple):
    """When (Unix time) which kind of packet came: udp, icmp, tcp, reset (of TCP), other."""

    time: float
    kind: str


class Watch:
    """What arrives at the internet's door, by destination. Seen before any rule of that machine."""

    def __init__(self, home: Home) -> None:
        with inside(home.lab.internet.namespace):
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._sock.bind((plan.INTERNET_INTERFACE, _ETH_P_ALL))
        self._sock.settimeout(0.1)
        self._seen: dict[bytes, list[Arrival]] = defaultdict(list)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        received, dropped = struct.unpack("=II", self._sock.getsockopt(263, 6, 8))  # PACKET_STATISTICS
        self._sock.close()
        assert dropped == 0, f"the watch missed packets, saw {received}"

    def _read(self) -> None:
        while not self._ended.is_set():
            try:
                data, extra, _, where = self._sock.recvmsg(64, 64)
            except TimeoutError:
                continue
            if where[2] == socket.PACKET_OUTGOING:
                continue
            version = data[0] >> 4
            to, proto = (data[16:20], data[9]) if version == 4 else (data[24:40], data[6])
            seconds, nanoseconds = struct.unpack("@qq", extra[0][2])
            kind = _KINDS.get(proto, "other")
            head = (data[0] & 15) * 4 if version == 4 else 40
            if kind == "tcp" and data[head + 13] & _RST:
                kind = "reset"
            self._seen[to].append(Arrival(seconds + nanoseconds / 1e9, kind))

    def arrivals(self, address: str, since: float = 0.0) -> list[Arrival]:
        """Packets to ``address`` since a Unix time."""
        return [each for each in list(self._seen[parse_address(address)]) if each.time >= since]


def longest_gap(arrivals: list[Arrival], kind: str, begin: float, end: float) -> float:
    """Seconds for which none of ``kind`` came, at most, between two times."""
    times = [begin, *(each.time for each in arrivals if each.kind == kind and begin <= each.time <= end), end]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


class Attempts:
    """A device tries to reach ``address`` all the time: one UDP flow, ICMP, and new TCP connections."""

    def __init__(self, home: Home, device: str, address: str) -> None:
        self.address = address
        self.sent = 0
        self._version = 6 if ":" in address else 4
        self._namespace = home.lab.device(device).namespace
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def go_on(self, rounds: int = ROUNDS) -> None:
        """Wait until so many more attempts of each kind have been made."""
        enough = self.sent + rounds
        wait_until(lambda: self.sent >= enough, 10 + rounds * EVERY, f"{rounds} attempts", interval=EVERY / 2)

    def _run(self) -> None:
        family, number = _FAMILY[self._version], next(_identifiers)
        icmp = socket.IPPROTO_ICMP if self._version == 4 else socket.IPPROTO_ICMPV6
        with inside(self._namespace), contextlib.ExitStack() as stack:
            udp = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            ping = stack.enter_context(socket.socket(family, socket.SOCK_RAW, icmp))
            for sock in (udp, ping):
                sock.setblocking(False)
            due = time.monotonic()
            while not self._ended.wait(max(0.0, due - time.monotonic())):
                due = max(due + EVERY, time.monotonic() - 10 * EVERY)
                echo = _echo(self._version, number, self.sent & 0xFFFF)
                # Errors are those of earlier attempts: refused, unreachable.
                for send in (
                    lambda: udp.sendto(b"attempt", (self.address, PORT)),
                    lambda: ping.sendto(echo, (self.address, 0)),  # noqa: B023 - called at once
                    lambda: self._connect(family),
                ):
                    with contextlib.suppress(OSError):
                        send()
                self.sent += 1

    def _connect(self, family: int) -> None:
        """The first packet of a connection; its end is a reset, or nothing."""
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.connect_ex((self.address, PORT))


def _echo(version: int, ident: int, sequence: int) -> bytes:
    kind = 8 if version == 4 else 128
    head = struct.pack("!BBHHH", kind, 0, 0, ident, sequence)
    total = sum(struct.unpack("!4H", head))  # for ICMPv6, the kernel does it
    total = (total & 0xFFFF) + (total >> 16)
    return head[:2] + struct.pack("!H", ~total & 0xFFFF) + head[4:]


@contextlib.contextmanager
def attempting(home: Home, *attempts: tuple[str, str]) -> Iterator[list[Attempts]]:
    """Attempts of (device, address) pairs, while the block lasts."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Attempts(home, device, address)) for device, address in attempts]


class Running:
    """A TCP connection and a UDP flow between a device and ``address``, both ways all the time."""

    def __init__(self, home: Home, device: str, address: str) -> None:
        self.address = address
        self.arrived = 0.0
        """When the last datagram was sent that the device has received."""
        self.rounds = 0
        self._stack = contextlib.ExitStack()
        self._udp, self._tcp = (self._open(home.lab.device(device).namespace, kind) for kind in _STREAMS)
        self._server, self._listener = (self._open(home.lab.internet.namespace, kind) for kind in _STREAMS)
        for sock in (self._server, self._listener):
            # The address is the machine's by its routes alone.
            level, option = (
                (socket.IPPROTO_IPV6, _IPV6_FREEBIND) if ":" in address else (socket.IPPROTO_IP, _IP_FREEBIND)
            )
            sock.setsockopt(level, option, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, PORT))
        self._listener.listen(4)
        self._peer: socket.socket | None = None
        self._name: object = None
        self._received = {"tcp up": 0, "tcp down": 0}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _open(self, namespace: str, kind: socket.SocketKind) -> socket.socket:
        with inside(namespace):
            sock = self._stack.enter_context(socket.socket(_FAMILY[6 if ":" in self.address else 4], kind))
        sock.setblocking(False)
        return sock

    def __enter__(self) -> Self:
        self._tcp.connect_ex((self.address, PORT))
        self._thread.start()
        try:
            wait_until(lambda: self.arrived and all(self._received.values()), 20, "both ways to be open")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._stack.close()

    def go_on(self, rounds: int = ROUNDS) -> None:
        """Wait until so many more packets of each kind were sent each way, or tried to."""
        enough = self.rounds + rounds
        wait_until(
            lambda: self.rounds >= enough, 10 + rounds * EVERY, f"{rounds} packets", interval=EVERY / 2
        )

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due = max(due + EVERY, time.monotonic() - 10 * EVERY)
            stamp = struct.pack("!d", time.time())
            # Errors are refusals, and buffers that are full since nothing arrives.
            for step in (self._accept, self._up, self._down, lambda: self._datagrams(stamp)):  # noqa: B023
                with contextlib.suppress(OSError):
                    step()
            self.rounds += 1

    def _accept(self) -> None:
        if self._peer is None:
            self._peer = self._stack.enter_context(self._listener.accept()[0])
            self._peer.setblocking(False)

    def _up(self) -> None:
        self._tcp.send(bytes(200))
        if self._peer is not None:
            self._received["tcp up"] += len(self._peer.recv(65536))

    def _down(self) -> None:
        if self._peer is not None:
            self._peer.send(bytes(200))
            self._received["tcp down"] += len(self._tcp.recv(65536))

    def _datagrams(self, stamp: bytes) -> None:
        self._udp.sendto(stamp, (self.address, PORT))
        if self._name is not None:
            self._server.sendto(stamp, self._name)
        for sock in (self._server, self._udp):
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, name = sock.recvfrom(64)
                    if sock is self._server:
                        self._name = name
                    else:
                        self.arrived = max(self.arrived, *struct.unpack("!d", data))


def again(home: Home) -> None:
    """Start the daemon with its configuration as it is by now."""
    gateway, config = home.lab.gateway, home.spind.config
    gateway.start("spind", gateway.python("spind", "run", "-c", config))
    wait_until(lambda: _answers(home), 15, "spind's first answer")


def _answers(home: Home) -> bool:
    home.lab.gateway.check("spind")
    try:
        home.call("status")
    except ClientError:
        return False
    return True
