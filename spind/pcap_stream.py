# SPDX-License-Identifier: GPL-2.0-or-later
"""The stream that a capturing process writes: its header, and whole records of it. Pure.

The process is ours or tcpdump, but what it writes holds lengths, so nothing is believed: a length is
checked before anything waits for so many bytes (draft-ietf-opsawg-pcap 4 and 5).
"""

from struct import Struct
from typing import NamedTuple

from spind.wire.errors import WireError

HEADER_SIZE = 24
RECORD_HEADER_SIZE = 16

MAX_RECORD = 262144
"""Bytes of one packet: libpcap's MAXIMUM_SNAPLEN."""

MAGIC = 0xA1B2C3D4
LINKTYPE_ETHERNET = 1

_ORDERS = {
    b"\xa1\xb2\xc3\xd4": ">",
    b"\xd4\xc3\xb2\xa1": "<",
    b"\xa1\xb2\x3c\x4d": ">",
    b"\x4d\x3c\xb2\xa1": "<",
}
"""Byte order by magic number, in microseconds and in nanoseconds."""

EMPTY = Struct("=IHHiIII").pack(MAGIC, 2, 4, 0, 0, MAX_RECORD, LINKTYPE_ETHERNET)
"""The header of a file without packets."""


class PcapError(WireError):
    """What came is no pcap."""


class Piece(NamedTuple):
    """Whole records: their bytes, and how many. ``full`` says that the next one did not fit."""

    data: bytes = b""
    packets: int = 0
    full: bool = False


class PcapStream:
    """Takes bytes as they come, gives whole records. Keeps less than one record and what was fed last."""

    def __init__(self) -> None:
        self.header = b""
        """The file's header, once it is there."""
        self._buffer = bytearray()
        self._length = Struct("<I")

    @property
    def kind(self) -> tuple[bytes, int]:
        """Magic number and link type: streams of the same kind can be put into one file."""
        # The upper bits of the last field hold the length of the frame check sequence.
        return self.header[:4], self._length.unpack_from(self.header, 20)[0] & 0xFFFF

    def feed(self, data: bytes, room: int) -> Piece:
        """The records that are whole now, at most ``room`` bytes of them; :class:`PcapError` where it lies.

        After a ``full`` piece the rest of the stream is of no use.
        """
        buffer = self._buffer
        buffer += data
        if not self.header and not self._take_header():
            return Piece()
        position = packets = 0
        full = False
        unpack, size = self._length.unpack_from, len(buffer)
        while size - position >= RECORD_HEADER_SIZE:
            captured = unpack(buffer, position + 8)[0]
            if captured > MAX_RECORD:
                raise PcapError(f"a record of {captured} bytes, which cannot be")
            end = position + RECORD_HEADER_SIZE + captured
            if end > room:
                full = True
                break
            if end > size:
                break
            position = end
            packets += 1
        piece = Piece(bytes(buffer[:position]), packets, full)
        del buffer[:position]
        return piece

    def _take_header(self) -> bool:
        if len(self._buffer) < HEADER_SIZE:
            return False
        order = _ORDERS.get(bytes(self._buffer[:4]))
        if order is None:
            raise PcapError(f"it begins with {self._buffer[:4].hex(' ')}, which is no pcap")
        if Struct(order + "H").unpack_from(self._buffer, 4)[0] != 2:
            raise PcapError("a pcap of an unknown version")
        self._length = Struct(order + "I")
        self.header = bytes(self._buffer[:HEADER_SIZE])
        del self._buffer[:HEADER_SIZE]
        return True


def header(linktype: int, snaplen: int = MAX_RECORD) -> bytes:
    """The header of a file, in this machine's byte order and microseconds."""
    return Struct("=IHHiIII").pack(MAGIC, 2, 4, 0, 0, snaplen, linktype)
