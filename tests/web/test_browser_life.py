# SPDX-License-Identifier: GPL-2.0-or-later
"""The page over time: a daemon that goes away and comes back, pause, looking back."""

import contextlib
from typing import Any

import pytest
from web_browser import Visit
from web_home import Pair, WebHome

pytestmark = pytest.mark.lab

FLOW = ("device", "node", "protocol", "port", "family", "up_bytes", "down_bytes", "up_packets", "blocked")

_FLOWS = """(fields) => [...window.spind.home.flows.values()].map(
  (flow) => fields.map((name) => flow[name] ?? 0))"""
_NODES = "[...window.spind.home.nodes.values()].map((node) => [node.id, node.name ?? '', node.ips])"

_LOST = r"Failed to load resource|ERR_|EventSource|/api/v1/events"
"""What Chromium itself says on the console of a server that is not there."""


def same_as_the_daemon(home: WebHome, visit: Visit) -> None:
    """What the page knows is what the methods say, once nothing moves."""
    home.settle()

    def same() -> bool:
        page = sorted(map(tuple, visit.evaluate(_FLOWS, list(FLOW))))
        daemon = sorted(tuple(flow.get(name) or 0 for name in FLOW) for flow in home.pages("list_flows"))
        return page == daemon

    visit.until(same, "the flows that list_flows has", 20)
    page = {each[0]: each[1:] for each in visit.evaluate(_NODES)}
    daemon = {node["id"]: [node.get("name") or "", node["ips"]] for node in home.pages("list_nodes")}
    assert page == daemon


def status(visit: Visit) -> str:
    found: str = visit.evaluate("window.spind.home.status")
    return found


def test_the_page_knows_what_the_methods_say(home: WebHome, visit: Visit, pair: Pair) -> None:
    home.live(2)
    pair.talk()
    same_as_the_daemon(home, visit)


def test_after_a_restart_the_page_goes_on_by_itself(home: WebHome, visit: Visit, pair: Pair) -> None:
    visit.expect_trouble(_LOST)
    visit.evaluate("window.__same = true")
    home.spind.stop()
    visit.until(lambda: status(visit) == "lost", "a word on the lost connection")
    banner = visit.page.get_by_text("connection to the router is lost").first
    visit.until(banner.is_visible, "the sentence that says so")
    visit.photograph("lost connection")
    home.spind.start()
    visit.until(lambda: status(visit) == "live", "a live page again", 40)
    visit.until(lambda: not banner.is_visible(), "an end of the sentence")
    assert visit.evaluate("window.__same"), "it was not loaded anew"
    pair.talk()
    node = home.node_of(pair.address)  # sites have other ids than before
    visit.until(lambda: visit.edge(pair.device, node), "traffic of after the restart")
    same_as_the_daemon(home, visit)


def test_a_short_interruption_goes_on_where_it_was(home: WebHome, visit: Visit, pair: Pair) -> None:
    visit.expect_trouble(_LOST)
    visit.evaluate(
        """() => {
          const { home } = window.spind;
          window.__heard = { reset: 0, lost: 0 };
          home.addEventListener("reset", () => window.__heard.reset++);
          home.addEventListener("status", () => home.status === "lost" && window.__heard.lost++);
        }"""
    )
    pair.talk_much(50)  # what comes after a delta has a place to go on from
    same_as_the_daemon(home, visit)
    cut_connections(home)
    visit.until(lambda: visit.evaluate("window.__heard.lost"), "the end of the connection")
    pair.talk_much(50)
    same_as_the_daemon(home, visit)
    assert visit.evaluate("window.__heard.reset") == 0, "the deltas since were enough"


def cut_connections(home: WebHome) -> None:
    """All connections to the page's port end (ss -K), as when Wi-Fi changes."""
    home.lab.gateway.run(["ss", "-K", "sport", "=", ":13026"])


def shown(visit: Visit) -> float:
    found: float = visit.evaluate("window.spind.home.shown")
    return found


def test_pause_keeps_the_picture_and_data_comes_in(home: WebHome, visit: Visit, pair: Pair) -> None:
    visit.id("pause").click()
    visit.until(lambda: visit.evaluate("window.spind.home.paused"), "a pause")
    moment = shown(visit)
    other = Pair(home, home.phone, 60)
    with contextlib.closing(other):
        visit.until(lambda: visit.evaluate("(id) => window.spind.home.nodes.has(id)", other.node), "new data")
        assert shown(visit) == moment
        assert visit.edge(other.device, other.node) is None, "the picture is that of before"
        visit.id("pause").click()
        visit.until(lambda: visit.edge(other.device, other.node), "the new edge")
    assert not visit.evaluate("window.spind.home.paused")


def test_a_click_on_the_time_line_looks_back(home: WebHome, visit: Visit, pair: Pair) -> None:
    pair.talk()
    visit.until(lambda: visit.edge(pair.device, pair.node), "the edge of now")
    line = visit.page.locator("#timeline")
    box: Any = line.bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2, steps=4)
    visit.photograph("time line under the mouse")
    visit.page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    visit.until(lambda: visit.evaluate("window.spind.home.look !== null"), "a look back")
    back = visit.evaluate("window.spind.home.now - window.spind.home.look")
    assert 200 < back < 600
    visit.until(lambda: not visit.edge(pair.device, pair.node), "a graph of then, without what came later")
    assert visit.page.get_by_text("looking back").first.is_visible()
    visit.page.get_by_role("button", name="Back to now").first.click()
    visit.until(lambda: visit.edge(pair.device, pair.node), "now again")


def test_the_time_line_is_that_of_what_is_selected(home: WebHome, visit: Visit, pair: Pair) -> None:
    pair.talk_much(100)
    visit.select(device=pair.device, node=pair.node)
    series = "([device, node]) => window.spind.home.series({type: 'edge', device, node}).up_bytes"

    def told() -> float:
        return float(sum(visit.evaluate(series, [pair.device, pair.node])))

    home.settle()
    wanted = sum(flow["up_bytes"] for flow in home.pages("list_flows") if flow["node"] == pair.node)
    visit.until(lambda: told() == wanted, "the bytes of the pair")
