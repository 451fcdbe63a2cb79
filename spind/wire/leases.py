# SPDX-License-Identifier: GPL-2.0-or-later
"""Lease files of dnsmasq and odhcpd: which device was given which address, and its name.

Owns both formats. Pure. Only leases that name a MAC count: those of DHCPv6 name a DUID, which is not
to be taken apart (RFC 8415 11), and the addresses are learned by neighbour discovery anyway.

Devices choose their names, so that they are hostile input: :func:`clean_name`.
"""

import re
from typing import NamedTuple

from spind.model import Address, Mac, parse_address, parse_mac

MAX_BYTES = 1 << 20
"""Of a file; what is beyond is not read."""

MAX_LEASES = 8_192
"""Of a file; further ones are left out. A /20 is full with half of them."""

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_. -]{0,61}[A-Za-z0-9_])?")


class Lease(NamedTuple):
    """``expires`` is Unix time in seconds, 0 for never; ``hostname`` is empty where there is none."""

    expires: int
    mac: Mac
    address: Address
    hostname: str


def clean_name(name: str) -> str:
    """Return the name as it is, if it has up to 63 letters, digits, ``_.-`` and inner spaces; else ``""``."""
    return name if _NAME.fullmatch(name) else ""


def parse_leases(text: str) -> list[Lease]:
    """Leases of either format; lines that are not leases are left out, never an error."""
    leases: list[Lease] = []
    for line in text[:MAX_BYTES].splitlines():
        lease = _odhcpd(line.split()) if line.startswith("#") else _dnsmasq(line.split())
        if lease is not None:
            leases.append(lease)
            if len(leases) == MAX_LEASES:
                break
    return leases


def _dnsmasq(words: list[str]) -> Lease | None:
    """``1700000000 aa:bb:cc:dd:ee:ff 192.0.2.5 name 01:aa:bb:cc:dd:ee:ff``; ``*`` for no name."""
    if len(words) < 4:
        return None
    return _lease(words[0], words[1], words[2], words[3])


def _odhcpd(words: list[str]) -> Lease | None:
    """``# br-lan aabbccddeeff ipv4 name 1700000000 c0000205 32 192.0.2.5/32``; ``-`` for no name."""
    if len(words) < 9 or words[3] != "ipv4":
        return None
    return _lease(words[5], words[2], words[8].partition("/")[0], words[4])


def _lease(expires: str, mac: str, address: str, name: str) -> Lease | None:
    try:
        # odhcpd writes -1 for a lease without end, dnsmasq 0.
        return Lease(max(0, int(expires[:16])), parse_mac(mac), parse_address(address), clean_name(name))
    except ValueError:
        return None
