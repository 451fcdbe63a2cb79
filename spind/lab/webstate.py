# SPDX-License-Identifier: GPL-2.0-or-later
"""What somebody knows who has listened to one event stream of the web interface. Pure, no I/O.

A second reader of what ``/api/v1/events`` sends, beside the page's own: for load and for tests.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

FLOW_KEY = ("device", "node", "protocol", "port", "icmp_type", "family", "inbound")


def events(text: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Name, id and data of each whole event."""
    for block in text.split(b"\n\n")[:-1]:
        name = number = ""
        data = b""
        for line in block.split(b"\n"):
            field, _, value = line.partition(b": ")
            if field == b"event":
                name = value.decode()
            elif field == b"id":
                number = value.decode()
            elif field == b"data":
                data += value
        if name:
            yield name, number, data


def key_of(flow: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a flow from others."""
    return tuple(flow.get(name) for name in FLOW_KEY)


class State:
    """What a page would know from one stream, and whether it missed anything."""

    def __init__(self) -> None:
        self.nodes: dict[int, dict[str, Any]] = {}
        self.flows: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.cells: dict[tuple[int, int, int], list[int]] = {}
        self.first = self.last = 0
        self.deltas = self.missed = self.snapshots = 0

    def take(self, text: bytes) -> None:
        """All of a stream; an event of a kind that is not known is an ``AttributeError``."""
        for name, number, data in events(text):
            getattr(self, f"_{name}")(number, json.loads(data))

    def _hello(self, _: str, __: dict[str, Any]) -> None:
        self.snapshots += 1
        self.nodes.clear()
        self.flows.clear()
        self.cells.clear()

    def _nodes(self, _: str, data: dict[str, Any]) -> None:
        for node in data["items"]:
            self.nodes[node["id"]] = node

    def _flows(self, _: str, data: dict[str, Any]) -> None:
        for flow in data["items"]:
            self.flows[key_of(flow)] = flow

    def _window(self, _: str, data: dict[str, Any]) -> None:
        for device, node, *counts in data["cells"]:
            self.cells[data["time"], device, node] = counts

    def _ready(self, _: str, __: dict[str, Any]) -> None:
        pass

    def _delta(self, number: str, data: dict[str, Any]) -> None:
        sequence = int(number.rpartition("-")[2])
        if self.last:
            self.missed += sequence != self.last + 1
        else:
            self.first = sequence
        self.last = sequence
        self.deltas += 1
        self._nodes("", {"items": data.get("nodes", [])})
        self._flows("", {"items": data.get("flows", [])})
        for node in data.get("gone_nodes", []):
            self.nodes.pop(node, None)
        gone = {tuple(each) for each in data.get("gone_flows", [])}
        if gone:  # [device, node, protocol, port or type, family, inbound]
            for key in [key for key in self.flows if _short(key) in gone]:
                del self.flows[key]
        for cells in data.get("cells", []):
            self._window("", cells)

    def digest(self) -> str:
        """The same for two streams that know the same flows."""
        known = sorted(json.dumps(flow, sort_keys=True) for flow in self.flows.values())
        return hashlib.sha256("\n".join(known).encode()).hexdigest()


def _short(key: tuple[Any, ...]) -> tuple[Any, ...]:
    device, node, protocol, port, kind, family, inbound = key
    return (device, node, protocol, port if kind is None else kind, family, inbound)
