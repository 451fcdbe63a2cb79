# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine wants done: values that adapters carry out.

A command holds all that its adapter needs, in the shapes of API.md, so that no adapter reads
the engine's tables. The order of a list of commands matters: a node is announced before the
first message that mentions it.
"""

from typing import NamedTuple

Json = dict[str, object]


class Verdict(NamedTuple):
    """Let the packet of this event go on (or not).

    ``done`` says that nothing more is to be learned from the connection, so that the kernel
    need not queue its packets any longer.
    """

    accept: bool
    done: bool


class NodeChanged(NamedTuple):
    """A node is new or changed; ``node`` has the shape of ``get_device_data``."""

    node: Json


class NodeDeleted(NamedTuple):
    """A node has gone; its id is not used again while the daemon runs."""

    id: int


class NodeMerged(NamedTuple):
    """Node ``id`` turned out to be node ``merged_to`` (a device whose MAC came to light)."""

    id: int
    merged_to: int


class TrafficReport(NamedTuple):
    """Traffic since the last report: flows as in ``SPIN/traffic``, sizes in bytes."""

    flows: list[Json]
    timestamp: int
    total_size: int
    total_count: int


class DnsQuerySeen(NamedTuple):
    """Device node ``from_node`` asked for ``query``; the answer belongs to ``queried_node``."""

    from_node: int
    queried_node: int
    query: str


class ListChanged(NamedTuple):
    """One of the lists ``ignore``, ``block``, ``allow`` changed; ``addresses`` is all of it."""

    name: str
    addresses: list[str]


class CounterChanged(NamedTuple):
    """A statistic for ``SPIN/stat/<module>/<name>``; ``number`` goes out as ``count``."""

    module: str
    name: str
    type: str
    value: int
    number: int


class SaveDecision(NamedTuple):
    """What people decided about a node, to be kept in UCI.

    ``key`` is a device's MAC, or a site's registrable domain or address; ``name`` is empty where
    it has none of its own.
    """

    key: str
    name: str
    ignore: bool


class SaveIgnoredAddresses(NamedTuple):
    """The addresses and prefixes that are ignored by themselves, for UCI."""

    addresses: list[str]


class SaveState(NamedTuple):
    """Node ids of devices changed, to be kept in the state directory (MAC -> id)."""

    ids: dict[str, int]


class Notice(NamedTuple):
    """A line for the log, at one of logging's levels."""

    level: int
    message: str


Command = (
    Verdict
    | NodeChanged
    | NodeDeleted
    | NodeMerged
    | TrafficReport
    | DnsQuerySeen
    | ListChanged
    | CounterChanged
    | SaveDecision
    | SaveIgnoredAddresses
    | SaveState
    | Notice
)
