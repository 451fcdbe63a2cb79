# SPDX-License-Identifier: GPL-2.0-or-later
"""A small stub resolver for the lab's devices: real DNS packets through the home's forwarder.

It asks over UDP and, where the answer says TC, again over TCP (RFC 1035 section 4.2, RFC 7766).
It is written apart from ``spind.wire.dns`` on purpose: the test bed must not share the mistakes
of what it tests. Meant for the lab's servers only, not for hostile ones.
"""

import asyncio
import socket
import struct
from random import Random
from typing import NamedTuple

from spind.lab.patience import patient

TYPE_A, TYPE_CNAME, TYPE_AAAA = 1, 5, 28
_FLAG_TC = 0x0200
_RD = 0x0100


class Answer(NamedTuple):
    """What a server said: response code, addresses (text), and the aliases on the way to them."""

    rcode: int
    addresses: tuple[str, ...]
    aliases: tuple[str, ...]
    truncated: bool


class ResolveError(Exception):
    """The server did not answer, or not to the question."""


def build_query(name: str, qtype: int, number: int) -> bytes:
    """A query message with id ``number`` (RFC 1035 section 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return struct.pack("!6H", number, _RD, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", qtype, 1)


def parse_answer(message: bytes, number: int) -> Answer:
    """The answer in ``message``; ``ResolveError`` where it is none to the query ``number``."""
    try:
        got, flags, questions, answers, _, _ = struct.unpack_from("!6H", message)
        if got != number or not flags & 0x8000:
            raise ResolveError("an answer to another question")
        offset = 12
        for _ in range(questions):
            offset = _skip_name(message, offset) + 4
        addresses, aliases = [], []
        for _ in range(answers):
            offset = _skip_name(message, offset)
            kind, _, _, length = struct.unpack_from("!2HIH", message, offset)
            offset += 10
            data = message[offset : offset + length]
            if kind == TYPE_A and length == 4:
                addresses.append(socket.inet_ntop(socket.AF_INET, data))
            elif kind == TYPE_AAAA and length == 16:
                addresses.append(socket.inet_ntop(socket.AF_INET6, data))
            elif kind == TYPE_CNAME:
                aliases.append(_read_name(message, offset))
            offset += length
    except (struct.error, IndexError) as error:
        raise ResolveError("an answer that is cut short") from error
    return Answer(flags & 15, tuple(addresses), tuple(aliases), bool(flags & _FLAG_TC))


def _skip_name(message: bytes, offset: int) -> int:
    while message[offset]:
        if message[offset] >= 0xC0:
            return offset + 2
        offset += 1 + message[offset]
    return offset + 1


def _read_name(message: bytes, offset: int) -> str:
    labels: list[str] = []
    while message[offset] and len(labels) < 128:
        if message[offset] >= 0xC0:
            offset = struct.unpack_from("!H", message, offset)[0] & 0x3FFF
            continue
        labels.append(message[offset + 1 : offset + 1 + message[offset]].decode())
        offset += 1 + message[offset]
    return ".".join(labels)


class _Question(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _: object) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


class Resolver:
    """Asks one server. ``random`` gives query ids, so that a seeded one repeats them."""

    def __init__(self, server: str, random: Random, timeout: float = 2.0) -> None:
        self._server = server
        self._random = random
        self._timeout = timeout

    async def lookup(self, name: str, family: int) -> Answer:
        """Addresses of ``name`` in ``family`` (4 or 6). Tries three times; ``ResolveError`` then."""
        qtype = TYPE_A if family == 4 else TYPE_AAAA
        for _ in range(3):
            number = self._random.randrange(1 << 16)
            query = build_query(name, qtype, number)
            try:
                answer = parse_answer(await self._udp(query), number)
                if answer.truncated:
                    answer = parse_answer(await self._tcp(query), number)
            except (TimeoutError, OSError):
                continue
            return answer
        raise ResolveError(f"no answer for {name} from {self._server}")

    async def _udp(self, query: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        transport, question = await loop.create_datagram_endpoint(_Question, remote_addr=(self._server, 53))
        try:
            transport.sendto(query)
            async with asyncio.timeout(patient(self._timeout)):
                return await question.answer
        finally:
            transport.close()

    async def _tcp(self, query: bytes) -> bytes:
        async with asyncio.timeout(patient(self._timeout)):
            reader, writer = await asyncio.open_connection(self._server, 53)
            try:
                writer.write(struct.pack("!H", len(query)) + query)
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                return await reader.readexactly(length)
            except asyncio.IncompleteReadError:
                raise ConnectionResetError(self._server) from None
            finally:
                writer.close()
