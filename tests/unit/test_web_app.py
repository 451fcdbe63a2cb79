# SPDX-License-Identifier: GPL-2.0-or-later
"""Who gets what: sessions, roles, streams, JSON-RPC."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from test_engine import home
from web_parts import drained, headers, request, web

from spind.feed import Feed
from spind.web.app import RECHECK_SECONDS
from spind.web.messages import Reply, Response, Stream, WebError, parse_query, problem
from spind.web.streams import MAX_OF_ONE, Streams

RPC = {"jsonrpc": "2.0", "id": 1, "method": "list_devices"}
RULE = {"action": "block", "domain": "a.test"}


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/api/v1/devices"),
        ("GET", "/api/v1/nothing"),
        ("GET", "/api/v1/openapi.json"),
        ("GET", "/api/v1/events"),
        ("GET", "/api/v1/captures/1.pcap"),
        ("POST", "/api/v1/rules"),
        ("POST", "/spin_api/jsonrpc"),
    ],
)
@pytest.mark.parametrize(
    "credentials",
    [
        {"cookie": ""},
        {"cookie": "spin_session=x"},
        {"authorization": "Bearer x"},
        {"cookie": "", "authorization": "Basic owner"},
    ],
)
def test_who_is_nobody_gets_nothing(method: str, target: str, credentials: dict[str, str]) -> None:
    reply = web().ask(method, target, **credentials)
    assert isinstance(reply, Response)
    assert reply.status == 401
    assert headers(reply)["WWW-Authenticate"] == "Bearer"
    assert reply.content_type == "application/problem+json"


def test_the_cookie_is_found_among_others() -> None:
    assert web().get("GET", "/api/v1/devices", cookie="a=b; spin_session=owner; c")[0] == 200


@pytest.mark.parametrize("role", ["viewer", "provider"])
def test_roles_count(role: str) -> None:
    parts = web()
    as_role = {"cookie": f"spin_session={role}"}
    assert parts.get("GET", "/api/v1/devices", **as_role)[0] == 200
    status, answer = parts.get("PATCH", "/api/v1/nodes/1", {"name": "x"}, **as_role)
    assert status == 403
    assert answer["title"] == "Forbidden"
    call = {**RPC, "method": "set_device_name", "params": {"node": 1, "name": "x"}}
    assert "error" in parts.get("POST", "/spin_api/jsonrpc", call, **as_role)[1]


def test_the_audit_list_knows_who_it_was() -> None:
    parts = web()
    assert parts.get("POST", "/api/v1/rules", RULE)[0] == 201
    assert parts.get("GET", "/api/v1/audit")[1]["items"][0]["interface"] == "web, anna"
    parts = web(opened=True)
    assert parts.get("POST", "/api/v1/rules", RULE, cookie="")[0] == 201
    assert parts.get("GET", "/api/v1/audit")[1]["items"][0]["interface"] == "web"


# -- sessions ------------------------------------------------------------------------------


def test_a_session_begins_and_ends() -> None:
    parts = web()
    status, told = parts.get("GET", "/api/v1/session", cookie="")
    assert (status, told) == (
        200,
        {"open": False, "name": "", "role": "", "version": "", "login": True},
    )
    reply = parts.ask("POST", "/api/v1/session", {"user": "anna", "password": "right"}, cookie="")
    assert reply.status == 200
    assert b'"notice":""' in reply.body
    cookie = headers(reply)["Set-Cookie"]
    assert cookie == "spin_session=owner; Path=/; Max-Age=3600; HttpOnly; SameSite=Strict"
    status, told = parts.get("GET", "/api/v1/session", cookie="spin_session=owner")
    assert (told["name"], told["role"], told["open"]) == ("anna", "owner", False)
    reply = parts.ask("DELETE", "/api/v1/session")
    assert reply.status == 204
    assert "Max-Age=0" in headers(reply)["Set-Cookie"]
    assert parts.get("GET", "/api/v1/devices")[0] == 401


def test_where_nobody_has_to_log_in_the_page_learns_it() -> None:
    told = web(opened=True).get("GET", "/api/v1/session", cookie="")[1]
    assert (told["open"], told["login"], told["role"]) == (True, False, "owner")


def test_a_cookie_of_https_stays_there() -> None:
    login = request("POST", "/api/v1/session", {"user": "anna", "password": "right"})
    reply = asyncio.run(web().app.answer(login._replace(secure=True)))
    assert headers(reply)["Set-Cookie"].endswith("; Secure")


def test_wrong_passwords_and_too_many_of_them() -> None:
    parts = web()
    assert parts.get("POST", "/api/v1/session", {"user": "anna", "password": "wrong"})[0] == 403
    reply = parts.ask("POST", "/api/v1/session", {"user": "anna", "password": "slow"})
    assert (reply.status, headers(reply)["Retry-After"]) == (429, "9")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"3", b'"a"', b'{"user":"a"}', b'{"user":1,"password":2}',
     b'{"user":"a","password":null}', b'{"user":"a","password":"' + b"x" * 300 + b'"}', b"[" * 5000, b"\xff"],
)  # fmt: skip
def test_what_is_no_login_is_refused_with_a_sentence(body: bytes) -> None:
    status, answer = web().get("POST", "/api/v1/session", body)
    assert (status, answer["title"]) == (400, "Bad Request")


# -- JSON-RPC ------------------------------------------------------------------------------


def test_json_rpc_is_the_same_as_ever() -> None:
    parts = web()
    status, answer = parts.get("POST", "/spin_api/jsonrpc", RPC)
    assert (status, answer["id"], len(answer["result"])) == (200, 1, 2)
    assert parts.get("POST", "/spin_api/jsonrpc", b"{")[1]["error"]["code"] == -32700
    assert parts.get("POST", "/spin_api/jsonrpc", {"jsonrpc": "2.0", "method": "status"}) == (204, None)
    reply = parts.ask("GET", "/spin_api/jsonrpc")
    assert (reply.status, headers(reply)["Allow"]) == (405, "POST")


# -- streams -------------------------------------------------------------------------------


def test_events_are_streamed_and_end_with_their_source() -> None:
    parts = web()
    reply = parts.ask("GET", "/api/v1/events", last_event_id="abc-12")
    assert isinstance(reply, Stream)
    assert reply.content_type == "text/event-stream"
    assert parts.sources.last_event_id == "abc-12"
    assert asyncio.run(drained(reply.source)) == [b"data: 1\n\n", b"data: 2\n\n"]
    reply.close()
    assert parts.sources.items.closed == 1


def test_the_feed_can_cut_a_stream() -> None:
    parts = web()
    reply = parts.ask("GET", "/api/v1/events")
    cut: list[bool] = []
    reply.hook(lambda: cut.append(True))
    parts.sources.items.on_drop()
    assert cut == [True]


def test_a_stream_ends_with_its_session() -> None:
    parts = web()
    reply = parts.ask("GET", "/api/v1/events")
    parts.gate.logout("owner")
    touched = parts.gate.touched

    async def read() -> list[bytes]:
        first = await anext(reply.source)
        parts.time[0] += RECHECK_SECONDS
        return [first, *[item async for item in reply.source]]

    assert asyncio.run(read()) == [b"data: 1\n\n"]
    assert parts.gate.touched == touched  # being open is no use of a session


def test_a_download_ends_for_whoever_is_no_owner_any_more() -> None:
    parts = web()
    reply = parts.ask("GET", "/api/v1/captures/1.pcap")
    assert isinstance(reply, Stream)
    parts.gate.roles["owner"] = "viewer"

    async def read() -> list[bytes]:
        first = await anext(reply.source)
        parts.time[0] += RECHECK_SECONDS
        return [first, *[item async for item in reply.source]]

    assert asyncio.run(read()) == [b"data: 1\n\n"]


def test_a_stream_outlives_many_looks_at_its_session() -> None:
    parts = web()
    parts.sources.items.items = [b"x"] * 20
    reply = parts.ask("GET", "/api/v1/events")

    async def read() -> int:
        count = 0
        async for _ in reply.source:
            count += 1
            parts.time[0] += RECHECK_SECONDS
        return count

    assert asyncio.run(read()) == 20


Ask = Callable[..., Awaitable[Reply]]


def with_streams(scenario: Callable[[Ask], Awaitable[None]], *, opened: bool = False) -> None:
    """Run a scenario that asks for streams of events, of a feed as the daemon's."""

    async def run() -> None:
        streams = Streams(asyncio.get_running_loop(), Feed(home(), time.time, "test", "1"))
        app = web(opened=opened, feed=streams).app

        async def events(**headers: str) -> Reply:
            return await app.answer(request("GET", "/api/v1/events", **headers))

        try:
            await scenario(events)
        finally:
            await streams.stop()

    asyncio.run(run())


def test_who_has_many_streams_leaves_some_to_the_others() -> None:
    token = {"cookie": "", "authorization": "Bearer viewer"}

    async def scenario(events: Ask) -> None:
        replies = [await events(**token) for _ in range(MAX_OF_ONE)]
        refused = await events(**token)
        assert isinstance(refused, Response)
        assert (refused.status, headers(refused)["Retry-After"]) == (503, "5")
        assert isinstance(await events(), Stream)  # a session, not the token
        for reply in replies[:2]:
            assert isinstance(reply, Stream)
            reply.close()
            reply.close()
        for _ in range(2):
            assert isinstance(await events(**token), Stream)
        assert isinstance(await events(**token), Response)

    with_streams(scenario)


def test_who_need_not_log_in_has_no_name_to_count() -> None:
    async def scenario(events: Ask) -> None:
        for _ in range(2 * MAX_OF_ONE):
            assert isinstance(await events(cookie=""), Stream)

    with_streams(scenario, opened=True)


def test_captures_are_downloads() -> None:
    parts = web()
    reply = parts.ask("GET", "/api/v1/captures/1.pcap")
    assert isinstance(reply, Stream)
    assert headers(reply)["Content-Disposition"] == 'attachment; filename="spin-1.pcap"'
    assert asyncio.run(drained(reply.source)) != []
    reply.close()
    assert parts.sources.items.closed == 1
    for name in (
        "2.pcap",
        "x.pcap",
        "-1.pcap",
        "1.5.pcap",
        "%31.pcap",
        "1" * 30 + ".pcap",
        ".pcap",
        "².pcap",
    ):
        assert parts.get("GET", f"/api/v1/captures/{name}")[0] == 404, name


@pytest.mark.parametrize("path", ["/api/v1/events", "/api/v1/captures/1.pcap"])
@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE", "PUT"])
def test_streams_can_only_be_read(path: str, method: str) -> None:
    reply = web().ask(method, path)
    assert (reply.status, headers(reply)["Allow"]) == (405, "GET")


# -- errors --------------------------------------------------------------------------------


def test_what_goes_wrong_inside_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    parts = web()

    def broken(*_asked: str) -> None:
        raise KeyError("secret")

    parts.sources.subscribe = broken
    status, answer = parts.get("GET", "/api/v1/events")
    assert status == 500
    assert "secret" not in str(answer)
    assert "secret" in caplog.text


def test_problems_are_harmless_text() -> None:
    body = problem(WebError(404, "\x1b[31m" + "x" * 5000 + "\u202e")).body
    assert len(body) < 1000
    assert b"\x1b" not in body


@pytest.mark.parametrize("query", ["a=1&a=2", "%ff=1", "&".join(f"a{i}=1" for i in range(40))])
def test_queries_that_are_ambiguous_or_huge_are_refused(query: str) -> None:
    with pytest.raises(WebError):
        parse_query(query)


def test_queries() -> None:
    assert parse_query("a=1&b=%C3%A4+x&c=") == {"a": "1", "b": "ä x", "c": ""}
