# SPDX-License-Identifier: GPL-2.0-or-later
"""The servers of the lab's internet, in one process: ``python -m spind.lab.internet RUNTIME_DIR``.

They listen on every address of the namespace: HTTP (80, 8080), HTTPS with the certificate that
SNI asks for (443, 8443), TCP echo (7) and discard (9), UDP echo (7, 123, 5683, 443) and discard
(9). A Unix socket in the runtime directory takes one line, ``status`` or ``reset``, and answers
with the tally as JSON; it exists once everything listens.
"""

import asyncio
import contextlib
import functools
import json
import signal
import socket
import ssl
import struct
import sys
from pathlib import Path
from typing import Any

from spind.lab.tally import Peer, Tally
from spind.lab.web import MAX_HEAD, WebServer, peer_of

HTTP_PORTS = (80, 8080)
HTTPS_PORTS = (443, 8443)
ECHO_PORT, DISCARD_PORT = 7, 9
UDP_ECHO_PORTS = (7, 123, 443, 5683)
BACKLOG = 4096

# linux/in6.h; ip(7) and ipv6(7) describe the control messages.
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO, _IPV6_PKTINFO, _IPV6_FREEBIND = 49, 50, 78


def tls_context(certificates: Path) -> ssl.SSLContext:
    """A server context that answers each SNI with the certificate made for that name."""
    contexts = {}
    for file in certificates.glob("*.pem"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file, certificates / ("ca.key" if file.stem == "ca" else "leaf.key"))
        contexts[file.stem] = context

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is None:
            return
        connection.lab_name = name  # type: ignore[attr-defined]  # read back by the web server
        labels = name.split(".")
        for start in range(len(labels) - 1):
            found = contexts.get(".".join(labels[start:]))
            if found is not None:
                connection.context = found
                return

    default = contexts["leaf"]  # who asks for nothing gets a certificate for nothing
    default.sni_callback = choose
    return default


class Echo(asyncio.Protocol):
    """TCP echo, or discard: counts what comes, returns it where ``answer`` says so."""

    def __init__(self, tally: Tally, *, answer: bool) -> None:
        self._tally = tally
        self._answer = answer
        self._transport: asyncio.Transport | None = None
        self._peer = Peer("tcp", "", 0, "", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember who it is."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what start_server gives
        self._transport = transport
        self._peer = peer_of(transport)
        self._tally.add(self._peer, requests=1)

    def data_received(self, data: bytes) -> None:
        """Count, and return it."""
        sent = 0
        if self._answer and self._transport is not None:
            self._transport.write(data)
            sent = len(data)
        self._tally.add(self._peer, received=len(data), sent=sent)

    def pause_writing(self) -> None:
        """Stop reading from who does not read."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        if self._transport is not None:
            self._transport.resume_reading()


class Datagrams:
    """A UDP socket on every address that answers from the address that was asked."""

    def __init__(self, tally: Tally, family: socket.AddressFamily, port: int, *, answer: bool) -> None:
        self._tally = tally
        self._answer = answer
        self._port = port
        self._six = family == socket.AF_INET6
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        if self._six:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
            # The addresses are local by a route, not by being configured: answer from them anyway.
            self.socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            self.socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("::" if self._six else "0.0.0.0", port))  # noqa: S104 - inside the namespace

    def readable(self) -> None:
        """Take what is there, a bounded number at a time so that the other servers get their turn."""
        for _ in range(64):
            try:
                data, control, _, sender = self.socket.recvmsg(65535, 256)
            except BlockingIOError:
                return
            self._received(data, control, sender)

    def _received(self, data: bytes, control: list[tuple[int, int, bytes]], sender: Any) -> None:
        local = b""
        for level, kind, value in control:
            if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
                local = value[:16]
            elif level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                local = value[8:12]  # struct in_pktinfo: interface, address of ours, destination
        sent = 0
        if self._answer and local:
            if self._six:
                back = (socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("=16sI", local, 0))
            else:
                back = (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4x", 0, local))
            try:
                sent = self.socket.sendmsg([data], [back], 0, sender)
            except OSError:  # a full buffer, or nobody there: datagrams may get lost
                sent = 0
        text = socket.inet_ntop(self.socket.family, local) if local else ""
        peer = Peer("udp", text, self._port, sender[0], sender[1])
        self._tally.add(peer, received=len(data), sent=sent, requests=1)


async def control(tally: Tally, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One client of the control socket."""
    try:
        command = (await reader.readline()).strip()
        if command == b"reset":
            tally.clear()
        writer.write(json.dumps(tally.as_json()).encode() + b"\n")
        await writer.drain()
    except (ConnectionError, asyncio.LimitOverrunError, ValueError):
        pass
    finally:
        writer.close()


async def serve(root: Path) -> None:
    """Open every socket, say that it is done, and serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tally = Tally()
    web = WebServer(tally)
    context = tls_context(root / "certs")
    servers: list[asyncio.Server] = []
    for host in ("0.0.0.0", "::"):  # noqa: S104 - inside the namespace
        listen: dict[str, Any] = {"host": host, "backlog": BACKLOG}
        servers += [
            await asyncio.start_server(web.serve, port=port, limit=MAX_HEAD, **listen) for port in HTTP_PORTS
        ]
        servers += [
            await asyncio.start_server(web.serve, port=port, limit=MAX_HEAD, ssl=context, **listen)
            for port in HTTPS_PORTS
        ]
        for port, answer in ((ECHO_PORT, True), (DISCARD_PORT, False)):
            factory = functools.partial(Echo, tally, answer=answer)
            servers.append(await loop.create_server(factory, port=port, **listen))
    datagrams = [
        Datagrams(tally, family, port, answer=port != DISCARD_PORT)
        for family in (socket.AF_INET, socket.AF_INET6)
        for port in (*UDP_ECHO_PORTS, DISCARD_PORT)
    ]
    for one in datagrams:
        loop.add_reader(one.socket, one.readable)
    path = root / "data" / "internet.sock"
    servers.append(await asyncio.start_unix_server(functools.partial(control, tally), path=path))
    await stop.wait()
    for server in servers:
        server.close()
    for one in datagrams:
        loop.remove_reader(one.socket)
        one.socket.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
