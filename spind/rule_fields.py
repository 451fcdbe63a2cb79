# SPDX-License-Identifier: GPL-2.0-or-later
"""Single values in rules and profiles: text that people or programs gave, checked. Pure.

Every refusal is a :class:`FieldError`, which names the field and says what would be right. Must not
know how values go together (that is ``rules`` and ``profiles``).
"""

import re
from ipaddress import IPv6Network, ip_network
from typing import Final

from spind.addresses import PrefixSet, is_unicast
from spind.hostile import NAME_LENGTH, clean_name
from spind.model import (
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    Address,
    Mac,
    format_address,
    format_mac,
    parse_address,
    parse_mac,
)
from spind.sites import registrable_domain
from spind.wire.hostname import from_text

Prefix = tuple[Address, int]
"""(network, bits), host bits clear."""

LONGEST_TEXT: Final = 200
"""Characters of a comment or description."""

LATEST: Final = 9_999_999_999
"""Latest Unix time that is understood, in the year 2286: more is a mistake in the unit."""

PROTOCOLS: Final = {
    "icmp": IPPROTO_ICMP,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "l2tp": 115,
    "sctp": 132,
    "udplite": 136,
}
"""Names of IP protocols, as IANA's registry and ``/etc/protocols`` have them; icmp is ICMPv6, too."""

_PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
_ALIASES: Final = {"any": 0, "all": 0, "icmpv6": IPPROTO_ICMP, "ipv6-icmp": IPPROTO_ICMP}
# Extension headers of IPv6 (RFC 8200 section 4) have numbers of the same registry, but what a packet
# carries comes behind them: a rule for one of them would never match.
_EXTENSION_HEADERS: Final = {43, 44, 60}

# Characters that IDNA 2003, which the standard library has, and IDNA 2008, which browsers and
# registries have, turn into different names (RFC 5894 section 7.2).
_DEVIATING: Final = re.compile("[ßẞς\u200c\u200d]")

_NOBODY: Final = PrefixSet(((bytes(4), 8), (b"\x7f" + bytes(3), 8), (bytes(16), 127)))
_GROUPS: Final = PrefixSet(((b"\xe0" + bytes(3), 4), (b"\xff" * 4, 32), (b"\xff" + bytes(15), 8)))

_LONGEST_DOMAIN: Final = 253
_SHOWN: Final = 80
_DOMAIN: Final = "a host name or domain such as example.org"
_PREFIX: Final = "an IP address or prefix such as 192.0.2.1 or 2001:db8::/32"
_MAC: Final = "the MAC address of a device"
_NODE: Final = "a MAC address, a registrable domain such as example.org or an IP address"


class FieldError(ValueError):
    """A value that cannot be: ``field`` is its name, ``value`` what was given, ``allowed`` what can be.

    The text is a sentence for people. It repeats no more than some characters of the value, and
    none that does not show.
    """

    def __init__(self, field: str, value: object, allowed: str, sentence: str = "") -> None:
        super().__init__(sentence or f"{field} must be {allowed}, not {shown(value)}")
        self.field = field
        self.value = str(value)
        self.allowed = allowed


def shown(value: object) -> str:
    """A value in quotes, shortened, with everything escaped that does not show."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
    return repr(value) if isinstance(value, int) else f"a value of type {type(value).__name__}"


def text_of(field: str, value: object) -> str:
    """The value as text: what is not there is empty, integers become decimal."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LATEST:
        return str(value)
    raise FieldError(field, value, "text or a number")


def parse_number(field: str, text: str, least: int, most: int) -> int:
    """A decimal integer in a range."""
    if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise FieldError(field, text, f"a number from {least} to {most}")
    return int(text)


def parse_device(field: str, text: str) -> Mac:
    """The MAC address of one device: neither a group's nor all zeros."""
    try:
        mac = parse_mac(text)
    except ValueError:
        mac = b""
    if not any(mac) or mac[0] & 1:
        raise FieldError(field, text, _MAC)
    return mac


def parse_protocol(field: str, text: str) -> int:
    """An IP protocol by name or number; 0 is any, and ICMP stands for ICMPv6, too."""
    name = text.lower()
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if name in _ALIASES:
        return _ALIASES[name]
    if not re.fullmatch("[0-9]{1,3}", name) or int(name) > 255 or int(name) in _EXTENSION_HEADERS:
        raise FieldError(field, text, "tcp, udp, icmp, another protocol's name or its number up to 255")
    return IPPROTO_ICMP if int(name) == IPPROTO_ICMPV6 else int(name)


def show_protocol(protocol: int) -> str:
    """A protocol's name, or its number where it has none; empty for any."""
    return _PROTOCOL_NAMES.get(protocol, str(protocol)) if protocol else ""


def parse_domain(field: str, text: str) -> str:
    """A host name or domain: lower case, in its ASCII form, without a trailing dot or leading ``*.``.

    Refused are addresses, names of one label and public suffixes (``com``, ``co.uk``): what is
    below these belongs to everybody.
    """
    if "://" in text or "/" in text:
        raise FieldError(field, text, f"{_DOMAIN}, without a path")
    name = text if len(text) <= 2 * _LONGEST_DOMAIN else ""
    if not name.isascii():
        name = _ascii(field, name)
    host = from_text(name.removeprefix("*."))
    if host is None:
        raise FieldError(field, text, _DOMAIN)
    if "." not in host:
        raise FieldError(field, text, "a domain of two parts at least, such as example.org")
    # What stands before a public suffix makes a registrable domain, what stands before another name does not.
    if registrable_domain(f"a.{host}") == f"a.{host}":
        sentence = f"{field} is {shown(host)}, a public suffix: name one domain below it"
        raise FieldError(field, text, f"{_DOMAIN}, no public suffix", sentence)
    return host


def _ascii(field: str, name: str) -> str:
    """The ASCII form (RFC 3490) of a name with other letters."""
    if _DEVIATING.search(name):
        raise FieldError(field, name, "a domain in its ASCII form (xn--…), since its letters have two")
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        raise FieldError(field, name, f"{_DOMAIN}, or its ASCII form (xn--…)") from None


def _prefix(field: str, text: str) -> Prefix:
    try:
        network = ip_network(text if len(text) <= 64 and "%" not in text else "", strict=False)
    except ValueError:
        raise FieldError(field, text, _PREFIX) from None
    address, bits = network.network_address.packed, network.prefixlen
    if isinstance(network, IPv6Network) and bits >= 96 and network.network_address.ipv4_mapped is not None:
        address, bits = address[12:], bits - 96
    return address, bits


def parse_prefix(field: str, text: str, *, group: bool = False) -> Prefix:
    """An address or prefix; host bits may be set, IPv4-mapped IPv6 becomes IPv4.

    Refused are prefixes of length 0, loopback, the unspecified address, and multicast and broadcast
    unless ``group``.
    """
    address, bits = _prefix(field, text)
    if not bits:
        sentence = f"{field} is {shown(text)}, which is every address: leave {field} out to mean all of them"
        raise FieldError(field, text, f"{_PREFIX}, not all addresses", sentence)
    # A prefix around such addresses and others is fine; what begins with none is one, if it is short.
    nobody = address in _NOBODY and (any(address) or bits >= (8 if len(address) == 4 else 127))
    if nobody or (address in _GROUPS and not group):
        sentence = f"{field} is {shown(text)}, which is no party: multicast, loopback or unspecified"
        raise FieldError(field, text, "an address or prefix of a party", sentence)
    return address, bits


def show_prefix(prefix: Prefix) -> str:
    """Canonical text: an address alone if it is the whole prefix."""
    address, bits = prefix
    text = format_address(address)
    return text if bits == len(address) * 8 else f"{text}/{bits}"


def parse_node(field: str, text: str) -> str:
    """A node's key: its MAC, registrable domain or address, each in its canonical form."""
    if re.fullmatch("[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", text):
        return format_mac(parse_device(field, text))
    try:
        address = parse_address(text)
    except ValueError:
        pass
    else:
        address, bits = _prefix(field, format_address(address))
        if not is_unicast(address) or bits != len(address) * 8:
            raise FieldError(field, text, _NODE)
        return format_address(address)
    # Names of nodes come out of DNS, where any byte can be (escaped) and one label is enough.
    name = text.lower().removesuffix(".")
    if not re.fullmatch("[!-~]{1,1024}", name):
        raise FieldError(field, text, _NODE)
    if registrable_domain(name) != name:
        raise FieldError(field, text, f"{_NODE}; a host name goes into the field domain")
    return name


def parse_text(field: str, text: str, longest: int = LONGEST_TEXT) -> str:
    """A line of text for people, of the same characters as names (``hostile.clean_name``)."""
    if len(text) > longest:
        raise FieldError(field, text, f"at most {longest} characters")
    for start in range(0, len(text), NAME_LENGTH):
        try:
            clean_name(text[start : start + NAME_LENGTH])
        except ValueError as error:
            sentence = f"{field} {error}"
            raise FieldError(field, text, f"visible text (this one {error})", sentence) from None
    return text
