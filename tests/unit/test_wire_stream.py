# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams from segments: any order, overlap, retransmission and wrap, within limits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.wire.errors import WireError
from spind.wire.stream import Reassembler


def test_in_order() -> None:
    stream = Reassembler(100, 10)
    assert stream.add(1000, b"abc") == b"abc"
    assert stream.add(1003, b"de") == b"abcde"
    assert stream.add(1005, b"") is None


def test_out_of_order_waits_for_the_start() -> None:
    stream = Reassembler(100, 10)
    stream.set_start(1000)
    assert stream.add(1006, b"gh") is None
    assert stream.add(1003, b"def") is None
    assert stream.add(1000, b"abc") == b"abcdefgh"


def test_the_first_segment_sets_the_start() -> None:
    stream = Reassembler(100, 10)
    assert stream.add(1003, b"def") == b"def"
    assert stream.add(1000, b"abc") is None
    assert stream.add(1001, b"bcdefghi") == b"defghi"
    stream.set_start(1000)
    assert stream.add(1009, b"j") == b"defghij"


def test_retransmissions_bring_nothing_new() -> None:
    stream = Reassembler(100, 10)
    stream.set_start(1000)
    assert stream.add(1000, b"abc") == b"abc"
    assert stream.add(1000, b"abc") is None
    assert stream.add(1001, b"XX") is None
    assert stream.add(1005, b"fg") is None
    assert stream.add(1005, b"XX") is None
    assert stream.add(1000, b"XXXdeXXh") == b"abcdefgh"


def test_first_copy_wins_in_every_overlap() -> None:
    stream = Reassembler(100, 10)
    stream.set_start(0)
    assert stream.add(2, b"CC") is None
    assert stream.add(6, b"GG") is None
    assert stream.add(1, b"xxxxxxxxxx") is None
    assert stream.add(0, b"yy") == b"yxCCxxGGxxx"


def test_sequence_numbers_wrap() -> None:
    stream = Reassembler(100, 10)
    stream.set_start(2**32 - 2)
    assert stream.add(1, b"de") is None
    assert stream.add(2**32 - 2, b"abc") == b"abcde"
    stream.consume(4)
    assert stream.add(3, b"f") == b"ef"
    wrapped = Reassembler(100, 10)
    wrapped.set_start(2**32)
    assert wrapped.add(0, b"a") == b"a"


def test_limits() -> None:
    stream = Reassembler(8, 3)
    stream.set_start(0)
    with pytest.raises(WireError):
        stream.add(0, b"123456789")
    with pytest.raises(WireError):
        stream.add(8, b"9")
    with pytest.raises(WireError):
        stream.add(2**31 - 1, b"far")
    assert stream.add(1, b"b") is None
    assert stream.add(3, b"d") is None
    with pytest.raises(WireError, match="segments"):
        stream.add(0, b"xxxxxx")  # would be three pieces more
    assert stream.add(5, b"f") is None
    assert stream.add(5, b"f") is None
    with pytest.raises(WireError, match="segments"):
        stream.add(0, b"a")


def test_consuming_makes_room() -> None:
    stream = Reassembler(4, 2)
    stream.set_start(10)
    for first in range(10, 100, 2):
        assert stream.add(first + 1, b"b") is None
        assert stream.add(first, b"a") == b"ab"
        stream.consume(2)
    assert stream.add(99, b"old") is not None  # its last two bytes
    with pytest.raises(ValueError, match="more than there is"):
        stream.consume(3)
    stream.consume(0)
    with pytest.raises(ValueError, match="more than there is"):
        Reassembler(4, 2).consume(0)


segment_cuts = st.lists(st.tuples(st.integers(0, 59), st.integers(1, 20)), min_size=1, max_size=40)


@settings(deadline=None, database=None, max_examples=300)
@given(st.integers(0, 2**32 - 1), segment_cuts, st.booleans())
def test_equals_a_model_of_single_bytes(start: int, cuts: list[tuple[int, int]], consuming: bool) -> None:
    stream = Reassembler(1000, 1000)
    stream.set_start(start)
    model: dict[int, int] = {}
    read = known = 0
    for number, (offset, size) in enumerate(cuts):
        # Each segment's bytes tell which it was, so that a wrong copy shows.
        payload = bytes([number]) * size
        for position in range(offset, offset + size):
            model.setdefault(position, number)
        before = known
        while known in model:
            known += 1
        got = stream.add((start + offset) % 2**32, payload)
        if known == before:
            assert got is None
        else:
            assert got == bytes(model[position] for position in range(read, known))
            if consuming:
                stream.consume(number % (known - read + 1))
                read += number % (known - read + 1)
