# SPDX-License-Identifier: GPL-2.0-or-later
"""For whom the page is: phones, keyboards, screen readers, Dutch, eyes that want it dark."""

from collections.abc import Callable
from typing import Any

import pytest
from web_browser import PHONE, Visit
from web_home import Pair, WebHome

from spind.lab.behaviours import seeded

pytestmark = pytest.mark.lab

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
TABS = ("devices", "sites", "flows", "rules", "profiles", "notifications", "audit", "captures")


def violations(visit: Visit) -> list[str]:
    """What axe-core holds against the page as it is now."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - takes long

    found = Axe().run(visit.page).response["violations"]
    return [
        f"{each['id']} ({each['impact']}): {node['html'][:160]} {node['failureSummary'][:200]}"
        for each in found
        for node in each["nodes"]
    ]


def sound(visit: Visit, view: str) -> None:
    """Everybody can use this view, as far as a program can tell."""
    visit.photograph(f"view {view}")
    assert violations(visit) == [], view


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_view_is_accessible(
    home: WebHome, open_page: Callable[..., Visit], pair: Pair, dark: bool
) -> None:
    home.call("add_rule", action="block", device=home.tv.mac, node=pair.node)
    pair.blocked_in_time()
    visit = open_page(dark=dark)
    name = "dark" if dark else "light"
    sound(visit, f"{name} main")
    for tab in TABS:
        visit.id(f"tab-{tab}").click()
        sound(visit, f"{name} {tab}")
    visit.select(id=pair.device)
    visit.until(visit.id("rename").first.is_visible, "the panel")
    sound(visit, f"{name} panel of a device")
    for dialog in ("rename", "profile", "capture"):
        visit.id(dialog).first.click()
        visit.until(visit.page.locator("dialog").first.is_visible, "the dialog")
        sound(visit, f"{name} dialog {dialog}")
        visit.page.keyboard.press("Escape")
        visit.until(lambda: visit.page.locator("dialog[open]").count() == 0, "its end")
    visit.select(device=pair.device, node=pair.node)
    visit.until(visit.id("when").first.is_visible, "the panel")
    visit.id("when").first.select_option("schedule")
    sound(visit, f"{name} panel of a pair")
    visit.id("help").first.click()
    sound(visit, f"{name} help")


def test_the_toast_is_accessible(home: WebHome, visit: Visit, pair: Pair) -> None:
    visit.select(device=pair.device, node=pair.node)
    visit.id("block").first.click()
    visit.until(visit.id("undo").first.is_visible, "a toast")
    sound(visit, "toast")
    visit.id("undo").first.click()
    pair.talks_in_time()


@pytest.fixture
def phone(open_page: Callable[..., Visit]) -> Visit:
    return open_page(size=PHONE, touch=True)


def fits(visit: Visit, view: str) -> None:
    assert visit.evaluate(OVERFLOW) <= 0, f"{view}: one has to scroll sideways"


def test_a_phone_is_wide_enough(home: WebHome, phone: Visit, pair: Pair) -> None:
    fits(phone, "graph")
    sound(phone, "phone graph")
    assert phone.describe()["nodes"]
    phone.select(id=pair.device)
    phone.until(phone.id("rename").first.is_visible, "the panel")
    fits(phone, "panel")
    sound(phone, "phone panel")
    for each in ("rename", "block", "profile", "capture", "ignore"):
        button = phone.id(each).first
        button.scroll_into_view_if_needed()
        box: Any = button.bounding_box()
        assert box["x"] >= 0, each
        assert box["x"] + box["width"] <= PHONE[0], each
        assert box["height"] >= 24, "large enough for a finger"  # WCAG 2.2, 2.5.8
        assert phone.evaluate(
            "([x, y]) => !!document.elementFromPoint(x, y)?.closest('#panel')",
            [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2],
        ), f"nothing lies above {each}"


def test_a_phone_blocks_by_touch(home: WebHome, phone: Visit, pair: Pair) -> None:
    phone.id("welcome-skip").tap()
    phone.id("fit").tap()
    place = phone.steady(lambda: phone.node(pair.device), "the device")
    phone.page.touchscreen.tap(place["x"], place["y"])
    phone.until(phone.id("block").first.is_visible, "the panel")
    phone.id("block").first.tap()
    pair.blocked_in_time()
    phone.id("undo").last.tap()
    pair.talks_in_time()


def test_a_phone_shows_the_lists(phone: Visit) -> None:
    show_lists(phone)
    for tab in TABS:
        phone.id(f"tab-{tab}").tap()
        fits(phone, tab)
    sound(phone, "phone lists")


def show_lists(phone: Visit) -> None:
    """On a phone the lists are behind a button, and that behind the welcome."""
    phone.id("welcome-skip").tap()
    phone.id("view-lists").tap()
    phone.until(phone.id("tab-devices").is_visible, "the lists")


# -- keyboard ------------------------------------------------------------------------------------

_FOCUSED = """() => {
  const element = document.activeElement;
  return {id: element.dataset.testid ?? '', graph: !!element.closest('#graph'), tag: element.tagName};
}"""


def tab_to(visit: Visit, good: Callable[[dict[str, Any]], bool], what: str) -> None:
    """Press Tab until the focus is there."""
    for _ in range(150):
        visit.page.keyboard.press("Tab")
        if good(visit.evaluate(_FOCUSED)):
            return
    raise AssertionError(f"the Tab key never came to {what}")


def test_a_device_is_blocked_without_a_mouse(home: WebHome, visit: Visit, pair: Pair) -> None:
    keys = visit.page.keyboard
    tab_to(visit, lambda focused: focused["graph"], "the graph")
    ways = seeded("keys")
    heard: set[str] = set()
    for _ in range(400):  # as one who does not see where the neighbours are
        keys.press(ways.choice(("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp")))
        heard.add(live_words(visit).partition(",")[0])
        if len(heard) > 2 and live_words(visit).startswith("tv,"):
            break
    else:
        raise AssertionError(f"arrow keys never came to the tv, only to {heard}")
    keys.press("Enter")
    tab_to(visit, lambda focused: focused["id"] == "block", "the button")
    keys.press("Enter")
    pair.blocked_in_time()
    tab_to(visit, lambda focused: focused["id"] == "undo", "the way back")
    keys.press("Enter")
    pair.talks_in_time()


def live_words(visit: Visit) -> str:
    """What the graph tells those who do not see it."""
    return str(visit.page.locator("#graph [aria-live]").inner_text())


def test_the_focus_is_always_visible(visit: Visit) -> None:
    hidden = []
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        style = visit.evaluate(
            """() => {
              const element = document.activeElement;
              const style = getComputedStyle(element);
              const box = element.getBoundingClientRect();
              return {outline: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0
                || style.boxShadow !== 'none', shown: box.width > 0, what: element.outerHTML.slice(0, 80)};
            }"""
        )
        if not (style["outline"] and style["shown"]):
            hidden.append(style["what"])
    assert hidden == []


# -- languages and colours -----------------------------------------------------------------------


def test_dutch_is_chosen_and_kept(visit: Visit) -> None:
    visit.id("language").click()
    visit.until(lambda: visit.evaluate("document.documentElement.lang") == "nl", "the language")
    visit.until(lambda: "Apparaten" in visit.id("tab-devices").inner_text(), "Dutch words")
    visit.photograph("Dutch")
    visit.page.reload()
    visit.wait_ready()
    assert "Apparaten" in visit.id("tab-devices").inner_text()
    visit.id("language").click()
    visit.until(lambda: "Devices" in visit.id("tab-devices").inner_text(), "English words")


def test_who_reads_dutch_gets_dutch(open_page: Callable[..., Visit]) -> None:
    visit = open_page(language="nl-NL")
    assert "Apparaten" in visit.id("tab-devices").inner_text()
    assert visit.evaluate("document.documentElement.lang") == "nl"
    left = visit.page.locator("body").inner_text()
    for word in ("Search", "Devices", "Filters", "Loading"):
        assert word not in left
    fits(visit, "Dutch")


def test_light_and_dark(visit: Visit) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    seen = set()
    for _ in range(3):
        visit.id("theme").click()
        seen.add(visit.evaluate(background))
    assert len(seen) == 2
