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
    DeniedError,
    Method,
    check_arguments,
)
from spind.commands import Command
from spind.deeds_audit import AuditDeeds
from spind.deeds_captures import CaptureDeeds, CapturePort
from spind.deeds_nodes import NodeDeeds
from spind.deeds_notifications import NotificationDeeds
from spind.deeds_profiles import ProfileDeeds
from spind.deeds_rules import RuleDeeds
from spind.desk import Desk
from spind.engine import Engine
from spind.flows import WINDOW_STEP
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


_PROVIDER_WRITES = frozenset(
    {
        "add_rule",
        "remove_rule",
        "add_iplist_node",
        "remove_iplist_node",
        "add_iplist_ip",
        "remove_iplist_ip",
        "set_flow_block",
        "set_device_flow_block",
        "undo",
    }
)
"""With these an access provider blocks and allows, and takes its own decisions back: what it decides has an
author, and the owner's decisions go first. Names, profiles, what is shown and what is captured are the
owner's, since there nobody could tell who decided."""


class Api:
    """The table bound to an engine."""

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float],
        carry_out: Callable[[list[Command]], None],
        status: Callable[[], Json] = dict,
        on_call: Callable[[], None] = lambda: None,
        captures: CapturePort | None = None,
    ) -> None:
        """``clock`` gives Unix seconds; ``carry_out`` takes the engine's commands; ``status`` adds
        what adapters know to the ``status`` method; ``on_call`` hears that somebody looks;
        ``captures`` captures packets, where there is a live network."""
        self._engine = engine
        self._views = Views(engine, clock)
        self._desk = Desk(engine, self._views, clock, carry_out)
        self._nodes = NodeDeeds(self._desk)
        self._rules = RuleDeeds(self._desk)
        self._profiles = ProfileDeeds(self._desk)
        self._audit = AuditDeeds(self._desk)
        self._notifications = NotificationDeeds(self._desk)
        self._captures = CaptureDeeds(self._desk, captures)
        self._clock = clock
        self._status = status
        self._on_call = on_call
        self._started = clock()
        self.methods: Mapping[str, Method] = {method.name: method for method in self._table()}

    def call(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """The result of a method, of JSON types; ``ApiError`` where the call is refused."""
        method = self.methods.get(name)
        if method is None:
            raise ApiError(UNKNOWN_METHOD, f"there is no method {name!r:.80}; list_rpc_methods lists them")
        _check_role(method, caller)
        arguments = check_arguments(method, params)
        self._on_call()
        self._desk.begin(caller, name)
        return method.handler(**arguments)

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
        block = Arg("block", "integer", "1 blocks, 0 allows again")
        profile = Arg("profile", "string", "name of a profile")
        entry = Arg("id", "integer", "id of a rule, or of an entry of the audit list")
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
                self._nodes.set_device_name,
            ),
            (
                "node_add_ip",
                "Give a node an address by hand; node 0 makes a new one.",
                (node, Arg("ipaddr", "string", "an IPv4 or IPv6 address")),
                write,
                self._nodes.node_add_ip,
            ),
            ("list_iplist", "The addresses of a list.", (which,), read, self._nodes.list_iplist),
            (
                "add_iplist_node",
                "Put a node on a list; it stays there with all its addresses.",
                (which, node),
                write,
                self._nodes.add_iplist_node,
            ),
            (
                "remove_iplist_node",
                "Take a node off a list.",
                (which, node),
                write,
                self._nodes.remove_iplist_node,
            ),
            (
                "add_iplist_ip",
                "Put an address or prefix on a list.",
                (which, ip),
                write,
                self._nodes.add_iplist_ip,
            ),
            (
                "remove_iplist_ip",
                "Take an address off a list.",
                (which, ip),
                write,
                self._nodes.remove_iplist_ip,
            ),
            ("reset_iplist_ignore", "Ignore nothing any more.", (), write, self._nodes.reset_iplist_ignore),
            (
                "set_flow_block",
                "Block what two nodes exchange, or allow it again; one of them is a device.",
                (Arg("node1", "integer", "id of a node"), Arg("node2", "integer", "id of a node"), block),
                write,
                self._nodes.set_flow_block,
            ),
            (
                "set_device_flow_block",
                "Block what a device exchanges with a node, or allow it again.",
                (device, node, block),
                write,
                self._nodes.set_device_flow_block,
            ),
            ("get_flow_block", "Pairs of nodes that are blocked.", (), read, self._nodes.get_flow_block),
            (
                "dots_signal",
                "A mitigation request of DOTS (RFC 9132): keep devices from what they attack.",
                (Arg("dots_signal", "complex", "with ietf-dots-signal-channel:mitigation-scope"),),
                write,
                self._rules.dots_signal,
            ),
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
            (
                "set_ignore",
                "Hide a node from views and messages, or show it again; what blocks it goes on blocking.",
                (node, Arg("ignore", "boolean", "whether to hide it")),
                write,
                self._nodes.set_ignore,
            ),
            ("list_rules", "All rules, oldest first.", (limit, offset), read, self._rules.list_rules),
            (
                "add_rule",
                "Block or allow: a device or all, a party or all, for a time or for good.",
                (
                    any_device,
                    any_node,
                    Arg("domain", "string", "host name or domain, with all names below it", optional=True),
                    ip._replace(optional=True),
                    Arg("port", "integer", "port of the other party", optional=True),
                    Arg("protocol", "string", "tcp, udp, icmp or a number", optional=True),
                    Arg("action", "string", "block or allow"),
                    Arg("until", "integer", "Unix seconds at which it ends", optional=True),
                    Arg(
                        "schedule", "string", "times of the week, as in 'mon-fri 22:00-06:30'", optional=True
                    ),
                    Arg("comment", "string", "why it is there, up to 200 characters", optional=True),
                ),
                write,
                self._rules.add_rule,
            ),
            ("remove_rule", "Take a rule back.", (entry,), write, self._rules.remove_rule),
            (
                "list_profiles",
                "The profiles, each with the devices that have it.",
                (),
                read,
                self._profiles.list_profiles,
            ),
            (
                "set_device_profile",
                "Give a device a profile, or take it back (empty); 'learned' makes one of what it used.",
                (device, profile),
                write,
                self._profiles.set_device_profile,
            ),
            (
                "set_profile",
                "Make a profile, or change what is given of one.",
                (
                    profile,
                    Arg("name", "string", "what people call it", optional=True),
                    Arg("description", "string", "what it is for", optional=True),
                    Arg("default", "string", "allow or block: for what is not listed", optional=True),
                    *(
                        Arg(name, "array", "host names or domains", optional=True)
                        for name in ("allow_domain", "block_domain")
                    ),
                    *(
                        Arg(name, "array", "addresses, prefixes, home or internet", optional=True)
                        for name in ("allow_ip", "block_ip")
                    ),
                ),
                write,
                self._profiles.set_profile,
            ),
            (
                "remove_profile",
                "Take a profile back; one that comes with spind is as shipped again.",
                (profile,),
                write,
                self._profiles.remove_profile,
            ),
            (
                "list_notifications",
                "What people should hear of, the latest first.",
                (since._replace(doc="Unix seconds; only what happened since"), limit, offset),
                read,
                self._notifications.list_notifications,
            ),
            (
                "dismiss_notification",
                "Take a notification off the list.",
                (entry._replace(doc="id of a notification"),),
                write,
                self._notifications.dismiss_notification,
            ),
            (
                "list_audit",
                "Who decided what through which interface, the latest first.",
                (since, limit, offset),
                read,
                self._audit.list_audit,
            ),
            (
                "undo",
                "Have what was before an entry of the audit list again.",
                (entry,),
                write,
                self._audit.undo,
            ),
            (
                "start_capture",
                "Capture packets of a device, of a node, or what both exchange; 'url' gives them as pcap.",
                (
                    any_device,
                    any_node,
                    Arg("seconds", "integer", "for how long, up to limit_capture_seconds", optional=True),
                    Arg("max_bytes", "integer", "how much, up to limit_capture_bytes", optional=True),
                ),
                write,
                self._captures.start_capture,
            ),
            (
                "stop_capture",
                "End a capture; what it has can still be downloaded.",
                (Arg("id", "integer", "id of a capture"),),
                write,
                self._captures.stop_capture,
            ),
            (
                "list_captures",
                "Packet captures that run or can be downloaded, the latest first.",
                (),
                read,
                self._captures.list_captures,
            ),
        ]
        return [
            Method(name, doc, args, "complex", writes, handler) for name, doc, args, writes, handler in rows
        ]


def _check_role(method: Method, caller: Caller) -> None:
    """``DeniedError`` where the caller's role does not let it change what ``method`` changes."""
    if not method.writes:
        return
    if caller.role == "viewer":
        raise DeniedError(f"{method.name} changes something, and the role viewer may only look")
    if caller.role == "provider" and method.name not in _PROVIDER_WRITES:
        raise DeniedError(f"{method.name} is for the owner of the home only")
