# SPDX-License-Identifier: GPL-2.0-or-later
"""Capture files of every dialect, whole, cut off at every byte, and lying."""

import gzip
import io
import struct
import sys

import pytest
from capture_forms import block, enhanced, interface, pcap, section, simple
from hypothesis import given, settings
from hypothesis import strategies as st

from spind import capfile
from spind.capfile import CaptureFileError, read_bytes, read_capture, read_stream
from spind.wire.errors import WireError

FRAMES = [b"first frame", b"", b"the third frame, longer than the others by some", b"x" * 65549]
SMALL = FRAMES[:3]


def pcapng(endian="<"):
    """Two interfaces of different link types and resolutions, and blocks of no interest."""
    return (
        section(endian, options=struct.pack(endian + "HH4sHH", 4, 4, b"test", 0, 0))
        + interface(1, endian)
        + block(0x0BAD, b"a block that is unknown", endian)
        + interface(101, endian, tsresol=9)
        + block(10, struct.pack(endian + "II", 0x544C534B, 4) + b"key!", endian)
        + enhanced(0, 1_000_000_500_000, b"ethernet", endian)
        + enhanced(1, 1_000_001_250_000_000, b"raw ip", endian, wirelen=1500)
        + simple(b"simple", endian)
    )


def outcome(data):
    """(packets, error or None): what a file gives, whatever happens."""
    packets = []
    try:
        packets.extend(read_stream(io.BytesIO(data)))
    except CaptureFileError as error:
        return packets, error
    return packets, None


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_of_every_magic(endian, nano):
    packets = read_bytes(pcap(FRAMES, endian=endian, nano=nano, linktype=113))
    assert [p.data for p in packets[:3]] == SMALL
    assert [p.time for p in packets] == pytest.approx([1_000_000.5, 1_000_001.5, 1_000_002.5, 1_000_003.5])
    assert {p.linktype for p in packets} == {113}
    assert [p.wirelen for p in packets] == [len(frame) for frame in FRAMES]


def test_the_beginning_of_a_huge_packet_is_kept():
    last = read_bytes(pcap(FRAMES))[3]
    assert len(last.data) >= 65535
    assert last.data == FRAMES[3][: len(last.data)]


def test_snapped_packets_say_their_length_on_the_wire():
    assert [(p.data, p.wirelen) for p in read_bytes(pcap([b"head"], wirelen=1514))] == [(b"head", 1514)]


def test_the_frame_check_sequence_bits_are_no_link_type():
    assert read_bytes(pcap([b"x"], linktype=0x54000001))[0].linktype == 1


@pytest.mark.parametrize("endian", ["<", ">"])
def test_pcapng_with_several_interfaces(endian):
    assert read_bytes(pcapng(endian)) == [
        (1_000_000.5, 1, b"ethernet", 8),
        (1_000_001.25, 101, b"raw ip", 1500),
        (1_000_001.25, 1, b"simple", 6),
    ]


def test_pcapng_sections_have_interfaces_of_their_own():
    second = section(">") + interface(276, ">", tsresol=0x80 | 10) + enhanced(0, 1024 * 7, b"sll2", ">")
    assert read_bytes(pcapng() + second)[-1] == (7.0, 276, b"sll2", 4)


def test_pcapng_simple_packets_of_an_unlimited_interface():
    data = section() + interface(1, snaplen=0) + simple(b"as long as it likes")
    assert [p.data for p in read_bytes(data)] == [b"as long as it likes"]


def test_pcapng_obsolete_packet_block():
    body = struct.pack("<HHIIII", 0, 0, 0, 3_000_000, 3, 60) + b"old"
    assert read_bytes(section() + interface(1) + block(2, body)) == [(3.0, 1, b"old", 60)]


def test_no_packets_is_no_error():
    assert read_bytes(pcap([])) == []
    assert read_bytes(section()) == []


def test_gzip():
    assert read_bytes(gzip.compress(pcap(SMALL))) == read_bytes(pcap(SMALL))
    assert read_bytes(gzip.compress(pcapng())) == read_bytes(pcapng())


class Dripping(io.RawIOBase):
    """A pipe that hands out one byte a read and cannot seek."""

    def __init__(self, data):
        self._inner = io.BytesIO(data)

    def read(self, size=-1):
        return self._inner.read(min(size, 1))

    def seekable(self):
        return False


@pytest.mark.parametrize("data", [pcap(SMALL), pcapng(), gzip.compress(pcapng())])
def test_a_slow_pipe_gives_the_same(data):
    assert list(read_stream(Dripping(data))) == read_bytes(data)


def test_standard_input_and_files(tmp_path, monkeypatch):
    path = tmp_path / "capture"
    path.write_bytes(pcap(SMALL))
    assert list(read_capture(str(path))) == read_bytes(pcap(SMALL))
    with path.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert list(read_capture("-")) == read_bytes(pcap(SMALL))


@pytest.mark.parametrize("name", ["absent", "", "nul\0byte"])
def test_what_cannot_be_opened(tmp_path, name):
    with pytest.raises(CaptureFileError, match="cannot open"):
        list(read_capture(str(tmp_path / name)))


@pytest.mark.parametrize("data", [pcap(SMALL), pcapng(), pcapng() + pcapng(">")])
def test_cut_off_at_every_byte(data):
    """Only cuts between records are clean, and all that was whole before the cut is delivered."""
    whole = read_bytes(data)
    clean = 0
    for cut in range(len(data)):
        packets, error = outcome(data[:cut])
        assert packets == whole[: len(packets)]
        if error is None:
            clean += 1
        else:
            assert error.packets_read == len(packets)
            assert str(error)
    # The whole records of each file, less the last, but for the header that is no file alone.
    assert clean == (3 if len(whole) == 3 and data[:4] != b"\x0a\x0d\x0d\x0a" else len(data_blocks(data)) - 1)


def data_blocks(data):
    """Where the blocks of a whole little- and big-endian pcapng file begin."""
    starts = []
    offset = 0
    while offset < len(data):
        starts.append(offset)
        endian = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}.get(data[offset + 8 : offset + 12])
        if data[offset : offset + 4] == b"\x0a\x0d\x0d\x0a":
            order = endian
        offset += struct.unpack_from(order + "I", data, offset + 4)[0]
    return starts


def test_cut_off_gzip_at_every_byte():
    data = gzip.compress(pcap(SMALL))
    for cut in range(len(data)):
        packets, error = outcome(data[:cut])
        assert error is not None
        assert packets == read_bytes(pcap(SMALL))[: len(packets)]


@pytest.mark.parametrize(
    ("data", "read", "says"),
    [
        (b"", 0, "empty"),
        (b"\xd4", 0, "cut off"),
        (b"GIF89a, not packets", 0, "not a capture file"),
        (gzip.compress(gzip.compress(pcap(SMALL))), 0, "not a capture file"),
        (gzip.compress(pcap(SMALL))[:-8] + b"\0" * 8, 3, "cannot read on"),
        (gzip.compress(pcap(SMALL)) + b"something else", 3, "cannot read on"),
        (pcap(SMALL) + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 1) + b"x" * 64, 3, "cut off"),
        (pcap([b"ok", b"y" * 262145]), 1, "262145 bytes"),
        (section() + struct.pack("<II", 1, 0xFFFFFFF0), 0, "4294967280 bytes"),
        (section() + struct.pack("<II", 1, 4), 0, "4 bytes"),
        (section() + struct.pack("<II", 1, 21) + bytes(40), 0, "21 bytes"),
        (pcapng() + struct.pack("<II", 6, 16) + b"bodyTAIL", 3, "two lengths differ"),
        (section() + block(1, b"\1\0\0\0"), 0, "shorter"),
        (section() + simple(b"of no interface"), 0, "interface 0"),
        (section() + interface(1) + enhanced(1, 0, b"x"), 0, "interface 1"),
        (pcapng() + section() + enhanced(0, 0, b"x"), 3, "interface 0"),
        (section() + interface(1) + enhanced(0, 0, b"x", caplen=0xFFFFFFFF), 0, "4294967295 bytes"),
        (section() + interface(1) + enhanced(0, 0, b"x", caplen=5), 0, "longer than its block"),
        (section() + interface(1) + enhanced(0, 0, b"x" * 262148), 0, "262148 bytes"),
        (section() + interface(1) * 1025, 0, "1024 interfaces"),
        (section(major=2), 0, "unknown version"),
        (b"\x0a\x0d\x0d\x0a" + struct.pack("<II", 28, 0x12345678) + bytes(16), 0, "byte-order magic"),
        (b"\x0a\x0d\x0d\x0a" + struct.pack("<II", 12, 0x1A2B3C4D) + bytes(16), 0, "12 bytes"),
    ],
)
def test_lies_are_found(data, read, says):
    packets, error = outcome(data)
    assert error is not None
    assert says in str(error)
    assert len(packets) == error.packets_read == read
    assert isinstance(error, WireError)


class Endless(io.RawIOBase):
    """A header that promises gigabytes, and a source that would deliver them."""

    def __init__(self, head):
        self._head = head
        self.given = 0

    def read(self, size=-1):
        head, self._head = self._head[:size], self._head[size:]
        if head:
            return head
        assert size <= capfile.MAX_RECORD
        self.given += size
        return bytes(size)


def test_a_huge_block_is_not_read():
    source = Endless(section() + struct.pack("<II", 6, 0x7FFFFFF0))
    with pytest.raises(CaptureFileError, match="2147483632 bytes"):
        list(read_stream(source))
    assert source.given == 0


@given(st.sampled_from([pcap(SMALL), pcap(SMALL, endian=">", nano=True), pcapng(), pcapng(">")]), st.data())
@settings(max_examples=400, deadline=None)
def test_damage_gives_packets_or_the_one_error(data, draw):
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    packets, error = outcome(bytes(damaged))
    assert len(packets) <= 3
    assert error is None or error.packets_read == len(packets)


@given(
    st.sampled_from([b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", section(), section(">"), b""]),
    st.binary(max_size=200),
)
@settings(max_examples=400, deadline=None)
def test_noise_gives_packets_or_the_one_error(head, noise):
    packets, _ = outcome(head + noise)
    assert len(packets) <= 13
