# SPDX-License-Identifier: GPL-2.0-or-later
"""The audit list on disk: one JSON object a line, oldest first.

Owns its bounds and that a line is there as a whole or not at all. What an entry says is its
writer's business. The file is in the history directory, in memory as a rule: it outlasts the
process, not the machine, and nothing is synced.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from spind import atomic
from spind.atomic import reported

ENTRIES: Final = 1000
"""Entries that are kept; the oldest go. The file has a quarter more before it is made smaller."""

MAX_BYTES: Final = 1 << 20
"""Size of the file; where it would be more, the oldest go until three quarters of it are left."""

ENTRY_BYTES: Final = 64 << 10
"""Size of an entry as JSON."""

_SLACK = ENTRIES // 4


class AuditFile:
    """``audit.jsonl`` in the history directory; only one process may append to it."""

    def __init__(self, history_dir: str) -> None:
        self.path = Path(history_dir) / "audit.jsonl"
        self._begun = time.time()
        self._lines = -1  # not counted yet

    def load(self) -> list[dict[str, Any]]:
        """The newest ``ENTRIES``, oldest first; lines that are torn or no JSON object are left out.

        ``StoreError`` where the file is there and cannot be read.
        """
        with reported(f"cannot read {self.path}"):
            atomic.sweep(self.path, self._begun)
            entries = []
            for line in self._read()[-ENTRIES - _SLACK :]:
                with suppress(ValueError, RecursionError):
                    entry = json.loads(line)
                    if isinstance(entry, dict):
                        entries.append(entry)
            return entries[-ENTRIES:]

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry at the end, by one write.

        ``ValueError`` where it is no JSON or longer than ``ENTRY_BYTES``, ``StoreError`` where it
        cannot be written: either way the file has no part of it.
        """
        line = json.dumps(dict(entry), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > ENTRY_BYTES:
            raise ValueError(f"audit entry of {len(line)} bytes, the limit is {ENTRY_BYTES}")
        with reported(f"cannot write {self.path}"):
            self.path.parent.mkdir(0o700, parents=True, exist_ok=True)
            fd = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
            )
            try:
                # A torn line of an earlier process must not take this one with it.
                size = os.fstat(fd).st_size
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    line = b"\n" + line
                if self._lines < 0:
                    self._lines = len(self._read())
                atomic.append(fd, line)
            finally:
                os.close(fd)
            self._lines += 1
            if self._lines > ENTRIES + _SLACK or size + len(line) > MAX_BYTES:
                self._compact()

    def _read(self) -> list[bytes]:
        try:
            return atomic.read(self.path, 2 * MAX_BYTES).splitlines()
        except FileNotFoundError:
            return []

    def _compact(self) -> None:
        lines = self._read()[-ENTRIES:]
        size = sum(map(len, lines)) + len(lines)
        drop = 0
        if size > MAX_BYTES:
            while size > MAX_BYTES * 3 // 4:
                size -= len(lines[drop]) + 1
                drop += 1
        atomic.replace(self.path, b"".join([line + b"\n" for line in lines[drop:]]), durable=False)
        self._lines = len(lines) - drop
