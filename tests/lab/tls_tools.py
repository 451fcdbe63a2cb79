# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS clients, resolvers and a wire tap for tests of blocked names.

Sockets belong to the namespace in which they were made, so that this process holds the clients of all
devices, a name server of the internet and the tap on the internet's only link: what the tap has not seen
no server got.
"""

import contextlib
import functools
import itertools
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import dns.message
import dns.rrset

from spind.lab import Lab, plan
from spind.lab.node import Node
from spind.lab.patience import patient
from spind.lab.resolver import Answer, build_query, parse_answer
from spind.wire.errors import WireError
from spind.wire.packet import Packet, parse_ip

PATIENCE = 10.0
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
CDN = {4: plan.CDN[0], 6: plan.CDN[1]}
RESOLVER = {4: plan.GATEWAY4, 6: plan.GATEWAY6}
_FREEBIND = {4: (socket.IPPROTO_IP, 15), 6: (socket.IPPROTO_IPV6, 78)}  # linux/in.h, linux/in6.h
_PACKET_OUTGOING = 4  # linux/if_packet.h
_ETH_P_ALL = 3
_TYPES = {4: 1, 6: 28, "HTTPS": 65}

_idents = itertools.count(1)
_marks = itertools.count(1)


def wait_for(good: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Look until something is so, and return that; fail when patience ends."""
    deadline = time.monotonic() + patient(seconds)
    while not (found := good()):
        assert time.monotonic() < deadline, f"never came: {what}"
        select.select([], [], [], 0.005)
    return found


class Tap:
    """All packets that reach the internet, in order, each with the time as ``time.time`` has it."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.packets: list[tuple[float, Packet]] = []
        self._socket: socket.socket = lab.internet.call(self._open)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        # asm-generic/socket.h: SO_RCVBUFFORCE, SO_TIMESTAMPNS. When we read it says nothing.
        sock.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)
        sock.setsockopt(socket.SOL_SOCKET, 35, 1)
        sock.bind((plan.INTERNET_INTERFACE, _ETH_P_ALL))
        return sock

    def _run(self) -> None:
        while not self._stop.is_set():
            if not select.select([self._socket], [], [], 0.1)[0]:
                continue
            data, control, _, (_, _, kind, *_) = self._socket.recvmsg(70_000, 64)
            if kind != _PACKET_OUTGOING:
                seconds, nanoseconds = struct.unpack("=qq", control[0][2])
                with contextlib.suppress(WireError):
                    self.packets.append((seconds + nanoseconds / 1e9, parse_ip(data)))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def settle(self) -> None:
        """Wait until a packet sent now by the gateway has come, and so all before it."""
        mark = f"mark {next(_marks)}".encode()

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(mark, (plan.server4(200), 9))

        self._lab.gateway.call(send)
        wait_for(lambda: any(mark == packet.payload for _, packet in list(self.packets)), "the mark")

    def to(self, *addresses: str, since: float = 0.0, proto: int = 6) -> list[Packet]:
        """What has come to these addresses (all, if none is given)."""
        wanted = {socket.inet_pton(FAMILY[6 if ":" in text else 4], text) for text in addresses}
        return [
            packet
            for moment, packet in list(self.packets)
            if moment >= since and packet.proto == proto and (not wanted or packet.dst in wanted)
        ]

    def data(self, *addresses: str, since: float = 0.0) -> list[tuple[int, bytes]]:
        """TCP payload that has come to them: port of the sender, and its first bytes."""
        found = self.to(*addresses, since=since)
        return [(packet.sport, packet.payload[:300]) for packet in found if packet.payload]

    def clear(self) -> None:
        """Forget what has come until now."""
        self.settle()
        self.packets.clear()


def ask(
    device: Node,
    name: str,
    kind: int | str = 4,
    *,
    server: str = plan.GATEWAY4,
    tcp: bool = False,
) -> Answer:
    """What the name server tells the device: ``kind`` 4 for A, 6 for AAAA."""
    number = next(_idents) & 0xFFFF
    query = build_query(name, _TYPES[kind], number)
    version = 6 if ":" in server else 4

    def exchange() -> bytes:
        with socket.socket(FAMILY[version], socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
            sock.settimeout(patient(5))
            sock.connect((server, 53))
            if not tcp:
                sock.send(query)
                return sock.recv(65_535)
            sock.sendall(struct.pack("!H", len(query)) + query)
            with sock.makefile("rb") as stream:
                return stream.read(int.from_bytes(stream.read(2)))

    return parse_answer(device.call(exchange), number)


def resolve(device: Node, name: str, version: int = 4, **options: Any) -> str:
    """The first address of a name."""
    return ask(device, name, version, **options).addresses[0]


def context() -> ssl.SSLContext:
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


_CONTEXT = context()
_LONG = context()
_LONG.set_alpn_protocols(["http/1.1", *(f"protocol-{n:03}/{'x' * 40}" for n in range(50))])


class Client:
    """A TCP connection of a device, over which TLS is spoken in pieces as small as one likes.

    ``long`` makes the hello longer than a segment, as post-quantum key shares do.
    """

    def __init__(
        self, device: Node, address: str, name: str | None, port: int = 443, *, long: bool = False
    ) -> None:
        version = 6 if ":" in address else 4
        self.name = name
        self.socket: socket.socket = device.call(lambda: socket.socket(FAMILY[version], socket.SOCK_STREAM))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(patient(PATIENCE))
        self.begun = time.monotonic()
        try:
            self.socket.connect((address, port))
        except OSError:
            self.socket.close()
            raise
        self.port = self.socket.getsockname()[1]
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        chosen = _LONG if long else _CONTEXT
        self.tls = chosen.wrap_bio(self._in, self._out, server_hostname=name)
        self._step(self.tls.do_handshake)
        self.hello = self._out.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @staticmethod
    def _step(work: Callable[[], Any]) -> Any:
        try:
            return work()
        except ssl.SSLWantReadError:
            return None

    def _pump(self, work: Callable[[], Any]) -> Any:
        """Do ``work`` with as much reading as it takes."""
        while True:
            done, wanted = None, False
            try:
                done = work()
            except ssl.SSLWantReadError:
                wanted = True
            if self._out.pending:
                self.socket.sendall(self._out.read())
            if not wanted:
                return done
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionResetError("the server has closed")
            self._in.write(data)

    def send_hello(self, size: int = 1 << 16, pause: float = 0.0) -> None:
        for start in range(0, len(self.hello), size):
            self.socket.sendall(self.hello[start : start + size])
            if pause:
                select.select([], [], [], pause)

    def handshake(self, size: int = 1 << 16, pause: float = 0.0) -> float:
        """Say hello and finish; seconds since the connection was begun."""
        self.send_hello(size, pause)
        self._pump(self.tls.do_handshake)
        return time.monotonic() - self.begun

    def request(self, count: int) -> None:
        """Ask for so many bytes."""
        head = f"GET /bytes/{count} HTTP/1.1\r\nHost: {self.name or 'x'}\r\n\r\n"
        self._pump(lambda: self.tls.write(head.encode()))

    def read(self, count: int) -> int:
        """Read so many bytes, or what there is before the end."""
        left = count
        while left and (got := self._pump(functools.partial(self.tls.read, min(1 << 18, left)))):
            left -= len(got)
        return count - left

    def fetch(self, count: int = 5000) -> int:
        """Bytes of an answer that has so many and a head, of which so many are read."""
        self.request(count)
        return self.read(count)


def mask(client: Client) -> None:
    """Add an encrypted_client_hello extension (RFC 9849) to the hello, as if its name were an outer one."""
    body = bytearray(client.hello[5:])
    at = 4 + 2 + 32  # RFC 8446 4.1.2: header, version, random
    at += 1 + body[at]  # session id
    at += 2 + int.from_bytes(body[at : at + 2])  # cipher suites
    at += 1 + body[at]  # compression methods
    extension = struct.pack("!HH", 0xFE0D, 40) + bytes(40)
    body[at : at + 2] = (int.from_bytes(body[at : at + 2]) + len(extension)).to_bytes(2)
    body += extension
    body[1:4] = (len(body) - 4).to_bytes(3)
    client.hello = client.hello[:3] + len(body).to_bytes(2) + bytes(body)


def refused(client: Client, size: int = 1 << 16, pause: float = 0.0) -> float:
    """Say hello; seconds until the connection was reset. Fails where it was not."""
    begun = time.monotonic()
    try:
        client.handshake(size, pause)
    except (ConnectionResetError, BrokenPipeError):
        return time.monotonic() - begun
    raise AssertionError(f"{client.name} was reached")


def shoot(device: Node, targets: Callable[[], Iterator[tuple[str, int]]]) -> int:
    """Begin a TCP connection to each target, as ``targets``, which runs in the namespace, gives it; how
    many. Only the first SYN of each is sent."""

    def run() -> int:
        count = 0
        for address, port in targets():
            with socket.socket(FAMILY[6 if ":" in address else 4], socket.SOCK_STREAM) as sock:
                sock.setblocking(False)
                sock.connect_ex((address, port))
            count += 1
        return count

    return device.call(run)


class NameServer:
    """A name server of the internet whose answers are all different: ``answer`` makes them of the query.

    Over UDP and TCP.
    """

    def __init__(
        self, lab: Lab, address: str, answer: Callable[[str, str, int], list[tuple[str, str, str]]], ttl: int
    ) -> None:
        """``answer`` gives (owner, type, content) for (name, type, number of the query)."""
        self.address = address
        self._answer = answer
        self._ttl = ttl
        self._count = itertools.count()
        version = 6 if ":" in address else 4
        self._udp, self._tcp = lab.internet.call(lambda: self._open(version))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _open(self, version: int) -> tuple[socket.socket, socket.socket]:
        udp = socket.socket(FAMILY[version], socket.SOCK_DGRAM)
        tcp = socket.socket(FAMILY[version], socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for sock in (udp, tcp):
            # The internet's addresses are local by a route, not by being configured.
            sock.setsockopt(*_FREEBIND[version], 1)
            sock.bind((self.address, 53))
        tcp.listen(16)
        return udp, tcp

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._udp.close()
        self._tcp.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for ready in select.select([self._udp, self._tcp], [], [], 0.1)[0]:
                if ready is self._udp:
                    data, peer = self._udp.recvfrom(4096)
                    self._udp.sendto(self._reply(data), peer)
                else:
                    self._serve(self._tcp.accept()[0])

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(patient(5))
            with sock.makefile("rb") as stream:
                reply = self._reply(stream.read(int.from_bytes(stream.read(2))))
            sock.sendall(struct.pack("!H", len(reply)) + reply)

    def _reply(self, data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        question = query.question[0]
        reply = dns.message.make_response(query)
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        for owner, what, content in self._answer(name, kind, next(self._count)):
            reply.answer.append(dns.rrset.from_text(f"{owner}.", self._ttl, "IN", what, content))
        return reply.to_wire(max_size=65_535)


def udp_exchange(device: Node, address: str, port: int) -> str:
    """``answer``, ``refused`` (an ICMP error) or ``silence`` for a datagram that is echoed."""

    def run() -> str:
        with socket.socket(FAMILY[6 if ":" in address else 4], socket.SOCK_DGRAM) as sock:
            sock.settimeout(patient(2))
            sock.connect((address, port))
            try:
                sock.send(b"ping")
                return "answer" if sock.recv(100) == b"ping" else "nonsense"
            except TimeoutError:
                return "silence"
            except OSError:
                return "refused"

    return device.call(run)
