# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations and streams in a lab, for tests of blocking with the whole daemon.

Both ends of each are sockets of this process, made inside the namespaces of a lab. Where something must
not arrive, a test waits until spind says that the kernel has blocked a packet: then it has been judged.
"""

import contextlib
import itertools
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from errno import EACCES, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EINPROGRESS, ENETUNREACH
from typing import Any, Self

from spind_home import Home

from spind.lab import netns
from spind.lab.node import Device, Node
from spind.lab.patience import patient

PATIENCE = 5.0
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
FREEBIND = {4: (socket.IPPROTO_IP, 15), 6: (socket.IPPROTO_IPV6, 78)}  # linux/in.h, linux/in6.h
REFUSED = (ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EACCES, ENETUNREACH)
"""Errors by which a device hears that something is blocked."""

ABORT = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""Closing leaves nothing behind that is sent again later, when another test has begun."""

PROTOCOLS = ("tcp", "udp", "icmp")

_tokens = itertools.count(1)
_ports = itertools.count(20_000)


def fresh_port() -> int:
    """A port that no other conversation of this process has."""
    return next(_ports)


def wait_for(good: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Look until something is so, and return that; fail when patience ends."""
    deadline = time.monotonic() + patient(seconds)
    while not (found := good()):
        assert time.monotonic() < deadline, f"never came: {what}"
        select.select([], [], [], 0.005)
    return found


def heard_of_it(home: Home, talk: "Talk", size: int = 0) -> None:
    """A conversation that has been blocked has ended, and TCP hears so by itself."""
    before = blocked_packets(home)
    if talk.service.proto == "tcp":
        assert talk.error(1) == ECONNRESET, "at once, whether it has anything to say or not"
        return
    talk.send(size)
    wait_for(lambda: blocked_packets(home) > before, "a packet that is blocked")


def readable(sock: socket.socket, seconds: float) -> bool:
    return bool(select.select([sock], [], [], seconds)[0])


def blocked_packets(home: Home) -> int:
    """Packets that spind says the kernel has blocked, however they were: refused, cut, bridged."""
    blocking = home.call("status")["blocking"]
    return sum(int(blocking.get(name, 0)) for name in ("packets", "cut", "between"))


class Service:
    """A port of a machine on which somebody listens."""

    def __init__(self, node: Node, address: str, proto: str, port: int) -> None:
        self.address, self.proto, self.port = address, proto, port
        self.version = 6 if ":" in address else 4
        self.socket: socket.socket | None = None
        if proto == "icmp":
            return
        kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        self.socket = node.call(lambda: socket.socket(FAMILY[self.version], kind))
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The internet's addresses are local by a route, not by being configured.
        self.socket.setsockopt(*FREEBIND[self.version], 1)
        try:
            self.socket.bind((address, port))
            if proto == "tcp":
                self.socket.listen(16)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()


class Talk:
    """A conversation of a machine with a service, of tokens that are different each time."""

    def __init__(
        self,
        node: Node,
        service: Service,
        source: str = "",
        options: tuple[tuple[int, int, bytes | int], ...] = (),
    ) -> None:
        """``source`` is the address to speak from; ``options`` are set on the socket first."""
        self.service = service
        self._stack = contextlib.ExitStack()
        self._peer: socket.socket | None = None
        self._name: Any = None  # of the caller, as the service sees it
        self._token = b""
        self._ident = next(_tokens) & 0xFFFF
        kind, number = {
            "tcp": (socket.SOCK_STREAM, 0),
            "udp": (socket.SOCK_DGRAM, 0),
            "icmp": (socket.SOCK_RAW, socket.IPPROTO_ICMP if service.version == 4 else socket.IPPROTO_ICMPV6),
        }[service.proto]
        self.near = node.call(lambda: socket.socket(FAMILY[service.version], kind, number))
        self._stack.enter_context(self.near)
        self.near.setblocking(False)
        self.near.setsockopt(*ABORT)
        for level, name, value in options:
            self.near.setsockopt(level, name, value)
        if source:
            self.near.setsockopt(*FREEBIND[service.version], 1)
            self.near.bind((source, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def begin(self) -> None:
        """The caller's first packet."""
        service = self.service
        if service.proto == "tcp":
            assert self.near.connect_ex((service.address, service.port)) in (0, EINPROGRESS, *REFUSED)
            return
        if service.proto == "udp":
            self.near.connect((service.address, service.port))
        self.send()

    def send(self, size: int = 0) -> None:
        """Another packet of the caller; an error that was waiting is the answer to an earlier one."""
        self._token = b"%016d" % next(_tokens)
        self._token += bytes(max(0, size - len(self._token)))
        with contextlib.suppress(OSError):
            if self.service.proto != "icmp":
                self.near.send(self._token)
            else:
                self._ping()

    def _ping(self) -> None:
        request = 8 if self.service.version == 4 else 128
        body = struct.pack("!HH", self._ident, int(self._token[:16]) & 0xFFFF) + self._token
        words = struct.unpack(f"!{len(body) // 2}H", body)
        total = (request << 8) + sum(words)
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)  # for ICMPv6, the kernel does it
        head = struct.pack("!BBH", request, 0, total ^ 0xFFFF)
        self.near.sendto(head + body, (self.service.address, 0))

    def answer(self) -> None:
        """A packet of the service, in a conversation that was established; none of its own in ICMP."""
        with contextlib.suppress(OSError):
            if self._peer is not None:
                self._peer.send(b"down")
            elif self._name is not None and self.service.socket is not None:
                self.service.socket.sendto(b"down", self._name)

    def heard(self, seconds: float = PATIENCE) -> bool:
        """Does the packet that was sent last arrive, and its answer come back, within ``seconds``?"""
        deadline = time.monotonic() + patient(seconds)
        return self._arrives(deadline) and self._answered(deadline)

    def establish(self, seconds: float = PATIENCE) -> Self:
        """A packet each way."""
        self.begin()
        if self.service.proto == "tcp":
            assert self.service.socket is not None
            assert readable(self.service.socket, patient(seconds)), "no connection"
            peer, self._name = self.service.socket.accept()
            self._peer = self._stack.enter_context(peer)
            peer.setblocking(False)
            peer.setsockopt(*ABORT)
            self.send()
        assert self.heard(seconds), f"no answer from {self.service.address} over {self.service.proto}"
        return self

    def exchange(self, seconds: float = PATIENCE) -> None:
        """A packet each way in a conversation that was established."""
        self.send()
        assert self.heard(seconds), f"no answer from {self.service.address} over {self.service.proto}"

    def error(self, seconds: float = PATIENCE) -> int:
        """The error by which the caller hears that it is blocked; 0 where none comes, or an answer."""
        if not readable(self.near, patient(seconds)):
            return 0
        return self.near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def _arrives(self, deadline: float) -> bool:
        if self.service.proto == "icmp":
            return True
        far = self._peer if self._peer is not None else self.service.socket
        assert far is not None
        got = b""
        while True:
            ready, _, _ = select.select([far, self.near], [], [], max(0.0, deadline - time.monotonic()))
            if far not in ready:
                return False  # in vain, or the caller has heard that it is blocked
            try:
                data, name = far.recvfrom(1 << 16)
            except OSError:
                return False
            got = got + data if self.service.proto == "tcp" else data
            if got.endswith(self._token):
                if self.service.proto == "udp":
                    self._name = name
                return True

    def _answered(self, deadline: float) -> bool:
        self.answer()
        wanted = b"down"
        if self.service.proto == "icmp":
            reply, skip = (0, 20) if self.service.version == 4 else (129, 0)
            wanted = self._token
        while readable(self.near, max(0.0, deadline - time.monotonic())):
            try:
                data = self.near.recv(1 << 16)
            except OSError:
                return False
            if self.service.proto == "icmp" and (data[skip : skip + 1] != bytes([reply])):
                continue
            if data.endswith(wanted):
                return True
            if not data:
                return False
        return False


class Stream:
    """Packets in one direction as fast as it goes (TCP), or ``rate`` a second (UDP), until it is closed.

    ``error`` is what ended the caller's side, ``ended`` when that was (monotonic seconds).
    """

    def __init__(self, node: Node, service: Service, *, down: bool, rate: float = 1000) -> None:
        self._talk = Talk(node, service)
        self._talk.establish()
        near, far = self._talk.near, self._talk._peer or service.socket
        assert far is not None
        self._near, self._far, self._down, self._rate = near, far, down, rate
        self.error = 0
        self.ended = 0.0
        self.moved = 0
        self._closing = threading.Event()
        body = self._tcp if service.proto == "tcp" else self._udp
        self._threads = [threading.Thread(target=body, args=(near, not down))]
        if service.proto == "tcp":
            self._threads.append(threading.Thread(target=body, args=(far, down)))
        elif down:
            self._threads = [threading.Thread(target=body, args=(far, True))]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._talk.close()

    def _tcp(self, sock: socket.socket, sends: bool) -> None:
        block = bytes(1 << 16)
        try:
            while not self._closing.is_set():
                ready = select.select([] if sends else [sock], [sock] if sends else [], [], 0.05)
                if not any(ready):
                    continue
                count = sock.send(block) if sends else len(sock.recv(1 << 16))
                if not count:
                    return
                if sock is self._near:
                    self.moved += count
        except OSError as error:
            if sock is self._near:
                self.error, self.ended = error.errno or 0, time.monotonic()

    def _udp(self, sock: socket.socket, _sends: bool) -> None:
        # It goes on whatever happens: errors are those of packets before.
        begun, number = time.monotonic(), 0
        while not self._closing.is_set():
            number += 1
            try:
                if sock is self._near:
                    sock.send(b"stream %d" % number)
                else:
                    sock.sendto(b"stream %d" % number, self._talk._name)
                self.moved += 1
            except OSError as error:
                self.error = error.errno or 0
            self._closing.wait(max(0.0, begun + number / self._rate - time.monotonic()))


def add_address(node: Device, address: str, *, detection: bool = False) -> None:
    """Give a device one more address; without duplicate address detection it can use it at once."""
    bits, nodad = (64, "" if detection else " nodad") if ":" in address else (24, "")
    netns.ip_batch([f"addr add {address}/{bits} dev eth0{nodad}"], node.namespace)


def remove_address(node: Device, address: str) -> None:
    bits = 64 if ":" in address else 24
    netns.ip_batch([f"addr del {address}/{bits} dev eth0"], node.namespace)


def leases(node: Device) -> int:
    """Leases that the device's DHCP client has got, first ones and renewals."""
    return node.log_file("udhcpc").read_text().count("ease of ")


def renew(node: Device) -> None:
    """Have its DHCP client renew its lease (udhcpc: SIGUSR1)."""
    pid = node.pid("udhcpc")
    assert pid is not None
    os.kill(pid, signal.SIGUSR1)


@contextlib.contextmanager
def wan_open(home: Home) -> Iterator[None]:
    """The gateway's firewall lets connections from the internet in, meanwhile (IPv6 has no NAT)."""
    gateway = home.lab.gateway
    rule = ["nft", "-e", "-a", "insert", "rule", "inet", "lab_fw", "forward", "iifname", "wan", "accept"]
    handle = gateway.run(rule).stdout.rpartition("handle ")[2].split()[0]
    try:
        yield
    finally:
        gateway.run(["nft", "delete", "rule", "inet", "lab_fw", "forward", "handle", handle])


def quiet_limits(home: Home) -> None:
    """A device gets about one ICMP error a second; a test needs every one."""
    limits = {"net.ipv4.icmp_ratelimit": "0", "net.ipv6.icmp.ratelimit": "0"}
    netns.write_sysctls(home.lab.gateway.namespace, limits)
