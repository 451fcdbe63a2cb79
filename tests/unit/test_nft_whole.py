# SPDX-License-Identifier: GPL-2.0-or-later
"""``nft`` gets a transaction as a whole: half of one could be understood, and would open what is blocked."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import spind
from spind.block_nftables import _nft

STAND_IN = """\
#!{python}
import pathlib, re, sys, time
here = pathlib.Path({here!r})
(here / "started").touch()
deadline = time.monotonic() + 60
while not (here / "go").exists() and time.monotonic() < deadline:
    time.sleep(0.005)
text = sys.stdin.read()
found = re.fullmatch('include "(.+)"\\n', text)
if found:
    text = pathlib.Path(found[1]).read_text()
(here / "read.new").write_text(text)
(here / "read.new").rename(here / "read")
"""
"""In the place of ``nft``: waits, and keeps what it reads."""

TEXT = "".join(f"add table inet probe{number}\n" for number in range(10_000))

CALLER = f"""\
from spind.block_nftables import _nft
_nft("".join(f"add table inet probe{{number}}\\n" for number in range({10_000})))
"""


def until(good: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not good():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stand_in(folder: Path) -> dict[str, str]:
    program = folder / "nft"
    program.write_text(STAND_IN.format(python=sys.executable, here=str(folder)))
    program.chmod(0o755)
    package = str(Path(spind.__file__).parent.parent)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": package}


def test_a_caller_that_is_killed_has_given_all_or_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CALLER], env=stand_in(tmp_path)) as caller:
        until((tmp_path / "started").exists)
        caller.send_signal(signal.SIGKILL)
    (tmp_path / "go").touch()
    until((tmp_path / "read").exists)
    assert (tmp_path / "read").read_text() in (TEXT, "")


def test_a_caller_that_lives_gives_all(tmp_path: Path) -> None:
    environment = stand_in(tmp_path)
    (tmp_path / "go").touch()
    subprocess.run([sys.executable, "-c", CALLER], env=environment, check=True)
    assert (tmp_path / "read").read_text() == TEXT
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    old, os.environ["PATH"] = os.environ["PATH"], environment["PATH"]
    try:
        _nft(TEXT)
    finally:
        os.environ["PATH"] = old
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
