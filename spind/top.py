# SPDX-License-Identifier: GPL-2.0-or-later
"""``spind top``: a live table in the terminal, or snapshots where there is none.

Owns the terminal and the polling of the daemon. What is shown is made in ``top_table``.
Plain ANSI sequences, so that it works where curses and terminfo are not installed.
"""

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from spind.client import Client
from spind.top_table import Json, Sort, Table, View, render

_PAGE = 500  # items of a page, the daemon's bound
_MAX_PAGES = 10  # a poll takes no more of the daemon's time than this
_SNAPSHOT_LINES = 60

_ENTER = "\x1b[?1049h\x1b[?25l"  # alternate screen, no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


class Poller:
    """Asks the daemon for what changed since it was last asked."""

    def __init__(self, client: Client) -> None:
        self.table = Table()
        self.status: Json = {}
        self._client = client
        self._since = 0

    def poll(self) -> float:
        """One sample; returns its time in Unix seconds."""
        now = time.time()
        self.status = self._client.call("status")
        flows = self._pages("list_flows", {"since": self._since} if self._since else {})
        self.table.sample(flows, now)
        # Whole seconds, and what came while we asked: a flow too many does no harm.
        self._since = int(now) - 1
        unnamed = self.table.unnamed
        if unnamed:
            # The most recent nodes come first, and those are the ones that have traffic.
            for node in self._pages("list_nodes", {}):
                self.table.name_nodes([node])
                unnamed.discard(node["id"])
                if not unnamed:
                    break
            # Gone meanwhile, or hidden: not asked for again.
            self.table.name_nodes({"id": ident} for ident in unnamed)
        return now

    def rename(self) -> None:
        """Learn the devices' present names."""
        self.table.name_nodes(self._pages("list_nodes", {"kind": "device"}))

    def _pages(self, method: str, params: dict[str, Any]) -> Iterator[Json]:
        offset = 0
        for _ in range(_MAX_PAGES):
            page = self._client.call(method, {**params, "limit": _PAGE, "offset": offset})
            yield from page["items"]
            offset += len(page["items"])
            if not page["items"] or offset >= page["total"]:
                return


def run(
    client: Client, interval: float = 2.0, count: int = 0, out: TextIO | None = None, *, page: str = ""
) -> int:
    """Show until ``q``, Ctrl-C or ``count`` samples (0: no end); returns an exit status. ``page`` is where
    the Traffic Monitor is, if not where the daemon says."""
    out = out or sys.stdout
    poller = Poller(client)
    poller.poll()
    try:
        if out.isatty() and sys.stdin.isatty() and not count:
            with _screen(out) as keys:
                _live(poller, interval, out, keys, page)
        else:
            _snapshots(poller, interval, count, out, page)
    except KeyboardInterrupt:
        pass
    return 0


def _snapshots(poller: Poller, interval: float, count: int, out: TextIO, page: str) -> None:
    """Each covers one interval, so that its rates are true."""
    done = 0
    while not count or done < count:
        time.sleep(interval)
        now = poller.poll()
        poller.rename()
        columns = os.get_terminal_size(out.fileno()).columns if out.isatty() else 80
        lines = render(
            poller.table, poller.status, now, View(columns, _SNAPSHOT_LINES, keys=False, page=page)
        )
        out.write("\n" * bool(done) + "\n".join(lines) + "\n")
        out.flush()
        done += 1


def _live(poller: Poller, interval: float, out: TextIO, keys: int, page: str) -> None:
    view = View(page=page)
    polled = time.time()
    due = time.monotonic() + interval
    while True:
        size = os.get_terminal_size(out.fileno())
        view = view._replace(columns=max(size.columns, 1), lines=max(size.lines, 1))
        lines = render(poller.table, poller.status, polled, view)
        # Line by line over the old picture: nothing flickers.
        out.write(_HOME + "\r\n".join(line + _END_OF_LINE for line in lines) + _BELOW)
        out.flush()
        if select.select([keys], [], [], max(due - time.monotonic(), 0))[0]:
            pressed = os.read(keys, 64)
            if not pressed or b"q" in pressed.lower() or b"\x04" in pressed:
                return
            view = _press(view, pressed, poller.table)
        if time.monotonic() >= due:
            polled = poller.poll()
            poller.rename()
            due = time.monotonic() + interval


def _press(view: View, pressed: bytes, table: Table) -> View:
    if b"s" in pressed:
        view = view._replace(sort=view.sort.following())
    if b"d" in pressed:
        choices: list[int | None] = [None, *table.devices]
        at = choices.index(view.device) if view.device in choices else 0
        view = view._replace(device=choices[(at + 1) % len(choices)])
    if b"a" in pressed:
        view = view._replace(device=None)
    return view


@contextmanager
def _screen(out: TextIO) -> Iterator[int]:
    """The whole terminal, with keys as they are pressed; as it was before, afterwards."""
    import termios  # noqa: PLC0415  (not on every system, and only a terminal needs it)
    import tty  # noqa: PLC0415

    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    out.write(_ENTER)
    out.flush()
    try:
        tty.setcbreak(keys)
        yield keys
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
        out.write(_LEAVE)
        out.flush()


__all__ = ["Poller", "Sort", "run"]
