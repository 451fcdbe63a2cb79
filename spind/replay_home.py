# SPDX-License-Identifier: GPL-2.0-or-later
"""Who belongs to the home while a capture file is replayed. Pure.

Turns what frames tell into the events that the neighbour table, DHCP leases and interface
addresses give live. Frames with two MACs (Ethernet): every unicast MAC that is no router is a
device. What a device sends from, or is sent to, is its address; a public one only within the
home's prefixes. Frames without (raw IP, Linux cooked): every private or link-local address is a
device of its own.
"""

from typing import Final

from spind.addresses import PrefixSet, is_link_local, is_public, is_unicast
from spind.events import Event, LeaseSeen, LocalAddresses, NeighbourSeen
from spind.model import IPPROTO_ICMPV6, IPPROTO_UDP, Address, Mac, parse_address
from spind.replay_routers import (
    MACS,
    PREFIXES,
    ROUTER_ADVERTISEMENT,
    Prefix,
    advertised_prefixes,
    arp_owner,
    dhcp_of,
    is_group,
    network_of,
)
from spind.wire.dhcp import ACK, CLIENT_PORT, SERVER_PORT
from spind.wire.link import Frame
from spind.wire.packet import Packet

ADDRESSES: Final = 65536
"""Address and MAC pairs remembered; at the bound all are forgotten, and learned again."""

# Blocks that stand for the home where only addresses are known; fe80::/10 and 169.254/16 always do.
_PRIVATE: Final = tuple(
    (parse_address(text), bits)
    for text, bits in (
        ("10.0.0.0", 8),
        ("172.16.0.0", 12),
        ("192.168.0.0", 16),
        ("100.64.0.0", 10),
        ("fc00::", 7),
    )
)


class Home:
    """Who is who while a capture is replayed: turns what is new in a frame into the engine's events."""

    def __init__(
        self, gateways: frozenset[Mac], own: frozenset[Address], lan: tuple[Prefix, ...] = ()
    ) -> None:
        """``own`` are addresses of the gateways; ``lan`` are the home's prefixes, empty to find them."""
        self.gateways = gateways
        self._own = own
        self._fixed = bool(lan)
        self._prefixes = list(lan)
        self._home = PrefixSet(lan)
        # address -> who has it; nobody's MAC in captures without MACs
        self._known: dict[Address, Mac] = {}
        # Host names that devices asked an address for, which they do not have yet.
        self._names: dict[Mac, str] = {}

    def start(self) -> LocalAddresses:
        """Tell what is known of the gateway and the home's prefixes."""
        return LocalAddresses(self._own, self.gateways, tuple(self._prefixes))

    def sender(self, frame: Frame) -> Mac | None:
        """MAC of the device that sent a frame; ``None`` where a router did, or nobody knows."""
        mac = frame.src_mac
        if mac is None or frame.dst_mac is None or mac in self.gateways or is_group(mac):
            return None
        return mac

    def arp(self, frame: Frame) -> list[Event]:
        """Learn from an ARP frame."""
        owner = arp_owner(frame)
        if owner is None or frame.dst_mac is None:
            return []
        return self._learn(owner[1], owner[0], claimed=True)

    def packet(self, frame: Frame, packet: Packet) -> list[Event]:
        """Learn from an IP packet: whose its addresses are, leases, and prefixes of the home."""
        source, target = frame.src_mac, frame.dst_mac
        known = self._known
        events: list[Event] = []
        if source is None or target is None:
            for address in (packet.src, packet.dst):
                if address not in known:
                    events += self._learn_private(address)
            return events
        if known.get(packet.src) != source and (source not in self.gateways or is_group(target)):
            events = self._learn(packet.src, source, claimed=is_group(target))
        target_is_new = packet.dst not in known and target not in self.gateways
        if target_is_new and (packet.dst in self._home or not is_public(packet.dst)):
            events += self._learn(packet.dst, target, claimed=False)
        if packet.proto == IPPROTO_UDP and packet.sport in (SERVER_PORT, CLIENT_PORT):
            events += self._dhcp(packet)
        elif packet.proto == IPPROTO_ICMPV6 and packet.dport >> 8 == ROUTER_ADVERTISEMENT:
            for prefix in advertised_prefixes(packet):
                events += self._add_prefix(prefix)
        return events

    def _learn(self, address: Address, mac: Mac, *, claimed: bool) -> list[Event]:
        """Note who has an address. ``claimed`` says that no router can have forwarded the packet."""
        known = self._known
        if known.get(address) == mac or is_group(mac) or not any(mac) or not is_unicast(address):
            return []
        events: list[Event] = []
        if mac in self.gateways:
            if address in self._own or len(self._own) >= PREFIXES:
                return []
            self._own |= {address}
            events = [self.start()]
        else:
            if address not in self._home and not is_link_local(address):
                events = self._add_prefix(self._network(address, claimed=claimed))
                if address not in self._home:
                    return events
            name = self._names.pop(mac, "")
            events.append(LeaseSeen(mac, address, name) if name else NeighbourSeen(address, mac))
        if len(known) >= ADDRESSES:
            known.clear()
        known[address] = mac
        return events

    def _network(self, address: Address, *, claimed: bool) -> Prefix | None:
        """Guess the home's network around a device's address: homes have /24s, and IPv6 has /64s
        (RFC 4291 2.5.4). A public IPv4 address stands for itself, if it was claimed: anybody can
        send from one."""
        if len(address) == 16:
            return network_of(address, 64)
        if not is_public(address):
            return network_of(address, 24)
        return (address, 32) if claimed else None

    def _learn_private(self, address: Address) -> list[Event]:
        """Without MACs the home is every private network of which an address was seen."""
        if len(self._known) >= ADDRESSES:
            self._known.clear()
        self._known[address] = b""
        if address in self._home or is_public(address) or not is_unicast(address):
            return []
        return self._add_prefix(next((p for p in _PRIVATE if address in PrefixSet((p,))), None))

    def _add_prefix(self, prefix: Prefix | None) -> list[Event]:
        if prefix is None or self._fixed or prefix in self._prefixes or len(self._prefixes) >= PREFIXES:
            return []
        self._prefixes.append(prefix)
        self._home = PrefixSet(tuple(self._prefixes))
        return [self.start()]

    def _dhcp(self, packet: Packet) -> list[Event]:
        message = dhcp_of(packet)
        if message is None or message.mac in self.gateways:
            return []
        if not message.reply:
            if any(message.address) and message.hostname:
                return [LeaseSeen(message.mac, message.address, message.hostname)]
            if message.hostname and len(self._names) < MACS:
                self._names[message.mac] = message.hostname
            return []
        if message.kind != ACK or not is_unicast(message.address) or is_public(message.address):
            return []
        self._known[message.address] = message.mac
        events: list[Event] = []
        if message.prefix_bits >= 8:
            events = self._add_prefix(network_of(message.address, message.prefix_bits))
        return [*events, LeaseSeen(message.mac, message.address, self._names.pop(message.mac, ""))]
