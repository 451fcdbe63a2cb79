# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes hostile inputs out of valid ones, fast and the same for the same seed.

An input is a valid message, or one that the parser accepted before, with one to four changes.
All choices come from one random number per input, because drawing numbers is what costs.
"""

from collections.abc import Sequence
from random import Random

POOL = 64
LARGEST = 4096
"""Bytes of an input that is kept as material for others; it keeps sizes from running away."""

# Edges of ranges, small lengths, and characters that text formats care about.
_BYTES = bytes.fromhex("000102030405070809 0a0b0d0f1011121314161f2022272c2d2e2f3a3f404142505b5c5d60616c7e7f")
_BYTES += bytes.fromhex("80818890a0aabebfc0c1c2c8d0e0e9f0f8fafcfdfeff")
_WORDS = [
    number.to_bytes(2)
    for number in (0, 1, 2, 4, 12, 16, 63, 255, 256, 0x3FFF, 0x4000, 0x7FFF, 0x8000, 0xC000, 0xC00C, 0xFFFF)
]
_LONGS = [
    number.to_bytes(4)
    for number in (0, 1, 4, 8, 16, 0xFFFF, 0x10000, 0xFFFFFF, 0x1000000, 0x4000000, 0x10000000, 0x7FFFFFFF)
] + [b"\x80\0\0\0", b"\xff\xff\xff\xfc", b"\xff\xff\xff\xfe", b"\xff\xff\xff\xff"]


class Mutator:
    """An endless supply of inputs.

    ``seeds`` are valid messages, ``tokens`` what matters in their format. The same arguments
    and the same calls of ``keep`` give the same inputs.
    """

    def __init__(self, seeds: Sequence[bytes], tokens: Sequence[bytes], name: str) -> None:
        self._random = Random(name)
        self._bits = self._random.getrandbits
        order = list(seeds)
        self._random.shuffle(order)
        self._pool = [order[index % len(order)] for index in range(POOL)]
        self._tokens = tokens or _WORDS

    def keep(self, data: bytes) -> None:
        """Use ``data``, which the parser accepted, as material too; forgets a random other."""
        if len(data) <= LARGEST:
            self._pool[self._bits(6)] = data

    def next(self) -> bytes:
        """Return one more input."""
        draw = self._bits(128)
        data = bytearray(self._pool[draw & 63])
        draw >>= 6
        while True:
            size = len(data)
            kind = draw & 15
            at = (draw >> 4 & 0xFFFF) * size >> 16
            value = draw >> 20 & 0xFF
            more = draw >> 28 & 3
            draw >>= 30
            if not size:
                data += self._random.randbytes(value & 31)
            elif kind < 3:
                data[at] ^= 1 << (value & 7)
            elif kind < 5:
                data[at] = _BYTES[value % len(_BYTES)]
            elif kind == 5:
                data[at] = data[at] + (value & 15) - 8 & 0xFF
            elif kind == 6:
                data[at : at + 2] = _WORDS[value & 15]
            elif kind == 7:
                # What a length field here would have to be, or nearly.
                rest = max(size - at - 2 + (value & 7) - 4 if value < 240 else size, 0)
                data[at : at + 2] = (rest & 0xFFFF).to_bytes(2)
            elif kind == 8:
                data[at : at + 4] = _LONGS[value & 15] if value & 16 else _LONGS[value & 15][::-1]
            elif kind == 9:
                del data[at:]
            elif kind == 10:
                del data[at : at + (value & 15) + 1]
            elif kind == 11:
                there = value * size >> 8
                data[at:at] = data[there : there + (draw & 63)]
            elif kind == 12:
                other = self._pool[value & 63]
                data[at:] = other[draw % (len(other) + 1) :]
            elif kind == 13:
                data[at : at + (draw & 1) * 4] = self._tokens[value % len(self._tokens)]
            elif kind == 14:
                data[at : at + (value & 7)] = self._random.randbytes(value >> 4)
            elif value < 64:
                data[at:] = self._random.randbytes(value)
            elif value < 72:
                data = bytearray(self._random.randbytes(at))
            if not more or not draw:
                return bytes(data)
