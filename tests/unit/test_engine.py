# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine as a whole: events in, commands and views out."""

import ssl

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR

from spind.commands import (
    DnsQuerySeen,
    NodeChanged,
    NodeDeleted,
    NodeMerged,
    SaveState,
    TrafficReport,
    Verdict,
)
from spind.engine import Engine
from spind.events import (
    ConnDelta,
    Decided,
    IgnoreAddress,
    LeaseSeen,
    LocalAddresses,
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
from spind.wire.packet import Packet

CAMERA = parse_mac("02:00:00:00:08:11")
PHONE = parse_mac("02:00:00:00:08:12")
CAMERA_V4 = parse_address("192.168.8.11")
CAMERA_V6 = parse_address("2001:db8:8::11")
PHONE_V4 = parse_address("192.168.8.12")
GATEWAY_V4 = parse_address("192.168.8.1")
CDN = parse_address("198.18.0.20")
CDN_V6 = parse_address("2001:db8:2:1::20")
T0 = 1_000_000.0


def home(**options: object) -> Engine:
    engine = Engine(**options)
    engine.handle(
        LocalAddresses(
            frozenset({GATEWAY_V4, parse_address("203.0.113.7")}),
            frozenset({parse_mac("02:00:00:00:00:01")}),
            ((parse_address("192.168.8.0"), 24), (parse_address("2001:db8:8::"), 64)),
        ),
        T0,
    )
    engine.handle(NeighbourSeen(CAMERA_V4, CAMERA), T0)
    engine.handle(NeighbourSeen(CAMERA_V6, CAMERA), T0)
    engine.handle(NeighbourSeen(PHONE_V4, PHONE), T0)
    return engine


def packet(proto: int, src: bytes, sport: int, dst: bytes, dport: int, **fields: object) -> Packet:
    values = {"length": 60, "flags": 0, "seq": 0, "payload": b"", "fragment": False} | fields
    return Packet(proto, src, sport, dst, dport, **values)


def ask(engine: Engine, mac: bytes, src: bytes, name: str, now: float, ident: int = 1) -> list[object]:
    query = bytes(DNS(id=ident, qd=DNSQR(qname=name)))
    return engine.handle(
        PacketSeen(packet(17, src, 4000, GATEWAY_V4, 53, payload=query), mac, from_lan=True), now
    )


def answer(
    engine: Engine,
    dst: bytes,
    name: str,
    address: str,
    now: float,
    *,
    ttl: int = 60,
    ident: int = 1,
    **extra: object,
) -> list[object]:
    reply = bytes(
        DNS(
            id=ident,
            qr=1,
            qd=DNSQR(qname=name),
            an=extra.get("an") or DNSRR(rrname=name, ttl=ttl, rdata=address),
        )
    )
    return engine.handle(
        PacketSeen(packet(17, GATEWAY_V4, 53, dst, 4000, payload=reply), None, from_lan=False), now
    )


def resolve(
    engine: Engine, mac: bytes, src: bytes, name: str, address: str, now: float, *, ttl: int = 60
) -> None:
    ask(engine, mac, src, name, now)
    answer(engine, src, name, address, now, ttl=ttl)


def transfer(
    engine: Engine, key: ConnKey, up: int, down: int, now: float, *, ended: bool = False
) -> list[object]:
    return engine.handle(Traffic([ConnDelta(1, key, 1, up, 1, down, ended)]), now)


def client_hello(name: str) -> bytes:
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def flows_of(engine: Engine) -> dict[tuple[str, int], tuple[int, int, str, str]]:
    return {
        (engine.nodes.by_id[flow.key.node].label, flow.key.port): (
            flow.up_bytes,
            flow.down_bytes,
            flow.name,
            str(flow.evidence),
        )
        for flow in engine.flows.flows()
    }


def test_names_by_dns_for_this_device_another_one_and_none() -> None:
    engine = home()
    resolve(engine, CAMERA, CAMERA_V4, "api.vendor.test", "198.18.0.20", T0)
    own = ConnKey(6, CAMERA_V4, 5000, CDN, 443)
    other = ConnKey(6, PHONE_V4, 5000, CDN, 443)
    transfer(engine, own, 100, 200, T0 + 1)
    transfer(engine, other, 10, 20, T0 + 1)
    assert engine.attribution(own) == ("02:00:00:00:08:11", "vendor.test", "api.vendor.test", Evidence.DNS)
    assert engine.attribution(other) == (
        "02:00:00:00:08:12",
        "vendor.test",
        "api.vendor.test",
        Evidence.DNS_OTHER,
    )
    late = ConnKey(6, CAMERA_V4, 5001, CDN, 443)
    transfer(engine, late, 1, 1, T0 + 63)
    assert engine.attribution(late) == ("02:00:00:00:08:11", "198.18.0.20", "", Evidence.NONE)


def test_two_sites_on_one_address_are_told_apart_by_sni_and_bytes_move_along() -> None:
    engine = home()
    resolve(engine, CAMERA, CAMERA_V4, "a.one.test", "198.18.0.20", T0)
    keys = {}
    for port, name in ((5000, "a.one.test"), (5001, "b.two.test")):
        key = keys[name] = ConnKey(6, CAMERA_V4, port, CDN, 443)
        syn = packet(6, CAMERA_V4, port, CDN, 443, flags=2, seq=99)
        assert engine.handle(PacketSeen(syn, CAMERA, from_lan=True), T0) == [Verdict(accept=True, done=False)]
        transfer(engine, key, 60, 60, T0)  # counted before the name is known
        hello = client_hello(name)
        for offset in range(0, len(hello), 100):
            piece = packet(
                6,
                CAMERA_V4,
                port,
                CDN,
                443,
                flags=0x18,
                seq=100 + offset,
                payload=hello[offset : offset + 100],
            )
            verdict = engine.handle(PacketSeen(piece, CAMERA, from_lan=True), T0)
        assert verdict == [Verdict(accept=True, done=True)]
        transfer(engine, key, 1000, 3000, T0 + 1)
    assert engine.attribution(keys["a.one.test"]).evidence == Evidence.SNI
    assert flows_of(engine) == {
        ("one.test", 443): (1060, 3060, "a.one.test", "sni"),
        ("two.test", 443): (1060, 3060, "b.two.test", "sni"),
    }


def test_http_host_is_evidence() -> None:
    engine = home()
    key = ConnKey(6, CAMERA_V4, 5000, CDN, 80)
    request = b"GET / HTTP/1.1\r\nHost: WWW.Example.test\r\n\r\n"
    engine.handle(PacketSeen(packet(6, CAMERA_V4, 5000, CDN, 80, flags=2, seq=7), CAMERA, from_lan=True), T0)
    engine.handle(
        PacketSeen(
            packet(6, CAMERA_V4, 5000, CDN, 80, flags=0x18, seq=8, payload=request), CAMERA, from_lan=True
        ),
        T0,
    )
    assert engine.attribution(key) == ("02:00:00:00:08:11", "example.test", "www.example.test", Evidence.HTTP)


def test_answers_that_nobody_asked_for_are_not_believed() -> None:
    engine = home()
    answer(engine, CAMERA_V4, "bank.test", "198.18.0.20", T0)
    ask(engine, CAMERA, CAMERA_V4, "bank.test", T0, ident=5)
    answer(engine, CAMERA_V4, "bank.test", "198.18.0.20", T0, ident=6)
    answer(engine, CAMERA_V4, "evil.test", "198.18.0.20", T0, ident=5)
    key = ConnKey(6, CAMERA_V4, 5000, CDN, 443)
    transfer(engine, key, 1, 1, T0)
    assert engine.attribution(key).evidence == Evidence.NONE
    assert engine.names.answers_unasked == 3


def test_cname_chains_lead_to_the_name_that_was_asked_for() -> None:
    engine = home()
    ask(engine, CAMERA, CAMERA_V4, "www.shop.test", T0)
    chain = [
        DNSRR(rrname="www.shop.test", type="CNAME", ttl=300, rdata="edge.cdn.test"),
        DNSRR(rrname="edge.cdn.test", ttl=30, rdata="198.18.0.20"),
        DNSRR(rrname="unrelated.test", ttl=30, rdata="198.18.0.21"),
    ]
    answer(engine, CAMERA_V4, "www.shop.test", "", T0, an=chain)
    key = ConnKey(6, CAMERA_V4, 5000, CDN, 443)
    transfer(engine, key, 1, 1, T0 + 29)
    assert engine.attribution(key).name == "www.shop.test"
    stray = ConnKey(6, CAMERA_V4, 5001, parse_address("198.18.0.21"), 443)
    transfer(engine, stray, 1, 1, T0)
    assert engine.attribution(stray).name == ""


@pytest.mark.parametrize("private", ["192.168.8.12", "127.0.0.1", "10.0.0.1", "224.0.0.251"])
def test_private_addresses_in_public_dns_label_nothing(private: str) -> None:
    engine = home()
    resolve(engine, CAMERA, CAMERA_V4, "rebind.test", private, T0)
    key = ConnKey(6, CAMERA_V4, 5000, parse_address(private), 80)
    transfer(engine, key, 1, 1, T0)
    assert engine.attribution(key).name == ""


def test_messages_announce_nodes_before_mentioning_them() -> None:
    engine = home()
    commands = ask(engine, CAMERA, CAMERA_V4, "api.vendor.test", T0)
    kinds = [type(command) for command in commands]
    assert kinds == [NodeChanged, NodeChanged, DnsQuerySeen, Verdict]
    camera, site = commands[0].node, commands[1].node
    assert commands[2] == DnsQuerySeen(camera["id"], site["id"], "api.vendor.test.")
    assert site["domains"] == ["api.vendor.test."]
    assert DnsQuerySeen not in map(type, ask(engine, CAMERA, CAMERA_V4, "api.vendor.test", T0 + 1)), (
        "retransmitted"
    )
    answer(engine, CAMERA_V4, "api.vendor.test", "198.18.0.20", T0)
    transfer(engine, ConnKey(6, CAMERA_V4, 5000, CDN, 443), 100, 200, T0 + 1)
    transfer(engine, ConnKey(17, PHONE_V4, 5000, parse_address("198.18.0.99"), 123), 76, 76, T0 + 1)
    report = engine.handle(TrafficEnd(2, resynced=False), T0 + 1)
    known = {camera["id"], site["id"]} | {c.node["id"] for c in report if isinstance(c, NodeChanged)}
    traffic = report[-1]
    assert isinstance(traffic, TrafficReport)
    assert {flow[end] for flow in traffic.flows for end in ("from", "to")} <= known
    assert (traffic.total_size, traffic.total_count, traffic.timestamp) == (452, 4, int(T0 + 1))
    assert engine.handle(TrafficEnd(2, resynced=False), T0 + 2) == []


def test_inbound_connections_count_up_and_down_for_the_device() -> None:
    engine = home()
    key = ConnKey(6, CDN, 40000, CAMERA_V4, 80)
    transfer(engine, key, 10, 9000, T0)
    (flow,) = engine.flows.flows()
    assert (flow.up_bytes, flow.down_bytes, flow.key.inbound, flow.key.port) == (9000, 10, True, 80)


def test_totals_per_family_survive_eviction_of_flows() -> None:
    engine = home(limits=Limits(flows=4))
    for port in range(50):
        transfer(engine, ConnKey(6, CAMERA_V4, 5000, CDN, port), 2**33, 1, T0 + port)
    transfer(engine, ConnKey(6, CAMERA_V6, 5000, CDN_V6, 443), 7, 8, T0 + 60)
    camera = engine.nodes.devices[CAMERA]
    assert engine.flows.total(camera.id, 4) == (50 * 2**33, 50, 50, 50)
    assert engine.flows.total(camera.id, 6)[:2] == (7, 8)
    assert len(engine.flows) == 4
    assert engine.statistics()["engine.flows-evicted"] == 47


def test_one_address_of_two_sites_merges_nothing() -> None:
    engine = home()
    resolve(engine, CAMERA, CAMERA_V4, "a.one.test", "198.18.0.20", T0)
    resolve(engine, CAMERA, CAMERA_V4, "a.two.test", "198.18.0.20", T0)
    sites = {node.domain: node for node in engine.nodes if node.kind is Kind.SITE}
    assert set(sites) == {"one.test", "two.test"}
    assert all(CDN in node.addresses for node in sites.values())


def test_a_device_known_by_address_merges_into_the_one_with_the_mac() -> None:
    engine = home()
    stranger = parse_address("192.168.8.77")
    mac = parse_mac("02:00:00:00:08:77")
    transfer(engine, ConnKey(6, stranger, 5000, CDN, 443), 100, 200, T0)
    old = engine.nodes.device_at(stranger)
    assert old is not None
    assert old.mac is None
    commands = engine.handle(NeighbourSeen(stranger, mac), T0 + 1)
    new = engine.nodes.devices[mac]
    assert NodeMerged(old.id, new.id) in commands
    assert NodeDeleted(old.id) in commands
    assert engine.flows.total(new.id, 4)[:2] == (100, 200)
    transfer(engine, ConnKey(6, stranger, 5000, CDN, 443), 1, 2, T0 + 2)
    (flow,) = engine.flows.flows(new.id)
    assert (flow.up_bytes, flow.down_bytes) == (101, 202)


def test_a_spoofed_packet_takes_no_address_away() -> None:
    engine = home()
    spoofed = packet(17, PHONE_V4, 1, CDN, 9)
    engine.handle(PacketSeen(spoofed, CAMERA, from_lan=True), T0)
    outside = packet(17, parse_address("8.8.8.8"), 1, CDN, 9)
    engine.handle(PacketSeen(outside, CAMERA, from_lan=True), T0)
    assert engine.nodes.device_at(PHONE_V4).mac == PHONE
    assert engine.nodes.device_at(parse_address("8.8.8.8")) is None


def test_retain_time_deletes_sites_and_absent_devices_but_not_decided_ones() -> None:
    engine = home(retain=100)
    transfer(engine, ConnKey(6, CAMERA_V4, 5000, CDN, 443), 1, 1, T0, ended=True)
    laptop = parse_mac("02:00:00:00:08:55")
    engine.handle(LeaseSeen(laptop, parse_address("192.168.8.55"), "laptop"), T0)
    tablet = parse_mac("02:00:00:00:08:56")
    engine.handle(LeaseSeen(tablet, parse_address("192.168.8.56"), "tablet"), T0)
    engine.handle(SetIgnored(engine.nodes.devices[tablet].id, ignored=True), T0)
    gone = engine.nodes.devices[laptop].id
    commands = engine.handle(Tick(), T0 + 101)
    assert {c.id for c in commands if isinstance(c, NodeDeleted)} >= {gone}
    assert laptop not in engine.nodes.devices
    assert tablet in engine.nodes.devices
    assert CAMERA in engine.nodes.devices, "its neighbour entry is alive"
    assert not engine.flows.flows()
    engine.handle(LeaseSeen(laptop, parse_address("192.168.8.55"), "laptop"), T0 + 200)
    assert engine.nodes.devices[laptop].id == gone, "a device keeps its id"


def test_a_connection_outlives_its_site() -> None:
    engine = home(retain=100)
    resolve(engine, CAMERA, CAMERA_V4, "push.vendor.test", "198.18.0.20", T0)
    key = ConnKey(6, CAMERA_V4, 5000, CDN, 443)
    transfer(engine, key, 10, 10, T0)
    engine.handle(Tick(), T0 + 200)
    transfer(engine, key, 5, 5, T0 + 201)
    assert engine.attribution(key)[1:3] == ("vendor.test", "push.vendor.test")
    assert flows_of(engine) == {("vendor.test", 443): (5, 5, "push.vendor.test", "dns")}


def test_ids_survive_a_restart() -> None:
    engine = home()
    saved = [c for c in engine.handle(Tick(), T0) if isinstance(c, SaveState)][-1].ids
    again = Engine(ids=saved)
    again.handle(NeighbourSeen(PHONE_V4, PHONE), T0)
    assert again.nodes.devices[PHONE].id == engine.nodes.devices[PHONE].id
    transfer(again, ConnKey(6, PHONE_V4, 1, CDN, 2), 1, 1, T0)
    assert max(again.nodes.by_id) > max(saved.values())


def test_ignored_parties_are_left_out_of_messages_but_counted() -> None:
    engine = home()
    resolve(engine, CAMERA, CAMERA_V4, "api.vendor.test", "198.18.0.20", T0)
    camera = engine.nodes.devices[CAMERA]
    engine.handle(SetIgnored(camera.id, ignored=True), T0)
    key = ConnKey(6, CAMERA_V4, 5000, CDN, 443)
    transfer(engine, key, 10, 10, T0)
    assert engine.handle(TrafficEnd(1, resynced=False), T0 + 1) == []
    assert engine.flows.total(camera.id, 4)[:2] == (10, 10)
    assert set(engine.decisions.list_texts("ignore")) == {"192.168.8.11", "2001:db8:8::11"}
    engine.handle(NeighbourSeen(parse_address("2001:db8:8::99"), CAMERA), T0)
    assert "2001:db8:8::99" in engine.decisions.list_texts("ignore"), "the entry follows the node"
    engine.handle(IgnoreAddress("192.168.8.11", ignored=False), T0)
    assert set(engine.decisions.list_texts("ignore")) == {"2001:db8:8::11", "2001:db8:8::99"}
    engine.handle(IgnoreAddress("198.18.0.0/24", ignored=True), T0)
    transfer(engine, key, 10, 10, T0)
    assert engine.handle(TrafficEnd(1, resynced=False), T0 + 2) == []


def test_decisions_from_the_config_apply_to_nodes_that_come_later() -> None:
    engine = home()
    engine.handle(Decided({"02:00:00:00:08:99": ("Printer", False, ""), "ads.test": ("", True, "")}, ()), T0)
    assert engine.nodes.devices[parse_mac("02:00:00:00:08:99")].name == "Printer"
    commands = ask(engine, CAMERA, CAMERA_V4, "x.ads.test", T0)
    assert DnsQuerySeen not in map(type, commands)
    engine.handle(Decided({}, ()), T0)
    assert engine.nodes.devices[parse_mac("02:00:00:00:08:99")].name == ""


def test_a_flood_costs_its_author_and_memory_stays_bounded() -> None:
    limits = Limits(devices=20, sites=200, sites_per_device=50, names=300, connections=500, flows=400)
    engine = home(limits=limits)
    resolve(engine, PHONE, PHONE_V4, "www.example.test", "198.18.0.20", T0)
    phone_key = ConnKey(6, PHONE_V4, 1, CDN, 443)
    transfer(engine, phone_key, 1, 1, T0)
    for i in range(3000):
        target = (0xC6120000 + i).to_bytes(4, "big")
        syn = packet(6, CAMERA_V4, 2000 + i % 60000, target, 23, flags=2, seq=1)
        engine.handle(PacketSeen(syn, CAMERA, from_lan=True), T0)
        transfer(engine, syn.key, 60, 0, T0)
        resolve(engine, CAMERA, CAMERA_V4, f"n{i}.dga{i}.test", f"198.19.{i % 250}.{i // 250 + 1}", T0)
        mac = (0x020000100000 + i).to_bytes(6, "big")
        engine.handle(NeighbourSeen(bytes([192, 168, 8, 20 + i % 200]), mac), T0)
    assert len(engine.nodes.devices) <= limits.devices
    assert engine.nodes.site_count <= limits.sites
    assert len(engine.connections) <= limits.connections
    assert len(engine.flows) <= limits.flows
    assert engine.names.size <= limits.names
    assert engine.nodes.find_domain("example.test") is not None, "the phone's site is still there"
    camera = engine.nodes.devices.get(CAMERA)
    assert camera is None or engine.flows.total(camera.id, 4).up_bytes >= 3000 * 60
