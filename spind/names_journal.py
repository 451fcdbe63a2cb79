# SPDX-License-Identifier: GPL-2.0-or-later
"""Remembers which names addresses had, so that a killed daemon knows them when it starts again.

Owns two files of lines, each with a checksum: ``names.journal``, which grows, and
``names.journal.old``, which it was before. When it is full it becomes the old one, and with each
line that follows two of the old one's are taken over, until nothing is left to take and the old
one goes. So no call does more than a few microseconds of work, and at each moment everything
that is remembered is on disk. A DNS answer waits for ``note``: nothing is synced, so it outlasts
the process, not the machine. Must not know what the names are for.

A line is ``CRC + EXPIRES ADDRESS NAME``: CRC-32 of what follows it and expiry (Unix seconds) in
decimal, address as hexadecimal digits of its 4 or 16 bytes. It has ``-`` for ``+`` where it was
taken over: such lines are older than all others of their file, the newest first.
"""

import logging
import os
import re
import time
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from spind import atomic
from spind.model import Address

log = logging.getLogger(__name__)

ENTRIES: Final = 16384
"""Pairs of an address and a name; beyond it those that were noted first go."""

LIVE_BYTES: Final = 2 << 20
"""What they take as lines; beyond it those that were noted first go."""

FULL_BYTES: Final = 4 << 20
"""Size at which a file is full: with the one before, twice as much is on disk at most."""

_READ_BYTES = 2 * FULL_BYTES
_TAKEN_OVER = 2  # lines, and bytes for each byte of a new line: what is taken over stays ahead of what is new
_NAME = re.compile("[!-~]{1,1024}")
_LINE = re.compile(rb"([0-9]{1,10}) (([+-]) ([0-9]{1,15}) ([0-9a-f]{8}|[0-9a-f]{32}) ([!-~]{1,1024}))")
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC

Entry = tuple[Address, str, int]
"""Address, name, and Unix time in seconds at which it ends."""


class NamesJournal:
    """The journal in a history directory; only one process may write it.

    Whatever goes wrong with the disk is logged once, and then nothing is noted any more.
    """

    def __init__(self, history_dir: str) -> None:
        self.path = Path(history_dir) / "names.journal"
        self._old = self.path.with_name("names.journal.old")
        self._begun = time.time()
        self._fd = -1
        self._size = 0
        self._failed = False
        self._live: dict[tuple[Address, str], int] = {}  # in the order in which they were noted
        self._live_bytes = 0
        self._rest: list[tuple[Address, str]] = []  # what is to be taken over from the old file
        self._turned = False  # whether there is an old file

    def load(self, now: float) -> list[Entry]:
        """What has not ended, in the order in which it was noted; the journal goes on from there.

        Lines that are torn or damaged are left out. Call it before the first ``note``.
        """
        self._live, self._live_bytes = {}, 0
        atomic.sweep(self.path, self._begun)
        for path in (self._old, self.path):
            try:
                data = atomic.read(path, _READ_BYTES)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("names of addresses are lost: cannot read %s: %s", path, error.strerror)
                continue
            for entry in _in_order(data):
                self._remember(*entry)
        entries = [(*key, expires) for key, expires in self._live.items() if expires > now]
        self.compact(entries)
        return entries

    def note(self, address: Address, name: str, expires: int) -> None:
        """Remember that an address has a name until a Unix time in seconds.

        A name that is no text out of DNS (printable ASCII without spaces) is not remembered.
        """
        if self._failed or self._live.get((address, name), -1) >= expires:
            return
        if not _NAME.fullmatch(name) or len(address) not in {4, 16} or not 0 <= expires < 10**15:
            return
        self._remember(address, name, expires)
        line = _line(address, name, expires)
        if self._rest:
            line += self._taken_over(_TAKEN_OVER * len(line))
        try:
            if self._fd < 0:
                self.path.parent.mkdir(0o700, parents=True, exist_ok=True)
                self._fd = os.open(self.path, _OPEN, 0o600)
            atomic.append(self._fd, line)
            self._size += len(line)
            if not self._rest and self._turned:
                self._old.unlink(missing_ok=True)
                self._turned = False
            if self._size > FULL_BYTES and not self._rest:
                self._turn()
        except OSError as error:
            self._fail(error)

    def compact(self, entries: Iterable[Entry]) -> None:
        """Put a journal of these, oldest first, in the place of all that was noted."""
        self._close()
        self._live, self._live_bytes = {}, 0
        for entry in entries:
            self._remember(*entry)
        data = b"".join([_line(*key, expires) for key, expires in self._live.items()])
        try:
            self.path.parent.mkdir(0o700, parents=True, exist_ok=True)
            atomic.replace(self.path, data, durable=False)
            self._old.unlink(missing_ok=True)
        except OSError as error:
            self._fail(error)
        self._size = len(data)
        self._rest, self._turned = [], False

    def _remember(self, address: Address, name: str, expires: int) -> None:
        live = self._live
        key = (address, name)
        if live.pop(key, None) is None:
            self._live_bytes += _length(key)
        live[key] = expires
        while len(live) > ENTRIES or self._live_bytes > LIVE_BYTES:
            first = next(iter(live))
            del live[first]
            self._live_bytes -= _length(first)

    def _taken_over(self, least: int) -> bytes:
        """Lines of the old file, ``_TAKEN_OVER`` of them and ``least`` bytes, if there are as many."""
        lines: list[bytes] = []
        size = 0
        while self._rest and (len(lines) < _TAKEN_OVER or size < least):
            key = self._rest.pop()
            expires = self._live.get(key)
            if expires is not None:
                lines.append(_line(*key, expires, b"-"))
                size += len(lines[-1])
        return b"".join(lines)

    def _turn(self) -> None:
        self.path.replace(self._old)
        self._close()
        self._size = 0
        self._turned = True
        self._rest = list(self._live)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            log.warning(
                "names of addresses will be lost when spind is killed: cannot write %s: %s",
                self.path,
                error.strerror,
            )
        self._failed = True
        self._close()
        self._live, self._live_bytes, self._rest = {}, 0, []


def _length(key: tuple[Address, str]) -> int:
    """About the length of a line, always the same for the same key."""
    return 2 * len(key[0]) + len(key[1]) + 24


def _line(address: Address, name: str, expires: int, mark: bytes = b"+") -> bytes:
    said = b"%b %d %b %b" % (mark, expires, address.hex().encode(), name.encode())
    return b"%d %b\n" % (zlib.crc32(said), said)


def _in_order(data: bytes) -> Iterator[Entry]:
    """What the lines of a file say, in the order in which it was noted; others are left out."""
    lines = [found for line in data.split(b"\n") if (found := _LINE.fullmatch(line)) and _is_whole(found)]
    taken_over = [line for line in reversed(lines) if line[3] == b"-"]
    for line in chain(taken_over, (line for line in lines if line[3] == b"+")):
        yield bytes.fromhex(line[5].decode()), line[6].decode(), int(line[4])


def _is_whole(line: re.Match[bytes]) -> bool:
    return zlib.crc32(line[2]) == int(line[1])
