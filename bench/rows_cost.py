# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon itself uses: processor, memory, and the time for which its loop is not there."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Thread
from typing import Any

from bench.bed import Bed
from bench.figures import Figure, at_most
from bench.process import CpuMeter, memory
from bench.rows import Row, Settings
from spind.lab import load, plan, wait_until

DEVICE = "phone"
_UDP_ECHO = 7


def _percent(
    bed: Bed, settings: Settings, row: str, what: str, limit: float | None, generate: Callable[[float], Any]
) -> Figure:
    """CPU while ``generate`` makes load for so many seconds, each time with a fresh daemon."""
    samples, results = [], []
    for _ in range(settings.pairs):
        with bed.daemon() as running:
            meter = CpuMeter(running.pid)
            results.append(generate(settings.seconds))
            samples.append(meter.percent())
    target = None if limit is None else at_most(limit)
    return Figure(row, what, tuple(samples), "%", target, 1, data={"loads": [str(r) for r in results]})


def cpu_dns(bed: Bed, settings: Settings) -> list[Figure]:
    """200 queries a second from a few ports, as a busy resolver in the home; then a port for each."""

    def few(seconds: float) -> Any:
        return load.dns(bed.lab, DEVICE, rate=200, seconds=seconds, server=plan.DNS4)

    def own(seconds: float) -> Any:
        query: dict[str, Any] = {"server": plan.DNS4, "zone": "wild.test"}
        return bed.run(bed.lab.device(DEVICE), "queries", rate=200, seconds=seconds, **query)

    what = "CPU at 200 DNS queries/s"
    return [
        _percent(bed, settings, "cpu-dns", what, 8, few),
        _percent(bed, settings, "cpu-dns", f"{what}, each from a port of its own", None, own),
    ]


def cpu_connections(bed: Bed, settings: Settings) -> list[Figure]:
    """200 short connections a second: handshake, request, reply, end."""

    def generate(seconds: float) -> Any:
        return load.churn(bed.lab, DEVICE, rate=200, seconds=seconds)

    return [_percent(bed, settings, "cpu-connections", "CPU at 200 new connections/s", 6, generate)]


def cpu_idle(bed: Bed, settings: Settings) -> list[Figure]:
    """100 connections that are open and silent."""
    with (
        bed.daemon() as running,
        bed.program(bed.lab.internet, "server"),
        bed.program(bed.lab.device(DEVICE), "hold", targets=[load.target(4)] * 100) as (_, opened),
    ):
        running.cpu(3)  # what opening them costs is over
        samples = tuple(running.cpu(settings.seconds) for _ in range(settings.pairs))
    note = f"{opened['open']} open"
    return [Figure("cpu-idle", "CPU idle, 100 open connections", samples, "%", at_most(0.5), 2, note)]


# -- memory ------------------------------------------------------------------------------------

SITES = 2000
CONNECTIONS = 5000


def many_sites(bed: Bed, count: int) -> list[str]:
    """Give ``count`` sites to the internet, each with a name and an IPv4 address of its own."""
    names = [f"www.site{number}.test" for number in range(count)]
    lines = [f"{site_address(number)} {name}\n" for number, name in enumerate(names)]
    (bed.lab.hosts_dir / "many-sites").write_text("".join(lines))
    # The name server reads all files again, and has read them once it knows this one.
    bed.lab.set_name("last.site.test", [plan.server4(99)])
    return names


def site_address(number: int) -> str:
    """IPv4 address of site ``number``, in the part of the lab's range that nothing else uses."""
    return f"198.19.{number // 250}.{number % 250 + 1}"


def resident(bed: Bed, settings: Settings) -> list[Figure]:
    """30 devices look up 2,000 sites and hold 5,000 connections to them."""
    names = many_sites(bed, SITES)
    devices = list(bed.lab.devices.values())
    with ExitStack() as stack:
        running = stack.enter_context(bed.daemon())
        start = memory(running.pid)
        stack.enter_context(bed.program(bed.lab.internet, "server"))
        opened = 0
        for number, device in enumerate(devices):
            targets = [
                names[index % SITES] for index in range(CONNECTIONS) if index % len(devices) == number
            ]
            arguments = {"targets": targets, "dns": plan.DNS4, "rate": 1000}
            opened += stack.enter_context(bed.program(device, "hold", **arguments))[1]["open"]
            if number % 10 == 9:
                settings.say(f"  {opened:,} connections")
        running.cpu(5)
        wait_until(lambda: running.statistics()["conntrack.entries"] >= opened, 15, "the next dump")
        used, counts = memory(running.pid), running.statistics()
    note = (
        f"{counts['engine.devices']} devices, {counts['engine.sites']:,} sites, {opened:,} connections;"
        f" own {used.own:.1f} MB, peak {used.peak:.1f} MB"
    )
    return [
        Figure(
            "memory", "resident memory at the start", (start.resident,), "MB", note=f"own {start.own:.1f} MB"
        ),
        Figure(
            "memory",
            "resident memory, 30 devices / 2,000 sites / 5,000 connections",
            (used.resident,),
            "MB",
            at_most(45),
            1,
            note,
            {"statistics": counts},
        ),
    ]


# -- big tables --------------------------------------------------------------------------------


@contextmanager
def datagrams(bed: Bed, entries: int, again: float, addresses: int, base: int) -> Iterator[int]:
    """``entries`` UDP connections of all devices together to ``addresses`` addresses each.

    ``again`` is the rate of all devices together at which they then go on. How many were answered.
    """
    devices = list(bed.lab.devices.values())
    share = entries // len(devices)
    with ExitStack() as stack:
        stack.enter_context(bed.lasting_datagrams())
        ready: list[dict[str, Any]] = []

        def begin(number: int) -> None:
            first = base + number * addresses
            targets = [site_address(first + index) for index in range(addresses)]
            arguments = {
                "addresses": targets,
                "ports": share // addresses,
                "port": _UDP_ECHO,
                "rate": 600,
                "again": again / len(devices),
            }
            program = bed.program(devices[number], "spread", **arguments)
            ready.append(stack.enter_context(program)[1])

        threads = [Thread(target=begin, args=(number,)) for number in range(len(devices))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        yield sum(one["answered"] for one in ready)


def table(entries: int, limit: float, bed: Bed, settings: Settings) -> list[Figure]:
    """A table of so many connections that are there and silent."""
    with bed.daemon() as running, datagrams(bed, entries, 0, 50, 0) as answered:
        filling = running.statistics()["loop.longest-stall-us"] / 1000
        running.cpu(3)
        # Dumps of big tables are several seconds apart: windows must hold more than one.
        cpu = tuple(running.cpu(2 * settings.seconds) for _ in range(settings.pairs))
        stall = tuple(running.longest_stall(2 * settings.seconds) for _ in range(settings.pairs))
        counts = running.statistics()
        used = memory(running.pid)
    row, name = f"table-{entries}", f"{entries:,} conntrack entries"
    there = counts["conntrack.entries"]
    data = {"statistics": counts, "answered": answered}
    return [
        Figure(row, f"{name}: CPU", cpu, "%", at_most(limit), 1, f"{there:,} entries", data),
        Figure(
            row,
            f"{name}: longest loop stall",
            stall,
            "ms",
            at_most(5),
            1,
            f"{filling:.1f} ms while they came; {used.resident:.1f} MB",
        ),
    ]


def remotes(bed: Bed, settings: Settings) -> list[Figure]:
    """2,000 remote addresses, with a datagram to and from each of them every ten seconds."""
    count = 2000
    share = count // len(bed.lab.devices)
    with bed.daemon() as running, datagrams(bed, count, count / 10, share, 1000) as answered:
        running.cpu(3)
        cpu = tuple(running.cpu(settings.seconds) for _ in range(settings.pairs))
        counts = running.statistics()
    note = f"{counts['engine.sites']:,} sites, 200 datagrams a second"
    data = {"statistics": counts, "answered": answered}
    return [Figure("remotes", "2,000 remote addresses: CPU", cpu, "%", at_most(5), 1, note, data)]


ROWS = [
    Row("cpu-dns", "CPU of the daemon at 200 DNS queries a second", cpu_dns),
    Row("cpu-connections", "CPU of the daemon at 200 new connections a second", cpu_connections),
    Row("cpu-idle", "CPU of the daemon with 100 open connections that are silent", cpu_idle),
    Row("memory", "resident memory, 30 devices, 2,000 sites, 5,000 connections", resident, devices=30),
    Row("table-5000", "5,000 conntrack entries: CPU, longest loop stall", partial(table, 5000, 5)),
    Row("table-50000", "50,000 conntrack entries: CPU, longest loop stall", partial(table, 50_000, 10)),
    Row("remotes", "2,000 remote addresses: CPU", remotes),
]
