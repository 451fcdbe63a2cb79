# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz targets: capture files."""

import gzip
import struct

from fuzz_seeds import ARP, MACS, PACKETS
from fuzz_targets import Target

from spind.capfile import CaptureFileError, read_bytes

# Capture files


def pcap(order: str, magic: int, frames: list[bytes], linktype: int = 1) -> bytes:
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, linktype)
    return data + b"".join(struct.pack(order + "IIII", 1, 2, len(one), len(one)) + one for one in frames)


def block(order: str, kind: int, body: bytes) -> bytes:
    size = 12 + len(body) + (-len(body) & 3)
    return (
        struct.pack(order + "II", kind, size) + body + bytes(-len(body) & 3) + struct.pack(order + "I", size)
    )


def pcapng(order: str, frames: list[bytes]) -> bytes:
    data = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    data += block(
        order, 1, struct.pack(order + "HHI", 1, 0, 65535) + struct.pack(order + "HHBxxx", 9, 1, 9) + bytes(4)
    )
    for one in frames:
        data += block(order, 6, struct.pack(order + "IIIII", 0, 1, 2, len(one), len(one)) + one)
    data += block(order, 3, struct.pack(order + "I", len(frames[0])) + frames[0])
    return data + block(order, 5, struct.pack(order + "III", 0, 1, 2))


SHORT_FRAMES = [MACS + b"\x08\0" + PACKETS[3], MACS + b"\x08\x06" + ARP[0]]
CAPTURES = [
    pcap("<", 0xA1B2C3D4, SHORT_FRAMES),
    pcap(">", 0xA1B2C3D4, SHORT_FRAMES, 113),
    pcap("<", 0xA1B23C4D, SHORT_FRAMES),
    pcapng("<", SHORT_FRAMES),
    pcapng(">", SHORT_FRAMES),
    pcapng("<", SHORT_FRAMES) + pcapng(">", SHORT_FRAMES),
    gzip.compress(pcap("<", 0xA1B2C3D4, SHORT_FRAMES), mtime=0),
]

TARGETS = {"pcap": Target(lambda data: read_bytes(data) or None, (CaptureFileError,), CAPTURES)}
