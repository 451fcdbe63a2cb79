# SPDX-License-Identifier: GPL-2.0-or-later
"""What devices do is repeatable, bounded, told truly, and counted by the kernel to the byte."""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest

from spind.lab import DEFAULT_DEVICES, Lab, LabError, behaviours, counters, plan, traffic

PEERS = [spec.name for spec in DEFAULT_DEVICES]
GATEWAY = {plan.GATEWAY4, plan.GATEWAY6, plan.GATEWAY_ULA6}


@pytest.mark.parametrize("kind", behaviours.KINDS)
@pytest.mark.parametrize("misbehave", ["", *behaviours.MISBEHAVIOURS])
def test_actions_depend_on_the_seed_alone(kind: str, misbehave: str) -> None:
    first = behaviours.actions(kind, "it", 7, 60, PEERS, misbehave)
    assert first == behaviours.actions(kind, "it", 7, 60, list(reversed(PEERS)), misbehave)
    assert first != behaviours.actions(kind, "it", 8, 60, PEERS, misbehave)
    assert first != behaviours.actions(kind, "other", 7, 60, PEERS, misbehave)


@pytest.mark.parametrize("kind", behaviours.KINDS)
@pytest.mark.parametrize("misbehave", behaviours.MISBEHAVIOURS)
def test_actions_are_in_order_and_bounded(kind: str, misbehave: str) -> None:
    actions = behaviours.actions(kind, "it", 1, 1e6, PEERS, misbehave)
    assert 0 < len(actions) <= behaviours.MAX_ACTIONS
    assert all(one.at <= other.at for one, other in pairwise(actions))
    assert all(0 <= action.at < 1e6 and action.size <= 1_500_000 for action in actions)
    assert all(action.count <= 60_000 and len(action.targets) <= 2000 for action in actions)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(LabError, match="camera"):
        behaviours.actions("toaster", "it", 1, 10, PEERS)
    with pytest.raises(LabError, match="portscan"):
        behaviours.actions("tv", "it", 1, 10, PEERS, "arson")


class Busy(NamedTuple):
    """What ``busy`` gives."""

    lab: Lab
    before: dict[str, dict[str, dict[int, counters.Counts]]]
    report: traffic.Report
    connections: list[str]


@pytest.fixture(scope="module")
def busy() -> Iterator[Busy]:
    """A lab whose devices were busy, what they say they did, and each of their connections."""
    with Lab(seed=3) as lab:
        # Connections stay in the table until the test has read them, but for those that are
        # reset: their end is an event.
        tcp = dict.fromkeys(("tcp_timeout_time_wait", "tcp_timeout_close", "tcp_timeout_last_ack"), 600)
        rest = dict.fromkeys(("udp_timeout", "udp_timeout_stream", "icmp_timeout", "icmpv6_timeout"), 600)
        lab.set_conntrack_timeouts(**tcp, **rest)
        before = {scope: lab.kernel_counters(scope) for scope in counters.SCOPES}
        ends = lab.root / "data" / "ends"
        with ends.open("wb") as out:
            argv = ["conntrack", "-E", "-e", "DESTROY", "-b", "8388608"]
            events = lab.gateway.popen(argv, stdout=out, stderr=out)
        misbehave = {"plug": "portscan", "camera": "telnetscan", "tv": "flood", "hub": "names"}
        report = traffic.run(lab, 6, misbehave=misbehave)
        lines = []
        for family in ("ipv4", "ipv6"):
            lines += lab.gateway.run(["conntrack", "-L", "-f", family]).stdout.splitlines()
        events.terminate()
        events.wait(5)
        yield Busy(lab, before, report, lines + ends.read_text().splitlines())


@pytest.mark.lab
@pytest.mark.parametrize("scope", ["forward", "gateway"])
def test_the_kernel_counts_what_conntrack_accounts_for(busy: Busy, scope: str) -> None:
    lab, before, _, lines = busy
    owner = {address: d.name for d in lab.devices.values() for address in (d.ipv4, *d.ipv6)}
    sums: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for line in lines:
        src, dst = re.findall(r"src=(\S+)", line), re.findall(r"dst=(\S+)", line)
        if not src or src[0] not in owner or (dst[0] in GATEWAY) != (scope == "gateway"):
            continue
        sizes, packets = re.findall(r"bytes=(\d+)", line), re.findall(r"packets=(\d+)", line)
        total = sums[owner[src[0]], 6 if ":" in src[0] else 4]
        for index, value in enumerate((*sizes, *packets)):
            total[index] += int(value)
    counted = lab.kernel_counters(scope)
    for name, families in counted.items():
        for family, counts in families.items():
            # What was there before is DHCP, from addresses that are not the device's.
            difference = [after - old for after, old in zip(counts, before[scope][name][family], strict=True)]
            assert difference == sums[name, family]
    if scope == "forward":
        assert counted["tv"][4][0] > 18_000_000  # the flood was there
        assert counted["camera"][4][2] > 600  # and so was the scan


@pytest.mark.lab
def test_devices_do_what_their_kind_does(busy: Busy) -> None:
    report = busy.report
    did = {name: {entry["do"] for entry in entries} for name, entries in report.items()}
    assert did["camera"] == {"upload", "datagrams", "scan"}
    assert did["plug"] == {"upload", "datagrams", "scan"}
    assert did["tv"] == {"fetch", "flood"}
    assert did["phone"] == {"fetch", "datagrams"}
    assert {"multicast", "fetch", "names"} <= did["hub"] <= {"multicast", "fetch", "names", "connect", "ping"}
    fetched = [entry for entry in report["phone"] if entry["do"] == "fetch"]
    assert {entry["family"] for entry in fetched} == {4, 6}
    failures = {e["error"] for entries in report.values() for e in entries if e["do"] != "scan"}
    assert failures == {""}


@pytest.mark.lab
def test_the_servers_saw_what_the_devices_say(busy: Busy) -> None:
    lab, report = busy.lab, busy.report
    peers = {
        (p["proto"], p["local"], p["local_port"], p["remote"], p["remote_port"]): p
        for p in lab.server_status()["peers"]
    }
    checked = 0
    for entry in report["camera"]:
        if entry["do"] != "upload":
            continue
        local = plan.WAN4 if entry["family"] == 4 else entry["local"][0]
        peer = peers["tcp", *entry["remote"], local, entry["local"][1]]
        assert (peer["received"], peer["sent"]) == (entry["sent"], entry["received"])
        assert (peer["name"], entry["evidence"]) == ("cam.vendor.test", "sni")
        checked += 1
    assert checked > 1


@pytest.mark.lab
@pytest.mark.parametrize("seconds", [0, -1, 1e9])
def test_traffic_without_bound_is_refused(lab: Lab, seconds: float) -> None:
    with pytest.raises(LabError, match="seconds"):
        traffic.Traffic(lab, seconds)


@pytest.mark.lab
def test_leaving_early_ends_the_devices(lab: Lab) -> None:
    with traffic.Traffic(lab, 60, only=("plug",)) as running:
        assert running.busy()
    assert not running.busy()
