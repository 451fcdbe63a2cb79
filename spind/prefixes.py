# SPDX-License-Identifier: GPL-2.0-or-later
"""Overlapping prefixes for and against, made into disjoint ones that mean the same. Pure.

Sets in the kernel do not nest, and know no order among their elements: what overlaps has to be carved
apart here. Must not know whose prefixes these are.
"""

from bisect import bisect_left, bisect_right, insort
from typing import Final, NamedTuple

from spind.model import Address

Prefix = tuple[Address, int]

_BLOCK: Final = 1
_ALLOW: Final = 2
_ACTIONS: Final = {"block": _BLOCK, "allow": _ALLOW}

# A prefix inside is one integer, (first address << 8 | bits), so that prefixes sort by their place,
# and those that contain others before them.
_Pieces = dict[int, int]


class Changes(NamedTuple):
    """What an addition or removal did to the two sets."""

    added_block: tuple[Prefix, ...] = ()
    removed_block: tuple[Prefix, ...] = ()
    added_allow: tuple[Prefix, ...] = ()
    removed_allow: tuple[Prefix, ...] = ()


class Carver:
    """A multiset of prefixes to block and to allow, of both families.

    Of the entries that contain an address the longest prefix holds, of equal ones allow. ``block`` and
    ``allow`` are the same as disjoint prefixes of at least one bit, none of which contains another
    one, in either set: no order among them matters. What they are depends on the entries alone, not
    on the order in which they came. Read them, do not change them.
    """

    def __init__(self) -> None:
        self.block: set[Prefix] = set()
        self.allow: set[Prefix] = set()
        self._families = {4: _Family(32), 16: _Family(128)}

    def __len__(self) -> int:
        """Different prefixes among the entries."""
        return sum(len(family.entries) for family in self._families.values())

    def add(self, prefix: Prefix, action: str) -> Changes:
        """Add an entry; ``action`` is block or allow. Host bits do not count."""
        return self._change(prefix, action, 1)

    def remove(self, prefix: Prefix, action: str) -> Changes:
        """Remove an entry, one of several that are equal. ``KeyError`` where there is none."""
        return self._change(prefix, action, -1)

    def _change(self, prefix: Prefix, action: str, step: int) -> Changes:
        address, bits = prefix
        size = len(address)
        before, after = self._families[size].change(
            int.from_bytes(address, "big"), bits, _ACTIONS[action], step
        )
        if not before and not after:
            return _NO_CHANGES
        changes: dict[tuple[int, bool], list[Prefix]] = {
            (_BLOCK, True): [],
            (_BLOCK, False): [],
            (_ALLOW, True): [],
            (_ALLOW, False): [],
        }
        for old, new, added in ((before, after, False), (after, before, True)):
            for piece, state in old.items():
                if new.get(piece) != state:
                    changes[state, added].append(((piece >> 8).to_bytes(size, "big"), piece & 255))
        result = Changes(
            tuple(changes[_BLOCK, True]),
            tuple(changes[_BLOCK, False]),
            tuple(changes[_ALLOW, True]),
            tuple(changes[_ALLOW, False]),
        )
        self.block.difference_update(result.removed_block)
        self.block.update(result.added_block)
        self.allow.difference_update(result.removed_allow)
        self.allow.update(result.added_allow)
        return result


_NO_CHANGES: Final = Changes()


class _Family:
    """The entries of one family and the pieces that they are carved into.

    An entry that says what the next larger one around it says is of no effect. The pieces of any other
    one are the largest prefixes in it that contain nothing of an entry of effect in it. So a change
    touches pieces inside its prefix only, or the one around it, which then falls apart or comes
    together again.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self.entries: dict[int, list[int]] = {}  # prefix -> how many entries block and allow it
        self._sorted: list[int] = []
        self._lengths: dict[int, int] = {}  # bits -> how many prefixes have them
        self._pieces: _Pieces = {}

    def change(self, address: int, bits: int, action: int, step: int) -> tuple[_Pieces, _Pieces]:
        """Pieces that are gone, and that are there instead; some may be in both."""
        shift = self._width - bits
        first = address >> shift << shift
        prefix = first << 8 | bits
        counts = self.entries.get(prefix)
        had = _state(counts)
        if counts is None:
            counts = [0, 0]
        if counts[action - 1] + step < 0:
            raise KeyError(f"no such entry: {first:#x}/{bits}")
        counts[action - 1] += step
        has = _state(counts)
        if has == had:
            return {}, {}
        inherited, owner_bits = self._owner(first, bits)
        old, new = had or inherited, has or inherited
        before = self._inside(first, bits, old) if old != new else {}
        self._keep(prefix, bits, counts, had, has)
        if old == new:
            return {}, {}
        after = self._inside(first, bits, new)
        least = max(owner_bits, 1)
        if inherited and old == inherited and before.keys() == {prefix}:
            before, siblings = self._split(first, bits, least, inherited)
            after |= siblings
        elif inherited and new == inherited and after.keys() == {prefix}:
            after, siblings = self._join(first, bits, least, inherited)
            before |= siblings
        for piece in before:
            del self._pieces[piece]
        self._pieces |= after
        return before, after

    def _keep(self, prefix: int, bits: int, counts: list[int], had: int, has: int) -> None:
        if not had:
            self.entries[prefix] = counts
            insort(self._sorted, prefix)
            self._lengths[bits] = self._lengths.get(bits, 0) + 1
        elif not has:
            del self.entries[prefix]
            del self._sorted[bisect_left(self._sorted, prefix)]
            self._lengths[bits] -= 1
            if not self._lengths[bits]:
                del self._lengths[bits]

    def _owner(self, first: int, bits: int) -> tuple[int, int]:
        """(state, bits) of the entry that holds for a prefix without one of its own; state 0: none.

        Of entries within each other that say the same it is the largest, whose pieces they share.
        """
        state = owner = 0
        for length in sorted((length for length in self._lengths if length < bits), reverse=True):
            shift = self._width - length
            counts = self.entries.get(first >> shift << (shift + 8) | length)
            if counts is not None:
                found = _state(counts)
                if state and found != state:
                    break
                state, owner = found, length
        return state, owner

    def _inside(self, first: int, bits: int, state: int) -> _Pieces:
        """Pieces inside a prefix, as the entries strictly inside it have them, where it has ``state``."""
        end = first + (1 << (self._width - bits))
        low = bisect_right(self._sorted, first << 8 | bits)
        pieces: _Pieces = {}
        if bits and (low == len(self._sorted) or self._sorted[low] >= end << 8):
            if state:
                pieces[first << 8 | bits] = state
            return pieces
        high = bisect_left(self._sorted, end << 8, low)
        around = [(end, state)]  # entries that contain the place ``at``, with their ends
        at = first
        for prefix in self._sorted[low:high]:
            start = prefix >> 8
            at = self._leave(around, at, start, pieces)
            own = _state(self.entries[prefix])
            if own != around[-1][1]:
                self._cut(at, start, around[-1][1], pieces)
                at = start
                around.append((start + (1 << (self._width - (prefix & 255))), own))
        self._leave(around, at, end, pieces)
        return pieces

    def _leave(self, around: list[tuple[int, int]], at: int, place: int, pieces: _Pieces) -> int:
        """Finish the entries that end at or before ``place``; where the rest goes on."""
        while around and around[-1][0] <= place:
            stop, state = around.pop()
            self._cut(at, stop, state, pieces)
            at = stop
        return at

    def _cut(self, start: int, stop: int, state: int, pieces: _Pieces) -> None:
        """Make the fewest prefixes of the addresses from ``start`` to before ``stop``."""
        while state and start < stop:
            most = min((stop - start).bit_length() - 1, self._width - 1)
            shift = min(most, (start & -start).bit_length() - 1) if start else most
            pieces[start << 8 | self._width - shift] = state
            start += 1 << shift

    def _split(self, first: int, bits: int, least: int, state: int) -> tuple[_Pieces, _Pieces]:
        """The piece that contains a prefix, and the pieces that are left of it without that prefix."""
        siblings: _Pieces = {}
        for length in range(bits, least - 1, -1):
            shift = self._width - length
            start = first >> shift << shift
            piece = start << 8 | length
            if piece in self._pieces:
                return {piece: state}, siblings
            siblings[(start ^ (1 << shift)) << 8 | length] = state
        raise AssertionError("a prefix with a state is in a piece")

    def _join(self, first: int, bits: int, least: int, state: int) -> tuple[_Pieces, _Pieces]:
        """The piece that a prefix is in as it becomes one with those around it, and these."""
        siblings: _Pieces = {}
        length = bits
        while length > least:
            shift = self._width - length
            sibling = (first >> shift << shift ^ (1 << shift)) << 8 | length
            if self._pieces.get(sibling) != state:
                break
            siblings[sibling] = state
            length -= 1
        shift = self._width - length
        return {first >> shift << (shift + 8) | length: state}, siblings


def _state(counts: list[int] | None) -> int:
    """What a prefix with so many entries to block and to allow says; 0: nothing."""
    if counts is None:
        return 0
    return _ALLOW if counts[1] else _BLOCK if counts[0] else 0
