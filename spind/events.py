# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens, as the engine is told: the only way its state changes.

Adapters build these from packets, kernel messages and calls; ``replay`` builds the same ones
from a capture file. The time is not in an event: it is the second argument of
``Engine.handle(event, now)``, in seconds (Unix time, float).
"""

from typing import NamedTuple

from spind.model import Address, ConnKey, Mac
from spind.wire.packet import Packet


class PacketSeen(NamedTuple):
    """A packet of the kind that capture asks for: a connection's first ones, or DNS.

    ``mac`` is the sender's MAC where the packet came from the home's side, else ``None``.
    ``inspect`` says that it goes to an address where some names are blocked: it must not go on
    before it is known which one its connection is for.
    """

    packet: Packet
    mac: Mac | None
    from_lan: bool
    inspect: bool = False


class ConnDelta(NamedTuple):
    """What a connection transferred since it was last reported, from conntrack accounting.

    ``orig`` counts from ``key.src`` to ``key.dst``, ``reply`` the other way; bytes are
    IP-layer bytes. ``ended`` says that the kernel has forgotten the connection.
    """

    cid: int
    key: ConnKey
    orig_packets: int
    orig_bytes: int
    reply_packets: int
    reply_bytes: int
    ended: bool


class Traffic(NamedTuple):
    """Deltas of one buffer of conntrack messages."""

    deltas: list[ConnDelta]


class TrafficEnd(NamedTuple):
    """A whole conntrack dump has been delivered: totals are consistent, report now.

    ``entries`` is the number of connections in the table. ``resynced`` says that events
    had been lost before it.
    """

    entries: int
    resynced: bool


class NeighbourSeen(NamedTuple):
    """The kernel resolved ``address`` to ``mac`` on the home's side (ARP, NDP)."""

    address: Address
    mac: Mac


class NeighbourGone(NamedTuple):
    """The kernel forgot the neighbour, or its resolution failed."""

    address: Address
    mac: Mac | None


class LeaseSeen(NamedTuple):
    """A DHCP lease: the address that a device was given and the name it asked for, if any."""

    mac: Mac
    address: Address
    hostname: str


class LocalAddresses(NamedTuple):
    """The gateway's own addresses and MACs, and the home's prefixes as (network, bits)."""

    addresses: frozenset[Address]
    macs: frozenset[Mac]
    prefixes: tuple[tuple[Address, int], ...]


class Tick(NamedTuple):
    """Time passes; sent about once a second."""


class KernelCounters(NamedTuple):
    """Counters that adapters keep and ``status`` shows, by dotted name."""

    values: dict[str, int]


class Decided(NamedTuple):
    """What the configuration says people decided: at start, and after each reload.

    ``nodes`` maps a device's MAC, or a site's registrable domain or address, to (name, ignored).
    """

    nodes: dict[str, tuple[str, bool]]
    ignored_addresses: tuple[str, ...]


class SetName(NamedTuple):
    """Call node ``node`` by ``name``; an empty name takes it back."""

    node: int
    name: str


class SetIgnored(NamedTuple):
    """Hide node ``node`` from views, or show it again."""

    node: int
    ignored: bool


class IgnoreAddress(NamedTuple):
    """Hide an address or prefix (text, CIDR) from views, or show it again."""

    address: str
    ignored: bool


class ResetIgnored(NamedTuple):
    """Show everything again."""


class AssignAddress(NamedTuple):
    """Node ``node`` (0: a new one) has ``address``, people say."""

    node: int
    address: Address


Event = (
    PacketSeen
    | Traffic
    | TrafficEnd
    | NeighbourSeen
    | NeighbourGone
    | LeaseSeen
    | LocalAddresses
    | Tick
    | KernelCounters
    | Decided
    | SetName
    | SetIgnored
    | IgnoreAddress
    | ResetIgnored
    | AssignAddress
)
