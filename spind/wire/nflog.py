# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets that rules report through NFLOG, and the request that subscribes to a group of them.

Owns the messages of ``linux/netfilter/nfnetlink_log.h``. Pure: the socket is in ``spind.block_log``.
"""

from struct import Struct
from typing import Final, NamedTuple

from spind.wire.errors import WireError
from spind.wire.netlink import attributes, pack_attribute

# linux/netfilter/nfnetlink.h: nlmsg_type is subsystem << 8 | message; NFNL_SUBSYS_ULOG is 4.
LOG_PACKET: Final = 0x400
LOG_CONFIG: Final = 0x401

_NFGENMSG: Final = Struct("!BBH")  # nfgen_family, version, res_id: the group
_HARDWARE_ADDRESS: Final = Struct("!H2x8s")  # struct nfulnl_msg_packet_hw: length, address
_MODE: Final = Struct("!IBx")  # struct nfulnl_msg_config_mode: copy range, copy mode

# enum nfulnl_attr_type
_PACKET_HEADER = 1
_INDEV = 4
_OUTDEV = 5
_PHYSINDEV = 6
_HWADDR = 8
_PAYLOAD = 9
_PREFIX = 10
_HWTYPE = 15

# enum nfulnl_attr_config, enum nfulnl_msg_config_cmds
_CFG_COMMAND = 1
_CFG_MODE = 2
_CFG_BUFFER = 3
_CFG_TIMEOUT = 4
_BIND = b"\1"
_COPY_PACKET = 2

_ETHERNET = 1  # ARPHRD_ETHER


class LoggedPacket(NamedTuple):
    """One packet that a rule has logged.

    ``indev`` and ``outdev`` are indexes of interfaces, 0 where the packet has none; ``physindev`` is
    the port by which a packet came into the bridge ``indev`` (0: not bridged, or not told). ``mac`` is
    the sender's, ``None`` where the packet was not received from an Ethernet. ``payload`` is the IP
    packet, cut to the group's copy range.
    """

    prefix: str
    indev: int
    outdev: int
    physindev: int
    mac: bytes | None
    payload: bytes


def parse_logged(data: bytes, start: int, end: int) -> LoggedPacket:
    """Decode the payload ``data[start:end]`` of a ``LOG_PACKET`` message.

    Raises :class:`WireError` where it is malformed or has no packet in it.
    """
    found: dict[int, bytes] = {}
    for kind, first, stop in attributes(data, start + _NFGENMSG.size, end):
        if kind in _WANTED:
            found[kind] = data[first:stop]
    if _PACKET_HEADER not in found or _PAYLOAD not in found:
        raise WireError("nflog: no packet")
    mac = None
    if _HWADDR in found:
        if len(found[_HWADDR]) != _HARDWARE_ADDRESS.size:
            raise WireError("nflog: hardware address of a wrong size")
        size, address = _HARDWARE_ADDRESS.unpack(found[_HWADDR])
        # Kernels before 2.6.25 do not tell the type.
        if size == 6 and _number(found.get(_HWTYPE), 2, _ETHERNET) == _ETHERNET:
            mac = address[:6]
    return LoggedPacket(
        found.get(_PREFIX, b"").partition(b"\0")[0].decode("ascii", "replace"),
        _number(found.get(_INDEV), 4),
        _number(found.get(_OUTDEV), 4),
        _number(found.get(_PHYSINDEV), 4),
        mac,
        found[_PAYLOAD],
    )


def bind_request(group: int, *, copy_range: int, buffer_size: int, timeout: int) -> bytes:
    """Body of a ``LOG_CONFIG`` request: send me what is logged to ``group``.

    Of each packet the first ``copy_range`` bytes. The kernel collects packets until they take
    ``buffer_size`` bytes, but no longer than ``timeout`` hundredths of a second.
    """
    return (
        _NFGENMSG.pack(0, 0, group)
        + pack_attribute(_CFG_COMMAND, _BIND)
        + pack_attribute(_CFG_MODE, _MODE.pack(copy_range, _COPY_PACKET))
        + pack_attribute(_CFG_BUFFER, buffer_size.to_bytes(4, "big"))
        + pack_attribute(_CFG_TIMEOUT, timeout.to_bytes(4, "big"))
    )


_WANTED = frozenset((_PACKET_HEADER, _INDEV, _OUTDEV, _PHYSINDEV, _HWADDR, _PAYLOAD, _PREFIX, _HWTYPE))


def _number(value: bytes | None, size: int, default: int = 0) -> int:
    """Big-endian number of exactly ``size`` bytes; ``default`` where it is missing."""
    if value is None:
        return default
    if len(value) != size:
        raise WireError("nflog: number of a wrong size")
    return int.from_bytes(value, "big")
