# SPDX-License-Identifier: GPL-2.0-or-later
"""Times of the week as text: ``mon-fri 22:00-06:30, sat,sun 23:00-08:00``. Pure.

Owns the language and what it means on a week of 10,080 minutes. Must not know the time: the caller
turns a moment into the local day of the week and minute, so that what a change of clock does is the
caller's.

The language: entries apart by commas, each made of days and one or more spans. Days are names in
English (two letters, three letters or whole; case does not count), ranges of them (``fri-mon`` goes
over the weekend) and ``daily``; without days, those of the entry before hold, at the beginning every
day. A span is ``HH:MM-HH:MM``; one that ends before it begins goes over midnight, and belongs to the
day on which it begins. ``24:00`` is the end of the day. Spans that overlap or touch are one.
"""

import re
from bisect import bisect_right
from typing import Final, NamedTuple

DAY: Final = 24 * 60
WEEK: Final = 7 * DAY

LONGEST: Final = 1000
"""Characters of a schedule's text, given or canonical."""

_NAMES: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FULL: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAYS: Final = {name: day for day, full in enumerate(_FULL) for name in (full[:2], full[:3], full)}
_ENTRY: Final = re.compile(r"([a-z][a-z\s-]*?)?\s*((?:[0-9][0-9:\s-]*)?)")
_SPAN: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})(?:\s+|$)")


class Schedule(NamedTuple):
    """A set of minutes of the week: those since an odd number of ``flips``, or an even one if ``first``.

    ``flips`` are the minutes of the week (0 is Monday 00:00) at which it begins or ends to be active,
    in order; ``first`` is whether it is active before the first of them. Equal sets are equal.
    """

    flips: tuple[int, ...]
    first: bool

    def active(self, weekday: int, minute: int) -> bool:
        """Whether it holds in that minute of the day; Monday is 0."""
        passed = bisect_right(self.flips, weekday * DAY + minute)
        return self.first ^ bool(passed & 1)

    def next_change(self, weekday: int, minute: int) -> int:
        """Minutes until ``active`` changes, from 1 to 10,080; 10,080 also where it never does."""
        if not self.flips:
            return WEEK
        now = weekday * DAY + minute
        passed = bisect_right(self.flips, now)
        return self.flips[passed] - now if passed < len(self.flips) else self.flips[0] + WEEK - now

    def __str__(self) -> str:
        """The canonical text, of which ``parse_schedule`` makes an equal schedule."""
        days: dict[tuple[int, int], list[int]] = {}
        for start, stop in self._spans():
            days.setdefault((start % DAY, stop - start + start % DAY), []).append(start // DAY % 7)
        entries = sorted((sorted(of), span) for span, of in days.items())
        return ", ".join(f"{_show_days(of)} {_show_span(*span)}" for of, span in entries)

    def _spans(self) -> list[tuple[int, int]]:
        """(first minute, minute after the last) of spans that the language can say: at most a day each."""
        if not self.flips:
            return [(day * DAY, (day + 1) * DAY) for day in range(7)]
        flips = (*self.flips[1:], self.flips[0] + WEEK) if self.first else self.flips
        spans = []
        for start, stop in zip(flips[::2], flips[1::2], strict=True):
            if stop - start < DAY:
                spans.append((start, stop))
                continue
            at = start
            while at < stop:
                midnight = min((at // DAY + 1) * DAY, stop)
                spans.append((at, midnight))
                at = midnight
        return spans


def parse_schedule(text: str) -> Schedule:
    """The schedule that a text describes; ``ValueError`` is a sentence about what is wrong."""
    if len(text) > LONGEST:
        raise ValueError(f"a schedule has at most {LONGEST} characters")
    marks: dict[int, int] = {}  # minute of the week -> spans that begin less spans that end there
    days: list[int] = []
    pending = False  # days that no span followed yet
    for part in text.lower().split(","):
        entry = _ENTRY.fullmatch(part.strip())
        if entry is None or not part.strip():
            raise ValueError(f"{part.strip()!r:.60} is neither days nor times, such as sat 08:00-12:30")
        if entry[1]:
            named = _parse_days(entry[1].strip())
            days = [*days, *named] if pending else named
            pending = True
        if entry[2]:
            for start, stop in _parse_spans(entry[2]):
                for day in days or range(7):
                    _mark(marks, day * DAY + start, day * DAY + stop)
            pending = False
    if pending:
        raise ValueError("days need times after them, such as sat,sun 08:00-12:30")
    schedule = _merge(marks)
    if len(str(schedule)) > LONGEST:
        raise ValueError(f"a schedule has at most {LONGEST} characters, once it is written in full")
    return schedule


def _parse_days(text: str) -> list[int]:
    if text == "daily":
        return list(range(7))
    first, dash, last = (word.strip() for word in text.partition("-"))
    for name in (first, last) if dash else (first,):
        if name not in _DAYS:
            raise ValueError(f"{name!r:.60} is no day: mon, tue, wed, thu, fri, sat, sun or daily")
    start, stop = _DAYS[first], _DAYS[last or first]
    return [(start + step) % 7 for step in range((stop - start) % 7 + 1)]


def _parse_spans(text: str) -> list[tuple[int, int]]:
    """(first minute of the day, minute after the last, on the next day if need be)."""
    spans = []
    at = 0
    while at < len(text):
        found = _SPAN.match(text, at)
        if found is None:
            raise ValueError(f"{text[at:].strip()!r:.60} is no time, such as 22:00-06:30")
        start, stop = _minute(found[1], found[2]), _minute(found[3], found[4])
        if start == DAY:
            raise ValueError("24:00 is the end of a day: times begin at 00:00 to 23:59")
        if start == stop:
            raise ValueError(f"{found[0].strip()} begins where it ends: the whole day is 00:00-24:00")
        spans.append((start, stop if stop > start else stop + DAY))
        at = found.end()
    return spans


def _minute(hour: str, minute: str) -> int:
    result = int(hour) * 60 + int(minute)
    if int(minute) > 59 or result > DAY:
        raise ValueError(f"{hour}:{minute} is no time of the day: 00:00 to 24:00")
    return result


def _mark(marks: dict[int, int], start: int, stop: int) -> None:
    for begin, end in [(start, stop)] if stop <= WEEK else [(start, WEEK), (0, stop - WEEK)]:
        marks[begin] = marks.get(begin, 0) + 1
        marks[end] = marks.get(end, 0) - 1


def _merge(marks: dict[int, int]) -> Schedule:
    depth = 0
    flips = []
    for minute in sorted(marks):
        before, depth = depth, depth + marks[minute]
        if bool(before) != bool(depth):
            flips.append(minute)
    # What ends with the week and what begins with it are one.
    first = bool(flips) and flips[-1] == WEEK
    if first:
        flips.pop()
        if flips[0] == 0:
            flips.pop(0)
        else:
            flips.insert(0, 0)
    return Schedule(tuple(flips), first)


def _show_days(days: list[int]) -> str:
    """``daily``, or the days in order, with a dash for three or more in a row."""
    if len(days) == 7:
        return "daily"
    parts = []
    at = 0
    while at < len(days):
        run = 1
        while at + run < len(days) and days[at + run] == days[at] + run:
            run += 1
        if run >= 3:
            parts.append(f"{_NAMES[days[at]]}-{_NAMES[days[at + run - 1]]}")
        else:
            parts += [_NAMES[day] for day in days[at : at + run]]
        at += run
    return ",".join(parts)


def _show_span(start: int, stop: int) -> str:
    stop = stop - DAY if stop > DAY else stop
    return f"{start // 60:02}:{start % 60:02}-{stop // 60:02}:{stop % 60:02}"
