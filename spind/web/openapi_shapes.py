# SPDX-License-Identifier: GPL-2.0-or-later
"""The shapes of results and of bodies, in JSON Schema for the description of the web API. Pure.

What docs/api.md says in words. Members may be added, so nothing forbids others. ``RESULTS`` has a method's
result by its name; methods that are not in it have none.
"""

from collections.abc import Mapping

from spind.shapes import Json


def ref(name: str, kind: str = "schemas") -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(optional: Mapping[str, Json] | None = None, /, **required: Json) -> Json:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _page(items: Json) -> Json:
    return _object(total=_COUNT, items=_list(items))


_TEXT: Json = {"type": "string"}
_TEXTS: Json = _list(_TEXT)
_FLAG: Json = {"type": "boolean"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_TIME: Json = {"type": "integer", "minimum": 0, "description": "Unix seconds"}
_ID: Json = {"type": "integer", "minimum": 1}
_ACTION: Json = {"enum": ["block", "allow"]}
_COUNTS: Mapping[str, Json] = {
    "up_bytes": _COUNT,
    "down_bytes": _COUNT,
    "up_packets": _COUNT,
    "down_packets": _COUNT,
}

_NODE = _object(
    {"name": _TEXT, "mac": _TEXT, "is_blocked": _FLAG, "is_excepted": _FLAG},
    id=_ID,
    lastseen=_TIME,
    ips=_TEXTS,
    domains=_TEXTS,
)

SCHEMAS: Json = {
    "Node": _NODE,
    "NodeDetails": {
        "allOf": [
            ref("Node"),
            _object(
                {
                    "mac_is_random": _FLAG,
                    "profile": _TEXT,
                    "ipv4": _object(**_COUNTS),
                    "ipv6": _object(**_COUNTS),
                },
                kind={"enum": ["device", "site", "gateway"]},
                label=_TEXT,
                domain=_TEXT,
                hostname=_TEXT,
                firstseen=_TIME,
                is_ignored=_FLAG,
                is_blocked=_FLAG,
                is_excepted=_FLAG,
            ),
        ]
    },
    "Flow": _object(
        {"icmp_type": _COUNT, "note": _TEXT},
        device=_ID,
        node=_ID,
        name=_TEXT,
        evidence={"enum": ["sni", "http", "dns", "dns-other", "none"]},
        protocol={"type": "integer", "minimum": 0, "maximum": 255},
        port={"type": "integer", "minimum": 0, "maximum": 65535},
        family={"enum": [4, 6]},
        inbound=_FLAG,
        **_COUNTS,
        firstseen=_TIME,
        lastseen=_TIME,
        blocked=_COUNT,
    ),
    "DeviceFlow": _object(
        {"packets": _COUNT, "bytes": _COUNT, "lastseen": _TIME, "blocked": {"const": 1}},
        to=_ID,
        dst_port=_COUNT,
        icmp_type=_COUNT,
    ),
    "Traffic": _object(since=_TIME, step=_COUNT, items=_list(_object(time=_TIME, **_COUNTS))),
    "Rule": _object(
        {
            "device": _TEXT,
            "node": {"type": "integer", "minimum": 0, "description": "0 while the party is not known"},
            "party": _TEXT,
            "domain": _TEXT,
            "ip": _TEXT,
            "port": _COUNT,
            "protocol": _TEXT,
            "until": _TIME,
            "schedule": _TEXT,
            "comment": _TEXT,
        },
        id=_ID,
        action=_ACTION,
        author={"enum": ["owner", "provider", "detector", "profile"]},
        created=_TIME,
        active=_FLAG,
        text=_TEXT,
    ),
    "Profile": _object(
        name=_TEXT,
        title=_TEXT,
        description=_TEXT,
        default=_ACTION,
        allow_domain=_TEXTS,
        block_domain=_TEXTS,
        allow_ip=_TEXTS,
        block_ip=_TEXTS,
        builtin=_FLAG,
        devices=_TEXTS,
    ),
    "AuditEntry": _object(
        id=_ID,
        time=_TIME,
        author=_TEXT,
        interface=_TEXT,
        method=_TEXT,
        text=_TEXT,
        before=_list({"type": "object"}),
        after=_list({"type": "object"}),
        undone=_COUNT,
        undoes=_COUNT,
        undoable=_FLAG,
    ),
    "Notification": _object(
        {"device": _ID, "node": _ID},
        id=_ID,
        time=_TIME,
        kind=_TEXT,
        message=_TEXT,
        message_key=_TEXT,
        message_args=_TEXTS,
    ),
    "Capture": _object(
        {"reason": _TEXT, "notes": _TEXTS, "dropped": _COUNT},
        id=_ID,
        state=_TEXT,
        bytes=_COUNT,
        packets=_COUNT,
        url=_TEXT,
        seconds_left=_COUNT,
    ),
    "Method": {
        "type": "object",
        "required": ["rpc-name", "rpc-args", "rpc-result-type", "doc"],
        "properties": {"rpc-name": _TEXT, "rpc-result-type": _TEXT, "doc": _TEXT},
    },
    "Status": _object(
        version=_TEXT, uptime=_COUNT, statistics={"type": "object"}, limits={"type": "object"}, notes=_TEXTS
    ),
    "Session": _object(
        {"notice": _TEXT},
        open=_FLAG,
        name=_TEXT,
        role={"enum": ["", "viewer", "owner", "provider"]},
        version=_TEXT,
        login=_FLAG,
    ),
    "Credentials": {
        "type": "object",
        "required": ["user", "password"],
        "properties": {
            "user": {"type": "string", "maxLength": 256},
            "password": {"type": "string", "maxLength": 256, "format": "password"},
        },
    },
    "Pending": _object(in_force={"const": False}, detail=_TEXT),
    "Problem": {
        **_object(title=_TEXT, status={"type": "integer"}, detail=_TEXT),
        "description": "RFC 9457; detail is a sentence for people.",
    },
    "JsonRpc": {
        "description": "A request, or up to 20 of them.",
        "examples": [{"jsonrpc": "2.0", "id": 1, "method": "list_devices"}],
    },
}

RESULTS: Mapping[str, Json] = {
    "add_rule": _object(id=_ID),
    "get_device_data": ref("Node"),
    "get_flow_block": _list(_object(node1=_ID, node2=_ID)),
    "get_traffic": ref("Traffic"),
    "list_audit": _page(ref("AuditEntry")),
    "list_captures": _list(ref("Capture")),
    "list_device_flows": _list(ref("DeviceFlow")),
    "list_devices": _list(ref("Node")),
    "list_flows": _page(ref("Flow")),
    "list_iplist": _TEXTS,
    "list_nodes": _page(ref("NodeDetails")),
    "list_notifications": _page(ref("Notification")),
    "list_profiles": _list(ref("Profile")),
    "list_rpc_methods": _list(ref("Method")),
    "list_rules": _list(ref("Rule")),
    "start_capture": ref("Capture"),
    "status": ref("Status"),
    "stop_capture": ref("Capture"),
}
