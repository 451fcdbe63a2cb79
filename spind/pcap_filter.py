# SPDX-License-Identifier: GPL-2.0-or-later
"""Which packets a capture wants: as an expression for tcpdump, and as a program for the kernel. Pure.

Both are made of checked addresses and nothing else: names that people or strangers chose never get
here. Must not know nodes, interfaces or processes.
"""

from struct import Struct
from typing import NamedTuple

from spind.model import Address, Mac, format_address, format_mac

MAX_ADDRESSES = 64
"""Addresses of one filter: the kernel's program then has some 700 of its at most 4096 instructions."""

SNAPLEN = 262144
"""Bytes of a packet that are kept: libpcap's MAXIMUM_SNAPLEN, all of any packet there is."""

_INSTRUCTION = Struct("=HBBI")  # struct sock_filter, linux/filter.h

# Operations of classic BPF (linux/bpf_common.h).
_LOAD_WORD, _LOAD_HALF = 0x20, 0x28
_JUMP, _JUMP_EQUAL = 0x05, 0x15
_RETURN = 0x06

_ETHERTYPE_IPV4, _ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0800, 0x0806, 0x86DD

# Where source and destination are in an Ethernet frame without a VLAN tag (the kernel takes it off).
_MAC_AT = (6, 0)
_IPV4_AT = (26, 30)
_IPV6_AT = (22, 38)
_ARP_AT = (28, 38)  # RFC 826, with Ethernet and IPv4


class Wanted(NamedTuple):
    """The packets to or from ``mac``, if there is one; of these the ones to or from one of ``addresses``
    or ``peer``, if there are any. It must not be empty: see :meth:`check`."""

    mac: Mac | None = None
    peer: Mac | None = None
    addresses: tuple[Address, ...] = ()

    def check(self) -> None:
        """Raise ``ValueError`` where it is not what it should be."""
        macs = [mac for mac in (self.mac, self.peer) if mac is not None]
        if any(len(mac) != 6 for mac in macs) or any(len(a) not in (4, 16) for a in self.addresses):
            raise ValueError("a MAC has 6 bytes, an address 4 or 16")
        if len(self.addresses) > MAX_ADDRESSES:
            raise ValueError(f"more than {MAX_ADDRESSES} addresses")
        if not macs and not self.addresses:
            raise ValueError("it would capture everything")


def expression(wanted: Wanted) -> str:
    """The filter as pcap-filter(7) has it. ``host`` covers IPv4, IPv6 and ARP; ``ether host`` all."""
    wanted.check()
    parties = [f"ether host {format_mac(wanted.peer)}"] if wanted.peer is not None else []
    parties += [f"host {format_address(address)}" for address in wanted.addresses]
    alternatives = " or ".join(parties)
    if wanted.mac is None:
        return alternatives
    device = f"ether host {format_mac(wanted.mac)}"
    return f"{device} and ({alternatives})" if alternatives else device


def program(wanted: Wanted) -> bytes:
    """The same as a classic BPF program for frames of Ethernet: ``struct sock_filter[]``.

    Conditional jumps reach 255 instructions only, so each comparison returns by itself when it holds.
    """
    wanted.check()
    code: list[tuple[int, int, int, int]] = []
    if wanted.mac is not None:
        ends = [_compared(wanted.mac, at) for at in _MAC_AT]
        # Either end fits: over the "return 0" that follows both.
        code += [*ends[0], (_JUMP, 0, 0, len(ends[1]) + 2), *ends[1], (_JUMP, 0, 0, 1), (_RETURN, 0, 0, 0)]
        if wanted.peer is None and not wanted.addresses:
            return _packed([*code, (_RETURN, 0, 0, SNAPLEN)])
    if wanted.peer is not None:
        for at in _MAC_AT:
            code += [*_compared(wanted.peer, at), (_RETURN, 0, 0, SNAPLEN)]
    ipv4 = [address for address in wanted.addresses if len(address) == 4]
    ipv6 = [address for address in wanted.addresses if len(address) == 16]
    for ethertype, addresses, places in (
        (_ETHERTYPE_IPV4, ipv4, _IPV4_AT),
        (_ETHERTYPE_IPV6, ipv6, _IPV6_AT),
        (_ETHERTYPE_ARP, ipv4, _ARP_AT),
    ):
        block: list[tuple[int, int, int, int]] = []
        for address in addresses:
            for at in places:
                block += [*_compared(address, at), (_RETURN, 0, 0, SNAPLEN)]
        block.append((_RETURN, 0, 0, 0))
        code += [(_LOAD_HALF, 0, 0, 12), (_JUMP_EQUAL, 1, 0, ethertype), (_JUMP, 0, 0, len(block)), *block]
    return _packed([*code, (_RETURN, 0, 0, 0)])


def _compared(value: bytes, at: int) -> list[tuple[int, int, int, int]]:
    """Compare the bytes at an offset: goes on behind the next instruction where they differ."""
    code: list[tuple[int, int, int, int]] = []
    words = [(at + i, value[i : i + 4]) for i in range(0, len(value), 4)]
    left = len(words)
    for offset, word in words:
        left -= 1
        load = _LOAD_WORD if len(word) == 4 else _LOAD_HALF
        # Where it differs: over the pairs that are left, and over one instruction more.
        code += [(load, 0, 0, offset), (_JUMP_EQUAL, 0, 2 * left + 1, int.from_bytes(word, "big"))]
    return code


def _packed(code: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)
