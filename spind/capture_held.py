# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets that wait until something is decided about their connection.

Owns which packets wait, in which order, how many and how long. What a packet is, and how it gets
its verdict, is the caller's business. Pure: the time is an argument, in seconds of any clock that
does not go back.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from spind.model import ConnKey

HOLD_SECONDS = 3.0
"""How long a connection's first packet waits: TCP has sent it again twice by then (RFC 6298)."""

MAX_CONNECTION_PACKETS = 64
"""Packets of one connection: as many as capture ever looks at for a ClientHello."""

MAX_CONNECTION_BYTES = 32 << 10
"""Bytes of one connection, IP headers included: more than twice what a client sends before the
first answer (ten segments, RFC 6928), and any ClientHello that servers take."""

MAX_PACKETS = 512
"""Packets of all connections: half of the queue for inspection, so that others find room in it."""

T = TypeVar("T")


@dataclass(slots=True)
class _Connection(Generic[T]):
    deadline: float
    packets: list[T] = field(default_factory=list)
    size: int = 0


class Held(Generic[T]):
    """Packets by connection and direction; those of one are in the order they came in."""

    def __init__(self) -> None:
        self._connections: dict[ConnKey, _Connection[T]] = {}  # the longest-waiting first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def deadline(self) -> float | None:
        """When :meth:`expired` next has something to give; ``None`` where nothing waits."""
        for connection in self._connections.values():
            return connection.deadline
        return None

    def add(self, key: ConnKey, packet: T, size: int, now: float) -> list[T]:
        """Let a packet of ``size`` bytes wait. Returns what must be dropped for want of room.

        That is the packet itself, where its connection has as much as it may. Where all have, it is
        the connection that has waited longest: a real ClientHello is complete after milliseconds, while
        who sends only beginnings, to fill this table, would keep everybody's out if the newest went.
        """
        held = self._connections.get(key)
        if held is not None and (
            len(held.packets) >= MAX_CONNECTION_PACKETS or held.size + size > MAX_CONNECTION_BYTES
        ):
            return [packet]
        if size > MAX_CONNECTION_BYTES:
            return [packet]
        dropped = self.take(next(iter(self._connections))) if self._count >= MAX_PACKETS else []
        held = self._connections.setdefault(key, _Connection(now + HOLD_SECONDS))
        held.packets.append(packet)
        held.size += size
        self._count += 1
        return dropped

    def take(self, key: ConnKey) -> list[T]:
        """Remove and return the packets of a connection."""
        held = self._connections.pop(key, None)
        if held is None:
            return []
        self._count -= len(held.packets)
        return held.packets

    def expired(self, now: float) -> list[T]:
        """Remove and return the packets of connections that have waited long enough."""
        over: list[T] = []
        while (deadline := self.deadline) is not None and deadline <= now:
            over += self.take(next(iter(self._connections)))
        return over

    def take_all(self) -> list[T]:
        """Remove and return everything."""
        return self.expired(float("inf"))
