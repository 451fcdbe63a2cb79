# SPDX-License-Identifier: GPL-2.0-or-later
"""The lists: what is in them, sorted and searched, saved as CSV, and what their buttons do."""

import csv
from typing import Any

import pytest
from blocking import wait_for
from web_browser import Visit
from web_home import Pair, WebHome

from spind.lab import plan

pytestmark = pytest.mark.lab

TABS = ("devices", "sites", "flows", "rules", "profiles", "notifications", "audit", "captures")


def text(visit: Visit) -> str:
    found: str = visit.page.locator("#list").inner_text()
    return found


def saved(visit: Visit) -> list[dict[str, str]]:
    """The list as CSV, parsed."""
    file = visit.download(visit.id("export-csv").click)
    assert file.suggested_filename.endswith(".csv")
    with file.path().open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines, strict=True))


def column(visit: Visit, name: str) -> Any:
    """The head of a column, by its words."""
    return visit.page.locator("#list th button").filter(has_text=name).first


@pytest.mark.parametrize("tab", TABS)
def test_each_list_opens_and_is_saved(visit: Visit, tab: str) -> None:
    visit.id(f"tab-{tab}").click()
    assert visit.id(f"tab-{tab}").get_attribute("aria-selected") == "true"
    visit.until(lambda: "loading" not in text(visit).lower(), "the list")
    assert len(text(visit)) > 10, "an empty list says so"
    saved(visit)


def test_devices_as_csv_are_those_of_the_home(home: WebHome, visit: Visit) -> None:
    visit.id("tab-devices").click()
    visit.until(lambda: "camera" in text(visit), "the devices")
    rows = {row["Name"]: row for row in saved(visit)}
    for device in home.lab.devices.values():
        row = rows[device.name]
        assert (
            row["Hardware address"],
            row["Address"] in home.call("get_device_data", node=home.device_id(device.name))["ips"],
        ) == (device.mac, True)
    assert {spec.name for spec in plan.DEFAULT_DEVICES} <= set(rows)


def test_flows_as_csv_are_those_of_the_api(home: WebHome, visit: Visit, pair: Pair) -> None:
    home.settle()
    visit.id("tab-flows").click()
    visit.id("list-search").fill(pair.address)
    ours = [flow for flow in home.pages("list_flows") if flow["node"] == pair.node]
    visit.until(lambda: visit.page.locator("#list tbody tr").count() == len(ours), "the pair's flow")
    told = sorted((int(row["Sent"]), int(row["Received"])) for row in saved(visit))
    assert told == sorted((flow["up_bytes"], flow["down_bytes"]) for flow in ours)


def test_a_list_is_sorted_by_a_click_on_its_head(visit: Visit) -> None:
    visit.id("tab-devices").click()
    visit.until(lambda: "camera" in text(visit), "the devices")
    head = column(visit, "Name")
    head.click()
    first = [row["Name"] for row in saved(visit)]
    head.click()
    second = [row["Name"] for row in saved(visit)]
    assert first == sorted(first, key=str.casefold)
    assert second == first[::-1]
    assert head.locator("xpath=..").get_attribute("aria-sort") == "descending"


def test_a_list_is_searched(visit: Visit) -> None:
    visit.id("tab-devices").click()
    visit.id("list-search").fill("camera")
    rows = visit.page.locator("#list tbody tr")
    visit.until(lambda: rows.count() == 1, "one row")
    assert "camera" in rows.inner_text()
    visit.id("list-search").fill("nothing is called so")
    visit.until(lambda: rows.count() == 0 and "nothing" in text(visit).lower(), "a sentence on that")


def test_a_row_opens_what_it_is_about(home: WebHome, visit: Visit) -> None:
    visit.id("tab-devices").click()
    visit.page.locator("#list tbody button", has_text="camera").first.click()
    panel = visit.page.locator("#panel")
    visit.until(lambda: home.lab.device("camera").mac in panel.inner_text(), "the camera's details")


def test_rules_are_removed_in_their_list(home: WebHome, visit: Visit, pair: Pair) -> None:
    home.call("add_rule", action="block", device=home.tv.mac, node=pair.node, comment="for this test")
    pair.blocked_in_time()
    visit.id("tab-rules").click()
    visit.until(lambda: "tv may not reach" in text(visit), "the rule")
    assert "for this test" in text(visit)
    visit.id("remove-rule").first.click()
    pair.talks_in_time()
    visit.until(lambda: "tv may not reach" not in text(visit), "a list without it")


def test_a_rule_is_made_in_its_list(home: WebHome, visit: Visit, pair: Pair) -> None:
    visit.id("tab-rules").click()
    visit.id("new-rule").click()
    visit.id("rule-party").fill(pair.address)
    visit.id("rule-save").click()
    pair.blocked_in_time()
    visit.until(lambda: pair.address in text(visit), "the rule in the list")


def test_the_audit_list_undoes(home: WebHome, visit: Visit, pair: Pair) -> None:
    # One second has more than one entry: the newest is above all the same.
    for comment in ("one", "two", "three"):
        rule = home.call("add_rule", action="block", device=home.tv.mac, domain="x.test", comment=comment)
        home.call("remove_rule", id=rule["id"])
    home.call("add_rule", action="block", device=home.tv.mac, node=pair.node)
    pair.blocked_in_time()
    visit.id("tab-audit").click()
    row = visit.page.locator("#list tbody tr").first
    visit.until(lambda: pair.address in row.inner_text(), "the entry")
    row.get_by_test_id("undo-entry").click()
    pair.talks_in_time()
    visit.until(lambda: "undone" in text(visit), "the entry as undone")


def test_notifications_come_and_are_dismissed(home: WebHome, visit: Visit, pair: Pair) -> None:
    home.call("add_rule", action="block", device=home.tv.mac, node=pair.node)
    pair.blocked_in_time()
    known = wait_for(
        lambda: [n for n in notifications(home) if n.get("node") == pair.node], "a notification", 20
    )
    visit.id("tab-notifications").click()
    visit.until(lambda: pair.address in text(visit), "the notification")
    row = visit.page.locator(f'#list tr[data-key="{known[0]["id"]}"]')
    row.get_by_test_id("dismiss").click()
    visit.until(lambda: row.count() == 0, "a list without it")
    assert known[0]["id"] not in [each["id"] for each in notifications(home)]


def notifications(home: WebHome) -> list[dict[str, Any]]:
    found = home.call("list_notifications")
    return list(found["items"] if isinstance(found, dict) else found)
