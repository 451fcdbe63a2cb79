# SPDX-License-Identifier: GPL-2.0-or-later
"""What the real ``uci`` program says about texts, for tests that compare with it."""

import re
import shutil
import subprocess
from pathlib import Path

UCI = shutil.which("uci")
_SEPARATOR = "--- separator ---"
_ERROR = re.compile(r"uci: Parse error \((.*)\) at line (\d+), byte (\d+)\s*")


class Verdict:
    """Of one text: what ``uci export`` prints, without and with names, or the error."""

    def __init__(self, export: str = "", named: str = "", error: tuple[str, int, int] | None = None) -> None:
        self.export = export
        self.named = named
        self.error = error


def ask(texts: list[str], directory: Path) -> list[Verdict]:
    """Verdicts of the installed ``uci`` on ``texts``; ``directory`` is an empty one to work in."""
    (directory / "config").mkdir()
    (directory / "none").mkdir()
    for number, text in enumerate(texts):
        (directory / "config" / f"t{number}").write_bytes(text.encode("utf-8", "surrogateescape"))
    (directory / "config" / "sep").write_text(f"config s s\noption v '{_SEPARATOR}'\n")
    batch = "".join(f"export t{number}\nget sep.s.v\n" for number in range(len(texts)))
    exports, names = (_run(directory, [flag, "batch"], batch).stdout for flag in ("-N", "-n"))
    verdicts = []
    for number, (export, named) in enumerate(zip(_split(exports), _split(names), strict=True)):
        if export:
            first = f"package t{number}\n"
            verdicts.append(Verdict(export.removeprefix(first), named.removeprefix(first)))
        else:
            verdicts.append(Verdict(error=_error(directory, f"t{number}")))
    assert len(verdicts) == len(texts)
    return verdicts


def _split(output: str) -> list[str]:
    return output.split(_SEPARATOR + "\n")[:-1]


def _error(directory: Path, name: str) -> tuple[str, int, int]:
    stderr = _run(directory, ["export", name], "").stderr
    match = _ERROR.fullmatch(stderr.replace(str(UCI), "uci"))
    assert match, stderr
    return match[1], int(match[2]), int(match[3])


def _run(directory: Path, arguments: list[str], stdin: str) -> subprocess.CompletedProcess[str]:
    none = str(directory / "none")
    command = [str(UCI), "-c", str(directory / "config"), "-C", none, "-t", none, *arguments]
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
        encoding="utf-8",
        errors="surrogateescape",
    )
