# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods that only look: engine state in, JSON shapes out. Pure.

Every reply stays below 256 KiB: what can grow comes in pages, and the lists of SPIN 1.0, which
has no pages, hold the most recent items that fit.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from spind.calls import INVALID_ARGUMENTS, ApiError, NotFoundError
from spind.engine import Engine
from spind.flows import WINDOW_SECONDS, WINDOW_STEP, Flow
from spind.model import format_address, format_mac, parse_mac
from spind.nodes import Kind, Node
from spind.rules import Rule
from spind.shapes import Json, flow_shape, node_details, node_shape

PAGE_LIMIT = 500
"""Items of one page at most: a flow is about 330 bytes of JSON, a node with 64 addresses and names
up to 20 KiB, so pages of nodes are cut by size as well."""

PAGE_BYTES = 200_000
"""A page ends before it grows beyond this, to stay below 256 KiB on every transport."""

Item = TypeVar("Item")


class Views:
    """Reads an engine."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        """``clock`` gives Unix seconds."""
        self._engine = engine
        self._clock = clock

    def node(self, node: int) -> Node:
        """The node with this id."""
        found = self._engine.nodes.by_id.get(node)
        if found is None:
            raise NotFoundError("Unknown node id")
        return found

    def device(self, device: str) -> Node:
        """The device with this MAC, in text."""
        try:
            found = self._engine.nodes.devices.get(parse_mac(device))
        except ValueError:
            found = None
        if found is None:
            raise NotFoundError("Device not found")
        return found

    def list_devices(self) -> list[Json]:
        """All devices, the most recent first."""
        devices = [node for node in self._engine.nodes if node.mac is not None]
        devices.sort(key=lambda node: -node.lastseen)
        return fitting(map(node_shape, devices))

    def list_device_flows(self, device: str) -> list[Json]:
        """What a device exchanged, per node and port."""
        node = self.device(device)
        rows: dict[tuple[int, int, int], list[int]] = {}
        for flow in self._engine.flows.flows(node.id):
            to = flow.key.node if flow.key.device == node.id else flow.key.device
            port, icmp_type = (0, flow.key.port) if flow.is_icmp else (flow.key.port, 0)
            row = rows.setdefault((to, port, icmp_type), [0, 0, 0])
            row[0] += flow.up_packets + flow.down_packets
            row[1] += flow.up_bytes + flow.down_bytes
            row[2] = max(row[2], int(flow.lastseen))
        shapes: list[Json] = [
            {"to": to, "dst_port": 0, "icmp_type": 0, "blocked": 1} for to in self.apart_from(node)
        ]
        shapes += [
            {
                "to": to,
                "dst_port": port,
                "icmp_type": icmp_type,
                "packets": packets,
                "bytes": size,
                "lastseen": lastseen,
            }
            for (to, port, icmp_type), (packets, size, lastseen) in sorted(rows.items())
            if packets
        ]
        return fitting(shapes)

    def apart_from(self, device: Node) -> list[int]:
        """Nodes that a flow block keeps the device from."""
        return [second for first, second, _ in self.flow_blocks() if first == device.id]

    def flow_blocks(self) -> list[tuple[int, int, int]]:
        """(device, node, rule) by id, of rules that block a device from one node, both of them there."""
        nodes = self._engine.nodes
        found = []
        for rule in self._engine.rules:
            if rule.action == "block" and is_flow_block(rule) and rule.device is not None:
                device, node = nodes.devices.get(rule.device), nodes.by_key(rule.node)
                if device is not None and node is not None:
                    found.append((device.id, node.id, rule.id))
        return found

    def get_device_data(self, node: int) -> Json:
        """One node."""
        return node_shape(self.node(node))

    def list_nodes(self, kind: str = "", query: str = "", limit: int = 100, offset: int = 0) -> Json:
        """A page of nodes, the most recent first."""
        if kind and kind not in tuple(Kind):
            raise ApiError(INVALID_ARGUMENTS, "kind must be device, site or gateway")
        wanted = query.lower()
        found = [
            node
            for node in self._engine.nodes
            if (not kind or node.kind == kind) and (not wanted or _matches(node, wanted))
        ]
        found.sort(key=lambda node: (-int(node.lastseen), node.id))
        return _page(found, limit, offset, self.node_item)

    def node_item(self, node: Node) -> Json:
        """A node as ``list_nodes`` has it, and devices with profile and totals."""
        shape = node_details(node)
        if node.kind is Kind.DEVICE:
            shape["profile"] = self._engine.nodes.profile_of(node)
            for family in (4, 6):
                shape[f"ipv{family}"] = self._engine.flows.total(node.id, family)._asdict()
        return shape

    def list_flows(
        self, device: str = "", node: int = 0, since: int = 0, limit: int = 100, offset: int = 0
    ) -> Json:
        """A page of flows, the most recent first; hidden ones only where asked for by name."""
        engine = self._engine
        party = self.device(device).id if device else 0
        if node:
            self.node(node)
        found: list[tuple[Flow, bool]] = []
        for flow in engine.flows.flows(party or node):
            key = flow.key
            turned = bool(party) and key.device != party
            peer = key.device if turned else key.node
            if not flow.used:
                continue  # known from before the start, silent since
            if flow.lastseen < since or (node and node not in (peer, 0 if party else key.device)):
                continue
            if not (party or node):
                ends = (engine.nodes.by_id.get(key.device), engine.nodes.by_id.get(key.node))
                if any(self.hidden(end) for end in ends):
                    continue
            found.append((flow, turned))
        found.sort(key=lambda item: -item[0].lastseen)
        return _page(found, limit, offset, lambda item: flow_shape(item[0], turned=item[1]))

    def get_traffic(self, since: int = 0, step: int = WINDOW_STEP, device: str = "", node: int = 0) -> Json:
        """Bytes and packets over time, of a device, a node, both, or all."""
        if step <= 0 or step % WINDOW_STEP or step > WINDOW_SECONDS:
            raise ApiError(
                INVALID_ARGUMENTS, f"step must be a multiple of {WINDOW_STEP} up to {WINDOW_SECONDS} seconds"
            )
        party = self.device(device).id if device else 0
        series = self._engine.flows.series(self._clock(), since, step, party, node)
        return {
            "since": series[0].time,
            "step": step,
            "items": [{"time": row.time, **row.counts._asdict()} for row in series],
        }

    def page(self, items: list[Item], limit: int, offset: int, shape: Callable[[Item], Json]) -> Json:
        """One page of anything."""
        return _page(items, limit, offset, shape)

    def hidden(self, node: Node | None) -> bool:
        """Does nobody want to see what this node exchanges? So of nodes that are not there, too."""
        if node is None or node.ignored:
            return True
        addresses = node.addresses
        return bool(addresses) and all(self._engine.ignored.hides(address) for address in addresses)


def is_flow_block(rule: Rule) -> bool:
    """Is the rule about a device and a node, and nothing else?"""
    return bool(rule.device is not None and rule.node) and not (rule.port or rule.protocol)


def accuracy_notes(statistics: Mapping[str, int]) -> list[str]:
    """Sentences on what the numbers lack, from the counters that say so."""
    reasons = {
        "engine.devices-evicted": "devices were forgotten because the table of devices was full",
        "engine.sites-evicted": "sites were forgotten because the table of sites was full",
        "engine.sites-overflowed": "nameless addresses were counted together as 'other addresses'",
        "engine.connections-evicted": "connections were attributed anew because their table was full",
        "engine.flows-evicted": "flows were folded into their device's total because their table was full",
        "engine.window-cells-folded": "pairs of the time series were counted together",
        "engine.resyncs": "times conntrack events were lost and the table was read again",
        "engine.blocked-addresses-evicted": "addresses of names in rules were forgotten: the table was full",
        "capture.overflows": "packets passed unseen because the queue was full",
    }
    return [f"{statistics[name]} {text}" for name, text in reasons.items() if statistics.get(name)]


def _matches(node: Node, wanted: str) -> bool:
    texts = [node.label, node.hostname, node.domain, format_mac(node.mac) if node.mac else ""]
    texts += [*map(format_address, node.addresses), *node.domains]
    return any(wanted in text.lower() for text in texts)


def _page(items: list[Item], limit: int, offset: int, shape: Callable[[Item], Json]) -> Json:
    """One page: at most ``limit`` items, and fewer where they are large. A reader goes on at
    ``offset`` plus the number of items it got."""
    if not 1 <= limit <= PAGE_LIMIT:
        raise ApiError(INVALID_ARGUMENTS, f"limit must be 1 to {PAGE_LIMIT}")
    if offset < 0:
        raise ApiError(INVALID_ARGUMENTS, "offset must not be negative")
    return {"total": len(items), "items": fitting(map(shape, items[offset : offset + limit]))}


def fitting(shapes: Iterable[Json]) -> list[Json]:
    """The first of ``shapes`` that together stay below the size of one reply."""
    result: list[Json] = []
    room = PAGE_BYTES
    for shape in shapes:
        room -= len(json.dumps(shape))
        if room < 0 and result:
            break
        result.append(shape)
    return result
