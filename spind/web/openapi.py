# SPDX-License-Identifier: GPL-2.0-or-later
"""The description of the web API (OpenAPI 3.1), made from the tables that serve it. Pure.

Owns what a description needs beyond them: values that arguments may have, and the shapes of results, in
JSON Schema. Must not decide anything about a request: what is wrong here is a wrong document, no more.
"""

from collections.abc import Iterable, Mapping

from spind import __version__
from spind.calls import Arg, Method
from spind.shapes import Json
from spind.views import PAGE_LIMIT
from spind.web.messages import EVENTS, JSON, PROBLEM
from spind.web.openapi_shapes import RESULTS, SCHEMAS, ref
from spind.web.rest import PREFIX, Resource

MAC = "[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}"

_TYPES: Mapping[str, Json] = {
    "string": {"type": "string"},
    "integer": {"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
    "boolean": {"type": "boolean"},
    "array": {"type": "array", "items": {"type": "string"}},
    "complex": {"type": "object"},
}

_VALUES: Mapping[str, Json] = {
    "action": {"enum": ["block", "allow"]},
    "device": {"pattern": f"^{MAC}$"},
    "kind": {"enum": ["", "device", "site", "gateway"]},
    "limit": {"minimum": 1, "maximum": PAGE_LIMIT},
    "list": {"enum": ["ignore", "block", "allow"]},
    "port": {"maximum": 65535},
    "since": {"minimum": 1 - 2**53},
    "get_traffic.device": {"pattern": f"^({MAC})?$"},
    "get_traffic.node": {"minimum": 1 - 2**53},
    "list_flows.device": {"pattern": f"^({MAC})?$"},
    "list_rules.limit": {"maximum": 2**53 - 1},
}
"""What is known of arguments by their names, or by those of their methods and theirs."""

_PROBLEMS: Mapping[str, str] = {
    "400": "Something of the request is missing, of the wrong type, or unknown.",
    "401": "Nobody is logged in, and there is no valid token.",
    "403": "The role does not allow it, or another web site made the request.",
    "404": "What the path names is not there.",
    "413": "The body is too long.",
    "415": "The body is not JSON.",
    "421": "The router does not know itself by this name (Host).",
    "422": "The arguments are of the right types, and refused: the sentence says why.",
    "503": "Not possible at present; nothing has changed.",
}
_EVERYWHERE = ("400", "401", "403", "421")


def describe(methods: Mapping[str, Method], resources: Iterable[Resource]) -> Json:
    """The whole document."""
    paths: dict[str, Json] = {}
    for resource in resources:
        paths.setdefault(PREFIX + resource.path, {})[resource.verb.lower()] = _operation(methods, resource)
    paths |= _OTHERS
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "spind",
            "version": __version__,
            "summary": "Shows and controls what the devices in a home do on the network",
            "license": {"name": "GPL-2.0-or-later", "identifier": "GPL-2.0-or-later"},
        },
        "servers": [{"url": "/"}],
        "security": [{"cookie": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": {f"Problem{status}": _problem(text) for status, text in _PROBLEMS.items()},
            "securitySchemes": {
                "cookie": {"type": "apiKey", "in": "cookie", "name": "spin_session"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(methods: Mapping[str, Method], resource: Resource) -> Json:
    behind = [methods[name] for name in resource.methods]
    args = {
        arg.name: (arg, _schema(method, arg))
        for method in behind
        for arg in method.args
        if arg.name not in resource.fixed
    }
    in_path = {name for name in args if f"{{{name}}}" in resource.path}
    others = [each for name, each in args.items() if name not in in_path]
    parameters = [_parameter(*each, "path") for name, each in args.items() if name in in_path]
    operation: Json = {
        "operationId": resource.name or resource.method,
        "summary": " ".join(method.doc for method in behind),
        "tags": [resource.path.split("/")[1]],
    }
    if resource.in_query:
        parameters += [_parameter(*each, "query") for each in others]
    elif others:
        operation["requestBody"] = _body(others, any_of=bool(resource.also))
    if parameters:
        operation["parameters"] = parameters
    operation["responses"] = _responses(resource, writes=behind[0].writes, named=bool(parameters))
    return operation


def _parameter(arg: Arg, schema: Json, place: str) -> Json:
    required = place == "path" or not arg.optional
    if place == "path" and arg.type == "string":
        schema = {**schema, "minLength": 1}
    return {
        "name": arg.name,
        "in": place,
        "required": required,
        "description": arg.doc,
        "schema": schema,
    }


def _schema(method: Method, arg: Arg) -> Json:
    return {
        **_TYPES[arg.type],
        **_VALUES.get(arg.name, {}),
        **_VALUES.get(f"{method.name}.{arg.name}", {}),
    }


def _body(args: list[tuple[Arg, Json]], *, any_of: bool) -> Json:
    whole: Json = {
        "type": "object",
        "properties": {arg.name: {**schema, "description": arg.doc} for arg, schema in args},
        "additionalProperties": False,
    }
    required = [arg.name for arg, _ in args if not arg.optional]
    if any_of:
        whole["minProperties"] = 1
    elif required:
        whole["required"] = required
    return {"required": bool(required), "content": {JSON: {"schema": whole}}}


def _responses(resource: Resource, *, writes: bool, named: bool) -> Json:
    result = RESULTS.get(resource.method)
    responses: Json = {}
    if resource.made and result is not None:
        responses["201"] = {
            "description": "It is made.",
            "headers": {
                "Location": {
                    "required": True,
                    "description": "Path of what was made.",
                    "schema": {"type": "string"},
                }
            },
            "content": {JSON: {"schema": result}},
        }
    elif result is not None:
        responses["200"] = {"description": "The result.", "content": {JSON: {"schema": result}}}
    else:
        responses["204"] = {"description": "Done."}
    problems = [*_EVERYWHERE, *(["404"] if named or writes else [])]
    if writes:
        responses["202"] = {
            "description": "Kept, and not in force yet: it is tried again.",
            "content": {JSON: {"schema": ref("Pending")}},
        }
        problems += ["413", "415", "422", "503"]
    elif resource.method in {"list_rules", "list_iplist"}:  # they refuse what others find invalid
        problems += ["422"]
    return _answers(responses, *problems)


def _problem(text: str) -> Json:
    return {"description": text, "content": {PROBLEM: {"schema": ref("Problem")}}}


def _answers(answers: Json, *refusals: str) -> Json:
    return answers | {status: ref(f"Problem{status}", "responses") for status in sorted(refusals)}


def _told(description: str, schema: Json, **more: Json) -> Json:
    return {"description": description, "content": {JSON: {"schema": schema}}, **more}


_SET_COOKIE: Json = {"Set-Cookie": {"required": True, "schema": {"type": "string"}}}

_OTHERS: Mapping[str, Json] = {
    f"{PREFIX}/openapi.json": {
        "get": {
            "operationId": "openapi",
            "summary": "This document.",
            "tags": ["description"],
            "responses": _answers({"200": _told("The document.", {"type": "object"})}, *_EVERYWHERE),
        }
    },
    f"{PREFIX}/session": {
        "get": {
            "operationId": "get_session",
            "summary": "Who is logged in, and whether one has to.",
            "tags": ["session"],
            "security": [],
            "responses": _answers({"200": _told("The session.", ref("Session"))}, "400", "403", "421"),
        },
        "post": {
            "operationId": "log_in",
            "summary": "Begin a session.",
            "tags": ["session"],
            "security": [],
            "requestBody": {"required": True, "content": {JSON: {"schema": ref("Credentials")}}},
            "responses": _answers(
                {
                    "200": _told("The session; its cookie is set.", ref("Session"), headers=_SET_COOKIE),
                    "429": {
                        **_problem("Too many failed logins."),
                        "headers": {"Retry-After": {"required": True, "schema": {"type": "string"}}},
                    },
                },
                "400",
                "403",
                "413",
                "415",
                "421",
            ),
        },
        "delete": {
            "operationId": "log_out",
            "summary": "End the session.",
            "tags": ["session"],
            "security": [],
            "responses": _answers(
                {
                    "204": {"description": "There is none any more.", "headers": _SET_COOKIE},
                },
                "400",
                "403",
                "415",
                "421",
            ),
        },
    },
    f"{PREFIX}/events": {
        "get": {
            "operationId": "events",
            "summary": "Live events (server-sent events): the home as it is, and then what changes.",
            "tags": ["events"],
            "parameters": [
                {
                    "name": "Last-Event-ID",
                    "in": "header",
                    "description": "The last event that was received; browsers send it by themselves.",
                    "schema": {"type": "string"},
                }
            ],
            "responses": _answers(
                {
                    "200": {
                        "description": "The stream, without end.",
                        "content": {EVENTS: {"schema": {"type": "string"}}},
                    },
                },
                *_EVERYWHERE,
                "503",
            ),
        }
    },
    f"{PREFIX}/captures/{{id}}.pcap": {
        "get": {
            "operationId": "download_capture",
            "summary": "The packets of a capture, from its beginning, until it ends.",
            "tags": ["captures"],
            "parameters": [
                {
                    "name": "id",
                    "in": "path",
                    "required": True,
                    "description": "id of a capture",
                    "schema": {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
                }
            ],
            "responses": _answers(
                {
                    "200": {
                        "description": "A file as libpcap has it.",
                        "content": {"application/vnd.tcpdump.pcap": {"schema": {"type": "string"}}},
                    },
                },
                *_EVERYWHERE,
                "404",
                "503",
            ),
        }
    },
    "/spin_api/jsonrpc": {
        "post": {
            "operationId": "json_rpc",
            "summary": "JSON-RPC 2.0, as SPIN 1.0 has it: all methods, batches, notifications.",
            "tags": ["json-rpc"],
            # Whatever the body is, the reply is one of JSON-RPC.
            "requestBody": {"required": False, "content": {JSON: {"schema": ref("JsonRpc")}}},
            "responses": _answers(
                {
                    "200": _told("The reply or replies, errors included.", {"type": ["object", "array"]}),
                    "204": {"description": "There is nothing to reply to notifications."},
                },
                *_EVERYWHERE,
                "413",
                "415",
            ),
        }
    },
}
"""What is no method of the table."""
