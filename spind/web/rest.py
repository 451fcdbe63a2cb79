# SPDX-License-Identifier: GPL-2.0-or-later
"""REST: the table of methods as resources under ``/api/v1``. Pure.

Owns which resource and verb mean which method, how paths, queries and bodies become arguments, and which
status a result or a refusal has. Must not know what any method does, nor who is asking.

A path's ``{name}`` and a query's fields are text, converted as the method's arguments say; a body is a JSON
object of arguments. Arguments that a resource implies (``fixed``) can not be given.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple, Protocol
from urllib.parse import unquote

from spind import jsonrpc
from spind.calls import (
    INVALID_ARGUMENTS,
    UNKNOWN_METHOD,
    ApiError,
    Arg,
    Caller,
    DeniedError,
    Method,
    NotFoundError,
    NotInForceError,
    UnavailableError,
    check_arguments,
)
from spind.web.messages import Request, Response, WebError, json_response

PREFIX = "/api/v1"

_IN_QUERY = frozenset({"GET", "DELETE"})  # their bodies have no meaning (RFC 9110 sections 9.3.1 and 9.3.5)


class Resource(NamedTuple):
    """A verb at a path, and the method behind it.

    ``also`` is a second method: of the two, those are called of whose own arguments some are given. ``made``
    is the path of what was made, with members of the result. ``name`` is unique; the method's, if not given.
    """

    verb: str
    path: str
    method: str
    fixed: Mapping[str, object] = {}
    made: str = ""
    also: str = ""
    name: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        """The method or methods."""
        return (self.method, self.also) if self.also else (self.method,)

    @property
    def in_query(self) -> bool:
        """Whether arguments that are not in the path are in the query, rather than in a body."""
        return self.verb in _IN_QUERY


RESOURCES = (
    Resource("GET", "/status", "status"),
    Resource("GET", "/methods", "list_rpc_methods"),
    Resource("GET", "/devices", "list_devices"),
    Resource("GET", "/devices/{device}/flows", "list_device_flows"),
    Resource("PUT", "/devices/{device}/profile", "set_device_profile"),
    Resource("PUT", "/devices/{device}/blocks/{node}", "set_device_flow_block", {"block": 1}),
    Resource(
        "DELETE",
        "/devices/{device}/blocks/{node}",
        "set_device_flow_block",
        {"block": 0},
        name="remove_device_flow_block",
    ),
    Resource("GET", "/nodes", "list_nodes"),
    Resource("GET", "/nodes/{node}", "get_device_data"),
    Resource("PATCH", "/nodes/{node}", "set_device_name", also="set_ignore", name="change_node"),
    Resource("POST", "/nodes/{node}/addresses", "node_add_ip"),
    Resource("GET", "/flows", "list_flows"),
    Resource("GET", "/traffic", "get_traffic"),
    Resource("GET", "/flow-blocks", "get_flow_block"),
    Resource("PUT", "/flow-blocks/{node1}/{node2}", "set_flow_block", {"block": 1}),
    Resource(
        "DELETE", "/flow-blocks/{node1}/{node2}", "set_flow_block", {"block": 0}, name="remove_flow_block"
    ),
    Resource("GET", "/rules", "list_rules"),
    Resource("POST", "/rules", "add_rule", made="/rules/{id}"),
    Resource("DELETE", "/rules/{id}", "remove_rule"),
    Resource("GET", "/profiles", "list_profiles"),
    Resource("PUT", "/profiles/{profile}", "set_profile"),
    Resource("DELETE", "/profiles/{profile}", "remove_profile"),
    Resource("GET", "/lists/{list}", "list_iplist"),
    Resource("PUT", "/lists/{list}/nodes/{node}", "add_iplist_node"),
    Resource("DELETE", "/lists/{list}/nodes/{node}", "remove_iplist_node"),
    Resource("PUT", "/lists/{list}/addresses/{ip}", "add_iplist_ip"),
    Resource("DELETE", "/lists/{list}/addresses/{ip}", "remove_iplist_ip"),
    Resource("DELETE", "/lists/ignore/entries", "reset_iplist_ignore"),
    Resource("GET", "/audit", "list_audit"),
    Resource("POST", "/audit/{id}/undo", "undo"),
    Resource("GET", "/notifications", "list_notifications"),
    Resource("DELETE", "/notifications/{id}", "dismiss_notification"),
    Resource("GET", "/captures", "list_captures"),
    Resource("POST", "/captures", "start_capture", made="/captures/{id}"),
    Resource("DELETE", "/captures/{id}", "stop_capture"),
    Resource("POST", "/dots", "dots_signal"),
)

_WORDS = {"true": True, "1": True, "false": False, "0": False}
_INTEGER = re.compile("-?[0-9]{1,16}", re.ASCII)


class Table(Protocol):
    """What is needed of ``spind.api.Api``."""

    @property
    def methods(self) -> Mapping[str, Method]:
        """All methods by name."""

    def call(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """The result of a method; ``ApiError`` where the call is refused."""


class Found(NamedTuple):
    """A resource, and the arguments that its path has."""

    resource: Resource
    given: Mapping[str, object]


class Rest:
    """The resources bound to a table of methods."""

    def __init__(self, api: Table) -> None:
        """Resources whose methods ``api`` lacks are not there."""
        self._api = api
        self.resources = tuple(
            each for each in RESOURCES if all(method in api.methods for method in each.methods)
        )
        self._paths: dict[tuple[str, ...], dict[str, Resource]] = {}
        for each in self.resources:
            self._paths.setdefault(_segments(each.path), {})[each.verb] = each

    def answer(self, found: Found, request: Request, caller: Caller) -> Response:
        """What a request gets whose resource was found; ``WebError`` where that is a problem."""
        resource, given = found.resource, dict(found.given)
        if resource.in_query:
            given |= self._of_query(resource, request.query, given)
        else:
            if request.query:
                raise WebError(400, f"{resource.verb} takes its arguments in the body, not in the query")
            given |= _of_body(request.body, given, self._args(resource))
        try:
            results = [self._api.call(name, params, caller) for name, params in self._calls(resource, given)]
        except ApiError as error:
            return _refusal(error)
        return _result(resource, results[0])

    def find(self, request: Request) -> Found:
        """The resource of a path below ``/api/v1``; ``WebError`` where there is none with this verb."""
        segments = _segments(request.path.removeprefix(PREFIX))
        for template, verbs in self._paths.items():
            if not _matches(template, segments):
                continue
            verb = "GET" if request.method == "HEAD" else request.method
            resource = verbs.get(verb)
            if resource is None:
                allowed = ", ".join([*verbs, *(["HEAD"] if "GET" in verbs else [])])
                raise WebError(405, f"only {allowed} can be used here", (("Allow", allowed),))
            args = self._args(resource)
            given = {
                name[1:-1]: _converted(args[name[1:-1]], _unquoted(segment))
                for name, segment in zip(template, segments, strict=True)
                if name.startswith("{")
            }
            return Found(resource, given)
        raise WebError(404, "there is nothing at this path; /api/v1/openapi.json lists what there is")

    def _args(self, resource: Resource) -> dict[str, Arg]:
        return {arg.name: arg for name in resource.methods for arg in self._api.methods[name].args}

    def _of_query(
        self, resource: Resource, query: Mapping[str, str], path: Mapping[str, object]
    ) -> dict[str, object]:
        args = self._args(resource)
        own = [name for name in args if name not in path and name not in resource.fixed]
        for name in query:
            if name not in own:
                expected = ", ".join(own) or "none"
                raise WebError(400, f"there is no field {name!r:.80} here (fields: {expected})")
        return {name: _converted(args[name], value) for name, value in query.items()}

    def _calls(self, resource: Resource, given: dict[str, object]) -> list[tuple[str, dict[str, object]]]:
        """The methods to call with their arguments, all of which have been checked."""
        for name in resource.fixed:
            if name in given:
                raise WebError(400, f"{name} follows from the path and the verb")
        given = {**given, **resource.fixed}
        if not resource.also:
            return [(resource.method, given)]
        shared = set(_path_names(resource))
        unknown = set(given) - set(self._args(resource))
        if unknown:
            raise WebError(400, f"there is no argument {min(unknown)!r:.80} here")
        calls = []
        for name in resource.methods:
            method = self._api.methods[name]
            params = {arg.name: given[arg.name] for arg in method.args if arg.name in given}
            if set(params) - shared:
                try:
                    check_arguments(method, params)
                except ApiError as error:
                    raise WebError(400, error.message) from error
                calls.append((name, params))
        if not calls:
            expected = ", ".join(name for name in self._args(resource) if name not in shared)
            raise WebError(400, f"give at least one of {expected}")
        return calls


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[1:])


def _matches(template: tuple[str, ...], segments: tuple[str, ...]) -> bool:
    return len(template) == len(segments) and all(
        bool(given) if wanted.startswith("{") else wanted == given
        for wanted, given in zip(template, segments, strict=True)
    )


def _path_names(resource: Resource) -> list[str]:
    return [name[1:-1] for name in _segments(resource.path) if name.startswith("{")]


def _unquoted(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError as error:
        raise WebError(400, "the path is not UTF-8") from error


def _converted(arg: Arg, text: str) -> object:
    """A value of a path or a query as its argument has it."""
    if arg.type == "integer":
        if not _INTEGER.fullmatch(text):
            raise WebError(400, f"{arg.name} must be an integer")
        return int(text)
    if arg.type == "boolean":
        if text not in _WORDS:
            raise WebError(400, f"{arg.name} must be true or false")
        return _WORDS[text]
    return text


def _of_body(body: bytes, path: Mapping[str, object], args: Mapping[str, Arg]) -> dict[str, object]:
    if not body:
        return {}
    try:
        given = jsonrpc.parse(body)
    except (ValueError, RecursionError) as error:
        raise WebError(400, f"the body is not valid JSON: {error}") from error
    if not isinstance(given, dict):
        raise WebError(400, "the body must be a JSON object of arguments")
    for name in path:
        if name in given:
            raise WebError(400, f"{name} is given in the path")
    for name, arg in args.items():
        if arg.type == "boolean" and not isinstance(given.get(name, False), bool):
            raise WebError(400, f"{name} must be true or false")  # JSON has words for it; ubus has not
    return given


def _result(resource: Resource, result: object) -> Response:
    if resource.made and isinstance(result, dict):
        made = re.sub(r"\{(\w+)\}", lambda match: str(result[match[1]]), resource.made)
        return json_response(result, 201, (("Location", PREFIX + made),))
    return Response(204) if result is None else json_response(result)


def _refusal(error: ApiError) -> Response:
    """A refused call. What is kept but not in force yet is no failure: it is accepted (RFC 9110 15.3.3)."""
    if isinstance(error, NotInForceError):
        return json_response({"in_force": False, "detail": error.message}, 202)
    raise WebError(status_of(error), error.message) from error


def status_of(error: ApiError) -> int:
    """The status of a refusal."""
    if isinstance(error, NotFoundError) or error.code == UNKNOWN_METHOD:
        return 404
    if isinstance(error, DeniedError):
        return 403
    if isinstance(error, UnavailableError):
        return 503
    return 400 if error.code == INVALID_ARGUMENTS else 422
