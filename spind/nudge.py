# SPDX-License-Identifier: GPL-2.0-or-later
"""Has devices say something on TCP connections that are blocked from now on, so that they hear of it.

A blocked connection is reset by the answer to its next packet. A device that only waits for data sends
none: it would wait until its own time-outs, of hours. So each is sent, in the name of the other side, a
segment that it has to answer (``wire.tcp_probe``); the rules refuse the answer, with a reset that fits.

Frames are sent past the rules, which would refuse them, too. Owns one packet socket. Must not decide
which connections.
"""

import contextlib
import secrets
import socket
from collections.abc import Iterable, Sequence

from spind.commands import End
from spind.wire.tcp_probe import tcp_probe

MOST = 200
"""Ends told of one decision: as many resets as the rules send at once. Others hear with their next packet."""

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD


class Nudger:
    """Sends such segments. ``sent`` counts the connections."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self.sent = 0

    def open(self) -> None:
        """Open the socket; ``OSError`` where we may not. It is bound to no protocol, and receives nothing."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setblocking(False)

    def close(self) -> None:
        """Close it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def nudge(self, ends: Sequence[End], interfaces: Iterable[str]) -> None:
        """Have the devices at these ends, behind any of ``interfaces``, say something."""
        if self._socket is None:
            return
        for end in ends[:MOST]:
            packet = tcp_probe(end.peer, end.peer_port, end.address, end.port, secrets.randbits(32))
            kind = _ETH_P_IP if len(end.address) == 4 else _ETH_P_IPV6
            for interface in interfaces:
                with contextlib.suppress(OSError):  # one that is down, or full: the next packet will do
                    self._socket.sendto(packet, (interface, kind, 0, 0, end.mac))
            self.sent += 1
