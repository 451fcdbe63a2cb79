# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz targets: who is in the home (rtnetlink, lease files), and the counter of the capture rules."""

from fuzz_seeds import MACS, V4, V6
from fuzz_targets import Target

from spind.wire.errors import WireError
from spind.wire.leases import Lease, parse_leases
from spind.wire.neighbour import IFADDRMSG, IFINFOMSG, NDMSG, parse_rtnetlink
from spind.wire.netlink import pack_attribute, pack_message
from spind.wire.nftables import NFT_MSG_NEWOBJ, parse_counter

RTNETLINK = [
    pack_message(
        28, 0, 0, NDMSG.pack(2, 0, 0, 3, 2, 0, 1) + pack_attribute(1, V4[0]) + pack_attribute(2, MACS[:6])
    ),
    pack_message(29, 0, 0, NDMSG.pack(10, 0, 0, 3, 4, 0, 1) + pack_attribute(1, V6[0])),
    pack_message(
        16,
        0,
        0,
        IFINFOMSG.pack(0, 0, 1, 3, 1, 0) + pack_attribute(3, b"br-lan\0") + pack_attribute(1, MACS[:6]),
    ),
    pack_message(
        20, 0, 0, IFADDRMSG.pack(2, 24, 0, 0, 3) + pack_attribute(1, V4[0]) + pack_attribute(2, V4[0])
    ),
]
NFTABLES = [
    pack_message(
        NFT_MSG_NEWOBJ,
        0,
        0,
        bytes(4)
        + pack_attribute(1, b"spin\0")
        + pack_attribute(4, pack_attribute(1, (5).to_bytes(8)) + pack_attribute(2, (7).to_bytes(8))),
    )
]
LEASES = [
    b"1795547195 02:00:00:00:08:11 192.168.8.11 camera 01:02:00:00:00:08:11\n",
    b"duid 00:01:00:01\n1795547195 8817 2001:db8::11 camera 00:01\n",
    b"# br-lan 000100012c2c 8811 camera 1795547195 11 128 2001:db8::11/128\n",
    b"# br-lan 020000000811 ipv4 camera 1795547195 0 0 192.168.8.11/32\n",
    b"0 02:00:00:00:08:11 192.168.8.12 * *\n",
]


def read_leases(data: bytes) -> list[Lease] | None:
    return parse_leases(data.decode("utf-8", "replace")) or None


def check_leases(_data: bytes, leases: list[Lease]) -> None:
    for lease in leases:
        assert len(lease.mac) == 6
        assert len(lease.address) in (4, 16)
        assert lease.hostname.isprintable()


TARGETS = {
    "rtnetlink": Target(parse_rtnetlink, (WireError,), RTNETLINK),
    "nft-counter": Target(parse_counter, (WireError,), NFTABLES),
    "leases": Target(read_leases, (), LEASES, (b" ", b"\n", b"#", b":"), check_leases),
}
