# SPDX-License-Identifier: GPL-2.0-or-later
"""Mitigation requests of DOTS: a party outside says that a device of the home attacks it. Pure.

Reads the request of RFC 9132 4.4.1 with the source attributes of RFC 9066 5.2 (Call Home), as the
method ``dots_signal`` takes it, and tells which flows it is about. What is done about them is the
caller's to decide. Must not know how requests come in.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from spind.addresses import PrefixSet
from spind.flows import Flow
from spind.ignore import parse_prefix
from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6, Address

SCOPES = 16
"""Scopes of one request; RFC 9132 4.4.1 has servers deal with one."""

ITEMS = 64
"""Entries of one list."""

DEFAULT_LIFETIME = 3600
"""Seconds (RFC 9132 4.4.1: a request without a lifetime gets the default of an hour)."""

LONGEST_LIFETIME = 7 * 86400
"""Seconds; who wants longer asks again (RFC 9132 4.4.1: the server may give less)."""

_MESSAGE = "ietf-dots-signal-channel:mitigation-scope"
_ICMP_RANGES = ("ietf-dots-call-home:source-icmp-type-range", "source-icmp-type-range")

Range = tuple[int, int]


class DotsError(ValueError):
    """A request that cannot be followed; the sentence says why."""


class Scope(NamedTuple):
    """What is attacked, from whom it is to be kept, and for how long.

    ``prefixes`` are the targets'. Empty ``protocols``, ``ports`` and ``icmp_types`` mean any. ``lifetime``
    is in seconds, 0 for as long as people leave it (RFC 9132 4.4.1: -1).
    """

    prefixes: tuple[tuple[Address, int], ...]
    protocols: tuple[int, ...]
    ports: tuple[Range, ...]
    icmp_types: tuple[Range, ...]
    lifetime: int

    def concerns(self, flow: Flow, addresses: Iterable[Address]) -> bool:
        """Is it about this flow, to a party with these addresses?"""
        key = flow.key
        if self.protocols and key.proto not in self.protocols:
            return False
        icmp = key.proto in (IPPROTO_ICMP, IPPROTO_ICMPV6)
        ranges = self.icmp_types if icmp else self.ports
        if ranges and not any(low <= key.port <= high for low, high in ranges):
            return False
        if not ranges and (self.ports or self.icmp_types):
            return False  # the other kind is meant
        targets = PrefixSet(self.prefixes)
        return any(address in targets for address in addresses)


def parse_request(message: Mapping[str, Any]) -> list[Scope]:
    """The scopes of a mitigation request. ``DotsError`` where it is none, or asks for what is not there."""
    request = message.get(_MESSAGE)
    if not isinstance(request, Mapping):
        raise DotsError(f"{_MESSAGE} must be there, and an object (RFC 9132 4.4.1)")
    scopes = request.get("scope")
    if not isinstance(scopes, list) or not 1 <= len(scopes) <= SCOPES:
        raise DotsError(f"scope must be an array of 1 to {SCOPES} objects")
    return [_scope(scope) for scope in scopes]


def _scope(scope: Any) -> Scope:
    if not isinstance(scope, Mapping):
        raise DotsError("scope must be an array of objects")
    for name in ("target-fqdn", "target-uri", "alias-name"):
        if name in scope:
            raise DotsError(f"{name} is not supported: give target-prefix")
    prefixes = tuple(_prefix(text) for text in _list(scope, "target-prefix"))
    if not prefixes:
        raise DotsError("target-prefix must have at least one prefix")
    protocols = tuple(_number("target-protocol", value, 0, 255) for value in _list(scope, "target-protocol"))
    ports = tuple(
        _range("target-port-range", "port", item, 65535) for item in _list(scope, "target-port-range")
    )
    icmp_types = tuple(
        _range(name, "type", item, 255) for name in _ICMP_RANGES for item in _list(scope, name)
    )
    lifetime = _number("lifetime", scope.get("lifetime", DEFAULT_LIFETIME), -1, 2**31 - 1)
    if lifetime == 0:
        raise DotsError("lifetime must not be 0: what was made can be removed or undone (RFC 9132 4.4.4)")
    return Scope(
        prefixes, protocols, ports, icmp_types, 0 if lifetime < 0 else min(lifetime, LONGEST_LIFETIME)
    )


def _list(scope: Mapping[str, Any], name: str) -> list[Any]:
    value = scope.get(name, [])
    if not isinstance(value, list) or len(value) > ITEMS:
        raise DotsError(f"{name} must be an array of at most {ITEMS} entries")
    return value


def _prefix(text: Any) -> tuple[Address, int]:
    try:
        address, bits = parse_prefix(text if isinstance(text, str) else "")
    except ValueError:
        raise DotsError(f"target-prefix: {str(text)[:60]!r} is no address or prefix") from None
    if not bits:
        raise DotsError("target-prefix must not be everything")
    return address, bits


def _range(name: str, what: str, item: Any, most: int) -> Range:
    """RFC 9132 4.4.1: the lower end alone is a single value."""
    if not isinstance(item, Mapping) or f"lower-{what}" not in item:
        raise DotsError(f"{name} must be an array of objects with lower-{what}")
    low = _number(f"lower-{what}", item[f"lower-{what}"], 0, most)
    high = _number(f"upper-{what}", item.get(f"upper-{what}", low), 0, most)
    if high < low:
        raise DotsError(f"{name}: upper-{what} is below lower-{what}")
    return low, high


def _number(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, str) and value.lstrip("-").isdecimal() and len(value) < 12:
        value = int(value)  # RFC 7951 6.1 has 64-bit integers as strings
    if type(value) is not int or not least <= value <= most:
        raise DotsError(f"{name} must be a number from {least} to {most}")
    return value
