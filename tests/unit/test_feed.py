# SPDX-License-Identifier: GPL-2.0-or-later
"""The live events, message by message."""

import json

import pytest
from feed_client import Client, delta, flow_key, parse
from test_engine import (
    CAMERA,
    CAMERA_V4,
    CDN,
    GATEWAY_V4,
    PHONE,
    PHONE_V4,
    T0,
    ask,
    home,
    packet,
    resolve,
    transfer,
)

from spind import feed as feed_module
from spind.commands import Command, Dismissed, DnsQuerySeen
from spind.engine import Engine
from spind.events import (
    BlockedSeen,
    Decided,
    IgnoreAddress,
    LeaseSeen,
    NeighbourSeen,
    PacketSeen,
    PutRules,
    SetIgnored,
    SetName,
    SetProfile,
    Tick,
)
from spind.feed import QUERIES, Feed, Urgency
from spind.flows import Counts, FlowKey, Flows
from spind.limits import Limits
from spind.model import ConnKey, Evidence, format_address, parse_address, parse_mac
from spind.rules import Rule


class Live:
    """A feed with one client that reads at once."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine or home()
        self.now = T0
        self.feed = Feed(self.engine, lambda: self.now, "run7", "1.2.3")
        self.client = Client()

    def begin(self) -> list[bytes]:
        self.feed.wake()
        texts = [text for text in self.feed.snapshot() if text is not None]
        for text in texts:
            self.client.take(text)
        return texts

    def told(self, commands: list[Command]) -> Urgency:
        return max(map(self.feed.publish, commands), default=Urgency.NONE)

    def give(self, event: object) -> Urgency:
        self.now += 0.1
        return self.told(self.engine.handle(event, self.now))

    def delta(self, *, counters: bool = True) -> list[dict]:
        texts = delta(self.feed, counters=counters)
        for text in texts:
            self.client.take(text)
        return [parse(text)[1] for text in texts]

    def check(self) -> None:
        self.client.check(self.engine, self.now)


def live(**options: object) -> Live:
    made = Live(home(**options))
    made.begin()
    made.delta()
    return made


def test_the_snapshot() -> None:
    made = Live()
    transfer(made.engine, ConnKey(6, CAMERA_V4, 1, CDN, 443), 100, 200, T0)
    texts = made.begin()
    assert [parse(text)[0] for text in texts] == ["hello", "nodes", "flows", "window", "ready"]
    assert texts[0] == (
        b'event: hello\ndata: {"version":"1.2.3","time":1000000.0,"instance":"run7",'
        b'"window_seconds":600,"step":5}\n\n'
    )
    assert parse(texts[3])[1] == {"time": 1000000, "cells": [[1, 3, 100, 200, 1, 1]]}
    made.check()


def test_nothing_changed_nothing_is_said() -> None:
    made = live()
    assert made.delta() == []
    made.now += 1
    assert made.delta() == []
    assert made.delta(counters=False) == []


def test_what_changes_at_once_is_one_message() -> None:
    made = live()
    made.now += 1
    made.told(ask(made.engine, CAMERA, CAMERA_V4, "cdn.test", made.now))
    made.told(transfer(made.engine, ConnKey(6, CAMERA_V4, 1, CDN, 443), 1, 2, made.now))
    (data,) = made.delta()
    assert set(data) == {"time", "nodes", "flows", "cells", "queries"}
    assert data["queries"][0]["time"] == made.now
    made.check()


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "a\nid: x\n\nevent: hello", "\u2028\u202e", "\ud800"]
)
def test_a_hostile_name_stays_within_its_line(name: str) -> None:
    made = live()
    made.give(LeaseSeen(CAMERA, CAMERA_V4, name))
    text = b"".join(delta(made.feed))
    assert text.count(b"\n") == 4
    assert text.isascii()
    made.client.take(text)
    assert made.client.nodes[1]["hostname"] == name


def test_a_query_comes_soon_with_its_node_and_without_counters() -> None:
    made = live()
    made.now += 1
    transfer(made.engine, ConnKey(6, CAMERA_V4, 1, CDN, 443), 1, 2, made.now)
    assert made.told(ask(made.engine, CAMERA, CAMERA_V4, "www.two.test", made.now)) is Urgency.SOON
    (data,) = made.delta(counters=False)
    assert set(data) == {"time", "nodes", "queries"}
    assert made.client.queries[-1]["name"] == "www.two.test."
    made.delta()
    made.check()


def test_of_many_queries_and_blocks_some_are_told_and_the_rest_counted() -> None:
    made = live()
    made.told(ask(made.engine, CAMERA, CAMERA_V4, "www.two.test", made.now))
    made.delta()
    for _ in range(QUERIES + 7):
        made.feed.publish(DnsQuerySeen(1, 3, "www.two.test."))
        made.give(BlockedSeen(packet(6, CAMERA_V4, 1000, CDN, 443), CAMERA, up=True))
    data = {name: value for part in made.delta() for name, value in part.items()}
    assert len(made.client.queries) == QUERIES + 1
    assert data["queries_left_out"] == 7
    assert data["blocked_left_out"] == 7
    made.check()


def test_what_is_blocked_is_told_by_its_flow_whichever_way_the_packet_went() -> None:
    made = live()
    made.give(BlockedSeen(packet(6, CDN, 5000, CAMERA_V4, 22), None, up=False))
    made.give(BlockedSeen(packet(1, CAMERA_V4, 0, CDN, 8 << 8), CAMERA, up=True))
    made.delta()
    keys = {flow_key(flow | {"icmp_type": flow["port"]}) for flow in made.client.blocked}
    assert keys == set(made.client.flows) == {(1, 3, 6, 22, 4, True), (1, 3, 1, 8, 4, False)}
    made.check()


def test_a_decision_comes_with_everything_and_says_what_to_ask_for() -> None:
    made = live()
    assert made.give(SetName(1, "Kamera")) is Urgency.DECIDED
    made.delta()
    assert made.client.nodes[1]["label"] == "Kamera"
    assert made.give(PutRules((Rule(1, "block", CAMERA),))) is Urgency.DECIDED
    (data,) = made.delta()
    assert "rules" in data["changed"]
    assert made.client.nodes[1]["is_blocked"]
    made.give(SetProfile(1, "lan_only"))
    made.delta()
    assert made.client.nodes[1]["profile"] == "lan_only"
    made.check()


def test_a_configuration_that_was_read_anew_says_so_without_any_command() -> None:
    made = live()
    made.engine.handle(Decided({}, ("192.0.2.1",), (Rule(4, "block", domain="x.test"),)), made.now)
    (data,) = made.delta(counters=False)
    assert set(data["changed"]) == {"rules", "lists"}


def test_rules_that_the_time_turns_say_so() -> None:
    made = live()
    made.give(PutRules((Rule(1, "block", domain="x.test", until=int(T0) + 100),)))
    made.delta()
    made.now = T0 + 100
    assert made.give(Tick()) is Urgency.DECIDED
    (data,) = made.delta()
    assert "rules" in data["changed"]
    assert [item["message_key"] for item in data["notifications"]] == ["rule.ended"]


def test_notifications_and_their_dismissal() -> None:
    made = live()
    assert made.told(made.engine.notify(T0, "daemon", "daemon.trouble", ("one",))) is Urgency.SOON
    made.told(made.engine.notify(T0, "daemon", "daemon.trouble", ("two",)))
    made.feed.publish(Dismissed(1))
    (data,) = made.delta(counters=False)
    assert [item["message"] for item in data["notifications"]] == ["two"]
    assert data["changed"] == ["notifications"]
    made.feed.mention("captures")
    assert made.delta(counters=False)[0]["changed"] == ["captures"]


def test_every_way_to_change_a_flow_is_in_the_journal() -> None:
    flows = Flows(Limits(flows=3))
    journal = flows.new_journal()
    flows.listen(journal)
    one, two, three, four = (FlowKey(1, node, 6, 443, 4, False) for node in (2, 3, 4, 5))

    def touched() -> set[FlowKey]:
        keys = set(journal.flows)
        journal.flows.clear()
        return keys

    flows.count(flows.get(one, T0), 10, 20, 1, 2, T0)
    assert touched() == {one}
    assert list(journal.cells) == [(1000000, 1, 2)]
    flows.move(one, two, Counts(4, 4, 1, 1), T0)
    assert touched() == {one, two}, "what is left, and where it went"
    flows.move(one, two, Counts(10, 20, 1, 2), T0)
    assert touched() == {one, two}
    assert flows.find(one) is None
    flows.block(three, "x.test", Evidence.DNS, T0)
    assert touched() == {three}
    flows.describe(three, "y.test", Evidence.SNI, T0)
    assert touched() == {three}
    flows.remark(three, "ech", T0)
    assert touched() == {three}
    flows.rename_node(3, 9, T0)
    assert touched() == {two, two._replace(node=9)}
    flows.get(four, T0)
    flows.count(flows.get(one, T0), 1, 1, 1, 1, T0)
    assert touched() >= {one}
    assert flows.evicted == 1
    journal.flows.clear()
    flows.forget_node(1)
    assert touched() >= {one, four}
    flows.shift(10)
    assert journal.overflowed
    flows.listen(None)
    flows.block(three, "x.test", Evidence.DNS, T0)
    assert touched() == set()


def test_what_is_hidden_is_gone_and_comes_back_whole() -> None:
    made = live()
    made.give(NeighbourSeen(PHONE_V4, PHONE))
    resolve(made.engine, CAMERA, CAMERA_V4, "x.test", format_address(CDN), made.now)
    transfer(made.engine, ConnKey(6, CAMERA_V4, 1, CDN, 443), 1, 2, made.now)
    transfer(made.engine, ConnKey(6, PHONE_V4, 1, CDN, 443), 1, 2, made.now)
    made.delta()
    assert len(made.client.flows) == len(made.client.cells) == 2
    for hide, show in (
        (SetIgnored(1, ignored=True), SetIgnored(1, ignored=False)),
        (
            IgnoreAddress(format_address(PHONE_V4), ignored=True),
            IgnoreAddress(format_address(PHONE_V4), ignored=False),
        ),
    ):
        made.give(hide)
        data = made.delta()
        assert len(data[0]["gone_flows"]) == 1
        gone = data[0]["gone_flows"][0][0]
        assert gone not in {key[0] for key in made.client.flows} | {cell[1] for cell in made.client.cells}
        made.check()
        key = ConnKey(6, CAMERA_V4 if isinstance(hide, SetIgnored) else PHONE_V4, 2, CDN, 8443)
        made.now += 1
        transfer(made.engine, key, 1, 2, made.now)
        made.told(ask(made.engine, CAMERA, CAMERA_V4, "hidden.test", made.now))
        text = json.dumps(made.delta())
        if isinstance(hide, SetIgnored):
            assert "8443" not in text
            assert "hidden.test." not in [query["name"] for query in made.client.queries]
        made.check()
        made.give(show)
        made.delta()
        made.check()


def test_a_node_that_is_away_or_hidden_for_a_moment_while_a_snapshot_is_made() -> None:
    made = live()
    transfer(made.engine, ConnKey(6, CAMERA_V4, 1, CDN, 443), 1, 2, made.now)
    made.delta()
    made.give(SetIgnored(1, ignored=True))
    made.begin()
    assert made.client.flows == made.client.cells == {}
    made.give(SetIgnored(1, ignored=False))
    made.delta()
    assert len(made.client.flows) == len(made.client.cells) == 1
    made.check()


def test_a_device_that_comes_back_has_its_past() -> None:
    made = live(retain=30)
    transfer(made.engine, ConnKey(6, CAMERA_V4, 1, CDN, 443), 1, 2, made.now)
    made.delta()
    (site,) = (key[1] for key in made.client.flows)
    made.give(SetName(site, "stays"))
    made.engine.nodes.devices[CAMERA].present.clear()
    made.now += 60
    made.give(Tick())
    made.delta()
    assert 1 not in made.client.nodes
    assert made.client.cells == {}
    made.check()
    made.give(NeighbourSeen(CAMERA_V4, CAMERA))
    made.give(PacketSeen(packet(6, CAMERA_V4, 2, CDN, 443, flags=2), CAMERA, from_lan=True))
    made.delta(counters=False)
    made.delta()
    assert 1 in made.client.nodes
    assert len(made.client.cells) == 1
    made.check()


def test_a_device_whose_mac_comes_to_light_keeps_its_counts() -> None:
    made = live()
    late, mac = parse_address("192.168.8.50"), parse_mac("02:00:00:00:08:50")
    made.told(transfer(made.engine, ConnKey(6, late, 1, CDN, 443), 100, 2, made.now))
    made.delta()
    (old,) = (flow["device"] for flow in made.client.flows.values())
    made.give(NeighbourSeen(late, mac))
    data = made.delta()
    new = made.engine.nodes.devices[mac].id
    assert data[0]["merged"] == [[old, new]]
    assert data[0]["gone_nodes"] == [old]
    assert [cell[1] for cell in made.client.cells] == [new]
    assert sum(step.counts.up_bytes for step in made.engine.flows.series(made.now, T0, 5, device=new)) == 100
    made.check()


def test_a_clock_that_was_set_has_all_told_anew() -> None:
    made = live()
    assert not made.feed.overflowed
    made.engine.shift(-1000)
    made.now -= 1000
    assert made.feed.overflowed
    made.feed.restart()
    assert not made.feed.overflowed
    made.now -= 2  # somebody set it back by less than is noticed elsewhere
    assert made.feed.overflowed


def test_a_journal_that_overflows_after_a_delta_began_is_noticed() -> None:
    made = live()
    assert made.engine.flows.journal is not None
    steps = made.feed.delta(counters=True)
    made.engine.flows.journal.overflow()
    assert [text for text in steps if text is not None] == []
    assert made.feed.overflowed


def test_who_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "RING_DELTAS", 3)
    made = live()
    texts = []
    for number in range(6):
        made.give(SetName(1, f"name {number}"))
        texts += delta(made.feed)
    ids = [parse(text)[2] for text in texts]
    assert made.feed.resume(ids[-1]) == []
    assert made.feed.resume(ids[-3]) == texts[-2:]
    assert made.feed.resume(ids[-4]) == texts[-3:]
    assert made.feed.resume(ids[-5]) is None
    for stranger in ("", "run7", "run7-", "run8-1", "run7--1", "run7-1e3", "run7-\u0663", "run7-" + "9" * 50):
        assert made.feed.resume(stranger) is None
    made.feed.restart()
    assert made.feed.resume(ids[-1]) is None
    made.give(SetName(1, "again"))
    last = parse(delta(made.feed)[-1])[2]
    assert made.feed.resume(last) == []
    made.feed.sleep()
    made.feed.wake()
    assert made.feed.resume(last) is None


def test_the_ring_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "RING_BYTES", 2000)
    made = live()
    for number in range(50):
        made.give(SetName(1, f"name {number}"))
        made.delta()
    missed = made.feed.resume(f"run7-{made.feed._floor}")
    assert missed
    assert sum(map(len, missed)) <= 2000


def test_nothing_is_noted_while_nobody_listens() -> None:
    made = Live()
    assert made.engine.flows.journal is None
    assert made.told(ask(made.engine, CAMERA, CAMERA_V4, "x.test", T0)) is Urgency.NONE
    made.feed.mention("captures")
    made.begin()
    assert made.engine.flows.journal is not None
    assert all(set(data) == {"time", "nodes"} for data in made.delta())
    made.feed.sleep()
    assert made.engine.flows.journal is None


def test_large_changes_are_several_messages_none_of_them_large() -> None:
    made = live()
    made.now += 1
    for port in range(1, 1001):
        transfer(made.engine, ConnKey(6, CAMERA_V4, 1, CDN, port), 1, 2, made.now)
    texts = delta(made.feed)
    assert 5 <= len(texts) <= 8
    assert max(map(len, texts)) < 100_000
    for text in texts:
        made.client.take(text)
    assert len(made.client.flows) == 1000


def test_a_flow_to_the_gateway_is_a_flow() -> None:
    made = live()
    transfer(made.engine, ConnKey(17, CAMERA_V4, 1, GATEWAY_V4, 53), 1, 2, made.now)
    made.delta()
    gateway = next(ident for ident, node in made.client.nodes.items() if node["kind"] == "gateway")
    assert list(made.client.flows) == [tuple(FlowKey(1, gateway, 17, 53, 4, False))]
    made.check()
