# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of the live events: what a page does with them, and what the home should then look like to it."""

import json

from spind.engine import Engine
from spind.feed import Feed
from spind.flows import WINDOW_SECONDS
from spind.views import Views


def parse(text: bytes) -> tuple[str, dict, str]:
    """(event, data, id) of one message."""
    assert text.endswith(b"\n\n")
    fields = dict(line.split(": ", 1) for line in text.decode().removesuffix("\n\n").split("\n"))
    assert set(fields) <= {"id", "event", "data"}
    return fields["event"], json.loads(fields["data"]), fields.get("id", "")


def flow_key(flow: dict) -> tuple:
    key = {**flow, "port": flow.get("icmp_type", flow["port"])}
    return tuple(key[name] for name in ("device", "node", "protocol", "port", "family", "inbound"))


class Client:
    """Applies messages."""

    def __init__(self) -> None:
        self.last_id = ""
        self.ready = False
        self.forget()

    def forget(self) -> None:
        self.nodes: dict[int, dict] = {}
        self.flows: dict[tuple, dict] = {}
        self.cells: dict[tuple[int, int, int], list[int]] = {}
        self.queries: list[dict] = []
        self.blocked: list[dict] = []
        self.notifications: list[dict] = []
        self.changed: list[str] = []

    def take(self, text: bytes) -> None:
        event, data, ident = parse(text)
        assert bool(ident) == (event == "delta")
        if event == "hello":
            self.forget()
            self.ready = False
        elif event == "nodes":
            self.nodes |= {node["id"]: node for node in data["items"]}
        elif event == "flows":
            self.flows |= {flow_key(flow): flow for flow in data["items"]}
        elif event == "window":
            self._cells(data)
        elif event == "ready":
            self.ready = True
        else:
            assert self.ready
            self.last_id = ident
            self._delta(data)

    def _delta(self, data: dict) -> None:
        self.nodes |= {node["id"]: node for node in data.get("nodes", ())}
        for ident, lastseen in data.get("seen", ()):
            if ident in self.nodes:
                self.nodes[ident]["lastseen"] = lastseen
        self.flows |= {flow_key(flow): flow for flow in data.get("flows", ())}
        for key in data.get("gone_flows", ()):
            self.flows.pop(tuple(key), None)
        for ident in data.get("gone_nodes", ()):
            self.nodes.pop(ident, None)
            self.cells = {cell: row for cell, row in self.cells.items() if ident not in cell[1:]}
        for step in data.get("cells", ()):
            self._cells(step)
        for query in data.get("queries", ()):
            assert {query["device"], query["node"]} <= set(self.nodes)
        for name in ("queries", "blocked", "notifications", "changed"):
            getattr(self, name).extend(data.get(name, ()))

    def _cells(self, step: dict) -> None:
        for device, node, *values in step["cells"]:
            if any(values):
                self.cells[step["time"], device, node] = values
            else:
                self.cells.pop((step["time"], device, node), None)

    def check(self, engine: Engine, now: float) -> None:
        """Is what it knows what the methods say?"""
        views = Views(engine, lambda: now)
        assert self.nodes == {node.id: json_again(views.node_item(node)) for node in engine.nodes}
        flows = views.list_flows(limit=500)["items"]
        assert self.flows == {flow_key(flow): json_again(flow) for flow in flows}
        since = now - WINDOW_SECONDS
        hidden = {node.id for node in engine.nodes if views.hidden(node)}
        there = ({node.id for node in engine.nodes} | {0}) - hidden
        cells = {
            (time, device, node): list(engine.flows.step(time)[device, node])
            for time, pairs in engine.flows.cells()
            for device, node in pairs
            if time >= since and {device, node} <= there
        }
        own = {cell: row for cell, row in self.cells.items() if cell[0] >= since}
        assert own == {cell: row for cell, row in cells.items() if any(row)}


def json_again(value: object) -> object:
    return json.loads(json.dumps(value))


def delta(feed: Feed, *, counters: bool = True) -> list[bytes]:
    """All messages of the next delta."""
    return [text for text in feed.delta(counters=counters) if text is not None]
