# SPDX-License-Identifier: GPL-2.0-or-later
"""Recorded SPIN 1.0 requests, answered by the real table: the same shapes, key by key and type by type."""

import json
from pathlib import Path

import pytest
from test_api import MAC, SAMPLES, Bench, same_shape
from test_engine import CAMERA, CDN, PHONE

from spind import jsonrpc
from spind.calls import Caller

OWNER = Caller("socket", "owner")

# What is refused on purpose, or accepted on purpose, where SPIN 1.0 did otherwise (docs/decisions/0003).
CODES = {
    "rpc-err-extra-param.json": -32602,
    "rpc-err-missing-param.json": -32602,
    "rpc-err-params-list.json": -32602,
    "rpc-err-wrong-type.json": -32602,
    "rpc-err-unknown-method.json": -32601,
    "rpc-get_methods.json": -32601,
    "rpc-err-version.json": -32600,
}


def samples():
    if not SAMPLES.exists():
        return [pytest.param(Path(), marks=pytest.mark.skip(reason="the recorded samples are not here"))]
    return sorted(SAMPLES.glob("rpc-*.json"))


def translated(request, bench):
    """The request for our home: its nodes have other ids, its lists other members."""
    nodes = bench.engine.nodes
    site = nodes.find_domain("vendor.test").id
    phone = nodes.devices[PHONE].id
    ids = {7: nodes.devices[CAMERA].id, 4: phone, 5: phone, 9: site, 11: site}
    params = request.get("params")
    if isinstance(params, dict):
        found = {
            name: ids.get(value, value)
            for name, value in params.items()
            if name in ("node", "node1", "node2") and isinstance(value, int)
        }
        return {**request, "params": {**params, **found}}
    return request


# What was done before a request was recorded, by method and arguments of the recording's home.
BEFORE = {
    "rpc-get_device_data-allowed.json": ("add_iplist_node", {"list": "allow", "node": 7}),
    "rpc-get_device_data-blocked.json": ("add_iplist_node", {"list": "block", "node": 7}),
    "rpc-get_flow_block.json": ("set_device_flow_block", {"device": MAC, "node": 9, "block": 1}),
    "rpc-list_device_flows-flowblocked.json": ("set_flow_block", {"node1": 7, "node2": 9, "block": 1}),
    "rpc-list_devices-blocked.json": ("add_iplist_node", {"list": "block", "node": 7}),
    "rpc-list_iplist-allow.json": ("add_iplist_node", {"list": "allow", "node": 7}),
    "rpc-list_iplist-block-v6.json": ("add_iplist_ip", {"list": "block", "ip": "2001:db8:2:1::10"}),
    "rpc-list_iplist-block.json": ("add_iplist_node", {"list": "block", "node": 7}),
    "rpc-list_iplist-ignore.json": ("add_iplist_node", {"list": "ignore", "node": 5}),
    "rpc-remove_iplist_ip-block-v6.json": ("add_iplist_ip", {"list": "block", "ip": "2001:db8:2:1::10"}),
    "rpc-remove_iplist_ip-block.json": ("add_iplist_ip", {"list": "block", "ip": "198.18.0.10"}),
    "rpc-remove_iplist_ip-cidr.json": ("add_iplist_ip", {"list": "block", "ip": "198.18.0.0/24"}),
    "rpc-remove_iplist_node-allow.json": ("add_iplist_node", {"list": "allow", "node": 7}),
    "rpc-remove_iplist_node-block-device.json": ("add_iplist_node", {"list": "block", "node": 7}),
    "rpc-remove_iplist_node-block-remote.json": ("add_iplist_node", {"list": "block", "node": 9}),
    "rpc-remove_iplist_node-ignore.json": ("add_iplist_node", {"list": "ignore", "node": 5}),
    "rpc-set_device_flow_block-off.json": ("set_device_flow_block", {"device": MAC, "node": 9, "block": 1}),
    "rpc-set_flow_block-off.json": ("set_flow_block", {"node1": 7, "node2": 11, "block": 1}),
}

# SPIN 1.0 answered success, and did nothing (docs/decisions/0003).
REFUSED_HERE = {"rpc-set_flow_block-bad.json": "Unknown node id"}


def say(bench, request):
    return jsonrpc.handle(bench.api, json.dumps(translated(request, bench)).encode(), OWNER)


@pytest.mark.parametrize("path", samples(), ids=lambda path: path.name)
def test_recorded_request(path):
    sample = json.loads(path.read_text())
    bench = Bench()
    if path.name == "rpc-over-mqtt.json":
        request, raw = sample["request"]["payload"].encode(), sample["reply"][0]["payload"].encode()
        assert jsonrpc.handle(bench.api, request, OWNER) == raw
        return
    request = sample["request"]
    if path.name == "rpc-err-noid.json":
        # A notification: SPIN 1.0 answered with a bare result, JSON-RPC forbids an answer.
        assert jsonrpc.handle(bench.api, request.encode(), OWNER) is None
        return
    if isinstance(request, str):
        request = json.loads(request)
    method = request["method"]
    if path.name in BEFORE:
        before, params = BEFORE[path.name]
        reply = json.loads(say(bench, {"jsonrpc": "2.0", "id": 0, "method": before, "params": params}))
        assert "error" not in reply
    if path.name == "rpc-node_add_ip-dup.json":
        request["params"]["ipaddr"] = "198.18.0.20"
        assert bench.engine.nodes.has_address(CDN)
    recorded = json.loads(sample["raw_reply"])
    reply = json.loads(say(bench, request))
    if path.name in REFUSED_HERE:
        assert reply["error"] == {"code": -1, "message": REFUSED_HERE[path.name]}
    elif "error" in recorded:
        assert list(reply) == ["jsonrpc", "id", "error"]
        assert list(reply["error"]) == ["code", "message"]
        assert reply["error"]["code"] == CODES.get(path.name, recorded["error"]["code"])
        assert isinstance(reply["error"]["message"], str)
        if path.name not in CODES:
            assert reply["error"]["message"] == recorded["error"]["message"]
    else:
        assert list(reply) == ["jsonrpc", "id", "result"]
        assert bool(reply["result"]) == bool(recorded.get("result"))
        if method == "list_device_flows":  # of its two kinds, both begin with traffic
            reply["result"].sort(key=lambda flow: "blocked" in flow)
        same_shape(reply["result"], recorded.get("result"), method)
    assert (reply["jsonrpc"], reply["id"]) == ("2.0", recorded["id"])


def marks(node):
    """What of a node's shape is there only where it applies."""
    return {key: node[key] for key in ("is_blocked", "is_excepted") if key in node}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the recorded SPIN 1.0 messages are not here")
@pytest.mark.parametrize("name", sorted(BEFORE))
def test_what_was_decided_before_shows_as_recorded(name):
    """``same_shape`` passes over what is not always there: here it must be."""
    sample = json.loads((SAMPLES / name).read_text())
    bench = Bench()
    method, params = BEFORE[name]
    say(bench, {"jsonrpc": "2.0", "id": 0, "method": method, "params": params})
    ours = json.loads(say(bench, sample["request"]))["result"]
    recorded = sample["reply"].get("result")
    if name.startswith("rpc-get_device_data"):
        assert marks(ours) == marks(recorded)
    elif name.startswith("rpc-list_devices"):
        assert marks(ours[0]) == marks(recorded[0]) == {"is_blocked": True}
        assert marks(ours[1]) == marks(recorded[1]) == {}
    elif name.startswith("rpc-list_iplist"):
        assert set(ours) >= {address for address in recorded if ":" not in address or "v6" in name} - {
            "192.168.8.13"  # theirs; ours is the phone
        }
    elif name.startswith("rpc-list_device_flows"):
        ours, theirs = ([flow for flow in flows if "blocked" in flow] for flows in (ours, recorded))
        assert [sorted(flow) for flow in ours] == [sorted(flow) for flow in theirs]
        assert [flow["blocked"] for flow in ours] == [1]
    elif name.startswith("rpc-get_flow_block"):
        assert len(ours) == len(recorded)
    else:  # a removal: what was there is gone
        assert ours is None
        for each in ("ignore", "block", "allow"):
            assert bench("list_iplist", list=each) == []
        assert bench("get_flow_block") == []
        assert not bench("list_rules")
