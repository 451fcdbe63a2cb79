# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures for tests of the page: a home, a browser in its gateway, and a visit for each test."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from web_browser import Visit
from web_home import Pair, WebHome, web_home

from spind.lab import LabError, chromium


@pytest.fixture(scope="session")
def home() -> Iterator[WebHome]:
    """A home that tests share: each leaves its rules, names and hidden nodes as it found them."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    try:
        chromium.program()
    except LabError as error:
        pytest.skip(str(error))
    with web_home() as fresh:
        fresh.live(4)
        yield fresh


@pytest.fixture(scope="module")
def browser(home: WebHome) -> Iterator[Any]:
    """A browser in the home's gateway. It is a module's, since other tests have loops of their own."""
    with chromium.browser(home.lab.gateway.namespace) as started:
        yield started


@pytest.fixture
def open_page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Visit]]:
    """A function that opens the page with ``Visit``'s arguments and waits until it is live.

    A screenshot is kept of how each ended, and each is checked.
    """
    opened: list[Visit] = []

    def go(**options: Any) -> Visit:
        fresh = Visit(browser, **options)
        opened.append(fresh)
        fresh.__enter__()
        return fresh.wait_ready()

    try:
        yield go
        for number, each in enumerate(opened):
            each.photograph(f"{request.node.name}{f'-{number}' if number else ''}")
            each.check()
    finally:
        for each in opened:
            each.__exit__(RuntimeError)  # only closes: it was checked


@pytest.fixture
def visit(open_page: Callable[..., Visit]) -> Visit:
    """The page in a window of the usual size."""
    return open_page()


@pytest.fixture
def pair(home: WebHome) -> Iterator[Pair]:
    """The tv and a party that no other test talks to."""
    number = 100 + len(_numbers)
    _numbers.append(number)
    made = Pair(home, home.tv, number)
    yield made
    made.close()
    for rule in home.call("list_rules"):
        home.call("remove_rule", id=rule["id"])


_numbers: list[int] = []
