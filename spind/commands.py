# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine wants done: values that adapters carry out.

A command holds all that its adapter needs, in the shapes of API.md, so that no adapter reads
the engine's tables. The order of a list of commands matters: a node is announced before the
first message that mentions it.
"""

from typing import NamedTuple

from spind.changes import Change
from spind.flows import FlowKey
from spind.model import Address, ConnKey, Mac
from spind.ruleset import ClassesChange, Ruleset, SetChange

Json = dict[str, object]


class Verdict(NamedTuple):
    """What becomes of the packet of this event: let it go on, or not (``accept``), or one of these.

    ``done`` says that nothing more is to be learned from the connection, so that the kernel
    need not queue its packets any longer.

    ``hold`` keeps the packet waiting, for a few seconds at most, after which it is dropped: nothing
    is decided yet. Later verdicts on packets of the same connection in the same direction settle
    what is held, in its order and before their own packet: ``done`` lets it go on, ``cut`` and a
    refusal drop it. A mere ``accept`` leaves it waiting: bare acknowledgements decide nothing.

    ``cut`` has the kernel reset the connection, both ways, and drop whatever else comes of it.

    ``payload`` goes on in place of the packet: a whole IP packet, with all lengths and checksums.

    The first of ``hold``, ``cut``, not ``accept``, ``payload``, ``done`` that is so counts.
    """

    accept: bool
    done: bool = False
    cut: bool = False
    hold: bool = False
    payload: bytes | None = None


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


class Save(NamedTuple):
    """What people decided, to be kept in UCI: ``after``. ``before`` is what held until now."""

    before: Change
    after: Change


class RecordAudit(NamedTuple):
    """An entry for the audit list's file."""

    entry: Json


class Enforce(NamedTuple):
    """The kernel shall enforce all of this. It is the engine's own, and changes with it."""

    ruleset: Ruleset


class EnforceElements(NamedTuple):
    """Elements of sets and classes changed, nothing else."""

    changes: tuple[SetChange | ClassesChange, ...]


class End(NamedTuple):
    """A device's end of a TCP connection, as the device sees it: its own address and port, its peer's."""

    mac: Mac
    address: Address
    port: int
    peer: Address
    peer_port: int


class CutConnections(NamedTuple):
    """Connections that are blocked from now on, each with whether the device opened it. ``ends`` are where
    devices shall hear of it."""

    connections: list[tuple[ConnKey, bool]]
    ends: tuple[End, ...] = ()


class BlockedReport(NamedTuple):
    """A packet was blocked: a row as in ``SPIN/traffic``, and the flow that it is of."""

    flow: Json
    key: FlowKey | None = None


class KeepName(NamedTuple):
    """A name in rules has an address: to be remembered beyond a restart."""

    address: Address
    name: str
    expires: float


class SaveState(NamedTuple):
    """Node ids of devices changed, to be kept in the state directory (MAC -> id), and the profiles that
    devices were given when they were new (MAC -> profile)."""

    ids: dict[str, int]
    profiles: dict[str, str]


class Notify(NamedTuple):
    """Something that people should hear of: an item of ``list_notifications``."""

    notification: Json


class Dismissed(NamedTuple):
    """Somebody has seen the notification with this id: it is not listed any more."""

    id: int


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
    | Save
    | RecordAudit
    | Enforce
    | EnforceElements
    | CutConnections
    | BlockedReport
    | KeepName
    | SaveState
    | Notify
    | Dismissed
    | Notice
)
