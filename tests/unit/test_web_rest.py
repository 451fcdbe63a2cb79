# SPDX-License-Identifier: GPL-2.0-or-later
"""Methods as resources: paths, queries, bodies, statuses."""

import re

import pytest
from web_parts import Web, headers, web

from spind.calls import (
    INVALID_ARGUMENTS,
    REFUSED,
    ApiError,
    DeniedError,
    NotFoundError,
    NotInForceError,
    UnavailableError,
)
from spind.web.rest import RESOURCES, Rest, status_of

MAC = "02:00:00:00:08:11"


def test_every_method_is_a_resource_and_every_resource_a_method() -> None:
    methods = set(web().api.methods)
    assert {name for each in RESOURCES for name in each.methods} == methods


def test_every_argument_can_be_given_and_is_needed_by_a_path() -> None:
    table = web().api.methods
    for each in RESOURCES:
        names = {arg.name for method in each.methods for arg in table[method].args}
        assert set(re.findall(r"{(\w+)}", each.path)) <= names, each.path
        assert set(each.fixed) <= names, each.path
        left = names - set(each.fixed) - set(re.findall(r"{(\w+)}", each.path))
        if each.verb == "DELETE":
            assert not left, each.path


def test_what_looks_does_not_write_and_the_other_way_round() -> None:
    table = web().api.methods
    for each in RESOURCES:
        assert {table[name].writes for name in each.methods} == {each.verb != "GET"}, each.path


def test_paths_are_not_ambiguous() -> None:
    assert len({(each.verb, re.sub("{.*?}", "{}", each.path)) for each in RESOURCES}) == len(RESOURCES)
    names = [each.name or each.method for each in RESOURCES]
    assert len(set(names)) == len(names)


def test_a_table_without_a_method_lacks_its_resource() -> None:
    api = web().api
    api.methods = {name: method for name, method in api.methods.items() if name != "list_captures"}
    there = Rest(api).resources
    assert {each.method for each in RESOURCES if each not in there} == {"list_captures"}


# -- the same as the methods -------------------------------------------------------------


def rpc(parts: Web, method: str, **params: object) -> object:
    call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return parts.get("POST", "/spin_api/jsonrpc", call)[1]["result"]


@pytest.mark.parametrize(
    ("target", "method", "params"),
    [
        ("/devices", "list_devices", {}),
        (f"/devices/{MAC}/flows", "list_device_flows", {"device": MAC}),
        (f"/devices/{MAC.replace(':', '%3A')}/flows", "list_device_flows", {"device": MAC}),
        ("/nodes", "list_nodes", {}),
        ("/nodes?kind=device&limit=1&offset=1", "list_nodes", {"kind": "device", "limit": 1, "offset": 1}),
        ("/nodes?query=192.168", "list_nodes", {"query": "192.168"}),
        ("/nodes/1", "get_device_data", {"node": 1}),
        (f"/flows?device={MAC}&since=5", "list_flows", {"device": MAC, "since": 5}),
        ("/traffic?step=60", "get_traffic", {"step": 60}),
        ("/flow-blocks", "get_flow_block", {}),
        ("/rules?limit=5", "list_rules", {"limit": 5}),
        ("/profiles", "list_profiles", {}),
        ("/lists/block", "list_iplist", {"list": "block"}),
        ("/audit", "list_audit", {}),
        ("/notifications", "list_notifications", {}),
        ("/status", "status", {}),
        ("/methods", "list_rpc_methods", {}),
    ],
)
def test_what_can_be_read_is_what_json_rpc_gives(target: str, method: str, params: dict) -> None:
    parts = web()
    assert parts.get("GET", f"/api/v1{target}") == (200, rpc(parts, method, **params))
    assert parts.ask("HEAD", f"/api/v1{target}").status == 200


def test_names_and_ignoring() -> None:
    parts = web()
    assert parts.get("PATCH", "/api/v1/nodes/1", {"name": "Käse"}) == (204, None)
    assert parts.get("PATCH", "/api/v1/nodes/1", {"ignore": True}) == (204, None)
    assert parts.get("PATCH", "/api/v1/nodes/2", {"name": "b", "ignore": True}) == (204, None)
    nodes = {node["id"]: node for node in rpc(parts, "list_nodes")["items"]}
    assert (nodes[1]["name"], nodes[1]["is_ignored"]) == ("Käse", True)
    assert (nodes[2]["name"], nodes[2]["is_ignored"]) == ("b", True)


@pytest.mark.parametrize(
    "body", [{}, {"colour": "red"}, {"name": 5}, {"ignore": "yes"}, {"name": "x", "ignore": 3.5}, {"node": 2}]
)
def test_a_change_that_is_wrong_in_part_changes_nothing(body: dict) -> None:
    parts = web()
    status, _ = parts.get("PATCH", "/api/v1/nodes/1", body)
    assert status == 400
    assert rpc(parts, "list_audit")["total"] == 0


def test_a_rule_is_made_found_taken_back_and_restored() -> None:
    parts = web()
    reply = parts.ask("POST", "/api/v1/rules", {"action": "block", "device": MAC, "domain": "a.test"})
    assert (reply.status, headers(reply)["Location"]) == (201, "/api/v1/rules/1")
    assert reply.body == b'{"id":1}'
    assert parts.get("DELETE", "/api/v1/rules/1") == (204, None)
    assert parts.get("DELETE", "/api/v1/rules/1")[0] == 404
    assert parts.get("POST", "/api/v1/audit/2/undo") == (204, None)
    assert [rule["domain"] for rule in parts.get("GET", "/api/v1/rules")[1]] == ["a.test"]
    status, answer = parts.get("POST", "/api/v1/audit/2/undo")
    assert (status, answer["title"]) == (422, "Unprocessable Entity")
    assert "undone already" in answer["detail"]


def test_pairs_are_blocked_and_allowed_again() -> None:
    parts = web()
    assert parts.get("PUT", "/api/v1/flow-blocks/1/3") == (204, None)
    assert rpc(parts, "get_flow_block") == [{"node1": 1, "node2": 3}]
    assert parts.get("DELETE", "/api/v1/flow-blocks/1/3") == (204, None)
    assert parts.get("PUT", f"/api/v1/devices/{MAC}/blocks/3") == (204, None)
    assert rpc(parts, "get_flow_block") == [{"node1": 1, "node2": 3}]
    assert parts.get("DELETE", f"/api/v1/devices/{MAC}/blocks/3") == (204, None)
    assert rpc(parts, "get_flow_block") == []
    status, answer = parts.get("PUT", "/api/v1/flow-blocks/1/3", {"block": 0})
    assert (status, answer["detail"]) == (400, "block follows from the path and the verb")


def test_lists_and_profiles() -> None:
    parts = web()
    assert parts.get("PUT", "/api/v1/lists/block/addresses/198.18.0.0%2F24") == (204, None)
    assert parts.get("PUT", "/api/v1/lists/ignore/nodes/3") == (204, None)
    assert parts.get("GET", "/api/v1/lists/block")[1] == ["198.18.0.0/24"]
    assert parts.get("GET", "/api/v1/lists/ignore")[1] != []
    assert parts.get("DELETE", "/api/v1/lists/ignore/entries") == (204, None)
    assert parts.get("GET", "/api/v1/lists/ignore")[1] == []
    assert parts.get("DELETE", "/api/v1/lists/block/addresses/198.18.0.0%2f24") == (204, None)
    assert parts.get("GET", "/api/v1/lists/block")[1] == []
    kids = {"name": "Kids", "default": "block", "allow_domain": ["school.test"]}
    assert parts.get("PUT", "/api/v1/profiles/kids", kids) == (204, None)
    assert parts.get("PUT", f"/api/v1/devices/{MAC}/profile", {"profile": "kids"}) == (204, None)
    assert parts.get("DELETE", "/api/v1/profiles/kids")[0] == 422
    assert parts.get("PUT", f"/api/v1/devices/{MAC}/profile", {"profile": ""}) == (204, None)
    assert parts.get("DELETE", "/api/v1/profiles/kids") == (204, None)


# -- what is wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "sentence"),
    [
        ("GET", "/nodes/x", None, 400, "node must be an integer"),
        ("GET", "/nodes/1.5", None, 400, "node must be an integer"),
        ("GET", "/nodes/²", None, 400, "node must be an integer"),
        ("GET", "/nodes/99999999999999999999", None, 400, "node must be an integer"),
        ("GET", "/nodes/9999999999999999", None, 400, "node is out of range"),
        ("GET", "/nodes/99", None, 404, "Unknown node id"),
        ("GET", "/nodes?limit=0", None, 400, "limit must be 1 to 500"),
        ("GET", "/nodes?limit=", None, 400, "limit must be an integer"),
        ("GET", "/nodes?colour=red", None, 400, "there is no field 'colour' here"),
        ("GET", "/nodes?kind=fridge", None, 400, "kind must be"),
        ("GET", "/nodes/1?node=2", None, 400, "there is no field 'node' here (fields: none)"),
        ("GET", f"/devices/{MAC}x/flows", None, 404, "Device not found"),
        ("GET", "/devices/%ff/flows", None, 400, "the path is not UTF-8"),
        ("POST", "/rules", None, 400, "needs the argument action"),
        ("POST", "/rules", {"action": 1}, 400, "action must be of type string"),
        ("POST", "/rules", {"action": "block"}, 422, "would cut the whole home"),
        ("POST", "/rules", {"action": "block", "colour": "red"}, 400, "no argument 'colour'"),
        ("POST", "/rules?action=block", {"action": "block"}, 400, "not in the query"),
        ("POST", "/rules", [], 400, "must be a JSON object"),
        ("POST", "/rules", b"{", 400, "not valid JSON"),
        ("POST", "/rules", b'{"action":"block","action":"allow"}', 400, "two members of the same name"),
        ("POST", "/rules", b'{"action":NaN}', 400, "NaN is not JSON"),
        ("POST", "/rules", b'{"action":"\\ud800"}', 400, "lone surrogate"),
        ("POST", "/rules", b'{"a":' * 40 + b"1" + b"}" * 40, 400, "nests at most"),
        ("POST", "/rules", b"[" * 60000, 400, "not valid JSON"),
        ("PUT", "/profiles/kids", {"profile": "other"}, 400, "profile is given in the path"),
        ("PUT", "/profiles/kids", {"allow_domain": "a.test"}, 400, "allow_domain must be of type array"),
        ("PUT", "/lists/nope/nodes/1", None, 422, "Unknown ip list name"),
        ("POST", "/dots", {"dots_signal": {}}, 503, "DOTS is not enabled"),
        ("POST", "/captures", {}, 503, ""),
        ("GET", "/", None, 404, "there is nothing at this path"),
        ("GET", "/nodes/", None, 404, "there is nothing at this path"),
        ("GET", "/nodes//", None, 404, "there is nothing at this path"),
        ("GET", "/Nodes", None, 404, "there is nothing at this path"),
        ("GET", "/nodes/1/2/3", None, 404, "there is nothing at this path"),
        ("GET", "/../v1/nodes", None, 404, "there is nothing at this path"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(method: str, target: str, body: object, status: int, sentence: str) -> None:
    parts = web()
    found, answer = parts.get(method, f"/api/v1{target}", body)
    assert (found, answer["status"]) == (status, status)
    assert sentence in answer["detail"]
    assert rpc(parts, "list_audit")["total"] == 0


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/devices", "GET, HEAD"),
        ("PUT", "/nodes/1", "GET, PATCH, HEAD"),
        ("HEAD", "/rules/1", "DELETE"),
        ("OPTIONS", "/rules", "GET, POST, HEAD"),
        ("TRACE", "/status", "GET, HEAD"),
        ("DELETE", "/profiles", "GET, HEAD"),
    ],
)
def test_a_verb_that_is_not_there(method: str, path: str, allowed: str) -> None:
    reply = web().ask(method, f"/api/v1{path}")
    assert (reply.status, headers(reply)["Allow"]) == (405, allowed)


def test_refusals_have_statuses() -> None:
    assert status_of(NotFoundError("")) == 404
    assert status_of(DeniedError("")) == 403
    assert status_of(UnavailableError("")) == 503
    assert status_of(ApiError(INVALID_ARGUMENTS, "")) == 400
    assert status_of(ApiError(REFUSED, "")) == 422


def test_what_is_kept_but_not_in_force_is_accepted() -> None:
    parts = web()

    def call(*_arguments: object) -> object:
        raise NotInForceError("the kernel says no")

    parts.api.call = call
    status, answer = parts.get("PUT", "/api/v1/lists/block/nodes/1")
    assert status == 202
    assert answer == {"in_force": False, "detail": "kept, but not in force yet: the kernel says no"}
