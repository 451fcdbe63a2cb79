# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz targets: what devices and their peers put on the wire."""

import fuzz_seeds as seeds
from fuzz_targets import Target, is_inert

from spind.wire.dns import DnsMessage, parse_message, split_tcp
from spind.wire.errors import WireError
from spind.wire.hostname import escape, from_labels, from_text
from spind.wire.http import HttpRequest, request_host
from spind.wire.link import ETH_P_ARP, Frame, parse_arp, parse_link
from spind.wire.packet import Packet, parse_ip
from spind.wire.stream import Reassembler
from spind.wire.tls import ClientHello, client_hello, looks_like_tls

LINKTYPES = (1, 113, 276, 101, 0, 108, 228, 229, 12, 14, 127)
STREAM_START = 0xFFFFFF00
STREAM_LIMIT = 1024


def check_packet(data: bytes, packet: Packet) -> None:
    assert len(packet.src) == len(packet.dst) in (4, 16)
    assert packet.payload in data
    assert len(packet.payload) < packet.length
    assert 0 <= packet.sport <= 0xFFFF >= packet.dport >= 0
    assert not packet.fragment or not (packet.sport or packet.dport or packet.payload)


def parse_frame(data: bytes) -> Frame | None:
    """The first byte chooses the link type."""
    frame = parse_link(LINKTYPES[data[0] % len(LINKTYPES)] if data else 1, data[1:])
    if frame and frame.ethertype == ETH_P_ARP:
        parse_arp(frame.payload)
    return frame


def check_frame(data: bytes, frame: Frame) -> None:
    assert data.endswith(frame.payload)
    assert 0 <= frame.vlan < 4096
    assert frame.ethertype in (0x0800, 0x0806, 0x86DD)


def check_arp(_data: bytes, sender: tuple[bytes, bytes]) -> None:
    mac, address = sender
    assert len(mac) == 6
    assert not mac[0] & 1
    assert len(address) == 4


def check_dns(data: bytes, message: DnsMessage) -> None:
    for question in message.questions:
        assert is_inert(question.name)
        assert len(question.name) <= 4 * 253
    for answer in message.answers:
        assert is_inert(answer.name)
        assert answer.target is None or is_inert(answer.target)
        assert answer.address is None or (len(answer.address) in (4, 16) and answer.address in data)
        assert 0 <= answer.ttl < 1 << 31


def parse_dns_stream(data: bytes) -> tuple[list[bytes], bytes] | None:
    whole, rest = split_tcp(data)
    return (whole, rest) if whole else None


def check_dns_stream(data: bytes, result: tuple[list[bytes], bytes]) -> None:
    whole, rest = result
    assert b"".join(len(message).to_bytes(2) + message for message in whole) + rest == data


def check_hello(data: bytes, hello: ClientHello) -> None:
    assert looks_like_tls(data)
    assert hello.sni is None or from_text(hello.sni) == hello.sni
    assert len(hello.alpn) <= 32
    assert all(is_inert(name) for name in hello.alpn)


def check_request(data: bytes, request: HttpRequest) -> None:
    assert b"\n" in data
    if request.host is not None:
        assert from_text(request.host) == request.host
        assert request.host.encode() in data.lower()


def parse_name(data: bytes) -> str | None:
    """As labels and as bytes, which all are taken; then as a host name."""
    assert is_inert(from_labels(data.split(b".")))
    assert is_inert(escape(data))
    return from_text(data)


def check_name(data: bytes, text: str) -> None:
    assert 0 < len(text) <= 253
    assert data.lower().removesuffix(b".") == text.encode()
    assert not text.rpartition(".")[2].isdigit()


def reassemble(data: bytes) -> bytes | None:
    """Three bytes a segment: its signed distance from the start, and its size."""
    stream = Reassembler(STREAM_LIMIT, 16)
    stream.set_start(STREAM_START)
    whole = None
    for at in range(0, len(data) - 2, 3):
        seq = STREAM_START + int.from_bytes(data[at : at + 2], signed=True)
        grown = stream.add(seq & 0xFFFFFFFF, data[at : at + 1] * data[at + 2])
        if grown is not None:
            # What was once said of the stream's start stays so.
            assert len(grown) <= STREAM_LIMIT
            assert whole is None or (grown.startswith(whole) and len(grown) > len(whole))
            whole = grown
            if data[at + 2] & 15 == 7:
                stream.consume(len(grown))
                whole = None
    return whole


LINK_TOKENS = (b"\x81\0", b"\x88\xa8", b"\x91\0", b"\x08\0", b"\x86\xdd", b"\x08\x06")
DNS_TOKENS = (
    b"\xc0\x0c", b"\xc0\x10", b"\xc0\0", b"\xff\xff", b"\xc0\x2d", b"\0", b"\x3f", b"\x40", b"\0\1\0\1",
    b"\0\5\0\1", b"\0\x1c\0\1", b"\0\x41\0\1", b"\1a", b"\0\4\0\4", b"\x01.\x01\\",
)  # fmt: skip
TLS_TOKENS = (b"\x16\3\1", b"\0\0", b"\xfe\x0d", b"\0\x10", b"\1", b"\2", b"\0\0\x12", b"\xff\xff")

TARGETS = {
    "packet": Target(parse_ip, (WireError,), seeds.PACKETS, (), check_packet),
    "link": Target(parse_frame, (WireError,), seeds.FRAMES, LINK_TOKENS, check_frame),
    "arp": Target(parse_arp, (WireError,), seeds.ARP, (), check_arp),
    "dns": Target(parse_message, (WireError,), seeds.DNS, DNS_TOKENS, check_dns),
    "dns-tcp": Target(parse_dns_stream, (WireError,), seeds.DNS_STREAMS, DNS_TOKENS, check_dns_stream),
    "tls": Target(client_hello, (WireError,), seeds.TLS, TLS_TOKENS, check_hello),
    "http": Target(request_host, (WireError,), seeds.HTTP, seeds.HTTP_TOKENS, check_request),
    "hostname": Target(parse_name, (), seeds.HOSTS, seeds.HOST_TOKENS, check_name),
    "stream": Target(reassemble, (WireError,), seeds.SEGMENTS),
}
