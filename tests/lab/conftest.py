# SPDX-License-Identifier: GPL-2.0-or-later
"""Labs for tests: ``lab`` is shared by the whole session, ``make_lab`` builds one of one's own."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spind.lab import Lab


def _need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab that all tests share: compare differences of its counters, leave no rule or daemon behind."""
    _need_root()
    with Lab() as shared:
        yield shared


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """A function that builds a lab with ``Lab``'s arguments; all of them go at the end of the test."""
    _need_root()
    built: list[Lab] = []

    def make(**arguments: Any) -> Lab:
        fresh = Lab(**arguments)
        built.append(fresh)
        fresh.up()
        return fresh

    yield make
    for each in built:
        each.down()
