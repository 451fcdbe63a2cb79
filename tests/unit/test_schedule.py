# SPDX-License-Identifier: GPL-2.0-or-later
"""Weekly schedules, compared with a table of all minutes of a week."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.schedule import LONGEST, parse_schedule

NAMES = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEK = 7 * 24 * 60


def table(schedule):
    return [schedule.active(minute // 1440, minute % 1440) for minute in range(WEEK)]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("mon-fri 22:00-06:30, sat,sun 23:00-08:00", "mon-fri 22:00-06:30, sat,sun 23:00-08:00"),
        ("daily 21:00-07:00", "daily 21:00-07:00"),
        ("21:00-7:00", "daily 21:00-07:00"),
        ("sat 00:00-24:00", "sat 00:00-24:00"),
        ("sat 0:00-0:01", "sat 00:00-00:01"),
        ("sat 22:00-00:00", "sat 22:00-24:00"),
        ("MO - Fr 22:00 - 23:00", "mon-fri 22:00-23:00"),
        ("Monday,tue 1:00-2:00", "mon,tue 01:00-02:00"),
        ("fri-mon 10:00-11:00", "mon,fri-sun 10:00-11:00"),
        ("tue-mon 10:00-11:00", "daily 10:00-11:00"),
        ("mon 08:00-09:00, 12:00-13:00", "mon 08:00-09:00, mon 12:00-13:00"),
        ("mon 08:00-09:00 12:00-13:00", "mon 08:00-09:00, mon 12:00-13:00"),
        ("mon 08:00-10:00, mon 09:00-12:00, mon 12:00-13:00", "mon 08:00-13:00"),
        ("mon-sun 00:00-24:00", "daily 00:00-24:00"),
        ("daily 12:00-11:00, daily 10:00-13:00", "daily 00:00-24:00"),
        ("fri 22:00-24:00, sat 00:00-06:00", "fri 22:00-06:00"),
        ("sun 22:00-24:00, mon 00:00-06:00", "sun 22:00-06:00"),
        ("sat,sun 00:00-24:00", "sat,sun 00:00-24:00"),
        ("fri 12:00-24:00, sat 00:00-12:00", "fri 12:00-24:00, sat 00:00-12:00"),
        (
            "fri 18:00-24:00, sat,sun 00:00-24:00, mon 00:00-06:00",
            "mon 00:00-06:00, fri 18:00-24:00, sat,sun 00:00-24:00",
        ),
    ],
)
def test_canonical_text(text, canonical):
    schedule = parse_schedule(text)
    assert str(schedule) == canonical
    assert parse_schedule(canonical) == schedule


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is neither days nor times"),
        (",", "'' is neither days nor times"),
        ("mon 08:00-09:00,", "'' is neither days nor times"),
        ("mon", "days need times after them"),
        ("mon 08:00-09:00, tue", "days need times after them"),
        ("mom 08:00-09:00", "'mom' is no day"),
        ("mon- 08:00-09:00", "'' is no day"),
        ("mon tue 08:00-09:00", "'mon tue' is no day"),
        ("mon 8-9", "'8-9' is no time"),
        ("mon 08:00", "'08:00' is no time"),
        ("mon 08:00-09:00x", "is neither days nor times"),
        ("mon 25:00-26:00", "25:00 is no time of the day"),
        ("mon 08:60-09:00", "08:60 is no time of the day"),
        ("mon 08:00-24:01", "24:01 is no time of the day"),
        ("mon 24:00-08:00", "24:00 is the end of a day"),
        ("mon 08:00-08:00", "begins where it ends"),
        ("mon 00:00-00:00", "the whole day is 00:00-24:00"),
        ("mon \u0660\u0668:00-09:00", "is neither days nor times"),
        ("mon 08:00-09:00;reboot", "is neither days nor times"),
        ("x" * (LONGEST + 1), "at most"),
        (
            ", ".join(f"daily {n // 60}:{n % 60:02}-{n // 60}:{n % 60 + 1:02}" for n in range(0, 1440, 2)),
            "at most",
        ),
    ],
)
def test_what_is_refused_and_why(text, reason):
    with pytest.raises(ValueError) as caught:
        parse_schedule(text)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 200


def test_over_midnight_belongs_to_the_day_on_which_it_begins():
    schedule = parse_schedule("fri 22:00-06:30")
    assert schedule.active(4, 22 * 60)
    assert not schedule.active(4, 6 * 60)
    assert schedule.active(5, 6 * 60 + 29)
    assert not schedule.active(5, 6 * 60 + 30)
    assert schedule.next_change(4, 23 * 60) == 7 * 60 + 30
    assert schedule.next_change(5, 6 * 60 + 30) == WEEK - 8 * 60 - 30


def test_always_never_changes():
    schedule = parse_schedule("daily 00:00-24:00")
    assert all(table(schedule))
    assert schedule.next_change(3, 77) == WEEK


_minute = st.integers(0, 1439) | st.sampled_from([0, 1, 60, 720, 1439])
_stop = st.integers(1, 1440) | st.sampled_from([1, 1440])
_span = st.tuples(_minute, _stop).filter(lambda span: span[0] != span[1] % 1440 or span == (0, 1440))
_entry = st.tuples(st.integers(0, 6), st.integers(0, 6), st.lists(_span, min_size=1, max_size=3))


def _clock(minute):
    return f"{minute // 60:02}:{minute % 60:02}"


@given(st.lists(_entry, min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_as_a_table_of_all_minutes(entries):
    wanted = [False] * WEEK
    texts = []
    for first, last, spans in entries:
        texts.append(
            f"{NAMES[first]}-{NAMES[last]} " + " ".join(f"{_clock(a)}-{_clock(b)}" for a, b in spans)
        )
        for step in range((last - first) % 7 + 1):
            for start, stop in spans:
                for offset in range(start, stop if stop > start else stop + 1440):
                    wanted[((first + step) % 7 * 1440 + offset) % WEEK] = True
    schedule = parse_schedule(", ".join(texts))
    assert table(schedule) == wanted
    assert parse_schedule(str(schedule)) == schedule
    assert str(parse_schedule(str(schedule))) == str(schedule)
    change = WEEK
    for minute in reversed(range(2 * WEEK)):
        if minute < WEEK:
            assert schedule.next_change(minute // 1440, minute % 1440) == min(change, WEEK)
        change = change + 1 if wanted[minute % WEEK] == wanted[(minute - 1) % WEEK] else 1
