# SPDX-License-Identifier: GPL-2.0-or-later
"""What the machine is, and how busy others keep it: a busy machine spoils latencies."""

import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

QUIET = 0.10
"""Share of all cores that others may use before numbers are doubtful."""


@dataclass(frozen=True)
class Machine:
    """What belongs beside every table of results."""

    cores: int
    processor: str
    memory_mb: int
    kernel: str
    python: str
    buckets: int

    def text(self) -> str:
        """One line."""
        return (
            f"{self.cores} cores ({self.processor}), {self.memory_mb:,} MB,"
            f" Linux {self.kernel}, Python {self.python}, {self.buckets:,} conntrack buckets"
        )

    def as_json(self) -> dict[str, int | str]:
        """Plain data."""
        return asdict(self)


def describe() -> Machine:
    """This machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        len(os.sched_getaffinity(0)),
        processor_name(Path("/proc/cpuinfo").read_text()),
        memory // 1_000_000,
        platform.release(),
        platform.python_version(),
        conntrack_buckets(),
    )


def conntrack_buckets() -> int:
    """Size of the kernel's hash table of connections, which every dump walks; 0 where it is not told.

    It is one for all namespaces, and made for the machine's memory: 262,144 beyond 4 GB, 16,384 or
    less on a router.
    """
    try:
        return int(Path("/proc/sys/net/netfilter/nf_conntrack_buckets").read_text())
    except (OSError, ValueError):
        return 0


def processor_name(cpuinfo: str) -> str:
    """The processor's name out of ``/proc/cpuinfo``; its architecture where there is none."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "cpu model"}:
            return value.strip()
    return platform.machine()


def busy_share(before: str, after: str) -> float:
    """Share of the time between two readings of ``/proc/stat`` in which cores were not idle.

    proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; idle and iowait are idle,
    and what the hypervisor took away (steal) counts as busy, since it was not ours.
    """
    old, new = (list(map(int, text.split("\n", 1)[0].split()[1:9])) for text in (before, after))
    spent = [b - a for a, b in zip(old, new, strict=True)]
    total = sum(spent)
    return (total - spent[3] - spent[4]) / total if total else 0.0


def wait_until_quiet(patience: float) -> float:
    """Wait up to ``patience`` seconds for others to leave the machine alone; what they use then."""
    deadline = time.monotonic() + patience
    while (share := others()) > QUIET and time.monotonic() < deadline:
        time.sleep(1)
    return share


def others(seconds: float = 1.0) -> float:
    """Share of all cores that is in use while we do nothing for ``seconds``."""
    before = Path("/proc/stat").read_text()
    time.sleep(seconds)
    return busy_share(before, Path("/proc/stat").read_text())
