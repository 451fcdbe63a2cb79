# SPDX-License-Identifier: GPL-2.0-or-later
"""Colours: of a screenshot at a place, and what people would call them. For tests of the page."""

import colorsys
import struct
import zlib

Colour = tuple[int, int, int]


class Picture:
    """A PNG as Chromium makes it: 8 bits, RGB or RGBA, not interlaced (RFC 2083)."""

    def __init__(self, data: bytes) -> None:
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        packed, at = b"", 8
        while at < len(data):
            size, kind = struct.unpack_from("!I4s", data, at)
            body = data[at + 8 : at + 8 + size]
            if kind == b"IHDR":
                self.width, self.height, depth, colour, _, _, interlaced = struct.unpack("!2I5B", body)
                assert (depth, interlaced) == (8, 0)
                self._bytes = {2: 3, 6: 4}[colour]
            elif kind == b"IDAT":
                packed += body
            at += size + 12
        self._rows = self._unfilter(zlib.decompress(packed))

    def _unfilter(self, data: bytes) -> list[bytearray]:
        step, length = self._bytes, self.width * self._bytes
        rows: list[bytearray] = []
        above = bytearray(length)
        for number in range(self.height):
            begin = number * (length + 1)
            kind, row = data[begin], bytearray(data[begin + 1 : begin + 1 + length])
            for i in range(length if kind else 0):
                left = row[i - step] if i >= step else 0
                corner = above[i - step] if i >= step else 0
                row[i] = (row[i] + self._predict(kind, left, above[i], corner)) & 255
            rows.append(row)
            above = row
        return rows

    @staticmethod
    def _predict(kind: int, left: int, up: int, corner: int) -> int:
        if kind < 4:
            return (0, left, up, (left + up) // 2)[kind]
        guess = left + up - corner
        near = [(abs(guess - value), order, value) for order, value in enumerate((left, up, corner))]
        return min(near)[2]

    def at(self, x: float, y: float) -> Colour:
        """The colour of a pixel."""
        row, begin = self._rows[int(y)], int(x) * self._bytes
        return row[begin], row[begin + 1], row[begin + 2]

    def around(self, x: float, y: float, reach: int) -> list[Colour]:
        """The colours of all pixels that are not further away."""
        return [
            self.at(each, line)
            for line in range(max(0, int(y) - reach), min(self.height, int(y) + reach + 1))
            for each in range(max(0, int(x) - reach), min(self.width, int(x) + reach + 1))
        ]


def called(colour: Colour) -> str:
    """What people would call it."""
    hue, _, saturation = colorsys.rgb_to_hls(*(part / 255 for part in colour))
    if saturation < 0.2 or max(colour) - min(colour) < 24:
        return "grey"
    degrees = hue * 360
    bounds = ((20, "red"), (70, "yellow"), (170, "green"), (200, "cyan"), (245, "blue"), (300, "violet"))
    return next((name for bound, name in bounds if degrees < bound), "red")
