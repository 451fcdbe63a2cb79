# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's own code that needs no browser, by the tests beside it, where there is a node."""

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).with_name("page")
NODE = shutil.which("node")


def has_test_runner() -> bool:
    """Since 20.19 node sees by itself that a file is a module, as browsers are told."""
    if NODE is None:
        return False
    version = subprocess.run(
        [NODE, "--version"], capture_output=True, text=True, check=False, timeout=20
    ).stdout
    numbers = version.strip().removeprefix("v").split(".")
    return tuple(map(int, numbers[:2])) >= (20, 19) if numbers[0].isdigit() else False


@pytest.mark.skipif(not has_test_runner(), reason="needs node 20.19 or later")
@pytest.mark.parametrize("path", sorted(TESTS.glob("*.test.mjs")), ids=lambda path: path.name.split(".")[0])
def test_page(path):
    assert NODE is not None
    run = subprocess.run([NODE, "--test", str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_there_are_tests():
    assert len(list(TESTS.glob("*.test.mjs"))) >= 4
