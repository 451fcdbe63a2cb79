# SPDX-License-Identifier: GPL-2.0-or-later
"""What other web pages, and strangers' names for our address, can not do."""

import pytest
from web_parts import HOST, headers, web

from spind.web.messages import Request, WebError
from spind.web.protection import CSP, Hosts, check_origin, security_headers

RPC = {"jsonrpc": "2.0", "id": 1, "method": "list_devices"}


@pytest.mark.parametrize(
    "host",
    [
        "192.168.8.1",
        "192.168.8.1:13026",
        "127.0.0.1:13026",
        "localhost:8080",
        "LocalHost",
        "gateway",
        "Gateway.LAN.",
        "[fd00::1]:13026",
        "[FD00:0::1]",
    ],
)
def test_our_own_names_and_addresses_are_answered(host: str) -> None:
    assert web().get("GET", "/api/v1/devices", host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:13026",
        "192.168.8.1.evil.example",
        "gateway.evil.example",
        "localhost.evil.example",
        "192.168.8.2",
        "198.18.0.1",
        "[fd00::2]",
        "0300.0250.010.01",
        "3232237569",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/v1/devices", "/api/v1/session", "/spin_api/jsonrpc"])
def test_a_name_that_was_made_to_point_to_us_is_refused(host: str, path: str) -> None:
    status, answer = web(opened=True).get("GET", path, host=host)
    assert status == 421
    assert "spinweb_hostnames" in answer["detail"]


@pytest.mark.parametrize(
    "host", ["", "gateway, gateway", "gateway:port", "a b", "[gateway]", "gate<b>way", "x" * 300, "gateway/"]
)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    status, answer = web(opened=True).get("GET", "/", host=host)
    assert status in {400, 421}
    assert "<b>" not in answer["detail"]


def test_the_address_that_the_client_came_to_is_ours() -> None:
    hosts = Hosts((), ("0.0.0.0",))
    hosts.check(Request("GET", "/", headers={"host": "192.168.8.1"}, local="192.168.8.1"))
    hosts.check(Request("GET", "/", headers={"host": "[fe80::1]"}, local="fe80::1%br-lan"))
    with pytest.raises(WebError, match=r"192\.168\.8\.2"):
        hosts.check(Request("GET", "/", headers={"host": "192.168.8.2"}, local="192.168.8.1"))


@pytest.mark.parametrize("target", ["/spin_api/jsonrpc", "/api/v1/rules", "/api/v1/session", "/api/v1/dots"])
@pytest.mark.parametrize(
    "given",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://192.168.8.1"},
        {"origin": f"https://{HOST}"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": f"http://{HOST}", "sec_fetch_site": "cross-site"},
    ],
)
@pytest.mark.parametrize("opened", [False, True])
def test_another_pages_script_gets_nothing(target: str, given: dict[str, str], opened: bool) -> None:
    parts = web(opened=opened)
    body = {**RPC, "user": "anna", "password": "right", "action": "block", "domain": "a.test"}
    status, _ = parts.get("POST", target, body, **given)
    assert status == 403
    assert parts.get("GET", "/api/v1/rules")[1] == []


@pytest.mark.parametrize("path", ["/api/v1/events", "/api/v1/devices", "/api/v1/captures/1.pcap"])
def test_reading_from_another_page_is_refused(path: str) -> None:
    parts = web(opened=True)
    assert parts.get("GET", path, sec_fetch_site="cross-site")[0] == 403
    assert parts.get("GET", path, origin="http://evil.example")[0] == 403


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
@pytest.mark.parametrize("opened", [False, True])
def test_what_a_form_can_send_changes_nothing(kind: str, opened: bool) -> None:
    parts = web(opened=opened)
    rule = {"action": "block", "domain": "a.test"}
    assert parts.get("POST", "/api/v1/rules", rule, content_type=kind)[0] == 415
    assert parts.get("POST", "/spin_api/jsonrpc", RPC, content_type=kind)[0] == 415
    assert parts.get("POST", "/api/v1/audit/1/undo", content_type=kind)[0] == 415
    login = {"user": "anna", "password": "right"}
    assert parts.get("POST", "/api/v1/session", login, content_type=kind)[0] == 415
    assert parts.get("GET", "/api/v1/rules")[1] == []


def test_a_token_is_no_cookie_so_programs_may_send_what_they_like() -> None:
    status, answer = web().get(
        "POST", "/spin_api/jsonrpc", RPC, cookie="", authorization="Bearer owner", content_type=""
    )
    assert (status, len(answer["result"])) == (200, 2)


def test_the_page_itself_may_do_all() -> None:
    origin = {"origin": f"http://{HOST}", "sec_fetch_site": "same-origin"}
    assert web().get("POST", "/api/v1/rules", {"action": "block", "domain": "a.test"}, **origin)[0] == 201


def test_origins_are_compared_with_scheme_and_port() -> None:
    request = Request("POST", "/", headers={"host": "gateway:8443", "origin": "https://gateway:8443"})
    check_origin(request._replace(secure=True))
    with pytest.raises(WebError):
        check_origin(request)


@pytest.mark.parametrize("path", ["/", "/nothing", "/api/v1/devices", "/api/v1/nothing", "/api/v1/events"])
@pytest.mark.parametrize("cookie", ["spin_session=owner", ""])
def test_every_answer_says_what_browsers_may_do_with_it(path: str, cookie: str) -> None:
    given = headers(web().ask("GET", path, cookie=cookie))
    assert given["Content-Security-Policy"] == CSP
    assert "'unsafe" not in CSP
    assert "frame-ancestors 'none'" in CSP
    assert given["X-Frame-Options"] == "DENY"
    assert given["X-Content-Type-Options"] == "nosniff"
    assert given["Referrer-Policy"] == "no-referrer"
    assert given["Cross-Origin-Opener-Policy"] == "same-origin"
    assert given["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Strict-Transport-Security" not in given
    assert not any(name.lower().startswith("access-control") for name in given)
    if path.startswith("/api/"):
        assert given["Cache-Control"] == "no-store"


def test_https_is_for_good() -> None:
    assert "Strict-Transport-Security" in dict(security_headers(secure=True))


@pytest.mark.parametrize("path", ["/api/v1/rules", "/spin_api/jsonrpc", "/api/v1/session", "/api/v1/events"])
def test_no_other_origin_is_ever_allowed(path: str) -> None:
    """A preflight (Fetch, section 4.8) of another page fails: no header allows anything."""
    parts = web(opened=True)
    reply = parts.ask("OPTIONS", path, origin="http://evil.example", access_control_request_method="PUT")
    assert reply.status == 403
    assert parts.ask("OPTIONS", path).status == 405
    assert not any(name.lower().startswith("access-control") for name, _ in reply.headers)


@pytest.mark.parametrize(
    "name",
    ["forwarded", "via", "x_forwarded_for", "x_forwarded_host", "x_forwarded_proto", "x_real_ip"],
)
def test_a_proxy_does_not_open_to_the_world_what_is_open_on_this_machine(name: str) -> None:
    parts = web(opened=True)
    for method, path in (("GET", "/"), ("GET", "/api/v1/session"), ("GET", "/api/v1/events")):
        status, answer = parts.get(method, path, cookie="", **{name: "203.0.113.9"})
        assert status == 403
        assert "spind passwd" in answer["detail"]
    call = {"jsonrpc": "2.0", "id": 1, "method": "list_devices"}
    assert parts.get("POST", "/spin_api/jsonrpc", call, cookie="", **{name: "unknown"})[0] == 403
    # Who is known may come through one.
    token = {"cookie": "", "authorization": "Bearer viewer", name: "203.0.113.9"}
    assert parts.get("GET", "/api/v1/nodes", **token)[0] == 200
    assert web().get("GET", "/api/v1/nodes", **{name: "203.0.113.9"})[0] == 200
