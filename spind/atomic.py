# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are replaced whole or not at all.

Owns the temporary files beside them: ``.NAME.<12 hexadecimal digits>``, which a killed process
may leave behind and the next start sweeps away. Must not know what is in any file. Everything
here blocks.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class StoreError(Exception):
    """A file could not be read or written; nothing was changed. The text is for people."""


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn what the system says of a failure into ``StoreError``."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror or error}") from error


def read(path: str | Path, most: int) -> bytes:
    """A regular file's content; ``OSError`` where it has more than ``most`` bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return read_open(fd, most)
    finally:
        os.close(fd)


def read_open(fd: int, most: int) -> bytes:
    """As ``read``, of an open file, from its beginning."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    parts = []
    size = 0
    while size <= most and (part := os.pread(fd, max(4096, status.st_size + 1 - size), size)):
        parts.append(part)
        size += len(part)
    if size > most:
        raise OSError(errno.EFBIG, f"larger than {most} bytes")
    return b"".join(parts)


def replace(
    path: Path, data: bytes, before: os.stat_result | None = None, *, durable: bool = True, mode: int = 0o600
) -> bool:
    """Put ``data`` in the file's place in one step, and see that it is what reads back.

    ``before`` is the file's status before it was read: mode and owner are kept, and where it
    has changed since, nothing is done and the result is False. ``durable`` outlasts a power cut.
    """
    # Names with a dot are no configuration to uci, which looks at all files of the directory.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            _fill(fd, data, before, durable)
        finally:
            os.close(fd)
        if before is not None and changed(before, path.stat()):
            temporary.unlink(missing_ok=True)
            return False
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)
    return True


def write_all(fd: int, data: bytes) -> None:
    """Write ``data`` from the beginning of an open file, however many steps that takes."""
    view = memoryview(data)
    at = 0
    while at < len(data):
        at += os.pwrite(fd, view[at:], at)


def append(fd: int, data: bytes) -> None:
    """Append to a file that is open for that, and nobody else's, by one write; all of it or nothing."""
    written = os.write(fd, data)
    if written != len(data):
        os.ftruncate(fd, os.fstat(fd).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fill(fd: int, data: bytes, like: os.stat_result | None, durable: bool) -> None:
    write_all(fd, data)
    if like is not None:
        os.fchown(fd, like.st_uid, like.st_gid)
        os.fchmod(fd, stat.S_IMODE(like.st_mode))
    if durable:
        os.fsync(fd)
    if read_open(fd, len(data)) != data:
        raise OSError(errno.EIO, "what was written reads back differently")


def sync_directory(path: Path) -> None:
    """Make a directory's entries outlast a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def changed(before: os.stat_result, now: os.stat_result) -> bool:
    """Whether a file was written or replaced between the two."""
    return (before.st_ino, before.st_size, before.st_mtime_ns) != (now.st_ino, now.st_size, now.st_mtime_ns)


def sweep(path: Path, older_than: float) -> None:
    """Remove temporary files of ``replace`` for ``path`` that were last written before a Unix time.

    Nobody else may be replacing the file meanwhile. What cannot be removed stays.
    """
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}")
    with suppress(OSError):
        for entry in os.scandir(path.parent):
            if ours.fullmatch(entry.name):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < older_than:
                        Path(entry.path).unlink()
