# SPDX-License-Identifier: GPL-2.0-or-later
"""What the internet's servers received and sent, per peer, so that a test can compare. No I/O.

Bounded: beyond ``MAX_PEERS`` the peer that was added first is forgotten and counted as evicted;
the totals per service go on regardless.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_PEERS = 100_000


class Peer(NamedTuple):
    """One connection or datagram association, as the server sees it."""

    proto: str
    local: str
    local_port: int
    remote: str
    remote_port: int


@dataclass(slots=True)
class Counts:
    """Payload bytes, and how many requests or datagrams they came in."""

    received: int = 0
    sent: int = 0
    requests: int = 0
    name: str = ""


@dataclass
class Tally:
    """Counts per peer and per service (``proto/port``)."""

    peers: dict[Peer, Counts] = field(default_factory=dict)
    services: dict[str, Counts] = field(default_factory=dict)
    evicted: int = 0

    def peer(self, peer: Peer) -> Counts:
        """The counts of ``peer``, made where they are new."""
        counts = self.peers.get(peer)
        if counts is None:
            if len(self.peers) >= MAX_PEERS:
                del self.peers[next(iter(self.peers))]
                self.evicted += 1
            counts = self.peers[peer] = Counts()
        return counts

    def add(self, peer: Peer, received: int = 0, sent: int = 0, requests: int = 0, name: str = "") -> None:
        """Count for ``peer`` and for its service; ``name`` is the last SNI or Host it asked for."""
        service = self.services.setdefault(f"{peer.proto}/{peer.local_port}", Counts())
        for counts in (self.peer(peer), service):
            counts.received += received
            counts.sent += sent
            counts.requests += requests
        if name:
            self.peer(peer).name = name

    def clear(self) -> None:
        """Forget everything."""
        self.peers.clear()
        self.services.clear()
        self.evicted = 0

    def as_json(self) -> dict[str, Any]:
        """Plain data: ``{"peers": [...], "services": {...}, "evicted": n}``."""
        return {
            "peers": [{**peer._asdict(), **_plain(counts)} for peer, counts in self.peers.items()],
            "services": {service: _plain(counts) for service, counts in self.services.items()},
            "evicted": self.evicted,
        }


def _plain(counts: Counts) -> dict[str, Any]:
    return {
        "received": counts.received,
        "sent": counts.sent,
        "requests": counts.requests,
        "name": counts.name,
    }
