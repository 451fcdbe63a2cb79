# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports of blocked packets, as the blocking rules send them through NFLOG.

Owns the socket of the log group. Which packets are reported, and how many at most, is the rules'
business: every blocked packet is counted in the kernel, whether it is reported or not. What a report
means is the engine's.
"""

import contextlib
import errno
import os
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from pathlib import Path
from socket import socket

from spind.events import BlockedSeen
from spind.netlink_socket import NETLINK_NETFILTER, open_netlink, request
from spind.wire.errors import WireError
from spind.wire.netlink import NLM_F_ACK, NLMSG_ERROR, Message, error_code, messages
from spind.wire.nflog import LOG_CONFIG, LOG_PACKET, bind_request, parse_logged
from spind.wire.packet import parse_ip

PREFIX_UP = "spin up"
"""What the rules write before a packet that came from the home."""

PREFIX_DOWN = "spin down"
"""What the rules write before a packet that goes to the home."""

COPY_BYTES = 128
"""Of each packet: room for IPv6 with extension headers, and TCP with all its options."""

# The kernel collects reports for so long (hundredths of a second) or so many bytes (of which a report
# takes 250 or so): a burst is a few messages, and one report alone is not late.
_COLLECT_TIME = 5
_COLLECT_BYTES = 4_096
_BYTES = 16_384  # asked for at once

# Kernel memory for reports on their way to us. The rules let pass 20 a second, of which each collected
# message takes less than 8 KiB: this is a stall of six seconds.
_RECEIVE_BUFFER = 1 << 20

# A slice: no further buffer once so many seconds have gone by. A buffer takes half a millisecond.
_SLICE_SECONDS = 0.001

_GROUPS = Path("/proc/net/netfilter/nfnetlink_log")


class BlockLog:
    """Calls ``on_report`` for each packet that is logged to ``group``.

    ``is_lan(index)`` tells whether the interface of that index belongs to the home's side.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        group: int,
        on_report: Callable[[BlockedSeen], None],
        is_lan: Callable[[int], bool],
    ) -> None:
        self._loop = loop
        self._group = group
        self._on_report = on_report
        self._is_lan = is_lan
        self._socket: socket | None = None
        self._reported = 0
        self._overflows = 0
        self._malformed = 0

    def start(self) -> None:
        """Subscribe. ``OSError`` with a sentence where the kernel cannot, or another has the group."""
        with contextlib.ExitStack() as stack:
            sock = open_netlink(NETLINK_NETFILTER, (), _RECEIVE_BUFFER)
            stack.callback(sock.close)
            self._subscribe(sock)
            stack.pop_all()
        self._socket = sock
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def stop(self) -> None:
        """Close the socket: what is logged from now on is reported to nobody."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def counters(self) -> dict[str, int]:
        """Numbers for ``status``."""
        return {
            "block.reported": self._reported,
            "block.log_overflows": self._overflows,
            "block.log_malformed": self._malformed,
        }

    def _subscribe(self, sock: socket) -> None:
        """Ask for the group. The kernel's answer is there before ``send`` returns."""
        body = bind_request(
            self._group, copy_range=COPY_BYTES, buffer_size=_COLLECT_BYTES, timeout=_COLLECT_TIME
        )
        request(sock, LOG_CONFIG, NLM_F_ACK, 1, body)
        while True:
            data = sock.recv(_BYTES)
            for message in messages(data):
                if message.type == NLMSG_ERROR:
                    error = error_code(data, message)
                    if error:
                        raise OSError(error, self._sentence(error))
                    return

    def _sentence(self, error: int) -> str:
        if error == errno.EBUSY or (error == errno.EPERM and _is_taken(self._group)):
            return f"log group {self._group} is used by another program"
        if error == errno.EINVAL:
            return "the kernel has no nfnetlink_log"
        return f"log group {self._group}: {os.strerror(error)}"

    def _on_readable(self) -> None:
        """Take a slice of reports; the event loop calls again while there are more."""
        if self._socket is None:
            return
        receive, stop_at = self._socket.recv, time.perf_counter() + _SLICE_SECONDS
        while True:
            try:
                self._take(receive(_BYTES))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._overflows += 1
            if self._socket is None or time.perf_counter() > stop_at:
                return

    def _take(self, data: bytes) -> None:
        try:
            for message in messages(data):
                if message.type == LOG_PACKET:
                    self._report(data, message)
        except WireError:
            self._malformed += 1

    def _report(self, data: bytes, message: Message) -> None:
        try:
            logged = parse_logged(data, message.start, message.end)
            packet = parse_ip(logged.payload)
        except WireError:
            self._malformed += 1
            return
        if logged.prefix not in (PREFIX_UP, PREFIX_DOWN):
            self._malformed += 1
            return
        # Of a bridge we know its ports (mode bridge) or itself (the others).
        from_home = any(index and self._is_lan(index) for index in (logged.physindev, logged.indev))
        self._reported += 1
        self._on_report(BlockedSeen(packet, logged.mac if from_home else None, logged.prefix == PREFIX_UP))


def _is_taken(group: int) -> bool:
    """Whether somebody has the group: the kernel tells who may not, not why.

    ``/proc/net/netfilter/nfnetlink_log``: group, port id, packets that wait, and more.
    """
    with contextlib.suppress(OSError):
        return any(line.split()[:1] == [str(group)] for line in _GROUPS.read_text().splitlines())
    return False
