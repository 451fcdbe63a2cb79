# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports of a real kernel's rules: what is logged comes here, with who sent it."""

import asyncio
import contextlib
import os
import re
from collections.abc import Iterator

import pytest
from capture_net import CLIENT, SERVER, SmallNet, net, run, tool, until

from spind.block_log import COPY_BYTES, BlockedSeen, BlockLog
from spind.model import parse_address, parse_mac

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]
__all__ = ["net"]  # a fixture

GROUP = 70
PORT = 7000

RULES = f"""
table inet reports {{
    chain forward {{
        type filter hook forward priority 0;
        iifname "lan" meta l4proto {{ udp, tcp }} log prefix "spin up" group {GROUP} drop
        iifname "wan" meta l4proto {{ udp, tcp }} log prefix "spin down" group {GROUP} drop
    }}
    chain output {{
        type filter hook output priority 0;
        oifname "lan" udp dport {PORT} log prefix "spin down" group {GROUP}
    }}
}}
"""


def install(backend: str) -> None:
    if backend == "nftables":
        tool("nft", "-f", "-", text=RULES)
        return
    for program in ("iptables-legacy", "ip6tables-legacy"):
        for port, prefix in (("lan", "spin up"), ("wan", "spin down")):
            for protocol in ("udp", "tcp"):
                rule = ("FORWARD", "-i", port, "-p", protocol)
                tool(
                    program, "-A", *rule, "-j", "NFLOG", "--nflog-group", str(GROUP), "--nflog-prefix", prefix
                )
                tool(program, "-A", *rule, "-j", "DROP")


def link(namespace: str, name: str, word: str) -> str:
    """An interface's MAC or index."""
    (found,) = re.findall(word, tool("ip", "-n", namespace, "link", "show", name))
    return str(found)


@contextlib.contextmanager
def logging_to(seen: list[BlockedSeen], net: SmallNet, group: int = GROUP) -> Iterator[BlockLog]:
    home = int(link(net.gateway, "lan", r"(?m)^(\d+):"))
    made = BlockLog(asyncio.get_running_loop(), group, seen.append, home.__eq__)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.vm
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_blocked_packets_are_reported(net: SmallNet, backend: str, version: int) -> None:
    async def test() -> None:
        install(backend)
        seen: list[BlockedSeen] = []
        mac = parse_mac(link(net.client, "end", r"link/ether (\S+)"))
        client, server = parse_address(CLIENT[version]), parse_address(SERVER[version])
        with logging_to(seen, net) as log:
            up, down = net.udp(net.client, version), net.udp(net.server, version)
            up.sendto(b"u" * 1000, (SERVER[version], PORT))
            await until(lambda: len(seen) == 1)
            down.sendto(b"d", (CLIENT[version], PORT))
            await until(lambda: len(seen) == 2)
            attempt = net.tcp(net.client, version)
            with contextlib.suppress(BlockingIOError):
                attempt.connect((SERVER[version], PORT))
            await until(lambda: len(seen) >= 3)
            first, second, third = seen[:3]
            headers = 48 if version == 6 else 28
            assert first.packet.key == (17, client, up.getsockname()[1], server, PORT)
            assert first.packet.length == 1000 + headers
            assert first.packet.payload == b"u" * (COPY_BYTES - headers)
            assert (first.mac, first.up) == (mac, True)
            assert second.packet.key == (17, server, down.getsockname()[1], client, PORT)
            assert (second.mac, second.up) == (None, False)
            assert third.packet.key == (6, client, attempt.getsockname()[1], server, PORT)
            assert third.packet.flags == 2
            assert third.up
            counters = log.counters()
            assert counters["block.log_malformed"] == counters["block.log_overflows"] == 0
            assert counters["block.reported"] == len(seen)

    run(net.gateway, test)


def test_what_the_gateway_sends_is_reported_without_a_mac(net: SmallNet) -> None:
    async def test() -> None:
        install("nftables")
        seen: list[BlockedSeen] = []
        with logging_to(seen, net):
            net.udp(net.gateway, 4).sendto(b"x", (CLIENT[4], PORT))
            await until(lambda: seen)
            assert (seen[0].mac, seen[0].up) == (None, False)

    run(net.gateway, test)


def test_many_are_reported_each(net: SmallNet) -> None:
    async def test() -> None:
        install("nftables")
        seen: list[BlockedSeen] = []
        with logging_to(seen, net) as log:
            sender = net.udp(net.client, 4)
            for number in range(500):
                sender.sendto(number.to_bytes(2, "big"), (SERVER[4], PORT))
            await until(lambda: len(seen) == 500)
            assert [report.packet.payload for report in seen] == [
                number.to_bytes(2, "big") for number in range(500)
            ]
            assert log.counters()["block.log_overflows"] == 0

    run(net.gateway, test)


def test_lost_reports_are_counted_and_later_ones_come(net: SmallNet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        install("nftables")
        seen: list[BlockedSeen] = []
        monkeypatch.setattr("spind.block_log._RECEIVE_BUFFER", 16_384)
        with logging_to(seen, net) as log:
            sender = net.udp(net.client, 4)
            for _number in range(500):
                sender.sendto(b"many", (SERVER[4], PORT))
            await until(lambda: log.counters()["block.log_overflows"])

            def again() -> bool:
                sender.sendto(b"last", (SERVER[4], PORT))  # the first may still find no room
                return any(report.packet.payload == b"last" for report in seen)

            await until(again)
            many = [report for report in seen if report.packet.payload == b"many"]
            assert 0 < len(many) < 500

    run(net.gateway, test)


def test_a_group_has_one_reader(net: SmallNet) -> None:
    async def test() -> None:
        install("nftables")
        seen: list[BlockedSeen] = []
        with logging_to(seen, net):
            with (
                pytest.raises(PermissionError, match=f"log group {GROUP} is used by another program"),
                logging_to([], net),
            ):
                pass
            with logging_to([], net, GROUP + 1):
                pass
        with logging_to(seen, net):  # it is free again
            net.udp(net.client, 4).sendto(b"x", (SERVER[4], PORT))
            await until(lambda: seen)
        os.seteuid(65_534)
        try:
            with pytest.raises(PermissionError, match=f"log group {GROUP}: Operation not permitted"):
                BlockLog(asyncio.get_running_loop(), GROUP, seen.append, bool).start()
        finally:
            os.seteuid(0)

    run(net.gateway, test)
