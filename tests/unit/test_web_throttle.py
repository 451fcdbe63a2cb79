# SPDX-License-Identifier: GPL-2.0-or-later
"""How long somebody who guesses passwords has to wait."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.web import throttle
from spind.web.throttle import (
    ADDRESS_FREE,
    ADDRESS_LONGEST,
    BURST,
    NAME_FREE,
    NAME_LONGEST,
    Throttle,
    place_of,
)

T0 = 1_790_000_000.0
A, B = "192.0.2.1", "192.0.2.2"


def guess(gate, address, name, now, seconds):
    """Guess as fast as it is allowed; the times of the attempts that were made."""
    made, end = [], now + seconds
    while now < end:
        wait = gate.attempt(address, name, now)
        if wait:
            now += wait
        else:
            made.append(now)
    return made


def test_a_few_mistakes_cost_nothing_and_then_the_time_doubles():
    made = guess(Throttle(), A, "alice", T0, 2000)
    waits = [round(b - a) for a, b in pairwise(made)]
    assert waits[: ADDRESS_FREE - 1] == [0] * (ADDRESS_FREE - 1)
    assert waits[ADDRESS_FREE - 1 : ADDRESS_FREE + 8] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert max(waits) == ADDRESS_LONGEST


def test_a_day_of_guessing_from_one_address():
    assert len(guess(Throttle(), A, "alice", T0, 86400)) < 300


def test_whoever_waits_is_not_counted():
    gate = Throttle()
    for _ in range(ADDRESS_FREE):
        assert gate.attempt(A, "alice", T0) == 0
    for _ in range(1000):
        assert gate.attempt(A, "alice", T0) == 1
    assert gate.attempt(A, "alice", T0 + 1) == 0


def test_many_at_once_are_many():
    gate = Throttle()
    assert sum(gate.attempt(A, "alice", T0) == 0 for _ in range(100)) == ADDRESS_FREE


def test_success_forgets():
    gate = Throttle()
    guess(gate, A, "alice", T0, 100)
    now = T0 + 100 + ADDRESS_LONGEST
    assert gate.attempt(A, "alice", now) == 0
    gate.succeeded(A, "alice", now)
    assert [gate.attempt(A, "alice", now) for _ in range(ADDRESS_FREE + 1)] == [0] * ADDRESS_FREE + [1]


def test_a_guest_cannot_wash_off_guesses_of_the_owner_password():
    gate = Throttle()
    made, now = 0, T0
    while now < T0 + 86400:
        wait = gate.attempt(A, "guest", now)
        if not wait:
            gate.succeeded(A, "guest", now)
            wait = gate.attempt(A, "owner", now)
            made += not wait
        now += max(wait, 0.5)
    assert made < 1000


def test_many_addresses_share_a_name():
    gate = Throttle()
    made, now = 0, T0
    for number in range(4000):
        address = f"2001:db8:0:{number:x}::1"
        made += gate.attempt(address, "alice", now) == 0
        now += 1
    assert made <= NAME_FREE + 10 + 4000 / NAME_LONGEST


def test_many_addresses_with_many_names_share_a_bucket():
    gate = Throttle()
    made = sum(gate.attempt(f"2001:db8:0:{n:x}::1", f"n{n}", T0 + n / 100) == 0 for n in range(6000))
    assert BURST <= made <= BURST + 60 + 1


def test_the_owner_at_home_is_not_kept_out_by_strangers():
    gate = Throttle()
    assert gate.attempt(A, "alice", T0) == 0
    gate.succeeded(A, "alice", T0)
    for number in range(3000):
        gate.attempt(f"2001:db8:0:{number:x}::1", "alice", T0 + number)
        gate.attempt(B, "alice", T0 + number)
    assert gate.attempt(A, "alice", T0 + 3000) == 0


def test_a_known_address_that_fails_keeps_no_other_waiting():
    gate = Throttle()
    assert gate.attempt(A, "alice", T0) == 0
    gate.succeeded(A, "alice", T0)
    made = guess(gate, A, "alice", T0, 800)
    assert len(made) > NAME_FREE
    assert gate.attempt(B, "alice", made[-1]) == 0


def test_a_new_address_waits_for_seconds_only_whatever_strangers_did_before():
    gate = Throttle()
    for number in range(3000):
        gate.attempt(f"2001:db8:0:{number:x}::1", "alice", T0 + number)
    assert gate.attempt(A, "alice", T0 + 3000) <= NAME_LONGEST


def test_an_attempt_that_could_not_be_judged_is_none():
    gate = Throttle()
    for _ in range(200):
        assert gate.attempt(A, "alice", T0) == 0
        gate.forgive(A, "alice")
    assert gate.sizes() == {"addresses": 0, "names": 0, "known": 0}


@pytest.mark.parametrize("step", [-10 * 365 * 86400.0, -60.0, 86400.0])
def test_a_clock_that_is_set_makes_nobody_wait_longer(step):
    gate = Throttle()
    guess(gate, A, "alice", T0, 1000)
    assert gate.attempt(A, "alice", T0 + 1000 + step) <= ADDRESS_LONGEST
    assert gate.attempt(B, "bob", T0 + 1000 + step) <= ADDRESS_LONGEST


def test_places():
    assert place_of("2001:db8:1:2::1") == place_of("2001:db8:1:2:ffff::9") != place_of("2001:db8:1:3::1")
    assert place_of("192.0.2.1") == place_of("::ffff:192.0.2.1") != place_of("192.0.2.2")
    assert place_of("fe80::1%eth0") == place_of("fe80::2")
    assert place_of("") == place_of("no\0address") == place_of("@" * 100_000) == b""


steps = st.lists(
    st.tuples(
        st.sampled_from(["try", "try", "try", "right", "forgive"]),
        st.one_of(st.integers(0, 5).map(lambda n: f"192.0.2.{n}"), st.text(max_size=4)),
        st.sampled_from(["a", "b", "c", ""]),
        st.floats(-100, 1000, allow_nan=False),
    ),
    max_size=150,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_nobody_waits_longer_than_the_longest_and_waiting_is_enough(script):
    gate, now = Throttle(), T0
    for what, address, name, passed in script:
        now += passed
        if what == "right":
            gate.succeeded(address, name, now)
        elif what == "forgive":
            gate.forgive(address, name)
        wait = gate.attempt(address, name, now)
        assert 0 <= wait <= max(ADDRESS_LONGEST, NAME_LONGEST)
        if wait:
            assert gate.attempt(address, name, now + wait) == 0
            now += wait


def test_tables_are_bounded():
    gate = Throttle()
    for number in range(5000):
        address, name = f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1", f"name{number}"
        assert gate.attempt(address, name, T0 + 2 * number) == 0
        if number % 2:
            gate.succeeded(address, name, T0 + 2 * number)
    sizes = gate.sizes()
    assert sizes["known"] == throttle.KNOWN
    assert sizes["addresses"] <= throttle.ADDRESSES
    assert sizes["names"] <= throttle.NAMES
