# SPDX-License-Identifier: GPL-2.0-or-later
"""An ipk: a gzipped tar of ``debian-binary``, ``data.tar.gz`` and ``control.tar.gz``, always the same bytes.

Owns the archive's form. Entries are sorted, belong to root and have the time they are given; gzip carries
neither a name nor a time. What is in them it must not know.
"""

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

FORMAT_VERSION = b"2.0\n"


class Entry(NamedTuple):
    """A file (``data``) or folder (``None``) of an archive; ``name`` such as ``./etc/config``."""

    name: str
    mode: int
    data: bytes | None


def tar(entries: Iterable[Entry], epoch: int) -> bytes:
    """An uncompressed archive of the entries, in the order given, all root's and of that time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.mode, info.mtime = entry.mode, epoch
            if entry.data is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(entry.data)
                archive.addfile(info, io.BytesIO(entry.data))
    return out.getvalue()


def compress(data: bytes) -> bytes:
    """The data gzipped, without name and time (RFC 1952 section 2.3)."""
    return gzip.compress(data, compresslevel=9, mtime=0)


def entries_of(root: Path) -> list[Entry]:
    """Everything below the folder, and the folder itself first; sorted."""
    found = [Entry(".", 0o755, None)]
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts):
        name = f"./{path.relative_to(root)}"
        mode = path.stat().st_mode & 0o7777
        found.append(Entry(name, mode, None if path.is_dir() else path.read_bytes()))
    return found


def ipk(data_tar: bytes, control: dict[str, tuple[str, int]], epoch: int) -> bytes:
    """The package. ``control`` has texts and modes by name."""
    files = [Entry(f"./{name}", mode, text.encode()) for name, (text, mode) in sorted(control.items())]
    control_tar = tar([Entry(".", 0o755, None), *files], epoch)
    parts = {
        "debian-binary": FORMAT_VERSION,
        "data.tar.gz": compress(data_tar),
        "control.tar.gz": compress(control_tar),
    }
    return compress(tar((Entry(f"./{name}", 0o644, data) for name, data in parts.items()), epoch))
