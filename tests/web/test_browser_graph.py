# SPDX-License-Identifier: GPL-2.0-or-later
"""The graph: whom it shows, in which colours, and what it does with filters, search and focus."""

from collections.abc import Callable
from typing import Any

import pytest
from web_browser import Visit
from web_home import Pair, WebHome
from web_pixels import Picture, called

from spind.lab import plan

pytestmark = pytest.mark.lab


def edge_turns(visit: Visit, pair: Pair, wanted: str, seconds: float = 10) -> dict[str, Any]:
    """The edge of a pair, once it has a colour."""

    def now() -> dict[str, Any] | None:
        found = visit.edge(pair.device, pair.node)
        return found if found and found["colour"] == wanted else None

    found: dict[str, Any] = visit.until(now, f"an edge in {wanted}", seconds)
    return found


def drawn(visit: Visit, thing: Callable[[], dict[str, Any] | None], name: str) -> set[str]:
    """The colours that a screenshot has where the graph says that something is."""
    place = visit.steady(thing, name)
    picture = Picture(visit.photograph(f"pixels-{name}"))
    return {called(each) for each in picture.around(place["x"], place["y"], 6)}


def test_every_device_of_the_home_is_there_and_grey(home: WebHome, visit: Visit) -> None:
    shown = {node["id"]: node for node in visit.describe()["nodes"]}
    for spec in plan.DEFAULT_DEVICES:
        node = shown[home.device_id(spec.name)]
        assert (node["label"], node["kind"]) == (spec.name, "device")
        assert node["colour"] == "grey"


def test_edges_lead_from_shown_nodes_to_shown_nodes(visit: Visit) -> None:
    described = visit.describe()
    ids = {node["id"] for node in described["nodes"]}
    assert len(described["edges"]) >= 5
    assert {end for edge in described["edges"] for end in (edge["device"], edge["node"])} <= ids
    assert all(0.5 <= edge["width"] <= 20 for edge in described["edges"])


def test_what_talks_now_is_green_and_blue_later(visit: Visit, pair: Pair) -> None:
    pair.talk()
    edge_turns(visit, pair, "green")
    visit.evaluate("([id]) => window.spind.graph.focus(id)", [pair.node])
    assert "green" in drawn(visit, lambda: visit.edge(pair.device, pair.node), "an edge of now")
    edge_turns(visit, pair, "blue", 50)
    assert "blue" in drawn(visit, lambda: visit.edge(pair.device, pair.node), "an older edge")


def test_what_is_blocked_is_red(home: WebHome, visit: Visit, pair: Pair) -> None:
    home.call("add_rule", action="block", device=home.tv.mac, node=pair.node)
    pair.blocked_in_time()
    edge_turns(visit, pair, "red")
    visit.evaluate("([id]) => window.spind.graph.focus(id)", [pair.node])
    assert "red" in drawn(visit, lambda: visit.edge(pair.device, pair.node), "a blocked edge")


def test_a_query_is_violet(home: WebHome, visit: Visit) -> None:
    name = "www.beside.test"
    home.resolve("phone", name)
    phone, site = home.device_id("phone"), home.node_of("beside.test")

    def violet() -> bool:
        found = visit.edge(phone, site)
        return bool(found) and found["colour"] == "violet"

    visit.until(violet, "an edge of a query")


def test_more_traffic_is_a_wider_edge(home: WebHome, visit: Visit, pair: Pair) -> None:
    pair.talk()
    before = edge_turns(visit, pair, "green")["width"]
    pair.talk_much(200)
    visit.until(lambda: visit.edge(pair.device, pair.node)["width"] > before + 1, "a wider edge")


def test_search_filters_and_focus_leave_what_was_asked_for(home: WebHome, visit: Visit, pair: Pair) -> None:
    everything = len(visit.describe()["nodes"])
    visit.id("search").fill(pair.address)
    visit.until(lambda: 0 < len(visit.describe()["nodes"]) < everything, "fewer nodes")
    assert visit.node(pair.node)
    visit.id("search").fill("")
    visit.until(lambda: len(visit.describe()["nodes"]) >= everything, "all of them again")

    camera = home.device_id("camera")
    visit.id("filter-device").select_option(str(camera))
    visit.until(
        lambda: {edge["device"] for edge in visit.describe()["edges"]} == {camera}, "only the camera's edges"
    )
    visit.id("filter-device").select_option("")

    visit.id("filter-port").fill(str(pair.service.port))
    visit.until(lambda: [e["node"] for e in visit.describe()["edges"]] == [pair.node], "only this port")
    visit.id("filter-port").fill("")

    home.call("add_rule", action="block", device=home.tv.mac, node=pair.node)
    pair.blocked_in_time()
    visit.id("filter-blocked").check()
    visit.until(
        lambda: (
            pair.node in [e["node"] for e in visit.describe()["edges"]]
            and all(e["colour"] == "red" for e in visit.describe()["edges"])
        ),
        "only what is blocked",
    )
    visit.id("filter-blocked").uncheck()
    visit.until(lambda: len(visit.describe()["nodes"]) >= everything, "all of them again")


def test_direction_filter_knows_who_began(home: WebHome, visit: Visit, pair: Pair) -> None:
    visit.id("filter-direction").select_option("in")
    visit.until(lambda: not visit.edge(pair.device, pair.node), "nothing that began inside")
    visit.id("filter-direction").select_option("out")
    visit.until(lambda: visit.edge(pair.device, pair.node), "what began inside")


def test_fit_lock_and_zoom(home: WebHome, visit: Visit) -> None:
    tv = home.device_id("tv")
    place = visit.steady(lambda: visit.node(tv), "the tv")
    visit.id("lock").click()
    box = visit.page.locator("#graph").bounding_box()
    assert box
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    visit.page.mouse.wheel(0, -400)
    visit.until(lambda: distance(visit.node(tv), place) > 5, "a zoom")
    visit.id("fit").click()
    visit.until(
        lambda: all(inside(node, box) for node in visit.describe()["nodes"]), "everything in the picture"
    )
    visit.id("lock").click()


def test_a_node_can_be_dragged(home: WebHome, visit: Visit) -> None:
    tv = home.device_id("tv")
    place = visit.steady(lambda: visit.node(tv), "the tv")
    mouse = visit.page.mouse
    mouse.move(place["x"], place["y"])
    mouse.down()
    mouse.move(place["x"] + 60, place["y"] + 40, steps=8)
    mouse.up()
    wanted = {"x": place["x"] + 60, "y": place["y"] + 40}
    visit.until(lambda: distance(visit.node(tv), wanted) < 12, "the tv where it was dragged to")


def distance(one: dict[str, Any] | None, other: dict[str, Any]) -> float:
    assert one
    return float(abs(one["x"] - other["x"]) + abs(one["y"] - other["y"]))


def inside(node: dict[str, Any], box: Any) -> bool:
    return bool(
        box["x"] <= node["x"] <= box["x"] + box["width"] and box["y"] <= node["y"] <= box["y"] + box["height"]
    )
