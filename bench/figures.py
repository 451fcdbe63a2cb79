# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of the table: samples, their middle and spread, targets, verdicts. Pure, no I/O.

A figure is one line of the table. It never decides about tests: a missed target is a fact to look
into, and timings differ from machine to machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Target:
    """At most (``<=``), at least (``>=``) or exactly (``==``) ``value``."""

    sign: str
    value: float

    def met(self, value: float) -> bool:
        """Whether ``value`` is good enough."""
        return {
            "<=": value <= self.value,
            ">=": value >= self.value,
            "==": value == self.value,
        }[self.sign]


def at_most(value: float) -> Target:
    """``<= value``."""
    return Target("<=", value)


def at_least(value: float) -> Target:
    """``>= value``."""
    return Target(">=", value)


def exactly(value: float) -> Target:
    """``== value``."""
    return Target("==", value)


@dataclass(frozen=True)
class Figure:
    """One measured number.

    ``samples`` are the repetitions (a pair of runs, with and without, gives one of them); ``unit``
    is put after the number; ``target`` is ``None`` for what is only told; ``note`` says what else
    belongs to it, in a few words; ``data`` goes into the JSON file only.
    """

    row: str
    what: str
    samples: tuple[float, ...]
    unit: str = ""
    target: Target | None = None
    digits: int = 1
    note: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The median of the samples."""
        return median(self.samples)

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or empty where there is no target."""
        if self.target is None:
            return ""
        return "met" if self.target.met(self.value) else "missed"

    def text(self) -> str:
        """The measured value, with its spread where there are several samples."""
        value = f"{show(self.value, self.digits)}{self._unit()}"
        if len(self.samples) < 2:
            return value
        low, high = show(min(self.samples), self.digits), show(max(self.samples), self.digits)
        return f"{value} ({low} to {high})"

    def target_text(self) -> str:
        """The target as it stands in the table."""
        if self.target is None:
            return "-"
        sign = {"<=": "≤ ", ">=": "≥ ", "==": ""}[self.target.sign]
        return f"{sign}{self.target.value:,}{self._unit()}"


    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "row": self.row,
            "what": self.what,
            "target": None if self.target is None else [self.target.sign, self.target.value],
            "value": self.value,
            "unit": self.unit,
            "samples": list(self.samples),
            "verdict": self.verdict,
            "note": self.note,
            "data": self.data,
        }


def show(value: float, digits: int) -> str:
    """``value`` with that many decimals, and thousands set apart."""
    return f"{value:,.{digits}f}"


def ratios(pairs: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """With over without, for pairs ``(without, with)``; a pair whose first is 0 says nothing."""
    return tuple(after / before for before, after in pairs if before)


def differences(pairs: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """With less without, for pairs ``(without, with)``."""
    return tuple(after - before for before, after in pairs)


def medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The median without, and the median with."""
    return median(before for before, _ in pairs), median(after for _, after in pairs)
