# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts of the real kernel: equal to its own counters, whatever happens to dumps and events."""

import asyncio
import contextlib
import logging
import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from capture_net import CLIENT, PATIENCE, SERVER, SmallNet, inside, net, run, set_net, tool, until

from spind.conntrack import ConntrackReader
from spind.events import ConnDelta, Traffic, TrafficEnd
from spind.model import ConnKey, parse_address

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]
__all__ = ["net"]  # a fixture

PORT = 7000

# What the kernel itself counts, where it forwards. It tracks connections once a rule asks for them.
COUNTERS = """
table inet truth {
    chain forward {
        type filter hook forward priority 300; policy accept;
        ct state new
        iifname "lan" meta nfproto ipv4 counter comment "up4"
        iifname "wan" meta nfproto ipv4 counter comment "down4"
        iifname "lan" meta nfproto ipv6 counter comment "up6"
        iifname "wan" meta nfproto ipv6 counter comment "down6"
    }
}
"""


def truth() -> dict[str, tuple[int, int]]:
    """Packets and bytes by name."""
    listing = tool("nft", "list", "table", "inet", "truth")
    found = re.findall(r'packets (\d+) bytes (\d+) comment "(\w+)"', listing)
    return {name: (int(packets), int(size)) for packets, size, name in found}


class Counted:
    """What a reader told, summed up like the kernel's counters, of forwarded connections only."""

    def __init__(self) -> None:
        self.deltas: list[ConnDelta] = []
        self.ends: list[TrafficEnd] = []

    def __call__(self, event: Traffic | TrafficEnd) -> None:
        if isinstance(event, Traffic):
            self.deltas += event.deltas
        else:
            self.ends.append(event)

    def sums(self) -> dict[str, tuple[int, int]]:
        totals = {"up4": (0, 0), "down4": (0, 0), "up6": (0, 0), "down6": (0, 0)}
        homes = [parse_address(CLIENT[4]), parse_address(CLIENT[6])]
        for delta in self.deltas:
            version = 4 if len(delta.key.src) == 4 else 6
            ours = delta.key.src in homes
            sides = (delta[2:4], delta[4:6]) if ours else (delta[4:6], delta[2:4])
            for name, (packets, size) in zip((f"up{version}", f"down{version}"), sides, strict=True):
                totals[name] = totals[name][0] + packets, totals[name][1] + size
        return totals

    async def next_dumps(self, number: int = 2) -> None:
        """Wait for so many dumps to end: of two, the second began after this call."""
        wanted = len(self.ends) + number
        await until(lambda: len(self.ends) >= wanted, "the end of a dump")

    async def equal_truth(self) -> None:
        await until(lambda: self.sums() == truth(), f"{self.sums()} is not {truth()}")


@contextlib.contextmanager
def reader(counted: Callable[[Traffic | TrafficEnd], None], **options: int) -> Iterator[ConntrackReader]:
    tool("nft", "-f", "-", text=COUNTERS)
    made = ConntrackReader(asyncio.get_running_loop(), counted, 0.1, **options)
    made.start()
    try:
        yield made
    finally:
        made.stop()


async def transfer(net: SmallNet, version: int, size: int, port: int = PORT) -> None:
    """Send ``size`` bytes up and a quarter of it down over TCP, and close."""
    loop = asyncio.get_running_loop()
    listener = net.listener(net.server, version, port)
    near, far = await net.connect(version, port, listener)

    async def pump(source: socket.socket, sink: socket.socket, amount: int) -> None:
        sending = asyncio.ensure_future(loop.sock_sendall(source, bytes(amount)))
        got = 0
        while got < amount:
            got += len(await asyncio.wait_for(loop.sock_recv(sink, 1 << 18), PATIENCE))
        await sending

    await asyncio.gather(pump(near, far, size), pump(far, near, size // 4))
    near.close()
    far.close()
    listener.close()


@pytest.mark.vm
@pytest.mark.parametrize("version", [4, 6])
def test_every_byte_and_packet_is_counted(net: SmallNet, version: int) -> None:
    async def test() -> None:
        counted = Counted()
        with reader(counted) as made:
            await counted.next_dumps()
            await transfer(net, version, 8 << 20)
            one, other = net.udp(net.client, version), net.udp(net.server, version, PORT)
            for number in range(50):
                one.sendto(bytes(number), (SERVER[version], PORT))
                _, source = await asyncio.get_running_loop().sock_recvfrom(other, 100)
                other.sendto(bytes(2 * number), source[:2])
            assert await net.ping(SERVER[version], 3) == 3
            await counted.equal_truth()
            keys = {delta.key for delta in counted.deltas}
            client, server = parse_address(CLIENT[version]), parse_address(SERVER[version])
            assert ConnKey(17, client, one.getsockname()[1], server, PORT) in keys
            echo = (8 if version == 4 else 128) << 8
            assert len({key for key in keys if key.dport == echo and key.src == client}) == 3
            assert made.counters()["conntrack.malformed"] == 0

    run(net.gateway, test)


def test_translated_connections_have_the_keys_that_devices_know(net: SmallNet) -> None:
    """Source NAT hides the device, destination NAT the server: neither shows."""

    async def test() -> None:
        tool("nft", "-f", "-", text="""
            table ip nat {
                chain post { type nat hook postrouting priority 100; oifname "wan" masquerade; }
                chain pre { type nat hook prerouting priority -100; ip daddr 198.51.100.9 dnat to 10.77.2.2; }
            }""")  # fmt: skip
        counted = Counted()
        with reader(counted):
            await counted.next_dumps()
            one, other = net.udp(net.client, 4), net.udp(net.server, 4, PORT)
            one.sendto(b"x" * 72, ("198.51.100.9", PORT))
            _, source = await asyncio.get_running_loop().sock_recvfrom(other, 100)
            assert source[0] == "10.77.2.1"
            await until(lambda: counted.deltas)
            (delta,) = counted.deltas
            assert delta.key == ConnKey(
                17, parse_address(CLIENT[4]), one.getsockname()[1], parse_address(SERVER[4]), PORT
            )
            assert delta[2:4] == (1, 100)

    run(net.gateway, test)


def test_short_connections_are_counted_by_their_end(net: SmallNet) -> None:
    """They come and go between two dumps."""

    async def test() -> None:
        counted = Counted()
        with reader(counted) as made:
            await counted.next_dumps()
            made.set_interval(60)
            await counted.next_dumps(1)
            before = len(counted.ends)
            for version in (4, 6):
                sender, sink = net.udp(net.client, version), net.udp(net.server, version, PORT)
                for _round in range(5):
                    for _datagram in range(10):
                        sender.sendto(b"y" * 100, (SERVER[version], PORT))
                    await until(lambda v=version: truth()[f"up{v}"][0] % 10 == 0 and truth()[f"up{v}"][0])
                    tool("conntrack", "-F")
                sender.close()
                sink.close()
            await counted.equal_truth()
            assert len(counted.ends) == before
            assert sum(delta.ended for delta in counted.deltas) >= 10

    run(net.gateway, test)


def test_a_flood_of_connections_is_counted_whole(net: SmallNet) -> None:
    """8,000 connections that live a second or two, while dumps go on."""

    async def test() -> None:
        set_net("netfilter/nf_conntrack_udp_timeout", "1")
        counted = Counted()
        with reader(counted) as made:
            await counted.next_dumps()
            net.udp(net.server, 4, PORT)
            for _burst in range(80):
                for _one in range(100):
                    with inside(net.client):
                        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    sender.sendto(b"z" * 50, (SERVER[4], PORT))
                    sender.close()
                await asyncio.sleep(0.005)
            await until(lambda: truth()["up4"][0] == 8_000)
            await counted.equal_truth()
            tool("conntrack", "-F")
            await counted.next_dumps()
            await counted.equal_truth()
            assert made.counters()["conntrack.overruns"] == 0
            assert len({delta.cid for delta in counted.deltas}) > 5_000  # ports are drawn, some twice

    run(net.gateway, test)


def test_reading_changes_nothing_for_other_readers(net: SmallNet) -> None:
    async def test() -> None:
        counted = Counted()
        with reader(counted):
            await counted.next_dumps()
            sender = net.udp(net.client, 4)
            net.udp(net.server, 4, PORT)
            for _datagram in range(7):
                sender.sendto(b"z" * 72, (SERVER[4], PORT))
            await counted.equal_truth()
            await counted.next_dumps(3)
            assert "packets=7 bytes=700" in tool("conntrack", "-L", "-p", "udp")

    run(net.gateway, test)


def test_lost_events_are_noticed_and_the_living_are_counted_once(net: SmallNet) -> None:
    async def test() -> None:
        counted = Counted()
        with reader(counted, event_buffer=8_192) as made:
            await counted.next_dumps()
            net.udp(net.server, 4, PORT)
            living = [net.udp(net.client, 4) for _ in range(20)]
            dying = [net.udp(net.client, 4) for _ in range(100)]
            for sender in (*living, *dying):
                sender.sendto(b"q" * 72, (SERVER[4], PORT))
            await counted.equal_truth()
            # While nobody reads, the ends of 100 connections find room for some 10.
            for sender in dying:
                port = str(sender.getsockname()[1])
                sender.sendto(b"q" * 172, (SERVER[4], PORT))
                tool("conntrack", "-D", "-p", "udp", "--orig-port-src", port)
            for sender in living:
                sender.sendto(b"q" * 272, (SERVER[4], PORT))
            await until(lambda: any(end.resynced for end in counted.ends), "a resynchronisation")
            assert made.counters()["conntrack.overruns"] >= 1
            ports = {sender.getsockname()[1] for sender in living}
            sums = dict.fromkeys(ports, 0)
            for delta in counted.deltas:
                if delta.key.sport in ports:
                    sums[delta.key.sport] += delta.orig_bytes
            assert set(sums.values()) == {100 + 300}
            ended = [delta for delta in counted.deltas if delta.ended]
            assert 0 < len(ended) < 100
            assert made.counters()["conntrack.resyncs"] == 1
            # Lost: what the dying moved since the last dump. Never: counted twice.
            (_, wanted), (_, got) = truth()["up4"], counted.sums()["up4"]
            assert wanted - 100 * 200 <= got < wanted

    run(net.gateway, test)


def test_counts_are_right_after_a_stop_under_load(net: SmallNet) -> None:
    """As with SIGSTOP: nothing is read for a while, though connections come and go."""

    async def test() -> None:
        counted = Counted()
        with reader(counted) as made:
            await counted.next_dumps()
            net.udp(net.server, 4, PORT)
            steady = net.udp(net.client, 4)
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                steady.sendto(b"s" * 500, (SERVER[4], PORT))
                for _one in range(20):
                    with inside(net.client):
                        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    sender.sendto(b"z" * 50, (SERVER[4], PORT))
                    sender.close()
                select.select([], [], [], 0.01)
                if int(deadline - time.monotonic()) == 1:
                    tool("conntrack", "-F")
            await counted.equal_truth()
            assert made.counters()["conntrack.overruns"] == 0

    run(net.gateway, test)


def test_what_was_moved_before_the_start_is_not_counted(net: SmallNet) -> None:
    async def test() -> None:
        set_net("netfilter/nf_conntrack_acct", "1")
        tool("nft", "-f", "-", text=COUNTERS)
        sender = net.udp(net.client, 4)
        net.udp(net.server, 4, PORT)
        sender.sendto(b"z" * 1000, (SERVER[4], PORT))
        tool("nft", "delete", "table", "inet", "truth")
        counted = Counted()
        with reader(counted):
            await counted.next_dumps()
            (first,) = counted.deltas
            assert first[2:] == (0, 0, 0, 0, False)
            assert first.key.sport == sender.getsockname()[1]
            sender.sendto(b"z" * 72, (SERVER[4], PORT))
            await counted.equal_truth()
            assert counted.sums()["up4"] == (1, 100)

    run(net.gateway, test)


def test_accounting_is_switched_on_and_said(net: SmallNet, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        set_net("netfilter/nf_conntrack_acct", "0")
        set_net("netfilter/nf_conntrack_events", "0")
        caplog.set_level(logging.INFO)
        counted = Counted()
        with reader(counted):
            for name in ("acct", "events"):
                assert Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}").read_text().strip() == "1"
            assert "accounting was off" in caplog.text
            sender = net.udp(net.client, 4)
            net.udp(net.server, 4, PORT)
            await counted.next_dumps()
            sender.sendto(b"z" * 72, (SERVER[4], PORT))
            await counted.equal_truth()
            tool("conntrack", "-F")
            await until(lambda: any(delta.ended for delta in counted.deltas))
            assert Path("/proc/sys/net/netfilter/nf_conntrack_acct").read_text().strip() == "1"

    run(net.gateway, test)
