# SPDX-License-Identifier: GPL-2.0-or-later
"""Named counters of nftables over netlink: the one thing of it that is asked for while we run.

Owns two messages of ``linux/netfilter/nf_tables.h``. Pure. Rules are written as text for ``nft``.
"""

from struct import Struct

from spind.wire.netlink import attribute_map, messages, pack_attribute

NFT_MSG_NEWOBJ = 10 << 8 | 18  # NFNL_SUBSYS_NFTABLES << 8 | message
NFT_MSG_GETOBJ = 10 << 8 | 19

_NFGENMSG = Struct("!BBH")
_NFPROTO_INET = 1
_OBJ_TABLE, _OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 1, 2, 3, 4
_OBJECT_COUNTER = 1
_COUNTER_PACKETS = 2


def counter_request(table: str, name: str) -> bytes:
    """Body of an ``NFT_MSG_GETOBJ`` request for a counter in a table of the family inet."""
    return (
        _NFGENMSG.pack(_NFPROTO_INET, 0, 0)
        + pack_attribute(_OBJ_TABLE, table.encode() + b"\0")
        + pack_attribute(_OBJ_NAME, name.encode() + b"\0")
        + pack_attribute(_OBJ_TYPE, _OBJECT_COUNTER.to_bytes(4, "big"))
    )


def parse_counter(data: bytes) -> int | None:
    """Packets of the counter in a reply; ``None`` where there is none. ``WireError`` if malformed."""
    for message in messages(data):
        start = message.start + _NFGENMSG.size
        if message.type != NFT_MSG_NEWOBJ or start > message.end:
            continue
        counter = attribute_map(data, start, message.end).get(_OBJ_DATA, b"")
        packets = attribute_map(counter, 0, len(counter)).get(_COUNTER_PACKETS)
        if packets is not None:
            return int.from_bytes(packets, "big")
    return None
