# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is a router and whose an address is, in captures."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from spind import replay_home, replay_routers
from spind.events import LeaseSeen, LocalAddresses, NeighbourSeen
from spind.model import format_address, format_mac, parse_address, parse_mac
from spind.replay_home import Home
from spind.replay_routers import RouterFinder
from spind.wire.errors import WireError
from spind.wire.link import ETH_P_ARP, Frame, parse_link
from spind.wire.packet import parse_ip

ROUTER = "02:00:00:00:00:01"
PHONE = "02:00:00:00:00:10"
PLUG = "02:00:00:00:00:11"
HUB = "02:00:00:00:00:12"
ALL = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "33:33:00:00:00:01"


def parse(frame, linktype=1):
    parsed = parse_link(linktype, bytes(frame))
    return parsed, None if parsed.ethertype == ETH_P_ARP else parse_ip(parsed.payload)


def v4(src_mac, src, dst_mac, dst):
    return Ether(src=src_mac, dst=dst_mac) / IP(src=src, dst=dst) / UDP(sport=7, dport=8)


def v6(src_mac, src, dst_mac, dst):
    return Ether(src=src_mac, dst=dst_mac) / IPv6(src=src, dst=dst) / UDP(sport=7, dport=8)


def arp(mac, address):
    return Ether(src=mac, dst=ALL) / ARP(op=1, hwsrc=mac, psrc=address, pdst="192.168.1.99")


def advertisement(mac, *, lifetime, prefix="2001:db8:1::", flags=1):
    option = ICMPv6NDOptPrefixInfo(prefix=prefix, prefixlen=64, L=flags, A=0)
    head = Ether(src=mac, dst=ALL_NODES) / IPv6(src="fe80::1", dst="ff02::1")
    return head / ICMPv6ND_RA(routerlifetime=lifetime) / ICMPv6NDOptSrcLLAddr(lladdr=mac) / option


def dhcp(src_mac, dst_mac, src, kind, mac, *, reply=False, **options):
    ports = {"sport": 67, "dport": 68} if reply else {"sport": 68, "dport": 67}
    address = options.pop("address", "0.0.0.0")
    given = {"yiaddr": address} if reply else {"ciaddr": address}
    boot = BOOTP(op=2 if reply else 1, chaddr=bytes.fromhex(mac.replace(":", "")), **given)
    rest = [("message-type", kind), *options.items(), "end"]
    return (
        Ether(src=src_mac, dst=dst_mac)
        / IP(src=src, dst="255.255.255.255")
        / UDP(**ports)
        / boot
        / DHCP(options=rest)
    )


def routers(*frames):
    finder = RouterFinder()
    for frame in frames:
        finder.look(*parse(frame))
    return {format_mac(mac) for mac in finder.gateways()}


TWO_SITES = [
    v4(PHONE, "192.168.1.10", ROUTER, "198.51.100.1"),
    v4(PHONE, "192.168.1.10", ROUTER, "203.0.113.7"),
]
TWO_ANSWERS = [
    v4(ROUTER, "198.51.100.1", PHONE, "192.168.1.10"),
    v4(ROUTER, "203.0.113.7", PHONE, "192.168.1.10"),
]
TWO_SITES_V6 = [
    v6(PHONE, "2001:db8:1::10", ROUTER, "2001:db8:aa::1"),
    v6(PHONE, "2001:db8:1::10", ROUTER, "2001:db8:bb::1"),
]
ON_LINK = (
    Ether(src=PHONE, dst="33:33:ff:00:00:11")
    / IPv6(src="2001:db8:1::10", dst="ff02::1:ff00:11")
    / ICMPv6ND_NS()
)


@pytest.mark.parametrize(
    "frames",
    [
        TWO_SITES,
        TWO_ANSWERS,
        [TWO_SITES[0], arp(ROUTER, "192.168.1.1")],
        [TWO_ANSWERS[0], arp(ROUTER, "192.168.1.1")],
        [TWO_SITES[0], TWO_ANSWERS[1]],
        [advertisement(ROUTER, lifetime=1800)],
        [*TWO_SITES_V6, ON_LINK],
        TWO_SITES_V6,
        [dhcp(ROUTER, ALL, "192.168.1.1", "ack", PHONE, reply=True)],
        # Devices beside it that look a little like routers.
        [*TWO_SITES, dhcp(PLUG, ALL, "192.168.1.2", "ack", PHONE, reply=True)],
        [*TWO_SITES, advertisement(HUB, lifetime=0)],
        [
            *TWO_SITES,
            v4(PLUG, "198.51.100.9", ROUTER, "203.0.113.7"),
            v4(PLUG, "198.51.100.8", ROUTER, "203.0.113.7"),
        ],
    ],
)
def test_the_router_is_found(frames):
    assert routers(*frames) == {ROUTER}


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [v4(PHONE, "192.168.1.10", PLUG, "192.168.1.11"), arp(PHONE, "192.168.1.10")],
        [v4(PHONE, "192.168.1.10", PLUG, "192.168.77.1"), v4(PHONE, "10.1.1.1", PLUG, "10.2.2.2")],
        [advertisement(HUB, lifetime=0)],
        # A device with one public address of its own.
        [v4(PHONE, "198.51.100.1", PLUG, "192.168.1.11"), v4(PLUG, "192.168.1.11", PHONE, "198.51.100.1")],
        # A device with several public IPv6 addresses of the prefix on the link.
        [
            advertisement(HUB, lifetime=0),
            *[v6(PHONE, f"2001:db8:1::{n}", PLUG, "2001:db8:1::99") for n in range(4)],
            *[v6(PLUG, "2001:db8:1::99", PHONE, f"2001:db8:1::{n}") for n in range(4)],
        ],
        [
            ON_LINK,
            *[v6(PLUG, f"2001:db8:1::{n}", PHONE, "2001:db8:1::10") for n in range(4)],
        ],
        # Or of two prefixes on the link.
        [
            advertisement(HUB, lifetime=0),
            advertisement(HUB, lifetime=0, prefix="2001:db8:2::"),
            v6(PHONE, "2001:db8:1::10", PLUG, "2001:db8:1::99"),
            v6(PHONE, "2001:db8:2::10", PLUG, "2001:db8:2::99"),
        ],
        # A device with two public addresses that it claims.
        [
            arp(PLUG, "198.51.100.8"),
            arp(PLUG, "198.51.100.9"),
            v4(PHONE, "192.168.1.10", PLUG, "198.51.100.8"),
            v4(PHONE, "192.168.1.10", PLUG, "198.51.100.9"),
        ],
        # Group addresses are forwarded by nobody, and belong to nobody.
        [
            v4(PHONE, "192.168.1.10", "01:00:5e:00:00:fb", "224.0.0.251"),
            v4(PHONE, "192.168.1.10", ALL, "255.255.255.255"),
        ],
        [
            v4("03:00:00:00:00:01", "198.51.100.1", PHONE, "192.168.1.10"),
            v4("03:00:00:00:00:01", "203.0.113.7", PHONE, "192.168.1.10"),
        ],
    ],
)
def test_no_router_is_found(frames):
    assert routers(*frames) == set()


def test_two_routers_are_found():
    other = "02:00:00:00:00:02"
    assert routers(*TWO_SITES, advertisement(other, lifetime=600)) == {ROUTER, other}


def test_a_router_that_answers_from_another_mac_is_found():
    virtual = "00:00:5e:00:01:01"
    frames = [
        v4(PHONE, "192.168.1.10", virtual, "198.51.100.1"),
        v4(PHONE, "192.168.1.10", virtual, "203.0.113.7"),
    ]
    assert routers(*frames, *TWO_ANSWERS) == {virtual, ROUTER}


def test_what_the_finder_remembers_is_bounded(monkeypatch):
    monkeypatch.setattr(replay_routers, "MACS", 100)
    finder = RouterFinder()
    for number in range(replay_routers.MACS + 50):
        mac = format_mac((0x020000000000 + number).to_bytes(6))
        finder.look(*parse(v4(mac, f"198.51.{number % 250}.1", ROUTER, f"203.0.{number % 250}.7")))
    assert len(finder._stations) == replay_routers.MACS
    for number in range(100):
        finder.look(*parse(v4(ROUTER, f"198.51.100.{number}", PHONE, f"203.0.113.{number}")))
        finder.look(*parse(arp(PHONE, f"192.168.1.{number + 1}")))
        finder.look(*parse(v6(PHONE, f"2001:db8:{number}::1", ALL_NODES, "ff02::1")))
    phone = finder._stations[parse_mac(PHONE)]
    assert len(phone.claims) == len(phone.receives) == replay_routers.PARTIES
    assert len(finder._on_link) == replay_routers.PREFIXES


# -- addresses -----------------------------------------------------------------------------


def told(home, *frames, linktype=1):
    """What the engine is told because of these frames, in short."""
    lines = []
    for frame in frames:
        parsed, packet = parse(frame, linktype)
        for event in home.arp(parsed) if packet is None else home.packet(parsed, packet):
            if isinstance(event, NeighbourSeen):
                lines.append(f"{format_address(event.address)} is {format_mac(event.mac)[-2:]}")
            elif isinstance(event, LeaseSeen):
                lines.append(
                    f"{format_address(event.address)} is {format_mac(event.mac)[-2:]} {event.hostname}"
                )
            elif isinstance(event, LocalAddresses):
                own = sorted(map(format_address, event.addresses))
                nets = [f"{format_address(net)}/{bits}" for net, bits in event.prefixes]
                lines.append(" ".join(["home", *nets, *(["gateway", *own] if own else [])]))
    return lines


def home(lan=(), own=()):
    return Home(frozenset({parse_mac(ROUTER)}), frozenset(map(parse_address, own)), lan)


def test_a_device_has_what_it_sends_from():
    assert told(home(), *TWO_SITES, *TWO_ANSWERS) == ["home 192.168.1.0/24", "192.168.1.10 is 10"]


def test_a_device_has_what_it_is_sent_to():
    frames = [arp(PHONE, "192.168.1.10"), v4(ROUTER, "198.51.100.1", PLUG, "192.168.1.11")]
    assert told(home(), *frames) == ["home 192.168.1.0/24", "192.168.1.10 is 10", "192.168.1.11 is 11"]
    assert told(home(), v4(ROUTER, "198.51.100.1", PLUG, "203.0.113.200")) == []


def test_the_gateways_own_addresses():
    frames = [arp(ROUTER, "192.168.1.1"), v4(ROUTER, "192.168.1.1", "01:00:5e:00:00:fb", "224.0.0.251")]
    assert told(home(), *frames) == ["home gateway 192.168.1.1"]
    assert told(home(own=["192.168.1.1"]), *frames) == []
    # What it forwards is not its own, not even from a private network.
    frame = v4(ROUTER, "10.9.9.9", PHONE, "192.168.1.10")
    assert told(home(), frame) == ["home 192.168.1.0/24", "192.168.1.10 is 10"]


def test_ipv6_addresses_are_learned_with_their_prefix():
    frames = [v6(PHONE, "2001:db8:1::10", ROUTER, "2001:db8:aa::1"), v6(PHONE, "fe80::10", ROUTER, "fe80::1")]
    assert told(home(), *frames) == ["home 2001:db8:1::/64", "2001:db8:1::10 is 10", "fe80::10 is 10"]


def test_advertised_prefixes_are_the_homes():
    assert told(home(), advertisement(ROUTER, lifetime=1800)) == [
        "home gateway fe80::1",
        "home 2001:db8:1::/64 gateway fe80::1",
    ]
    assert told(home(), advertisement(ROUTER, lifetime=1800, flags=0))[1:] == []
    assert told(home(), advertisement(ROUTER, lifetime=1800, prefix="fe80::"))[1:] == []


def test_a_forged_public_source_is_not_learned_unless_it_is_claimed():
    assert told(home(), v4(PLUG, "198.51.100.9", ROUTER, "203.0.113.7")) == []
    assert told(home(), arp(PLUG, "198.51.100.9")) == ["home 198.51.100.9/32", "198.51.100.9 is 11"]


def test_an_address_that_moves():
    frames = [arp(PHONE, "192.168.1.10"), arp(PLUG, "192.168.1.10"), arp(PLUG, "192.168.1.10")]
    assert told(home(), *frames)[1:] == ["192.168.1.10 is 10", "192.168.1.10 is 11"]
    # A frame to another MAC does not move it.
    assert told(home(), frames[0], v4(ROUTER, "198.51.100.1", PLUG, "192.168.1.10"))[2:] == []


@pytest.mark.parametrize(
    "frame",
    [
        arp(PHONE, "0.0.0.0"),
        arp("00:00:00:00:00:00", "192.168.1.10"),
        v4(PHONE, "0.0.0.0", ALL, "255.255.255.255"),
        v4(PHONE, "224.0.0.1", ROUTER, "198.51.100.1"),
        v4("03:00:00:00:00:01", "192.168.1.10", PHONE, "8.8.8.8"),
        v6(PHONE, "::", ALL_NODES, "ff02::1"),
        Ether(src=PHONE, dst=ALL) / ARP(op=3, hwsrc=PHONE, psrc="192.168.1.10"),
        Ether(src=PHONE, dst=ALL) / ARP(hwtype=6),
    ],
)
def test_what_says_nothing(frame):
    assert told(home(), frame) == []


def test_given_prefixes_are_all_there_is():
    lan = ((parse_address("10.1.0.0"), 16),)
    frames = [arp(PHONE, "192.168.1.10"), arp(PLUG, "10.1.2.3"), advertisement(HUB, lifetime=0)]
    assert told(home(lan), *frames) == ["10.1.2.3 is 11", "fe80::1 is 12"]


LEASE = {"address": "192.168.1.30", "subnet_mask": "255.255.254.0", "reply": True}


def test_leases_and_the_names_that_were_asked_for():
    frames = [
        dhcp(PHONE, ALL, "0.0.0.0", "discover", PHONE, hostname=b"Phone\x1b[2J of \xc3\xa9ric"),
        dhcp(ROUTER, ALL, "192.168.1.1", "offer", PHONE, **LEASE),
        dhcp(ROUTER, ALL, "192.168.1.1", "ack", PHONE, **LEASE),
        dhcp(ROUTER, ALL, "192.168.1.1", "ack", PLUG, **LEASE | {"address": "192.168.1.31"}),
    ]
    assert told(home(own=["192.168.1.1"]), *frames) == [
        "home 192.168.0.0/23 gateway 192.168.1.1",
        "192.168.1.30 is 10 Phone\N{REPLACEMENT CHARACTER}[2J of \u00e9ric",
        "192.168.1.31 is 11 ",
    ]


def test_a_name_waits_for_an_address():
    frames = [dhcp(PHONE, ALL, "0.0.0.0", "request", PHONE, hostname=b"phone"), arp(PHONE, "192.168.1.30")]
    assert told(home(), *frames, v4(PHONE, "192.168.1.31", ROUTER, "8.8.8.8")) == [
        "home 192.168.1.0/24",
        "192.168.1.30 is 10 phone",
        "192.168.1.31 is 10",
    ]


def test_a_lease_that_is_renewed_names_its_device():
    frame = dhcp(PHONE, ROUTER, "192.168.1.30", "request", PHONE, address="192.168.1.30", hostname=b"phone")
    assert told(home(), frame)[-1] == "192.168.1.30 is 10 phone"


def test_without_macs_every_private_address_is_of_the_home():
    packets = [IP(src="192.168.1.10", dst="203.0.113.7") / TCP(), IP(src="8.8.8.8", dst="172.20.0.1") / TCP()]
    assert told(home(), *packets, *packets, linktype=101) == [
        "home 192.168.0.0/16",
        "home 192.168.0.0/16 172.16.0.0/12",
    ]
    packets = [IPv6(src="fe80::1", dst="2001:db8::1") / UDP(), IPv6(src="fd00::1", dst="ff02::1") / UDP()]
    assert told(home(), *packets, linktype=101) == ["home fc00::/7"]


def test_the_sender_of_a_frame():
    who = home()
    assert who.sender(parse(TWO_SITES[0])[0]) == parse_mac(PHONE)
    assert who.sender(parse(TWO_ANSWERS[0])[0]) is None
    assert who.sender(parse(v4("03:00:00:00:00:01", "192.168.1.10", PHONE, "8.8.8.8"))[0]) is None
    assert who.sender(Frame(parse_mac(PHONE), None, 0, 0x0800, b"")) is None


def test_what_a_home_remembers_is_bounded(monkeypatch):
    monkeypatch.setattr(replay_home, "ADDRESSES", 50)
    who = home()
    prefixes = 0
    for number in range(300):
        lines = told(who, v4(PHONE, f"10.{number // 200}.{number % 200}.1", ROUTER, "198.51.100.1"))
        prefixes += any(line.startswith("home") for line in lines)
        told(
            who,
            dhcp(PHONE, ALL, "0.0.0.0", "discover", format_mac((2**41 + number).to_bytes(6)), hostname=b"x"),
        )
        assert len(who._known) <= 50
    assert prefixes == replay_routers.PREFIXES == len(who._prefixes)
    for number in range(100):
        told(who, arp(ROUTER, f"192.168.1.{number + 1}"))
    assert len(who._own) == replay_routers.PREFIXES


FRAMES = [
    bytes(frame)
    for frame in (
        TWO_SITES[0],
        arp(PHONE, "192.168.1.10"),
        advertisement(ROUTER, lifetime=1800),
        ON_LINK,
        dhcp(ROUTER, ALL, "192.168.1.1", "ack", PHONE, **LEASE),
        dhcp(PHONE, ALL, "0.0.0.0", "discover", PHONE, hostname=b"phone"),
        Ether(src=PHONE, dst=ALL_NODES) / IPv6(src="fe80::1", dst="ff02::1") / ICMPv6ND_NA() / bytes(20),
        Ether(src=PHONE, dst=ALL_NODES) / IPv6(src="fe80::1", dst="ff02::1") / ICMPv6MLReport2(),
    )
]


@given(
    st.sampled_from(FRAMES),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
)
@settings(max_examples=500, deadline=None)
def test_damaged_frames_do_no_harm(frame, changes, cut):
    data = bytearray(frame)
    for position, value in changes:
        data[position % len(data)] = value
    try:
        parsed, packet = parse(bytes(data[: max(cut, 1)]))
    except (WireError, AttributeError):  # no frame, or nothing of IP in it
        return
    finder = RouterFinder()
    finder.look(parsed, packet)
    finder.gateways()
    told(home(), bytes(data[: max(cut, 1)]))
