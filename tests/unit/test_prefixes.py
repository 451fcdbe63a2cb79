# SPDX-License-Identifier: GPL-2.0-or-later
"""Carving prefixes, compared with a search for the longest prefix of every address."""

import random
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.model import format_address
from spind.prefixes import Carver
from spind.rule_fields import parse_prefix, show_prefix

SPAN = 6
"""Bits of the little address space at each end of a family's own."""


def prefix(text):
    if text in ("0.0.0.0/0", "::/0"):
        return bytes(4 if "." in text else 16), 0
    return parse_prefix("", text, group=True)


def shown(prefixes):
    return sorted(map(show_prefix, prefixes))


def test_the_longer_prefix_wins():
    carver = Carver()
    assert carver.add(prefix("192.0.2.0/29"), "block") == ((prefix("192.0.2.0/29"),), (), (), ())
    changes = carver.add(prefix("192.0.2.1"), "allow")
    assert shown(changes.removed_block) == ["192.0.2.0/29"]
    assert shown(changes.added_block) == ["192.0.2.0", "192.0.2.2/31", "192.0.2.4/30"]
    assert changes.added_allow == (prefix("192.0.2.1"),)
    assert shown(carver.block) == ["192.0.2.0", "192.0.2.2/31", "192.0.2.4/30"]
    changes = carver.remove(prefix("192.0.2.1"), "allow")
    assert (shown(changes.added_block), shown(changes.removed_allow)) == (["192.0.2.0/29"], ["192.0.2.1"])
    assert (shown(carver.block), carver.allow) == (["192.0.2.0/29"], set())


def test_allow_wins_at_the_same_prefix():
    carver = Carver()
    carver.add(prefix("192.0.2.0/24"), "block")
    assert carver.add(prefix("192.0.2.99/24"), "allow").added_allow == (prefix("192.0.2.0/24"),)
    assert carver.block == set()
    assert carver.add(prefix("192.0.2.0/24"), "block") == ((), (), (), ())
    carver.remove(prefix("192.0.2.0/24"), "allow")
    assert carver.block == {prefix("192.0.2.0/24")}
    carver.remove(prefix("192.0.2.0/24"), "block")
    assert carver.block == {prefix("192.0.2.0/24")}  # it was there twice
    carver.remove(prefix("192.0.2.0/24"), "block")
    assert (carver.block, len(carver)) == (set(), 0)


def test_everything_is_two_halves():
    carver = Carver()
    carver.add(prefix("0.0.0.0/0"), "block")
    carver.add(prefix("::/0"), "allow")
    assert shown(carver.block) == ["0.0.0.0/1", "128.0.0.0/1"]
    assert shown(carver.allow) == ["8000::/1", "::/1"]
    carver.add(prefix("192.0.0.0/2"), "allow")
    assert shown(carver.block) == ["0.0.0.0/1", "128.0.0.0/2"]
    carver.remove(prefix("192.0.0.0/2"), "allow")
    carver.remove(prefix("::/0"), "allow")
    assert shown(carver.block) == ["0.0.0.0/1", "128.0.0.0/1"]


def test_what_says_the_same_as_what_is_around_it_costs_nothing():
    carver = Carver()
    carver.add(prefix("::/0"), "block")
    for number in range(100):
        assert not any(carver.add((number.to_bytes(16, "big"), 128), "block"))
    assert len(carver.block) == 2
    carver.remove(prefix("::/0"), "block")
    assert len(carver.block) == 100


def test_neighbours_do_not_grow_together():
    carver = Carver()
    carver.add(prefix("192.0.2.0/25"), "block")
    carver.add(prefix("192.0.2.128/25"), "block")
    for _ in range(2):
        carver.add(prefix("192.0.2.1"), "allow")
        carver.remove(prefix("192.0.2.1"), "allow")
        assert shown(carver.block) == ["192.0.2.0/25", "192.0.2.128/25"]


def test_no_entry_no_removal():
    carver = Carver()
    carver.add(prefix("192.0.2.0/24"), "block")
    for text, action in [("192.0.2.0/24", "allow"), ("192.0.2.0/25", "block"), ("2001:db8::/24", "block")]:
        with pytest.raises(KeyError):
            carver.remove(prefix(text), action)
    with pytest.raises(KeyError):
        carver.add(prefix("192.0.2.0/24"), "drop")
    assert (len(carver), carver.block) == (1, {prefix("192.0.2.0/24")})


def _place(size, high, first, bits):
    """A prefix at the low end of a family, with ``high`` one of at most ``SPAN`` bits at its top."""
    width = size * 8
    if high:
        return (first << (width - SPAN)).to_bytes(size, "big"), bits
    return first.to_bytes(size, "big"), width - SPAN + bits


_entries = st.tuples(
    st.sampled_from([4, 16]),
    st.booleans(),
    st.integers(0, 2**SPAN - 1),
    st.integers(0, SPAN),
    st.sampled_from(["block", "allow"]),
)


def _holds(entries, address):
    """(action or None) by the longest of the entries around an address."""
    width = len(address) * 8
    number = int.from_bytes(address, "big")
    best = (-1, "")
    for (network, bits), action in entries:
        if len(network) == len(address):
            shift = width - bits
            if number >> shift == int.from_bytes(network, "big") >> shift:
                best = max(best, (bits, "~allow" if action == "allow" else "block"))
    return best[1].removeprefix("~")


def _check(carver, entries):
    pieces = [*((piece, "block") for piece in carver.block), *((piece, "allow") for piece in carver.allow)]
    spans = []
    for (network, bits), _ in pieces:
        assert bits >= 1
        shift = len(network) * 8 - bits
        first = int.from_bytes(network, "big")
        assert first >> shift << shift == first
        spans.append((len(network), first, first + (1 << shift)))
    spans.sort()
    for one, two in pairwise(spans):
        assert one[0] != two[0] or one[2] <= two[1], "pieces overlap"
    for size in (4, 16):
        for high in (True, False):
            for first in range(2**SPAN):
                address = _place(size, high, first, SPAN)[0]
                assert _holds(entries, address) == _holds(pieces, address), format_address(address)


@given(st.lists(st.tuples(_entries, st.integers(0, 9)), max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_changes_mean_what_the_entries_say(steps):
    carver = Carver()
    entries = Counter()
    block, allow = set(), set()
    for (size, high, first, bits, action), choice in steps:
        if choice < 4 and entries:
            entry = sorted(entries)[(choice + first) % len(entries)]
            entries[entry] -= 1
            entries += Counter()
            changes = carver.remove(*entry)
        else:
            network, length = _place(size, high, first, bits)
            changes = carver.add((network, length), action)
            shift = size * 8 - length
            network = (int.from_bytes(network, "big") >> shift << shift).to_bytes(size, "big")
            entries[(network, length), action] += 1
        assert block.issuperset(changes.removed_block)
        assert allow.issuperset(changes.removed_allow)
        block = (block - set(changes.removed_block)) | set(changes.added_block)
        allow = (allow - set(changes.removed_allow)) | set(changes.added_allow)
        assert (block, allow) == (carver.block, carver.allow)
    _check(carver, entries)
    # The order does not matter, nor what was there meanwhile.
    again = Carver()
    for entry in random.Random(len(steps)).sample(sorted(entries.elements()), entries.total()):
        again.add(*entry)
    assert (again.block, again.allow) == (carver.block, carver.allow)
    for entry in entries.elements():
        carver.remove(*entry)
    assert (carver.block, carver.allow, len(carver)) == (set(), set(), 0)


def test_many_addresses_take_no_time():
    rng = random.Random(5)
    carver = Carver()
    started = time.process_time()
    for _ in range(10_000):
        carver.add((rng.randbytes(16), 128), "block")
    for _ in range(10_000):
        carver.add((rng.randbytes(4), 32), "block")
    assert time.process_time() - started < 10  # it takes a tenth of a second
    assert len(carver.block) == len(carver)
