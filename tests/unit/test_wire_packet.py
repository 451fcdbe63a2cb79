# SPDX-License-Identifier: GPL-2.0-or-later
"""IP packets: golden bytes, the rules of the RFCs, and scapy as the second opinion."""

import struct
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Raw

from spind.model import ConnKey, parse_address
from spind.wire.errors import WireError
from spind.wire.packet import Packet, parse_ip

A4, B4 = parse_address("192.0.2.1"), parse_address("198.51.100.7")
A6, B6 = parse_address("2001:db8::1"), parse_address("fe80::2")

TCP_HEADER = bytes.fromhex("c350 01bb 01020304 00000000 5002 ffff 0000 0000")
UDP_HEADER = bytes.fromhex("14e9 0035 000c 0000")


def ipv4(
    proto: int, content: bytes, *, total: int | None = None, field: int = 0, options: bytes = b""
) -> bytes:
    length = 20 + len(options) + len(content) if total is None else total
    first = 0x40 | (20 + len(options)) // 4
    return struct.pack("!BBHHHBBH4s4s", first, 0, length, 1, field, 64, proto, 0, A4, B4) + options + content


def ipv6(proto: int, content: bytes, *, size: int | None = None) -> bytes:
    length = len(content) if size is None else size
    return struct.pack("!IHBB16s16s", 6 << 28, length, proto, 64, A6, B6) + content


def test_ipv4_tcp_syn_as_captured() -> None:
    data = bytes.fromhex(
        "4500003c1c4640004006b1e6c0a80068c0a80001"
        "ce2b0050a1b2c3d400000000a002faf0917c0000020405b40402080a9f3a1c2d0000000001030307"
    )
    packet = parse_ip(data)
    assert packet == Packet(
        6, bytes([192, 168, 0, 104]), 52779, bytes([192, 168, 0, 1]), 80, 60, 0x02, 0xA1B2C3D4, b"", False
    )
    assert packet.key == ConnKey(6, bytes([192, 168, 0, 104]), 52779, bytes([192, 168, 0, 1]), 80)


def test_options_of_both_headers_are_stepped_over() -> None:
    header = bytearray(TCP_HEADER)
    header[12] = 6 << 4
    packet = parse_ip(ipv4(6, bytes(header) + b"\x02\x04\x05\xb4" + b"hello", options=b"\x01" * 8))
    assert (packet.sport, packet.dport, packet.payload, packet.length) == (50000, 443, b"hello", 57)


@pytest.mark.parametrize("build", [ipv4, ipv6])
def test_padding_is_cut(build: Any) -> None:
    assert parse_ip(build(17, UDP_HEADER + b"abcd") + bytes(20)).payload == b"abcd"
    assert parse_ip(build(6, TCP_HEADER) + bytes(6)).payload == b""


@pytest.mark.parametrize("build", [ipv4, ipv6])
def test_capture_cut_short_keeps_the_length_on_the_wire(build: Any) -> None:
    whole = build(6, TCP_HEADER + bytes(1000))
    packet = parse_ip(whole[:-990])
    assert packet.length == len(whole)
    assert packet.payload == bytes(10)


@pytest.mark.parametrize("build", [ipv4, ipv6])
@pytest.mark.parametrize(
    ("proto", "header"), [(6, TCP_HEADER), (17, UDP_HEADER), (1, bytes(8)), (58, bytes(8))]
)
def test_headers_have_to_be_there(build: Any, proto: int, header: bytes) -> None:
    whole = build(proto, header + b"1234")
    assert parse_ip(whole[:-4]).payload == b""
    for size in range(len(whole) - 4):
        with pytest.raises(WireError):
            parse_ip(whole[:size])


def test_zero_length_of_segmentation_offload_means_all_of_it() -> None:
    assert parse_ip(ipv4(6, TCP_HEADER + bytes(70000), total=0)).length == 70040
    packet = parse_ip(ipv6(6, TCP_HEADER + bytes(70000), size=0))
    assert (packet.length, len(packet.payload)) == (70060, 70000)


def test_jumbogram_udp_has_length_zero() -> None:
    hop = b"\x11\x00\xc2\x04" + struct.pack("!I", 8 + 8 + 70000)
    packet = parse_ip(ipv6(0, hop + b"\x14\xe9\x00\x35\x00\x00\x00\x00" + bytes(70000), size=0))
    assert (packet.proto, packet.dport, len(packet.payload), packet.length) == (17, 53, 70000, 70056)


def test_no_next_header_ends_the_packet() -> None:
    packet = parse_ip(ipv6(59, bytes(6), size=0))
    assert (packet.proto, packet.length, packet.payload) == (59, 40, b"")


def test_fragments() -> None:
    first = parse_ip(ipv4(17, b"\x14\xe9\x00\x35\x05\xdc\x00\x00" + b"x" * 16, field=0x2000))
    assert (first.fragment, first.sport, first.dport, first.payload) == (False, 5353, 53, b"x" * 16)
    for field in (0x2003, 0x0003):
        later = parse_ip(ipv4(17, b"x" * 24, field=field))
        assert later == Packet(17, A4, 0, B4, 0, 44, 0, 0, b"", True)
    # "Don't fragment" is not an offset.
    assert not parse_ip(ipv4(17, UDP_HEADER + b"abcd", field=0x4000)).fragment
    # A later fragment needs nothing behind the IP header.
    assert parse_ip(ipv4(6, b"", field=0x2001)).fragment

    first = parse_ip(ipv6(44, b"\x11\x00\x00\x01\0\0\0\1" + b"\x14\xe9\x00\x35\x05\xdc\x00\x00" + b"x" * 8))
    assert (first.proto, first.dport, first.fragment, first.payload) == (17, 53, False, b"x" * 8)
    later = parse_ip(ipv6(44, b"\x06\x00\x00\x09\0\0\0\1" + b"x" * 8))
    assert later == Packet(6, A6, 0, B6, 0, 56, 0, 0, b"", True)
    # RFC 6946: an atomic fragment is a whole packet.
    assert parse_ip(ipv6(44, b"\x06\x00\x00\x00\0\0\0\1" + TCP_HEADER)).dport == 443


def test_extension_headers() -> None:
    hop = b"\x2b\x00" + b"\x01\x04\0\0\0\0"
    routing = b"\x3c\x02" + bytes(22)
    destination = b"\x33\x00" + b"\x01\x04\0\0\0\0"
    authentication = b"\x06\x04" + bytes(22)  # RFC 4302: (4 + 2) * 4 bytes
    packet = parse_ip(ipv6(0, hop + routing + destination + authentication + TCP_HEADER + b"data"))
    assert (packet.proto, packet.dport, packet.seq, packet.payload) == (6, 443, 0x01020304, b"data")
    assert packet.length == 40 + 8 + 24 + 8 + 24 + 24


def test_extension_headers_are_bounded() -> None:
    option = b"\x3c\x00" + bytes(6)
    last = b"\x06\x00" + bytes(6)
    assert parse_ip(ipv6(60, option * 7 + last + TCP_HEADER)).dport == 443
    with pytest.raises(WireError, match="too many"):
        parse_ip(ipv6(60, option * 8 + last + TCP_HEADER))
    with pytest.raises(WireError, match="first"):
        parse_ip(ipv6(60, b"\x00\x00" + bytes(6) + last + TCP_HEADER))
    with pytest.raises(WireError, match="cut short"):
        parse_ip(ipv6(60, b"\x06\xff" + bytes(6) + TCP_HEADER))
    with pytest.raises(WireError, match="cut short"):
        parse_ip(ipv6(60, b"\x3b\xff" + bytes(6) + TCP_HEADER))


@pytest.mark.parametrize(
    ("kind", "code", "sport"),
    [(8, 0, 0x1234), (0, 0, 0x1234), (3, 1, 0), (11, 0, 0), (13, 0, 0)],
)
def test_icmp(kind: int, code: int, sport: int) -> None:
    packet = parse_ip(ipv4(1, bytes([kind, code, 0, 0]) + b"\x12\x34\x00\x01" + b"ping"))
    assert (packet.proto, packet.sport, packet.dport, packet.payload) == (1, sport, kind << 8 | code, b"ping")


@pytest.mark.parametrize(
    ("kind", "code", "sport"), [(128, 0, 0x1234), (129, 0, 0x1234), (135, 0, 0), (1, 4, 0)]
)
def test_icmpv6(kind: int, code: int, sport: int) -> None:
    packet = parse_ip(ipv6(58, bytes([kind, code, 0, 0]) + b"\x12\x34\x00\x01" + b"ping"))
    assert (packet.proto, packet.sport, packet.dport, packet.payload) == (
        58,
        sport,
        kind << 8 | code,
        b"ping",
    )


@pytest.mark.parametrize("proto", [2, 47, 50, 89, 132, 255])
def test_other_protocols_have_no_ports(proto: int) -> None:
    for packet in (parse_ip(ipv4(proto, b"content")), parse_ip(ipv6(proto, b"content"))):
        assert (packet.proto, packet.sport, packet.dport, packet.payload) == (proto, 0, 0, b"content")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(60),
        b"\x50" + bytes(59),
        b"\x44" + ipv4(6, TCP_HEADER)[1:],  # header of 16 bytes
        b"\x4f" + ipv4(6, TCP_HEADER, total=40)[1:],  # header of 60 bytes in a packet of 40
        ipv4(6, TCP_HEADER, total=19),
        ipv4(6, TCP_HEADER, total=39),
        ipv6(6, TCP_HEADER, size=19),
        ipv4(6, TCP_HEADER[:12] + b"\x40" + TCP_HEADER[13:]),  # data offset of 16 bytes
        ipv4(6, TCP_HEADER[:12] + b"\x60" + TCP_HEADER[13:]),  # options beyond the packet
        ipv4(17, b"\x14\xe9\x00\x35\x00\x07\x00\x00"),
        ipv4(17, b"\x14\xe9\x00\x35\x00\x09\x00\x00"),
        ipv4(47, b"", options=bytes(8))[:24],
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(WireError):
        parse_ip(data)


addresses4 = st.ip_addresses(v=4).map(str)
addresses6 = st.ip_addresses(v=6).map(str)
ports = st.integers(1, 65535)
# Ports that scapy knows no protocol of, so that its payload stays raw.
transports = st.one_of(
    st.builds(
        lambda sport, dport, seq, flags, options: TCP(
            sport=sport, dport=dport, seq=seq, flags=flags, options=options
        ),
        ports,
        ports,
        st.integers(0, 2**32 - 1),
        st.integers(0, 255),
        st.lists(st.sampled_from([("MSS", 1460), ("NOP", None), ("WScale", 7), ("SAckOK", b"")]), max_size=4),
    ),
    st.builds(lambda sport, dport: UDP(sport=sport, dport=dport), ports, ports),
    st.builds(
        lambda kind, code, ident: ICMP(type=kind, code=code, id=ident),
        st.sampled_from([0, 8]),
        st.just(0),
        ports,
    ),
)
transports6 = st.one_of(
    transports.filter(lambda layer: not isinstance(layer, ICMP)),
    st.builds(lambda ident: ICMPv6EchoRequest(id=ident), ports),
    st.builds(lambda ident: ICMPv6EchoReply(id=ident), ports),
    st.just(ICMPv6ND_NS(tgt="fe80::9")),
)
extensions = st.lists(
    st.sampled_from([IPv6ExtHdrDestOpt, IPv6ExtHdrRouting, lambda: IPv6ExtHdrFragment(offset=0, m=0)]),
    max_size=4,
)


def expect(packet: Packet, built: Any, src: str, dst: str, transport: Any, payload: bytes) -> None:
    assert packet.src == ip_address(src).packed
    assert packet.dst == ip_address(dst).packed
    assert packet.length == len(built)
    assert not packet.fragment
    if isinstance(transport, (TCP, UDP)):
        assert (packet.sport, packet.dport) == (transport.sport, transport.dport)
        assert packet.payload == payload
    if isinstance(transport, TCP):
        assert (packet.seq, packet.flags) == (transport.seq, int(transport.flags))
    if isinstance(transport, (ICMP, ICMPv6EchoRequest, ICMPv6EchoReply)):
        assert (packet.sport, packet.dport) == (transport.id, transport.type << 8 | transport.code)
        assert packet.payload == payload


@settings(deadline=None, database=None, max_examples=150)
@given(addresses4, addresses4, transports, st.binary(max_size=60), st.binary(max_size=40))
def test_agrees_with_what_scapy_builds_ipv4(
    src: str, dst: str, transport: Any, payload: bytes, padding: bytes
) -> None:
    built = bytes(IP(src=src, dst=dst) / transport / Raw(payload))
    expect(parse_ip(built + padding), built, src, dst, transport, payload)


@settings(deadline=None, database=None, max_examples=150)
@given(
    addresses6,
    addresses6,
    st.booleans(),
    extensions,
    transports6,
    st.binary(max_size=60),
    st.binary(max_size=40),
)
def test_agrees_with_what_scapy_builds_ipv6(
    src: str, dst: str, hop: bool, headers: list[Any], transport: Any, payload: bytes, padding: bytes
) -> None:
    layers: Any = IPv6(src=src, dst=dst)
    if hop:
        layers /= IPv6ExtHdrHopByHop()
    for header in headers:
        layers /= header()
    built = bytes(layers / transport / Raw(payload))
    expect(parse_ip(built + padding), built, src, dst, transport, payload)


@settings(deadline=None, database=None, max_examples=300)
@given(st.binary(max_size=120), st.sampled_from([0x45, 0x46, 0x60]))
def test_nothing_but_wire_error_escapes(data: bytes, first: int) -> None:
    try:
        packet = parse_ip(bytes([first]) + data)
    except WireError:
        return
    assert len(packet.payload) <= len(data)
