# SPDX-License-Identifier: GPL-2.0-or-later
"""Small files that other programs change, and that hold from then on.

Owns when one is read again: a look at its status at each use tells (some microseconds). Must not know
what is in it.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from spind import atomic

log = logging.getLogger(__name__)


class Content(Protocol):
    """What a file says, and what in it does not hold."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences for the log."""


_Content = TypeVar("_Content", bound=Content)

_Seen = tuple[int, int, int, int]


class WatchedFile(Generic[_Content]):
    """A file and what it says."""

    def __init__(self, path: str, most: int, parse: Callable[[bytes], _Content]) -> None:
        """``parse`` makes something of at most ``most`` bytes, and never raises."""
        self.path = Path(path)
        self._most = most
        self._parse = parse
        self._seen: _Seen | None = None
        self._content: _Content | None = None
        self._told = ""
        self.problem = ""
        """Why there is no content; empty where there is some, or no file."""

    def get(self) -> _Content | None:
        """What it says now; None where it cannot be read or is not there, which ``problem`` tells apart."""
        try:
            seen = _seen(self.path.stat())
            if seen != self._seen:
                self._content = None
                self._content = self._parse(atomic.read(self.path, self._most))
                self._seen = seen
                for problem in self._content.problems:
                    log.warning("%s: %s", self.path, problem)
        except FileNotFoundError:
            self._lost("")
        except OSError as error:
            self._lost(f"cannot read {self.path}: {error.strerror or error}")
        else:
            self.problem = self._told = ""
        return self._content

    def _lost(self, problem: str) -> None:
        self._seen = self._content = None
        self.problem = problem
        if problem and problem != self._told:
            log.error("%s", problem)
        self._told = problem


def _seen(status: os.stat_result) -> _Seen:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
