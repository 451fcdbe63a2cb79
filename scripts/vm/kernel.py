# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetches Debian's stock kernel and a static busybox and unpacks them beside the checkout, for the VM lane.

Owns the cache folder that it is given: one folder for each kernel version, complete or absent. Installs
nothing on this machine and needs no root. It must not start the machine (``run``) or pack its first stage
(``initramfs``).
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

META_PACKAGE = "linux-image-amd64"
BUSYBOX_PACKAGE = "busybox-static"
_REAL_PACKAGE = re.compile(r"Depends: (linux-image-(\d[\w.+~-]*-amd64))\b")

# Most of the unpacked size, and nothing that a router without a screen loads.
_LEFT_OUT = (
    "*/kernel/sound",
    "*/kernel/drivers/gpu",
    "*/kernel/drivers/media",
    "*/System.map*",
    "*/share/doc",
)


class LaneError(Exception):
    """The lane cannot run here; the text says why and what to do."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: its release (``uname -r``), its image, the folder of that name with its modules."""

    release: str
    image: Path
    modules: Path

    @property
    def busybox(self) -> Path:
        """A busybox that needs no shared library."""
        return self.root / "bin" / "busybox"

    @property
    def root(self) -> Path:
        """The folder that ``modprobe -d`` and ``depmod -b`` take: the one that holds ``lib/modules``."""
        return self.modules.parent.parent.parent


def run_tool(arguments: Sequence[str], *, cwd: Path | None = None) -> str:
    """Run a tool to its end and return what it printed; any failure is a LaneError that quotes it."""
    try:
        done = subprocess.run(
            arguments, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        )
    except FileNotFoundError as error:
        raise LaneError(f"{arguments[0]} is not installed; scripts/setup --vm installs it") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "nothing").strip()
        raise LaneError(
            f"'{' '.join(arguments)}' failed with status {error.returncode} and said: {said}"
        ) from error
    return done.stdout


def ensure_kernel(cache: Path, *, refresh: bool = False) -> Kernel:
    """Return the newest unpacked kernel in ``cache``; fetch the current one if none, or on ``refresh``."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once: the second finds the first one's kernel
        unpacked = [] if refresh else sorted(cache.glob("linux-*"), key=lambda folder: folder.stat().st_mtime)
        return _describe(unpacked[-1] if unpacked else _fetch(cache))


def _describe(folder: Path) -> Kernel:
    release = folder.name.removeprefix("linux-")
    return Kernel(release, folder / "boot" / f"vmlinuz-{release}", folder / "lib" / "modules" / release)


def _current_package() -> tuple[str, str]:
    """Return the real package behind Debian's kernel meta package, and the kernel's release."""
    shown = run_tool(["apt-cache", "show", "--no-all-versions", META_PACKAGE])
    found = _REAL_PACKAGE.search(shown)
    if found is None:
        raise LaneError(f"apt knows {META_PACKAGE}, but not which kernel package it stands for")
    return found[1], found[2]


def _download(target: Path) -> str:
    """Download the current kernel package, and busybox, into ``target``; return the kernel's release."""
    package, release = _current_package()
    # As root, apt would download as a user of its own, who may not write here.
    as_root = ["-o", "APT::Sandbox::User=root"]
    run_tool(["apt-get", "-qq", *as_root, "download", package, BUSYBOX_PACKAGE], cwd=target)
    return release


def _fetch(cache: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as name:
        scratch = Path(name)
        try:
            release = _download(scratch)
        except LaneError:
            # Package lists that are missing, or so old that the version they name is gone from the archive.
            run_tool(["apt-get", "-qq", "update"])
            for leftover in scratch.iterdir():
                leftover.unlink()
            release = _download(scratch)
        unpacked = scratch / f"linux-{release}"
        unpacked.mkdir()
        for package in scratch.glob("*.deb"):
            _unpack(package, unpacked)
        for merged in ("bin", "lib"):  # newer packages have everything under /usr
            if not (unpacked / merged).exists():
                (unpacked / merged).symlink_to(f"usr/{merged}")
        run_tool(["depmod", "-b", str(unpacked), release])
        kernel = _describe(unpacked)
        for file in (kernel.image, kernel.modules / "modules.dep", kernel.busybox):
            if not file.is_file():
                raise LaneError(f"Debian's packages for Linux {release} have no {file.relative_to(unpacked)}")
        final = cache / unpacked.name
        shutil.rmtree(final, ignore_errors=True)
        return unpacked.rename(final)


def _unpack(package: Path, target: Path) -> None:
    archive = target.parent / "data.tar"
    with archive.open("wb") as out:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=out, check=True)
    left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    run_tool(
        ["tar", "--extract", "--file", str(archive), "--directory", str(target), "--no-same-owner", *left_out]
    )
