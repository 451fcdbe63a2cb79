# SPDX-License-Identifier: GPL-2.0-or-later
"""Interfaces, addresses, neighbours and leases, as a real kernel and real files tell them."""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from capture_net import CLIENT, GATEWAY, SERVER, SmallNet, net, run, tool, until

from spind.events import LeaseSeen, LocalAddresses, NeighbourGone, NeighbourSeen
from spind.model import parse_address, parse_mac
from spind.neighbours import NeighbourEvent, NeighbourWatcher

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]
__all__ = ["net"]  # a fixture

Kind = TypeVar("Kind", bound=NeighbourEvent)


class Told:
    def __init__(self) -> None:
        self.events: list[NeighbourEvent] = []
        self.interfaces: list[tuple[str, ...]] = []

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]


@contextlib.contextmanager
def watching(
    told: Told, lan: tuple[str, ...] = ("lan",), mode: str = "router", leases: tuple[Path, ...] = ()
) -> Iterator[NeighbourWatcher]:
    watcher = NeighbourWatcher(
        asyncio.get_running_loop(),
        told.events.append,
        lan,
        mode,
        on_interfaces=told.interfaces.append,
        network_config=Path("/nonexistent"),
        lease_files=leases,
    )
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.stop()


def mac_of(namespace: str) -> bytes:
    (text,) = re.findall(r"link/ether (\S+)", tool("ip", "-n", namespace, "link", "show", "end"))
    return parse_mac(text)


def test_neighbours_of_the_home_are_seen_and_go(net: SmallNet) -> None:
    told = Told()

    async def test() -> None:
        assert await net.ping(GATEWAY[4], 1) == 1  # one that is known when we start
        with watching(told):
            mac = mac_of(net.client)
            assert NeighbourSeen(parse_address(CLIENT[4]), mac) in told.events
            assert await net.ping(GATEWAY[6], 1) == 1
            assert await net.ping(SERVER[4], 1) == 1
            await until(lambda: NeighbourSeen(parse_address(CLIENT[6]), mac) in told.events)
            tool("ip", "neigh", "del", CLIENT[4], "dev", "lan")
            await until(lambda: told.of(NeighbourGone))
            assert told.of(NeighbourGone)[0] == NeighbourGone(parse_address(CLIENT[4]), mac)
            # The server is a neighbour, too, but not the home's.
            assert "REACHABLE" in tool("ip", "neigh", "show", SERVER[4]) or tool(
                "ip", "neigh", "show", SERVER[4]
            )
            assert {event.mac for event in told.of(NeighbourSeen)} == {mac}

    run(net.gateway, test)


def test_a_device_that_changes_its_mac_is_seen_anew(net: SmallNet) -> None:
    told = Told()

    async def test() -> None:
        with watching(told):
            for mac in ("02:00:00:00:00:01", "02:00:00:00:00:02"):
                tool("ip", "neigh", "replace", "10.77.1.50", "lladdr", mac, "dev", "lan", "nud", "stale")
            await until(lambda: len(told.of(NeighbourSeen)) == 2)
            assert [event.mac[5] for event in told.of(NeighbourSeen)] == [1, 2]

    run(net.gateway, test)


def test_own_addresses_and_prefixes(net: SmallNet) -> None:
    told = Told()

    async def test() -> None:
        with watching(told):
            local = told.of(LocalAddresses)[-1]
            assert told.events[0] == local, "addresses first"
            assert {parse_address(text) for text in (*GATEWAY.values(), "10.77.2.1")} <= local.addresses
            assert (parse_address("10.77.1.0"), 24) in local.prefixes
            assert (parse_address("fd77:1::"), 64) in local.prefixes
            assert (parse_address("10.77.2.0"), 24) not in local.prefixes
            assert parse_address("127.0.0.1") not in local.addresses
            assert len(local.macs) == 2
            tool("ip", "addr", "add", "192.168.9.1/26", "dev", "lan")
            await until(lambda: (parse_address("192.168.9.0"), 26) in told.of(LocalAddresses)[-1].prefixes)
            tool("ip", "addr", "del", "192.168.9.1/26", "dev", "lan")
            await until(lambda: parse_address("192.168.9.1") not in told.of(LocalAddresses)[-1].addresses)

    run(net.gateway, test)


def test_interfaces_of_the_home_come_and_go(net: SmallNet, caplog: pytest.LogCaptureFixture) -> None:
    told = Told()

    async def test() -> None:
        with watching(told, ("lan", "guest")) as watcher:
            assert "no network or interface guest" in caplog.text
            assert told.interfaces == [("lan",)]
            assert watcher.is_lan(socket.if_nametoindex("lan"))
            assert not watcher.is_lan(socket.if_nametoindex("wan"))
            tool("ip", "link", "add", "br-guest", "type", "bridge")
            await until(lambda: told.interfaces[-1] == ("br-guest", "lan"))
            index = socket.if_nametoindex("br-guest")
            assert watcher.is_lan(index)
            tool("ip", "link", "del", "br-guest")
            await until(lambda: told.interfaces[-1] == ("lan",))
            assert not watcher.is_lan(index)

    run(net.gateway, test)


def test_lost_events_are_made_up_for(net: SmallNet) -> None:
    told = Told()

    async def test() -> None:
        with watching(told) as watcher:
            tool("ip", "neigh", "replace", "10.77.1.200", "lladdr", "02:00:00:00:00:c8", "dev", "lan")
            await until(lambda: told.of(NeighbourSeen))
            # More events than the buffer takes, read by nobody until all are there.
            lines = [
                f"neigh {verb} 10.77.1.{host} lladdr 02:00:00:00:{turn % 256:02x}:{host:02x} dev lan"
                for turn in range(16)
                for host in range(100, 190)
                for verb in ("replace",)
            ]
            for _again in range(4):
                tool("ip", "-batch", "-", text="\n".join(lines))
            tool("ip", "neigh", "del", "10.77.1.200", "dev", "lan")
            await until(lambda: watcher.counters()["neighbours.overruns"])
            await until(lambda: told.of(NeighbourGone))
            assert told.of(NeighbourGone)[-1].address == parse_address("10.77.1.200")
            last = {event.address: event.mac for event in told.of(NeighbourSeen)}
            for host in range(100, 190):
                assert last[parse_address(f"10.77.1.{host}")] == bytes([2, 0, 0, 0, 15, host])

    run(net.gateway, test)


def test_leases_are_read_when_they_are_written(net: SmallNet, tmp_path: Path) -> None:
    told = Told()
    file = tmp_path / "dhcp.leases"
    os.mkfifo(tmp_path / "pipe")

    async def test() -> None:
        with watching(told, leases=(file, tmp_path / "pipe")):
            assert told.of(LeaseSeen) == []
            file.write_text("0 02:00:00:00:00:07 10.77.1.7 plug *\n1 02:00:00:00:00:08 10.77.1.8 expired *\n")
            await until(lambda: told.of(LeaseSeen))
            wanted = LeaseSeen(parse_mac("02:00:00:00:00:07"), parse_address("10.77.1.7"), "plug")
            assert told.of(LeaseSeen) == [wanted]
            with file.open("a") as more:
                more.write("0 02:00:00:00:00:09 10.77.1.9 \x1b[2J *\n")
            await until(lambda: len(told.of(LeaseSeen)) == 2)
            assert told.of(LeaseSeen)[1].hostname == ""

    run(net.gateway, test)


@pytest.mark.parametrize("mode", ["bridge", "local"])
def test_neighbours_are_nobodys_devices_in_other_modes(net: SmallNet, mode: str) -> None:
    told = Told()

    async def test() -> None:
        with watching(told, mode=mode) as watcher:
            assert await net.ping(GATEWAY[4], 1) == 1
            tool("ip", "addr", "add", "192.168.9.1/26", "dev", "lan")
            await until(lambda: parse_address("192.168.9.1") in told.of(LocalAddresses)[-1].addresses)
            assert told.of(NeighbourSeen) == []
            assert watcher.is_lan(socket.if_nametoindex("lan")) == (mode == "bridge")

    run(net.gateway, test)
