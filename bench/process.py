# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process used of a core and of memory, as the kernel has it.

Also a program that a router can run: ``python3 -m bench.process PID SECONDS``.
"""

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Memory(NamedTuple):
    """Megabytes (10^6 bytes) of a process: resident, of that its own (not from files), and the peak."""

    resident: float
    own: float
    peak: float


def cpu_ns(pid: int) -> int:
    """Nanoseconds that all threads of ``pid`` have run, user and system.

    From the scheduler's own account (``/proc/<pid>/task/*/schedstat``), which is exact; where the
    kernel has none, from ``/proc/<pid>/stat``, in ticks of 10 ms. Threads that have ended are in
    the second only. ``OSError`` where there is no such process.
    """
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except FileNotFoundError:
        return stat_ns(Path(f"/proc/{pid}/stat").read_text())
    return total


def stat_ns(stat: str) -> int:
    """User and system time in ``/proc/<pid>/stat``, fields 14 and 15 (proc_pid_stat(5))."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_NS


def memory(pid: int) -> Memory:
    """Memory of ``pid``."""
    return parse_memory(Path(f"/proc/{pid}/status").read_text())


def parse_memory(status: str) -> Memory:
    """Memory out of ``/proc/<pid>/status`` (kB there are 1,024 bytes)."""
    values = dict(line.partition(":")[::2] for line in status.splitlines())
    resident, own, peak = (
        int(values.get(key, "0").split()[0]) * 1024 / 1e6 for key in ("VmRSS", "RssAnon", "VmHWM")
    )
    return Memory(resident, own, peak)


class CpuMeter:
    """CPU of ``pid`` since this was made, in percent of one core."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu = cpu_ns(pid)
        self._clock = time.monotonic_ns()

    def percent(self) -> float:
        """Until now."""
        used = cpu_ns(self._pid) - self._cpu
        return 100 * used / (time.monotonic_ns() - self._clock)


def main() -> None:
    """``PID SECONDS``: prints one line."""
    pid, seconds = int(sys.argv[1]), float(sys.argv[2])
    meter = CpuMeter(pid)
    time.sleep(seconds)
    used = memory(pid)
    print(f"{meter.percent():.2f} % of one core, {used.resident:.1f} MB resident, {used.peak:.1f} MB at most")


if __name__ == "__main__":
    main()
