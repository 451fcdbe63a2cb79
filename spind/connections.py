# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections that are alive, each with whom it belongs to and how we know.

Owns the bounded table of attributions. A connection enters with its first packet or with the
first conntrack message about it, and leaves when conntrack says that it ended, or when conntrack
never mentions it (a firewall dropped it).
"""

from collections import OrderedDict
from collections.abc import Iterator

from spind.flows import Counts, FlowKey
from spind.limits import Limits
from spind.model import IPPROTO_TCP, Address, ConnKey, Evidence
from spind.nodes import Node
from spind.wire.stream import Reassembler

EMBRYO_SECONDS = 60.0
"""How long a connection known from its packets alone waits for conntrack to confirm it."""


STREAMS_BYTES = 4 << 20
"""Bytes held for all connections whose first bytes are being put together."""

EXPIRE_MOST = 1000
"""Unconfirmed connections forgotten in one call: less than a millisecond."""


class Conn:
    """One connection and its attribution. ``outbound`` says that the device opened it."""

    __slots__ = (
        "before",
        "cid",
        "counts",
        "device",
        "done",
        "evidence",
        "flow_key",
        "isn",
        "key",
        "lost",
        "name",
        "node",
        "outbound",
        "peer",
        "seen",
        "stream",
        "waits",
    )

    def __init__(self, key: ConnKey, device: Node, node: Node, *, outbound: bool, now: float) -> None:
        self.key = key
        self.device = device
        self.node = node
        self.outbound = outbound
        self.name = ""
        self.evidence = Evidence.NONE
        # What was counted under flow_key, as long as a name may come to light; None before conntrack.
        self.counts: Counts | None = None
        self.cid = 0  # conntrack's, once it has told
        self.isn = -1  # of its SYN
        # The one of the same addresses and ports that conntrack has not ended yet.
        self.before: Conn | None = None
        self.seen = now
        self.stream: Reassembler | None = None
        self.waits = 0.0  # since when packets are held; 0: none
        self.done = key.proto != IPPROTO_TCP  # only TCP's first bytes are looked into
        self.lost = False  # done without an end: there was no room for what it said
        self.flow_key = self.make_flow_key()

    def make_flow_key(self) -> FlowKey:
        """The flow that this connection now belongs to."""
        key = self.key
        # ICMP: the type in place of the port (ConnKey holds type << 8 | code).
        port = key.dport >> 8 if key.proto in (1, 58) else key.dport
        family = 4 if len(key.src) == 4 else 6
        return FlowKey(self.device.id, self.node.id, key.proto, port, family, not self.outbound)

    @property
    def remote(self) -> Address:
        """The address of the party that is not the device."""
        return self.key.dst if self.outbound else self.key.src


class Connections:
    """Connections by key, least recently seen first."""

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.connections
        self._conns: OrderedDict[ConnKey, Conn] = OrderedDict()
        self._embryos: OrderedDict[ConnKey, float] = OrderedDict()
        self._streams: OrderedDict[ConnKey, Conn] = OrderedDict()
        self._stream_limit = limits.streams
        self._stream_bytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._conns)

    def __iter__(self) -> Iterator[Conn]:
        return iter(self._conns.values())

    def get(self, key: ConnKey) -> Conn | None:
        """The connection with exactly this key (initiator to responder)."""
        return self._conns.get(key)

    def add(self, conn: Conn, now: float) -> None:
        """A new connection; the one unseen for longest makes room."""
        if len(self._conns) >= self._limit:
            self.remove(next(iter(self._conns)))
            self.evicted += 1
        self._conns[conn.key] = conn
        if conn.counts is None:
            self._embryos[conn.key] = now

    def seen(self, conn: Conn, now: float) -> None:
        """Conntrack reported traffic of it."""
        conn.seen = now
        if conn.key in self._conns:
            self._conns.move_to_end(conn.key)
        self._embryos.pop(conn.key, None)

    def remove(self, key: ConnKey) -> None:
        """The connection ended."""
        conn = self._conns.pop(key, None)
        self._embryos.pop(key, None)
        if conn is not None and conn.stream is not None:
            self.end_stream(conn)

    def keep_stream(self, conn: Conn) -> None:
        """The connection's first bytes are being put together; the oldest such one gives up."""
        self._streams[conn.key] = conn
        if len(self._streams) > self._stream_limit:
            self._lose_stream()

    def stream_grew(self, size: int) -> None:
        """``size`` more bytes of such connections are held; beyond the bound the oldest give up."""
        self._stream_bytes += size
        while self._stream_bytes > STREAMS_BYTES and self._streams:
            self._lose_stream()

    def _lose_stream(self) -> None:
        oldest = next(iter(self._streams.values()))
        oldest.lost = True
        self.end_stream(oldest)

    def end_stream(self, conn: Conn) -> None:
        """Nothing more is to be learned from the connection's bytes."""
        conn.done = True
        if self._streams.pop(conn.key, None) is not None and conn.stream is not None:
            self._stream_bytes -= conn.stream.held
        conn.stream = None

    def shift(self, delta: float) -> None:
        """The clock was set by ``delta`` seconds."""
        for conn in self._conns.values():
            conn.seen += delta
            if conn.waits:
                conn.waits += delta
        for key in self._embryos:
            self._embryos[key] += delta

    def expire(self, now: float) -> None:
        """Forget connections that conntrack never confirmed, a bounded number a call."""
        for _ in range(EXPIRE_MOST):
            if not self._embryos:
                break
            key, since = next(iter(self._embryos.items()))
            if now - since < EMBRYO_SECONDS:
                break
            self.remove(key)
