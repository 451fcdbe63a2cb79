# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz targets: reports of blocked packets, and entries that shall be deleted."""

import struct

from fuzz_seeds import MACS, PACKETS
from fuzz_targets import Target
from fuzz_targets_kernel import CONNTRACK

from spind.wire.conntrack import CT_NEW, delete_entry_request, parse_entry
from spind.wire.errors import WireError
from spind.wire.netlink import attribute_map, messages, pack_attribute, pack_message
from spind.wire.nflog import LOG_PACKET, LoggedPacket, parse_logged
from spind.wire.packet import Packet, parse_ip


def report(packet: bytes, prefix: bytes) -> bytes:
    attributes = [
        (1, b"\x08\0\2\0"),
        (10, prefix + b"\0"),
        (4, b"\0\0\0\7"),
        (5, b"\0\0\0\x08"),
        (6, b"\0\0\0\x09"),
        (8, struct.pack("!HH8s", 6, 0, MACS[:6])),
        (15, b"\0\1"),
        (16, MACS + b"\x08\0"),
        (9, packet[:128]),
    ]
    body = b"\2\0\0\5" + b"".join(pack_attribute(*each) for each in attributes)
    return pack_message(LOG_PACKET, 0, 0, body)


REPORTS = [report(packet, prefix) for packet in PACKETS[:8] for prefix in (b"spin up", b"spin down")]

Report = tuple[LoggedPacket, Packet | None]


def read_reports(data: bytes) -> list[Report] | None:
    found: list[Report] = []
    for message in messages(data):
        logged = parse_logged(data, message.start, message.end)
        try:
            packet = parse_ip(logged.payload)
        except WireError:
            packet = None
        found.append((logged, packet))
    return found or None


def check_reports(data: bytes, reports: list[Report]) -> None:
    for logged, _packet in reports:
        assert logged.mac is None or len(logged.mac) == 6
        assert logged.payload in data
        assert "\0" not in logged.prefix
        for index in (logged.indev, logged.outdev, logged.physindev):
            assert 0 <= index < 1 << 32


def ask_for_deletion(data: bytes) -> list[bytes] | None:
    bodies = []
    for message in messages(data):
        bodies.append(delete_entry_request(data, message.start - 16, message.end))
        # What it asks for is what the message showed, be it in another order.
        request = pack_message(CT_NEW, 0, 0, bodies[-1])
        try:
            shown = parse_entry(data, message.start - 16, message.end)
        except WireError:
            continue
        asked = attribute_map(request, 20, len(request))
        assert asked[1] in shown.ident
    return bodies or None


def check_bodies(_data: bytes, bodies: list[bytes]) -> None:
    for body in bodies:
        assert len(body) % 4 == 0
        found = attribute_map(body, 4, len(body))
        assert found[1], "without a tuple the kernel would empty its table"
        assert found.keys() <= {1, 12, 18}


TARGETS = {
    "nflog": Target(read_reports, (WireError,), REPORTS, (b"spin up\0", b"spin down\0"), check_reports),
    "conntrack-delete": Target(ask_for_deletion, (WireError,), CONNTRACK, (), check_bodies),
}
