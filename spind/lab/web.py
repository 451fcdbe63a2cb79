# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP/1.1 server of the lab's internet, over plain TCP or TLS: every name on every address.

* ``GET /bytes/<n>`` answers with n bytes; ``GET /`` with what the server knows of the request.
* ``POST`` (with a length, or chunked) takes an upload and answers with the number of bytes.
* Connections stay open until the client closes them, says so, or is silent for ``IDLE_SECONDS``.

Owns one connection's life. Counting is the tally's, the sockets are made by ``internet``.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import NamedTuple

from spind.lab.tally import Peer, Tally

IDLE_SECONDS = 120.0
MAX_HEAD = 16384
_BLOCK = bytes(range(256)) * 256  # 64 KiB


class _BadRequestError(Exception):
    """What the client sent is not a request that we understand."""


class Request(NamedTuple):
    """The head of a request; names of ``headers`` in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


def parse_head(head: bytes) -> Request:
    """A request's head out of its bytes; raises where it is not one (RFC 9112 section 3)."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _BadRequestError(lines[0])
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return Request(words[0], words[1], headers)


class WebServer:
    """Serves connections and counts what they carry (payload of TCP or TLS, heads included)."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end. For ``asyncio.start_server``."""
        peer = peer_of(writer.transport)
        try:
            while await self._request(reader, writer, peer):
                pass
        except (
            _BadRequestError,
            ConnectionError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            TimeoutError,
            ssl.SSLError,
        ):
            pass  # a client that goes away or talks nonsense is part of the lab's life
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> bool:
        async with asyncio.timeout(IDLE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        request = parse_head(head[:-4])
        host = request.headers.get("host", "").partition(":")[0]
        sni = getattr(writer.get_extra_info("ssl_object"), "lab_name", None)
        self._tally.add(peer, received=len(head), requests=1, name=sni or host)
        length = await self._body(request, reader, writer, peer)
        if request.path.startswith("/bytes/") and request.path[7:].isdigit():
            await self._answer(writer, peer, int(request.path[7:]), None)
        else:
            about = {"host": host, "sni": sni, "received": length, **peer._asdict()}
            body = json.dumps(about).encode() + b"\n"
            await self._answer(writer, peer, len(body), body)
        return request.headers.get("connection", "").lower() != "close"

    async def _body(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer
    ) -> int:
        """Read a request's body and throw it away; its length."""
        chunked = request.headers.get("transfer-encoding", "").lower() == "chunked"
        length = request.headers.get("content-length", "0")
        if not length.isdigit():
            raise _BadRequestError("content-length")
        if request.headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._tally.add(peer, sent=25)
        if not chunked:
            await self._skip(reader, peer, int(length))
            return int(length)
        total = 0
        while True:
            line = await reader.readuntil(b"\r\n")
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                raise _BadRequestError("chunk") from None
            self._tally.add(peer, received=len(line))
            await self._skip(reader, peer, size + 2)
            total += size
            if size == 0:
                return total

    async def _skip(self, reader: asyncio.StreamReader, peer: Peer, length: int) -> None:
        while length > 0:
            async with asyncio.timeout(IDLE_SECONDS):
                data = await reader.read(min(length, 1 << 18))
            if not data:
                raise asyncio.IncompleteReadError(b"", length)
            length -= len(data)
            self._tally.add(peer, received=len(data))

    async def _answer(
        self, writer: asyncio.StreamWriter, peer: Peer, length: int, body: bytes | None
    ) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nServer: spind-lab\r\n\r\n".encode()
        writer.write(head)
        self._tally.add(peer, sent=len(head))
        while length > 0:
            block = body if body is not None else _BLOCK[: min(length, len(_BLOCK))]
            writer.write(block)
            await writer.drain()
            length -= len(block)
            self._tally.add(peer, sent=len(block))


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """Both ends of a TCP connection; the IPv4 form of addresses where it is IPv4."""
    local = transport.get_extra_info("sockname") or ("", 0)
    remote = transport.get_extra_info("peername") or ("", 0)
    return Peer("tcp", local[0], local[1], remote[0], remote[1])
