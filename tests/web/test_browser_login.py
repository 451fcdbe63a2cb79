# SPDX-License-Identifier: GPL-2.0-or-later
"""Logging in, who may what, and that guessing is slow."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from blocking import wait_for
from web_browser import PHONE, Visit
from web_home import Pair, WebHome, web_home

from spind.lab import LabError, chromium

pytestmark = pytest.mark.lab

PASSWORDS = {"alice": "correct horse battery", "guest": "only looking 1"}
ROLES = {"alice": "owner", "guest": "viewer"}

REFUSED = r"status of 40[13]|status of 429"
"""What Chromium says on the console of a login that is refused."""


@pytest.fixture(scope="module")
def home() -> Iterator[WebHome]:
    """A home in which one has to log in."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    try:
        chromium.program()
    except LabError as error:
        pytest.skip(str(error))
    with web_home(prepare=users) as fresh:
        fresh.live(3)
        yield fresh


def users(home: WebHome) -> None:
    """A password file, made as people make it."""
    file = home.lab.root / "conf" / "web.passwd"
    gateway = home.lab.gateway
    for name, password in PASSWORDS.items():
        words = ["passwd", "--file", str(file), "--role", ROLES[name], name]
        gateway.run(gateway.python("spind", *words), input=f"{password}\n")
    home.spind.options["spinweb_password_file"] = str(file)


@pytest.fixture
def door(browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """The page, nobody logged in."""
    with Visit(browser) as visit:
        visit.expect_trouble(REFUSED)
        visit.until(visit.id("login-user").is_visible, "the login")
        yield visit
        visit.photograph(request.node.name)


def log_in(visit: Visit, user: str, password: str = "") -> None:
    visit.id("login-user").fill(user)
    visit.id("login-password").fill(password or PASSWORDS[user])
    visit.id("login-submit").click()


def test_nothing_is_told_to_who_is_not_logged_in(home: WebHome, door: Visit) -> None:
    assert door.evaluate("window.spind?.home?.nodes?.size ?? 0") == 0
    for path in ("/api/v1/events", "/api/v1/nodes", "/api/v1/captures/1.pcap"):
        assert home.http(path)[0] == 401, path
    body = {"jsonrpc": "2.0", "id": 1, "method": "list_nodes", "params": {}}
    assert home.http("/spin_api/jsonrpc", body)[0] == 401
    assert home.http("/api/v1/session")[0] == 200


def test_the_owner_logs_in_decides_and_logs_out(home: WebHome, door: Visit) -> None:
    log_in(door, "alice")
    door.wait_ready()
    (cookie,) = [each for each in door.page.context.cookies() if each["name"] == "spin_session"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    pair = Pair(home, home.tv, 150)
    door.until(lambda: door.edge(pair.device, pair.node), "the pair")
    door.select(device=pair.device, node=pair.node)
    door.id("block").first.click()
    pair.blocked_in_time()
    (entry, *_) = home.call("list_audit", limit=1)["items"]
    assert "alice" in entry["interface"]
    door.id("undo").last.click()
    pair.talks_in_time()
    pair.close()
    door.page.reload()
    door.wait_ready()  # the session stays
    door.id("user").click()
    door.id("logout").click()
    door.until(door.id("login-user").is_visible, "the login")
    assert home.http("/spin_api/jsonrpc", {}, Cookie=f"spin_session={cookie['value']}")[0] == 401


def test_the_keyboard_stays_at_the_login(door: Visit) -> None:
    places = []
    for _ in range(12):
        door.page.keyboard.press("Tab")
        where = "document.activeElement.closest('#login') ? 'login' : document.activeElement.tagName"
        places.append(door.evaluate(where))
    assert set(places) <= {"login", "BODY"}, "what is behind it cannot be reached"


def test_a_session_that_ends_asks_to_log_in_again(home: WebHome, door: Visit) -> None:
    log_in(door, "alice")
    door.wait_ready()
    door.select(id=home.device_id("tv"))
    door.id("rename").first.click()
    door.page.context.clear_cookies()
    door.id("rename-save").click()
    door.until(door.id("login-user").is_visible, "the login")
    log_in(door, "alice")
    door.until(lambda: not door.id("login-user").is_visible(), "an end of it")
    door.wait_ready()
    door.id("help").first.click()
    door.until(door.page.locator("dialog").first.is_visible, "a page that can be used")


def test_a_viewer_looks_and_has_no_buttons(home: WebHome, door: Visit) -> None:
    log_in(door, "guest")
    door.wait_ready()
    tv = home.device_id("tv")
    door.until(lambda: door.node(tv), "the tv")
    door.select(id=tv)
    panel = door.page.locator("#panel")
    door.until(lambda: home.tv.mac in panel.inner_text(), "the tv's details")
    for each in ("rename", "block", "allow", "ignore", "profile", "capture"):
        for button in door.id(each).all():
            assert button.is_disabled(), each
    for tab in ("rules", "profiles", "audit", "notifications", "captures"):
        door.id(f"tab-{tab}").click()
        for button in door.page.locator("#list .deeds button").all():
            assert button.is_disabled(), tab
    refused = door.evaluate(
        """async (node) => (await fetch('/spin_api/jsonrpc', {method: 'POST',
          headers: {'Content-Type': 'application/json'},
          body: JSON.stringify({jsonrpc: '2.0', id: 1, method: 'set_ignore', params: {node, ignore: true}})
        })).json()""",
        tv,
    )
    assert "error" in refused
    assert not home.call("get_device_data", node=tv).get("is_ignored")


def test_guessing_is_slow(home: WebHome, door: Visit) -> None:
    words = door.id("login-problem").text_content
    button = door.id("login-submit")  # cannot be pressed until there is an answer, and longer in a pause

    def answer() -> str:
        if "Too many" in words():
            return "pause" if button.is_disabled() else ""
        return "refused" if words() and button.is_enabled() else ""

    answers = []
    while "pause" not in answers and len(answers) < 12:
        log_in(door, "mallory", f"guess {len(answers)}")
        answers.append(door.until(answer, "an answer"))
    assert answers[-1] == "pause", "after some wrong passwords"
    body = {"user": "mallory", "password": "again"}
    refused = wait_for(lambda: again(home, body), "a pause for programs, too")
    headers = refused[1]
    assert int(headers["Retry-After"]) > 0


def again(home: WebHome, body: dict[str, str]) -> Any:
    """The answer to one more attempt, where it is a pause."""
    answer = home.http("/api/v1/session", body)
    return answer if answer[0] == 429 else None


def test_the_login_is_for_everybody(browser: Any, home: WebHome) -> None:
    from test_browser_reach import fits, sound  # noqa: PLC0415 - imports what takes long

    for size, name in ((None, "login"), (PHONE, "login on a phone")):
        with Visit(browser, **({"size": size} if size else {})) as visit:
            visit.until(visit.id("login-user").is_visible, "the login")
            fits(visit, name)
            sound(visit, name)
