# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration file beside other programs that change it.

Owns the ways of ``uci commit`` that a change of ours has to get along with, so that neither side
loses one. Must not know what is in the file. libuci locks the file, reads it, writes
``.NAME.uci-XXXXXX``, **unlocks**, and then renames that into place. Its lock therefore is not
enough:

* between its unlocking and its renaming, the lock is free: we wait until there is no such file;
* one that waits for the lock while we replace the file gets the lock of the old one, and reads
  that: we put the new content into the old file, too, which has no name any more;
* while such a one works, its lock is not that of the file in place: before the next change we
  wait until nobody has the old file open for writing (a lease, ``fcntl(2)``).

Editors take no lock: where the file changed while we worked, the work begins anew.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from spind import atomic

LOCK_SECONDS = 1.0
"""How long to wait for others altogether."""

_POLL_SECONDS = 0.001

_ATTEMPTS = 5
"""How often to start again where the file changed while a change was being made."""

_STALE_SECONDS = 5.0
"""Age from which a temporary file of libuci's is a crashed one's."""

_OPEN = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC


class UciFile:
    """One file; all changes of this process have to go through the same object."""

    def __init__(self, path: str, most: int) -> None:
        self.path = path
        self._most = most
        self._begun = time.time()
        self._swept = False
        self._replaced = -1  # the file before our last change, while others may be at work on it

    def read(self) -> bytes:
        """The content; ``OSError`` where it cannot be read or is too large."""
        data = atomic.read(self.path, self._most)
        if not self._swept:
            with suppress(OSError), _Lock(self._real(), time.monotonic()):
                self._sweep()
        return data

    def rewrite(self, change: Callable[[bytes], bytes]) -> bool:
        """Put ``change`` of the content in the file's place; False where nothing changes.

        ``OSError`` where that fails; then nothing was changed. ``change`` may be called again.
        """
        deadline = time.monotonic() + LOCK_SECONDS
        for _ in range(_ATTEMPTS):
            self._await_replaced(deadline)
            path = self._real()
            with _Lock(path, deadline) as lock:
                if not self._swept:
                    self._sweep()
                _await_commits(path, deadline)
                before = os.fstat(lock.fd)
                if atomic.changed(before, path.stat()):
                    continue
                old = atomic.read_open(lock.fd, self._most)
                new = change(old)
                if new == old:
                    return False
                if atomic.replace(path, new, before):
                    self._replaced = lock.keep()
                    _refill(self._replaced, new)
                    self._forget_replaced()
                    return True
        raise OSError(errno.EAGAIN, "others keep changing it")

    def _real(self) -> Path:
        return Path(os.path.realpath(self.path))

    def _sweep(self) -> None:
        self._swept = True
        atomic.sweep(self._real(), self._begun)

    def _await_replaced(self, deadline: float) -> None:
        for _ in _until(deadline, "another program is changing it"):
            if self._forget_replaced():
                return

    def _forget_replaced(self) -> bool:
        """Close the file before our last change; False where another has it open for writing."""
        if self._replaced >= 0:
            if _is_open_elsewhere(self._replaced):
                # who waits for its lock shall have it
                fcntl.flock(self._replaced, fcntl.LOCK_UN)
                return False
            _release(self._replaced)
            self._replaced = -1
        return True


class _Lock:
    """The lock that ``uci commit`` takes, on the file that is in place when it is got."""

    def __init__(self, path: Path, deadline: float) -> None:
        self._path = path
        self._deadline = deadline
        self.fd = -1

    def __enter__(self) -> Self:
        for _ in _until(self._deadline, "another program holds its lock"):
            self.fd = os.open(self._path, _OPEN)
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(self.fd), self._path.stat()):
                    break
            except BlockingIOError:
                pass
            except BaseException:
                self.__exit__()
                raise
            self.__exit__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            _release(self.fd)
            self.fd = -1

    def keep(self) -> int:
        """The descriptor, still locked, which is the caller's from now on."""
        fd, self.fd = self.fd, -1
        return fd


def _release(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough while a child has a copy, until it execs
    os.close(fd)


def _until(deadline: float, why: str) -> Iterator[None]:
    """Go on in small steps; ``OSError`` where it takes too long."""
    while True:
        yield
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, why)
        time.sleep(_POLL_SECONDS)


def _await_commits(path: Path, deadline: float) -> None:
    """Wait for those who have written what they will put in place."""
    prefix = f".{path.name}.uci-"
    for _ in _until(deadline, "another program is changing it"):
        with os.scandir(path.parent) as entries:
            names = [entry.path for entry in entries if entry.name.startswith(prefix)]
        if not any(map(_is_fresh, names)):
            return


def _is_fresh(path: str) -> bool:
    try:
        return abs(time.time() - Path(path).stat().st_mtime) < _STALE_SECONDS
    except FileNotFoundError:
        return False


def _refill(fd: int, data: bytes) -> None:
    """Let those who wait for the lock of a replaced file read what replaced it."""
    if os.fstat(fd).st_nlink:
        return  # it has another name, under which somebody keeps it as it is
    try:
        atomic.write_all(fd, data)
        os.ftruncate(fd, len(data))
    except OSError:
        with suppress(OSError):
            os.pwrite(fd, b"'", 0)  # an open quote: refused, rather than taken for all there is


def _is_open_elsewhere(fd: int) -> bool:
    """Whether somebody else has a file without a name open for writing."""
    if os.fstat(fd).st_nlink:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
