# SPDX-License-Identifier: GPL-2.0-or-later
"""The two decoders of conntrack entries."""

import random
import struct

import conntrack_messages as ct
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.model import ConnKey
from spind.wire.conntrack import Layout, decode_counters, key_of, learn, parse_entry
from spind.wire.errors import WireError

A4, B4, C4 = b"\x0a\0\0\2", b"\xc6\x33\x64\1", b"\x0a\0\0\x09"
A6, B6 = bytes(15) + b"\2", bytes(15) + b"\7"

PORT = st.integers(0, 65535)
COUNTER = st.integers(0, 2**64 - 1)
COUNTERS = st.tuples(COUNTER, COUNTER, COUNTER, COUNTER)


@st.composite
def connections(draw: st.DrawFn) -> ct.Connection:
    size = draw(st.sampled_from([4, 16]))
    address = st.binary(min_size=size, max_size=size)
    src, dst = draw(address), draw(address)
    proto = draw(st.sampled_from([6, 17, 132, 47, 1 if size == 4 else 58]))
    reply_src = draw(st.one_of(st.just(dst), address))
    return ct.Connection(
        proto, src, draw(PORT), dst, draw(PORT), reply_src, draw(PORT), draw(st.integers(0, 2**32 - 1))
    )


def wanted_key(c: ct.Connection) -> ConnKey:
    if c.proto in (1, 58):
        return ConnKey(c.proto, c.src, c.sport, c.reply_src, c.dport)
    if c.proto == 47:
        return ConnKey(47, c.src, 0, c.reply_src, 0)
    return ConnKey(c.proto, c.src, c.sport, c.reply_src, c.reply_sport)


def test_destination_nat_is_undone_and_source_nat_never_shows() -> None:
    # The home's 10.0.0.2 asks 198.51.100.1:80, which the gateway redirects to 10.0.0.9:3128.
    data = ct.entry(ct.Connection(6, A4, 40000, B4, 80, C4, 3128, 7), (1, 60, 1, 40))
    assert parse_entry(data, 0, len(data)).key == ConnKey(6, A4, 40000, C4, 3128)


def test_icmp_keys_hold_the_identifier_and_the_request() -> None:
    data = ct.entry(ct.Connection(1, A4, 0x1234, B4, 8 << 8, B4, 0, 7), None)
    assert parse_entry(data, 0, len(data)).key == ConnKey(1, A4, 0x1234, B4, 8 << 8)
    data = ct.entry(ct.Connection(58, A6, 0x1234, B6, 128 << 8, B6, 0, 7), None)
    assert parse_entry(data, 0, len(data)).key == ConnKey(58, A6, 0x1234, B6, 128 << 8)


@given(connections(), COUNTERS, st.booleans(), st.randoms())
def test_walking_finds_all_in_any_order(
    connection: ct.Connection, counts: tuple[int, int, int, int], padded: bool, mix: random.Random
) -> None:
    data = ct.entry(connection, counts, padded=padded, mix=mix)
    entry = parse_entry(data, 0, len(data))
    assert entry.key == wanted_key(connection)
    assert decode_counters(entry.counters) == counts
    assert key_of(entry.ident) == entry.key


@settings(max_examples=300)
@given(
    st.lists(st.tuples(connections(), st.none() | COUNTERS), min_size=2, max_size=6),
    st.integers(0, 3),
    st.integers(0, 2**16),
)
def test_the_fast_way_ends_where_the_slow_way_does(
    entries: list[tuple[ct.Connection, tuple[int, int, int, int] | None]], shuffles: int, seed: int
) -> None:
    """Layouts learned from each message, tried on all others, which often have the same length."""
    texts = []
    for number, (connection, counts) in enumerate(entries):
        mix = random.Random(seed + number % 2) if shuffles else None
        texts.append(ct.entry(connection, counts, padded=shuffles == 2, mix=mix))
    layouts: list[Layout] = [learn(text, 0, len(text))[1] for text in texts]
    for text in texts:
        slow = parse_entry(text, 0, len(text))
        data = b"\xee" * 5 + text + b"\xee" * 3
        for layout in layouts:
            if layout.usable and layout.length == len(text) and layout.matches(data, 5):
                assert layout.take(data, 5) == (slow.ident, slow.counters)
                assert layout.key(data, 5) == slow.key


def test_the_kernels_messages_are_taken_the_fast_way() -> None:
    for padded in (False, True):
        one = ct.entry(ct.tcp(1), (1, 60, 0, 0), padded=padded)
        other = ct.entry(ct.tcp(2), (9, 900, 7, 70000), padded=padded)
        layout = learn(one, 0, len(one))[1]
        assert layout.usable
        assert layout.matches(other, 0)


@given(st.data())
def test_one_changed_header_byte_stops_the_fast_way(data: st.DataObject) -> None:
    text = ct.entry(ct.tcp(1), (1, 60, 0, 0))
    layout = learn(text, 0, len(text))[1]
    headers = [at for at in range(20, len(text)) if text[at : at + 1] != _flip(text, at, layout)]
    assert len(headers) > 60, "fifteen headers and more, of four bytes"
    position = data.draw(st.sampled_from(headers))
    changed = text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :]
    assert not layout.matches(changed, 0)


def _flip(text: bytes, position: int, layout: Layout) -> bytes:
    """The byte at ``position``, changed if the layout would notice that."""
    changed = text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :]
    return text[position : position + 1] if layout.matches(changed, 0) else changed[position : position + 1]


@given(connections(), st.binary(max_size=4), st.integers(0, 300))
def test_damage_is_refused_or_read_never_worse(connection: ct.Connection, patch: bytes, at: int) -> None:
    text = bytearray(ct.entry(connection, (1, 2, 3, 4)))
    text[at : at + len(patch)] = patch
    data = bytes(text)
    try:
        entry = parse_entry(data, 0, len(data))
        decode_counters(entry.counters)
    except WireError:
        pass


@pytest.mark.parametrize("missing", [1, 2])
def test_an_entry_without_a_tuple_is_refused(missing: int) -> None:
    text = ct.entry(ct.tcp(), (1, 2, 3, 4))
    # Rename the attribute: its header stands first, or behind the first one's 52 bytes.
    position = 20 if missing == 1 else 72
    data = text[: position + 2] + struct.pack("=H", 0x8000 | 99) + text[position + 4 :]
    assert struct.unpack_from("=H", text, position + 2)[0] == 0x8000 | missing
    with pytest.raises(WireError):
        parse_entry(data, 0, len(data))


def test_an_entry_without_counters_counts_nothing() -> None:
    data = ct.entry(ct.tcp(), None)
    assert decode_counters(parse_entry(data, 0, len(data)).counters) == (0, 0, 0, 0)
