# SPDX-License-Identifier: GPL-2.0-or-later
"""The stream of a capturing process: whole records, bounds, lies."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.capfile import read_bytes
from spind.pcap_stream import EMPTY, HEADER_SIZE, MAX_RECORD, PcapError, PcapStream, header

ROOM = 1 << 20


def record(data: bytes, order: str = "=") -> bytes:
    return struct.pack(order + "IIII", 1, 2, len(data), len(data) + 5) + data


def pcap(packets: list[bytes], order: str = "=", magic: int = 0xA1B2C3D4) -> bytes:
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, MAX_RECORD, 1)
    return head + b"".join(record(packet, order) for packet in packets)


def feed(stream: PcapStream, data: bytes, sizes: list[int], room: int = ROOM) -> tuple[bytes, int, bool]:
    """As a capture does: what is kept, how many packets, whether it is full."""
    kept, packets = b"", 0
    at = 0
    for size in [*sizes, len(data)]:
        piece = stream.feed(data[at : at + size], room - len(kept))
        at += size
        kept += piece.data
        packets += piece.packets
        if piece.full:
            return kept, packets, True
    return kept, packets, False


packets = st.lists(st.binary(max_size=90), max_size=8)
cuts = st.lists(st.integers(1, 70), max_size=30)


@given(packets, cuts, st.sampled_from("<>"), st.sampled_from([0xA1B2C3D4, 0xA1B23C4D]))
def test_records_come_whole_however_they_are_cut(wanted, sizes, order, magic):
    stream = PcapStream()
    data = pcap(wanted, order, magic)
    kept, count, full = feed(stream, data, sizes)
    assert (stream.header + kept, count, full) == (data, len(wanted), False)


@given(packets, cuts, st.integers(0, 400))
def test_what_is_kept_fits_and_the_next_record_would_not(wanted, sizes, room):
    stream = PcapStream()
    kept, count, full = feed(stream, pcap(wanted), sizes, room)
    whole = b"".join(map(record, wanted[:count]))
    assert kept == whole
    assert len(kept) <= room
    assert full == (count < len(wanted))
    if full:
        assert len(whole) + 16 + len(wanted[count]) > room
    assert len(read_bytes(stream.header + kept)) == count


def test_a_length_that_cannot_be_is_an_error_at_once():
    stream = PcapStream()
    with pytest.raises(PcapError):
        stream.feed(EMPTY + struct.pack("=IIII", 1, 2, MAX_RECORD + 1, 60), ROOM)


@pytest.mark.parametrize(
    "start", [b"\n\r\r\n" + bytes(20), bytes(24), b"GET / HTTP/1.1\r\nHost: x\r\n", pcap([])[:4] + bytes(20)]
)
def test_something_else_is_no_pcap(start):
    with pytest.raises(PcapError):
        PcapStream().feed(start, ROOM)


def test_less_than_a_header_is_not_wrong_yet():
    stream = PcapStream()
    assert stream.feed(EMPTY[: HEADER_SIZE - 1], ROOM) == (b"", 0, False)
    assert not stream.header
    stream.feed(EMPTY[HEADER_SIZE - 1 :], ROOM)
    assert stream.header == EMPTY == header(1)
    assert read_bytes(EMPTY) == []


def test_streams_of_different_kinds_are_told_apart():
    kinds = set()
    for data in (pcap([], "<"), pcap([], ">"), pcap([], "=", 0xA1B23C4D), header(113)):
        stream = PcapStream()
        stream.feed(data, ROOM)
        kinds.add(stream.kind)
    assert len(kinds) == 4
