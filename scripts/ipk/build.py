# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds the ipk packages without OpenWrt's SDK. Run by ``scripts/build-ipk``, with the routers' Python.

Owns the command line, and where the version and the time come from.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import archive
import control
import tree


class BuildError(Exception):
    """The packages cannot be built; the text says what to do."""


def version() -> str:
    """The version of spind, read without running it."""
    text = (tree.CHECKOUT / "spind" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise BuildError("spind/__init__.py says no version")
    return found[1]


def epoch() -> int:
    """Unix time of all files: SOURCE_DATE_EPOCH, else that of the last commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is not None:
        if not given.isdecimal():
            raise BuildError(f"SOURCE_DATE_EPOCH is {given!r}: a number of seconds is wanted")
        return int(given)
    command = ["git", "-C", str(tree.CHECKOUT), "log", "-1", "--format=%ct"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        raise BuildError("this is no git checkout: set SOURCE_DATE_EPOCH to the package's time") from None


def build(output: Path) -> list[Path]:
    """Write the packages into the folder; their paths."""
    seconds, name = epoch(), version()
    with tempfile.TemporaryDirectory(prefix="spind-ipk-") as folder:
        root = Path(folder)
        tree.lay_out(root)
        data = archive.tar(archive.entries_of(root), seconds)
    output.mkdir(parents=True, exist_ok=True)
    built = []
    for variant in control.VARIANTS:
        files = control.control_files(variant, name, tree.python_version(), len(data), seconds)
        path = output / f"{variant.name}_{control.package_version(name)}_all.ipk"
        path.write_bytes(archive.ipk(data, files, seconds))
        built.append(path)
    return built


def main() -> int:
    """The command; 1 where the packages cannot be built."""
    parser = argparse.ArgumentParser(
        prog="scripts/build-ipk", description="Build the packages for OpenWrt that hold spind."
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=tree.CHECKOUT / "dist", help="default: dist"
    )
    output: Path = parser.parse_args().output.absolute()
    if tree.needs_restart():
        return tree.restart()
    try:
        built = build(output)
    except BuildError as error:
        sys.stderr.write(f"build-ipk: {error}\n")
        return 1
    for path in built:
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
