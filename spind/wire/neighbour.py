# SPDX-License-Identifier: GPL-2.0-or-later
"""Neighbours, addresses and interfaces (rtnetlink), from the kernel's bytes to plain values.

Owns the decoding of ``linux/neighbour.h``, ``linux/if_addr.h`` and ``linux/if_link.h`` messages. Pure.
Which interface is the home's, and what a neighbour is good for, is decided elsewhere.
"""

import sys
from struct import Struct
from typing import NamedTuple

from spind.model import Address, Mac
from spind.wire.errors import WireError
from spind.wire.netlink import Message, attribute_map, messages

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

# linux/rtnetlink.h: enum rtnetlink_groups
RTNLGRP_LINK = 1
RTNLGRP_NEIGH = 3
RTNLGRP_IPV4_IFADDR = 5
RTNLGRP_IPV6_IFADDR = 9

_AF_INET, _AF_INET6 = 2, 10
_ADDRESS_SIZE = {_AF_INET: 4, _AF_INET6: 16}

NDMSG = Struct("=BBHiHBB")  # family, pad, pad, ifindex, state, flags, type
IFADDRMSG = Struct("=BBBBI")  # family, prefix length, flags, scope, ifindex
IFINFOMSG = Struct("=BBHiII")  # family, pad, type, ifindex, flags, change

_NDA_DST, _NDA_LLADDR = 1, 2
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER = 1, 3, 10
_IFF_LOOPBACK = 8

# linux/neighbour.h
NUD_REACHABLE = 0x02
_NUD_FAILED = 0x20
# STALE, DELAY and PROBE have an address that was confirmed before; NOARP is multicast and tunnels.
_NUD_USABLE = NUD_REACHABLE | 0x04 | 0x08 | 0x10 | 0x80
_NTF_PROXY = 0x08


class Neighbour(NamedTuple):
    """The resolution of an address on interface ``ifindex``; ``mac`` is ``None`` where it is gone.

    ``confirmed`` says that the neighbour has just answered.
    """

    ifindex: int
    address: Address
    mac: Mac | None
    confirmed: bool


class InterfaceAddress(NamedTuple):
    """An address of our own on interface ``ifindex``, and its prefix's bits; or that it has gone."""

    ifindex: int
    address: Address
    bits: int
    gone: bool


class Interface(NamedTuple):
    """An interface; ``mac`` is empty where it has none, ``master`` is 0 where it is no port."""

    ifindex: int
    name: str
    mac: Mac
    master: int
    loopback: bool
    gone: bool


def parse_rtnetlink(data: bytes) -> list[Neighbour | InterfaceAddress | Interface]:
    """What the messages of one buffer say, others left out. ``WireError`` where it is malformed."""
    found: list[Neighbour | InterfaceAddress | Interface] = []
    for message in messages(data):
        if message.type in (RTM_NEWNEIGH, RTM_DELNEIGH):
            neighbour = _neighbour(data, message)
            if neighbour is not None:
                found.append(neighbour)
        elif message.type in (RTM_NEWADDR, RTM_DELADDR):
            address = _address(data, message)
            if address is not None:
                found.append(address)
        elif message.type in (RTM_NEWLINK, RTM_DELLINK):
            interface = _interface(data, message)
            if interface is not None:
                found.append(interface)
    return found


def _fields(layout: Struct, data: bytes, message: Message) -> tuple[tuple[int, ...], dict[int, bytes]]:
    start = message.start + layout.size
    if start > message.end:
        raise WireError("rtnetlink: message cut short")
    return layout.unpack_from(data, message.start), attribute_map(data, start, message.end)


def _neighbour(data: bytes, message: Message) -> Neighbour | None:
    (family, _, _, index, state, flags, _type), attributes = _fields(NDMSG, data, message)
    address = attributes.get(_NDA_DST, b"")
    if len(address) != _ADDRESS_SIZE.get(family, 0) or flags & _NTF_PROXY or not address:
        return None  # bridge ports' tables come with the same type
    mac = attributes.get(_NDA_LLADDR, b"")
    if message.type == RTM_DELNEIGH or state & _NUD_FAILED:
        return Neighbour(index, address, None, confirmed=False)
    if not state & _NUD_USABLE or len(mac) != 6 or mac[0] & 1 or not any(mac):
        return None
    return Neighbour(index, address, mac, bool(state & NUD_REACHABLE))


def _address(data: bytes, message: Message) -> InterfaceAddress | None:
    (family, bits, _flags, _scope, index), attributes = _fields(IFADDRMSG, data, message)
    # On a point-to-point link IFA_ADDRESS is the other end's; IPv6 has IFA_LOCAL only there.
    address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS, b"")
    size = _ADDRESS_SIZE.get(family, 0)
    if not size or len(address) != size or bits > size * 8:
        return None
    return InterfaceAddress(index, address, bits, message.type == RTM_DELADDR)


def _interface(data: bytes, message: Message) -> Interface | None:
    (family, _, _type, index, flags, _change), attributes = _fields(IFINFOMSG, data, message)
    if family != 0:
        return None  # AF_BRIDGE: what a port tells of itself
    name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    mac = attributes.get(_IFLA_ADDRESS, b"")
    master = int.from_bytes(attributes.get(_IFLA_MASTER, b""), sys.byteorder)
    return Interface(
        index,
        name,
        mac if len(mac) == 6 and any(mac) else b"",
        master,
        bool(flags & _IFF_LOOPBACK),
        message.type == RTM_DELLINK,
    )
