# SPDX-License-Identifier: GPL-2.0-or-later
"""A DHCPv6 client for the lab's devices: one lease, by the four-message exchange of RFC 8415.

Debian's busybox has no udhcpc6. This one asks once and does not renew: a lab lives shorter than
its leases. It configures nothing; it returns the addresses. Must run in the device's namespace.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator

from spind.lab.errors import LabError
from spind.lab.patience import patient

_SOLICIT, _ADVERTISE, _REQUEST, _REPLY = 1, 2, 3, 7
_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_ADDRESS, _ORO, _ELAPSED, _FQDN = 1, 2, 3, 5, 6, 8, 39
_SERVERS = "ff02::1:2"  # All_DHCP_Relay_Agents_and_Servers
_TRIES = 20
_WAIT = 0.5  # seconds for an answer


def acquire(interface: str, mac: str, hostname: str) -> list[str]:
    """Addresses leased to ``mac``; ``LabError`` where no server answers."""
    raw_mac = bytes.fromhex(mac.replace(":", ""))
    client = _option(_CLIENT_ID, struct.pack("!2H", 3, 1) + raw_mac)  # DUID-LL
    identity = raw_mac[2:]
    about = (
        client
        + _option(_ELAPSED, bytes(2))
        + _option(_ORO, struct.pack("!H", 23))  # DNS servers
        + _option(_FQDN, b"\0" + bytes([len(hostname)]) + hostname.encode())
    )
    index = socket.if_nametoindex(interface)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        link.bind(("::", 546))
        link.settimeout(patient(_WAIT))
        empty = _option(_IA_NA, identity + bytes(8))
        offer = _exchange(link, index, _SOLICIT, about + empty, _ADVERTISE)
        server = b"".join(_option(kind, data) for kind, data in _options(offer) if kind == _SERVER_ID)
        wanted = b"".join(_option(kind, data) for kind, data in _options(offer) if kind == _IA_NA)
        reply = _exchange(link, index, _REQUEST, about + server + wanted, _REPLY)
    addresses = [
        socket.inet_ntop(socket.AF_INET6, data[:16])
        for kind, association in _options(reply)
        if kind == _IA_NA
        for inner, data in _options(association[12:])
        if inner == _IA_ADDRESS
    ]
    if not addresses:
        raise LabError(f"{hostname}: the DHCPv6 server gives no address")
    return addresses


def _exchange(link: socket.socket, index: int, kind: int, body: bytes, wanted: int) -> bytes:
    """Send a message until its answer comes; the answer's options."""
    transaction = os.urandom(3)
    for _ in range(_TRIES):
        link.sendto(bytes([kind]) + transaction + body, (_SERVERS, 547, 0, index))
        deadline = time.monotonic() + patient(_WAIT)
        while time.monotonic() < deadline:
            try:
                answer = link.recv(4096)
            except TimeoutError:
                break
            if answer[0] == wanted and answer[1:4] == transaction:
                return answer[4:]
    raise LabError("no DHCPv6 server answers")


def _option(kind: int, data: bytes) -> bytes:
    return struct.pack("!2H", kind, len(data)) + data


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        kind, length = struct.unpack_from("!2H", data)
        yield kind, data[4 : 4 + length]
        data = data[4 + length :]
