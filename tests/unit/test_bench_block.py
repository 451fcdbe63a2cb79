# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's rows on blocking: how packets are read and judged, and what its rules say."""

import socket
import struct
from ipaddress import ip_address, ip_network

import pytest

from bench.arrivals import RST, TCP, UDP, Arrival, parse
from bench.rows_block import judge, later_addresses
from bench.rows_block_names import ALLOWED, BLOCKED, SHARED, name_addresses
from bench.rows_block_rules import more_rules, rule_options, rules_text
from bench.streams import checksum, client_hello
from spind import uci
from spind.config_rules import load_rules
from spind.inspect import find_name
from spind.lab import plan
from spind.rules import parse_rule

SOURCE, TARGET = (socket.inet_pton(socket.AF_INET6, text) for text in ("2001:db8::1", "2001:db8::2"))
DATAGRAM = struct.pack("!4H", 5000, 9302, 8 + 3, 0) + b"abc"
SEGMENT = struct.pack("!2H2I2B3H", 9300, 4000, 1, 2, 8 << 4, RST, 0, 0, 0) + bytes(12) + b"hello"


def ipv6(next_header: int, rest: bytes, hops: int = 63) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(rest), next_header, hops) + SOURCE + TARGET + rest


def ipv4(protocol: int, rest: bytes, offset: int = 0) -> bytes:
    ends = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    head = struct.pack("!BBHHHBBH", 0x46, 0, 24 + len(rest), 1, offset, 64, protocol, 0)
    return head + ends + bytes(4) + rest


def read(packet: bytes) -> Arrival:
    found = parse(7, packet, len(packet))
    assert found is not None
    return found


def test_headers_are_read_through_options_and_extensions():
    plain = read(ipv6(UDP, DATAGRAM))
    assert plain == Arrival(7, SOURCE, TARGET, UDP, 5000, 9302, 63, 0, 3)
    hop_by_hop, destination = bytes((60, 0, 1, 4, 0, 0, 0, 0)), bytes((UDP, 1, 1, 12, *bytes(12)))
    assert read(ipv6(0, hop_by_hop + destination + DATAGRAM)) == plain
    segment = read(ipv4(TCP, SEGMENT))
    assert (segment.source_port, segment.target_port, segment.flags, segment.size) == (9300, 4000, RST, 5)
    assert (segment.source, segment.hops) == (socket.inet_aton("192.0.2.1"), 64)


def test_only_the_first_fragment_has_ports():
    def fragment(offset: int) -> bytes:
        return struct.pack("!BBHI", UDP, 0, offset << 3 | 1, 1) + DATAGRAM

    assert read(ipv6(44, fragment(0))).target_port == 9302
    for later in (read(ipv6(44, fragment(100))), read(ipv4(UDP, DATAGRAM, offset=100))):
        assert (later.protocol, later.source_port, later.target_port) == (UDP, 0, 0)


@pytest.mark.parametrize("packet", [b"", b"\x45", ipv6(0, b""), ipv6(TCP, SEGMENT[:13]), ipv4(UDP, b"\0\0")])
def test_what_is_cut_short_is_no_packet(packet):
    assert parse(0, packet, len(packet)) is None


def test_length_is_that_of_the_packet_where_only_its_beginning_was_kept():
    packet = ipv6(UDP, DATAGRAM + bytes(60_000))
    found = parse(0, packet[:256], len(packet))
    assert found is not None
    assert found.size == 60_003


def test_what_the_gateway_says_is_told_from_what_passes():
    own = Arrival(200, SOURCE, TARGET, TCP, 1, 2, 64, RST, 0)
    passed = own._replace(hops=63)
    data = own._replace(flags=0, size=1)
    early = data._replace(at=100)
    asking = own._replace(flags=16)
    before, after = judge([early, own, passed, data, asking], 100)
    assert (before, after) == ([early], [passed, data])


def test_many_rules_are_rules_and_none_is_there_twice():
    devices = list(plan.make_devices(5))
    options = [rule_options(number, 100, devices) for number in range(2000)]
    package = uci.parse("package spin\n" + rules_text(options))
    complaints: list[object] = []
    rules = load_rules(package.sections, 0, (), 20_000, lambda *words: complaints.append(words))
    assert complaints == []
    meant = {rule._replace(id=0) for rule in rules}
    assert len(rules) == len(meant) == 2000
    assert sum(bool(rule.domain) for rule in rules) == 100
    assert {rule.device is None for rule in rules} == {True, False}
    for number in range(300):
        for fields in more_rules(number, devices).values():
            rule = parse_rule({"action": "block", **fields}, id=1, author="owner", created=0)
            assert rule._replace(id=0) not in meant


def test_rules_leave_the_lab_alone():
    devices = list(plan.make_devices(5))
    lab = [ip_network(net) for net in (plan.INTERNET4, plan.INTERNET6, plan.LAN4, plan.LAN6, plan.ULA6)]
    lab += [ip_network(address) for address in (plan.WAN4, plan.WAN4_PEER, plan.WAN6, plan.WAN6_PEER)]
    for number in range(1000, 10_000):
        mine = ip_network(rule_options(number, 1000, devices)["ip"])
        assert not any(net.version == mine.version and net.overlaps(mine) for net in lab)


def test_addresses_are_in_the_lab_and_each_is_one():
    given = [name_addresses(number) for number in range(8300)]
    assert len({address for pair in given for address in pair}) == 2 * len(given)
    nets = ip_network(plan.INTERNET4), ip_network(plan.INTERNET6)
    assert all(ip_address(one) in net for pair in given for one, net in zip(pair, nets, strict=True))
    later = [later_addresses(number) for number in range(21)]
    assert len({address for pair in later for address in pair}) == 42
    first = ip_address(plan.DHCP4_RANGE[0])
    for four, six in later:
        assert ip_address(plan.GATEWAY4) < ip_address(four) < first
        assert ip_address(six) in ip_network(plan.LAN6)


def test_two_names_share_an_address():
    assert [SHARED in plan.resolve_site(name) for name in (BLOCKED, ALLOWED)] == [True, True]


def test_a_client_hello_says_the_name():
    found = find_name(client_hello(ALLOWED))
    assert found is not None
    assert found.name == ALLOWED


def test_checksums_are_those_of_the_rfc():
    # RFC 1071 section 3: 00 01 f2 03 f4 f5 f6 f7 add up to ddf2.
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == bytes.fromhex("220d")
