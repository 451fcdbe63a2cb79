# SPDX-License-Identifier: GPL-2.0-or-later
"""Carrying out a device's actions on real sockets, and saying what was done.

Owns no timing of its own but what an action's ``rate`` asks for, and decides nothing: what to do
is in ``behaviours``, when to start it in ``device``. Every wait has a limit.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from spind.lab.behaviours import Action
from spind.lab.patience import patient
from spind.lab.resolver import Answer, ResolveError, Resolver

ANSWER_SECONDS = 10.0
_BLOCK = bytes(65536)
NETWORK_ERRORS = (OSError, TimeoutError, ResolveError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


@dataclass
class Done:
    """One connection, association or attempt as its device saw it: payload bytes, not packets.

    ``evidence`` is the best that a listener on the gateway can have for ``name``: ``sni``,
    ``http`` (a Host header), ``dns``, or ``none`` where no name was used.
    """

    do: str
    name: str
    proto: str
    family: int
    local: tuple[str, int] = ("", 0)
    remote: tuple[str, int] = ("", 0)
    sent: int = 0
    received: int = 0
    evidence: str = "none"
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def is_address(text: str) -> bool:
    """Whether ``text`` is an address and not a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, text)
            return True
    return False


class Performer:
    """Performs actions for one device. Its random numbers choose among a name's addresses."""

    def __init__(self, resolver: Resolver, trust: ssl.SSLContext, random: Random) -> None:
        self._resolver = resolver
        self._trust = trust
        self._blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # for TLS without SNI
        self._blind.check_hostname = False
        self._blind.verify_mode = ssl.CERT_NONE
        self._random = random

    async def perform(self, action: Action) -> list[Done]:
        """Do it. What goes wrong on the network is part of the result, never an exception."""
        proto = {"datagrams": "udp", "multicast": "udp", "flood": "udp", "ping": "icmp"}.get(action.do, "tcp")
        done = Done(action.do, "", proto, action.family)
        results = [done]
        try:
            if action.do == "scan":
                return await self._scan(action)
            if action.do == "names":
                return await self._names(action)
            done.remote = (await self._address(action, done), action.port)
            await getattr(self, f"_{action.do}")(action, done)
        except NETWORK_ERRORS as error:
            done.error = f"{type(error).__name__}: {error}".rstrip(": ")
        return results

    async def _address(self, action: Action, done: Done) -> str:
        if is_address(action.target):
            return action.target
        done.name, done.evidence = action.target, "dns"
        answer: Answer = await self._resolver.lookup(action.target, action.family)
        if not answer.addresses:
            raise ResolveError(f"{action.target} has no IPv{action.family} address (rcode {answer.rcode})")
        return self._random.choice(answer.addresses)

    async def _open(self, action: Action, done: Done) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        options: dict[str, Any] = {}
        if action.tls:
            context = self._trust if action.sni else self._blind
            options = {"ssl": context, "server_hostname": action.target if action.sni else ""}
        async with asyncio.timeout(patient(ANSWER_SECONDS)):
            reader, writer = await asyncio.open_connection(*done.remote, **options)
        done.local = writer.get_extra_info("sockname")[:2]
        return reader, writer

    async def _fetch(self, action: Action, done: Done) -> None:
        reader, writer = await self._open(action, done)
        try:
            done.evidence = ("sni" if action.sni else "dns") if action.tls else "http"
            for _ in range(action.count):
                request = f"GET /bytes/{action.size} HTTP/1.1\r\nHost: {action.target}\r\n\r\n".encode()
                await self._exchange(reader, writer, done, request, 0)
        finally:
            await close(writer)

    async def _upload(self, action: Action, done: Done) -> None:
        reader, writer = await self._open(action, done)
        try:
            done.evidence = ("sni" if action.sni else "dns") if action.tls else "http"
            head = f"POST /in HTTP/1.1\r\nHost: {action.target}\r\nContent-Length: {action.size}\r\n\r\n"
            await self._exchange(reader, writer, done, head.encode(), action.size)
        finally:
            await close(writer)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, done: Done, head: bytes, body: int
    ) -> None:
        async with asyncio.timeout(patient(ANSWER_SECONDS)):
            writer.write(head)
            done.sent += len(head)
            while body > 0:
                writer.write(_BLOCK[: min(body, len(_BLOCK))])
                await writer.drain()
                done.sent += min(body, len(_BLOCK))
                body -= min(body, len(_BLOCK))
            answer = await reader.readuntil(b"\r\n\r\n")
            done.received += len(answer)
            length = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            while length > 0:
                data = await reader.read(min(length, 1 << 18))
                if not data:
                    raise asyncio.IncompleteReadError(b"", length)
                length -= len(data)
                done.received += len(data)

    async def _connect(self, action: Action, done: Done) -> None:
        reader, writer = await self._open(action, done)
        try:
            async with asyncio.timeout(patient(ANSWER_SECONDS)):
                writer.write(_BLOCK[: action.size])
                done.sent += action.size
                done.received += len(await reader.readexactly(action.size))
        finally:
            await close(writer)

    async def _datagrams(self, action: Action, done: Done) -> None:
        loop = asyncio.get_running_loop()
        with udp_socket(action.family) as link:
            link.connect(done.remote)
            done.local = link.getsockname()[:2]
            for _ in range(action.count):
                await loop.sock_sendall(link, _BLOCK[: action.size])
                done.sent += action.size
                async with asyncio.timeout(patient(2)):
                    done.received += len(await loop.sock_recv(link, 65535))

    async def _multicast(self, action: Action, done: Done) -> None:
        with udp_socket(action.family) as link:
            link.sendto(_BLOCK[: action.size], done.remote)
            done.local = link.getsockname()[:2]
            done.sent += action.size

    async def _flood(self, action: Action, done: Done) -> None:
        with udp_socket(action.family) as link:
            link.connect(done.remote)
            done.local = link.getsockname()[:2]
            async for number in paced(action.count, action.rate):
                with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                    done.sent += link.send(_BLOCK[: action.size])
                if number % 64 == 0:
                    await asyncio.sleep(0)

    async def _ping(self, action: Action, done: Done) -> None:
        loop = asyncio.get_running_loop()
        six = action.family == 6
        family = socket.AF_INET6 if six else socket.AF_INET
        proto = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        ident = self._random.randrange(1 << 16)
        with socket.socket(family, socket.SOCK_RAW, proto) as link:
            link.setblocking(False)
            link.connect((done.remote[0], 0))
            done.local = (link.getsockname()[0], ident)
            for sequence in range(action.count):
                request = echo_request(six=six, ident=ident, sequence=sequence, size=action.size)
                await loop.sock_sendall(link, request)
                done.sent += action.size
                async with asyncio.timeout(patient(2)):
                    await self._echo_reply(link, six=six, ident=ident, sequence=sequence)
                done.received += action.size

    async def _echo_reply(self, link: socket.socket, *, six: bool, ident: int, sequence: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(link, 65535)
            message = data if six else data[(data[0] & 15) * 4 :]
            kind, _, _, got, number = struct.unpack_from("!2B3H", message)
            if (kind, got, number) == (129 if six else 0, ident, sequence):
                return

    async def _scan(self, action: Action) -> list[Done]:
        pairs = [(host, port) for host in action.targets for port in action.ports]
        results = []
        async for number in paced(len(pairs), action.rate):
            done = Done("scan", "", "tcp", action.family, remote=pairs[number])
            results.append(done)
            try:
                async with asyncio.timeout(patient(1)):
                    _, writer = await asyncio.open_connection(*done.remote)
                done.local = writer.get_extra_info("sockname")[:2]
                await close(writer)
            except (OSError, TimeoutError) as error:
                done.error = type(error).__name__
        return results

    async def _names(self, action: Action) -> list[Done]:
        results = []
        async for _ in paced(action.count, action.rate):
            name = f"{self._random.randrange(1 << 40):x}.{action.target}"
            done = Done("names", name, "udp", action.family)
            results.append(done)
            try:
                await self._resolver.lookup(name, action.family)
            except ResolveError as error:
                done.error = str(error)
        return results


async def paced(count: int, rate: float) -> Any:
    """Count from 0 to ``count`` at ``rate`` a second, catching up where the loop was late."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number in range(count):
        wait = start + number / rate - loop.time()
        if wait > 0.001:
            await asyncio.sleep(wait)
        yield number


def udp_socket(family: int) -> socket.socket:
    """A non-blocking UDP socket."""
    link = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    link.setblocking(False)
    return link


def echo_request(*, six: bool, ident: int, sequence: int, size: int) -> bytes:
    """An ICMP echo request (RFC 792), or an ICMPv6 one (RFC 4443; the kernel fills its checksum)."""
    if six:
        return struct.pack("!2B3H", 128, 0, 0, ident, sequence) + bytes(size)
    total = 0x0800 + ident + sequence  # the payload is zeros and adds nothing (RFC 1071)
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!2B3H", 8, 0, ~total & 0xFFFF, ident, sequence) + bytes(size)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection and wait for it; a peer that is gone already is fine."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(patient(2)):
            await writer.wait_closed()


def trust_context() -> ssl.SSLContext:
    """TLS that trusts the lab's authority, named in the environment."""
    return ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
