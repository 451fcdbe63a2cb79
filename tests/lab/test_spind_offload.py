# SPDX-License-Identifier: GPL-2.0-or-later
"""spind on a gateway that forwards through a flow table, as OpenWrt does: nothing may go uncounted, and
nothing that is blocked may go on.

This needs a kernel with nft flow tables; in the virtual machine there is one.
"""

import os
import time
from collections.abc import Iterator

import pytest
from endless import Arrival, Running, Watch, again
from spind_home import Home

from spind.lab import Lab, load
from spind.lab.errors import LabError
from spind.lab.node import wait_until
from spind.lab.patience import patient

pytestmark = [pytest.mark.lab, pytest.mark.vm]


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    try:
        lab = Lab(offload=True)
        lab.up()
    except LabError as error:
        if "SPIND_VM" in os.environ:
            raise
        pytest.skip(f"no flow tables in this kernel: {error}")
    try:
        fresh = Home(lab)
        fresh.start()
        yield fresh
        fresh.stop()
    finally:
        lab.down()


@pytest.mark.parametrize("family", [4, 6])
def test_bytes_of_offloaded_connections_are_counted(home: Home, family: int) -> None:
    size = round(50_000_000 / patient(1))
    with home.counting() as grown:
        load.bulk(home.lab, "tv", size, family=family)
        load.bulk(home.lab, "tv", size, family=family, upload=True)
        kernel, counted = grown()["tv", family]
    assert counted == kernel
    assert min(counted[:2]) > size


def test_capture_runs_on_nft_queue(home: Home) -> None:
    capture = home.call("status")["capture"]
    assert capture["backend"] == "nftables"
    assert capture["received"] > 0


TO = {4: "198.18.0.71", 6: "2001:db8:2:1::71"}
BESIDE = {4: "198.18.0.72", 6: "2001:db8:2:1::72"}


def offloaded(home: Home, address: str) -> int:
    """How many connections with ``address`` the flow table forwards."""
    family = "ipv6" if ":" in address else "ipv4"
    listed = home.lab.gateway.run(["conntrack", "-L", "-f", family]).stdout
    return sum(f"dst={address} " in line and "[OFFLOAD]" in line for line in listed.splitlines())


def passed(watch: Watch, address: str, since: float) -> list[Arrival]:
    """What came from the device; resets are the gateway's, so that the peer learns."""
    return [each for each in watch.arrivals(address, since) if each.kind != "reset"]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("what", ["device", "pair", "address"])
def test_a_block_cuts_what_is_offloaded(home: Home, what: str, family: int) -> None:
    """From the reply on, nothing passes: neither way, of TCP or UDP."""
    to, beside = TO[family], BESIDE[family]
    device = "phone" if what == "device" else "tv"
    mac = home.lab.device(device).mac
    rule = {"device": {"device": mac}, "pair": {"device": mac, "ip": to}, "address": {"ip": to}}[what]
    with Watch(home) as watch, Running(home, device, to) as run, Running(home, "tv", beside) as other:
        for each in (run, other):
            wait_until(lambda: offloaded(home, each.address) >= 2, 20, "the flow table to take over")  # noqa: B023
        run.go_on()
        assert watch.arrivals(to)
        made = home.call("add_rule", action="block", **rule)
        replied = time.time()
        run.go_on()
        other.go_on()
        assert passed(watch, to, replied) == []
        assert run.arrived < replied
        assert {arrival.kind for arrival in watch.arrivals(beside, replied)} >= {"tcp", "udp"}
        assert other.arrived > replied
        assert offloaded(home, beside) >= 2
    home.call("remove_rule", id=made["id"])


def test_what_was_blocked_while_the_daemon_was_away_is_cut_when_it_is_back(home: Home) -> None:
    to = TO[4]
    with Watch(home) as watch, Running(home, "tv", to) as run:
        wait_until(lambda: offloaded(home, to) >= 2, 20, "the flow table to take over")
        home.spind.stop()
        text = home.spind.config.read_text()
        section = f"\nconfig rule\n\toption ip '{to}'\n\toption action 'block'\n"
        home.spind.config.write_text(text + section)
        again(home)
        home.settle()
        settled = time.time()
        run.go_on()
        assert passed(watch, to, settled) == []
        assert run.arrived < settled
    home.spind.config.write_text(text)
