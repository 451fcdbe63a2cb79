# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark reads from /proc: how busy the machine is, what a process used."""

import os

import pytest

from bench import machine, process

CPU_BEFORE = "cpu  100 10 50 1000 40 5 5 0 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"


@pytest.mark.parametrize(
    ("after", "share"),
    [
        ("cpu  100 10 50 1100 40 5 5 0 0 0\n", 0.0),
        ("cpu  100 10 50 1050 90 5 5 0 0 0\n", 0.0),
        ("cpu  150 10 50 1050 40 5 5 0 0 0\n", 0.5),
        ("cpu  110 20 60 1050 40 10 10 10 0 0\n", 0.5),
        (CPU_BEFORE, 0.0),
    ],
)
def test_busy_is_what_is_neither_idle_nor_waiting(after, share):
    assert machine.busy_share(CPU_BEFORE, after) == pytest.approx(share)


def test_the_processor_is_named():
    assert machine.processor_name("processor\t: 0\nmodel name\t: Some CPU: v2\n") == "Some CPU: v2"
    assert machine.processor_name("") == os.uname().machine
    assert machine.describe().text().startswith(f"{machine.describe().cores} cores")


def test_cpu_time_of_a_process_grows_with_its_work():
    before = process.cpu_ns(os.getpid())
    # Until the scheduler has accounted for something: ends, since each round takes some time.
    while process.cpu_ns(os.getpid()) <= before:
        sum(range(10_000))
    with pytest.raises(OSError, match="2"):
        process.cpu_ns(2**22 + 1)


def test_cpu_time_in_ticks_where_the_kernel_has_no_better():
    stat = "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 9 9 20 0 1 0 100 1000 10"
    assert process.stat_ns(stat) == 300 * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def test_memory_is_in_megabytes_of_a_million_bytes():
    status = "Name:\tx\nVmHWM:\t   20000 kB\nVmRSS:\t   10000 kB\nRssAnon:\t    5000 kB\nVmPTE:\t1 kB\n"
    assert process.parse_memory(status) == (10.24, 5.12, 20.48)
    assert process.parse_memory("") == (0, 0, 0)
    assert process.memory(os.getpid()).resident > 1
