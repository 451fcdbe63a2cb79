# SPDX-License-Identifier: GPL-2.0-or-later
"""Recorded SPIN 1.0 requests, answered by the real table: the same shapes, key by key and type by type."""

import json
from pathlib import Path

import pytest
from test_api import SAMPLES, Bench, same_shape
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
    if isinstance(params, dict) and isinstance(params.get("node"), int):
        node = ids.get(params["node"], params["node"])
        return {**request, "params": {**params, "node": node}}
    return request


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
    unknown = path.name in ("rpc-err-unknown-method.json", "rpc-get_methods.json")
    if method not in bench.api.methods and not unknown:
        pytest.skip(f"{method} comes with blocking")
    if method.startswith(("add_iplist", "remove_iplist")) and request["params"]["list"] in ("block", "allow"):
        pytest.skip("the lists block and allow come with blocking")
    if path.name == "rpc-node_add_ip-dup.json":
        request["params"]["ipaddr"] = "198.18.0.20"
        assert bench.engine.nodes.has_address(CDN)
    recorded = json.loads(sample["raw_reply"])
    reply = json.loads(jsonrpc.handle(bench.api, json.dumps(translated(request, bench)).encode(), OWNER))
    if "error" in recorded:
        assert list(reply) == ["jsonrpc", "id", "error"]
        assert list(reply["error"]) == ["code", "message"]
        assert reply["error"]["code"] == CODES.get(path.name, recorded["error"]["code"])
        assert isinstance(reply["error"]["message"], str)
        if path.name not in CODES:
            assert reply["error"]["message"] == recorded["error"]["message"]
    else:
        assert list(reply) == ["jsonrpc", "id", "result"]
        same_shape(reply["result"], recorded.get("result"), method)
    assert (reply["jsonrpc"], reply["id"]) == ("2.0", recorded["id"])
