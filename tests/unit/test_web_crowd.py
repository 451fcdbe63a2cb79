# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connection goes where there are too many, and what bodies take together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.web.bodies import Bodies, Body
from spind.web.crowd import Crowd
from spind.web.messages import WebError


def test_a_new_one_gets_in_and_the_one_that_was_quiet_for_longest_goes() -> None:
    crowd: Crowd[int] = Crowd(3)
    assert [crowd.add(key, "a") for key in range(3)] == [None, None, None]
    crowd.touch(0)
    assert crowd.add(3, "a") == 1
    assert list(crowd) == [2, 0, 3]


def test_it_goes_from_the_address_that_has_the_most() -> None:
    crowd: Crowd[int] = Crowd(4)
    crowd.add(0, "owner")
    for key in range(1, 20):
        assert crowd.add(key, "attacker") == (key - 3 if key > 3 else None)
    assert crowd.add(20, "owner") == 17
    assert list(crowd) == [0, 18, 19, 20]


def test_streams_stay() -> None:
    crowd: Crowd[int] = Crowd(2)
    for key in range(2):
        crowd.add(key, "a")
        crowd.hold(key)
    assert crowd.add(2, "b") == 2  # there is nobody else to go
    crowd.release(0)
    assert crowd.add(3, "b") == 0
    crowd.remove(1)
    crowd.remove(1)
    assert list(crowd) == [3]


@given(st.lists(st.tuples(st.sampled_from("athrx"), st.integers(0, 9), st.sampled_from("123")), max_size=80))
def test_there_are_never_too_many(acts: list[tuple[str, int, str]]) -> None:
    crowd: Crowd[int] = Crowd(4)
    there: set[int] = set()
    held: set[int] = set()
    for act, key, address in acts:
        if act == "a" and key not in there:
            gone = crowd.add(key, address)
            there.add(key)
            assert (gone is not None) == (len(there) == 5)
            assert gone not in held
            there.discard(-1 if gone is None else gone)
        elif act == "t":
            crowd.touch(key)
        elif act == "h":
            crowd.hold(key)
            held |= {key} & there
        elif act == "r":
            crowd.release(key)
            held.discard(key)
        elif act == "x":
            crowd.remove(key)
            there.discard(key)
            held.discard(key)
        assert set(crowd) == there
        assert len(crowd) == len(there) <= 4


def test_bodies_have_a_bound_each() -> None:
    bodies = Bodies(10, 100, 2)
    body = Body(bodies)
    body.add(b"12345")
    body.add(b"67890")
    assert bodies.received == 10
    assert body.take() == b"1234567890"
    assert bodies.received == 0
    body = Body(bodies)
    for _ in range(3):
        body.add(b"12345")
    assert bodies.received == 0
    with pytest.raises(WebError) as caught:
        body.take()
    assert caught.value.status == 413


def test_where_bodies_are_full_only_small_ones_get_in() -> None:
    bodies = Bodies(10, 25, 2)
    senders = [Body(bodies) for _ in range(5)]
    for body in senders:
        body.add(b"1234567890")
    assert bodies.received == 20
    small = Body(bodies)
    small.add(b"12")
    assert small.take() == b"12"
    for body in senders[2:]:
        with pytest.raises(WebError) as caught:
            body.take()
        assert (caught.value.status, caught.value.headers) == (503, (("Retry-After", "5"),))
    senders[0].forget()
    senders[0].forget()
    again = Body(bodies)
    again.add(b"1234567890")
    assert again.take() == b"1234567890"
