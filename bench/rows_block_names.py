# SPDX-License-Identifier: GPL-2.0-or-later
"""What passes to names that are blocked, and what names beside them notice: in each back-end of blocking."""

from statistics import median
from typing import Any

from bench.arrivals import Sniffer
from bench.bed import Bed, Running
from bench.figures import Figure, at_least, differences, exactly, medians, ratios
from bench.rows import Row, Settings
from bench.rows_block import BACKENDS, DEVICE, backend, bytes_of, client
from spind.lab import load, plan

SHARED = plan.CDN[0]
BLOCKED, ALLOWED = "ads.tracker.test", "a.cdn.test"
"""Two names that are both at ``SHARED``."""

def name_addresses(number: int) -> tuple[str, str]:
    """An IPv4 and an IPv6 address of the internet for name ``number``; nothing else uses them."""
    return f"198.19.{100 + number // 250}.{number % 250 + 1}", f"2001:db8:2:9::{number + 1:x}"


def give_names(bed: Bed, zone: str, count: int, first: int) -> list[str]:
    """Give ``count`` names under ``zone``, each with addresses of its own, to the internet."""
    names = [f"b{number}.{zone}" for number in range(count)]
    lines = [
        f"{address} {name}\n"
        for number, name in enumerate(names)
        for address in name_addresses(first + number)
    ]
    (bed.lab.hosts_dir / f"zone-{zone}").write_text("".join(lines))
    bed.lab.set_name("last.given.test", [plan.server4(99)])  # it has read the others by then, too
    return names


def name(bed: Bed, settings: Settings) -> list[Figure]:
    """Names that are blocked: alone on their addresses, and on one that an allowed name has, too."""
    figures = []
    for used in BACKENDS:
        figures += [_alone(bed, settings, used), *_beside(bed, settings, used)]
    return figures


def _alone(bed: Bed, settings: Settings, used: str) -> Figure:
    device = bed.lab.device(DEVICE)
    names = give_names(bed, "alone.test", 100 if settings.quick else 1000, 0)
    free = give_names(bed, "free.test", 20, 2000)
    wanted = {bytes_of(address) for number in range(len(names)) for address in name_addresses(number)}
    others = {bytes_of(address) for number in range(2000, 2020) for address in name_addresses(number)}
    with bed.daemon(backend(used)) as running, client(running) as link:
        bed.warm_up()
        link.call("add_rule", {"domain": "alone.test", "action": "block"})
        with Sniffer(bed.lab.internet, plan.INTERNET_INTERFACE) as there:
            said = bed.run(device, "streams.attempts", timeout=300, names=names, dns=plan.GATEWAY4)
            bed.run(device, "streams.attempts", names=free, dns=plan.GATEWAY4)
            arrivals = there.take()
        counts = running.statistics()
    if not any(one.target in others for one in arrivals):
        raise RuntimeError("names that are not blocked are not reached either")
    if said["found"] != len(names):
        raise RuntimeError(f"only {said['found']} of {len(names)} names have an address")
    passed = [one for one in arrivals if one.target in wanted]
    note = f"{len(names):,} names one by one, then their addresses again; {sum(p.size for p in passed)} bytes"
    what = f"packets that pass to a blocked name, {used}"
    return Figure("block-name", what, (len(passed),), "", exactly(0), 0, note, {"statistics": counts})


def _beside(bed: Bed, settings: Settings, used: str) -> list[Figure]:
    device = bed.lab.device(DEVICE)
    count = int(max(40, settings.seconds * 40))
    ask: dict[str, Any] = {"names": [ALLOWED, BLOCKED], "count": count, "rate": 50, "dns": plan.GATEWAY4}
    leaked: list[int] = []
    made: list[int] = []
    failed: list[int] = []

    def run(running: Running | None) -> dict[str, float]:
        if running is not None:
            with client(running) as link:
                link.call("add_rule", {"domain": BLOCKED, "action": "block"})
        with Sniffer(bed.lab.internet, plan.INTERNET_INTERFACE) as there:
            said = bed.run(device, "streams.handshakes", host=SHARED, **ask)["names"]
            arrivals = there.take()
        allowed, blocked = said[ALLOWED], said[BLOCKED]
        if running is not None:
            target = bytes_of(SHARED)
            known = set(allowed["ports"])  # the gateway keeps ports that nobody else has
            leaked.append(
                sum(one.size for one in arrivals if one.target == target and one.source_port not in known)
            )
            made.append(blocked["failed"] + len(blocked["took"]))
            failed.append(allowed["failed"] + len(blocked["took"]))
        took = sorted(allowed["took"])
        if not took:
            raise RuntimeError("no handshake of the allowed name")
        return {"median": median(took) / 1e3, "p99": took[len(took) * 99 // 100] / 1e3}

    results = bed.alternate(settings.pairs, run, backend(used))
    figures = [
        Figure(
            "block-name",
            f"bytes of ClientHellos to a blocked name on a shared address, {used}",
            (sum(leaked),),
            "",
            exactly(0),
            0,
            f"{sum(made):,} attempts; {sum(failed)} other than they should be",
        )
    ]
    for key in ("median", "p99"):
        pairs = [(before[key], after[key]) for before, after in results]
        before, after = medians(pairs)
        what = f"TLS handshake of an allowed name beside it, {key}, added, {used}"
        note = f"{before:,.0f} → {after:,.0f} µs"
        figures.append(Figure("block-name", what, differences(pairs), "µs", None, 0, note, {"pairs": pairs}))
    return figures


def shared(bed: Bed, settings: Settings) -> list[Figure]:
    """An allowed name on an address that is inspected: one connection down, as fast as it goes."""
    device = bed.lab.device(DEVICE)
    with bed.program(bed.lab.internet, "streams.serve", hosts=[SHARED], size=256 << 20):
        probe = bed.run(device, "streams.pull", host=SHARED, name=ALLOWED, size=256 << 20)["took"][0]
    size = min(load.MAX_BYTES, int((256 << 20) / (probe or 1) * max(0.3, settings.seconds / 10)))
    figures = []
    for used in BACKENDS:
        inspected: list[int] = []

        def run(running: Running | None, inspected: list[int] = inspected) -> float:
            if running is not None:
                with client(running) as link:
                    link.call("add_rule", {"domain": BLOCKED, "action": "block"})
                ask: dict[str, Any] = {"names": [ALLOWED, BLOCKED], "dns": plan.GATEWAY4, "host": SHARED}
                bed.run(device, "streams.handshakes", count=2, rate=50, **ask)
            with bed.program(bed.lab.internet, "streams.serve", hosts=[SHARED], size=size):
                what: dict[str, Any] = {"host": SHARED, "name": ALLOWED, "size": size, "times": 5}
                took: list[float] = bed.run(device, "streams.pull", **what)["took"]
            if not all(took):
                raise RuntimeError("an allowed name's transfer was cut short")
            if running is not None:
                inspected.append(running.call("status")["capture"].get("cut", 0))
            return size * 8 / median(took) / 1e9

        pairs = bed.alternate(settings.pairs, run, backend(used))
        if not all(inspected):
            raise RuntimeError("the address was not inspected")
        before, after = medians(pairs)
        figures.append(
            Figure(
                "block-shared",
                f"TCP throughput of an allowed name on a shared address, ratio to none, {used}",
                ratios(pairs),
                target=at_least(0.97),
                digits=3,
                note=f"{before:.2f} → {after:.2f} Gbit/s",
                data={"pairs": pairs},
            )
        )
    return figures


ROWS = [
    Row("block-name", "what passes to blocked names; the handshake of a name beside one", name),
    Row("block-shared", "throughput of an allowed name beside a blocked one", shared),
]
