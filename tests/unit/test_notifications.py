# SPDX-License-Identifier: GPL-2.0-or-later
"""What people are told of what happens, how often, and how it is listed and dismissed."""

from pathlib import Path

import pytest
from test_engine import CAMERA, CAMERA_V4, CDN, T0, home, packet, resolve, transfer

from spind.api import Api, ApiError, Caller
from spind.commands import Command, Dismissed, Notify
from spind.engine import Engine
from spind.events import (
    BlockedSeen,
    Decided,
    LeaseSeen,
    NeighbourSeen,
    PutRules,
    SetIgnored,
    Tick,
)
from spind.limits import Limits
from spind.lookout import AGAIN_SECONDS, NAMING_SECONDS, SETTLE_SECONDS
from spind.model import ConnKey, parse_address, parse_mac
from spind.notifications import BURST, LIMIT, REFILL_SECONDS, TEXT_LIMIT, WORDS, Notifications, to_json
from spind.rules import Rule

PRINTER = parse_mac("02:00:00:00:08:77")
PRINTER_V4 = parse_address("192.168.8.77")
OWNER = Caller("test", "owner")


def told(commands: list[Command]) -> list[dict]:
    return [command.notification for command in commands if isinstance(command, Notify)]


def settled(**options: object) -> Engine:
    """A home that has been looked at for long enough to know who is new."""
    engine = home(**options)
    assert told(engine.handle(Tick(), T0)) == []
    assert told(engine.handle(Tick(), T0 + SETTLE_SECONDS)) == []
    return engine


# The list


def test_a_notification_is_in_words_and_in_parts() -> None:
    book = Notifications()
    assert book.notify(T0 + 0.9, "blocked", "blocked.party", ("Camera", "evil.test"), device=3, node=4)
    (item,) = book
    assert to_json(item) == {
        "id": 1,
        "time": int(T0),
        "kind": "blocked",
        "device": 3,
        "node": 4,
        "message": "Camera tried to reach evil.test, which is blocked for it",
        "message_key": "blocked.party",
        "message_args": ["Camera", "evil.test"],
    }
    book.notify(T0, "daemon", "daemon.trouble", ("the queue is full",))
    assert {"device", "node"}.isdisjoint(to_json(list(book)[1]))
    assert book.take() == [Notify(to_json(item)) for item in book]
    assert not book.pending


def test_hostile_names_are_inert_and_short_and_are_no_templates() -> None:
    book = Notifications()
    book.notify(T0, "device", "device.new", ("{0.__class__}\n\u202e" + "x" * 1000,))
    (item,) = book
    assert item.message.startswith("A new device joined the home: {0.__class__}\ufffd\ufffdxxx")
    assert len(item.args[0]) == TEXT_LIMIT


def test_the_list_is_bounded_and_ids_are_not_used_again() -> None:
    book = Notifications()
    now = T0
    for _ in range(LIMIT + 5):
        now += REFILL_SECONDS
        assert book.notify(now, "daemon", "daemon.trouble", ("x",))
    assert [item.id for item in book] == list(range(6, LIMIT + 6))
    assert book.dismiss(LIMIT + 5)
    assert not book.dismiss(LIMIT + 5)
    book.notify(now + REFILL_SECONDS, "daemon", "daemon.trouble", ("x",))
    assert list(book)[-1].id == LIMIT + 6


def test_one_kind_cannot_push_out_the_others() -> None:
    book = Notifications()
    book.notify(T0, "rule", "rule.ended", ("no device may reach x.test",))
    done = [book.notify(T0, "device", "device.new", (str(number),)) for number in range(1000)]
    assert sum(done) == BURST
    assert book.suppressed == 1000 - BURST
    assert book.notify(T0 + REFILL_SECONDS, "device", "device.new", ("later",))
    assert not book.notify(T0 + REFILL_SECONDS, "device", "device.new", ("too soon",))
    assert book.notify(T0, "daemon", "daemon.trouble", ("x",))
    assert next(iter(book)).kind == "rule"


@pytest.mark.parametrize(("key", "args"), [("no.such", ()), ("device.new", ())])
def test_a_key_that_is_none_is_not_listed(key: str, args: tuple[str, ...]) -> None:
    book = Notifications()
    with pytest.raises((KeyError, IndexError)):
        book.notify(T0, "device", key, args)
    assert len(book) == 0
    assert not book.pending


def test_the_methods() -> None:
    engine = home()
    commands: list[Command] = []
    api = Api(engine, lambda: T0, commands.extend)
    for second in range(3):
        engine.notify(T0 + second, "daemon", "daemon.trouble", (f"trouble {second}",))
    page = api.call("list_notifications", {"since": int(T0) + 1}, OWNER)
    assert [item["message"] for item in page["items"]] == ["trouble 2", "trouble 1"]
    assert page["total"] == 2
    assert api.call("dismiss_notification", {"id": 2}, OWNER) is None
    assert commands == [Dismissed(2)]
    assert [item["id"] for item in api.call("list_notifications", {}, OWNER)["items"]] == [3, 1]
    with pytest.raises(ApiError, match="id: there is no notification 2"):
        api.call("dismiss_notification", {"id": 2}, OWNER)
    with pytest.raises(ApiError):
        api.call("dismiss_notification", {"id": 1}, Caller("test", "viewer"))
    assert len(engine.notifications) == 2


# What is told


def test_a_new_device_is_told_once_it_has_a_name() -> None:
    engine = settled()
    now = T0 + SETTLE_SECONDS + 10
    engine.handle(NeighbourSeen(PRINTER_V4, PRINTER), now)
    assert told(engine.handle(Tick(), now + 1)) == []
    engine.handle(LeaseSeen(PRINTER, PRINTER_V4, "printer"), now + 2)
    (item,) = told(engine.handle(Tick(), now + NAMING_SECONDS))
    assert (item["kind"], item["message"]) == ("device", "A new device joined the home: printer")
    assert item["device"] == engine.nodes.devices[PRINTER].id
    assert told(engine.handle(Tick(), now + 100)) == []


def test_a_home_without_memory_is_not_new_nor_is_a_device_with_an_id_or_a_name() -> None:
    engine = home()
    engine.handle(Tick(), T0)
    engine.handle(NeighbourSeen(PRINTER_V4, PRINTER), T0 + SETTLE_SECONDS - 1)
    assert told(engine.handle(Tick(), T0 + 100)) == []
    remembering = home(ids={"02:00:00:00:08:77": 9, "02:00:00:00:08:11": 1, "02:00:00:00:08:12": 2})
    remembering.handle(Tick(), T0)
    remembering.handle(NeighbourSeen(PRINTER_V4, PRINTER), T0 + 1)
    assert told(remembering.handle(Tick(), T0 + 10)) == []
    stranger = parse_mac("02:00:00:00:08:78")
    remembering.handle(NeighbourSeen(parse_address("192.168.8.78"), stranger), T0 + 10)
    assert len(told(remembering.handle(Tick(), T0 + 20))) == 1, "with a memory it is new at once"


def test_a_device_that_nobody_wants_to_see_is_not_told() -> None:
    engine = settled()
    now = T0 + SETTLE_SECONDS + 10
    engine.handle(NeighbourSeen(PRINTER_V4, PRINTER), now)
    engine.handle(SetIgnored(engine.nodes.devices[PRINTER].id, ignored=True), now)
    assert told(engine.handle(Tick(), now + 100)) == []


def test_the_profile_of_a_new_device_is_told() -> None:
    engine = settled()
    now = T0 + SETTLE_SECONDS + 10
    engine.handle(Decided({}, (), new_device_profile="lan_only"), now)
    engine.handle(NeighbourSeen(PRINTER_V4, PRINTER), now)
    (item,) = told(engine.handle(Tick(), now + NAMING_SECONDS))
    assert item["message_key"] == "device.profile"
    assert item["message_args"] == ["02:00:00:00:08:77", "lan_only"]


def blocked(engine: Engine, remote: bytes, now: float, *, up: bool = True) -> list[dict]:
    seen = packet(6, CAMERA_V4, 1000, remote, 443, flags=2)
    if not up:
        seen = packet(6, remote, 1000, CAMERA_V4, 443, flags=2)
    return told(engine.handle(BlockedSeen(seen, CAMERA if up else None, up=up), now))


def test_an_attempt_is_told_once_an_hour_by_its_name() -> None:
    engine = settled()
    now = T0 + SETTLE_SECONDS
    resolve(engine, CAMERA, CAMERA_V4, "tracker.test", "198.18.0.20", now)
    camera = engine.nodes.devices[CAMERA]
    (item,) = blocked(engine, CDN, now)
    assert item["message_args"] == ["02:00:00:00:08:11", "tracker.test"]
    assert item["device"] == camera.id
    assert item["node"] == engine.nodes.find_domain("tracker.test").id
    assert blocked(engine, CDN, now + 50) == []
    other = parse_address("198.18.0.99")  # its names do not change, as it has none
    assert len(blocked(engine, other, now + 60)) == 1
    assert blocked(engine, other, now + 59 + AGAIN_SECONDS) == []
    assert len(blocked(engine, other, now + 60 + AGAIN_SECONDS)) == 1
    assert blocked(engine, parse_address("198.18.0.98"), now, up=False) == [], "nobody in the home tried"


def test_a_device_that_is_blocked_is_told_once_for_all_parties() -> None:
    engine = settled()
    engine.handle(PutRules((Rule(1, "block", CAMERA),)), T0)
    (item,) = blocked(engine, CDN, T0)
    assert item["message_key"] == "blocked.device"
    assert blocked(engine, parse_address("198.18.0.99"), T0 + 1) == []


def test_the_end_of_a_rule_is_told() -> None:
    engine = settled()
    until = int(T0 + SETTLE_SECONDS + 60)
    engine.handle(PutRules((Rule(1, "block", CAMERA, domain="x.test", until=until),)), T0)
    assert told(engine.handle(Tick(), until - 1)) == []
    (item,) = told(engine.handle(Tick(), until))
    assert item["message"] == (
        "This rule ended, as its time was over: 02:00:00:00:08:11 may not reach x.test"
    )
    assert (item["kind"], item["device"]) == ("rule", engine.nodes.devices[CAMERA].id)


def test_a_full_table_is_told_once_an_hour() -> None:
    engine = settled(limits=Limits(flows=2))
    now = T0 + SETTLE_SECONDS
    for port in range(1, 6):
        transfer(engine, ConnKey(6, CAMERA_V4, 1000, CDN, port), 1, 1, now)
    (item,) = told(engine.handle(Tick(), now + 1))
    assert item["message"] == "There are more flows than fit in memory (limit 2): the oldest were forgotten"
    transfer(engine, ConnKey(6, CAMERA_V4, 1000, CDN, 9), 1, 1, now + 2)
    assert told(engine.handle(Tick(), now + 2)) == []
    transfer(engine, ConnKey(6, CAMERA_V4, 1000, CDN, 10), 1, 1, now + AGAIN_SECONDS + 2)
    assert len(told(engine.handle(Tick(), now + AGAIN_SECONDS + 3))) == 1


def test_the_clock_may_be_set() -> None:
    engine = settled()
    now = T0 + SETTLE_SECONDS
    assert len(blocked(engine, CDN, now)) == 1
    engine.shift(1e6)
    assert blocked(engine, CDN, now + 1e6 + 10) == []
    assert next(iter(engine.notifications)).time == int(now + 1e6)


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "web-events.md").read_text()
    for key, words in WORDS.items():
        assert f"| `{key}` | " in text
        assert f" | {words} |" in text
