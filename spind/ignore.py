# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses and prefixes that are hidden from views by themselves, apart from any node. Pure."""

from collections.abc import Iterable
from ipaddress import ip_network

from spind.addresses import PrefixSet
from spind.model import Address

LIMIT = 1024
"""Entries; people make them one by one."""


class IgnoreList:
    """A list of addresses and prefixes, in the text form they were given in."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[Address, int]] = {}
        self._prefixes = PrefixSet()

    def add(self, text: str) -> None:
        """Hide an address or prefix; ``ValueError`` where it is neither, or the list is full."""
        self.check_room(text)
        self._texts[text] = parse_prefix(text)
        self._prefixes = PrefixSet(tuple(self._texts.values()))

    def check_room(self, text: str) -> None:
        """``ValueError`` where ``add`` would raise one."""
        parse_prefix(text)
        if len(self._texts) >= LIMIT and text not in self._texts:
            raise ValueError(f"the ignore list is full ({LIMIT} entries)")

    def remove(self, text: str) -> bool:
        """Show it again; False where it was not listed (in whatever spelling)."""
        try:
            wanted = parse_prefix(text)
        except ValueError:
            return False
        found = [listed for listed, entry in self._texts.items() if entry == wanted]
        for listed in found:
            del self._texts[listed]
        self._prefixes = PrefixSet(tuple(self._texts.values()))
        return bool(found)

    def keep(self, texts: Iterable[str]) -> None:
        """Drop every entry that is not among ``texts``."""
        kept = set(texts)
        self._texts = {text: entry for text, entry in self._texts.items() if text in kept}
        self._prefixes = PrefixSet(tuple(self._texts.values()))

    def hides(self, *addresses: Address) -> bool:
        """Is any of the addresses hidden?"""
        return bool(self._texts) and any(address in self._prefixes for address in addresses)

    def texts(self) -> list[str]:
        """The entries, in the order they were made."""
        return list(self._texts)


def parse_prefix(text: str) -> tuple[Address, int]:
    """(network, bits) of an address or prefix in text; ``ValueError`` where it is neither.

    Host bits may be set (``192.168.8.1/24``), as people write it.
    """
    network = ip_network(text, strict=False)
    return network.network_address.packed, network.prefixlen
