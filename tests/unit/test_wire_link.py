# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of every link type, VLAN tags and ARP."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.wire import link
from spind.wire.errors import WireError
from spind.wire.link import Frame, parse_arp, parse_link

SRC, DST = bytes.fromhex("0200c0ffee01"), bytes.fromhex("0200c0ffee02")
V4 = b"\x45" + bytes(19)
V6 = b"\x60" + bytes(39)


def ethernet(ethertype: int, payload: bytes, *tags: tuple[int, int]) -> bytes:
    stacked = b"".join(struct.pack("!HH", kind, control) for kind, control in tags)
    return DST + SRC + stacked + struct.pack("!H", ethertype) + payload


@pytest.mark.parametrize(("ethertype", "payload"), [(0x0800, V4), (0x86DD, V6), (0x0806, bytes(28))])
def test_ethernet(ethertype: int, payload: bytes) -> None:
    assert parse_link(1, ethernet(ethertype, payload)) == Frame(SRC, DST, 0, ethertype, payload)


@pytest.mark.parametrize("ethertype", [0x88CC, 0x8864, 0x8847, 0x0026, 0x05DC])
def test_ethernet_without_ip(ethertype: int) -> None:
    assert parse_link(1, ethernet(ethertype, bytes(46))) is None
    assert parse_link(1, ethernet(ethertype, bytes(46), (0x8100, 5))) is None


def test_vlan_tags() -> None:
    assert parse_link(1, ethernet(0x0800, V4, (0x8100, 0xE007))) == Frame(SRC, DST, 7, 0x0800, V4)
    # A priority tag has no VLAN identifier.
    assert parse_link(1, ethernet(0x0800, V4, (0x8100, 0xE000))) == Frame(SRC, DST, 0, 0x0800, V4)
    for outer in (0x88A8, 0x9100, 0x8100):
        frame = parse_link(1, ethernet(0x86DD, V6, (outer, 100), (0x8100, 42)))
        assert frame == Frame(SRC, DST, 42, 0x86DD, V6)


def test_vlan_tags_are_bounded() -> None:
    assert parse_link(1, ethernet(0x0800, V4, *[(0x8100, 1)] * 4)) is not None
    with pytest.raises(WireError, match="too many"):
        parse_link(1, ethernet(0x0800, V4, *[(0x8100, 1)] * 5))


def test_cut_short() -> None:
    whole = ethernet(0x0800, b"", (0x88A8, 100), (0x8100, 42))
    for size in range(len(whole)):
        with pytest.raises(WireError):
            parse_link(1, whole[:size])
    for linktype, size in ((113, 16), (276, 20), (0, 4), (108, 4), (101, 1)):
        with pytest.raises(WireError):
            parse_link(linktype, bytes(size - 1))


@pytest.mark.parametrize("linktype", [12, 14, 101])
def test_raw_ip(linktype: int) -> None:
    assert parse_link(linktype, V4) == Frame(None, None, 0, 0x0800, V4)
    assert parse_link(linktype, V6) == Frame(None, None, 0, 0x86DD, V6)
    with pytest.raises(WireError):
        parse_link(linktype, b"\x00" + V4)


def test_raw_ip_of_one_version() -> None:
    assert parse_link(228, V4) == Frame(None, None, 0, 0x0800, V4)
    assert parse_link(229, V6) == Frame(None, None, 0, 0x86DD, V6)
    for linktype, data in ((228, V6), (229, V4)):
        with pytest.raises(WireError):
            parse_link(linktype, data)


def cooked(version: int, ethertype: int, hardware: int, address: bytes, payload: bytes) -> bytes:
    padded = address.ljust(8, b"\0")
    if version == 1:
        return struct.pack("!HHH8sH", 0, hardware, len(address), padded, ethertype) + payload
    return struct.pack("!HHIHBB8s", ethertype, 0, 3, hardware, 0, len(address), padded) + payload


@pytest.mark.parametrize(("linktype", "version"), [(113, 1), (276, 2)])
def test_linux_cooked(linktype: int, version: int) -> None:
    assert parse_link(linktype, cooked(version, 0x0800, 1, SRC, V4)) == Frame(SRC, None, 0, 0x0800, V4)
    tagged = struct.pack("!HH", 9, 0x86DD) + V6
    assert parse_link(linktype, cooked(version, 0x8100, 1, SRC, tagged)) == Frame(SRC, None, 9, 0x86DD, V6)
    # A tunnel's or modem's address is not a MAC: ARPHRD_PPP, ARPHRD_NONE, and a short one.
    for hardware, address in ((512, b""), (65534, b""), (1, b"\1\2\3\4"), (772, bytes(6))):
        frame = parse_link(linktype, cooked(version, 0x0800, hardware, address, V4))
        assert frame == Frame(None, None, 0, 0x0800, V4)
    assert parse_link(linktype, cooked(version, 0x0004, 1, SRC, V4)) is None


@pytest.mark.parametrize(
    ("family", "ethertype"), [(2, 0x0800), (10, 0x86DD), (24, 0x86DD), (28, 0x86DD), (30, 0x86DD)]
)
def test_bsd_loopback(family: int, ethertype: int) -> None:
    for linktype, header in (
        (0, struct.pack("<I", family)),
        (0, struct.pack(">I", family)),
        (108, struct.pack(">I", family)),
    ):
        assert parse_link(linktype, header + V4) == Frame(None, None, 0, ethertype, V4)
    assert parse_link(0, struct.pack("<I", 7) + V4) is None
    assert parse_link(108, struct.pack("<I", family) + V4) is None


def test_unknown_link_type() -> None:
    with pytest.raises(WireError, match="127"):
        parse_link(127, V4)


def arp(
    operation: int = 1, mac: bytes = SRC, address: bytes = b"\xc0\xa8\x01\x02", hardware: int = 1
) -> bytes:
    return struct.pack("!HHBBH6s4s", hardware, link.ETH_P_IP, 6, 4, operation, mac, address) + bytes(10)


def test_arp() -> None:
    assert parse_arp(arp()) == (SRC, b"\xc0\xa8\x01\x02")
    assert parse_arp(arp(operation=2) + bytes(18)) == (SRC, b"\xc0\xa8\x01\x02")
    for probe in (
        arp(address=bytes(4)),
        arp(mac=bytes(6)),
        arp(mac=b"\xff" * 6),
        arp(operation=3),
        arp(hardware=6),
    ):
        assert parse_arp(probe) is None
    with pytest.raises(WireError):
        parse_arp(arp()[:27])


@settings(deadline=None, database=None, max_examples=300)
@given(st.sampled_from([0, 1, 12, 14, 101, 108, 113, 228, 229, 276]), st.binary(max_size=80))
def test_nothing_but_wire_error_escapes(linktype: int, data: bytes) -> None:
    try:
        frame = parse_link(linktype, data)
    except WireError:
        return
    assert frame is None or data.endswith(frame.payload)
