# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods: one table of names, arguments, results, roles and documentation.

Every transport serves this table unchanged. Handlers read the engine, or give it an event and
pass its commands on; they do no I/O of their own. A refused call changes nothing.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from spind import __version__
from spind.commands import Command
from spind.engine import Engine
from spind.events import AssignAddress, Event, IgnoreAddress, ResetIgnored, SetIgnored, SetName
from spind.flows import WINDOW_SECONDS, WINDOW_STEP, Flow
from spind.hostile import clean_name
from spind.ignore import parse_prefix
from spind.model import format_address, format_mac, parse_address, parse_mac
from spind.nodes import Kind, Node
from spind.shapes import Json, flow_shape, node_details, node_shape

UNKNOWN_METHOD = -32601
INVALID_ARGUMENTS = -32602
REFUSED = -1

PAGE_LIMIT = 500
"""Items of one page at most: a flow is about 330 bytes of JSON, a node with 64 addresses and names
up to 20 KiB, so pages of nodes are cut by size as well."""

PAGE_BYTES = 200_000
"""A page ends before it grows beyond this, to stay below 256 KiB on every transport."""

Item = TypeVar("Item")

LISTS = ("ignore", "block", "allow")


class ApiError(Exception):
    """A call that was refused: a JSON-RPC ``code`` and a sentence for people."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Caller(NamedTuple):
    """Through which interface a call came, and in what role."""

    interface: str
    role: str


class Arg(NamedTuple):
    """An argument: ``type`` is one of string, integer, boolean, complex (JSON object)."""

    name: str
    type: str
    doc: str
    optional: bool = False


class Method(NamedTuple):
    """One method. ``writes`` says that it needs more than the role viewer."""

    name: str
    doc: str
    args: tuple[Arg, ...]
    result: str
    writes: bool
    handler: Callable[..., object]


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool, int),
    "complex": (dict,),
}


class Api:
    """The table bound to an engine."""

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float],
        carry_out: Callable[[list[Command]], None],
        status: Callable[[], Json] = dict,
    ) -> None:
        """``clock`` gives Unix seconds; ``carry_out`` takes the engine's commands; ``status`` adds
        what adapters know to the ``status`` method."""
        self._engine = engine
        self._clock = clock
        self._carry_out = carry_out
        self._status = status
        self._started = clock()
        self.methods: Mapping[str, Method] = {method.name: method for method in self._table()}

    def call(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """The result of a method, of JSON types; ``ApiError`` where the call is refused."""
        method = self.methods.get(name)
        if method is None:
            raise ApiError(UNKNOWN_METHOD, f"there is no method {name!r:.80}; list_rpc_methods lists them")
        if method.writes and caller.role == "viewer":
            raise ApiError(REFUSED, f"{name} changes something, and the role viewer may only look")
        return method.handler(**self._arguments(method, params))

    def _arguments(self, method: Method, params: Mapping[str, object]) -> dict[str, object]:
        known = {arg.name: arg for arg in method.args}
        for name in params:
            if name not in known:
                expected = ", ".join(known) or "none"
                raise ApiError(
                    INVALID_ARGUMENTS, f"{method.name} has no argument {name!r:.80} (arguments: {expected})"
                )
        for arg in method.args:
            if arg.name not in params:
                if not arg.optional:
                    raise ApiError(
                        INVALID_ARGUMENTS, f"{method.name} needs the argument {arg.name} ({arg.type})"
                    )
                continue
            value = params[arg.name]
            if not isinstance(value, _TYPES[arg.type]) or (arg.type == "integer" and isinstance(value, bool)):
                raise ApiError(INVALID_ARGUMENTS, f"{arg.name} must be of type {arg.type}")
            if arg.type == "integer" and not -(2**53) < int(str(value)) < 2**53:
                raise ApiError(INVALID_ARGUMENTS, f"{arg.name} is out of range")
        return dict(params)

    def _do(self, event: Event) -> None:
        self._carry_out(self._engine.handle(event, self._clock()))

    # -- looking up ----------------------------------------------------------------------

    def _node(self, node: int) -> Node:
        found = self._engine.nodes.by_id.get(node)
        if found is None:
            raise ApiError(REFUSED, "Unknown node id")
        return found

    def _device(self, device: str) -> Node:
        try:
            found = self._engine.nodes.devices.get(parse_mac(device))
        except ValueError:
            found = None
        if found is None:
            raise ApiError(REFUSED, "Device not found")
        return found

    def _hidden(self, node: Node | None) -> bool:
        if node is None or node.ignored:
            return True
        addresses = node.addresses
        return bool(addresses) and all(self._engine.ignored.hides(address) for address in addresses)

    # -- SPIN 1.0 ------------------------------------------------------------------------

    def _list_devices(self) -> list[Json]:
        devices = [node for node in self._engine.nodes if node.mac is not None]
        devices.sort(key=lambda node: -node.lastseen)
        return _fitting(map(node_shape, devices))

    def _list_device_flows(self, device: str) -> list[Json]:
        node = self._device(device)
        rows: dict[tuple[int, int, int], list[int]] = {}
        for flow in self._engine.flows.flows(node.id):
            to = flow.key.node if flow.key.device == node.id else flow.key.device
            port, icmp_type = (0, flow.key.port) if flow.is_icmp else (flow.key.port, 0)
            row = rows.setdefault((to, port, icmp_type), [0, 0, 0])
            row[0] += flow.up_packets + flow.down_packets
            row[1] += flow.up_bytes + flow.down_bytes
            row[2] = max(row[2], int(flow.lastseen))
        return _fitting(
            {
                "to": to,
                "dst_port": port,
                "icmp_type": icmp_type,
                "packets": packets,
                "bytes": size,
                "lastseen": lastseen,
            }
            for (to, port, icmp_type), (packets, size, lastseen) in sorted(rows.items())
        )

    def _get_device_data(self, node: int) -> Json:
        return node_shape(self._node(node))

    def _set_device_name(self, node: int, name: str) -> None:
        found = self._node(node)
        if not found.decision_key:
            raise ApiError(REFUSED, f"node {node} has no MAC, domain or address to keep a name for")
        try:
            name = clean_name(name)
        except ValueError as error:
            raise ApiError(REFUSED, f"name: {error}") from error
        self._do(SetName(node, name))

    def _node_add_ip(self, node: int, ipaddr: str) -> None:
        try:
            address = parse_address(ipaddr)
        except ValueError as error:
            raise ApiError(REFUSED, "Invalid IP address") from error
        if node:
            self._node(node)
        if self._engine.nodes.has_address(address):
            raise ApiError(REFUSED, "IP address already assigned to a node")
        self._do(AssignAddress(node, address))

    def _list(self, name: str, *, change: bool) -> None:
        if name not in LISTS:
            raise ApiError(REFUSED, "Unknown ip list name, should be 'ignore', 'block', or 'allow'")
        if change and name != "ignore":
            raise ApiError(
                REFUSED, f"list {name!r}: this version only shows; it neither blocks nor allows yet"
            )

    def _list_iplist(self, list: str) -> list[str]:  # noqa: A002 - the argument's name on the wire
        self._list(list, change=False)
        return self._engine.ignored_texts() if list == "ignore" else []

    def _add_iplist_node(self, list: str, node: int) -> None:  # noqa: A002
        self._list(list, change=True)
        self._node(node)
        self._do(SetIgnored(node, ignored=True))

    def _remove_iplist_node(self, list: str, node: int) -> None:  # noqa: A002
        self._list(list, change=True)
        self._node(node)
        self._do(SetIgnored(node, ignored=False))

    def _prefix(self, text: str) -> str:
        try:
            parse_prefix(text)
        except ValueError as error:
            raise ApiError(REFUSED, "Invalid IP address") from error
        return text

    def _add_iplist_ip(self, list: str, ip: str) -> None:  # noqa: A002
        self._list(list, change=True)
        try:
            self._do(IgnoreAddress(self._prefix(ip), ignored=True))
        except ValueError as error:
            raise ApiError(REFUSED, f"ip: {error}") from error

    def _remove_iplist_ip(self, list: str, ip: str) -> None:  # noqa: A002
        self._list(list, change=True)
        self._do(IgnoreAddress(self._prefix(ip), ignored=False))

    def _reset_iplist_ignore(self) -> None:
        self._do(ResetIgnored())

    def _get_flow_block(self) -> list[Json]:
        return []

    def _list_rpc_methods(self) -> list[Json]:
        return [
            {
                "rpc-name": method.name,
                "rpc-args": [
                    {
                        "rpc-arg-name": arg.name,
                        "rpc-arg-type": arg.type,
                        "optional": arg.optional,
                        "doc": arg.doc,
                    }
                    for arg in method.args
                ],
                "rpc-result-type": method.result,
                "doc": method.doc,
            }
            for method in sorted(self.methods.values())
        ]

    # -- native --------------------------------------------------------------------------

    def _status_method(self) -> Json:
        engine = self._engine
        return {
            "version": __version__,
            "uptime": int(self._clock() - self._started),
            "mode": "local" if engine.local else "router",
            "statistics": engine.statistics(),
            "limits": engine.limits._asdict(),
            "notes": accuracy_notes(engine.statistics()),
            **self._status(),
        }

    def _list_nodes(self, kind: str = "", query: str = "", limit: int = 100, offset: int = 0) -> Json:
        if kind and kind not in tuple(Kind):
            raise ApiError(INVALID_ARGUMENTS, "kind must be device, site or gateway")
        wanted = query.lower()
        found = [
            node
            for node in self._engine.nodes
            if (not kind or node.kind == kind) and (not wanted or _matches(node, wanted))
        ]
        found.sort(key=lambda node: (-int(node.lastseen), node.id))
        return _page(found, limit, offset, self._node_item)

    def _node_item(self, node: Node) -> Json:
        shape = node_details(node)
        if node.kind is Kind.DEVICE:
            for family in (4, 6):
                shape[f"ipv{family}"] = self._engine.flows.total(node.id, family)._asdict()
        return shape

    def _list_flows(
        self, device: str = "", node: int = 0, since: int = 0, limit: int = 100, offset: int = 0
    ) -> Json:
        engine = self._engine
        party = self._device(device).id if device else 0
        if node:
            self._node(node)
        found: list[tuple[Flow, bool]] = []
        for flow in engine.flows.flows(party or node):
            key = flow.key
            turned = bool(party) and key.device != party
            peer = key.device if turned else key.node
            if flow.lastseen < since or (node and node not in (peer, 0 if party else key.device)):
                continue
            if not (party or node):
                ends = (engine.nodes.by_id.get(key.device), engine.nodes.by_id.get(key.node))
                if any(self._hidden(end) for end in ends):
                    continue
            found.append((flow, turned))
        found.sort(key=lambda item: -item[0].lastseen)
        return _page(found, limit, offset, lambda item: flow_shape(item[0], turned=item[1]))

    def _get_traffic(self, since: int = 0, step: int = WINDOW_STEP, device: str = "", node: int = 0) -> Json:
        if step <= 0 or step % WINDOW_STEP or step > WINDOW_SECONDS:
            raise ApiError(
                INVALID_ARGUMENTS, f"step must be a multiple of {WINDOW_STEP} up to {WINDOW_SECONDS} seconds"
            )
        party = self._device(device).id if device else 0
        now = self._clock()
        series = self._engine.flows.series(now, since, step, party, node)
        return {
            "since": series[0].time,
            "step": step,
            "items": [{"time": row.time, **row.counts._asdict()} for row in series],
        }

    # -- the table -----------------------------------------------------------------------

    def _table(self) -> list[Method]:
        node = Arg("node", "integer", "id of a node")
        which = Arg("list", "string", "ignore, block or allow")
        ip = Arg("ip", "string", "an address, or a prefix such as 192.0.2.0/24")
        limit = Arg(
            "limit", "integer", f"items of this page, at most {PAGE_LIMIT}; default 100", optional=True
        )
        offset = Arg("offset", "integer", "items to skip; default 0", optional=True)
        since = Arg("since", "integer", "Unix seconds; only what was seen since", optional=True)
        device = Arg("device", "string", "MAC of a device")
        any_device = device._replace(optional=True)
        any_node = node._replace(optional=True)
        read, write = False, True
        rows: list[tuple[str, str, tuple[Arg, ...], bool, Callable[..., object]]] = [
            ("list_devices", "All devices of the home.", (), read, self._list_devices),
            (
                "list_device_flows",
                "What a device exchanged, per node and port.",
                (device,),
                read,
                self._list_device_flows,
            ),
            ("get_device_data", "One node.", (node,), read, self._get_device_data),
            (
                "set_device_name",
                "Give a node a name; an empty one takes it back.",
                (node, Arg("name", "string", "up to 64 characters")),
                write,
                self._set_device_name,
            ),
            (
                "node_add_ip",
                "Give a node an address by hand; node 0 makes a new one.",
                (node, Arg("ipaddr", "string", "an IPv4 or IPv6 address")),
                write,
                self._node_add_ip,
            ),
            ("list_iplist", "The addresses of a list.", (which,), read, self._list_iplist),
            (
                "add_iplist_node",
                "Put a node on a list; it stays there with all its addresses.",
                (which, node),
                write,
                self._add_iplist_node,
            ),
            ("remove_iplist_node", "Take a node off a list.", (which, node), write, self._remove_iplist_node),
            ("add_iplist_ip", "Put an address or prefix on a list.", (which, ip), write, self._add_iplist_ip),
            ("remove_iplist_ip", "Take an address off a list.", (which, ip), write, self._remove_iplist_ip),
            ("reset_iplist_ignore", "Ignore nothing any more.", (), write, self._reset_iplist_ignore),
            ("get_flow_block", "Pairs of nodes that are blocked.", (), read, self._get_flow_block),
            ("list_rpc_methods", "This list.", (), read, self._list_rpc_methods),
            ("status", "The daemon: version, back-ends, counters, tables.", (), read, self._status_method),
            (
                "list_nodes",
                "Devices and the parties they talk to, most recent first.",
                (
                    Arg("kind", "string", "device, site or gateway", optional=True),
                    Arg("query", "string", "part of a name, address, MAC or domain", optional=True),
                    limit,
                    offset,
                ),
                read,
                self._list_nodes,
            ),
            (
                "list_flows",
                "Who exchanged how much with whom, most recent first.",
                (any_device, any_node, since, limit, offset),
                read,
                self._list_flows,
            ),
            (
                "get_traffic",
                "Bytes and packets of the last ten minutes as a time series.",
                (
                    since,
                    Arg("step", "integer", f"seconds, a multiple of {WINDOW_STEP}", optional=True),
                    any_device,
                    any_node,
                ),
                read,
                self._get_traffic,
            ),
        ]
        return [
            Method(name, doc, args, "complex", writes, handler) for name, doc, args, writes, handler in rows
        ]


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
        "capture.overflow": "packets passed unseen because the queue was full",
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
    return {"total": len(items), "items": _fitting(map(shape, items[offset : offset + limit]))}


def _fitting(shapes: Iterable[Json]) -> list[Json]:
    """The first of ``shapes`` that together stay below the size of one reply."""
    result: list[Json] = []
    room = PAGE_BYTES
    for shape in shapes:
        room -= len(json.dumps(shape))
        if room < 0 and result:
            break
        result.append(shape)
    return result
