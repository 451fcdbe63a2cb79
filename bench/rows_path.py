# SPDX-License-Identifier: GPL-2.0-or-later
"""What spind costs those who use the gateway: throughput, the time of a handshake, DNS, and how soon
it tells. Each compares with the same lab without spind, but for the last."""

from functools import partial
from statistics import median
from typing import Any

from bench.bed import Bed, Program, Running
from bench.figures import Figure, Target, at_least, at_most, differences, exactly, medians, ratios
from bench.programs import HOLD_PORT
from bench.rows import Row, Settings
from spind.lab import load, plan
from spind.lab.stack import BROKER_PORT

DEVICE = "phone"
_TRANSFERS = 5  # in each run, of which the middle one counts


def throughput(family: int, bed: Bed, settings: Settings) -> list[Figure]:
    """One TCP connection down, as fast as it goes."""
    probe = load.bulk(bed.lab, DEVICE, 256 << 20, family=family)
    seconds = max(0.3, settings.seconds / 10)
    size = min(load.MAX_BYTES, int(probe.bytes / probe.seconds * seconds))

    def run(_: Running | None) -> float:
        transfers = [load.bulk(bed.lab, DEVICE, size, family=family) for _ in range(_TRANSFERS)]
        return median(transfer.bits_per_second for transfer in transfers) / 1e9

    pairs = bed.alternate(settings.pairs, run)
    before, after = medians(pairs)
    return [
        Figure(
            f"throughput-{family}",
            f"TCP throughput IPv{family}, ratio to none",
            ratios(pairs),
            target=at_least(0.99),
            digits=3,
            note=f"{before:.2f} → {after:.2f} Gbit/s",
            data={"pairs": pairs},
        )
    ]


def latency(bed: Bed, settings: Settings) -> list[Figure]:
    """Handshakes at 200 a second."""

    def run(_: Running | None) -> load.Latency:
        return load.latency(bed.lab, DEVICE, rate=200, seconds=settings.seconds)

    results = bed.alternate(settings.pairs, run)
    figures = []
    limits: list[tuple[str, str, Target | None]] = [
        ("median_us", "median", at_most(80)),
        ("p99_us", "p99", at_most(300)),
        ("max_us", "longest", None),
    ]
    for field, name, target in limits:
        pairs = [(getattr(before, field), getattr(after, field)) for before, after in results]
        before, after = medians(pairs)
        figures.append(
            Figure(
                "latency",
                f"connect latency at 200/s, {name}, added",
                differences(pairs),
                "µs",
                target,
                0,
                f"{before:,.0f} → {after:,.0f} µs",
                {"pairs": pairs},
            )
        )
    return figures


def dns(server: str, where: str, goal: float | None, bed: Bed, settings: Settings) -> list[Figure]:
    """DNS as fast as it is answered, 64 queries under way; a new name each time."""

    def run(running: Running | None) -> dict[str, float]:
        before = running.statistics()["engine.dns-queries"] if running else 0
        result = load.dns(bed.lab, DEVICE, rate=0, seconds=settings.seconds / 2, server=server)
        counted = running.statistics()["engine.dns-queries"] - before if running else 0
        rate = result.answered / result.seconds
        return {"rate": rate, "lost": result.lost, "sent": result.sent, "counted": counted}

    row = "dns" if server == plan.DNS4 else "dns-forwarder"
    results = bed.alternate(settings.pairs, run)
    pairs = [(before["rate"], after["rate"]) for before, after in results]
    before, after = medians(pairs)
    sent = sum(run["sent"] for _, run in results)
    counted = sum(run["counted"] for _, run in results)
    lost = [run["lost"] for both in results for run in both]
    return [
        Figure(
            row,
            f"DNS queries/s {where}, ratio to none",
            ratios(pairs),
            target=None if goal is None else at_least(goal),
            digits=3,
            note=f"{before:,.0f} → {after:,.0f} a second",
            data={"runs": results},
        ),
        Figure(
            row,
            f"DNS queries {where} lost",
            (sum(lost),),
            target=exactly(0),
            digits=0,
            note=f"of {sum(run['sent'] for both in results for run in both):,.0f}, with and without",
        ),
        Figure(
            row,
            f"DNS queries {where} counted",
            (100 * counted / sent,),
            "%",
            exactly(100),
            3,
            f"{counted:,.0f} of {sent:,.0f}",
        ),
    ]


def _listener(bed: Bed) -> Program:
    program = Program(bed.lab.gateway, "bench.listener", "127.0.0.1", str(BROKER_PORT), "SPIN/traffic")
    program.read()
    return program


def _milliseconds(sent: dict[str, int], seen: dict[str, int]) -> tuple[float, ...]:
    return tuple((seen[key] - at) / 1e6 for key, at in sent.items() if key in seen)


def _told(
    what: str, row: str, target: Target, sent: dict[str, int], seen: dict[str, int]
) -> Figure:
    """The figure of how long it took from sending to telling."""
    missing = len(sent) - len(seen.keys() & sent.keys())
    note = f"{len(sent)} of them" + (f", {missing} never told" if missing else "")
    return Figure(row, what, _milliseconds(sent, seen), "ms", target, 1, note)


def mqtt_dns(bed: Bed, settings: Settings) -> list[Figure]:
    """From the moment a query leaves the device to the message at a subscriber."""
    with bed.daemon():
        listener = _listener(bed)
        try:
            count = int(settings.seconds * 5)
            device = bed.lab.device(DEVICE)
            what: dict[str, Any] = {"server": plan.DNS4, "zone": "wild.test", "count": count, "every": 0.13}
            sent = bed.run(device, "asks", **what)["sent"]
            lines = listener.end()
        finally:
            listener.kill()
    seen: dict[str, int] = {}
    for line in lines:
        message = line["message"]
        if message["command"] == "dnsquery":
            seen.setdefault(message["result"]["query"].rstrip("."), line["at"])
    return [_told("DNS query to MQTT, median", "mqtt-dns", at_most(100), sent, seen)]


def mqtt_flow(bed: Bed, settings: Settings) -> list[Figure]:
    """From the start of a connection's handshake to the first traffic message that has it."""
    with bed.daemon(), bed.program(bed.lab.internet, "server"):
        listener = _listener(bed)
        try:
            count = int(settings.seconds * 3)
            device = bed.lab.device(DEVICE)
            sent = bed.run(device, "opens", host=load.target(4), count=count, every=0.37)["sent"]
            lines = listener.end()
        finally:
            listener.kill()
    seen: dict[str, int] = {}
    for line in lines:
        message = line["message"]
        if message["command"] == "traffic":
            for flow in message["result"]["flows"]:
                for port in _device_ports(flow):
                    seen.setdefault(str(port), line["at"])
    return [_told("new flow to MQTT, median", "mqtt-flow", at_most(1000), sent, seen)]


def _device_ports(flow: dict[str, Any]) -> list[int]:
    """The device's port of a flow to the server that ``opens`` connects to, whichever way it is told."""
    if flow["to_port"] == HOLD_PORT:
        return [flow["from_port"]]
    return [flow["to_port"]] if flow["from_port"] == HOLD_PORT else []


ROWS = [
    Row("throughput-4", "TCP throughput through the gateway, IPv4", partial(throughput, 4)),
    Row("throughput-6", "TCP throughput through the gateway, IPv6", partial(throughput, 6)),
    Row("latency", "time of a TCP handshake at 200 new connections a second", latency),
    Row(
        "dns",
        "DNS queries a second through the gateway, none lost, each counted",
        partial(dns, plan.DNS4, "through the gateway", 0.5),
    ),
    Row(
        "dns-forwarder",
        "the same to the gateway's own forwarder, as most homes ask",
        partial(dns, plan.GATEWAY4, "to its forwarder", None),
    ),
    Row("mqtt-dns", "DNS query to MQTT message", mqtt_dns),
    Row("mqtt-flow", "new flow to MQTT message", mqtt_flow),
]
