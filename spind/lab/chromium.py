# SPDX-License-Identifier: GPL-2.0-or-later
"""Chromium inside a machine of the lab, driven by Playwright: for tests of the page, pictures and benchmarks.

Owns where the browser's processes run and that they end. What is looked at is decided by who asked.
"""

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from spind.lab import netns
from spind.lab.errors import LabError

if TYPE_CHECKING:  # importing it takes long, and most of the lab does without
    from playwright.sync_api import Browser

ARGUMENTS = (
    "--no-sandbox",  # the lab is root's
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Whatever asks for a name anyway gets none.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


def program() -> str:
    """Path of Debian's Chromium; ``LabError`` where it is not installed."""
    found = shutil.which("chromium")
    if found is None:
        raise LabError("chromium is not installed: scripts/setup --test does that")
    return found


@contextlib.contextmanager
def browser(namespace: str) -> Iterator["Browser"]:
    """A headless browser whose loopback is that of ``namespace``.

    A thread has one at a time, and no asyncio loop of its own meanwhile (Playwright runs one). End it
    before the lab, which would kill it.
    """
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - see above

    where = program()
    with netns.visiting(namespace):
        playwright = sync_playwright().start()  # its driver stays, and so does what that starts
    try:
        started = playwright.chromium.launch(executable_path=where, args=list(ARGUMENTS))
        try:
            yield started
        finally:
            started.close()
    finally:
        playwright.stop()
