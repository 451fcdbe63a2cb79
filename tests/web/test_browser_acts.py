# SPDX-License-Identifier: GPL-2.0-or-later
"""What people do on the page, and whether it happens: to real traffic, to the configuration, to captures."""

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from blocking import wait_for
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.utils import PcapReader
from web_browser import Visit
from web_home import Pair, WebHome

pytestmark = pytest.mark.lab


@pytest.fixture
def clean(home: WebHome) -> Iterator[None]:
    """Nothing is decided afterwards: what a test did is undone, or it fails."""
    yield
    home.unchanged()


def say(visit: Visit, words: str) -> None:
    """A toast says what happened."""
    toasts = visit.page.locator("#toasts")
    visit.until(lambda: words.lower() in toasts.inner_text().lower(), f"a toast with {words!r}")


def undo(visit: Visit) -> None:
    """The newest toast's way back."""
    visit.id("undo").last.click()
    say(visit, "undone")


def rules(home: WebHome) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = home.call("list_rules")
    return found


def test_a_click_blocks_a_pair_and_undo_lets_it_talk_again(
    home: WebHome, visit: Visit, pair: Pair, clean: None
) -> None:
    pair.talk()
    visit.select_edge(pair.device, pair.node)
    visit.id("block").first.click()
    say(visit, "blocked")
    pair.blocked_in_time()
    (rule,) = rules(home)
    assert (rule["action"], rule["device"], rule["node"]) == ("block", home.tv.mac, pair.node)
    undo(visit)
    pair.talks_in_time()


def test_what_is_blocked_can_be_unblocked_by_the_same_button(
    home: WebHome, visit: Visit, pair: Pair, clean: None
) -> None:
    visit.select_edge(pair.device, pair.node)
    visit.id("block").first.click()
    pair.blocked_in_time()
    visit.id("unblock").first.click()
    pair.talks_in_time()
    visit.until(lambda: not rules(home), "no rule")
    visit.until(visit.id("block").first.is_visible, "the button as it was")


def test_block_for_an_hour(home: WebHome, visit: Visit, pair: Pair) -> None:
    visit.select_edge(pair.device, pair.node)
    visit.id("when").first.select_option("hour")
    visit.id("block").first.click()
    say(visit, "until")
    pair.blocked_in_time()
    (rule,) = rules(home)
    assert abs(rule["until"] - time.time() - 3600) < 120
    undo(visit)
    pair.talks_in_time()
    assert not rules(home)


def test_block_at_set_times(home: WebHome, visit: Visit, pair: Pair) -> None:
    visit.select_edge(pair.device, pair.node)
    visit.id("when").first.select_option("schedule")
    visit.id("schedule-from").first.fill("22:00")
    visit.id("schedule-to").first.fill("06:30")
    visit.id("block").first.click()
    say(visit, "22:00")
    (rule,) = rules(home)
    assert rule["schedule"] == "daily 22:00-06:30"
    undo(visit)
    assert not rules(home)


def test_block_this_site_for_everybody(home: WebHome, visit: Visit, pair: Pair) -> None:
    visit.select_edge(pair.device, pair.node)
    visit.id("scope").first.select_option("site")
    visit.id("block").first.click()
    say(visit, "no device")
    pair.blocked_in_time()
    (rule,) = rules(home)
    assert (rule.get("device", ""), rule["node"]) == ("", pair.node)
    undo(visit)
    pair.talks_in_time()


def test_allow_lets_a_blocked_device_reach_one_party(home: WebHome, visit: Visit, pair: Pair) -> None:
    home.call("add_rule", action="block", device=home.tv.mac)
    pair.blocked_in_time()
    visit.select_edge(pair.device, pair.node)
    visit.id("allow").first.click()
    say(visit, "allowed")
    pair.talks_in_time()
    undo(visit)
    pair.blocked_in_time()


def test_a_device_can_be_blocked_where_it_is_shown(
    home: WebHome, visit: Visit, pair: Pair, clean: None
) -> None:
    visit.select_node(pair.device)
    visit.id("block").first.click()
    say(visit, "blocked")
    pair.blocked_in_time()
    undo(visit)
    pair.talks_in_time()


def test_rename_and_back(home: WebHome, visit: Visit, clean: None) -> None:
    plug = home.device_id("plug")
    visit.select_node(plug)
    visit.id("rename").first.click()
    visit.id("rename-name").fill("Lamp in the hall")
    visit.id("rename-save").click()
    say(visit, "Lamp in the hall")
    visit.until(lambda: visit.node(plug)["label"] == "Lamp in the hall", "the new name in the graph")
    assert home.call("get_device_data", node=plug)["name"] == "Lamp in the hall"
    undo(visit)
    visit.until(lambda: visit.node(plug)["label"] == "plug", "its own name in the graph")


def test_a_name_that_cannot_be_is_refused_with_a_sentence(home: WebHome, visit: Visit, clean: None) -> None:
    plug = home.device_id("plug")
    visit.select(id=plug)
    visit.id("rename").first.click()
    field = visit.id("rename-name")
    field.evaluate("(input) => input.removeAttribute('maxlength')")
    field.fill("x" * 300)
    visit.id("rename-save").click()
    say(visit, "did not work")
    assert field.is_visible(), "the dialog stays, for another try"
    assert home.call("get_device_data", node=plug)["name"] == "plug"


def test_ignore_hides_and_the_filter_shows_again(
    home: WebHome, visit: Visit, pair: Pair, clean: None
) -> None:
    visit.select_node(pair.node)
    visit.id("ignore").first.click()
    say(visit, "ignored")
    visit.until(lambda: not visit.node(pair.node), "a graph without it")
    pair.talk()
    visit.id("filter-ignored").check()
    shown = lambda: visit.node(pair.node) or listed(visit, pair)  # noqa: E731
    visit.until(shown, "what is ignored, where it was asked for")
    visit.select(id=pair.node)
    visit.id("unignore").first.click()
    say(visit, "shown again")
    visit.id("filter-ignored").uncheck()
    pair.talk()
    visit.until(lambda: visit.node(pair.node), "the node in the graph")


def listed(visit: Visit, pair: Pair) -> bool:
    """Whether the list of sites has it."""
    visit.id("tab-sites").click()
    return pair.address in visit.page.locator("#list").inner_text()


def test_a_profile_is_in_force_at_once(home: WebHome, visit: Visit, pair: Pair, clean: None) -> None:
    visit.select_node(pair.device)
    visit.id("profile").first.click()
    visit.page.locator("dialog input[type=radio][value=nointernet]").check()
    visit.id("profile-save").click()
    say(visit, "No internet")
    pair.blocked_in_time()
    undo(visit)
    pair.talks_in_time()


def test_a_capture_of_a_device_has_its_packets_and_no_others(home: WebHome, visit: Visit, pair: Pair) -> None:
    visit.select_node(pair.device)
    visit.id("capture").first.click()
    visit.id("capture-seconds").fill("60")
    visit.id("capture-start").click()
    say(visit, "recording")
    wait_for(
        lambda: [c for c in home.call("list_captures") if c["state"] == "running"], "a capture that runs"
    )
    home.live(3, "phone", "tv")  # both talk; one of them is recorded
    pair.talk()
    visit.id("tab-captures").click()
    row = visit.page.locator("#list tbody tr").first
    visit.until(lambda: "running" in row.inner_text().lower(), "the capture's progress")
    visit.id("stop-capture").first.click()
    visit.until(lambda: "ended" in row.inner_text().lower(), "its end")
    file = visit.download(row.get_by_test_id("download").click)
    assert file.suggested_filename.endswith(".pcap")
    with PcapReader(io.BytesIO(file.path().read_bytes())) as packets:
        found = list(packets)
    assert len(found) > 10
    mac = home.tv.mac
    assert {mac in (packet[Ether].src, packet[Ether].dst) for packet in found} == {True}
    assert pair.address in {packet[IP].dst for packet in found if IP in packet}


def test_a_capture_can_be_downloaded_while_it_runs(home: WebHome, visit: Visit, pair: Pair) -> None:
    started = home.call("start_capture", node=pair.node, seconds=30)
    wait_for(lambda: capture(home, started["id"])["state"] == "running", "a capture that runs")
    for _ in range(5):
        pair.talk()
    wait_for(lambda: capture(home, started["id"])["packets"] >= 10, "packets in the capture")
    visit.id("tab-captures").click()
    row = visit.page.locator(f'#list tr[data-key="{started["id"]}"]')
    with visit.page.expect_download() as waiting:
        row.get_by_test_id("download").click()
    home.call("stop_capture", id=started["id"])  # the file ends, and so does the download
    with PcapReader(io.BytesIO(waiting.value.path().read_bytes())) as packets:
        assert len(list(packets)) >= 10


def capture(home: WebHome, number: int) -> dict[str, Any]:
    (found,) = [each for each in home.call("list_captures") if each["id"] == number]
    return dict(found)


def test_each_button_says_what_it_did(home: WebHome, open_page: Callable[..., Visit], pair: Pair) -> None:
    """Two windows: what one does, the other shows."""
    one, other = open_page(), open_page()
    other.select(device=pair.device, node=pair.node)
    one.select(device=pair.device, node=pair.node)
    one.id("block").first.click()
    say(one, "blocked")
    other.until(other.id("unblock").first.is_visible, "the block in the other window")
    other.id("unblock").first.click()
    one.until(one.id("block").first.is_visible, "its end in the first")
