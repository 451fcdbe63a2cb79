# SPDX-License-Identifier: GPL-2.0-or-later
"""A client, a gateway and a server in three network namespaces, and sockets inside them, to test the kernel.

Owns nothing of spind: what is tested with it is the kernel that the tests run on. Sockets are opened by this
very process inside a namespace (a socket stays in the namespace where it was made), so that no helper program
has to start, which takes long on emulated processors.
"""

import contextlib
import ctypes
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

IN_VM = os.environ.get("SPIND_VM") == "1"
SLOW = float(os.environ.get("SPIND_TEST_SLOW", "1"))
PATIENCE = 10 * SLOW

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

CLIENT = {4: "10.31.1.2", 6: "fd31:1::2"}
SERVER = {4: "10.31.2.2", 6: "fd31:2::2"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def tool(*arguments: str, text: str | None = None) -> str:
    """Run a tool in the current namespace; return its output. A failure quotes what it said."""
    done = subprocess.run(arguments, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr or done.stdout}"
    return done.stdout


def facility(*arguments: str, text: str | None = None) -> None:
    """Run a tool that asks the kernel for what it may lack: then skip, but never in the virtual machine."""
    try:
        tool(*arguments, text=text)
    except AssertionError as error:
        if IN_VM:
            raise
        pytest.skip(f"this kernel cannot: {error}")


def settle(look: Callable[[], object], good: Callable[[object], bool]) -> object:
    """Look until what is seen is good or patience ends; return what was seen last."""
    deadline = time.monotonic() + PATIENCE
    while not good(seen := look()) and time.monotonic() < deadline:
        select.select([], [], [], 0.02)
    return seen


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in a network namespace for a while: sockets opened and tools run meanwhile belong to it."""
    with Path("/proc/thread-self/ns/net").open() as before, Path("/run/netns", namespace).open() as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _sysctl(name: str, value: str) -> None:
    Path("/proc/sys/net", name).write_text(value)


class Topology:
    """client --- lan [gateway] wan --- server; on ``vlan``, the client's side is tagged with that VLAN id."""

    def __init__(self, vlan: int | None = None) -> None:
        stem = f"spvm{os.getpid()}"
        self.client, self.gateway, self.server = f"{stem}c", f"{stem}g", f"{stem}s"
        self.lan = "lan" if vlan is None else f"lan.{vlan}"
        self._vlan = vlan

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for namespace in (self.client, self.gateway, self.server):
                tool("ip", "netns", "add", namespace)
                stack.callback(tool, "ip", "netns", "del", namespace)
                with inside(namespace):
                    # No wait for duplicate addresses: until it is over, neighbours are not asked for.
                    _sysctl("ipv6/conf/default/accept_dad", "0")
            for port, peer in (("lan", self.client), ("wan", self.server)):
                link = ("type", "veth", "peer", "name", "eth", "netns", peer)
                tool("ip", "link", "add", port, "netns", self.gateway, *link)
            with inside(self.gateway):
                self._configure("lan", 1, 1, self._vlan)
                self._configure("wan", 2, 1, None)
                _sysctl("ipv4/ip_forward", "1")
                _sysctl("ipv6/conf/all/forwarding", "1")
            with inside(self.client):
                self._configure("eth", 1, 2, self._vlan)
            with inside(self.server):
                self._configure("eth", 2, 2, None)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _configure(self, link: str, network: int, host: int, vlan: int | None) -> None:
        """Bring a link of the current namespace up with its addresses; at one go, as each tool takes long."""
        lines = [f"link set {link} up"]
        if vlan is not None:
            facility(
                "ip", "link", "add", "link", link, "name", f"{link}.{vlan}", "type", "vlan", "id", str(vlan)
            )
            link = f"{link}.{vlan}"
            lines.append(f"link set {link} up")
        lines.append(f"address add 10.31.{network}.{host}/24 dev {link}")
        lines.append(f"address add fd31:{network}::{host}/64 dev {link} nodad")
        if host != 1:
            lines.append(f"route add default via 10.31.{network}.1")
            lines.append(f"route add ::/0 via fd31:{network}::1")
        tool("ip", "-batch", "-", text="\n".join(lines))

    def udp_pair(self, version: int, port: int) -> tuple[socket.socket, socket.socket]:
        """Return a client's socket that is connected to a server's socket, both with a deadline."""
        with inside(self.server):
            server = socket.socket(FAMILY[version], socket.SOCK_DGRAM)
            server.bind((SERVER[version], port))
        with inside(self.client):
            client = socket.socket(FAMILY[version], socket.SOCK_DGRAM)
            client.connect((SERVER[version], port))
        for sock in (client, server):
            sock.settimeout(PATIENCE)
        return client, server

    def tcp_pair(self, version: int, port: int) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a connection from the client to the server, both with a deadline."""
        with (
            inside(self.server),
            socket.create_server((SERVER[version], port), family=FAMILY[version]) as listener,
        ):
            listener.settimeout(PATIENCE)
            with inside(self.client):
                client = socket.create_connection((SERVER[version], port), timeout=PATIENCE)
            server, _ = listener.accept()
        server.settimeout(PATIENCE)
        return client, server


def transfer(source: socket.socket, sink: socket.socket, size: int) -> None:
    """Send ``size`` bytes over a connection, both ends in this thread; all must arrive within patience."""
    deadline = time.monotonic() + PATIENCE * 3
    to_send, to_receive = size, size
    block = bytes(65536)
    source.setblocking(False)
    while to_receive:
        assert time.monotonic() < deadline, f"{to_receive} of {size} bytes did not arrive"
        readable, writable, _ = select.select([sink], [source] if to_send else [], [], 1)
        if writable:
            to_send -= source.send(block[:to_send])
        if readable:
            data = sink.recv(1 << 20)
            assert data, f"the connection ended {to_receive} bytes early"
            to_receive -= len(data)
    source.settimeout(PATIENCE)
