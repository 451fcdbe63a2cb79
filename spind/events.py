# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens, as the engine is told: the only way its state changes.

Adapters build these from packets, kernel messages and calls; ``replay`` builds the same ones
from a capture file. The time is not in an event: it is the second argument of
``Engine.handle(event, now)``, in seconds (Unix time, float).
"""

from collections.abc import Mapping
from typing import NamedTuple

from spind.changes import Change
from spind.model import Address, ConnKey, Mac
from spind.profiles import BUILTIN, Profile
from spind.rules import Rule
from spind.ruleset import Placement
from spind.wire.packet import Packet


class PacketSeen(NamedTuple):
    """A packet of the kind that capture asks for: a connection's first ones, or DNS.

    ``mac`` is the sender's MAC where the packet came from the home's side, else ``None``.
    ``inspect`` says that it goes to an address where some names are blocked: it must not go on
    before it is known which one its connection is for. ``data`` is the whole packet, for who would
    change it; empty where it does not wait for a verdict.
    """

    packet: Packet
    mac: Mac | None
    from_lan: bool
    inspect: bool = False
    data: bytes = b""


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

    ``nodes`` maps a device's MAC, or a site's registrable domain or address, to (name, ignored,
    profile). ``profiles`` are all there are, by name. ``new_device_profile`` is given to devices that
    were never seen before, ``refused`` are the names and addresses of DoH resolvers to refuse.
    """

    nodes: dict[str, tuple[str, bool, str]]
    ignored_addresses: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    profiles: Mapping[str, Profile] = BUILTIN
    new_device_profile: str = ""
    resolvers: tuple[str, ...] = ()
    refuse: bool = False
    dots_enabled: bool = False
    dots_log_only: bool = False


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


class SetProfile(NamedTuple):
    """Device node ``node`` gets a profile; an empty name takes it back."""

    node: int
    profile: str


class PutRules(NamedTuple):
    """Rules are made, or changed where their ids are known."""

    rules: tuple[Rule, ...]


class RemoveRules(NamedTuple):
    """Rules are taken back, by id."""

    ids: tuple[int, ...]


class PutProfile(NamedTuple):
    """A profile is made or changed; ``None`` takes it back."""

    name: str
    profile: Profile | None


class Restore(NamedTuple):
    """What people decided is to be what it was: undo."""

    changes: tuple[Change, ...]


class AssignAddress(NamedTuple):
    """Node ``node`` (0: a new one) has ``address``, people say."""

    node: int
    address: Address


class Placed(NamedTuple):
    """Where the blocking rules stand from now on."""

    placement: Placement


class Recheck(NamedTuple):
    """Rules may not have been in force for a moment: connections that began then may go on past them.

    What a flow table forwards meets no rule, however long ago the rules were put back.
    """


class NameRemembered(NamedTuple):
    """From before a restart: ``name`` had ``address``, by an answer that ends at ``expires``."""

    address: Address
    name: str
    expires: float


class BlockedSeen(NamedTuple):
    """The kernel blocked a packet, and reports it: some of them, within a rate.

    ``mac`` is the sender's; ``up`` says that it was on its way from the home. The payload may be
    cut short.
    """

    packet: Packet
    mac: Mac | None
    up: bool


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
    | SetProfile
    | PutRules
    | RemoveRules
    | PutProfile
    | Restore
    | AssignAddress
    | Placed
    | Recheck
    | NameRemembered
    | BlockedSeen
)
