# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions: when they end, and how many there are."""

import pickle

from hypothesis import given, settings
from hypothesis import strategies as st

from spind.web.sessions import AT_HOME, MOST, OUTSIDE, SECRET_LENGTH, Session, Sessions

T0 = 1_790_000_000.0


def secret(number):
    return f"{number:0{SECRET_LENGTH}d}"


def session(now, name="alice", lifetime=AT_HOME):
    return Session(name, "owner", "file", "stamp", now, now + lifetime.longest, lifetime.idle)


def test_a_session_is_found_by_its_secret_only():
    table = Sessions()
    table.begin(secret(1), session(T0))
    found = table.find(secret(1), T0 + 1)
    assert found is not None
    assert found.name == "alice"
    for wrong in ("", secret(2), secret(1)[:-1], secret(1) + "0", "\ud800" * SECRET_LENGTH, "x" * 1_000_000):
        assert table.find(wrong, T0 + 1) is None


def test_the_secret_is_nowhere_in_the_table():
    table = Sessions()
    table.begin(secret(1), session(T0))
    assert secret(1).encode() not in pickle.dumps(table)


def test_it_ends_unused_and_use_prolongs_it_up_to_the_longest():
    for lifetime in (AT_HOME, OUTSIDE):
        table = Sessions()
        table.begin(secret(1), session(T0, lifetime=lifetime))
        assert table.find(secret(1), T0 + lifetime.idle) is None
        assert len(table) == 0
        table.begin(secret(1), session(T0, lifetime=lifetime))
        now = T0
        while now + lifetime.idle - 1 < T0 + lifetime.longest:
            now += lifetime.idle - 1
            assert table.find(secret(1), now) is not None
        assert table.find(secret(1), T0 + lifetime.longest) is None


def test_a_look_that_is_no_use_does_not_prolong_it():
    table = Sessions()
    table.begin(secret(1), session(T0))
    for hour in range(1, AT_HOME.idle // 3600):
        assert table.find(secret(1), T0 + 3600 * hour, touch=False) is not None
    assert table.find(secret(1), T0 + AT_HOME.idle, touch=False) is None


def test_logout():
    table = Sessions()
    table.begin(secret(1), session(T0))
    table.begin(secret(2), session(T0, "bob"))
    table.end(secret(1))
    table.end(secret(1))
    table.end("no secret")
    assert table.find(secret(1), T0) is None
    assert table.find(secret(2), T0) is not None


def test_the_least_used_goes():
    table = Sessions()
    for number in range(MOST):
        table.begin(secret(number), session(T0 + number))
    table.find(secret(0), T0 + MOST)
    table.begin(secret(MOST), session(T0 + MOST))
    assert len(table) == MOST
    assert table.find(secret(0), T0 + MOST) is not None
    assert table.find(secret(1), T0 + MOST) is None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["begin", "find", "look", "end"]), st.integers(0, 100), st.floats(0, 86400.0 * 3)
        ),
        max_size=120,
    )
)
def test_as_a_dictionary_would_say(script):
    table, model, now = Sessions(), {}, T0
    for what, number, passed in script:
        now += passed
        if what == "begin":
            table.begin(secret(number), session(now))
            model[number] = [now, now + AT_HOME.longest]
        elif what == "end":
            table.end(secret(number))
            model.pop(number, None)
        else:
            known = model.get(number)
            alive = known is not None and now < known[1] and now < known[0] + AT_HOME.idle
            found = table.find(secret(number), now, touch=what == "find")
            assert (found is not None) is alive or (alive and len(model) > MOST)
            if alive and what == "find":
                known[0] = now
        assert len(table) <= MOST
