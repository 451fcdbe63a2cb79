# SPDX-License-Identifier: GPL-2.0-or-later
"""What was transferred since the last ``traffic`` message, a bounded number of rows. Pure."""

from collections.abc import Mapping

from spind.commands import Json, TrafficReport
from spind.connections import Conn
from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6
from spind.nodes import Node


class TrafficRows:
    """Rows by (from, to, protocol, from port, to port); from and to are node ids."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.folded = 0
        self._rows: dict[tuple[int, int, int, int, int], list[int]] = {}

    def add(self, conn: Conn, size: int, count: int) -> None:
        """Add bytes and packets of a connection. Beyond the bound the connections of two nodes to
        one port share a row, with 0 as the port they come from."""
        key = conn.key
        ends = (conn.device.id, conn.node.id) if conn.outbound else (conn.node.id, conn.device.id)
        ports = (0, 0) if key.proto in (IPPROTO_ICMP, IPPROTO_ICMPV6) else (key.sport, key.dport)
        slot = (*ends, key.proto, *ports)
        row = self._rows.get(slot)
        if row is None:
            if len(self._rows) >= self._limit:
                slot = (*ends, key.proto, 0, ports[1])
                row = self._rows.get(slot)
                if row is None and len(self._rows) >= 2 * self._limit:
                    slot = (*ends, key.proto, 0, 0)
                    row = self._rows.get(slot)
                if row is None and len(self._rows) >= 3 * self._limit:
                    self.folded += 1  # counted in list_flows and the totals
                    return
            if row is None:
                self._rows[slot] = [size, count]
                return
        row[0] += size
        row[1] += count

    def take(self, nodes: Mapping[int, Node], now: float) -> tuple[TrafficReport | None, list[Node]]:
        """The message for what came together, and the nodes that it mentions; both empty where there
        was no traffic. Rows of nodes that are gone are left out: their counts are in the totals."""
        rows, self._rows = self._rows, {}
        flows: list[Json] = []
        mentioned: dict[int, Node] = {}
        total_size = total_count = 0
        for (source, target, proto, sport, dport), (size, count) in rows.items():
            if source not in nodes or target not in nodes:
                continue
            mentioned[source] = nodes[source]
            mentioned[target] = nodes[target]
            flows.append(
                {
                    "from": source,
                    "to": target,
                    "protocol": proto,
                    "from_port": sport,
                    "to_port": dport,
                    "size": size,
                    "count": count,
                }
            )
            total_size += size
            total_count += count
        report = TrafficReport(flows, int(now), total_size, total_count) if flows else None
        return report, list(mentioned.values())
