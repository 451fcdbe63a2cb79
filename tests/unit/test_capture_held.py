# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets that wait for a decision: their order, their bounds, the end of their patience."""

from hypothesis import given
from hypothesis import strategies as st

from spind.capture_held import (
    HOLD_SECONDS,
    MAX_CONNECTION_BYTES,
    MAX_CONNECTION_PACKETS,
    MAX_PACKETS,
    Held,
)
from spind.model import ConnKey


def key(number: int) -> ConnKey:
    return ConnKey(6, b"\x0a\0\0\1", number, b"\xc0\0\2\1", 443)


def test_packets_of_a_connection_come_back_in_their_order() -> None:
    held: Held[str] = Held()
    assert held.deadline is None
    for number, packet in enumerate("abcd"):
        assert held.add(key(number % 2), packet, 1_400, float(number)) == []
    assert (len(held), held.deadline) == (4, HOLD_SECONDS)
    assert held.take(key(0)) == ["a", "c"]
    assert held.take(key(0)) == []
    assert (len(held), held.deadline) == (2, HOLD_SECONDS + 1)


def test_a_connection_has_its_bounds() -> None:
    held: Held[int] = Held()
    for number in range(MAX_CONNECTION_PACKETS):
        assert held.add(key(1), number, 40, 0.0) == []
    assert held.add(key(1), 99, 40, 0.0) == [99], "the newest: TCP sends it again"
    assert held.add(key(2), 5, MAX_CONNECTION_BYTES, 0.0) == []
    assert held.add(key(2), 6, 1, 0.0) == [6]
    assert held.add(key(3), 7, MAX_CONNECTION_BYTES + 1, 0.0) == [7]
    assert held.take(key(1)) == list(range(MAX_CONNECTION_PACKETS))


def test_who_sends_beginnings_only_keeps_nobody_out() -> None:
    held: Held[int] = Held()
    for number in range(MAX_PACKETS):
        held.add(key(number // 10), number, 40, 0.0)
    assert held.add(key(9_999), -1, 40, 0.1) == list(range(10)), "the connection that has waited longest"
    assert len(held) == MAX_PACKETS - 9
    assert held.take(key(9_999)) == [-1]


def test_patience_ends() -> None:
    held: Held[str] = Held()
    held.add(key(1), "a", 40, 10.0)
    held.add(key(2), "b", 40, 11.0)
    held.add(key(1), "c", 40, 12.0)
    assert held.expired(12.9) == []
    assert held.expired(13.0) == ["a", "c"], "a connection's packets go together"
    assert held.expired(13.0) == []
    assert held.take_all() == ["b"]
    assert (len(held), held.deadline) == (0, None)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "take", "expire"]), st.integers(0, 12), st.integers(20, 20_000)
    ),
    max_size=1_500,
)


@given(STEPS, st.floats(0, 0.01))
def test_each_packet_is_given_back_once(steps: list[tuple[str, int, int]], tick: float) -> None:
    held: Held[int] = Held()
    added: list[int] = []
    back: list[int] = []
    now = 0.0
    for number, (step, which, size) in enumerate(steps):
        now += tick
        if step == "add":
            added.append(number)
            back += held.add(key(which), number, size if which else 20, now)
        elif step == "take":
            back += held.take(key(which))
        else:
            back += held.expired(now)
        assert len(held) == len(added) - len(back) <= MAX_PACKETS
    back += held.take_all()
    assert sorted(back) == added
    assert len(held) == 0
