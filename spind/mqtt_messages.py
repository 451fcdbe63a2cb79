# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's commands as MQTT messages; pure.

Owns topics and payloads: the shapes of API.md 3, which are SPIN 1.0's, with its order of
keys and its compact form. It must not know brokers, connections or queues.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from spind.commands import (
    BlockedReport,
    Command,
    CounterChanged,
    DnsQuerySeen,
    ListChanged,
    NodeChanged,
    NodeDeleted,
    NodeMerged,
    TrafficReport,
)

DEFAULT_CHANNEL = "SPIN/traffic"
MAX_CHANNEL = 200  # bytes of the traffic topic; leaves room below MQTT's 65,535

# SPIN 1.0 published its enumeration (spin's statistics.h), not the names.
STAT_TYPES = {"total": 0, "max": 1}


class Message(NamedTuple):
    """One MQTT message, QoS 0 as all of SPIN 1.0's."""

    topic: str
    payload: bytes
    retain: bool


class Topics:
    """The topics of one daemon, from the option ``pubsub_channel_traffic``.

    The option is the traffic topic; what stands before its last ``/`` is the prefix of all
    others, so that ``SPIN/traffic`` gives ``SPIN/status``. ``ValueError`` where it is no topic.
    """

    def __init__(self, channel: str = DEFAULT_CHANNEL) -> None:
        size = len(channel.encode("utf-8", "replace"))
        if not 0 < size <= MAX_CHANNEL or not channel.isprintable() or set(channel) & set("+#"):
            raise ValueError(
                f"pubsub_channel_traffic must be a topic such as {DEFAULT_CHANNEL}, of at most "
                f"{MAX_CHANNEL} bytes and without + or #: {channel[:MAX_CHANNEL]!r}"
            )
        head, slash, _ = channel.rpartition("/")
        self.prefix = head if slash else channel
        self.traffic = channel
        self.admin = channel + "/admin"
        self.status = self.prefix + "/status"
        self.stat = self.prefix + "/stat"
        self.request = self.prefix + "/jsonrpc/q"
        self.reply = self.prefix + "/jsonrpc/a"
        self.any_node = channel + "/node/+"
        self._node = channel + "/node/"

    def node(self, ident: int) -> str:
        """The retained topic of node ``ident``."""
        return f"{self._node}{ident}"

    def node_id(self, topic: str) -> int | None:
        """The node that ``topic`` announces, or ``None`` where it is no topic of a node."""
        digits = topic[len(self._node) :]
        if topic.startswith(self._node) and len(digits) < 20 and digits.isascii() and digits.isdecimal():
            ident = int(digits)
            return ident if topic == self.node(ident) else None
        return None

    def online(self, up: bool) -> Message:
        """The state of the daemon; ``offline`` is also its last will."""
        return Message(self.status, b"online" if up else b"offline", retain=True)

    def restarted(self) -> Message:
        """Tells consumers to forget the nodes they know: the ids may be others now."""
        return Message(self.traffic, _json({"command": "serverRestart"}), retain=False)

    def forget(self, ident: int) -> Message:
        """Removes what the broker retains for node ``ident`` (MQTT 3.1.1 section 3.3.1.3)."""
        return Message(self.node(ident), b"", retain=True)

    def messages(self, command: Command) -> list[Message]:
        """The messages that tell of ``command``, in order; none for other adapters' commands."""
        render = _RENDER.get(type(command))
        return render(self, command) if render else []


def _json(value: object) -> bytes:
    # A name that cannot be encoded must not silence its node.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _traffic(topics: Topics, command: TrafficReport) -> list[Message]:
    result = {
        "flows": command.flows,
        "timestamp": command.timestamp,
        "total_size": command.total_size,
        "total_count": command.total_count,
    }
    payload = _json({"command": "traffic", "argument": "", "result": result})
    return [Message(topics.traffic, payload, retain=False)]


def _dns_query(topics: Topics, command: DnsQuerySeen) -> list[Message]:
    result = {"from": command.from_node, "queriednode": command.queried_node, "query": command.query}
    return [Message(topics.traffic, _json({"command": "dnsquery", "result": result}), retain=False)]


def _blocked(topics: Topics, command: BlockedReport) -> list[Message]:
    payload = _json({"command": "blocked", "result": command.flow})
    return [Message(topics.traffic, payload, retain=False)]


def _list(topics: Topics, command: ListChanged) -> list[Message]:
    payload = _json({"command": command.name, "result": command.addresses})
    return [Message(topics.traffic, payload, retain=False)]


def _node(topics: Topics, command: NodeChanged) -> list[Message]:
    ident = command.node["id"]
    payload = _json({"command": "nodeInfo", "result": command.node})
    return [Message(topics.node(int(str(ident))), payload, retain=True)]


def _deleted(topics: Topics, command: NodeDeleted) -> list[Message]:
    payload = _json({"command": "nodeDeleted", "result": {"id": command.id}})
    return [Message(topics.admin, payload, retain=False), topics.forget(command.id)]


def _merged(topics: Topics, command: NodeMerged) -> list[Message]:
    payload = _json({"command": "nodeMerged", "result": {"id": command.id, "merged-to": command.merged_to}})
    return [Message(topics.admin, payload, retain=False), topics.forget(command.id)]


def _counter(topics: Topics, command: CounterChanged) -> list[Message]:
    value = {
        "module": command.module,
        "name": command.name,
        "type": STAT_TYPES.get(command.type, command.type),
        "value": command.value,
        "count": command.number,
    }
    return [Message(f"{topics.stat}/{command.module}/{command.name}", _json(value), retain=True)]


_RENDER: dict[type, Callable[[Topics, Any], list[Message]]] = {
    TrafficReport: _traffic,
    BlockedReport: _blocked,
    DnsQuerySeen: _dns_query,
    ListChanged: _list,
    NodeChanged: _node,
    NodeDeleted: _deleted,
    NodeMerged: _merged,
    CounterChanged: _counter,
}
