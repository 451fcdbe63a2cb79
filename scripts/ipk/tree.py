# SPDX-License-Identifier: GPL-2.0-or-later
"""Lays out what the OpenWrt package installs, in an empty folder. Run by the Python that the router has.

Owns the list of files with their modes, what of spind stays away, how byte-code is made and kept. Both ways
to the package use it: OpenWrt's SDK (``openwrt/spind/Makefile``) and ``scripts/build-ipk``. Of what surrounds
the files, control fields and archives, it must not know.

Byte-code only, as in OpenWrt's feed: a router's Python does not write any, so sources would be compiled at
every start. Without docstrings and column numbers (``-OO``, ``-X no_debug_ranges``), which are a fifth of
its size; spind has no ``assert`` that would be lost. Legacy names (``daemon.pyc``), which Python takes
without a source. All of it, and the page, in one zip archive, which Python imports from: a third of the size
of the files (``docs/decisions/0010-openwrt-package.md``).
"""

import argparse
import importlib.util
import marshal
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent.parent
FILES = CHECKOUT / "openwrt" / "files"

LEFT_OUT = (
    "lab",
    "capfile.py",
    "replay.py",
    "replay_home.py",
    "replay_report.py",
    "replay_routers.py",
    "replay_run.py",
    "replay_web.py",
    "tracker.py",
    "wire/dhcp.py",
    "wire/link.py",
)
"""Parts of spind that work on capture files or make the lab: nothing that a router runs."""


ARCHIVE = "spind.zip"
PATH_FILE = "spind.pth"
"""In ``site-packages``; the second has Python look into the first (documentation of its module ``site``)."""

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every member: the earliest that a zip archive can say."""


class Item(NamedTuple):
    """One file: where it goes, where it comes from below ``openwrt/files``, its mode."""

    path: str
    source: str
    mode: int


ITEMS = (
    Item("etc/capabilities/spind.json", "spind.capabilities.json", 0o644),
    Item("etc/config/spin", "spin.uci", 0o600),
    Item("etc/init.d/spin", "spind.init", 0o755),
    Item("etc/sysctl.d/12-spind.conf", "spind.sysctl", 0o644),
    Item("etc/uci-defaults/90-spind", "spind.defaults", 0o644),
    Item("lib/upgrade/keep.d/spind", "spind.keep", 0o644),
    Item("usr/bin/spind", "spind.launcher", 0o755),
    Item("usr/libexec/spin-purge", "spin-purge", 0o755),
    Item("usr/share/acl.d/spin.json", "ubusd-acl.json", 0o644),
    Item("usr/share/rpcd/acl.d/spin.json", "rpcd-acl.json", 0o644),
)


def python_version() -> str:
    """Of the Python that runs this, and so of the router's: such as ``3.11``."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def site_packages() -> str:
    """Where the router's Python finds modules, from the root."""
    return f"usr/lib/python{python_version()}/site-packages"


def shipped() -> Iterator[Path]:
    """The files of spind that go to a router, below its folder, sorted."""
    package = CHECKOUT / "spind"
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package)
        if "__pycache__" in name.parts or not path.is_file():
            continue
        if not any(str(name) == left or str(name).startswith(f"{left}/") for left in LEFT_OUT):
            yield name


def lay_out(root: Path) -> None:
    """Fill the folder, which has to be there. Contents and modes depend on nothing but the checkout and the
    version of Python."""
    for item in ITEMS:
        target = root / item.path
        target.parent.mkdir(0o755, parents=True, exist_ok=True)
        shutil.copyfile(FILES / item.source, target)
        target.chmod(item.mode)
    folder = root / site_packages()
    folder.mkdir(0o755, parents=True)
    write_archive(folder / ARCHIVE)
    (folder / PATH_FILE).write_text(f"{ARCHIVE}\n")
    for name in (ARCHIVE, PATH_FILE):
        (folder / name).chmod(0o644)
    for path in root.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)


def write_archive(target: Path) -> None:
    """All that is shipped of spind as a zip archive: byte-code of modules, other files as they are."""
    with zipfile.ZipFile(target, "w") as archive:
        for name in shipped():
            source = CHECKOUT / "spind" / name
            member = f"spind/{name}"
            data = source.read_bytes()
            if name.suffix == ".py":
                data = compiled(source, f"/{site_packages()}/{ARCHIVE}/{member}")
                member += "c"
            info = zipfile.ZipInfo(member, _ZIP_TIME)
            info.create_system = 3  # Unix, so that the mode counts
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED, compresslevel=9)


def compiled(source: Path, called: str) -> bytes:
    """The module as a ``.pyc`` (PEP 552, unchecked) that calls itself by the name it has on the router."""
    data = source.read_bytes()
    code = compile(data, called, "exec", dont_inherit=True, optimize=2)
    flags = (0b01).to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(data) + marshal.dumps(code)


def main() -> int:
    """Lay out below the folder given on the command line, made if need be."""
    parser = argparse.ArgumentParser(description="Lay out the files of the OpenWrt package in a folder.")
    parser.add_argument("root", type=Path)
    root: Path = parser.parse_args().root
    if needs_restart():
        return restart()
    root.mkdir(parents=True, exist_ok=True)
    lay_out(root)
    return 0


def needs_restart() -> bool:
    """Whether this Python was started so that its byte-code would come out otherwise another time.

    The order of a frozenset in byte-code depends on the seed of hashes; which strings it shares depends on
    what has been imported, so no ``site`` either; and column numbers are left out only by an interpreter that
    was told so at its start.
    """
    settled = sys.flags.no_site and not sys.flags.hash_randomization
    return not settled or "no_debug_ranges" not in sys._xoptions  # noqa: SLF001


def restart() -> int:
    """Run this very command once more, as ``needs_restart`` wants it; the exit status."""
    command = [sys.executable, "-S", "-s", "-X", "no_debug_ranges", *sys.argv]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = kept | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
