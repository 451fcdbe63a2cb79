# SPDX-License-Identifier: GPL-2.0-or-later
"""What many rules cost: start, one more of them, memory, throughput, DNS answers that wait for them."""

import time
from functools import partial
from statistics import median
from threading import Thread
from typing import Any

from bench.bed import COUNTERS_SECONDS, Bed, Running
from bench.figures import Figure, at_least, at_most, differences, medians, ratios
from bench.process import memory
from bench.rows import Row, Settings
from bench.rows_block import BACKENDS, DEVICE, backend, client
from bench.rows_block_names import give_names
from spind import uci
from spind.client import Client
from spind.lab import DeviceSpec, load, plan

RULES, NAMES = 10_000, 1000
_ZONE = "many.test"
_WHOLE = "a device that has none yet"
"""The kind of rule for which the kernel gets all of its rules anew, not only some elements."""

Options = dict[str, str]


def rule_options(number: int, names: int, devices: list[DeviceSpec]) -> Options:
    """Rule ``number`` of many: the first ``names`` are names, then addresses, prefixes, ports, devices."""
    high, low = divmod(number, 250)
    if number < names:
        return {"domain": f"b{number}.{_ZONE}"}
    kind = number % 10
    if kind < 4:
        return {"ip": f"10.{high}.{low}.1"}
    if kind < 6:
        return {"ip": f"10.{high}.{low}.0/24"}
    if kind < 8:
        return {"ip": f"2001:db8:{0x9000 + number:x}::/48"}
    if kind < 9:
        return {"ip": f"10.{high}.{low}.2", "port": "8443", "protocol": "tcp"}
    return {"ip": f"10.{high}.{low}.3", "device": devices[high % len(devices)].mac}


def rules_text(rules: list[Options]) -> str:
    """Block rules as UCI text."""
    sections = [
        uci.Section("rule", f"rule{number + 1}", anonymous=False, line=0, options={"action": "block", **one})
        for number, one in enumerate(rules)
    ]
    return uci.dump(uci.Package("spin", sections)).partition("\n")[2]


def more_rules(number: int, devices: list[DeviceSpec]) -> dict[str, Options]:
    """One more rule of each kind, that there is not yet."""
    mac = devices[number % len(devices)].mac
    return {
        "address": {"ip": f"11.0.{number // 250}.{number % 250 + 1}"},
        "prefix": {"ip": f"11.{number % 250 + 1}.0.0/16"},
        "name": {"domain": f"more{number}.{_ZONE}x"},
        "device and address": {"ip": f"11.0.{number // 250}.{number % 250 + 1}", "device": mac},
        "device and name": {"domain": f"more{number}.{_ZONE}y", "device": mac},
        _WHOLE: {"device": f"02:00:00:99:{number >> 8:02x}:{number & 255:02x}"},
    }


def rules(bed: Bed, settings: Settings) -> list[Figure]:
    """10,000 rules, of which 1,000 are about names that have addresses."""
    count, names = (1000, 100) if settings.quick else (RULES, NAMES)
    specs = list(bed.lab.specs)
    text = rules_text([rule_options(number, names, specs) for number in range(count)])
    known = give_names(bed, _ZONE, names, 4000)
    figures = []
    for used in BACKENDS:
        options = backend(used)
        with bed.daemon(options) as running:
            empty = memory(running.pid).resident
        starts: list[float] = []
        with bed.daemon(options, text) as running, client(running) as link:
            starts.append(running.started)
            bed.run(bed.lab.device(DEVICE), "streams.lookups", names=known, dns=plan.GATEWAY4, rate=500)
            _check_enforced(running, count, names)
            figures += _one_more(bed, settings, used, running, link)
            full = memory(running.pid)
        for _ in range(max(1, settings.pairs - 1)):
            with bed.daemon(options, text, fresh=False) as running:
                starts.append(running.started)
                _check_enforced(running, count, names)
        figures += [
            Figure(
                "block-rules",
                f"{count:,} rules, {names:,} names: start to rules and first answer, {used}",
                tuple(starts),
                "s",
                at_most(5),
                2,
                "after the first time, names have the addresses that an earlier run saw",
            ),
            Figure(
                "block-rules",
                f"resident memory with {count:,} rules, {used}",
                (full.resident,),
                "MB",
                note=f"{empty:.1f} MB without; peak {full.peak:.1f} MB",
            ),
        ]
    return [*figures, *_throughput("block-rules", f"{count:,} rules", bed, settings, text)]


def _check_enforced(running: Running, count: int, names: int) -> None:
    status = running.call("status")
    problem, there = status["blocking"]["problem"], status["statistics"]
    if problem:
        raise RuntimeError(problem)
    if there["engine.rules-in-force"] < count or there["engine.blocked-addresses"] < names:
        raise RuntimeError(
            f"{there['engine.rules-in-force']:,} rules in force,"
            f" {there['engine.blocked-addresses']:,} addresses of names"
        )


def _one_more(bed: Bed, settings: Settings, used: str, running: Running, link: Client) -> list[Figure]:
    """Add and remove rules one by one, while a device asks the name server all the time."""
    each = 5 if settings.quick else 40
    specs = list(bed.lab.specs)
    added: dict[str, list[float]] = {}
    removed: list[float] = []
    meanwhile: list[load.Dns] = []
    stop = False

    def ask() -> None:
        while not stop:
            meanwhile.append(load.dns(bed.lab, "tv", rate=50, seconds=2, server=plan.DNS4))

    asking = Thread(target=ask)
    asking.start()
    try:
        for number in range(each):
            made = []
            for kind, fields in more_rules(number, specs).items():
                began = time.perf_counter()
                made.append(link.call("add_rule", {"action": "block", **fields})["id"])
                added.setdefault(kind, []).append((time.perf_counter() - began) * 1e3)
            for ident in made:
                began = time.perf_counter()
                link.call("remove_rule", {"id": ident})
                removed.append((time.perf_counter() - began) * 1e3)
    finally:
        stop = True
        asking.join()
    time.sleep(COUNTERS_SECONDS + 1)
    stall = running.statistics()["loop.longest-stall-us"]
    whole = added.pop(_WHOLE)
    every = sorted(one for samples in added.values() for one in samples)
    kinds = ", ".join(f"{kind} {median(samples):.1f}" for kind, samples in added.items())
    answers = max(one.max_us for one in meanwhile) / 1000
    lost = sum(one.lost for one in meanwhile)
    data: dict[str, Any] = {"added": added, "whole": whole, "removed": removed}
    data["dns"] = [vars(one) for one in meanwhile]
    row = "block-rules"
    return [
        Figure(row, f"one more rule, median, {used}", (median(every),), "ms", at_most(20), 1, kinds, data),
        Figure(row, f"one more rule, p99, {used}", (every[len(every) * 99 // 100],), "ms"),
        Figure(row, f"one more rule for {_WHOLE}, {used}", tuple(whole), "ms"),
        Figure(row, f"one rule less, median, {used}", (median(removed),), "ms"),
        Figure(
            row,
            f"longest wait of a DNS answer meanwhile, {used}",
            (answers,),
            "ms",
            note=f"median {median(one.median_us for one in meanwhile) / 1000:.2f} ms; {lost} lost;"
            f" loop stalls that were seen: up to {stall / 1000:.1f} ms",
        ),
    ]


def _throughput(row: str, what: str, bed: Bed, settings: Settings, text: str) -> list[Figure]:
    """One TCP connection down, as fast as it goes, past rules that do not match: ratio to no daemon."""
    figures = []
    for used in BACKENDS:
        for family in (4, 6):
            probe = load.bulk(bed.lab, DEVICE, 256 << 20, family=family)
            size = int(probe.bytes / probe.seconds * max(0.3, settings.seconds / 10))

            def run(_: Running | None, size: int = size, family: int = family) -> float:
                transfers = [load.bulk(bed.lab, DEVICE, size, family=family) for _ in range(5)]
                return median(transfer.bits_per_second for transfer in transfers) / 1e9

            pairs = bed.alternate(settings.pairs, run, backend(used), text)
            before, after = medians(pairs)
            figures.append(
                Figure(
                    row,
                    f"TCP throughput IPv{family} with {what}, ratio to none, {used}",
                    ratios(pairs),
                    target=at_least(0.97),
                    digits=3,
                    note=f"{before:.2f} → {after:.2f} Gbit/s",
                    data={"pairs": pairs},
                )
            )
    return figures


def classes(bed: Bed, settings: Settings) -> list[Figure]:
    """Each device has a rule of its own, so a class of its own."""
    devices = list(bed.lab.specs)
    own = [{"device": spec.mac, "ip": f"10.0.0.{number + 1}"} for number, spec in enumerate(devices)]
    what = f"{len(devices)} devices with rules of their own"
    return _throughput("block-classes", what, bed, settings, rules_text(own))


# -- DNS -----------------------------------------------------------------------------------------

_BLOCKED_ZONE = "blocked.test"
_EVERY = 10


def dns(bed: Bed, settings: Settings) -> list[Figure]:
    """Queries of which every tenth is for a blocked name that has not been asked for: its answer waits
    until the kernel has its address."""
    count = 4000 if settings.quick else 20_000
    flooded = count // _EVERY
    single = 50 if settings.quick else 300
    names = give_names(bed, _BLOCKED_ZONE, flooded + single, 6000)
    device = bed.lab.device(DEVICE)
    text = rules_text([{"domain": _BLOCKED_ZONE}])
    what: dict[str, Any] = {"plain": "q{}.wild.test", "special": "b{}." + _BLOCKED_ZONE, "every": _EVERY}

    def run(used: str, more: str) -> tuple[float, float, int]:
        with bed.daemon(backend(used), more) as running:
            bed.warm_up()
            fast = bed.run(device, "streams.flood", dns=plan.DNS4, count=count, **what)
            slow = bed.run(device, "streams.lookups", names=names[flooded:], dns=plan.DNS4, rate=100)["took"]
            lost: int = fast["sent"] - fast["answered"]
            there = running.statistics()["engine.blocked-addresses"]
        if more and there < len(names) - lost:
            raise RuntimeError(f"{there:,} addresses of {len(names):,} are blocked")
        return fast["answered"] / fast["seconds"], median(slow) / 1e3, lost

    figures = []
    for used in BACKENDS:
        results = bed.in_turn(settings.pairs, partial(run, used, ""), partial(run, used, text))
        rates = [(before[0], after[0]) for before, after in results]
        waits = [(before[1], after[1]) for before, after in results]
        lost = sum(one[2] for both in results for one in both)
        before, after = medians(rates)
        figures += [
            Figure(
                "block-dns",
                f"DNS queries/s, a tenth of them blocked, ratio to no rules, {used}",
                ratios(rates),
                digits=3,
                note=f"{before:,.0f} → {after:,.0f} a second; {lost} lost of all",
                data={"pairs": rates},
            ),
        ]
        before, after = medians(waits)
        figures.append(
            Figure(
                "block-dns",
                f"DNS answer that blocks an address, added, {used}",
                differences(waits),
                "µs",
                digits=0,
                note=f"{before:,.0f} → {after:,.0f} µs",
                data={"pairs": waits},
            )
        )
    return figures


ROWS = [
    Row("block-rules", "10,000 rules, 1,000 blocked names: start, one more rule, memory, throughput", rules),
    Row("block-classes", "30 devices with a rule each: throughput", classes, devices=30),
    Row("block-dns", "DNS queries a second, and how long an answer waits, with blocked names", dns),
]
