# SPDX-License-Identifier: GPL-2.0-or-later
"""Which MACs of a capture file are routers, where no neighbour table tells. Pure.

A router is a MAC that

* sends router advertisements with a lifetime (RFC 4861 6.2.3; a lifetime of 0 is what things
  like Thread border routers send, which are devices), or
* is sent unicast frames whose IP destinations are at least two parties beyond the link, or one
  and it has a private IPv4 address besides, or
* sends unicast frames from at least two such parties, or one and it has a private IPv4 address,
  unless it sends them to a router: a device that forges its source address does that, or
* answers as a DHCP server, where nothing above found any router.

A party beyond the link is a public IPv4 address or an IPv6 /64 outside every prefix that is
known to be on the link: from router advertisements, and from the sources of neighbour discovery
and other packets to group addresses, which no router forwards.
"""

from collections.abc import Iterable
from typing import Final

from spind.addresses import PrefixSet, is_link_local, is_public, is_unicast
from spind.model import IPPROTO_ICMPV6, IPPROTO_UDP, Address, Mac
from spind.wire.dhcp import SERVER_PORT, DhcpMessage, parse_dhcp
from spind.wire.errors import WireError
from spind.wire.link import ETH_P_ARP, Frame, parse_arp
from spind.wire.packet import Packet

Prefix = tuple[Address, int]

PARTIES: Final = 8
"""Parties beyond the link remembered for a MAC and direction; two are enough to decide."""

MACS: Final = 4096
"""MACs looked at; later ones are devices."""

PREFIXES: Final = 64
"""Prefixes of the home; further ones are left out (each costs a comparison for each lookup)."""

ROUTER_ADVERTISEMENT: Final = 134
_NEIGHBOUR_DISCOVERY: Final = range(133, 137)
_PREFIX_INFORMATION: Final = 3


def dhcp_of(packet: Packet) -> DhcpMessage | None:
    """Find the DHCP message of a UDP packet; ``None`` where it holds none that can be read."""
    try:
        return parse_dhcp(packet.payload)
    except WireError:
        return None


def advertised_prefixes(packet: Packet) -> list[Prefix]:
    """List the home's prefixes of a router advertisement (RFC 4861 4.6.2)."""
    found: list[Prefix] = []
    options = packet.payload[8:]  # past reachable time and retransmission timer
    offset = 0
    while offset + 8 <= len(options) and options[offset + 1]:
        size = options[offset + 1] * 8
        option = options[offset : offset + size]
        offset += size
        # On-link, or for addresses that devices make themselves.
        if len(option) != 32 or option[0] != _PREFIX_INFORMATION or not option[3] & 0xC0:
            continue
        prefix, bits = option[16:32], option[2]
        if 32 <= bits <= 64 and is_unicast(prefix) and not is_link_local(prefix):
            found.append(network_of(prefix, bits))
    return found


def arp_owner(frame: Frame) -> tuple[Mac, Address] | None:
    """Find who says in an ARP frame that an address is theirs; ``None`` where nobody does."""
    try:
        owner = parse_arp(frame.payload)
    except WireError:
        return None
    return owner if owner is not None and is_unicast(owner[1]) else None


def network_of(address: Address, bits: int) -> Prefix:
    """Prefix of ``bits`` length that holds the address."""
    shift = len(address) * 8 - bits
    return (int.from_bytes(address) >> shift << shift).to_bytes(len(address)), bits


def is_group(mac: Mac) -> bool:
    """Tell whether a MAC is a multicast or broadcast one (IEEE 802: the first octet's low bit)."""
    return mac[0] & 1 == 1


class _Station:
    """What was seen of one MAC."""

    __slots__ = ("advertises", "claims", "receives", "sends", "serves")

    def __init__(self) -> None:
        self.claims: set[Address] = set()  # its own beyond doubt
        self.sends: dict[Mac, set[Address]] = {}  # receiver -> sources beyond the link
        self.receives: set[Address] = set()  # destinations beyond the link
        self.advertises = False
        self.serves = False


class RouterFinder:
    """Looks at the beginning of a capture and tells which MACs are routers."""

    def __init__(self) -> None:
        self._stations: dict[Mac, _Station] = {}
        self._on_link: set[Prefix] = set()

    def look(self, frame: Frame, packet: Packet | None) -> None:
        """Take a frame into account; ``packet`` is its IP packet, if it has a good one."""
        source, target = frame.src_mac, frame.dst_mac
        if source is None or target is None or is_group(source):
            return
        station = self._station(source)
        if station is None:
            return
        if frame.ethertype == ETH_P_ARP:
            owner = arp_owner(frame)
            if owner is not None:
                claimant = self._station(owner[0])
                if claimant is not None and len(claimant.claims) < PARTIES:
                    claimant.claims.add(owner[1])
            return
        if packet is None:
            return
        discovery = packet.proto == IPPROTO_ICMPV6 and packet.dport >> 8 in _NEIGHBOUR_DISCOVERY
        if is_group(target) or discovery:
            self._claim(station, packet.src)
            if discovery and packet.dport >> 8 == ROUTER_ADVERTISEMENT:
                self._advertisement(station, frame, packet)
        else:
            self._forwarded(station, source, target, packet)
        if packet.proto == IPPROTO_UDP and packet.sport == SERVER_PORT:
            message = dhcp_of(packet)
            if message is not None and message.reply:
                station.serves = True

    def gateways(self) -> frozenset[Mac]:
        """MACs that are routers, by what was looked at so far."""
        on_link = PrefixSet(tuple(self._on_link))
        got: dict[Mac, set[Address]] = {
            mac: self._parties(station.receives, station, on_link) for mac, station in self._stations.items()
        }
        strong = {
            mac
            for mac, station in self._stations.items()
            if station.advertises
            or (got[mac] and self._is_router(station, got[mac] | self._sent(station, (), on_link)))
        }
        found = strong | {
            mac
            for mac, station in self._stations.items()
            if self._is_router(station, self._sent(station, strong, on_link))
        }
        if not found:
            found = {mac for mac, station in self._stations.items() if station.serves}
        return frozenset(found)

    def own_addresses(self, macs: Iterable[Mac]) -> frozenset[Address]:
        """Addresses that these MACs have themselves."""
        stations = [self._stations[mac] for mac in macs if mac in self._stations]
        return frozenset(address for station in stations for address in station.claims)

    def _station(self, mac: Mac) -> _Station | None:
        station = self._stations.get(mac)
        if station is None and len(self._stations) < MACS:
            station = self._stations[mac] = _Station()
        return station

    def _claim(self, station: _Station, address: Address) -> None:
        if not is_unicast(address):
            return
        if len(station.claims) < PARTIES:
            station.claims.add(address)
        if len(address) == 16 and is_public(address) and len(self._on_link) < PREFIXES:
            self._on_link.add(network_of(address, 64))

    def _advertisement(self, station: _Station, frame: Frame, packet: Packet) -> None:
        # RFC 4861 4.2: the lifetime is the fourth 16-bit word; no extension header comes before.
        if frame.payload[6] == IPPROTO_ICMPV6 and frame.payload[46:48] != b"\0\0":
            station.advertises = True
        for prefix in advertised_prefixes(packet):
            if len(self._on_link) < PREFIXES:
                self._on_link.add(prefix)

    def _forwarded(self, station: _Station, source: Mac, target: Mac, packet: Packet) -> None:
        if is_public(packet.src):
            parties = station.sends.get(target)
            if parties is None and len(station.sends) < PARTIES:
                parties = station.sends[target] = set()
            if parties is not None and len(parties) < PARTIES:
                parties.add(packet.src)
        if is_public(packet.dst):
            receiver = self._station(target)
            if receiver is not None and target != source and len(receiver.receives) < PARTIES:
                receiver.receives.add(packet.dst)

    @staticmethod
    def _parties(addresses: set[Address], station: _Station, on_link: PrefixSet) -> set[Address]:
        """Count the parties beyond the link among addresses, as IPv4 addresses and IPv6 /64s."""
        return {
            address if len(address) == 4 else address[:8]
            for address in addresses
            if address not in station.claims and address not in on_link
        }

    def _sent(self, station: _Station, routers: Iterable[Mac], on_link: PrefixSet) -> set[Address]:
        sources = [parties for mac, parties in station.sends.items() if mac not in routers]
        return self._parties(set().union(*sources), station, on_link)

    @staticmethod
    def _is_router(station: _Station, parties: set[Address]) -> bool:
        if len(parties) >= 2:
            return True
        private = any(len(address) == 4 and not is_public(address) for address in station.claims)
        return bool(parties) and private
