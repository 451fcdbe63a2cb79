# SPDX-License-Identifier: GPL-2.0-or-later
"""Segments that devices answer: as bytes, and out of a packet socket."""

import os
import socket

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from spind.commands import End
from spind.model import parse_address
from spind.nudge import MOST, Nudger
from spind.wire.tcp_probe import tcp_probe

ENDS = {
    4: (parse_address("198.51.100.7"), parse_address("192.168.8.50")),
    6: (parse_address("2001:db8::7"), parse_address("2001:db8:8::50")),
}


@pytest.mark.parametrize("number", [0, 1, 0xFFFFFFFF, 0x12345678])
@pytest.mark.parametrize("version", [4, 6])
def test_a_probe_is_a_bare_acknowledgement_with_right_checksums(version: int, number: int) -> None:
    source, target = ENDS[version]
    data = tcp_probe(source, 443, target, 50_000, number)
    layer = IP if version == 4 else IPv6
    packet = layer(data)
    assert (packet[TCP].sport, packet[TCP].dport, packet[TCP].seq) == (443, 50_000, number)
    assert str(packet[TCP].flags) == "A"
    assert not packet[TCP].payload
    assert (parse_address(packet.src), parse_address(packet.dst)) == (source, target)
    again = layer(data)
    del again[TCP].chksum
    if version == 4:
        assert packet.len == len(data)
        del again.chksum
    else:
        assert packet.plen == len(data) - 40
    assert bytes(again) == data


def test_numbers_beyond_32_bits_wrap() -> None:
    assert tcp_probe(*_half(4), 1 << 32) == tcp_probe(*_half(4), 0)


def _half(version: int) -> tuple[bytes, int, bytes, int]:
    source, target = ENDS[version]
    return source, 1, target, 2


@pytest.mark.skipif(os.geteuid() != 0, reason="packet sockets need root")
def test_each_end_gets_its_segment_up_to_a_bound() -> None:
    nudger = Nudger()
    port = 0xEE47
    source, target = parse_address("127.0.0.1"), parse_address("127.0.0.2")
    end = End(bytes(6), target, port, source, 9)
    nudger.nudge([end], ["lo"])
    assert nudger.sent == 0, "not open"
    nudger.open()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as sniffer:
        sniffer.bind(("lo", 0x0800))
        sniffer.settimeout(5)
        nudger.nudge([end] * (MOST + 50), ["lo", "nosuchif0"])
        seen, numbers = 0, set()
        while seen < MOST:
            data, where = sniffer.recvfrom(2048)
            if where[2] == socket.PACKET_HOST and data[22:24] == port.to_bytes(2, "big"):
                seen += 1
                numbers.add(data[24:28])
    assert nudger.sent == MOST
    assert len(numbers) > MOST // 2, "random ones"
    nudger.close()
    nudger.nudge([end], ["lo"])
    assert nudger.sent == MOST
