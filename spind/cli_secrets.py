# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``spind passwd`` and ``spind token`` have in common: the settings, and files with secrets in them.

Owns that such a file is replaced whole, that no change of others is lost, and who may read it: root, or
whoever had it before, and never everybody.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spind import atomic, decided_uci
from spind.atomic import StoreError
from spind.config_options import Config
from spind.store import Store
from spind.uci import MAX_BYTES, UciError
from spind.uci_file import UciFile
from spind.uci_sheet import Sheet

_ATTEMPTS = 5
"""How often to start again where somebody else changed the file meanwhile."""


def settings(config_path: str) -> Config:
    """What the configuration file says; ``StoreError`` where it cannot be read."""
    return Store(config_path).load()[0]


def set_option(config_path: str, option: str, value: str) -> None:
    """Write one option of the main section; ``StoreError`` where that fails."""

    def change(data: bytes) -> bytes:
        sheet = Sheet.cut(data, decided_uci.identity)
        decided_uci.apply(sheet, decided_uci.setting(option, value))
        return sheet.data

    with atomic.reported(f"cannot write {config_path}"):
        try:
            UciFile(config_path, MAX_BYTES).rewrite(change)
        except UciError as error:
            raise StoreError(f"cannot write {config_path}: {error}") from error


def content(path: str, most: int) -> bytes:
    """A file's content, none where there is no file; ``StoreError`` where it cannot be read."""
    with atomic.reported(f"cannot read {path}"):
        try:
            return atomic.read(path, most)
        except FileNotFoundError:
            return b""


def rewrite(path: str, most: int, change: Callable[[bytes], bytes]) -> None:
    """Put ``change`` of a file's content in its place; it is made if need be, mode 0600.

    ``StoreError`` where that fails, and whatever ``change`` raises: then nothing was changed.
    """
    real = Path(os.path.realpath(path))
    with atomic.reported(f"cannot write {path}"):
        for _ in range(_ATTEMPTS):
            try:
                before = real.stat()
            except FileNotFoundError:
                _checked(change(b""), path, most)
                real.parent.mkdir(0o755, parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    os.close(os.open(real, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                before = real.stat()
            new = _checked(change(atomic.read(real, most)), path, most)
            if before.st_mode & 0o037:
                real.chmod(before.st_mode & 0o640)
                sys.stderr.write(f"{path} is for its owner and group only, from now on\n")
                before = real.stat()
            if atomic.replace(real, new, before):
                return
    raise StoreError(f"cannot write {path}: others keep changing it")


def _checked(data: bytes, path: str, most: int) -> bytes:
    if len(data) > most:
        raise StoreError(f"{path} would have {len(data)} bytes, the limit is {most}")
    return data
