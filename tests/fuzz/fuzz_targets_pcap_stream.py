# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz target: the stream of a capturing process, fed in two pieces into a bounded file."""

from fuzz_targets import Target
from fuzz_targets_captures import SHORT_FRAMES, pcap

from spind.pcap_stream import PcapError, PcapStream

ROOM = 300


def parse(data: bytes) -> bytes | None:
    """What a capture would keep; the first byte says where the stream is cut."""
    stream = PcapStream()
    cut = data[0] if data else 0
    kept = b""
    for part in (data[1 : 1 + cut], data[1 + cut :]):
        piece = stream.feed(part, ROOM - len(kept))
        kept += piece.data
        if piece.full:
            break
    return stream.header + kept or None


def check(data: bytes, kept: bytes) -> None:
    """Nothing is made up, and nothing is beyond the bound."""
    assert data[1:].startswith(kept)
    assert len(kept) <= 24 + ROOM


SEEDS = [
    bytes([cut]) + pcap(order, magic, SHORT_FRAMES * 2)
    for cut, order, magic in ((0, "<", 0xA1B2C3D4), (30, ">", 0xA1B2C3D4), (90, "<", 0xA1B23C4D))
]

TARGETS = {"pcap-stream": Target(parse, (PcapError,), SEEDS, check=check)}
