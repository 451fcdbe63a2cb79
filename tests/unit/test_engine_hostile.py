# SPDX-License-Identifier: GPL-2.0-or-later
"""What one bad device, an outsider or a jumping clock must not do to the others' view."""

from scapy.layers.dns import DNS, DNSQR, DNSRR
from test_engine import (
    CAMERA,
    CAMERA_V4,
    CDN,
    GATEWAY_V4,
    PHONE,
    PHONE_V4,
    T0,
    client_hello,
    flows_of,
    home,
    packet,
    resolve,
    transfer,
)

from spind.commands import DnsQuerySeen, NodeDeleted, SaveState, TrafficReport
from spind.engine import Engine
from spind.events import (
    ConnDelta,
    LocalAddresses,
    NeighbourGone,
    NeighbourSeen,
    PacketSeen,
    SetIgnored,
    Tick,
    Traffic,
    TrafficEnd,
)
from spind.limits import Limits
from spind.model import ConnKey, Evidence, parse_address, parse_mac
from spind.nodes import Kind
from spind.resolver_streams import TOTAL_BYTES, ResolverStreams


def test_what_a_visitor_says_does_not_name_the_visitor() -> None:
    engine = home()
    key = ConnKey(6, CDN, 5000, CAMERA_V4, 443)
    transfer(engine, key, 100, 200, T0)
    hello = packet(6, CDN, 5000, CAMERA_V4, 443, flags=0x18, seq=1, payload=client_hello("www.big.test"))
    engine.handle(PacketSeen(hello, None, from_lan=False), T0)
    assert engine.attribution(key)[1:] == ("198.18.0.20", "", Evidence.NONE)


def test_packets_from_outside_invent_no_sites() -> None:
    engine = home()
    for number in range(2000):
        source = parse_address("2001:db8:ffff::")[:12] + number.to_bytes(4, "big")
        probe = packet(6, source, 5, parse_address("2001:db8:8::11"), 22, flags=2)
        engine.handle(PacketSeen(probe, None, from_lan=False), T0)
    assert engine.nodes.site_count == 0


def test_a_device_cannot_ask_or_answer_in_anothers_name() -> None:
    engine = home()
    query = bytes(DNS(id=9, qd=DNSQR(qname="blame.test")))
    forged = packet(17, CAMERA_V4, 4000, GATEWAY_V4, 53, payload=query)
    commands = engine.handle(PacketSeen(forged, PHONE, from_lan=True), T0)
    (told,) = [command for command in commands if isinstance(command, DnsQuerySeen)]
    assert told.from_node == engine.nodes.devices[PHONE].id, "whose MAC sent it is who asked"
    reply = bytes(
        DNS(
            id=9,
            qr=1,
            qd=DNSQR(qname="blame.test"),
            an=DNSRR(rrname="blame.test", ttl=60, rdata="198.18.0.20"),
        )
    )
    answer = packet(17, GATEWAY_V4, 53, CAMERA_V4, 4000, payload=reply)
    engine.handle(PacketSeen(answer, PHONE, from_lan=True), T0)
    assert engine.statistics()["engine.dns-forged"] == 1
    key = ConnKey(6, CAMERA_V4, 5000, CDN, 443)
    transfer(engine, key, 1, 1, T0)
    assert engine.attribution(key).name == ""


def test_the_clock_may_jump_either_way() -> None:
    for jump in (365 * 86400.0, -5 * 86400.0):
        engine = home(retain=1800)
        resolve(engine, CAMERA, CAMERA_V4, "api.vendor.test", "198.18.0.20", T0, ttl=60)
        transfer(engine, ConnKey(6, CAMERA_V4, 5000, CDN, 443), 100, 200, T0)
        engine.shift(jump)
        now = T0 + jump + 10
        assert not [c for c in engine.handle(Tick(), now) if isinstance(c, NodeDeleted)]
        assert flows_of(engine) == {("vendor.test", 443): (100, 200, "api.vendor.test", "dns")}
        assert sum(step.counts.up_bytes for step in engine.flows.series(now, 0, 5)) == 100
        late = ConnKey(6, CAMERA_V4, 5001, CDN, 443)
        transfer(engine, late, 1, 1, now + 100)
        assert engine.attribution(late).evidence == Evidence.NONE, "its TTL is over all the same"


def test_a_device_that_was_evicted_and_is_back_stays() -> None:
    engine = home(limits=Limits(devices=3))
    stranger = parse_mac("02:00:00:00:09:01")
    engine.handle(NeighbourSeen(parse_address("192.168.8.91"), stranger), T0)
    engine.handle(NeighbourGone(parse_address("192.168.8.91"), stranger), T0)
    first = engine.nodes.devices[stranger].id
    gone = engine.handle(NeighbourSeen(parse_address("192.168.8.92"), parse_mac("02:00:00:00:09:02")), T0)
    assert NodeDeleted(first) in gone
    engine.handle(NeighbourGone(parse_address("192.168.8.92"), None), T0)
    back = engine.handle(NeighbourSeen(parse_address("192.168.8.91"), stranger), T0)
    assert engine.nodes.devices[stranger].id == first
    assert NodeDeleted(first) not in back
    transfer(engine, ConnKey(6, parse_address("192.168.8.91"), 1, CDN, 443), 5, 5, T0)
    assert NodeDeleted(first) not in engine.handle(Tick(), T0 + 1)
    assert engine.flows.total(first, 4)[:2] == (5, 5)


def test_forged_macs_push_out_no_device_that_is_there() -> None:
    engine = home(limits=Limits(devices=10))
    for number in range(200):
        mac = (0x020000200000 + number).to_bytes(6, "big")
        forged = packet(17, bytes([192, 168, 8, 30 + number % 200]), 1, CDN, 9)
        engine.handle(PacketSeen(forged, mac, from_lan=True), T0 + number)
    assert {CAMERA, PHONE} <= set(engine.nodes.devices)


def test_new_macs_do_not_write_the_state_file_all_the_time() -> None:
    engine = home()
    writes = 0
    for number in range(600):
        mac = (0x020000200000 + number).to_bytes(6, "big")
        engine.handle(NeighbourSeen(parse_address("2001:db8:8::")[:10] + mac, mac), T0 + number)
        writes += sum(isinstance(c, SaveState) for c in engine.handle(Tick(), T0 + number))
    assert 1 <= writes <= 3


def test_a_port_scan_makes_no_long_message() -> None:
    engine = home(limits=Limits(report_rows=50))
    for port in range(5000):
        transfer(engine, ConnKey(6, CAMERA_V4, 1000, CDN, port), 60, 40, T0)
    (report,) = [c for c in engine.handle(TrafficEnd(1, resynced=False), T0) if isinstance(c, TrafficReport)]
    assert len(report.flows) <= 151


def test_a_connection_that_reuses_ports_is_a_new_one() -> None:
    engine = home()
    key = ConnKey(6, CAMERA_V4, 5000, CDN, 443)

    def open_connection(isn: int, name: str) -> None:
        syn = packet(6, CAMERA_V4, 5000, CDN, 443, flags=2, seq=isn)
        engine.handle(PacketSeen(syn, CAMERA, from_lan=True), T0)
        hello = packet(6, CAMERA_V4, 5000, CDN, 443, flags=0x18, seq=isn + 1, payload=client_hello(name))
        engine.handle(PacketSeen(hello, CAMERA, from_lan=True), T0)

    open_connection(100, "a.one.test")
    engine.handle(Traffic([ConnDelta(7, key, 1, 1000, 1, 1000, False)]), T0)
    open_connection(900, "b.two.test")
    engine.handle(Traffic([ConnDelta(7, key, 1, 10, 1, 10, True)]), T0)
    engine.handle(Traffic([ConnDelta(8, key, 1, 500, 1, 500, False)]), T0)
    assert flows_of(engine) == {
        ("one.test", 443): (1010, 1010, "a.one.test", "sni"),
        ("two.test", 443): (500, 500, "b.two.test", "sni"),
    }
    engine.handle(Traffic([ConnDelta(8, key, 0, 0, 0, 0, True)]), T0)
    assert engine.attribution(key) is None


def test_the_late_end_of_an_earlier_connection_does_not_end_the_one_that_has_its_ports() -> None:
    engine = home()
    key = ConnKey(17, CAMERA_V4, 5000, CDN, 443)
    engine.handle(Traffic([ConnDelta(7, key, 1, 100, 1, 100, False)]), T0)
    engine.handle(Traffic([ConnDelta(8, key, 1, 10, 1, 10, False)]), T0)
    engine.handle(Traffic([ConnDelta(7, key, 0, 0, 0, 0, True)]), T0)
    assert engine.attribution(key) is not None
    engine.handle(Traffic([ConnDelta(8, key, 0, 0, 0, 0, True)]), T0)
    assert engine.attribution(key) is None


def test_streams_of_dns_and_of_clients_are_bounded_in_bytes() -> None:
    streams = ResolverStreams(1024)
    for port in range(1000):
        for seq in range(1, 60_000, 6_000):
            piece = b"\xff\xff" + bytes(5998) if seq == 1 else bytes(6000)
            streams.messages(packet(6, CAMERA_V4, port, GATEWAY_V4, 53, seq=seq, payload=piece))
    assert streams._held <= TOTAL_BYTES
    engine = home()
    start = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + bytes(10_000)
    for port in range(1000):
        syn = packet(6, CAMERA_V4, port, CDN, 443, flags=2, seq=1)
        engine.handle(PacketSeen(syn, CAMERA, from_lan=True), T0)
        engine.handle(PacketSeen(syn._replace(flags=0x18, seq=2, payload=start), CAMERA, from_lan=True), T0)
    held = [conn.stream.held for conn in engine.connections if conn.stream is not None]
    assert sum(held) <= 4 << 20
    assert sum(held) == engine.connections._stream_bytes


def test_one_device_does_not_push_out_the_others_names() -> None:
    engine = home(limits=Limits(names=100))
    resolve(engine, PHONE, PHONE_V4, "www.example.test", "198.18.0.20", T0)
    for number in range(500):
        resolve(
            engine, CAMERA, CAMERA_V4, f"n{number}.test", f"198.18.{1 + number // 250}.{number % 250}", T0
        )
    key = ConnKey(6, PHONE_V4, 5000, CDN, 443)
    transfer(engine, key, 1, 1, T0 + 1)
    assert engine.attribution(key).evidence == Evidence.DNS


def test_containers_do_not_change_who_this_host_is() -> None:
    engine = Engine(local=True)
    mine, container = parse_mac("52:54:00:00:00:01"), parse_mac("02:42:00:00:00:01")
    address = parse_address("192.0.2.5")
    engine.handle(LocalAddresses(frozenset({address}), frozenset({mine}), ()), T0)
    engine.handle(LocalAddresses(frozenset({address}), frozenset({mine, container}), ()), T0)
    assert [node.mac for node in engine.nodes if node.kind is Kind.DEVICE] == [mine]


def test_nothing_of_an_ignored_device_is_told() -> None:
    engine = home()
    engine.handle(SetIgnored(engine.nodes.devices[CAMERA].id, ignored=True), T0)
    before = engine.nodes.site_count
    query = bytes(DNS(id=1, qd=DNSQR(qname="secret.test")))
    told = engine.handle(
        PacketSeen(packet(17, CAMERA_V4, 4000, GATEWAY_V4, 53, payload=query), CAMERA, from_lan=True), T0
    )
    assert len(told) == 1
    assert engine.nodes.site_count == before + 1


def test_a_merged_device_keeps_its_connections() -> None:
    engine = home()
    stranger, mac = parse_address("192.168.8.77"), parse_mac("02:00:00:00:08:77")
    key = ConnKey(6, stranger, 5000, CDN, 443)
    transfer(engine, key, 100, 200, T0)
    engine.handle(NeighbourSeen(stranger, mac), T0 + 1)
    transfer(engine, key, 1, 2, T0 + 2)
    assert engine.attribution(key).device == "02:00:00:00:08:77"
    assert engine.flows.total(engine.nodes.devices[mac].id, 4)[:2] == (101, 202)
