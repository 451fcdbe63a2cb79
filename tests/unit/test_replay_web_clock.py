# SPDX-License-Identifier: GPL-2.0-or-later
"""The clock of a capture that is shown in the Traffic Monitor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.replay_web import LATE_SECONDS, LONGEST_WAIT, CaptureClock

T0 = 1_472_729_311.5


class Ours:
    """Our clock, which a test moves."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def made(pace: float = 0.0) -> tuple[CaptureClock, Ours]:
    ours = Ours()
    clock = CaptureClock(ours, T0)
    if pace:
        clock.run(pace)
    return clock, ours


def test_it_stands_until_it_is_run() -> None:
    clock, ours = made()
    ours.now += 1000
    assert clock() == T0
    clock.run(2)
    assert clock() == T0


def test_it_goes_at_its_pace_and_not_beyond_the_next_packet() -> None:
    clock, ours = made(pace=10)
    assert clock.wait_for(T0 + 20) == pytest.approx(2, abs=1e-5)
    ours.now += 1.5
    assert clock() == pytest.approx(T0 + 15)
    ours.now += 1.5
    assert clock() == T0 + 20


def test_a_long_silence_is_cut_short() -> None:
    clock, ours = made(pace=2)
    assert clock.wait_for(T0 + 86_400) == LONGEST_WAIT
    ours.now += LONGEST_WAIT
    assert clock() == pytest.approx(T0 + 86_400)


def test_packets_that_come_too_slowly_slow_it_down() -> None:
    clock, ours = made(pace=100)
    clock.wait_for(T0 + 1)
    ours.now += 5
    assert clock.wait_for(T0 + 2) < -LATE_SECONDS
    assert clock.wait_for(T0 + 4) == pytest.approx(0.02, abs=1e-5)


def test_a_little_lateness_is_made_up_for() -> None:
    clock, ours = made(pace=1)
    clock.wait_for(T0 + 1)
    ours.now += 1.2
    assert clock.wait_for(T0 + 1.1) == pytest.approx(-0.1, abs=1e-5)
    assert clock.wait_for(T0 + 2) == pytest.approx(0.8, abs=1e-5)


def test_in_the_end_it_stands_at_the_last_packet() -> None:
    clock, ours = made(pace=5)
    clock.wait_for(T0 + 7)
    ours.now += 0.3
    clock.stand()
    ours.now += 1e6
    assert clock() == T0 + 7


@given(
    pace=st.floats(0.01, 10_000),
    steps=st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(0, 100)), max_size=30),
)
def test_it_never_goes_back(pace: float, steps: list[tuple[float, float]]) -> None:
    clock, ours = made(pace=pace)
    told = clock()
    for moment, passed in steps:
        assert clock.wait_for(T0 + moment) <= LONGEST_WAIT
        now = clock()
        assert now >= told
        ours.now += passed
        told = clock()
        assert now <= told <= clock.limit
    clock.stand()
    assert clock() >= told
