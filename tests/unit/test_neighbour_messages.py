# SPDX-License-Identifier: GPL-2.0-or-later
"""rtnetlink messages, and what they say about the home."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.links import MAX_ADDRESSES, MAX_INTERFACES, Links
from spind.uci import parse
from spind.wire.errors import WireError
from spind.wire.neighbour import (
    IFADDRMSG,
    IFINFOMSG,
    NDMSG,
    Interface,
    InterfaceAddress,
    Neighbour,
    parse_rtnetlink,
)
from spind.wire.netlink import pack_attribute, pack_message

MAC = b"\x02\0\0\0\0\5"
V4 = b"\xc0\xa8\1\5"
V6 = b"\xfd\0" + bytes(13) + b"\5"


def neighbour(
    address: bytes = V4, mac: bytes = MAC, *, kind: int = 28, state: int = 2, flags: int = 0
) -> bytes:
    family = 2 if len(address) == 4 else 10
    body = NDMSG.pack(family, 0, 0, 7, state, flags, 1) + pack_attribute(1, address)
    return pack_message(kind, 0, 0, body + (pack_attribute(2, mac) if mac else b""))


def link(
    index: int, name: str, *, mac: bytes = MAC, master: int = 0, flags: int = 0, kind: int = 16
) -> bytes:
    body = IFINFOMSG.pack(0, 0, 1, index, flags, 0) + pack_attribute(3, name.encode() + b"\0")
    body += pack_attribute(1, mac) + (pack_attribute(10, struct.pack("=I", master)) if master else b"")
    return pack_message(kind, 0, 0, body)


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize(
    ("state", "confirmed"), [(2, True), (4, False), (8, False), (16, False), (128, False)]
)
def test_resolved_neighbours_are_seen(address: bytes, state: int, confirmed: bool) -> None:
    assert parse_rtnetlink(neighbour(address, state=state)) == [Neighbour(7, address, MAC, confirmed)]


@pytest.mark.parametrize(
    "data",
    [
        neighbour(kind=29),
        neighbour(state=0x20, mac=b""),  # FAILED
    ],
)
def test_neighbours_that_are_gone_have_no_mac(data: bytes) -> None:
    assert parse_rtnetlink(data) == [Neighbour(7, V4, None, confirmed=False)]


@pytest.mark.parametrize(
    "data",
    [
        neighbour(state=1, mac=b""),  # INCOMPLETE
        neighbour(state=0x40),  # NOARP
        neighbour(flags=8),  # proxy entry
        neighbour(mac=b"\x33\x33\0\0\0\1"),  # a group
        neighbour(mac=bytes(6)),
        neighbour(mac=bytes(16)),  # a tunnel's
        neighbour(b"\1\2\3"),
        pack_message(28, 0, 0, NDMSG.pack(7, 0, 0, 7, 2, 0, 1) + pack_attribute(2, MAC)),  # a bridge's table
        pack_message(24, 0, 0, bytes(12)),  # a route
    ],
)
def test_what_is_no_neighbour_is_left_out(data: bytes) -> None:
    assert parse_rtnetlink(data) == []


def test_own_addresses_are_the_local_end() -> None:
    local, peer = b"\x0a\0\0\1", b"\x0a\0\0\2"
    body = IFADDRMSG.pack(2, 32, 0, 0, 3) + pack_attribute(1, peer) + pack_attribute(2, local)
    assert parse_rtnetlink(pack_message(20, 0, 0, body)) == [InterfaceAddress(3, local, 32, gone=False)]
    body = IFADDRMSG.pack(10, 64, 0, 0, 3) + pack_attribute(1, V6)
    assert parse_rtnetlink(pack_message(21, 0, 0, body)) == [InterfaceAddress(3, V6, 64, gone=True)]
    body = IFADDRMSG.pack(2, 33, 0, 0, 3) + pack_attribute(2, local)
    assert parse_rtnetlink(pack_message(20, 0, 0, body)) == []


def test_interfaces() -> None:
    data = link(2, "eth0", master=5) + link(1, "lo", mac=bytes(6), flags=8) + link(5, "br0", kind=17)
    assert parse_rtnetlink(data) == [
        Interface(2, "eth0", MAC, 5, loopback=False, gone=False),
        Interface(1, "lo", b"", 0, loopback=True, gone=False),
        Interface(5, "br0", MAC, 0, loopback=False, gone=True),
    ]


@given(st.sampled_from([16, 17, 20, 21, 28, 29]), st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(kind: int, body: bytes) -> None:
    try:
        parse_rtnetlink(pack_message(kind, 0, 0, body))
    except WireError:
        pass


# -- what is the home's side --


def links(lan: tuple[str, ...], mode: str = "router", network: str = "") -> Links:
    home = Links(lan, mode, parse(network) if network else None)
    for item in (
        Interface(1, "lo", b"", 0, loopback=True, gone=False),
        Interface(2, "eth0", b"\x02\0\0\0\0\2", 5, loopback=False, gone=False),
        Interface(3, "eth1", b"\x02\0\0\0\0\3", 5, loopback=False, gone=False),
        Interface(4, "wan", b"\x02\0\0\0\0\4", 0, loopback=False, gone=False),
        Interface(5, "br-lan", b"\x02\0\0\0\0\5", 0, loopback=False, gone=False),
        InterfaceAddress(1, b"\x7f\0\0\1", 8, gone=False),
        InterfaceAddress(4, b"\xcb\0\x71\1", 24, gone=False),
        InterfaceAddress(5, b"\xc0\xa8\1\1", 24, gone=False),
        InterfaceAddress(5, V6, 64, gone=False),
    ):
        home.apply(item)
    return home


@pytest.mark.parametrize(
    ("word", "network"),
    [
        ("br-lan", ""),
        ("lan", ""),
        ("lan", "config interface 'lan'\n\toption device 'br-lan'\n"),
        ("home", "config interface 'home'\n\toption device 'br-lan'\n"),
        ("home", "config interface 'home'\n\tlist device 'nothing'\n\tlist device 'br-lan'\n"),
        ("lan", "config interface 'lan'\n\toption type 'bridge'\n\toption ifname 'eth0 eth1'\n"),
    ],
)
def test_words_of_lan(word: str, network: str) -> None:
    home = links((word,), network=network)
    assert home.rule_interfaces() == ("br-lan",)
    assert [index for index in range(7) if home.is_lan(index)] == [5]
    assert home.missing() == []


def test_a_router_knows_its_addresses_and_the_homes_prefixes() -> None:
    local = links(("lan",)).local_addresses()
    assert local.addresses == {b"\xcb\0\x71\1", b"\xc0\xa8\1\1", V6}
    assert local.macs == {bytes([2, 0, 0, 0, 0, last]) for last in (2, 3, 4, 5)}
    assert set(local.prefixes) == {(b"\xc0\xa8\1\0", 24), (b"\xfd\0" + bytes(14), 64)}


def test_interfaces_come_and_go() -> None:
    home = links(("lan", "guest"))
    assert home.missing() == ["guest"]
    guest = Interface(9, "br-guest", b"", 0, loopback=False, gone=False)
    home.apply(guest)
    assert home.rule_interfaces() == home.capture_interfaces() == ("br-guest", "br-lan")
    assert home.is_lan(9)
    home.apply(guest._replace(name="renamed"))
    assert not home.is_lan(9)
    home.apply(guest)
    home.apply(guest._replace(gone=True))
    assert not home.is_lan(9)
    assert home.rule_interfaces() == ("br-lan",)


def test_a_bridge_sees_its_ports_apart() -> None:
    home = links(("eth0",), "bridge")
    assert home.rule_interfaces() == ("br-lan",)
    assert home.capture_interfaces() == ("eth0",), "the bridge itself does not see what it passes on"
    assert home.is_lan(2)
    assert not home.is_lan(3)
    assert not home.is_lan(5)
    assert (b"\xc0\xa8\1\0", 24) in home.local_addresses().prefixes
    assert home.bridges_named() == []
    assert links(("br-lan",), "bridge").bridges_named() == ["br-lan"]


def test_a_host_is_its_own_home() -> None:
    home = links(("nothing",), "local")
    assert home.rule_interfaces() == (), "all but loopback"
    assert home.capture_interfaces() == tuple(sorted({"br-lan", "eth0", "eth1", "wan"}))
    assert not any(home.is_lan(index) for index in range(7)), "nothing that comes in is the home's"
    assert home.local_addresses().addresses == {b"\xcb\0\x71\1", b"\xc0\xa8\1\1", V6}
    wan = links(("wan",), "local")
    assert wan.rule_interfaces() == ("wan",)
    assert wan.local_addresses().addresses == {b"\xcb\0\x71\1"}


def test_addresses_go() -> None:
    home = links(("lan",))
    home.apply(InterfaceAddress(5, V6, 64, gone=True))
    assert V6 not in home.local_addresses().addresses
    home.clear()
    assert home.local_addresses() == (frozenset(), frozenset(), ())


def test_tables_are_bounded() -> None:
    home = Links(("lan",), "router")
    for index in range(MAX_INTERFACES + 5):
        home.apply(Interface(index, f"veth{index}", index.to_bytes(6, "big"), 0, loopback=False, gone=False))
    assert len(home.local_addresses().macs) == MAX_INTERFACES
    for number in range(MAX_ADDRESSES + 5):
        home.apply(InterfaceAddress(1, number.to_bytes(4, "big"), 32, gone=False))
    assert len(home.local_addresses().addresses) == MAX_ADDRESSES
