# SPDX-License-Identifier: GPL-2.0-or-later
"""Capture files: pcap and pcapng in, (time, link type, bytes, length on the wire) out.

The records are decoded by scapy's raw readers. They were written for friendly files: they take a
cut-off file for a finished one, allocate what a length field asks for (up to 4 GiB), go on with
the interfaces of the section before, and act on blocks that only tell secrets or process names.
So they never read the file themselves here: they read from a guard that checks the frame of every
record first, and that turns everything odd into :class:`CaptureFileError`.

Must not know what is in a packet. Nothing here is written anywhere but for scapy's own cache of
service names, which importing it makes; it is imported when the first file is opened.
"""

import gzip
import logging
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from spind.wire.errors import WireError

PCAP_MAGICS = frozenset((b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1"))
"""Big and little endian, in microseconds and in nanoseconds (draft-ietf-opsawg-pcap 4)."""

PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
GZIP_MAGIC = b"\x1f\x8b"

MAX_RECORD = 262144
"""Bytes of one captured packet: libpcap's MAXIMUM_SNAPLEN, beyond which it calls a file corrupt."""

MAX_BLOCK = 16 * 1024 * 1024
"""Bytes of one pcapng block: libpcap's bound too."""

MAX_INTERFACES = 1024
"""Interfaces of one pcapng section; scapy keeps each of them."""

CHUNK = 65536

BLOCK_INTERFACE = 1
BLOCK_PACKET = 2
BLOCK_SIMPLE_PACKET = 3
BLOCK_ENHANCED_PACKET = 6
BLOCK_SECTION = 0x0A0D0D0A

# Fixed part of each block's body that scapy is shown (draft-ietf-opsawg-pcapng 4.1 to 4.4, and
# A.1 for the obsolete packet block).
_LEAST_BODY = {BLOCK_INTERFACE: 8, BLOCK_PACKET: 20, BLOCK_SIMPLE_PACKET: 4, BLOCK_ENHANCED_PACKET: 20}
_LEAST_SECTION = 16


class CapturedPacket(NamedTuple):
    """One record of a capture file.

    ``time`` is in seconds (Unix time), ``linktype`` a LINKTYPE_ value of tcpdump's registry,
    ``wirelen`` the length in bytes of what was on the wire, of which ``data`` may be only the
    beginning.
    """

    time: float
    linktype: int
    data: bytes
    wirelen: int


class CaptureFileError(WireError):
    """The file cannot be read on, or not at all.

    ``packets_read`` packets were delivered before, and they are good.
    """

    def __init__(self, message: str, packets_read: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.packets_read = packets_read


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Guard:
    """The file as scapy's pcap reader sees it: each read is whole, or an error.

    Only the reading of a record's first byte may meet the end of the file.
    """

    name = "capture"

    def __init__(self, source: _Readable, magic: bytes) -> None:
        self._source = source
        self._magic = magic
        self.between = False
        """Are we between two records, so that the end of the file is fine?"""

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes; none at all only at the end of the file between two records."""
        if self._magic:
            head, self._magic = self._magic[:size], self._magic[size:]
            return head
        return self.take(size)

    def take(self, size: int) -> bytes:
        """Do as ``read``, past the magic that was looked at before."""
        part = self._some(size)
        if len(part) < size:
            part = self._rest(part, size)
        self.between = False
        return part

    def _rest(self, part: bytes, size: int) -> bytes:
        """Read on where one read did not give all."""
        if size > MAX_BLOCK:
            raise CaptureFileError(f"a record of {size} bytes, which cannot be")
        if not part and self.between:
            return b""
        parts = [part]
        missing = size - len(part)
        while missing > 0 and part:
            part = self._some(missing)
            parts.append(part)
            missing -= len(part)
        if missing > 0:
            raise CaptureFileError("the file is cut off in the middle of a record")
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        try:
            return self._source.read(size if size < MAX_RECORD else MAX_RECORD)  # noqa: FURB136 - hot
        except EOFError as error:
            raise CaptureFileError("the compressed file is cut off") from error
        except (OSError, zlib.error) as error:
            raise CaptureFileError(f"cannot read on: {error}") from error


class _BlockGuard(_Guard):
    """The file as scapy's pcapng reader sees it: whole checked blocks of the kinds that matter.

    It ends before each section header but the first, so that every section gets a reader (and so
    a list of interfaces) of its own; ``next_section`` says that there is one more.
    """

    def __init__(self, source: _Readable) -> None:
        super().__init__(source, b"")
        self._block = b""
        self._offset = 0
        self._interfaces = 0
        self._word = Struct("<I")
        self.next_section = False

    def open_section(self) -> None:
        """Read a section header after its four magic bytes (draft-ietf-opsawg-pcapng 4.1)."""
        head = self.take(8)
        if head[4:] not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
            raise CaptureFileError("a pcapng section header without its byte-order magic")
        self._word = Struct(">I" if head[4:] == b"\x1a\x2b\x3c\x4d" else "<I")
        length = self._checked_length(head[:4], least=12 + _LEAST_SECTION)
        rest = self.take(length - 12)
        self._check_trailer(head[:4], rest)
        if rest[:2] not in (b"\x00\x01", b"\x01\x00") or self._u16(rest[:2]) != 1:
            raise CaptureFileError("a pcapng section of an unknown version")
        # Its options say which program wrote it: of no use here, so scapy does not see them.
        size = self._word.pack(12 + _LEAST_SECTION)
        self._serve(PCAPNG_MAGIC + size + head[4:] + rest[:12] + size)
        self._interfaces = 0
        self.next_section = False

    def read(self, size: int) -> bytes:
        """Read on in the current block, or in the next one that matters; nothing at the section's end."""
        if self._offset == len(self._block) and not self._next_block():
            return b""
        part = self._block[self._offset : self._offset + size]
        self._offset += len(part)
        return part

    def _next_block(self) -> bool:
        while not self.next_section:
            self.between = True
            kind = self.take(4)
            if not kind:
                return False
            if kind == PCAPNG_MAGIC:
                self.next_section = True
                return False
            size = self.take(4)
            length = self._checked_length(size, least=12)
            body = self.take(length - 12)
            self._check_trailer(size, body + self.take(4))
            number = self._word.unpack(kind)[0]
            if number in _LEAST_BODY:
                self._serve(kind + size + self._checked_body(number, body) + size)
                return True
        return False

    def _checked_body(self, kind: int, body: bytes) -> bytes:
        if len(body) < _LEAST_BODY[kind]:
            raise CaptureFileError("a pcapng block is shorter than its kind allows")
        if kind == BLOCK_INTERFACE:
            self._interfaces += 1
            if self._interfaces > MAX_INTERFACES:
                raise CaptureFileError(f"a pcapng section with more than {MAX_INTERFACES} interfaces")
            if body[4:8] == b"\0\0\0\0":
                # No limit to what was captured; scapy would take simple packets for empty.
                return body[:4] + b"\xff\xff\xff\xff" + body[8:]
            return body
        if kind == BLOCK_SIMPLE_PACKET:
            interface = 0
            captured = 0
        elif kind == BLOCK_PACKET:
            interface = self._u16(body[:2])
            captured = self._word.unpack_from(body, 12)[0]
        else:
            interface = self._word.unpack_from(body)[0]
            captured = self._word.unpack_from(body, 12)[0]
        if interface >= self._interfaces:
            raise CaptureFileError(f"a packet of interface {interface}, which the file does not describe")
        if captured > MAX_RECORD:
            raise CaptureFileError(f"a packet of {captured} bytes, which cannot be")
        if captured > len(body) - _LEAST_BODY[kind]:
            raise CaptureFileError("a packet that claims to be longer than its block")
        return body

    def _checked_length(self, size: bytes, least: int) -> int:
        length = int(self._word.unpack(size)[0])
        if length < least or length % 4 or length > MAX_BLOCK:
            raise CaptureFileError(f"a pcapng block of {length} bytes, which cannot be")
        return length

    def _check_trailer(self, size: bytes, body: bytes) -> None:
        if body[-4:] != size:
            raise CaptureFileError("a pcapng block whose two lengths differ")

    def _u16(self, data: bytes) -> int:
        return int.from_bytes(data, "big" if self._word.format[0] == ">" else "little")

    def _serve(self, block: bytes) -> None:
        self._block = block
        self._offset = 0


def read_capture(path: str) -> Iterator[CapturedPacket]:
    """Yield the packets of a file, ``-`` for standard input, gzip or not, in the file's order.

    Raises :class:`CaptureFileError` where the file ends early or lies, after the packets before.
    """
    with ExitStack() as stack:
        try:
            stream = sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CaptureFileError(f"cannot open {path}: {reason}") from error
        yield from read_stream(stream)


def read_stream(stream: BinaryIO) -> Iterator[CapturedPacket]:
    """Yield the packets of an open binary stream; as :func:`read_capture`."""
    count = 0
    try:
        for packet in _records(stream):
            yield packet
            count += 1
    except CaptureFileError as error:
        error.packets_read = count
        raise


def read_bytes(data: bytes) -> list[CapturedPacket]:
    """Read all packets of a capture file that is in memory: what fuzzing calls."""
    return list(read_stream(BytesIO(data)))


def _records(stream: BinaryIO) -> Iterator[CapturedPacket]:
    source: _Readable = stream
    magic = _magic(source, 2)
    if magic == GZIP_MAGIC:
        source = gzip.GzipFile(fileobj=cast("BinaryIO", _Rewound(stream, magic)), mode="rb")
        magic = _magic(source, 2)
    magic += _magic(source, 2)
    if magic in PCAP_MAGICS:
        return _pcap(_Guard(source, magic))
    if magic == PCAPNG_MAGIC:
        return _pcapng(_BlockGuard(source))
    if not magic:
        raise CaptureFileError("the file is empty")
    raise CaptureFileError(f"not a capture file: it begins with {magic.hex(' ')}, neither pcap nor pcapng")


def _magic(source: _Readable, size: int) -> bytes:
    guard = _Guard(source, b"")
    guard.between = True
    return guard.take(size)


class _Rewound:
    """A stream whose first bytes were taken and are put back; for pipes, which cannot seek."""

    def __init__(self, stream: BinaryIO, head: bytes) -> None:
        self._stream = stream
        self._head = head

    def read(self, size: int = -1) -> bytes:
        head, self._head = self._head, b""
        return head or self._stream.read(size)


def _pcap(guard: _Guard) -> Iterator[CapturedPacket]:
    reader = _scapy().RawPcapReader(guard)
    # The upper bits hold the length of the frame check sequence (draft-ietf-opsawg-pcap 4).
    linktype = reader.linktype & 0xFFFF
    unit = 1e-9 if reader.nano else 1e-6
    guard.between = True
    for data, (seconds, fraction, wirelen, captured) in reader:
        if captured > MAX_RECORD:
            raise CaptureFileError(f"a packet of {captured} bytes, which cannot be")
        yield CapturedPacket(seconds + fraction * unit, linktype, data, wirelen)
        guard.between = True


def _pcapng(guard: _BlockGuard) -> Iterator[CapturedPacket]:
    guard.open_section()
    raw_reader = _scapy().RawPcapNgReader
    time = 0.0
    while True:
        for data, meta in raw_reader(guard):
            if meta.tshigh is not None:
                # Simple packets have no time: they keep that of the packet before.
                time = ((meta.tshigh << 32) | meta.tslow) / meta.tsresol
            yield CapturedPacket(time, meta.linktype, data, meta.wirelen)
        if not guard.next_section:
            return
        guard.open_section()


def _scapy() -> Any:
    """Load scapy's reader module when it is needed (0.1 s, 25 MB).

    It is told to keep quiet: what its readers warn about is an error here.
    """
    from scapy import utils  # noqa: PLC0415  # see above

    logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
    return utils
