# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes packets from an NFQUEUE, asks what to do with each, and gives the verdicts.

Owns the queue's settings. Which packets come here is ``spind.capture_rules``'s; what they mean is the
engine's, behind ``on_packet``; how many may be held, and how long, is ``spind.capture_held``'s. Must
never be the reason that a packet is lost:

* nobody listens: the rules say ``bypass``;
* the queue or its socket is full, because we are slow or stopped: ``NFQA_CFG_F_FAIL_OPEN`` lets
  packets pass that find no room. The NetfilterQueue library does not set it, so we do, with a
  message of our own on the library's socket;
* a packet cannot be parsed, or ``on_packet`` fails: it is accepted and counted;
* at the end: the queue is closed to new packets and emptied before it is unbound, since the kernel
  drops what waits in a queue that goes. What is held goes on, too.

The queue for inspection is different: its packets go to addresses where some names are blocked, and
must not pass unseen while we are there. It does not fail open (TCP sends again what is dropped), and
what cannot be parsed, or fails, is dropped. Only the rules' ``bypass`` and the end are the same.
"""

import contextlib
import logging
import os
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from errno import EAGAIN
from pathlib import Path
from struct import Struct
from typing import cast

import netfilterqueue

from spind.capture_held import Held
from spind.capture_socket import COPY_BYTES, SlicedSocket
from spind.commands import Verdict
from spind.events import PacketSeen
from spind.model import ConnKey
from spind.wire.errors import WireError
from spind.wire.netlink import pack_attribute
from spind.wire.packet import Packet, parse_ip

_LOG = logging.getLogger(__name__)

# linux/netfilter/nfnetlink_queue.h
_QUEUE_CONFIG = 0x302  # NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG
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
# LOCAL_OUT a changed mark makes the kernel route the packet again. Inspection takes that: its bit is
# there already, and comes off.
_NF_INET_FORWARD = 2
_NF_INET_LOCAL_OUT = 3

# Packets that may wait for a verdict. At 5,000 new connections a second this is a stall of 100 ms;
# a stopped daemon holds up so many packets and no more.
_QUEUE_LENGTH = 512
# Those for inspection, of which half may be held. What finds no room is dropped.
_INSPECT_LENGTH = 1_024

# Kernel memory for packets on their way to us. A SYN takes 1 KiB of it.
_RECEIVE_BUFFER = 4 << 20

# At the end at most so many slices are taken, should packets keep coming.
_LAST_SLICES = 1_000

# Kinds of failure that are logged, each once.
_MAX_LOGGED = 20


class Capture:
    """One queue. ``on_packet`` decides about each packet, and must not block.

    ``is_lan(index)`` tells whether the interface of that index belongs to the home's side.
    ``done_mark`` is the mark bit that tells the rules to queue no more of a connection (0: none),
    ``cut_mark`` the one that tells them to reset it (0: none; then its packets are dropped).
    ``inspect`` makes this the queue for inspection, whose packets carry ``inspect_mark``.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        queue: int,
        on_packet: Callable[[PacketSeen], Verdict],
        is_lan: Callable[[int], bool],
        *,
        done_mark: int = 0,
        cut_mark: int = 0,
        inspect_mark: int = 0,
        inspect: bool = False,
        queue_length: int = 0,
    ) -> None:
        self._loop = loop
        self._queue = queue
        self._on_packet = on_packet
        self._is_lan = is_lan
        self._done_mark = done_mark
        self._cut_mark = cut_mark
        self._inspect = inspect
        self._inspect_mark = inspect_mark if inspect else 0
        self._queue_length = queue_length or (_INSPECT_LENGTH if inspect else _QUEUE_LENGTH)
        self._markable = (_NF_INET_FORWARD, _NF_INET_LOCAL_OUT) if inspect else (_NF_INET_FORWARD,)
        self._nfqueue: netfilterqueue.NetfilterQueue | None = None
        self._socket: SlicedSocket | None = None
        self._held: Held[netfilterqueue.Packet] = Held()
        self._timer: TimerHandle | None = None
        self._draining = False
        self._logged: set[str] = set()
        self._received = 0
        self._malformed = 0
        self._failed = 0
        self._dropped = 0
        self._done = 0
        self._cut = 0
        self._changed = 0
        self._expired = 0
        self._crowded = 0
        self.fail_open = False

    @property
    def inspects(self) -> bool:
        """Is it the queue for inspection, which does not fail open?"""
        return self._inspect

    def start(self) -> None:
        """Bind the queue. Raises ``OSError`` where another process has it, or we may not."""
        nfqueue = netfilterqueue.NetfilterQueue()
        nfqueue.bind(self._queue, self._handle, max_len=self._queue_length, sock_len=_RECEIVE_BUFFER)
        self._nfqueue = nfqueue
        self._socket = SlicedSocket(socket.socket(fileno=os.dup(nfqueue.get_fd())))
        wanted = 0 if self._inspect else _F_FAIL_OPEN
        # Without F_GSO the kernel would cut aggregated packets into segments, and ask about each.
        for flags in (wanted | _F_GSO, wanted):
            error = self._set_flags(flags)
            if not error:
                self.fail_open = bool(wanted)
                break
            _LOG.warning("queue %d: flags %#x refused: %s", self._queue, flags, os.strerror(error))
        else:
            _LOG.error("queue %d takes no settings: a stuck daemon would stop new connections", self._queue)
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
        if self._timer is not None:
            self._timer.cancel()
        for packet in self._held.take_all():
            self._settle(self._accept, packet)
        if self._inspect:  # no longer
            self.fail_open = not self._set_flags(_F_FAIL_OPEN)
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
            "capture.cut": self._cut,
            "capture.changed": self._changed,
            "capture.held": len(self._held),
            "capture.held_expired": self._expired,
            "capture.held_crowded": self._crowded,
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
        """Give one packet its verdict, or hold it. Must not raise: the library would give up its buffer."""
        self._received += 1
        if self._draining:
            self._settle(self._accept, packet)
            return
        data = packet.get_payload()
        parsed = self._parse(data)
        verdict = None if parsed is None else self._ask(packet, parsed, data)
        if parsed is None or verdict is None:
            self._settle(self._drop if self._inspect else self._accept, packet)
        elif verdict.hold:
            self._hold(packet, parsed)
        else:
            if self._held and (verdict.done or verdict.cut or not verdict.accept):
                self._settle_held(parsed.key, verdict)
            try:
                self._carry_out(packet, parsed, verdict)
            except (OSError, RuntimeError) as error:
                self._complain("verdict", error)

    def _parse(self, data: bytes) -> Packet | None:
        try:
            return parse_ip(data)
        except WireError as error:
            self._malformed += 1
            if self._inspect:
                self._complain("parser", error)
        except Exception as error:
            self._malformed += 1
            self._complain("parser", error)
        return None

    def _ask(self, packet: netfilterqueue.Packet, parsed: Packet, data: bytes) -> Verdict | None:
        """Ask ``on_packet``; ``None`` where that failed."""
        try:
            # Of a bridge we know its ports (mode bridge) or itself (the others).
            from_lan = any(index and self._is_lan(index) for index in (packet.physindev, packet.indev))
            mac = packet.get_hw() if from_lan else None
            mac = mac[:6] if mac else None
            return self._on_packet(PacketSeen(parsed, mac, from_lan, self._inspect, data))
        except Exception as error:
            self._failed += 1
            self._complain("handler", error)
            return None

    def _carry_out(self, packet: netfilterqueue.Packet, parsed: Packet, verdict: Verdict) -> None:
        if verdict.cut:
            self._cut += 1
            if self._may_mark(packet, self._cut_mark):
                self._repeat(packet, self._cut_mark)
            else:
                self._drop(packet)
        elif not verdict.accept:
            self._drop(packet)
        elif verdict.payload is not None:
            self._changed += 1
            packet.set_payload(verdict.payload)
            self._accept(packet)
        elif (
            verdict.done
            and _DNS not in (parsed.sport, parsed.dport)  # each message is wanted, whatever came before
            and self._may_mark(packet, self._done_mark)
        ):
            self._done += 1
            self._repeat(packet, self._done_mark)
        else:
            self._accept(packet)

    def _may_mark(self, packet: netfilterqueue.Packet, bit: int) -> bool:
        """Whether there is a bit to set. One that is set came back from rules that are gone."""
        return bit != 0 and not packet.mark & bit and packet.hook in self._markable

    def _repeat(self, packet: netfilterqueue.Packet, bit: int) -> None:
        """Once more through the same hook, whose first rules take the bit to the connection's mark."""
        packet.set_mark(packet.mark & ~self._inspect_mark | bit)
        packet.repeat()

    def _accept(self, packet: netfilterqueue.Packet) -> None:
        if packet.mark & self._inspect_mark:
            packet.set_mark(packet.mark & ~self._inspect_mark)
        packet.accept()

    def _drop(self, packet: netfilterqueue.Packet) -> None:
        self._dropped += 1
        packet.drop()

    def _settle(self, give: Callable[[netfilterqueue.Packet], None], packet: netfilterqueue.Packet) -> None:
        try:
            give(packet)
        except (OSError, RuntimeError) as error:
            self._complain("verdict", error)

    def _hold(self, packet: netfilterqueue.Packet, parsed: Packet) -> None:
        """Keep the packet; its verdict needs its number and mark, not its content."""
        crowded = self._held.add(parsed.key, packet, parsed.length, self._loop.time())
        self._crowded += len(crowded)
        for one in crowded:
            self._settle(self._drop, one)
        self._wake_at(self._held.deadline)

    def _settle_held(self, key: ConnKey, verdict: Verdict) -> None:
        """What was decided about a connection, for its packets that wait for it."""
        give = self._accept if verdict.accept and not verdict.cut else self._drop
        for packet in self._held.take(key):
            self._settle(give, packet)

    def _wake_at(self, deadline: float | None) -> None:
        """See to it that held packets expire: one timer, for the longest-waiting."""
        if deadline is not None and self._timer is None:
            self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for packet in self._held.expired(self._loop.time()):
            self._expired += 1
            self._settle(self._drop, packet)
        self._wake_at(self._held.deadline)

    def _complain(self, where: str, error: Exception) -> None:
        """Log a failure, once of its kind."""
        kind = f"{where} {type(error).__name__}"
        if kind not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(kind)
            _LOG.error("queue %d: %s failed", self._queue, where, exc_info=error)

    def _set_flags(self, flags: int) -> int:
        return self._configure(
            pack_attribute(_CFG_PARAMS, _PARAMS.pack(COPY_BYTES, _COPY_PACKET))
            + pack_attribute(_CFG_MASK, _U32.pack(_F_FAIL_OPEN | _F_GSO))
            + pack_attribute(_CFG_FLAGS, _U32.pack(flags))
        )

    def _configure(self, attributes: bytes) -> int:
        """Change settings of the queue on the library's own socket; 0 or the kernel's errno."""
        if self._socket is None:
            return EAGAIN
        return self._socket.ask(_QUEUE_CONFIG, _NFGENMSG.pack(0, 0, self._queue) + attributes)


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
