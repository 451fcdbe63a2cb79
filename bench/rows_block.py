# SPDX-License-Identifier: GPL-2.0-or-later
"""What still passes once a device is blocked, and how soon it is: in each back-end of blocking."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from statistics import median
from typing import Any

from bench.arrivals import TCP, Arrival, Sniffer
from bench.bed import Bed, Running
from bench.figures import Figure, exactly
from bench.rows import Row, Settings
from bench.streams import EXTENDED, PORT_BOTH, PORT_DOWN, PORT_UP
from spind.client import Client
from spind.lab import Device, load, plan

DEVICE = "phone"
BACKENDS = ("nftables", "iptables")
_OWN_HOPS = 64  # of packets that the gateway makes; others have one less when they have passed it
_FRAGMENTED = 0  # ports of later fragments
_STREAM_PORTS = {port + extra for port in (PORT_UP, PORT_DOWN, PORT_BOTH) for extra in (0, EXTENDED)}
_TRIES = 3


def backend(name: str) -> dict[str, str | int]:
    """The option that chooses a back-end."""
    return {"block_backend": name}


@contextmanager
def client(running: Running) -> Iterator[Client]:
    """A connection to the daemon that is open before anything is measured; refuses the wrong back-end."""
    wanted, used = running.spind.options["block_backend"], running.call("status")["blocking"]["backend"]
    if used != wanted:
        raise RuntimeError(f"blocks by {used}, not by {wanted}")
    with Client(str(running.spind.rpc_socket), timeout=30) as link:
        yield link


# -- a device with streams that run --------------------------------------------------------------


@dataclass
class Trial:
    """One block of a device: the call's milliseconds; what came through to either side after its reply;
    segments that the gateway made; milliseconds from the last packet to the reply; how connections ended."""

    call_ms: float
    late: int
    latest_ms: float
    own: int
    quiet_ms: float
    before: int
    ended: dict[str, Any]


def by_gateway(one: Arrival) -> bool:
    """Did the gateway make it, to tell one side of the end? Resets, and segments that ask for one."""
    return one.protocol == TCP and one.hops == _OWN_HOPS and not one.size


def judge(arrivals: Sequence[Arrival], reply: int) -> tuple[list[Arrival], list[Arrival]]:
    """Packets of the streams before ``reply``, and after it, without what the gateway made."""
    passed = [one for one in arrivals if not by_gateway(one)]
    return [one for one in passed if one.at <= reply], [one for one in passed if one.at > reply]


def _of_streams(arrivals: Sequence[Arrival], *, up: bool) -> list[Arrival]:
    found = []
    for one in arrivals:
        port = one.target_port if up else one.source_port
        if port in _STREAM_PORTS or (one.protocol == 17 and port == _FRAGMENTED):
            found.append(one)
    return found


def _trial(bed: Bed, device: Device, link: Client, host: str, *, extended: bool, rest: float) -> Trial:
    for _ in range(_TRIES):
        hosts = [load.target(4), load.target(6)]
        streams = {"host": host, "extended": extended}
        with (
            bed.program(bed.lab.internet, "streams.serve", hosts=hosts),
            bed.program(device, "streams.run", **streams) as (program, said),
        ):
            if not said["ready"]:  # connections with extension headers are rare, and some never begin
                continue
            with (
                Sniffer(bed.lab.internet, plan.INTERNET_INTERFACE) as there,
                Sniffer(device, plan.DEVICE_INTERFACE) as here,
            ):
                began = time.perf_counter()
                rule = link.call("add_rule", {"device": device.mac, "action": "block"})
                reply, call = time.time_ns(), time.perf_counter() - began
                time.sleep(rest)
                arrivals = _of_streams(there.take(), up=True) + _of_streams(here.take(), up=False)
            ended = program.end()[-1]["ended"]
        link.call("remove_rule", {"id": rule["id"]})
        before, after = judge(arrivals, reply)
        if not before:
            raise RuntimeError("nothing was running when the device was blocked")
        return Trial(
            call * 1e3,
            len(after),
            max((one.at - reply for one in after), default=0) / 1e6,
            sum(map(by_gateway, arrivals)),
            (reply - max(one.at for one in before)) / 1e6,
            len(before),
            {name: {**one, "at": (one["at"] - reply) / 1e6} for name, one in ended.items()},
        )
    raise RuntimeError("the streams to be blocked do not run")


def _trials_figures(row: str, name: str, trials: list[Trial]) -> list[Figure]:
    late = [trial.late for trial in trials]
    told = [one for trial in trials for one in trial.ended.values() if one["how"] != "end"]
    running = 2 * len(trials)
    note = (
        f"of 4 streams at once; {sum(trial.own for trial in trials):,} segments of the gateway's own;"
        f" {len(told)} of {running} connections learned of it"
    )
    if any(late):
        note += f"; the last {max(trial.latest_ms for trial in trials):.2f} ms after the reply"
    data = {"trials": [vars(trial) for trial in trials]}
    return [
        Figure(row, f"packets after the reply, {name}", (sum(late),), "", exactly(0), 0, note, data),
        Figure(
            row,
            f"from call to reply, {name}",
            tuple(trial.call_ms for trial in trials),
            "ms",
            note=f"the last packet {median(trial.quiet_ms for trial in trials):.1f} ms before the reply",
        ),
    ]


def device(bed: Bed, settings: Settings) -> list[Figure]:
    """Block a device that uploads, downloads, and exchanges datagrams, all as fast as it goes."""
    kinds = [("IPv4", load.target(4), False), ("IPv6", load.target(6), False)]
    kinds.append(("IPv6 with extension headers", load.target(6), True))
    figures = []
    for name in BACKENDS:
        with bed.daemon(backend(name)) as running, client(running) as link:
            bed.warm_up()
            for family, host, extended in kinds:
                trials = [
                    _trial(bed, bed.lab.device(DEVICE), link, host, extended=extended, rest=1.0)
                    for _ in range(settings.pairs)
                ]
                figures += _trials_figures("block-device", f"{family}, {name}", trials)
            idle = []
            for _ in range(5 * settings.pairs):
                began = time.perf_counter()
                rule = link.call("add_rule", {"device": bed.lab.device(DEVICE).mac, "action": "block"})
                idle.append((time.perf_counter() - began) * 1e3)
                link.call("remove_rule", {"id": rule["id"]})
            what = f"from call to reply, nothing else going on, {name}"
            figures.append(Figure("block-device", what, tuple(idle), "ms"))
    return figures


# -- addresses that come later -------------------------------------------------------------------


def later_addresses(number: int) -> tuple[str, str]:
    """An IPv4 and an IPv6 address of the home that nobody has."""
    return f"192.168.8.{10 + number}", f"2001:db8:8::bad:{number + 1:x}"


def later(bed: Bed, settings: Settings) -> list[Figure]:
    """The blocked device gets addresses, and sends from each at once."""
    device = bed.lab.device(DEVICE)
    count = 2 if settings.quick else 20
    figures = []
    for name in BACKENDS:
        with bed.daemon(backend(name)) as running, client(running) as link:
            bed.warm_up()
            free = _bursts(bed, device, 1, 0)
            rule = link.call("add_rule", {"device": device.mac, "action": "block"})
            try:
                blocked = _bursts(bed, device, count, 1)
            finally:
                link.call("remove_rule", {"id": rule["id"]})
        for family, (before, _), (passed, sent) in zip((4, 6), free, blocked, strict=True):
            if not before:
                raise RuntimeError(f"IPv{family}: a new address reached nobody before the device was blocked")
            figures.append(
                Figure(
                    "block-later",
                    f"packets from addresses that come later, IPv{family}, {name}",
                    (passed,),
                    "",
                    exactly(0),
                    0,
                    f"of {sent:,} from {count} new addresses",
                )
            )
    return figures


def _bursts(bed: Bed, device: Device, count: int, first: int) -> list[tuple[int, int]]:
    """For each family, packets that arrived and that were sent, from ``count`` new addresses."""
    found = []
    for family in (4, 6):
        passed = sent = 0
        host = load.target(family)
        target = bytes_of(host)
        with Sniffer(bed.lab.internet, plan.INTERNET_INTERFACE) as there:
            for number in range(first, first + count):
                address = later_addresses(number)[family == 6]
                words = [f"{address}/{24 if family == 4 else 64}", "dev", plan.DEVICE_INTERFACE]
                device.run(["ip", "addr", "add", *words, *(["nodad"] if family == 6 else [])])
                try:
                    said = bed.run(device, "streams.burst", host=host, sources=[address], count=5)
                finally:
                    device.run(["ip", "addr", "del", *words])
                sent += said["sent"]
            time.sleep(0.2)
            passed += sum(one.target == target for one in there.take())
        found.append((passed, sent))
    return found


def bytes_of(address: str) -> bytes:
    """An address in text, packed."""
    return ip_address(address).packed


ROWS = [
    Row("block-device", "a device is blocked while it transfers: what passes after the reply", device),
    Row("block-later", "a blocked device gets new addresses", later),
]
