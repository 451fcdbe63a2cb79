# SPDX-License-Identifier: GPL-2.0-or-later
"""The host name that a client sends in clear at the start of a TCP connection. Pure.

TLS: the server name of the ClientHello (RFC 6066 3). HTTP/1: the Host of the request
(RFC 9112 3.2). Anything else is given up on at its first bytes.
"""

from typing import NamedTuple

from spind.model import Evidence
from spind.wire import http, tls
from spind.wire.errors import WireError
from spind.wire.packet import Packet
from spind.wire.stream import Reassembler

STREAM_BYTES = 20480
"""Bytes of a connection's start that are put together: a ClientHello with post-quantum key shares
and padding stays below 4 KiB, browsers' HTTP heads below 16 KiB."""

STREAM_SEGMENTS = 64
"""Segments that may wait for one before them."""

WAIT_SECONDS = 3.0
"""How long a start that must not pass incomplete may take. Nobody acknowledges what is held: after a
retransmission TCP sends nothing new before it was, so that what is incomplete by then stays so."""

TCP_SYN = 0x02


class Finding(NamedTuple):
    """``name`` is empty where the start of the connection holds none. ``ech``: the client may hide
    the true name behind it (RFC 9849), or just pretend to. ``unreadable``: there may be a name that
    servers find and we do not."""

    name: str
    evidence: Evidence
    ech: bool = False
    unreadable: bool = False


NOTHING = Finding("", Evidence.NONE)
UNREADABLE = Finding("", Evidence.NONE, unreadable=True)


def start_of(packet: Packet) -> Reassembler:
    """A reassembler for the initiator's bytes, given the first packet seen of the connection."""
    stream = Reassembler(STREAM_BYTES, STREAM_SEGMENTS)
    if packet.flags & TCP_SYN:
        stream.set_start((packet.seq + 1) & 0xFFFFFFFF)
    return stream


def find_name(data: bytes) -> Finding | None:
    """What the start of a connection tells; ``None`` while it is incomplete."""
    try:
        if tls.looks_like_tls(data):
            hello = tls.client_hello(data)
            if hello is None:
                return None
            return Finding(hello.sni, Evidence.SNI, hello.ech) if hello.sni else NOTHING
        if http.looks_like_http(data):
            request = http.request_host(data)
            if request is None:
                return None
            return Finding(request.host, Evidence.HTTP) if request.host else NOTHING
    except WireError:
        return UNREADABLE
    return NOTHING


def feed(stream: Reassembler, packet: Packet) -> Finding | None:
    """Add a segment; what the start of the connection tells, or ``None`` for "more is needed"."""
    try:
        data = stream.add(packet.seq, packet.payload)
    except WireError:  # in more pieces, or longer, than any client sends it
        return UNREADABLE
    return find_name(data) if data else None
