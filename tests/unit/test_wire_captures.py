# SPDX-License-Identifier: GPL-2.0-or-later
"""Every packet of real captures, with scapy and dnspython as second opinions.

The captures are not part of the source; they are looked for in ``SPIND_CAPTURES``, else beside
the source tree.
"""

import os
from collections.abc import Iterator
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.rdatatype
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import NoPayload, Padding
from scapy.utils import RawPcapReader

from spind.model import parse_address
from spind.wire.dns import Record, parse_message
from spind.wire.errors import WireError
from spind.wire.hostname import from_labels, from_text
from spind.wire.http import looks_like_http, request_host
from spind.wire.link import ETH_P_ARP, parse_arp, parse_link
from spind.wire.packet import Packet, parse_ip
from spind.wire.stream import Reassembler
from spind.wire.tls import client_hello, looks_like_tls

FOLDER = Path(os.environ.get("SPIND_CAPTURES", Path(__file__).parents[3] / "shared/data/captures"))
FILES = sorted(FOLDER.glob("*.pcap"))

pytestmark = pytest.mark.skipif(not FILES, reason=f"no captures in {FOLDER}")


@cache
def frames(path: Path) -> list[tuple[int, bytes]]:
    with RawPcapReader(str(path)) as reader:
        return [(reader.linktype, data) for data, _ in reader]


def packets(path: Path) -> Iterator[Packet]:
    for linktype, data in frames(path):
        frame = parse_link(linktype, data)
        if frame and frame.ethertype != ETH_P_ARP:
            yield parse_ip(frame.payload)


def by_file(function: Any) -> Any:
    return pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)(function)


@by_file
def test_every_packet_agrees_with_scapy(path: Path) -> None:
    for linktype, data in frames(path):
        assert linktype == 1
        theirs = Ether(data)
        frame = parse_link(linktype, data)
        layer = theirs.getlayer(IP) or theirs.getlayer(IPv6)
        if ARP in theirs:
            assert frame is not None
            sender = parse_arp(frame.payload)
            if sender:
                assert sender[0].hex(":") == theirs[ARP].hwsrc
                assert sender[1] == parse_address(theirs[ARP].psrc)
            else:
                assert theirs[ARP].psrc == "0.0.0.0"
            continue
        if layer is None or not isinstance(layer.underlayer, Ether):
            assert frame is None
            continue
        assert frame is not None
        assert (frame.src_mac, frame.dst_mac) == (data[6:12], data[:6])
        compare(parse_ip(frame.payload), layer)


def compare(ours: Packet, layer: Any) -> None:
    assert ours.src == ip_address(layer.src).packed
    assert ours.dst == ip_address(layer.dst).packed
    assert ours.length == (layer.len if isinstance(layer, IP) else layer.plen + 40)
    if isinstance(layer, IP):
        later = layer.frag
    else:
        later = layer[IPv6ExtHdrFragment].offset if IPv6ExtHdrFragment in layer else 0
    assert ours.fragment == bool(later)
    if later:
        return
    transport = layer.getlayer(TCP) or layer.getlayer(UDP)
    if transport is not None and ours.proto in (6, 17):
        assert (ours.sport, ours.dport) == (transport.sport, transport.dport)
        content = transport.payload
        assert ours.payload == (b"" if isinstance(content, (NoPayload, Padding)) else content.original)
        if ours.proto == 6:
            assert (ours.seq, ours.flags) == (transport.seq, int(transport.flags) & 0xFF)
    elif ours.proto == 1:
        assert ours.dport == layer[ICMP].type << 8 | layer[ICMP].code
        assert ours.sport == (layer[ICMP].id if layer[ICMP].type in (0, 8) else 0)
    elif ours.proto == 58:
        message = next(part for part in layer.iterpayloads() if part.name.startswith(("ICMPv6", "MLD")))
        assert ours.dport == int.from_bytes(message.original[:2])
    else:
        assert (ours.sport, ours.dport) == (0, 0)


@by_file
def test_every_dns_message_agrees_with_dnspython(path: Path) -> None:
    for packet in packets(path):
        if packet.proto != 17 or not {53, 5353} & {packet.sport, packet.dport} or not packet.payload:
            continue
        try:
            theirs = dns.message.from_wire(packet.payload, ignore_trailing=True, one_rr_per_rrset=True)
        except dns.exception.DNSException:
            theirs = None
        if theirs is None:
            continue
        ours = parse_message(packet.payload)
        assert ours.id == theirs.id
        assert [question.name for question in ours.questions] == [
            from_labels(rrset.name.labels[:-1]) for rrset in theirs.question
        ]
        assert [entry for entry in ours.answers if entry.address or entry.target] == [
            Record(
                from_labels(rrset.name.labels[:-1]),
                rrset.rdtype,
                rrset.ttl,
                None if rrset.rdtype == dns.rdatatype.CNAME else rrset[0].to_wire(),
                from_labels(rrset[0].target.labels[:-1]) if rrset.rdtype == dns.rdatatype.CNAME else None,
            )
            for rrset in theirs.answer
            if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.CNAME)
        ]


def test_names_of_tls_and_http_streams() -> None:
    """Each connection's first bytes, put together from its segments, name a host that is in them."""
    found = set()
    for path in FILES:
        streams: dict[Any, Reassembler | None] = {}
        for packet in packets(path):
            if packet.proto != 6:
                continue
            if packet.flags & 0x12 == 0x02:
                streams[packet.key] = Reassembler(0x4000, 32)
                streams[packet.key].set_start(packet.seq + 1)
            stream = streams.get(packet.key)
            if stream is None or not packet.payload:
                continue
            data = stream.add(packet.seq, packet.payload)
            if data is None:
                continue
            name: str | None = None
            if looks_like_tls(data):
                hello = client_hello(data)
                if hello is None:
                    continue
                name = hello.sni
            elif looks_like_http(data):
                request = request_host(data)
                if request is None:
                    continue
                name = request.host
            streams[packet.key] = None
            if name:
                assert name.encode() in data.lower()
                assert from_text(name) == name
                found.add(name)
    assert len(found) > 5


@by_file
def test_cut_packets_are_parsed_or_refused(path: Path) -> None:
    for linktype, data in frames(path)[::7]:
        for size in (14, 20, 34, 40, 54, 60, 74):
            try:
                frame = parse_link(linktype, data[:size])
                cut = parse_ip(frame.payload) if frame and frame.ethertype != ETH_P_ARP else None
            except WireError:
                continue
            if cut:
                whole = parse_ip(parse_link(linktype, data).payload)  # type: ignore[union-attr]
                assert cut._replace(payload=b"") == whole._replace(payload=b"")
                assert whole.payload.startswith(cut.payload)
