# SPDX-License-Identifier: GPL-2.0-or-later
"""What the home notices when the daemon is stuck or dead: nothing."""

import os
import re
import signal
import time
from threading import Timer

from bench.bed import Bed, Running
from bench.figures import Figure, at_least, exactly, medians, ratios
from bench.rows import Row, Settings
from bench.rows_truth import Ledger
from spind.lab import load

DEVICE = "phone"
RATE = 500
_HELD = 20
_SYN_BYTES = 60  # IPv4, with the options that Linux sends
_REST = 4.0  # seconds from the load's start to the blow, and from the recovery to the load's end

Fate = tuple[load.Churn, dict[str, int]]
"""How new connections fared, and the exchanges on those that were open."""


def _load(bed: Bed, seconds: float) -> Fate:
    """New connections all the time, beside some that are open and talk; how both fared."""
    held = {"targets": [load.target(4)] * _HELD, "beat": 0.2}
    with (
        bed.program(bed.lab.internet, "server"),
        bed.program(bed.lab.device("tv"), "hold", **held) as (program, _),
    ):
        result = load.churn(bed.lab, DEVICE, rate=RATE, seconds=seconds)
        beats = program.end()[-1]
    return result, beats


def _figures(row: str, what: str, results: list[tuple[Fate, Fate]]) -> list[Figure]:
    pairs = [(float(none[0].completed), float(some[0].completed)) for none, some in results]
    before, after = medians(pairs)
    beats = [some[1] for _, some in results]
    sent, answered = sum(one["sent"] for one in beats), sum(one["answered"] for one in beats)
    failed = sum(some[0].failed + some[0].skipped for _, some in results)
    return [
        Figure(
            row,
            f"{what}: new connections, ratio to none",
            ratios(pairs),
            target=at_least(0.95),
            digits=3,
            note=f"{before:,.0f} → {after:,.0f} at {RATE}/s, {failed:,} failed",
            data={"runs": [[vars(one[0]) for one in both] for both in results]},
        ),
        Figure(
            row,
            f"{what}: exchanges on open connections",
            (100 * answered / sent if sent else 0.0,),
            "%",
            at_least(95),
            2,
            f"{answered:,} of {sent:,}",
        ),
    ]


def refused(bed: Bed) -> int:
    """Packets that conntrack has dropped so far because their connection was there already.

    That is what becomes of a SYN which waited in the queue of a stopped daemon until its
    repetition had passed. The lab's rules have counted it by then, as conntrack never does.
    """
    text = bed.lab.gateway.run(["conntrack", "-S"]).stdout
    return sum(map(int, re.findall(r"insert_failed=(\d+)", text)))


def stopped(bed: Bed, settings: Settings) -> list[Figure]:
    """SIGSTOP for 30 seconds under load, then SIGCONT, then the counts."""
    still = 6.0 if settings.quick else 30.0
    counts = []

    def run(running: Running | None) -> Fate:
        if running is None:
            return _load(bed, still + 2 * _REST)
        ledger, late = Ledger.open(bed, running), refused(bed)
        timers = [
            Timer(_REST, os.kill, (running.pid, signal.SIGSTOP)),
            Timer(_REST + still, os.kill, (running.pid, signal.SIGCONT)),
        ]
        for timer in timers:
            timer.start()
        result = _load(bed, still + 2 * _REST)
        for timer in timers:
            timer.join()
        counts.append(ledger.settle((4,), 20, lambda: _SYN_BYTES * (refused(bed) - late))[4])
        return result

    results = bed.alternate(1 if settings.quick else 2, run)
    off, size = sum(one.off for one in counts), sum(one.kernel for one in counts)
    return [
        *_figures("stopped", f"stopped for {still:.0f} s", results),
        Figure(
            "stopped",
            "bytes accounted after it went on",
            tuple(one.percent for one in counts),
            "%",
            exactly(100),
            4,
            f"{off:,} of {size:,} bytes off",
        ),
    ]


def killed(bed: Bed, settings: Settings) -> list[Figure]:
    """SIGKILL under load; its rules stay behind and have to let everything pass."""
    after = 4.0 if settings.quick else 10.0

    def run(running: Running | None) -> Fate:
        if running is None:
            return _load(bed, after + _REST)
        timer = Timer(_REST, running.spind.stop, (signal.SIGKILL,))
        timer.start()
        result = _load(bed, after + _REST)
        timer.join()
        return result

    results = bed.alternate(1 if settings.quick else 2, run)
    started = time.monotonic()
    with bed.daemon():
        again = time.monotonic() - started
    return [
        *_figures("killed", "killed with SIGKILL", results),
        Figure("killed", "ready again after that", (again,), "s", note="leftovers cleaned"),
    ]


ROWS = [
    Row("stopped", "SIGSTOP under load: connections go on, counts are right afterwards", stopped),
    Row("killed", "kill -9 under load: connections go on", killed),
]
