# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of the model, shared by every module; no behaviour beyond formatting.

Addresses travel as packed bytes in network order (4 bytes for IPv4, 16 for IPv6) and MACs
as 6 bytes: they are hashed for every packet, and text is needed only at the edges.
"""

from enum import StrEnum
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

Address = bytes
Mac = bytes

IPPROTO_ICMP = 1
IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_ICMPV6 = 58


class Evidence(StrEnum):
    """How we know the name of a connection's remote party, best first (DESIGN 4)."""

    SNI = "sni"
    HTTP = "http"
    DNS = "dns"
    DNS_OTHER = "dns-other"
    NONE = "none"


EVIDENCE_RANK = {kind: rank for rank, kind in enumerate(Evidence)}


class ConnKey(NamedTuple):
    """One connection, from its initiator to its responder, as the devices see it.

    Of a connection that the gateway translates (NAT), ``src`` and ``dst`` are the addresses
    on the home's side for the device and the real remote address for the peer.
    ICMP and ICMPv6 have no ports: ``sport`` holds the echo identifier (0 where there is
    none) and ``dport`` holds ``type << 8 | code`` of the initiator's message.
    """

    proto: int
    src: Address
    sport: int
    dst: Address
    dport: int


def format_address(address: Address) -> str:
    """Text form of a packed address: dotted quad, or RFC 5952."""
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def parse_address(text: str) -> Address:
    """Packed form of an address in text; ``ValueError`` where it is not one."""
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, UnicodeError, ValueError) as error:
        raise ValueError(f"not an IP address: {text!r}") from error


def format_mac(mac: Mac) -> str:
    """Lower-case colon form of a 6-byte MAC."""
    return mac.hex(":")


def parse_mac(text: str) -> Mac:
    """6 bytes from ``aa:bb:cc:dd:ee:ff`` (or with dashes); ``ValueError`` where it is not one."""
    try:
        mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        mac = b""
    if len(mac) != 6:
        raise ValueError(f"not a MAC address: {text!r}")
    return mac
