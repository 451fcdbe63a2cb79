# SPDX-License-Identifier: GPL-2.0-or-later
"""What an address can be: private, multicast, of the home. Pure."""

from ipaddress import ip_network

from spind.model import Address


def _prefixes(*texts: str) -> tuple[tuple[int, int, int], ...]:
    """(network as an integer, bits to shift it right, address length) for each prefix."""
    result = []
    for text in texts:
        network = ip_network(text)
        length = network.max_prefixlen // 8
        shift = network.max_prefixlen - network.prefixlen
        result.append((int(network.network_address) >> shift, shift, length))
    return tuple(result)


# IANA special-purpose registries (RFC 6890) that cannot be a party on the internet.
# Benchmarking (198.18.0.0/15) and documentation prefixes are left out: they are routed in
# laboratories, ours among them.
_NOT_PUBLIC = _prefixes(
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/127",
    "::ffff:0:0/96",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
)
_NOT_UNICAST = _prefixes(
    "0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/127", "ff00::/8"
)


def _within(address: Address, prefixes: tuple[tuple[int, int, int], ...]) -> bool:
    value = int.from_bytes(address, "big")
    length = len(address)
    for network, shift, size in prefixes:
        if size == length and value >> shift == network:
            return True
    return False


def is_public(address: Address) -> bool:
    """True unless the address is private, shared, loopback, link-local, multicast or reserved."""
    return not _within(address, _NOT_PUBLIC)


def is_unicast(address: Address) -> bool:
    """True where the address can belong to one interface: not multicast, broadcast, unspecified."""
    return not _within(address, _NOT_UNICAST)


def is_link_local(address: Address) -> bool:
    """169.254.0.0/16 (RFC 3927) or fe80::/10 (RFC 4291 2.5.6)."""
    if len(address) == 4:
        return address[:2] == b"\xa9\xfe"
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


class PrefixSet:
    """A few prefixes, asked for membership."""

    __slots__ = ("_prefixes",)

    def __init__(self, prefixes: tuple[tuple[Address, int], ...] = ()) -> None:
        self._prefixes = tuple(
            (
                int.from_bytes(network, "big") >> (len(network) * 8 - bits),
                len(network) * 8 - bits,
                len(network),
            )
            for network, bits in prefixes
        )

    def __contains__(self, address: Address) -> bool:
        return _within(address, self._prefixes)

    def __bool__(self) -> bool:
        return bool(self._prefixes)
