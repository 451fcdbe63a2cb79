# SPDX-License-Identifier: GPL-2.0-or-later
"""Two devices on the bridge of a gateway, and a host on the internet, for tests of blocking.

All of it is in namespaces of its own. Both ends of every conversation are sockets of this process;
what arrives somewhere is seen by a packet socket there, beside and before any rule.
"""

import contextlib
import itertools
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from errno import EINPROGRESS
from typing import Any, Self

from capture_net import FAMILY, PATIENCE, inside, set_net, tool

from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, parse_mac
from spind.wire.netlink import attribute_map, messages
from spind.wire.packet import Packet, parse_ip

MACS = {"one": parse_mac("02:0a:00:00:00:01"), "two": parse_mac("02:0a:00:00:00:02")}
DEVICES = {
    "one": {4: "10.78.1.11", 6: "fd78:1::11"},
    "two": {4: "10.78.1.12", 6: "fd78:1::12"},
}
GATEWAY = {4: "10.78.1.1", 6: "fd78:1::1"}
BAD = {4: "203.0.113.7", 6: "2001:db8:bad::7"}
"""An address on the internet that rules are made for."""
BAD_PREFIX = {4: ("203.0.113.0", 24), 6: ("2001:db8:bad::", 48)}
GOOD = {4: "198.51.100.7", 6: "2001:db8:900d::7"}
"""Another."""

PORT, OTHER_PORT = 8000, 8001
RST = 4
ETH_P = {4: 0x0800, 6: 0x86DD}

QUIET = (
    "add table inet quiet; add chain inet quiet output { type filter hook output priority -200; };"
    "add rule inet quiet output icmpv6 type { 133, 143 } drop"
)

_numbers = itertools.count()


def wait_for(good: Callable[[], object], what: str) -> None:
    """Look until something is so; fail when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while not good():
        assert time.monotonic() < deadline, f"never came: {what}"
        select.select([], [], [], 0.002)


class BlockNet:
    """one, two --- lan [gateway] wan --- host, IPv4 and IPv6."""

    def __init__(self) -> None:
        stem = f"spbl{os.getpid()}n{next(_numbers)}"
        self.gateway, self.host = f"{stem}g", f"{stem}h"
        self.device = {name: f"{stem}{name}" for name in DEVICES}
        self._servers: dict[tuple[int, str, int, int], socket.socket] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for namespace in (self.gateway, self.host, *self.device.values()):
                tool("ip", "netns", "add", namespace)
                stack.callback(tool, "ip", "netns", "del", namespace, check=False)
                with inside(namespace):
                    set_net("ipv6/conf/default/accept_dad", "0")
                    tool("ip", "link", "set", "lo", "up")
            self._gateway("link", "add", "lan", "type", "bridge")
            self._gateway("link", "set", "lan", "up")
            for name, namespace in self.device.items():
                self._gateway("link", "add", f"p{name}", "type", "veth", "peer", "end", "netns", namespace)
                self._gateway("link", "set", f"p{name}", "master", "lan", "up")
                # Reports of multicast groups would be blocked, and counted, between what a test sends.
                with inside(namespace):
                    tool("nft", QUIET)
                tool("ip", "-n", namespace, "link", "set", "end", "address", MACS[name].hex(":"), "up")
            self._gateway("link", "add", "wan", "type", "veth", "peer", "end", "netns", self.host)
            self._gateway("link", "set", "wan", "up")
            tool("ip", "-n", self.host, "link", "set", "end", "up")
            self._addresses()
            with inside(self.gateway):
                set_net("ipv4/ip_forward", "1")
                set_net("ipv6/conf/all/forwarding", "1")
                # One address gets about one ICMP error a second; a test needs every one.
                set_net("ipv4/icmp_ratelimit", "0")
                set_net("ipv6/icmp/ratelimit", "0")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _gateway(self, *arguments: str) -> None:
        tool("ip", "-n", self.gateway, *arguments)

    def _addresses(self) -> None:
        for version, bits, outside in ((4, 24, "10.78.2.{}"), (6, 64, "fd78:2::{}")):
            self._gateway("addr", "add", f"{GATEWAY[version]}/{bits}", "dev", "lan")
            self._gateway("addr", "add", f"{outside.format(1)}/{bits}", "dev", "wan")
            self._gateway(f"-{version}", "route", "add", "default", "via", outside.format(2))
            for name, namespace in self.device.items():
                tool("ip", "-n", namespace, "addr", "add", f"{DEVICES[name][version]}/{bits}", "dev", "end")
                default = ("route", "add", "default", "via", GATEWAY[version])
                tool("ip", "-n", namespace, f"-{version}", *default)
            tool("ip", "-n", self.host, "addr", "add", f"{outside.format(2)}/{bits}", "dev", "end")
            route = ("route", "add", "default", "via", outside.format(1))
            tool("ip", "-n", self.host, f"-{version}", *route)
            for address in (BAD, GOOD):
                tool("ip", "-n", self.host, "addr", "add", address[version], "dev", "lo")

    def where(self, name: str) -> str:
        """The namespace of a device, of the gateway or of the host."""
        return {"gateway": self.gateway, "host": self.host, **self.device}[name]

    @contextlib.contextmanager
    def open(self, name: str, version: int, kind: int, protocol: int = 0) -> Iterator[socket.socket]:
        with inside(self.where(name)):
            sock = socket.socket(FAMILY[version], kind, protocol)
        with sock:
            sock.setblocking(False)
            yield sock

    def server(self, version: int, address: str, kind: int, port: int) -> socket.socket:
        """A socket of the host, as long as the network stands."""
        key = version, address, kind, port
        if key not in self._servers:
            sock = self._stack.enter_context(self.open("host", version, kind))
            sock.bind((address, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(16)
            self._servers[key] = sock
        return self._servers[key]


class Sniffer:
    """IP packets that arrive in a namespace, of one version."""

    def __init__(self, namespace: str, version: int, interface: str = "end") -> None:
        self._kind = ETH_P[version]
        with inside(namespace):
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(self._kind))
            self._sock.bind((interface, self._kind))
        self._sock.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def packets(self) -> list[Packet]:
        """What has arrived since the last time, but for neighbour discovery."""
        found = []
        while True:
            try:
                data, where = self._sock.recvfrom(65536)
            except BlockingIOError:
                return found
            if where[2] == socket.PACKET_HOST:
                packet = parse_ip(data)
                if packet.proto == IPPROTO_ICMPV6 and 133 <= packet.dport >> 8 <= 137:
                    continue
                found.append(packet)


class Talk:
    """A conversation that a device has with an address of the host, over one protocol."""

    def __init__(self, net: BlockNet, device: str, version: int, address: str, proto: str, port: int) -> None:
        self._stack = contextlib.ExitStack()
        self._version, self._address, self._port, self._kind = version, address, port, proto
        self.number = {
            "tcp": IPPROTO_TCP,
            "udp": IPPROTO_UDP,
            "icmp": IPPROTO_ICMP if version == 4 else IPPROTO_ICMPV6,
        }[proto]
        self._ident, self._sequence = next(_numbers) & 0xFFFF, 0
        self._name: tuple[Any, ...] = ()  # the device's side, as the host sees it
        self._peer: socket.socket | None = None
        if proto == "icmp":
            self.near = self._stack.enter_context(net.open(device, version, socket.SOCK_RAW, self.number))
            return
        kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        self.near = self._stack.enter_context(net.open(device, version, kind))
        self._server = net.server(version, address, kind, port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def begin(self) -> None:
        """The device's first packet."""
        if self._kind == "tcp":
            assert self.near.connect_ex((self._address, self._port)) == EINPROGRESS
            return
        if self._kind == "udp":
            self.near.connect((self._address, self._port))
        self.send()

    def send(self) -> None:
        """Another packet of the device."""
        if self._kind != "icmp":
            self.near.send(b"up")
            return
        self._sequence += 1
        request = 8 if self._version == 4 else 128
        head = struct.pack("!BBHHH", request, 0, 0, self._ident, self._sequence)
        total = sum(struct.unpack("!4H", head))
        total = (total & 0xFFFF) + (total >> 16)  # for ICMPv6, the kernel does it
        self.near.sendto(head[:2] + struct.pack("!H", total ^ 0xFFFF) + head[4:], (self._address, 0))

    def answer(self) -> None:
        """A packet of the host, in a conversation that has been established; none of its own in ICMP."""
        if self._peer is not None:
            self._peer.send(b"down")
        elif self._kind == "udp":
            self._server.sendto(b"down", self._name)

    def establish(self) -> None:
        """A packet each way."""
        self.begin()
        self.finish()

    def finish(self) -> None:
        """What was begun gets its answer."""
        if self._kind == "tcp":
            while self._peer is None:
                _readable(self._server)
                peer, name = self._server.accept()
                if name == self.near.getsockname():
                    self._peer = self._stack.enter_context(peer)
                else:
                    peer.close()  # of a conversation that its test has left
            self.send()
        self.exchange()

    def exchange(self) -> None:
        """The packet that was sent last arrives, and is answered."""
        if self._kind == "icmp":
            wanted = struct.pack("!HH", self._ident, self._sequence)
            reply, skip = (0, 20) if self._version == 4 else (129, 0)
            data = b""
            while data[:1] != bytes([reply]) or data[4:8] != wanted:
                _readable(self.near)
                data = self.near.recv(2048)[skip:]
            return
        if self._peer is not None:
            _readable(self._peer)
            assert self._peer.recv(2048) == b"up"
        else:
            name = None
            while name != self.near.getsockname():
                _readable(self._server)
                _data, name = self._server.recvfrom(2048)
            self._name = name
        self.answer()
        _readable(self.near)
        assert self.near.recv(2048) == b"down"

    def error(self) -> int:
        """The error that the device gets, or 0 when the host's answer comes instead."""
        _readable(self.near)
        return self.near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _readable(sock: socket.socket) -> None:
    wait_for(lambda: select.select([sock], [], [], 0)[0], "an answer")


def reports(group: int) -> socket.socket:
    """A socket that gets what is logged to an NFLOG group, in this namespace."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    sock.bind((0, 0))
    sock.settimeout(PATIENCE)
    bind = struct.pack("=HHBxxx", 5, 1, 1)  # NFULA_CFG_CMD: NFULNL_CFG_CMD_BIND
    mode = struct.pack("=HH", 10, 2) + struct.pack("!IBxxx", 128, 2)  # NFULA_CFG_MODE: copy packets
    for body in (bind, mode):
        head = struct.pack("!BBH", 0, 0, group)
        sock.send(struct.pack("=IHHII", 20 + len(body), 4 << 8 | 1, 5, 1, 0) + head + body)
        code = struct.unpack_from("=i", sock.recv(4096), 16)[0]
        assert code == 0, os.strerror(-code)
    return sock


def report(sock: socket.socket) -> list[tuple[str, Packet]]:
    """Prefixes and packets of the next reports: the kernel gathers some, for up to a second."""
    data = sock.recv(1 << 17)
    found = []
    for message in messages(data):
        if message.type == 4 << 8:  # NFULNL_MSG_PACKET
            parts = attribute_map(data, message.start + 4, message.end)
            found.append((parts[10].rstrip(b"\0").decode(), parse_ip(parts[9])))
    return found
