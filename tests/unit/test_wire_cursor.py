# SPDX-License-Identifier: GPL-2.0-or-later
"""The cursor: reads in network order, never beyond its end, and stays put when refused."""

from collections.abc import Callable

import pytest

from spind.wire.cursor import Cursor
from spind.wire.errors import WireError


def test_reads_in_network_order() -> None:
    cursor = Cursor(bytes(range(1, 9)))
    assert cursor.u8() == 0x01
    assert cursor.u16() == 0x0203
    assert cursor.take(3) == b"\x04\x05\x06"
    assert cursor.advance(1) == 6
    assert not cursor.at_end()
    assert cursor.u8() == 0x08
    assert cursor.at_end()
    assert cursor.take(0) == b""


def test_a_nested_cursor_sees_no_more_than_its_part() -> None:
    cursor = Cursor(b"\x01\x02\x03\x04")
    inner = cursor.sub(2)
    assert inner.u16() == 0x0102
    with pytest.raises(WireError):
        inner.u8()
    assert cursor.u16() == 0x0304


@pytest.mark.parametrize(
    "read",
    [
        Cursor.u16,
        lambda cursor: cursor.take(2),
        lambda cursor: cursor.sub(2),
        lambda cursor: cursor.advance(2),
    ],
)
def test_a_refused_read_moves_nothing(read: Callable[[Cursor], object]) -> None:
    cursor = Cursor(b"abc", 1, 2)
    with pytest.raises(WireError):
        read(cursor)
    assert cursor.u8() == ord("b")
    assert cursor.at_end()
