# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: which rows, how thoroughly, and where the results go."""

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import machine, table
from bench.bed import Bed
from bench.figures import Figure
from bench.rows import Row, Settings, UnknownRowError, catalogue, choose
from spind import __version__
from spind.lab import LabError

QUICK = Settings(pairs=1, seconds=2.0, quick=True)


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    rows = "\n".join(f"  {row.name:16} {row.what}" for row in catalogue())
    made = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures what spind costs and whether it counts right, in a home of network namespaces.",
        epilog=f"rows:\n{rows}\n\nSee bench/README.md. Close other programs: they spoil latencies.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="one short run each, to see that it works")
    made.add_argument("--rows", default="", metavar="NAME[,NAME]", help="only these (cpu: all cpu-…)")
    made.add_argument("--seconds", type=float, metavar="N", help="length of each window (10; with --quick 2)")
    made.add_argument("--pairs", type=int, metavar="N", help="repetitions of each row (5; with --quick 1)")
    made.add_argument(
        "--patience", type=float, default=0, metavar="N", help="wait up to N seconds for a quiet machine"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    made.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    made.add_argument("--list", action="store_true", help="list the rows and do nothing")
    return made


def settings_of(arguments: argparse.Namespace) -> Settings:
    """What the arguments say; ``ValueError`` with a sentence where they cannot be."""
    base = QUICK if arguments.quick else Settings()
    pairs = base.pairs if arguments.pairs is None else arguments.pairs
    seconds = base.seconds if arguments.seconds is None else arguments.seconds
    if not 1 <= pairs <= 100:
        raise ValueError(f"--pairs is 1 to 100, not {pairs}")
    if not 1 <= seconds <= 300:
        raise ValueError(f"--seconds is 1 to 300, not {seconds:g}")
    if not 0 <= arguments.patience <= 3600:
        raise ValueError(f"--patience is 0 to 3600, not {arguments.patience:g}")
    return Settings(pairs, seconds, arguments.quick, arguments.patience, progress)


def progress(text: str) -> None:
    """One line on standard error, so that the table on standard output stays clean."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(words: list[str] | None = None) -> int:
    """Run; the exit status is 1 where a row could not be measured, whatever the numbers are."""
    arguments = parser().parse_args(words)
    try:
        settings = settings_of(arguments)
        rows = choose(arguments.rows, catalogue())
    except (ValueError, UnknownRowError) as error:
        progress(f"bench: {error}")
        return 2
    if arguments.list:
        print("\n".join(row.name for row in rows))
        return 0
    if os.geteuid() != 0:
        progress("bench: it makes network namespaces and needs root: use sudo")
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    run = Run(settings)
    try:
        run.measure(rows)
    except KeyboardInterrupt:
        run.troubles.append("the rest: interrupted")
    order = [row.name for row in rows]
    run.figures.sort(key=lambda figure: order.index(figure.row))
    render = table.markdown if arguments.markdown else table.plain
    print(render(run.figures))
    print(f"\n{table.closing(run.figures)}")
    print(machine.describe().text())
    for trouble in run.troubles:
        print(f"not measured: {trouble}")
    if any(share > machine.QUIET for share in run.busy.values()):
        print("the machine was busy with other things: do not trust latencies and ratios (see --json)")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(run.record(), indent=1) + "\n")
    return 1 if run.troubles else 0


def _interrupt(*_: object) -> None:
    """SIGTERM ends the run as Ctrl-C does: the lab is taken down, and what is measured is shown."""
    raise KeyboardInterrupt


@dataclass
class Run:
    """The figures so far, what could not be measured, and how busy others kept the machine, by row."""

    settings: Settings
    figures: list[Figure] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=dict)

    def measure(self, rows: list[Row]) -> None:
        """All of ``rows``, those that share a home together."""
        for devices in sorted({row.devices for row in rows}):
            self.settings.say(f"building a home of {devices} devices")
            with Bed(devices) as bed:
                for row in (one for one in rows if one.devices == devices):
                    self._measure(row, bed)

    def _measure(self, row: Row, bed: Bed) -> None:
        say = self.settings.say
        share = machine.wait_until_quiet(self.settings.patience)
        say(f"{row.name}: {row.what} (others use {share:.0%} of the machine)")
        started = time.monotonic()
        try:
            found = row.measure(bed, self.settings)
        except (LabError, OSError, RuntimeError) as error:
            self.troubles.append(f"{row.name}: {error}")
            say(f"  not measured: {error}")
            return
        spent = time.monotonic() - started
        self.busy[row.name] = max(share, machine.others())
        for figure in found:
            say(f"  {figure.what}: {figure.text()} {figure.verdict}".rstrip())
        say(f"  in {spent:.0f} s, with others using up to {self.busy[row.name]:.0%} before and after")
        self.figures += found

    def record(self) -> dict[str, Any]:
        """All of it as plain data."""
        told = {key: value for key, value in asdict(self.settings).items() if key != "say"}
        return {
            "spind": __version__,
            "time": int(time.time()),
            "machine": machine.describe().as_json(),
            "settings": told,
            "others_share": self.busy,
            "not_measured": self.troubles,
            "figures": [figure.as_json() for figure in self.figures],
        }
