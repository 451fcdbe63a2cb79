# SPDX-License-Identifier: GPL-2.0-or-later
"""The description of the web API is about what there is, and complete in itself."""

import json
import re
from collections.abc import Iterator

import pytest
from web_parts import web

from spind import __version__
from spind.web.openapi_shapes import RESULTS
from spind.web.rest import RESOURCES


@pytest.fixture(scope="module")
def document() -> dict:
    status, found = web().get("GET", "/api/v1/openapi.json")
    assert status == 200
    return found


def operations(document: dict) -> Iterator[tuple[str, str, dict]]:
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            yield path, verb, operation


def test_every_resource_is_described(document: dict) -> None:
    described = {(path, verb) for path, verb, _ in operations(document)}
    served = {(f"/api/v1{each.path}", each.verb.lower()) for each in RESOURCES}
    assert served <= described
    assert {path for path, _ in described - served} == {
        "/api/v1/openapi.json",
        "/api/v1/session",
        "/api/v1/events",
        "/api/v1/captures/{id}.pcap",
        "/spin_api/jsonrpc",
    }


def test_references_lead_somewhere(document: dict) -> None:
    found = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)))
    assert found
    for reference in found:
        place = document
        for name in reference.split("/"):
            place = place[name]
    for kind in ("schemas", "responses"):
        for name in document["components"][kind]:
            assert f"components/{kind}/{name}" in found, f"{name} is not used"


def test_operations_are_whole(document: dict) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for path, verb, operation in operations(document):
        where = f"{verb} {path}"
        in_path = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path)), where
        assert operation["summary"], where
        assert set(operation["responses"]) & {"200", "201", "204"}, where
        assert {"400", "403", "421"} <= set(operation["responses"]), where
        assert ("401" in operation["responses"]) is (operation.get("security") != []), where


def test_results_belong_to_methods() -> None:
    methods = web().api.methods
    assert set(RESULTS) <= set(methods)
    assert {name for name, method in methods.items() if not method.writes} <= set(RESULTS)


def test_the_version_is_ours(document: dict) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["version"] == __version__
    assert set(document["components"]["securitySchemes"]) == {"cookie", "bearer"}
    assert document["security"] == [{"cookie": []}, {"bearer": []}]
