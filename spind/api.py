# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods: one table of names, arguments, results, roles and documentation.

Every transport serves this table unchanged. Handlers read the engine, or give it an event and
pass its commands on; they do no I/O of their own. A refused call changes nothing.
"""

from collections.abc import Callable, Mapping

from spind import __version__
from spind.calls import (
    INVALID_ARGUMENTS,
    REFUSED,
    UNKNOWN_METHOD,
    ApiError,
    Arg,
    Caller,
    Method,
    check_arguments,
)
from spind.commands import Command
from spind.engine import Engine
from spind.events import AssignAddress, Event, IgnoreAddress, ResetIgnored, SetIgnored, SetName
from spind.flows import WINDOW_STEP
from spind.hostile import clean_name
from spind.ignore import parse_prefix
from spind.model import parse_address
from spind.shapes import Json
from spind.views import PAGE_LIMIT, Views, accuracy_notes

__all__ = [
    "INVALID_ARGUMENTS",
    "REFUSED",
    "UNKNOWN_METHOD",
    "Api",
    "ApiError",
    "Arg",
    "Caller",
    "Method",
]

LISTS = ("ignore", "block", "allow")


class Api:
    """The table bound to an engine."""

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float],
        carry_out: Callable[[list[Command]], None],
        status: Callable[[], Json] = dict,
        on_call: Callable[[], None] = lambda: None,
    ) -> None:
        """``clock`` gives Unix seconds; ``carry_out`` takes the engine's commands; ``status`` adds
        what adapters know to the ``status`` method; ``on_call`` hears that somebody looks."""
        self._engine = engine
        self._views = Views(engine, clock)
        self._clock = clock
        self._carry_out = carry_out
        self._status = status
        self._on_call = on_call
        self._started = clock()
        self.methods: Mapping[str, Method] = {method.name: method for method in self._table()}

    def call(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """The result of a method, of JSON types; ``ApiError`` where the call is refused."""
        method = self.methods.get(name)
        if method is None:
            raise ApiError(UNKNOWN_METHOD, f"there is no method {name!r:.80}; list_rpc_methods lists them")
        if method.writes and caller.role == "viewer":
            raise ApiError(REFUSED, f"{name} changes something, and the role viewer may only look")
        arguments = check_arguments(method, params)
        self._on_call()
        return method.handler(**arguments)

    def _do(self, event: Event) -> None:
        self._carry_out(self._engine.handle(event, self._clock()))

    def _decidable(self, node: int) -> None:
        """Refuse to decide about a node that UCI could not name."""
        if not self._views.node(node).decision_key:
            raise ApiError(REFUSED, f"node {node} has no MAC, domain or address to remember it by")

    def _set_device_name(self, node: int, name: str) -> None:
        self._decidable(node)
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
            self._views.node(node)
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
        return self._engine.decisions.ignored_texts() if list == "ignore" else []

    def _add_iplist_node(self, list: str, node: int) -> None:  # noqa: A002
        self._list(list, change=True)
        self._decidable(node)
        self._do(SetIgnored(node, ignored=True))

    def _remove_iplist_node(self, list: str, node: int) -> None:  # noqa: A002
        self._list(list, change=True)
        self._decidable(node)
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
            ("list_devices", "All devices of the home.", (), read, self._views.list_devices),
            (
                "list_device_flows",
                "What a device exchanged, per node and port.",
                (device,),
                read,
                self._views.list_device_flows,
            ),
            ("get_device_data", "One node.", (node,), read, self._views.get_device_data),
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
                self._views.list_nodes,
            ),
            (
                "list_flows",
                "Who exchanged how much with whom, most recent first.",
                (any_device, any_node, since, limit, offset),
                read,
                self._views.list_flows,
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
                self._views.get_traffic,
            ),
        ]
        return [
            Method(name, doc, args, "complex", writes, handler) for name, doc, args, writes, handler in rows
        ]
