# SPDX-License-Identifier: GPL-2.0-or-later
"""What a reviewer tried and found right: forged and odd input that must go on being harmless."""

import struct

import pytest

from spind.commands import NodeDeleted, NodeMerged
from spind.engine import Engine
from spind.events import ConnDelta, LocalAddresses, NeighbourSeen, PacketSeen, Tick, Traffic, TrafficEnd
from spind.model import ConnKey, Evidence, parse_address, parse_mac
from spind.mqtt_messages import Message
from spind.mqtt_queue import OutQueue
from spind.names import Names, answered_addresses
from spind.sites import registrable_domain
from spind.wire.dns import Record
from spind.wire.packet import Packet

MAC = parse_mac("02:00:00:00:08:11")
HOME_V4 = parse_address("192.168.8.11")
GATEWAY = parse_address("192.168.8.1")
REMOTE = parse_address("198.18.0.20")
KEY = ConnKey(6, HOME_V4, 7000, REMOTE, 443)
T0 = 1_000_000.0


def _engine() -> Engine:
    engine = Engine()
    engine.handle(LocalAddresses(frozenset({GATEWAY}), frozenset(), ((GATEWAY[:3] + b"\0", 24),)), T0)
    return engine


def _packet(proto: int, src: bytes, sport: int, dst: bytes, dport: int, payload: bytes = b"") -> Packet:
    return Packet(proto, src, sport, dst, dport, 60, 0, 0, payload, fragment=False)


def test_a_packet_alone_does_not_take_an_address_from_its_holder() -> None:
    engine = _engine()
    engine.handle(NeighbourSeen(HOME_V4, MAC), T0)
    forged = parse_mac("02:00:00:00:08:66")
    engine.handle(PacketSeen(_packet(17, HOME_V4, 1, REMOTE, 2), forged, from_lan=True), T0 + 1)
    holder = engine.nodes.device_at(HOME_V4)
    assert holder is not None
    assert holder.mac == MAC


@pytest.mark.parametrize("source", [REMOTE, parse_address("198.18.0.99")])
def test_an_answer_that_nobody_asked_for_labels_nothing(source: bytes) -> None:
    engine = _engine()
    engine.handle(NeighbourSeen(HOME_V4, MAC), T0)
    name = b"\x04bank\x07example\0"
    answer = struct.pack("!HHHHHH", 7, 0x8180, 1, 1, 0, 0) + name + b"\0\1\0\1"
    answer += b"\xc0\x0c\0\1\0\1\0\1\0\0\0\4" + REMOTE
    engine.handle(PacketSeen(_packet(17, source, 53, HOME_V4, 4000, answer), None, from_lan=False), T0)
    engine.handle(PacketSeen(_packet(6, *KEY[1:3], *KEY[3:5]), MAC, from_lan=True), T0 + 1)
    seen = engine.attribution(KEY)
    assert seen is not None
    assert (seen.name, seen.evidence) == ("", Evidence.NONE)
    assert engine.names.answers_unasked == 1


def test_bytes_counted_before_a_mac_was_known_follow_the_device() -> None:
    engine = _engine()
    delta = ConnDelta(1, KEY, 1, 100, 1, 200, ended=False)
    engine.handle(Traffic([delta]), T0)
    engine.handle(PacketSeen(_packet(6, HOME_V4, 7001, REMOTE, 443), MAC, from_lan=True), T0 + 1)
    commands = engine.handle(Traffic([delta]), T0 + 2) + engine.handle(Tick(), T0 + 2)
    device = engine.nodes.devices[MAC]
    assert engine.flows.total(device.id, 4)[:2] == (200, 400)
    assert sum(flow.up_bytes for flow in engine.flows.flows(device.id)) == 200
    assert not [c for c in commands if isinstance(c, NodeDeleted) and c.id == device.id]
    assert all(c.merged_to == device.id for c in commands if isinstance(c, NodeMerged))


def test_counts_of_a_forgotten_site_stay_in_the_devices_total() -> None:
    engine = _engine()
    engine.handle(NeighbourSeen(HOME_V4, MAC), T0)
    engine.handle(Traffic([ConnDelta(1, KEY, 1, 100, 1, 200, ended=False)]), T0)
    engine.handle(Tick(), T0 + 3600)
    assert engine.nodes.find_address(REMOTE) is None
    engine.handle(Traffic([ConnDelta(1, KEY, 1, 11, 1, 22, ended=True)]), T0 + 3601)
    engine.handle(TrafficEnd(0, resynced=False), T0 + 3601)
    device = engine.nodes.devices[MAC]
    assert engine.flows.total(device.id, 4)[:2] == (111, 222)


def test_a_chain_of_aliases_that_turns_in_a_circle_ends() -> None:
    loop = (Record("a.test", 5, 60, None, "b.test"), Record("b.test", 5, 60, None, "a.test"))
    answers = (*loop, Record("b.test", 1, 30, REMOTE, None), Record("other.test", 1, 30, REMOTE, None))
    assert answered_addresses("a.test", answers) == [(REMOTE, 30)]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a..b", "com", "\\.com", "a\\.b.example.com", "-", "*." * 100 + "x"]
)
def test_no_name_from_dns_is_too_odd_for_the_suffix_list(name: str) -> None:
    assert name.endswith(registrable_domain(name))


def test_names_from_public_dns_for_the_home_label_nothing() -> None:
    for text in ("192.168.8.12", "127.0.0.1", "169.254.1.1", "fe80::1", "fd00::1", "::ffff:10.0.0.1"):
        address = parse_address(text)
        records = (Record("rebind.test", 28 if len(address) == 16 else 1, 60, address, None),)
        assert answered_addresses("rebind.test", records) == []
    assert Names(_engine().limits).lookup(1, HOME_V4, T0) == ("", Evidence.NONE)


def test_a_node_that_comes_back_is_not_removed_behind_its_announcement() -> None:
    queue = OutQueue()
    topic = "SPIN/traffic/node/4"
    for payload in (b"first", b"", b"second"):
        queue.put(Message(topic, payload, retain=True))
    told = []
    while (message := queue.get()) is not None:
        told.append(message.payload)
    assert told[-1] == b"second"
