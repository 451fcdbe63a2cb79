# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the bytes are right: spind's totals against the kernel's own counters on the gateway."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bench.bed import Bed, Running
from bench.figures import Figure, at_least, exactly
from bench.rows import Row, Settings
from spind.lab import load, traffic

DEVICE = "phone"
Totals = dict[tuple[str, int], tuple[int, int]]
"""Bytes up and down per device and family."""


@dataclass(frozen=True)
class Comparison:
    """Bytes of one family, all devices together: the kernel's, and how far off spind is (both ways
    and each device for itself, so that too much here does not hide too little there)."""

    kernel: int
    off: int
    worst: str = ""

    def less(self, refused: int) -> "Comparison":
        """Without bytes that the kernel's rules counted, and that went nowhere."""
        if not refused:
            return self
        off = abs(self.off - refused)
        return replace(self, kernel=self.kernel - refused, off=off, worst=self.worst if off else "")

    @property
    def percent(self) -> float:
        """100 where not a byte is missing or too many."""
        return 100 * (1 - self.off / self.kernel) if self.kernel else 0.0


def kernel_totals(bed: Bed) -> Totals:
    """What the kernel counted: forwarded, and between devices and the gateway."""
    totals: Totals = {}
    for scope in ("forward", "gateway"):
        for device, families in bed.lab.kernel_counters(scope).items():
            for family, counts in families.items():
                up, down = totals.get((device, family), (0, 0))
                totals[device, family] = (up + counts[0], down + counts[1])
    return totals


def spind_totals(bed: Bed, running: Running) -> Totals:
    """What spind counted, by the devices' MACs."""
    names = {spec.mac: spec.name for spec in bed.lab.specs}
    totals: Totals = {}
    for node in running.nodes("device"):
        name = names.get(node["mac"])
        for family in (4, 6):
            counts = node[f"ipv{family}"]
            if name is not None:
                totals[name, family] = (counts["up_bytes"], counts["down_bytes"])
    return totals


def compare(family: int, kernel: Totals, counted: Totals) -> Comparison:
    """One family of both."""
    size = off = most = 0
    worst = ""
    for (device, which), wanted in kernel.items():
        if which != family:
            continue
        got = counted.get((device, which), (0, 0))
        difference = abs(got[0] - wanted[0]) + abs(got[1] - wanted[1])
        size += sum(wanted)
        off += difference
        if difference > most:
            most, worst = difference, f"{device} {got[0] - wanted[0]:+,} up {got[1] - wanted[1]:+,} down"
    return Comparison(size, off, worst)


@dataclass
class Ledger:
    """Both totals since a moment. ``kernel`` and ``counted`` are what there was at that moment."""

    bed: Bed
    running: Running
    kernel: Totals = field(default_factory=dict)
    counted: Totals = field(default_factory=dict)

    @classmethod
    def open(cls, bed: Bed, running: Running) -> "Ledger":
        """Begin here. Let nothing be under way."""
        time.sleep(2)
        return cls(bed, running, kernel_totals(bed), spind_totals(bed, running))

    def read(self, family: int) -> Comparison:
        """Since then."""
        return compare(
            family,
            _since(kernel_totals(self.bed), self.kernel),
            _since(spind_totals(self.bed, self.running), self.counted),
        )

    def settle(
        self,
        families: tuple[int, ...] = (4, 6),
        seconds: float = 12,
        refused: Callable[[], int] = lambda: 0,
    ) -> dict[int, Comparison]:
        """Since then, once both agree, or after so many seconds: what is under way comes with the
        next dump. ``refused`` are bytes that the rules counted before conntrack refused them."""
        deadline = time.monotonic() + seconds
        while True:
            found = {family: self.read(family).less(refused()) for family in families}
            if not any(one.off for one in found.values()) or time.monotonic() > deadline:
                return found
            time.sleep(1)


def _since(now: Totals, before: Totals) -> Totals:
    result = {}
    for key, (up, down) in now.items():
        up_before, down_before = before.get(key, (0, 0))
        result[key] = (up - up_before, down - down_before)
    return result


def _remark(found: Comparison) -> str:
    return f"{found.off:,} of {found.kernel:,} bytes off" + (f"; {found.worst}" if found.worst else "")


def everyday(bed: Bed, settings: Settings) -> list[Figure]:
    """All devices do what their kind does."""
    with bed.daemon() as running:
        ledger = Ledger.open(bed, running)
        traffic.run(bed.lab, min(300, settings.seconds * 6))
        found = ledger.settle()
    return [
        Figure("bytes", f"bytes accounted, IPv{family}", (one.percent,), "%", exactly(100), 4, _remark(one))
        for family, one in found.items()
    ]


def churn(bed: Bed, settings: Settings) -> list[Figure]:
    """5,000 short connections a second for ten seconds, both families in turn."""
    seconds = 3.0 if settings.quick else 10.0
    figures = []
    for family in (4, 6):
        with bed.daemon() as running:
            ledger = Ledger.open(bed, running)
            made = load.churn(bed.lab, DEVICE, family=family, rate=5000, seconds=seconds)
            found = ledger.settle((family,))[family]
            counts = running.statistics()
            bed.flush()
            ended = ledger.settle((family,))[family]
        reached = made.attempted / made.seconds if made.seconds else 0
        note = (
            f"{reached:,.0f}/s reached, {made.completed:,} done, {made.failed:,} failed; {_remark(found)};"
            f" {counts['conntrack.overruns']:,} overruns"
        )
        what = f"bytes accounted at 5,000 new connections/s, IPv{family}"
        data = {"churn": vars(made), "statistics": counts}
        figures += [
            Figure("churn", what, (found.percent,), "%", at_least(99.9), 4, note, data),
            Figure(
                "churn", f"{what}, all ended", (ended.percent,), "%", at_least(99.9), 4, _remark(ended)
            ),
        ]
    return figures


BEYOND = 9 << 29  # 4.5 GiB


def big_flow(bed: Bed, _: Settings) -> list[Figure]:
    """One connection that carries more than 32 bits can count."""
    with bed.daemon() as running:
        ledger = Ledger.open(bed, running)
        load.bulk(bed.lab, DEVICE, BEYOND)
        found = ledger.settle((4,))[4]
        largest = max(flow["down_bytes"] for flow in running.flows())
    right = found.off == 0 and largest >= BEYOND
    note = f"flow of {largest:,} bytes; {_remark(found)}"
    what = "counters beyond 4 GiB in one flow"
    return [Figure("big-flow", what, (found.percent if right else 0.0,), "%", exactly(100), 4, note)]


ROWS = [
    Row("bytes", "bytes accounted against the kernel's counters, everyday traffic", everyday),
    Row("churn", "bytes accounted at 5,000 new connections a second", churn),
    Row("big-flow", "bytes of one flow beyond 4 GiB", big_flow),
]
