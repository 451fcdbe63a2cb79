# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes packets from an NFQUEUE, asks what to do with each, and gives the verdicts.

Owns the queue's socket and its settings. Which packets come here is ``spind.capture_rules``'s; what
they mean is the engine's, behind ``on_packet``. Must never be the reason that a packet is lost:

* nobody listens: the rules say ``bypass``;
* the queue or its socket is full, because we are slow or stopped: ``NFQA_CFG_F_FAIL_OPEN`` lets
  packets pass that find no room. The NetfilterQueue library does not set it, so we do, with a
  message of our own on the library's socket;
* a packet cannot be parsed, or ``on_packet`` fails: it is accepted and counted;
* at the end: the queue is closed to new packets and emptied before it is unbound, since the kernel
  drops what waits in a queue that goes.
"""

import contextlib
import logging
import os
import socket
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from errno import EAGAIN, ENOBUFS
from pathlib import Path
from struct import Struct
from typing import cast

import netfilterqueue

from spind.commands import Verdict
from spind.events import PacketSeen
from spind.wire.errors import WireError
from spind.wire.netlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    error_code,
    messages,
    pack_attribute,
    pack_message,
)
from spind.wire.packet import parse_ip

_LOG = logging.getLogger(__name__)

# linux/netfilter/nfnetlink_queue.h
_QUEUE_PACKET = 0x300  # NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET
_QUEUE_CONFIG = 0x302
_CFG_PARAMS = 2
_CFG_QUEUE_MAXLEN = 3
_CFG_MASK = 4
_CFG_FLAGS = 5
_F_FAIL_OPEN = 1
_F_GSO = 4
_COPY_PACKET = 2

_NFGENMSG = Struct("!BBH")
_PARAMS = Struct("!IB")
_U32 = Struct("!I")

_DNS = 53

# linux/netfilter.h: the only hook where a mark on the packet may be changed without harm; in
# LOCAL_OUT a changed mark makes the kernel route the packet again.
_NF_INET_FORWARD = 2

# Packets that may wait for a verdict. At 5,000 new connections a second this is a stall of 100 ms;
# a stopped daemon holds up so many packets and no more.
_QUEUE_LENGTH = 512

# Kernel memory for packets on their way to us. A SYN takes 1 KiB of it.
_RECEIVE_BUFFER = 4 << 20

# The whole packet. The library asks for 4,016 bytes: too few for DNS answers over TCP.
_COPY_BYTES = 65_531
_MESSAGE_BYTES = _COPY_BYTES + 512

# A slice of packets: at most so many, and no more once so many seconds have gone by.
_SLICE_PACKETS = 64
_SLICE_SECONDS = 0.0015

# At the end at most so many slices are taken, should packets keep coming.
_LAST_SLICES = 1_000

# Kinds of failure that are logged, each once.
_MAX_LOGGED = 20


class Capture:
    """One queue. ``on_packet`` decides about each packet, and must not block.

    ``is_lan(index)`` tells whether the interface of that index belongs to the home's side.
    ``done_mark`` is the mark bit that tells the rules to queue no more of a connection (0: none).
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        queue: int,
        on_packet: Callable[[PacketSeen], Verdict],
        is_lan: Callable[[int], bool],
        *,
        done_mark: int = 0,
        queue_length: int = _QUEUE_LENGTH,
    ) -> None:
        self._loop = loop
        self._queue = queue
        self._on_packet = on_packet
        self._is_lan = is_lan
        self._done_mark = done_mark
        self._queue_length = queue_length
        self._nfqueue: netfilterqueue.NetfilterQueue | None = None
        self._socket: _SlicedSocket | None = None
        self._draining = False
        self._logged: set[str] = set()
        self._received = 0
        self._malformed = 0
        self._failed = 0
        self._dropped = 0
        self._done = 0
        self.fail_open = False

    def start(self) -> None:
        """Bind the queue. Raises ``OSError`` where another process has it, or we may not."""
        nfqueue = netfilterqueue.NetfilterQueue()
        nfqueue.bind(self._queue, self._handle, max_len=self._queue_length, sock_len=_RECEIVE_BUFFER)
        self._nfqueue = nfqueue
        self._socket = _SlicedSocket(socket.socket(fileno=os.dup(nfqueue.get_fd())))
        params = pack_attribute(_CFG_PARAMS, _PARAMS.pack(_COPY_BYTES, _COPY_PACKET))
        # Without F_GSO the kernel would cut aggregated packets into segments, and ask about each.
        for flags in (_F_FAIL_OPEN | _F_GSO, _F_FAIL_OPEN):
            error = self._configure(
                params
                + pack_attribute(_CFG_MASK, _U32.pack(flags))
                + pack_attribute(_CFG_FLAGS, _U32.pack(flags))
            )
            if not error:
                self.fail_open = True
                break
            _LOG.warning("queue %d: flags %#x refused: %s", self._queue, flags, os.strerror(error))
        else:
            _LOG.error("queue %d cannot fail open: a stuck daemon would stop new connections", self._queue)
        self._loop.add_reader(self._socket.fileno(), self._on_readable)
        self._loop.call_soon(self._on_readable)  # for what came while we asked

    def stop(self) -> None:
        """Let all waiting packets go and unbind. Remove the rules after that: see ``CaptureRules.stop``.

        Packets that come meanwhile pass: first the queue is full for them, then it is not there.
        """
        if self._nfqueue is None or self._socket is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._draining = True
        if self.fail_open:
            self._configure(pack_attribute(_CFG_QUEUE_MAXLEN, _U32.pack(0)))
        for _slice in range(_LAST_SLICES):
            self._on_readable()
            if self._socket.empty:
                break
        self._nfqueue.unbind()
        self._socket.close()
        self._nfqueue = self._socket = None

    def counters(self) -> dict[str, int]:
        """Numbers for ``status``."""
        overflow = self._socket.overflows if self._socket is not None else 0
        kernel = kernel_queue(self._queue)
        return {
            "capture.received": self._received,
            "capture.malformed": self._malformed,
            "capture.failed": self._failed,
            "capture.dropped": self._dropped,
            "capture.done": self._done,
            "capture.overflows": overflow,
            "capture.waiting": kernel.get("waiting", 0),
            "capture.queue_dropped": kernel.get("queue_dropped", 0),
            "capture.user_dropped": kernel.get("user_dropped", 0),
            "capture.queued": kernel.get("queued", 0),
        }

    def _on_readable(self) -> None:
        """Handle a slice of packets; the event loop calls again while there are more."""
        if self._socket is not None and self._nfqueue is not None:
            self._socket.begin_slice()
            self._nfqueue.run_socket(cast("socket.socket", self._socket))

    def _handle(self, packet: netfilterqueue.Packet) -> None:
        """Give one packet its verdict. Must not raise: the library would give up its buffer."""
        self._received += 1
        verdict = None
        if not self._draining:
            verdict = self._ask(packet)
        try:
            if verdict is None:
                packet.accept()
                return
            if not verdict.accept:
                self._dropped += 1
                packet.drop()
                return
            if not (verdict.done and packet.hook == _NF_INET_FORWARD and self._may_mark(packet)):
                packet.accept()
                return
            # Once more through the same hook, whose first rule takes the bit to the connection's
            # mark and accepts.
            self._done += 1
            packet.set_mark(packet.mark | self._done_mark)
            packet.repeat()
        except (OSError, RuntimeError) as error:
            self._complain("verdict", error)

    def _may_mark(self, packet: netfilterqueue.Packet) -> bool:
        """Whether there is a bit to set. One that is set came back from rules that are gone."""
        return self._done_mark != 0 and not packet.mark & self._done_mark

    def _ask(self, packet: netfilterqueue.Packet) -> Verdict | None:
        """Ask ``on_packet``; ``None`` where the packet cannot be understood or that failed."""
        try:
            parsed = parse_ip(packet.get_payload())
        except WireError:
            self._malformed += 1
            return None
        except Exception as error:
            self._malformed += 1
            self._complain("parser", error)
            return None
        try:
            # Of a bridge we know its ports (mode bridge) or itself (the others).
            from_lan = any(index and self._is_lan(index) for index in (packet.physindev, packet.indev))
            mac = packet.get_hw() if from_lan else None
            verdict = self._on_packet(PacketSeen(parsed, mac[:6] if mac else None, from_lan))
        except Exception as error:
            self._failed += 1
            self._complain("handler", error)
            return None
        if verdict.done and _DNS in (parsed.sport, parsed.dport):
            return verdict._replace(done=False)  # each query and answer is wanted, whatever came before
        return verdict

    def _complain(self, where: str, error: Exception) -> None:
        """Log a failure, once of its kind."""
        kind = f"{where} {type(error).__name__}"
        if kind not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(kind)
            _LOG.error("queue %d: %s failed", self._queue, where, exc_info=error)

    def _configure(self, attributes: bytes) -> int:
        """Change settings of the queue on the library's own socket; 0 or the kernel's errno."""
        if self._socket is None:
            return EAGAIN
        return self._socket.ask(_QUEUE_CONFIG, _NFGENMSG.pack(0, 0, self._queue) + attributes)


class _SlicedSocket:
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
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def begin_slice(self) -> None:
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


_PACKET_TYPE = HEADER.pack(0, _QUEUE_PACKET, 0, 0, 0)[4:6]


def kernel_queue(queue: int) -> dict[str, int]:
    """Numbers that the kernel keeps for a queue; empty where it is not bound.

    ``/proc/net/netfilter/nfnetlink_queue``: queue, port id, waiting, copy mode, copy range, dropped
    because the queue was full, dropped because the socket was, id of the last packet.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/net/netfilter/nfnetlink_queue").read_text().splitlines():
            fields = [int(field) for field in line.split()]
            if len(fields) >= 8 and fields[0] == queue:
                return {
                    "port": fields[1],
                    "waiting": fields[2],
                    "queue_dropped": fields[5],
                    "user_dropped": fields[6],
                    "queued": fields[7],
                }
    return {}
