# SPDX-License-Identifier: GPL-2.0-or-later
"""Link-layer frames of capture files: from a frame to its IP or ARP packet.

Owns the link types (numbers as in https://www.tcpdump.org/linktypes.html) and the VLAN tags.
It does not look into the IP packet, and not into what carries IP inside something else (PPPoE,
LLC/SNAP, MPLS): such frames count as carrying none.
"""

from struct import Struct
from typing import Final, NamedTuple

from spind.model import Address, Mac
from spind.wire.errors import WireError

ETH_P_IP: Final = 0x0800
ETH_P_ARP: Final = 0x0806
ETH_P_IPV6: Final = 0x86DD

LINKTYPE_NULL: Final = 0
LINKTYPE_ETHERNET: Final = 1
LINKTYPE_LOOP: Final = 108
LINKTYPE_LINUX_SLL: Final = 113
LINKTYPE_IPV4: Final = 228
LINKTYPE_IPV6: Final = 229
LINKTYPE_LINUX_SLL2: Final = 276
# 101 is the link type; 12 and 14 are what some systems wrote into files for the same.
_RAW: Final = frozenset((12, 14, 101))

_WANTED: Final = frozenset((ETH_P_IP, ETH_P_IPV6, ETH_P_ARP))
# IEEE 802.1Q, IEEE 802.1ad, and the number in use before 802.1ad.
_TAGS: Final = frozenset((0x8100, 0x88A8, 0x9100))
_MAX_TAGS: Final = 4
# AF_INET is 2 everywhere; AF_INET6 is Linux 10, NetBSD 24, FreeBSD 28, Darwin 30.
_FAMILIES: Final = {2: ETH_P_IP, 10: ETH_P_IPV6, 24: ETH_P_IPV6, 28: ETH_P_IPV6, 30: ETH_P_IPV6}

_ETHERNET: Final = Struct("!6s6sH").unpack_from
_TAG: Final = Struct("!HH").unpack_from
_SLL: Final = Struct("!xxHH6sxxH").unpack_from
_SLL2: Final = Struct("!H6xHxB6sxx").unpack_from
_ARP: Final = Struct("!HHBBH6s4s").unpack_from
_ARPHRD_ETHER: Final = 1


class Frame(NamedTuple):
    """A frame that carries IP or ARP.

    ``vlan`` is the VLAN identifier of the innermost tag, 0 where there is none or it only
    carries a priority. ``ethertype`` is ``ETH_P_IP``, ``ETH_P_IPV6`` or ``ETH_P_ARP``.
    ``payload`` still has the padding of short frames.
    """

    src_mac: Mac | None
    dst_mac: Mac | None
    vlan: int
    ethertype: int
    payload: bytes


def parse_link(linktype: int, data: bytes) -> Frame | None:
    """Parse one frame of a capture of type ``linktype``; ``None`` where it has no IP or ARP.

    Raises :class:`WireError` where the frame is shorter than its headers, has more than four
    VLAN tags, or ``linktype`` is one we do not know.
    """
    size = len(data)
    if linktype == LINKTYPE_ETHERNET:
        if size < 14:
            raise WireError("shorter than an Ethernet header")
        dst, src, ethertype = _ETHERNET(data)
        if ethertype in _WANTED:
            return Frame(src, dst, 0, ethertype, data[14:])
        return _tagged(src, dst, ethertype, data, 14)
    if linktype == LINKTYPE_LINUX_SLL:
        if size < 16:
            raise WireError("shorter than a Linux cooked header")
        hardware, length, src, ethertype = _SLL(data)
        return _tagged(_sender(hardware, length, src), None, ethertype, data, 16)
    if linktype == LINKTYPE_LINUX_SLL2:
        if size < 20:
            raise WireError("shorter than a Linux cooked header")
        ethertype, hardware, length, src = _SLL2(data)
        return _tagged(_sender(hardware, length, src), None, ethertype, data, 20)
    if linktype in _RAW or linktype in (LINKTYPE_IPV4, LINKTYPE_IPV6):
        if not data:
            raise WireError("empty frame")
        ethertype = {4: ETH_P_IP, 6: ETH_P_IPV6}.get(data[0] >> 4, 0)
        required = {LINKTYPE_IPV4: ETH_P_IP, LINKTYPE_IPV6: ETH_P_IPV6}.get(linktype, ethertype)
        if not ethertype or ethertype != required:
            raise WireError("not the IP version that the link type says")
        return Frame(None, None, 0, ethertype, data)
    if linktype in (LINKTYPE_NULL, LINKTYPE_LOOP):
        if size < 4:
            raise WireError("shorter than a loopback header")
        # LINKTYPE_NULL is in the byte order of the machine that captured; the numbers are small.
        family = int.from_bytes(data[:4])
        if linktype == LINKTYPE_NULL and family > 0xFFFF:
            family = int.from_bytes(data[:4], "little")
        if family not in _FAMILIES:
            return None
        return Frame(None, None, 0, _FAMILIES[family], data[4:])
    raise WireError(f"link type {linktype} is not supported")


def _tagged(src: Mac | None, dst: Mac | None, ethertype: int, data: bytes, offset: int) -> Frame | None:
    """Finish a frame whose EtherType was ``ethertype``: step over VLAN tags at ``offset``."""
    vlan = 0
    for _ in range(_MAX_TAGS):
        if ethertype not in _TAGS:
            break
        if len(data) < offset + 4:
            raise WireError("VLAN tag cut short")
        control, ethertype = _TAG(data, offset)
        vlan = control & 0x0FFF  # beside it: priority and drop eligibility
        offset += 4
    if ethertype in _TAGS:
        raise WireError("too many VLAN tags")
    if ethertype not in _WANTED:
        return None
    return Frame(src, dst, vlan, ethertype, data[offset:])


def _sender(hardware: int, length: int, address: Mac) -> Mac | None:
    """Sender of a Linux cooked frame: its link-layer address is a MAC only on Ethernet."""
    return address if hardware == _ARPHRD_ETHER and length == len(address) else None


def parse_arp(payload: bytes) -> tuple[Mac, Address] | None:
    """Sender's MAC and IPv4 address of an ARP packet (RFC 826).

    ``None`` where it says nothing about a host: not Ethernet and IPv4, neither request nor
    reply, a probe for a free address (sender 0.0.0.0, RFC 5227 2.1.1), or a sender whose MAC
    is a group address or zero. Raises :class:`WireError` where it is cut short.
    """
    if len(payload) < 28:
        raise WireError("ARP packet cut short")
    hardware, protocol, mac_size, address_size, operation, mac, address = _ARP(payload)
    if (hardware, protocol, mac_size, address_size) != (_ARPHRD_ETHER, ETH_P_IP, 6, 4):
        return None
    if operation not in (1, 2) or mac[0] & 1 or not any(mac) or not any(address):
        return None
    return mac, address
