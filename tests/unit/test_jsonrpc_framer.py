# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the end of JSON texts in a stream, however it is cut."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.json_framer import MAX_DEPTH, MAX_TEXT, FrameError, JsonFramer


def texts(framer):
    found = []
    while (text := framer.next()) is not None:
        found.append(text)
    return found


TRICKY = [
    b'{"jsonrpc":"2.0","id":1,"method":"list_devices"}',
    b'{"a":"}]\\"{[","b":["\\\\",{"c":"\\u007d"}]}',
    b"[]",
    '{"name":"Tür{"}'.encode(),
]


@pytest.mark.parametrize("separator", [b"", b"\n", b"\r\n", b"  \t\n\n "])
def test_texts_split_at_every_byte(separator):
    stream = separator.join(TRICKY)
    for cut in range(len(stream) + 1):
        framer = JsonFramer()
        framer.feed(stream[:cut])
        found = texts(framer)
        framer.feed(stream[cut:])
        assert found + texts(framer) == TRICKY
        assert framer.pending == 0


def test_one_byte_at_a_time():
    framer = JsonFramer()
    found = []
    for byte in b"\n".join(TRICKY):
        framer.feed(bytes([byte]))
        found += texts(framer)
    assert found == TRICKY


def test_bare_tells_whether_a_line_end_followed():
    framer = JsonFramer()
    framer.feed(b"{}")
    assert (texts(framer), framer.bare) == ([b"{}"], True)
    framer.feed(b"\n")
    assert (texts(framer), framer.bare) == ([], False)
    framer.feed(b"{} ")
    assert (texts(framer), framer.bare) == ([b"{}"], True)
    framer.feed(b"{}\n[]\n")
    assert (texts(framer), framer.bare) == ([b"{}", b"[]"], False)


@pytest.mark.parametrize("data", [b"x", b'"text"', b"1\n", b"}", b"]", b"\xff", b"{}x", b"null"])
def test_what_cannot_begin_a_request(data):
    framer = JsonFramer()
    framer.feed(data)
    with pytest.raises(FrameError):
        texts(framer)


def test_too_deep():
    framer = JsonFramer()
    framer.feed(b"[" * MAX_DEPTH)
    assert framer.next() is None
    framer.feed(b"[")
    with pytest.raises(FrameError, match="deep"):
        framer.next()


@pytest.mark.parametrize("tail", [b"", b'"}'])
def test_too_long(tail):
    framer = JsonFramer()
    framer.feed(b'{"a":"' + b"x" * MAX_TEXT + tail)
    with pytest.raises(FrameError, match="bytes"):
        framer.next()


def test_longest():
    text = b'{"a":"' + b"x" * (MAX_TEXT - 8) + b'"}'
    framer = JsonFramer()
    framer.feed(text + b"{")
    assert framer.next() == text
    assert framer.pending == 1


def test_white_space_is_not_kept():
    framer = JsonFramer()
    for _ in range(100):
        framer.feed(b"\n" * 10_000)
        assert framer.next() is None
        assert framer.pending == 0


VALUES = st.recursive(
    st.text(max_size=6) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, list | dict))


@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, max_size=5), st.lists(st.integers(1, 20), min_size=1, max_size=20))
def test_any_stream_in_any_pieces(values, sizes):
    expected = [json.dumps(value, ensure_ascii=False).encode() for value in values]
    stream = b"".join(expected)
    framer = JsonFramer()
    found = []
    turn = 0
    while stream:
        size = sizes[turn % len(sizes)]
        framer.feed(stream[:size])
        stream = stream[size:]
        found += texts(framer)
        turn += 1
    assert found == expected


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=10))
def test_only_one_kind_of_error(pieces):
    framer = JsonFramer()
    try:
        for piece in pieces:
            framer.feed(piece)
            texts(framer)
    except FrameError:
        pass
