# SPDX-License-Identifier: GPL-2.0-or-later
"""The software conntrack of replay: directions, ends, fragments, bounds, and nothing lost."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    fragment6,
)

from spind import tracker as module
from spind.model import ConnKey, parse_address
from spind.tracker import Interest, Tracker, fragment_of
from spind.wire.packet import Packet, parse_ip

A = parse_address("192.168.1.2")
B = parse_address("203.0.113.9")
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


INTEREST = Interest(unanswered=2, client=10, tcp_dns=5)


def tracker(connections=100):
    return Tracker(connections, INTEREST)


def tcp(flags, *, seq=1000, back=False, sport=40000, payload=b"", dport=443):
    ends = (B, dport, A, sport) if back else (A, sport, B, dport)
    return Packet(6, *ends, 40 + len(payload), flags, seq, payload, fragment=False)


def udp(*, sport=5000, dport=6000, back=False, size=100):
    ends = (B, dport, A, sport) if back else (A, sport, B, dport)
    return Packet(17, *ends, size, 0, 0, bytes(size - 28), fragment=False)


def icmp(kind, code=0, ident=0, *, back=False, proto=1):
    ends = (B, ident, A) if back else (A, ident, B)
    return Packet(proto, *ends, kind << 8 | code, 84, 0, 0, b"", fragment=False)


def run(packets, *, step=0.1):
    """All connections of a list of packets (or (time, packet) pairs), in the order of their first."""
    table = tracker()
    for number, packet in enumerate(packets):
        now = number * step
        if not isinstance(packet, Packet):
            now, packet = packet  # noqa: PLW2901
        table.track(packet, now, None)
    table.finish()
    return sorted(table.ended, key=lambda conn: conn.cid)


def counts(conn):
    return (conn.orig_packets, conn.orig_bytes, conn.reply_packets, conn.reply_bytes)


def test_both_directions_are_one_connection():
    (conn,) = run([tcp(SYN), tcp(SYN | ACK, back=True), tcp(ACK), tcp(PSH | ACK, payload=b"hello")])
    assert conn.key == ConnKey(6, A, 40000, B, 443)
    assert counts(conn) == (3, 125, 1, 40)
    assert (conn.first, conn.last) == (0.0, pytest.approx(0.3))


def test_a_syn_ack_tells_who_the_initiator_is():
    (conn,) = run([tcp(SYN | ACK, back=True), tcp(ACK)])
    assert conn.key == ConnKey(6, A, 40000, B, 443)
    assert counts(conn) == (1, 40, 1, 40)


def test_otherwise_the_first_sender_is_the_initiator():
    (conn,) = run([tcp(ACK, back=True), tcp(ACK)])
    assert conn.key == ConnKey(6, B, 443, A, 40000)


CLOSES = {
    "fins": [tcp(FIN | ACK), tcp(FIN | ACK, back=True), tcp(ACK)],
    "reset": [tcp(RST)],
    "reset by the responder": [tcp(RST | ACK, back=True)],
}


@pytest.mark.parametrize("close", CLOSES.values(), ids=CLOSES)
def test_a_new_syn_after_the_end_is_a_new_connection(close):
    old, new = run([tcp(SYN), tcp(SYN | ACK, back=True), *close, tcp(SYN, seq=2000), tcp(ACK, back=True)])
    assert old.key == new.key
    assert old.orig_packets + old.reply_packets == 2 + len(close)
    assert counts(new) == (1, 40, 1, 40)


@pytest.mark.parametrize("close", CLOSES.values(), ids=CLOSES)
def test_the_same_port_in_the_other_direction_is_a_new_connection(close):
    old, new = run([tcp(SYN), *close, tcp(SYN, seq=1000, back=True)])
    assert old.key == ConnKey(6, A, 40000, B, 443)
    assert new.key == ConnKey(6, B, 443, A, 40000)


@pytest.mark.parametrize(
    "packets",
    [
        [tcp(SYN), tcp(SYN), tcp(SYN)],  # sent again
        [tcp(SYN), tcp(RST | ACK, back=True), tcp(SYN), tcp(RST | ACK, back=True)],  # tried again
        [tcp(SYN), tcp(FIN | ACK), tcp(SYN, seq=2000)],  # one side still talks
        [tcp(SYN), tcp(ACK, back=True), tcp(SYN, seq=2000)],  # not closed
        [tcp(SYN), tcp(RST), tcp(ACK, back=True), tcp(RST)],  # stragglers
        [tcp(SYN), tcp(RST), tcp(SYN | ACK, seq=9, back=True)],
        [(0, tcp(SYN)), (100_000, tcp(ACK))],  # silence does not end TCP
        [(0, udp()), (3600, udp(back=True))],
        [(5000, udp()), (0, udp())],  # a clock that was set back
    ],
)
def test_still_one_connection(packets):
    (conn,) = run(packets)
    assert conn.orig_packets + conn.reply_packets == len(packets)


def test_an_hour_of_silence_ends_what_is_not_tcp():
    old, new = run([(0, udp()), (10, udp(back=True)), (3611, udp(back=True))])
    assert counts(old) == (1, 100, 1, 100)
    assert new.key == ConnKey(17, B, 6000, A, 5000)
    assert (old.last, new.first) == (10, 3611)


def test_times_do_not_run_backwards():
    (conn,) = run([(50, udp()), (40, udp())])
    assert (conn.first, conn.last) == (50, 50)


@pytest.mark.parametrize(("proto", "asks", "answers"), [(1, 8, 0), (1, 13, 14), (1, 17, 18), (58, 128, 129)])
def test_icmp_replies_belong_to_their_request(proto, asks, answers):
    (conn,) = run([icmp(asks, 0, 77, proto=proto), icmp(answers, 0, 77, proto=proto, back=True)])
    assert conn.key == ConnKey(proto, A, 77, B, asks << 8)
    assert counts(conn) == (1, 84, 1, 84)
    (conn,) = run([icmp(answers, 0, 77, proto=proto), icmp(asks, 0, 77, proto=proto, back=True)])
    assert conn.key == ConnKey(proto, B, 77, A, asks << 8)


def test_icmp_identifiers_tell_pings_apart():
    requests = [icmp(8, 0, 1), icmp(8, 0, 2)]
    assert len(run([*requests, icmp(0, 0, 1, back=True), icmp(0, 0, 2, back=True)])) == 2


def test_icmp_errors_are_connections_of_their_own():
    conns = run([udp(), icmp(3, 3, back=True), icmp(3, 3), icmp(3, 1, back=True), icmp(3, 3)])
    assert [(conn.key.src, conn.key.dport, conn.orig_packets, conn.reply_packets) for conn in conns] == [
        (A, 6000, 1, 0),
        (B, 0x303, 1, 0),
        (A, 0x303, 2, 0),
        (B, 0x301, 1, 0),
    ]


def test_other_protocols_have_no_ports():
    there = Packet(47, A, 0, B, 0, 60, 0, 0, b"", fragment=False)
    back = Packet(47, B, 0, A, 0, 70, 0, 0, b"", fragment=False)
    (conn,) = run([there, back])
    assert conn.key == ConnKey(47, A, 0, B, 0)
    assert counts(conn) == (1, 60, 1, 70)


def test_a_connection_to_itself():
    packet = Packet(17, A, 9, A, 9, 30, 0, 0, b"", False)
    (conn,) = run([packet, packet])
    assert conn.orig_packets + conn.reply_packets == 2


# -- fragments ---------------------------------------------------------------------------


def feed(table, packets, *, start=0.0):
    for number, packet in enumerate(packets):
        data = bytes(packet)
        table.track(parse_ip(data), start + number, fragment_of(data))


def ended(table):
    table.finish()
    return sorted(table.ended, key=lambda conn: conn.cid)


V4 = fragment(IP(src="192.168.1.2", dst="203.0.113.9", id=7) / UDP(sport=5, dport=6) / bytes(3000), 1200)
V6 = fragment6(
    IPv6(src="fd00::1", dst="fd00::2")
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrFragment(id=9)
    / UDP(sport=5, dport=6)
    / bytes(3000),
    1280,
)


@pytest.mark.parametrize("parts", [V4, V6], ids=["IPv4", "IPv6"])
def test_fragments_belong_to_their_first(parts):
    assert len(parts) >= 3
    table = tracker()
    feed(table, parts)
    (conn,) = ended(table)
    assert conn.key[2::2] == (5, 6)
    assert counts(conn) == (len(parts), sum(map(len, parts)), 0, 0)


@pytest.mark.parametrize("parts", [V4, V6], ids=["IPv4", "IPv6"])
def test_fragments_of_a_reply(parts):
    table = tracker()
    first = parse_ip(bytes(parts[0]))
    question = Packet(17, first.dst, 6, first.src, 5, 60, 0, 0, b"", fragment=False)
    table.track(question, 0.0, None)
    feed(table, parts)
    (conn,) = ended(table)
    assert counts(conn) == (1, 60, len(parts), sum(map(len, parts)))


@pytest.mark.parametrize("parts", [V4, V6], ids=["IPv4", "IPv6"])
def test_fragments_without_their_first_have_no_ports(parts):
    table = tracker()
    feed(table, parts[1:])
    feed(table, parts[:1], start=10)
    stray, conn = ended(table)
    assert stray.key[2::2] == (0, 0)
    assert stray.orig_packets == len(parts) - 1
    assert conn.orig_packets == 1


def test_a_late_fragment_is_a_stray():
    table = tracker()
    feed(table, V4[:1])
    feed(table, V4[1:2], start=61)
    assert [conn.key.sport for conn in ended(table)] == [5, 0]


def test_fragments_of_an_ended_connection_are_strays():
    table = tracker(1)
    feed(table, V4[:1])
    table.track(udp(), 1.0, None)
    feed(table, V4[1:2], start=2)
    assert [(conn.key.sport, conn.orig_packets) for conn in ended(table)] == [(5, 1), (5000, 1), (0, 1)]


def test_the_fragment_table_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "FRAGMENTS", 2)
    table = tracker()
    ends = {"src": "10.0.0.1", "dst": "10.0.0.2"}
    packets = [IP(**ends, id=ident) / UDP(sport=ident, dport=6) for ident in (1, 2, 3)]
    parts = [fragment(packet / bytes(900), 600) for packet in packets]
    for first, _ in parts:
        feed(table, [first])
    for _, second in parts:
        feed(table, [second])
    assert len(table._fragments) == 2
    assert {conn.key.sport: conn.orig_packets for conn in ended(table)} == {0: 1, 1: 1, 2: 2, 3: 2}


@pytest.mark.parametrize(
    "packet",
    [
        IP() / UDP(),
        IP(flags="DF") / TCP(),
        IPv6() / UDP(),
        IPv6() / IPv6ExtHdrHopByHop() / UDP(),
        IPv6() / IPv6ExtHdrFragment(id=3, m=0, offset=0) / UDP(),  # an atomic fragment
        IPv6() / IPv6ExtHdrFragment(id=3, m=0, offset=0, res2=3) / UDP(),
        IPv6() / ICMPv6ND_NS(),
        IPv6() / ICMPv6EchoRequest() / b"data",
        IPv6() / ICMPv6EchoReply(),
        IP() / ICMP(),
    ],
)
def test_whole_packets_are_no_fragments(packet):
    assert fragment_of(bytes(packet)) is None


@given(st.binary(min_size=1, max_size=120))
@settings(max_examples=500, deadline=None)
def test_what_the_parser_takes_can_be_asked_about_fragments(data):
    for head in (b"\x45", b"\x60"):
        packet = head + bytes(3) + data + bytes(40)
        try:
            parsed = parse_ip(packet)
        except ValueError:
            continue
        part = fragment_of(packet)
        if parsed.fragment:
            assert part is not None
            assert not part.first


# -- what is looked at ---------------------------------------------------------------------


def wanted(packets, *, settle_after=None):
    table = tracker()
    answers = []
    for number, packet in enumerate(packets):
        conn, forward = table.track(packet, 0.0, None)
        answers.append(table.wanted(packet, conn, forward=forward))
        if number == settle_after:
            conn.settled = True
    return answers


def test_the_first_packet_and_the_initiators_payload_are_wanted():
    hello = tcp(PSH | ACK, payload=b"hello")
    packets = [tcp(SYN), tcp(SYN | ACK, back=True), tcp(ACK), hello, tcp(ACK, back=True, payload=b"x"), hello]
    assert wanted(packets) == [True, False, False, True, False, True]
    assert wanted(packets, settle_after=3) == [True, False, False, True, False, False]


def test_no_more_than_a_bound_of_payload_is_wanted():
    assert wanted([tcp(ACK, payload=b"x")] * 50) == [True] * 10 + [False] * 40


def test_a_few_packets_without_an_answer_are_wanted():
    assert wanted([udp(), udp(), udp()]) == [True, True, False]
    assert wanted([udp(), udp(back=True), udp()]) == [True, False, False]


def test_dns_is_wanted_in_both_directions():
    assert all(wanted([udp(dport=53), udp(dport=53, back=True)] * 30))
    question = tcp(ACK, dport=53, payload=b"q")
    talk = [tcp(SYN, dport=53), tcp(SYN | ACK, dport=53, back=True), tcp(ACK, dport=53), question]
    talk += [tcp(ACK, dport=53, payload=b"a", back=True), question, question]
    assert wanted(talk, settle_after=0) == [True, False, False, True, True, False, False]


def test_a_lone_reply_is_not_wanted():
    assert wanted([tcp(SYN | ACK, back=True), icmp(0, 0, 5)]) == [False, False]


# -- reporting -----------------------------------------------------------------------------


def test_the_least_recently_seen_makes_room():
    table = tracker(2)
    for packet in (udp(sport=1), udp(sport=2), udp(sport=1, back=True), udp(sport=3)):
        table.track(packet, 0.0, None)
    assert [conn.key.sport for conn in table.ended] == [2]
    assert (len(table), table.evicted) == (2, 1)


PACKETS = st.one_of(
    st.builds(
        tcp,
        st.sampled_from([SYN, SYN | ACK, ACK, FIN | ACK, RST, PSH | ACK]),
        seq=st.integers(0, 3),
        back=st.booleans(),
        sport=st.integers(1, 3),
    ),
    st.builds(udp, sport=st.integers(1, 2), back=st.booleans(), size=st.integers(28, 1500)),
    st.builds(icmp, st.sampled_from([0, 3, 8, 13, 14]), ident=st.integers(0, 2), back=st.booleans()),
    st.sampled_from(
        [Packet(2, src, 0, dst, 0, 32, 0, 0, b"", fragment=False) for src in (A, B) for dst in (A, B)]
    ),
)


@given(st.lists(st.tuples(PACKETS, st.floats(0, 5000), st.booleans()), max_size=60), st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_every_packet_is_counted_once_and_reported_once(stream, bound):
    table = tracker(bound)
    reported = Counter()
    ended = []

    def report(deltas):
        for delta in deltas:
            assert min(delta[2:6]) >= 0
            reported[delta.cid] += delta.orig_bytes + delta.reply_bytes
            reported["packets"] += delta.orig_packets + delta.reply_packets

    def collect():
        report([conn.take_delta(ended=True) for conn in table.ended])
        ended.extend(table.ended)
        table.ended.clear()

    for packet, now, flush in stream:
        conn, _ = table.track(packet, now, None)
        assert not conn.ended
        collect()
        if flush:
            report(table.deltas())
        assert len(table) <= bound
        assert len(table._table) <= 2 * len(table)
    table.finish()
    collect()
    assert not table.deltas()
    assert not table._table
    assert len(table) == 0
    assert len({conn.cid for conn in ended}) == len(ended)
    for conn in ended:
        assert reported[conn.cid] == conn.orig_bytes + conn.reply_bytes
        assert conn.first <= conn.last
    assert reported["packets"] == len(stream)
    counted = sum(conn.orig_bytes + conn.reply_bytes for conn in ended)
    assert counted == sum(packet.length for packet, _, _ in stream)
