# SPDX-License-Identifier: GPL-2.0-or-later
"""The gateway's own interfaces: which of them are the home's side, and what addresses they have.

Owns the meaning of the option ``lan``. Pure: fed by ``neighbours`` with what the kernel tells.

A word of ``lan`` is the name of an interface; or of a network in OpenWrt's ``/etc/config/network``,
which stands for its device; or of a bridge without its ``br-``. Interfaces may appear later.
"""

from spind.events import LocalAddresses
from spind.model import Address, Mac
from spind.uci import Package
from spind.wire.neighbour import Interface, InterfaceAddress

MAX_INTERFACES = 4_096
"""Further ones are ignored. Containers and VPN clients make hundreds, nobody makes thousands."""

MAX_ADDRESSES = 256
"""Of one interface; further ones are ignored."""


class Links:
    """Interfaces and their addresses; ``lan`` and ``mode`` as in the configuration.

    In mode ``bridge`` the words of ``lan`` name the ports on the home's side, and rules see packets
    at the bridge that these belong to. In mode ``local`` no word that fits means all interfaces.
    """

    def __init__(self, lan: tuple[str, ...], mode: str, network: Package | None = None) -> None:
        self._lan = lan
        self._mode = mode
        self._devices = _network_devices(network)
        self._links: dict[int, Interface] = {}
        self._addresses: dict[int, dict[Address, int]] = {}
        self._lan_indexes: frozenset[int] = frozenset()

    def apply(self, message: Interface | InterfaceAddress) -> None:
        """Take what the kernel told."""
        if isinstance(message, Interface):
            if message.gone:
                self._links.pop(message.ifindex, None)
                self._addresses.pop(message.ifindex, None)
            elif message.ifindex in self._links or len(self._links) < MAX_INTERFACES:
                self._links[message.ifindex] = message
            self._lan_indexes = self._find_lan()
        elif message.gone:
            self._addresses.get(message.ifindex, {}).pop(message.address, None)
        else:
            addresses = self._addresses.setdefault(message.ifindex, {})
            if len(addresses) < MAX_ADDRESSES:
                addresses[message.address] = message.bits

    def made_with(self, network: Package | None) -> bool:
        """Whether a file of networks says the same as the one given at first."""
        return _network_devices(network) == self._devices

    def clear(self) -> None:
        """Forget all, before the kernel tells all again."""
        self._links.clear()
        self._addresses.clear()
        self._lan_indexes = frozenset()

    def is_lan(self, index: int) -> bool:
        """Whether what comes in at the interface comes from the home: in mode ``local`` nothing does."""
        return index in self._lan_indexes and self._mode != "local"

    def missing(self) -> list[str]:
        """Words of ``lan`` that no interface answers to."""
        names = {link.name for link in self._links.values()}
        return [word for word in self._lan if self._resolve(word, names) is None]

    def rule_interfaces(self) -> tuple[str, ...]:
        """Names of the interfaces at which rules see the home's packets, sorted."""
        indexes = self._bridges() if self._mode == "bridge" else self._lan_indexes
        if self._mode == "local" and not self.has_lan():
            return ()
        return tuple(sorted(self._links[index].name for index in indexes))

    def capture_interfaces(self) -> tuple[str, ...]:
        """Names of the interfaces at which packets of the home can be read, sorted: those of the home's
        side themselves. A bridge passes on more than it shows."""
        return tuple(sorted(self._links[index].name for index in self._lan_indexes))

    def has_lan(self) -> bool:
        """Whether a word of ``lan`` fits an interface."""
        return len(self.missing()) < len(self._lan)

    def bridges_named(self) -> list[str]:
        """In mode ``bridge``, words of ``lan`` that name a bridge: its two sides cannot be told apart."""
        masters = {link.master for link in self._links.values()}
        return [self._links[i].name for i in self._lan_indexes if self._mode == "bridge" and i in masters]

    def local_addresses(self) -> LocalAddresses:
        """Our own addresses and MACs, without loopback, and the home's prefixes."""
        ours = self._lan_indexes if self._mode == "local" else frozenset(self._links)
        addresses: set[Address] = set()
        macs: set[Mac] = set()
        for index in ours:
            link = self._links[index]
            if not link.loopback:
                addresses |= self._addresses.get(index, {}).keys()
                macs |= {link.mac} - {b""}
        prefixes = {
            _network(address, bits)
            for index in self._lan_indexes | (self._bridges() if self._mode == "bridge" else frozenset())
            for address, bits in self._addresses.get(index, {}).items()
        }
        return LocalAddresses(frozenset(addresses), frozenset(macs), tuple(sorted(prefixes)))

    def _find_lan(self) -> frozenset[int]:
        by_name = {link.name: link.ifindex for link in self._links.values()}
        found = {self._resolve(word, set(by_name)) for word in self._lan}
        indexes = {by_name[name] for name in found if name is not None}
        if self._mode == "local" and not indexes:
            return frozenset(link.ifindex for link in self._links.values() if not link.loopback)
        return frozenset(indexes)

    def _resolve(self, word: str, names: set[str]) -> str | None:
        candidates = (word, *self._devices.get(word, ()), f"br-{word}")
        return next((name for name in candidates if name in names), None)

    def _bridges(self) -> frozenset[int]:
        """Bridges of the home's ports, or those that were named themselves."""
        masters = {self._links[index].master or index for index in self._lan_indexes}
        return frozenset(masters & self._links.keys())


def _network(address: Address, bits: int) -> tuple[Address, int]:
    size = len(address) * 8
    mask = ((1 << bits) - 1) << (size - bits)
    return (int.from_bytes(address, "big") & mask).to_bytes(len(address), "big"), bits


def _network_devices(network: Package | None) -> dict[str, tuple[str, ...]]:
    """Devices of each network: ``device`` since OpenWrt 21.02, before ``ifname`` and a bridge's type."""
    devices: dict[str, tuple[str, ...]] = {}
    for section in network.typed("interface") if network is not None else ():
        words: list[str] = []
        for option in ("device", "ifname"):
            value = section.options.get(option, "")
            words += value.split() if isinstance(value, str) else value
        if section.options.get("type") == "bridge":
            words = [f"br-{section.name}"]
        devices[section.name] = tuple(words)
    return devices
