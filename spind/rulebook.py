# SPDX-License-Identifier: GPL-2.0-or-later
"""All rules, and which of them are in force now: ids, end times, weekly schedules. Pure.

Must not know what a rule means; that is ``policy``.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from spind.rules import Rule
from spind.schedule import Schedule, parse_schedule

WallClock = Callable[[float], tuple[int, int]]
"""Of Unix seconds, the weekday (Monday is 0) and the minute of the day where the home is."""


class Turned(NamedTuple):
    """What the time has done: rules that came into force, that ceased to be, that ended for good."""

    began: list[Rule]
    ceased: list[Rule]
    ended: list[Rule]


class RuleBook:
    """Rules by id."""

    def __init__(self, wall_clock: WallClock, limit: int) -> None:
        self._wall_clock = wall_clock
        self._limit = limit
        self._rules: dict[int, Rule] = {}
        self._schedules: dict[int, Schedule] = {}
        self._in_force: set[int] = set()
        self._timed: set[int] = set()
        self._last_id = 0
        self._looked: tuple[int, int] | None = None
        self.revision = 0
        """Grows whenever a rule is entered, taken out, or turned on or off by the time."""

    def __len__(self) -> int:
        return len(self._rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules.values())

    def get(self, rule_id: int) -> Rule | None:
        """The rule with this id."""
        return self._rules.get(rule_id)

    @property
    def next_id(self) -> int:
        """The id for a new rule: not that of any rule there was while the daemon runs."""
        return self._last_id + 1

    def reserve(self, rule_id: int) -> None:
        """Ids up to this one were given before."""
        self._last_id = max(self._last_id, rule_id)

    @property
    def full(self) -> bool:
        """Is there no room for another rule?"""
        return len(self._rules) >= self._limit

    def put(self, rule: Rule, now: float) -> bool:
        """Enter a rule, in place of one with its id; True if it is in force now."""
        self.remove(rule.id)
        self.revision += 1
        self._last_id = max(self._last_id, rule.id)
        self._rules[rule.id] = rule
        if rule.schedule:
            self._schedules[rule.id] = parse_schedule(rule.schedule)
        if rule.schedule or rule.until:
            self._timed.add(rule.id)
        active = self._active(rule, now)
        if active:
            self._in_force.add(rule.id)
        return active

    def remove(self, rule_id: int) -> Rule | None:
        """Take a rule out; the rule, if it was there."""
        self.revision += 1
        rule = self._rules.pop(rule_id, None)
        self._schedules.pop(rule_id, None)
        self._in_force.discard(rule_id)
        self._timed.discard(rule_id)
        return rule

    def in_force(self, rule_id: int) -> bool:
        """Is the rule in force? As of the last look at the time."""
        return rule_id in self._in_force

    def turn(self, now: float) -> Turned:
        """Look at the time: what it changed. Cheap as long as the minute is the same."""
        turned = Turned([], [], [])
        moment = self._wall_clock(now) if self._schedules else None
        same = moment == self._looked
        self._looked = moment
        for rule_id in list(self._timed):
            rule = self._rules[rule_id]
            if rule.until and now >= rule.until:
                self.remove(rule_id)
                turned.ended.append(rule)
            elif not (same and rule.schedule) and self._active(rule, now) != (rule_id in self._in_force):
                self.revision += 1
                self._in_force ^= {rule_id}
                (turned.began if rule_id in self._in_force else turned.ceased).append(rule)
        return turned

    def _active(self, rule: Rule, now: float) -> bool:
        if rule.until and now >= rule.until:
            return False
        schedule = self._schedules.get(rule.id)
        return schedule is None or schedule.active(*self._wall_clock(now))
