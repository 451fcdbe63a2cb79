# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for the engine whatever happens: bytes add up, tables stay bounded, order of messages."""

from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import CAMERA, CAMERA_V4, PHONE, PHONE_V4, T0, client_hello, home, packet, resolve

from spind.commands import DnsQuerySeen, NodeChanged, NodeDeleted, NodeMerged, TrafficReport
from spind.engine import Engine
from spind.events import (
    ConnDelta,
    NeighbourGone,
    NeighbourSeen,
    PacketSeen,
    SetIgnored,
    Tick,
    Traffic,
    TrafficEnd,
)
from spind.limits import Limits
from spind.model import ConnKey

HOME = {CAMERA: CAMERA_V4, PHONE: PHONE_V4}
NAMES = ["a.one.test", "b.one.test", "two.test", "x.three.co.uk"]
HELLOS = {name: client_hello(name) for name in NAMES}
REMOTES = [bytes([198, 18, 0, last]) for last in range(1, 6)]

connection = st.builds(
    lambda mac, sport, dst, dport, proto: (mac, ConnKey(proto, HOME[mac], sport, dst, dport)),
    st.sampled_from(list(HOME)),
    st.integers(1000, 1005),
    st.sampled_from([*REMOTES, PHONE_V4]),
    st.sampled_from([80, 443]),
    st.sampled_from([6, 17]),
)
step = st.one_of(
    st.tuples(st.just("packet"), connection),
    st.tuples(st.just("hello"), connection, st.sampled_from(NAMES)),
    st.tuples(st.just("bytes"), connection, st.integers(0, 2**40), st.integers(0, 2**40), st.booleans()),
    st.tuples(
        st.just("resolve"), st.sampled_from(list(HOME)), st.sampled_from(NAMES), st.sampled_from(REMOTES)
    ),
    st.tuples(st.just("neighbour"), st.sampled_from(list(HOME)), st.sampled_from([*HOME.values()])),
    st.tuples(st.just("gone"), st.sampled_from(list(HOME))),
    st.tuples(st.just("ignore"), st.integers(1, 12), st.booleans()),
    st.tuples(st.just("wait"), st.floats(0.1, 400)),
)


class Watcher:
    """Carries steps out and checks every command against what was announced before."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.now = T0
        self.known: set[int] = set()
        self.sent = 0
        self.reported = 0

    def give(self, event: object) -> None:
        for command in self.engine.handle(event, self.now):
            if isinstance(command, NodeChanged):
                self.known.add(command.node["id"])
            elif isinstance(command, NodeDeleted):
                self.known.discard(command.id)
            elif isinstance(command, NodeMerged):
                assert command.merged_to in self.known
            elif isinstance(command, DnsQuerySeen):
                assert {command.from_node, command.queried_node} <= self.known
            elif isinstance(command, TrafficReport):
                assert {flow[end] for flow in command.flows for end in ("from", "to")} <= self.known
                assert command.total_size == sum(flow["size"] for flow in command.flows)
                self.reported += command.total_size

    def carry_out(self, action: tuple[object, ...]) -> None:
        self.now += 0.01
        kind, *rest = action
        if kind in ("packet", "hello"):
            mac, key = rest[0]
            payload = HELLOS[rest[1]] if kind == "hello" else b""
            seen = packet(*key, flags=0x18 if payload else 2, seq=11 if payload else 10, payload=payload)
            self.give(PacketSeen(seen, mac, from_lan=True))
        elif kind == "bytes":
            (_, key), up, down, ended = rest
            self.sent += up + down
            self.give(Traffic([ConnDelta(1, key, 1, up, 1, down, ended)]))
        elif kind == "resolve":
            mac, name, address = rest
            resolve(self.engine, mac, HOME[mac], name, ".".join(map(str, address)), self.now)
            self.known = set(self.engine.nodes.by_id)  # resolve() does not show its commands
        elif kind == "neighbour":
            self.give(NeighbourSeen(rest[1], rest[0]))
        elif kind == "gone":
            self.give(NeighbourGone(HOME[rest[0]], rest[0]))
        elif kind == "ignore":
            if rest[0] in self.engine.nodes.by_id:
                self.give(SetIgnored(*rest))
        else:
            self.now += rest[0]
            self.give(Tick())
            self.give(TrafficEnd(0, resynced=False))


@settings(max_examples=300, deadline=None)
@given(st.lists(step, max_size=60))
def test_bytes_add_up_and_nodes_are_announced_first(steps: list[tuple[object, ...]]) -> None:
    engine = home(retain=1e9)
    watcher = Watcher(engine)
    for action in steps:
        watcher.carry_out(action)
    assert sum(flow.up_bytes + flow.down_bytes for flow in engine.flows.flows()) == watcher.sent
    totals = sum(sum(engine.flows.total(node.id, family)[:2]) for node in engine.nodes for family in (4, 6))
    assert totals == watcher.sent
    assert watcher.reported <= watcher.sent
    for flow in engine.flows.flows():
        assert min(flow.up_bytes, flow.down_bytes, flow.up_packets, flow.down_packets) >= 0
        assert flow.firstseen <= flow.lastseen


@settings(max_examples=200, deadline=None)
@given(st.lists(step, max_size=80), st.integers(1, 6))
def test_tables_stay_bounded(steps: list[tuple[object, ...]], size: int) -> None:
    limits = Limits(
        devices=2, sites=size, sites_per_device=size, names=size, connections=size, flows=size, queries=size,
        window_cells=size, report_rows=size, streams=size, addresses_per_node=2, domains_per_node=2,
    )  # fmt: skip
    engine = home(limits=limits, retain=100)
    watcher = Watcher(engine)
    for action in steps:
        watcher.carry_out(action)
        assert len(engine.flows) <= size
        assert len(engine.connections) <= size
        undecided = [node for node in engine.nodes if not node.decided]
        assert len(undecided) <= 2 * 2 + size + 3
        for node in engine.nodes:
            assert len(node.addresses) <= 2
            assert len(node.domains) <= 2
