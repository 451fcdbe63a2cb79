# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket of a queue, between the NetfilterQueue library and the event loop.

Owns what the library cannot do on its own socket: to read a slice of packets and no more, whole
packets, and to ask the kernel something and hear its answer. Which packets those are, and what
becomes of them, is ``capture``'s business.
"""

import socket
import time
from errno import EAGAIN, ENOBUFS

from spind.wire.netlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    error_code,
    messages,
    pack_message,
)

_QUEUE_PACKET = 0x300  # linux/netfilter/nfnetlink_queue.h: NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET
_PACKET_TYPE = HEADER.pack(0, _QUEUE_PACKET, 0, 0, 0)[4:6]

COPY_BYTES = 65_531
"""The whole packet. The library asks for 4,016 bytes: too few for DNS answers over TCP."""

_MESSAGE_BYTES = COPY_BYTES + 512

# A slice of packets: at most so many, and no more once so many seconds have gone by.
_SLICE_PACKETS = 64
_SLICE_SECONDS = 0.0015


class SlicedSocket:
    """What ``run_socket`` reads from: hands out one slice, then pretends to be empty.

    So the library's endless loop returns to ours, which calls again since the socket is still
    readable. Keeps replies to our own requests away from the library.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._backlog: list[bytes] = []
        self._left = 0
        self._stop_at = 0.0
        self._sequence = 0x5350494E  # apart from the library's, which are Unix times at its start
        self.overflows = 0
        self.empty = False

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this descriptor; the library has another."""
        self._socket.close()

    def begin_slice(self) -> None:
        """Hand out packets again."""
        self.empty = False
        self._left = _SLICE_PACKETS
        self._stop_at = time.perf_counter() + _SLICE_SECONDS

    def recv(self, _size: int) -> bytes:
        """Return the next packet message; ``BlockingIOError`` at the end of the slice."""
        self._left -= 1
        if self._left < 0 or time.perf_counter() > self._stop_at:
            raise BlockingIOError(EAGAIN, "end of slice")
        if self._backlog:
            return self._backlog.pop(0)
        while True:
            try:
                data = self._receive()
            except BlockingIOError:
                self.empty = True
                raise
            if data[4:6] == _PACKET_TYPE:
                return data

    def ask(self, kind: int, payload: bytes) -> int:
        """Send a request and return 0, or the errno that the kernel answered with.

        The kernel answers before ``send`` returns, so nothing is waited for; packets that stand
        before the answer are kept for the next slice.
        """
        self._sequence += 1
        self._socket.send(pack_message(kind, NLM_F_REQUEST | NLM_F_ACK, self._sequence, payload))
        while True:
            try:
                data = self._receive()
            except BlockingIOError:
                return EAGAIN
            if data[4:6] == _PACKET_TYPE:
                self._backlog.append(data)
                continue
            for message in messages(data):
                if message.type == NLMSG_ERROR and message.seq == self._sequence:
                    return error_code(data, message)

    def _receive(self) -> bytes:
        while True:
            try:
                # The library shares the open file: its flags are not ours to change.
                return self._socket.recv(_MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                self.overflows += 1
