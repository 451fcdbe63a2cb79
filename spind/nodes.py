# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is a device, who is a remote party: the table of nodes.

Owns the nodes, their ids and their life cycle. A device is known by its MAC; the addresses it
has are learned from neighbour events, leases and first packets. A site is known by its
registrable domain, or by its address where it has no name. Nodes never merge because they share
an address. Must not know about traffic, names' evidence or messages.
"""

from collections import OrderedDict
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from spind.addresses import PrefixSet, is_link_local, is_public, is_unicast
from spind.limits import Limits
from spind.model import Address, Mac, format_address, format_mac, parse_address, parse_mac

ADDRESS_HELD = 300.0
"""Seconds without a packet after which an address that the neighbour table does not vouch for (mode
``bridge`` has none) goes to the next device that sends from it."""


class Kind(StrEnum):
    """What a node is."""

    DEVICE = "device"
    SITE = "site"
    GATEWAY = "gateway"


class Decision(NamedTuple):
    """What people decided about a node, as UCI keeps it."""

    name: str = ""
    ignored: bool = False
    profile: str = ""


class Listed(NamedTuple):
    """Which of the lists ``block`` and ``allow`` a node is on."""

    blocked: bool = False
    excepted: bool = False


class Node:
    """A device, a remote party, or the gateway itself.

    ``addresses`` and ``domains`` map to the time of the last sighting, oldest first.
    ``domain`` is a site's registrable domain, empty for a site that is an address.
    ``origin`` is the id of the device that first talked to a site, 0 where none did.
    """

    __slots__ = (
        "addresses",
        "announced",
        "blocked",
        "changed",
        "deleted",
        "domain",
        "domains",
        "excepted",
        "firstseen",
        "heir",
        "hostname",
        "id",
        "ignored",
        "kind",
        "lastseen",
        "mac",
        "name",
        "origin",
        "present",
        "profile",
    )

    def __init__(self, node_id: int, kind: Kind, now: float) -> None:
        self.id = node_id
        self.kind = kind
        self.mac: Mac | None = None
        self.name = ""
        self.hostname = ""
        self.domain = ""
        self.addresses: dict[Address, float] = {}
        self.domains: dict[str, float] = {}
        self.ignored = False
        self.profile = ""
        self.blocked = False
        self.excepted = False
        self.firstseen = now
        self.lastseen = now
        self.origin = 0
        # Where the neighbour table has a device; a site costs no set of its own.
        self.present: set[Address] | frozenset[Address] = set() if kind is Kind.DEVICE else frozenset()
        self.announced = 0.0
        self.changed = True
        self.deleted = False
        self.heir: Node | None = None

    @property
    def decision_key(self) -> str:
        """What UCI knows it by: MAC, registrable domain or address; empty where it has none."""
        if self.mac is not None:
            return format_mac(self.mac)
        if self.kind is not Kind.SITE:
            return ""
        return self.domain or next((format_address(address) for address in self.addresses), "")

    @property
    def decided(self) -> bool:
        """People decided something about it, so it is never evicted or expired."""
        return self.ignored or self.blocked or self.excepted or bool(self.name or self.profile)

    @property
    def label(self) -> str:
        """What to call it in a sentence."""
        if self.name or self.hostname or self.domain:
            return self.name or self.hostname or self.domain
        if self.kind is Kind.GATEWAY:
            return "gateway"
        if self.mac is not None:
            return format_mac(self.mac)
        return next((format_address(address) for address in self.addresses), "other addresses")

    def touch_domain(self, name: str, now: float, limit: int) -> None:
        """Note a host name of this node, the most recent one last."""
        if name not in self.domains:
            self.changed = True
            if len(self.domains) >= limit:
                del self.domains[next(iter(self.domains))]
        self.domains[name] = now


class Nodes:
    """All nodes, by id, MAC, address and domain."""

    def __init__(self, limits: Limits, ids: dict[str, int] | None = None) -> None:
        """``ids`` are the node ids that devices had before a restart, by MAC in text."""
        self._limits = limits
        self._known_ids = dict(ids or {})
        self.new_profile = ""
        """Profile for devices that were never seen before; empty: none."""
        self.given: dict[str, str] = {}
        """The profiles that devices were given because they were new, by MAC in text."""
        self._next_id = max(self._known_ids.values(), default=0) + 1
        self.by_id: dict[int, Node] = {}
        self.devices: OrderedDict[Mac, Node] = OrderedDict()
        self._home: dict[Address, Node] = {}
        self._domains: dict[str, Node] = {}
        self._nameless: dict[Address, Node] = {}
        self._assigned: dict[Address, Node] = {}
        self._site_order: OrderedDict[int, Node] = OrderedDict()
        self._by_origin: dict[int, OrderedDict[int, Node]] = {}
        self._gateway: Node | None = None
        self._overflow: Node | None = None
        self._decisions: dict[str, Decision] = {}
        self._listed: dict[str, Listed] = {}
        self._own: frozenset[Address] = frozenset()
        self.own_macs: frozenset[Mac] = frozenset()
        self.prefixes = PrefixSet()
        self.gone: list[Node] = []
        """Nodes that were deleted since the owner last emptied this list."""
        self.merged: list[tuple[Node, Node]] = []
        """(old, new) pairs since the owner last emptied this list."""
        self.moved: list[Node] = []
        """Devices that are new or have other addresses since the owner last emptied this list."""
        self.newcomers: list[Node] = []
        """Devices that were never seen before, until the owner takes them out; the oldest goes."""
        self.evicted_devices = 0
        self.evicted_sites = 0
        self.overflowed_sites = 0

    # -- the home's side -----------------------------------------------------------------

    def set_local(
        self,
        addresses: frozenset[Address],
        macs: frozenset[Mac],
        prefixes: tuple[tuple[Address, int], ...],
        now: float,
    ) -> None:
        """The gateway's own addresses, and what belongs to the home."""
        self._own = addresses
        self.own_macs = macs
        self.prefixes = PrefixSet(prefixes)
        for address in addresses:
            holder = self._home.pop(address, None)
            if holder is not None:
                holder.addresses.pop(address, None)
                holder.changed = True
                self.moved.append(holder)
        if self._gateway is not None:
            self._name_gateway(self._gateway, now)

    def gateway(self, now: float) -> Node:
        """The node of the gateway itself, made when it is first needed."""
        if self._gateway is None:
            self._gateway = self._new(Kind.GATEWAY, now)
            self._name_gateway(self._gateway, now)
        return self._gateway

    def is_own(self, address: Address) -> bool:
        """Is it one of the gateway's addresses?"""
        return address in self._own

    def in_home(self, address: Address) -> bool:
        """Can the address be a device's? Within the home's prefixes, or link-local.

        As long as no prefix is known, every private address counts.
        """
        if is_link_local(address):
            return True
        if self.prefixes:
            return address in self.prefixes and is_unicast(address)
        return is_unicast(address) and not is_public(address)

    def device_at(self, address: Address) -> Node | None:
        """The device that has this address."""
        return self._home.get(address)

    def device(self, mac: Mac, now: float) -> Node | None:
        """The device with this MAC, made if it is new. ``None`` where the table is full of devices
        that people decided about, or the MAC cannot be a device's (group address, our own)."""
        node = self.devices.get(mac)
        if node is not None:
            self.devices.move_to_end(mac)
            return node
        # IEEE 802: the low bit of the first octet marks a group address.
        if mac[0] & 1 or mac in self.own_macs or not any(mac):
            return None
        if len(self.devices) >= self._limits.devices and not self._evict_device():
            return None
        text = format_mac(mac)
        known = self._known_ids.pop(text, 0)
        if self.new_profile and not known and text not in self._decisions:
            self.given[text] = self.new_profile
            while len(self.given) > self._limits.devices * 2:
                del self.given[next(iter(self.given))]
        node = self._new(Kind.DEVICE, now, known)
        node.mac = mac
        self.devices[mac] = node
        self._apply_decision(node)
        self.moved.append(node)
        if not known and text not in self._decisions:
            self.newcomers.append(node)
            del self.newcomers[: -self._limits.devices]
        return node

    def learn(self, device: Node, address: Address, now: float, *, sure: bool) -> None:
        """``device`` uses ``address``. ``sure`` says that the kernel's neighbour table or a lease
        says so; a packet alone never takes an address away from another device."""
        if address in device.addresses:
            device.addresses[address] = now
            return
        if address in self._own or not self.in_home(address):
            return
        holder = self._home.get(address)
        if holder is not None and holder is not device:
            if holder.mac is None:
                self._merge(holder, device)
            elif not sure and (
                address in holder.present or now - holder.addresses.get(address, now) < ADDRESS_HELD
            ):
                return
            else:
                holder.addresses.pop(address, None)
                holder.present -= {address}
                holder.changed = True
                self.moved.append(holder)
        if len(device.addresses) >= self._limits.addresses_per_node:
            oldest = min(device.addresses, key=device.addresses.__getitem__)
            del device.addresses[oldest]
            device.present -= {oldest}
            self._home.pop(oldest, None)
        device.addresses[address] = now
        device.changed = True
        self._home[address] = device
        self.moved.append(device)

    def claim(self, device: Node, addresses: frozenset[Address], now: float) -> None:
        """This host is the device (mode ``local``): exactly these addresses are its own."""
        for address in [address for address in device.addresses if address not in addresses]:
            del device.addresses[address]
            self._home.pop(address, None)
            device.changed = True
        for address in addresses:
            if is_unicast(address) and address not in device.addresses:
                device.addresses[address] = now
                device.changed = True
                self._home[address] = device
        self.moved.append(device)

    def device_without_mac(self, address: Address, now: float) -> Node | None:
        """A device that so far is only an address of the home; merged once its MAC is known."""
        node = self._home.get(address)
        if node is None:
            if len(self._home) >= self._limits.devices * 2:
                return None
            node = self._new(Kind.DEVICE, now)
            node.addresses[address] = now
            self._home[address] = node
        return node

    def profile_of(self, device: Node) -> str:
        """The profile that holds for a device: the one people chose, else the one for new devices."""
        if device.profile or device.mac is None or not self.given:
            return device.profile
        return self.given.get(format_mac(device.mac), "")

    def presence(self, device: Node, address: Address, *, present: bool) -> None:
        """The kernel's neighbour table has the device at this address, or no longer has."""
        if present:
            device.present |= {address}
        else:
            device.present -= {address}

    # -- remote parties ------------------------------------------------------------------

    def site(self, name: str, domain: str, origin: int, now: float) -> Node:
        """The site ``domain``, of which ``name`` is a host name; made if new."""
        node = self._domains.get(domain)
        if node is None:
            self._make_room(origin)
            node = self._new(Kind.SITE, now)
            node.domain = domain
            self._domains[domain] = node
            self._file(node, origin)
            self._apply_decision(node)
        self._touch(node, now)
        node.touch_domain(name, now, self._limits.domains_per_node)
        return node

    def site_at(self, address: Address, origin: int, now: float) -> Node:
        """The site that is this nameless address; a shared one beyond the device's bound."""
        node = self._assigned.get(address) or self._nameless.get(address)
        if node is None:
            if len(self._by_origin.get(origin, ())) >= self._limits.sites_per_device:
                self.overflowed_sites += 1
                return self._shared(now)
            self._make_room(origin)
            node = self._new(Kind.SITE, now)
            node.addresses[address] = now
            self._nameless[address] = node
            self._file(node, origin)
            self._apply_decision(node)
        self._touch(node, now)
        return node

    def touch_site_address(self, node: Node, address: Address, now: float) -> None:
        """Note an address of a named site; other sites may have the same one."""
        if address not in node.addresses:
            node.changed = True
            if len(node.addresses) >= self._limits.addresses_per_node:
                del node.addresses[min(node.addresses, key=node.addresses.__getitem__)]
        node.addresses[address] = now

    def find_domain(self, domain: str) -> Node | None:
        """The site with this registrable domain, if there is one."""
        return self._domains.get(domain)

    def find_address(self, address: Address) -> Node | None:
        """Who has this address: a device, the gateway, an assigned or a nameless site."""
        if self._gateway is not None and address in self._own:
            return self._gateway
        return self._home.get(address) or self._assigned.get(address) or self._nameless.get(address)

    def assign(self, node: Node | None, address: Address, now: float) -> Node:
        """Give a node (``None``: a new site) an address by hand (``node_add_ip``)."""
        if node is None:
            self._make_room(0)
            node = self._new(Kind.SITE, now)
            self._file(node, 0)
        node.addresses[address] = now
        node.changed = True
        if node.kind is Kind.DEVICE:
            self._home[address] = node
            self.moved.append(node)
        else:
            self._assigned[address] = node
        return node

    def assigned_to(self, node: Node) -> set[Address]:
        """The addresses that people gave a remote party by hand."""
        return {address for address, holder in self._assigned.items() if holder is node}

    def has_address(self, address: Address) -> bool:
        """Does any node have it?"""
        return (
            self.find_address(address) is not None
            or address in self._own
            or any(address in node.addresses for node in self._site_order.values())
        )

    def seen(self, node: Node, now: float) -> None:
        """There was traffic of this node."""
        if node.kind is Kind.SITE:
            self._touch(node, now)
        else:
            node.lastseen = now
            if node.mac is not None and node.mac in self.devices:
                self.devices.move_to_end(node.mac)

    def decide(self, decisions: dict[str, Decision], now: float) -> None:
        """All that people decided, by ``Node.decision_key``; devices among it exist from now on."""
        self._decisions = dict(decisions)
        for node in self.by_id.values():
            self._apply_decision(node)
        for key in decisions:
            self._expect(key, now)

    def decisions(self) -> dict[str, Decision]:
        """All that people decided about nodes."""
        return dict(self._decisions)

    def decision(self, key: str) -> Decision:
        """What people decided about the node of this key, be it there or not."""
        return self._decisions.get(key, Decision())

    def decide_one(self, key: str, decision: Decision, now: float) -> Node | None:
        """One such decision; the node that it is about, if it is there."""
        if decision == Decision():
            self._decisions.pop(key, None)
        else:
            self._decisions[key] = decision
            self._expect(key, now)
        return self._redecide(key)

    def set_listed(self, key: str, listed: Listed) -> Node | None:
        """The lists that the node of this key is on; the node, if it is there."""
        if listed == Listed():
            self._listed.pop(key, None)
        else:
            self._listed[key] = listed
        return self._redecide(key)

    def by_key(self, key: str) -> Node | None:
        """The node that decisions call ``key``: a MAC, a registrable domain or an address."""
        try:
            return self.devices.get(parse_mac(key))
        except ValueError:
            pass
        if key in self._domains:
            return self._domains[key]
        try:
            address = parse_address(key)
        except ValueError:
            return None
        return self._assigned.get(address) or self._nameless.get(address)

    def expire(self, now: float, retain: float) -> None:
        """Delete what was not seen for ``retain`` seconds, unless people decided about it or the
        neighbour table still has it."""
        deadline = now - retain
        old_sites = []
        for node in self._site_order.values():
            if node.lastseen > deadline:
                break
            if not node.decided:
                old_sites.append(node)
        for node in old_sites:
            self._delete(node)
        for node in [n for n in self.by_id.values() if n.kind is Kind.DEVICE]:
            if node.lastseen <= deadline and not node.decided and not node.present:
                self._delete(node)

    def shift(self, delta: float) -> None:
        """The clock was set by ``delta`` seconds."""
        for node in self.by_id.values():
            if node.lastseen:  # 0 for devices that were never seen
                node.lastseen += delta
                node.firstseen += delta
            node.announced += delta
            for times in (node.addresses, node.domains):
                for key in times:
                    times[key] += delta  # type: ignore[index]

    # -- views ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Node]:
        return iter(self.by_id.values())

    def ids(self) -> dict[str, int]:
        """The node ids of devices by MAC: the live ones, and known ones not yet back."""
        live = {format_mac(mac): node.id for mac, node in self.devices.items()}
        room = max(self._limits.devices * 2 - len(live), 0)
        known = dict(list(self._known_ids.items())[-room:]) if room else {}
        return known | live

    @property
    def site_count(self) -> int:
        """How many sites there are."""
        return len(self._site_order)

    # -- inside --------------------------------------------------------------------------

    def _new(self, kind: Kind, now: float, node_id: int = 0) -> Node:
        if not node_id:
            node_id = self._next_id
            self._next_id += 1
        node = Node(node_id, kind, now)
        self.by_id[node_id] = node
        return node

    def _apply_decision(self, node: Node) -> None:
        key = node.decision_key
        if not key:
            return
        decision = self._decisions.get(key, Decision())
        listed = self._listed.get(key, Listed())
        if decision.profile != node.profile:
            self.moved.append(node)
        if (node.name, node.ignored, node.profile) != decision or (node.blocked, node.excepted) != listed:
            node.name, node.ignored, node.profile = decision
            node.blocked, node.excepted = listed
            node.changed = True

    def _redecide(self, key: str) -> Node | None:
        node = self.by_key(key)
        if node is not None:
            self._apply_decision(node)
        return node

    def _expect(self, key: str, now: float) -> None:
        """A device that people decided about is there, even before it is seen."""
        try:
            mac = parse_mac(key)
        except ValueError:
            return
        if mac not in self.devices:
            device = self.device(mac, now)
            if device is not None:
                device.firstseen = device.lastseen = 0.0

    def _name_gateway(self, node: Node, now: float) -> None:
        own = sorted((a for a in self._own if is_unicast(a)), key=lambda a: (len(a), a))
        node.addresses = dict.fromkeys(own, now)
        node.changed = True

    def _shared(self, now: float) -> Node:
        if self._overflow is None:
            self._overflow = self._new(Kind.SITE, now)
        self._overflow.lastseen = now
        return self._overflow

    def _file(self, node: Node, origin: int) -> None:
        node.origin = origin
        self._site_order[node.id] = node
        if origin:
            self._by_origin.setdefault(origin, OrderedDict())[node.id] = node

    def _touch(self, node: Node, now: float) -> None:
        node.lastseen = now
        if node.id in self._site_order:
            self._site_order.move_to_end(node.id)
            if node.origin:
                self._by_origin[node.origin].move_to_end(node.id)

    def _make_room(self, origin: int) -> None:
        own = self._by_origin.get(origin, ())
        if len(own) >= self._limits.sites_per_device:
            self._evict_site(self._by_origin[origin])
        elif len(self._site_order) >= self._limits.sites:
            self._evict_site(self._site_order)

    def _evict_site(self, order: OrderedDict[int, Node]) -> None:
        # Decided ones are few (people made them); where all are, the table may grow by one.
        victim = next((node for node in order.values() if not node.decided), None)
        if victim is not None:
            self.evicted_sites += 1
            self._delete(victim)

    def _evict_device(self) -> bool:
        # A MAC that was forged for one packet is not in the neighbour table.
        undecided = [node for node in self.devices.values() if not node.decided]
        victim = next((node for node in undecided if not node.present), next(iter(undecided), None))
        if victim is None:
            return False
        self.evicted_devices += 1
        self._delete(victim)
        return True

    def _delete(self, node: Node) -> None:
        node.deleted = True
        del self.by_id[node.id]
        if node.kind is Kind.SITE:
            self._site_order.pop(node.id, None)
            self._domains.pop(node.domain, None)
            for address in node.addresses:
                if self._nameless.get(address) is node:
                    del self._nameless[address]
                if self._assigned.get(address) is node:
                    del self._assigned[address]
            own = self._by_origin.get(node.origin)
            if own is not None:
                own.pop(node.id, None)
                if not own:
                    del self._by_origin[node.origin]
        else:
            if node.mac is not None:
                self.devices.pop(node.mac, None)
                self._known_ids[format_mac(node.mac)] = node.id
                while len(self._known_ids) > self._limits.devices * 2:
                    del self._known_ids[next(iter(self._known_ids))]
            for address in node.addresses:
                if self._home.get(address) is node:
                    del self._home[address]
        self.gone.append(node)

    def _merge(self, old: Node, new: Node) -> None:
        """A device without MAC turned out to be ``new``."""
        addresses = list(old.addresses)
        self._delete(old)
        self.gone.remove(old)
        for address in addresses:
            new.addresses[address] = old.lastseen
            self._home[address] = new
        new.changed = True
        self.moved.append(new)
        old.heir = new
        self.merged.append((old, new))
