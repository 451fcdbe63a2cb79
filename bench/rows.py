# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows by name, in the order of the table, and what a row needs to know."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.bed import Bed
from bench.figures import Figure


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure: ``pairs`` of runs without and with, ``seconds`` for each window."""

    pairs: int = 5
    seconds: float = 10.0
    quick: bool = False
    patience: float = 0.0
    say: Callable[[str], None] = print


@dataclass(frozen=True)
class Row:
    """A measurement: one or more figures. ``devices`` is the size of the home that it needs."""

    name: str
    what: str
    measure: Callable[[Bed, Settings], list[Figure]]
    devices: int = 5


def catalogue() -> list[Row]:
    """All rows that this version can measure."""
    from bench import (  # noqa: PLC0415 - they import this
        rows_block,
        rows_block_names,
        rows_block_rules,
        rows_cost,
        rows_failure,
        rows_path,
        rows_truth,
        rows_web,
    )

    modules = (
        rows_path,
        rows_cost,
        rows_truth,
        rows_failure,
        rows_block,
        rows_block_names,
        rows_block_rules,
        rows_web,
    )
    return [row for module in modules for row in module.ROWS]


class UnknownRowError(Exception):
    """A name that no row has."""


def choose(names: str, rows: list[Row]) -> list[Row]:
    """The rows in ``names`` (separated by commas; a name also stands for all that begin with it and a
    dash), in the table's order; all of them where it is empty."""
    if not names:
        return rows
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if not any(_matches(row, name) for row in rows):
            raise UnknownRowError(f"no row {name!r}; there are: {', '.join(row.name for row in rows)}")
    return [row for row in rows if any(_matches(row, name) for name in wanted)]


def _matches(row: Row, name: str) -> bool:
    return row.name == name or row.name.startswith(name + "-")
