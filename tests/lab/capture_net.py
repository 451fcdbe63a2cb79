# SPDX-License-Identifier: GPL-2.0-or-later
"""A client, a gateway and a server in namespaces of their own, for tests of the kernel's adapters.

``inside`` puts this very process into a namespace for a while: a socket stays where it was made, so
that tests hold all ends of a connection, and run the adapter under test, without helper programs.
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

IN_VM = os.environ.get("SPIND_VM") == "1"
PATIENCE = 15.0 * float(os.environ.get("SPIND_TEST_SLOW", "1"))

CLIENT = {4: "10.77.1.2", 6: "fd77:1::2"}
SERVER = {4: "10.77.2.2", 6: "fd77:2::2"}
GATEWAY = {4: "10.77.1.1", 6: "fd77:1::1"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
MARK, CUT, INSPECT = 0x02000000, 0x04000000, 0x08000000

_LIBC = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def tool(*arguments: str, text: str | None = None, check: bool = True) -> str:
    done = subprocess.run(arguments, input=text, capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, f"{arguments}: {done.stderr or done.stdout}"
    return done.stdout


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets opened, tools run and /proc read meanwhile belong to the namespace."""
    with Path("/proc/thread-self/ns/net").open() as before, Path("/run/netns", namespace).open() as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def set_net(name: str, value: str) -> None:
    Path("/proc/sys/net", name).write_text(value)


class SmallNet:
    """client --- lan [gateway] wan --- server, IPv4 and IPv6, routed; or ``bridged``: one subnet."""

    def __init__(self, *, bridged: bool = False) -> None:
        stem = f"spct{os.getpid()}n{next(_numbers)}"
        self.client, self.gateway, self.server = f"{stem}c", f"{stem}g", f"{stem}s"
        self._bridged = bridged
        self.server_address = {4: "10.77.1.3", 6: "fd77:1::3"} if bridged else SERVER

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for namespace in (self.client, self.gateway, self.server):
                tool("ip", "netns", "add", namespace)
                stack.callback(tool, "ip", "netns", "del", namespace, check=False)
                with inside(namespace):
                    set_net("ipv6/conf/default/accept_dad", "0")
                    tool("ip", "link", "set", "lo", "up")
            for port, namespace in (("lan", self.client), ("wan", self.server)):
                link = ("ip", "-n", self.gateway, "link", "add", port, "type", "veth", "peer", "end")
                tool(*link, "netns", namespace)
                tool("ip", "-n", self.gateway, "link", "set", port, "up")
                tool("ip", "-n", namespace, "link", "set", "end", "up")
            (self._bridge if self._bridged else self._route)()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _route(self) -> None:
        for network, port, namespace in ((1, "lan", self.client), (2, "wan", self.server)):
            for version, form, bits in ((4, "10.77.{}.{}", 24), (6, "fd77:{}::{}", 64)):
                gateway = form.format(network, 1)
                add = ("ip", "-n", self.gateway, "addr", "add", f"{gateway}/{bits}", "dev", port)
                tool(*add)
                tool("ip", "-n", namespace, "addr", "add", f"{form.format(network, 2)}/{bits}", "dev", "end")
                tool("ip", "-n", namespace, f"-{version}", "route", "add", "default", "via", gateway)
        with inside(self.gateway):
            set_net("ipv4/ip_forward", "1")
            set_net("ipv6/conf/all/forwarding", "1")

    def _bridge(self) -> None:
        tool("ip", "-n", self.gateway, "link", "add", "br0", "type", "bridge")
        for port in ("lan", "wan"):
            tool("ip", "-n", self.gateway, "link", "set", port, "master", "br0")
        tool("ip", "-n", self.gateway, "link", "set", "br0", "up")
        for host, namespace in ((2, self.client), (3, self.server)):
            tool("ip", "-n", namespace, "addr", "add", f"10.77.1.{host}/24", "dev", "end")
            tool("ip", "-n", namespace, "addr", "add", f"fd77:1::{host}/64", "dev", "end")

    # -- traffic --

    def udp(self, where: str, version: int, port: int = 0) -> socket.socket:
        sock = self._socket(where, version, socket.SOCK_DGRAM)
        sock.bind(("::" if version == 6 else "0.0.0.0", port))
        return sock

    def listener(self, where: str, version: int, port: int) -> socket.socket:
        sock = self._socket(where, version, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::" if version == 6 else "0.0.0.0", port))
        sock.listen(512)
        return sock

    def tcp(self, where: str, version: int) -> socket.socket:
        sock = self._socket(where, version, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _socket(self, where: str, version: int, kind: socket.SocketKind) -> socket.socket:
        with inside(where):
            sock = socket.socket(FAMILY[version], kind)
        self._stack.callback(sock.close)
        sock.setblocking(False)
        return sock

    async def connect(
        self, version: int, port: int, listener: socket.socket
    ) -> tuple[socket.socket, socket.socket]:
        """A connection from the client to the server: both ends."""
        loop = asyncio.get_running_loop()
        near = self.tcp(self.client, version)
        await asyncio.wait_for(loop.sock_connect(near, (self.server_address[version], port)), PATIENCE)
        far, _ = await asyncio.wait_for(loop.sock_accept(listener), PATIENCE)
        self._stack.callback(far.close)
        far.setblocking(False)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return near, far

    async def ping(self, address: str, count: int = 1, *, wait: float = 1.0, where: str = "") -> int:
        """How many of ``count`` pings, each an ICMP conversation of its own, were answered in time."""
        answered = 0
        for _ping in range(count):
            process = await asyncio.create_subprocess_exec(
                "ip", "netns", "exec", where or self.client, "ping", "-q", "-c1", f"-W{wait}", address,
                stdout=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            answered += await process.wait() == 0
        return answered


async def until(good: Callable[[], object], what: Callable[[], str] | str = "") -> None:
    """Let the loop run until something is so; fail when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while not good():
        missing = what() if callable(what) else what
        assert time.monotonic() < deadline, f"never came: {missing or good}"
        await asyncio.sleep(0.01)


def run(namespace: str, test: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function in the namespace."""

    async def bounded() -> None:
        await asyncio.wait_for(test(), 4 * PATIENCE)

    with inside(namespace):
        asyncio.run(bounded())


@pytest.fixture
def net() -> Iterator[SmallNet]:
    with SmallNet() as made:
        yield made
