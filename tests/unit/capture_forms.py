# SPDX-License-Identifier: GPL-2.0-or-later
"""Capture files put together by hand, for tests: what no writer would write can be written too."""

import struct


def pcap(frames, *, endian="<", nano=False, linktype=1, wirelen=None):
    """A pcap file; record n is n seconds after 1,000,000, plus half a second."""
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    fraction = 500_000_000 if nano else 500_000
    out = struct.pack(endian + "IHHIIII", magic, 2, 4, 0, 0, 262144, linktype)
    for number, frame in enumerate(frames):
        length = len(frame) if wirelen is None else wirelen
        out += struct.pack(endian + "IIII", 1_000_000 + number, fraction, len(frame), length) + frame
    return out


def block(kind, body, endian="<"):
    body += bytes(-len(body) % 4)
    size = struct.pack(endian + "I", len(body) + 12)
    return struct.pack(endian + "I", kind) + size + body + size


def section(endian="<", options=b"", major=1):
    return block(0x0A0D0D0A, struct.pack(endian + "IHHq", 0x1A2B3C4D, major, 0, -1) + options, endian)


def interface(linktype, endian="<", snaplen=262144, tsresol=None):
    options = b""
    if tsresol is not None:
        options = struct.pack(endian + "HHBxxxHH", 9, 1, tsresol, 0, 0)
    return block(1, struct.pack(endian + "HHI", linktype, 0, snaplen) + options, endian)


def enhanced(number, ticks, frame, endian="<", *, wirelen=None, caplen=None):
    head = struct.pack(
        endian + "IIIII",
        number,
        ticks >> 32,
        ticks & 0xFFFFFFFF,
        len(frame) if caplen is None else caplen,
        len(frame) if wirelen is None else wirelen,
    )
    return block(6, head + frame, endian)


def simple(frame, endian="<"):
    return block(3, struct.pack(endian + "I", len(frame)) + frame, endian)
