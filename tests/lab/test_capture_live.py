# SPDX-License-Identifier: GPL-2.0-or-later
"""What the real kernel hands to us, and that it never waits for us longer than it must."""

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from capture_net import (
    CLIENT,
    GATEWAY,
    IN_VM,
    MARK,
    PATIENCE,
    SmallNet,
    inside,
    net,
    run,
    set_net,
    tool,
    until,
)

from spind.capture import Capture, kernel_queue
from spind.capture_backend import CaptureRules
from spind.capture_iptables import IptablesRules
from spind.capture_nftables import NftablesRules
from spind.capture_rules import CLIENT_PACKETS, NEW_PACKETS, CaptureSpec
from spind.commands import Verdict
from spind.events import PacketSeen
from spind.model import parse_address, parse_mac
from spind.netlink_socket import set_receive_buffer

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]
__all__ = ["net"]  # a fixture

PORT = 8000
ACCEPT = Verdict(accept=True, done=False)
DONE = Verdict(accept=True, done=True)
BACKENDS = {"nftables": NftablesRules, "iptables": IptablesRules}
LISTS = (["iptables-legacy-save"], ["ip6tables-legacy-save"], ["nft", "list", "ruleset"])


# The virtual machine is for what this kernel lacks: iptables has its turn here.
@pytest.fixture(params=[pytest.param("nftables", marks=pytest.mark.vm), "iptables"])
def backend(request: pytest.FixtureRequest, net: SmallNet) -> str:
    """The name of a backend that this kernel has."""
    name: str = request.param
    with inside(net.gateway):
        try:
            BACKENDS[name]().probe(watched=True)
        except OSError as error:
            if IN_VM:
                raise
            pytest.skip(f"this kernel cannot: {error}")
    return name


class Seen:
    """What was captured. ``decide`` gives the verdicts."""

    def __init__(self, decide: Callable[[PacketSeen], Verdict] = lambda _event: ACCEPT) -> None:
        self.events: list[PacketSeen] = []
        self._decide = decide

    def __call__(self, event: PacketSeen) -> Verdict:
        self.events.append(event)
        return self._decide(event)

    def with_port(self, port: int) -> list[PacketSeen]:
        return [event for event in self.events if port in (event.packet.sport, event.packet.dport)]

    def payload(self, sport: int) -> bytes:
        return b"".join(event.packet.payload for event in self.events if event.packet.sport == sport)


class Capturing:
    def __init__(self, rules: CaptureRules, queues: list[Capture]) -> None:
        self.rules = rules
        self.queues = queues

    def total(self, name: str) -> int:
        return sum(queue.counters()[f"capture.{name}"] for queue in self.queues)


@contextlib.contextmanager
def capturing(
    seen: Seen, backend: str, mode: str = "router", lan: tuple[str, ...] = ("lan",)
) -> Iterator[Capturing]:
    """Both queues and the rules, as the daemon runs them."""
    loop = asyncio.get_running_loop()
    home = set() if mode == "local" else {socket.if_nametoindex("lan")}
    queues = [Capture(loop, number, seen, home.__contains__, done_mark=MARK) for number in (1, 2)]
    for queue in queues:
        queue.start()
        assert queue.fail_open
    rules = CaptureRules(loop, backend, CaptureSpec(mode, lan, 1, 2, MARK))
    rules.start()
    assert rules.backend == backend
    try:
        yield Capturing(rules, queues)
    finally:
        for queue in queues:
            queue.stop()
        rules.stop()
    assert kernel_queue(1) == kernel_queue(2) == {}


async def send(net: SmallNet, near: socket.socket, far: socket.socket, *pieces: bytes) -> bytes:
    """Send pieces in segments of their own, from ``near`` to ``far``."""
    loop = asyncio.get_running_loop()
    got = b""
    for piece in pieces:
        await loop.sock_sendall(near, piece)
        wanted = len(got) + len(piece)
        while len(got) < wanted:
            got += await asyncio.wait_for(loop.sock_recv(far, 65536), PATIENCE)
    return got


def ours() -> list[str]:
    """Lines of ours in the kernel's rules."""
    lines: list[str] = []
    for command in LISTS:
        if command[0] != "nft" or IN_VM or Path("/usr/sbin/nft").exists():
            lines += [line for line in tool(*command, check=False).splitlines() if "spin" in line.lower()]
    return lines


@pytest.mark.parametrize("version", [4, 6])
def test_first_packets_until_done(net: SmallNet, backend: str, version: int) -> None:
    seen = Seen(lambda event: DONE if b"please" in event.packet.payload else ACCEPT)

    async def test() -> None:
        listener = net.listener(net.server, version, PORT)
        with capturing(seen, backend):
            near, far = await net.connect(version, PORT, listener)
            await send(net, near, far, b"x", b"y", b"stop please", b"secret", b"more")
            await send(net, far, near, b"answer" * 100)
            near.close()
            far.close()
            packets = [event.packet for event in seen.with_port(PORT)]
            assert [packet.payload for packet in packets] == [b"", b"x", b"y", b"stop please"]
            assert packets[0].flags == 2
            address = parse_address(CLIENT[version])
            assert {packet.src for packet in packets} == {address}
            assert all(event.from_lan for event in seen.events)
            (mac,) = re.findall(r"link/ether (\S+)", tool("ip", "-n", net.client, "link", "show", "end"))
            assert {event.mac for event in seen.with_port(PORT)} == {parse_mac(mac)}

    run(net.gateway, test)


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_and_udp(net: SmallNet, backend: str, version: int) -> None:
    """An unanswered stream of UDP stays new for ever: its first packets are seen, not all."""
    seen = Seen()

    async def test() -> None:
        with capturing(seen, backend):
            one = net.udp(net.client, version)
            sink = net.udp(net.server, version, PORT)
            loop = asyncio.get_running_loop()
            for number in range(20):
                one.sendto(bytes([number]), (net.server_address[version], PORT))
                await asyncio.wait_for(loop.sock_recv(sink, 10), PATIENCE)
            assert [event.packet.payload[0] for event in seen.with_port(PORT)] == list(range(NEW_PACKETS))
            assert await net.ping(net.server_address[version], 2) == 2
            echo = (8 if version == 4 else 128) << 8
            pings = [event for event in seen.events if event.packet.dport == echo]
            assert len(pings) == 2
            # The outside opens a connection to the inside.
            inner = net.udp(net.client, version, PORT + 1)
            sink.sendto(b"hello", (CLIENT[version], PORT + 1))
            await asyncio.wait_for(loop.sock_recv(inner, 10), PATIENCE)
            (event,) = seen.with_port(PORT + 1)
            assert (event.from_lan, event.mac) == (False, None)

    run(net.gateway, test)


@pytest.mark.parametrize("version", [4, 6])
def test_dns_both_ways_through_and_with_the_gateway(net: SmallNet, backend: str, version: int) -> None:
    seen = Seen(lambda _event: DONE)  # of DNS, everything is wanted all the same

    async def test() -> None:
        loop = asyncio.get_running_loop()
        with capturing(seen, backend):
            for where, address in ((net.server, net.server_address), (net.gateway, GATEWAY)):
                seen.events.clear()
                client, resolver = net.udp(net.client, version), net.udp(where, version, 53)
                for number in range(10):
                    client.sendto(b"query%d" % number, (address[version], 53))
                    _, source = await asyncio.wait_for(loop.sock_recvfrom(resolver, 100), PATIENCE)
                    resolver.sendto(b"answer%d" % number, source[:2])
                    await asyncio.wait_for(loop.sock_recv(client, 100), PATIENCE)
                port = client.getsockname()[1]
                assert seen.payload(port) == b"".join(b"query%d" % n for n in range(10))
                assert seen.payload(53) == b"".join(b"answer%d" % n for n in range(10))
                resolver.close()

    run(net.gateway, test)


@pytest.mark.parametrize("version", [4, 6])
def test_dns_over_tcp_whole_and_in_small_segments(net: SmallNet, backend: str, version: int) -> None:
    seen = Seen(lambda _event: DONE)

    async def test() -> None:
        listener = net.listener(net.server, version, 53)
        with capturing(seen, backend):
            near, far = await net.connect(version, 53, listener)
            port = near.getsockname()[1]
            await send(net, near, far, b"\0", b"\x0bhello", b" world")
            assert seen.payload(port) == b"\0\x0bhello world"
            answer = os.urandom(30_000)
            await send(net, far, near, answer[:3], answer[3:])
            assert seen.payload(53) == answer
            await send(net, near, far, b"another")
            assert seen.payload(port).endswith(b"another")

    run(net.gateway, test)


def test_a_request_in_tiny_and_in_large_segments(net: SmallNet, backend: str) -> None:
    seen = Seen()

    async def test() -> None:
        listener = net.listener(net.server, 4, PORT)
        with capturing(seen, backend):
            near, far = await net.connect(4, PORT, listener)
            tiny = [bytes([number]) * 7 for number in range(40)]
            await send(net, near, far, *tiny)
            assert seen.payload(near.getsockname()[1]) == b"".join(tiny)
            near, far = await net.connect(4, PORT, listener)
            hello = os.urandom(4_000)  # three segments, or one that the client's kernel has not cut yet
            await send(net, near, far, hello)
            assert seen.payload(near.getsockname()[1]) == hello
            # One that is never done is let go.
            near, far = await net.connect(4, PORT, listener)
            await send(net, near, far, *[b"chunk"] * (CLIENT_PACKETS + 20))
            assert len(seen.payload(near.getsockname()[1])) <= CLIENT_PACKETS * len(b"chunk")

    run(net.gateway, test)


def test_marks_of_others_are_left_alone_and_ours_is_never_seen(net: SmallNet, backend: str) -> None:
    seen = Seen(lambda event: DONE if event.packet.payload else ACCEPT)

    async def test() -> None:
        tool("nft", "-f", "-", text="""
            table inet other {
                chain pre { type filter hook prerouting priority -160;
                    meta mark set 0x11; ct mark set ct mark | 0x5
                }
                chain late { type filter hook forward priority 10;
                    meta mark & 0x02000000 != 0 counter comment "ours"
                    meta mark != 0x11 counter comment "changed"
                }
                chain post { type filter hook postrouting priority 10;
                    meta mark & 0x02000000 != 0 counter comment "post"
                }
            }""")  # fmt: skip
        listener = net.listener(net.server, 4, PORT)
        with capturing(seen, backend):
            near, far = await net.connect(4, PORT, listener)
            await send(net, near, far, b"one", b"two", b"three")
            table = tool("conntrack", "-L", "-p", "tcp", "--orig-port-dst", str(PORT))
            assert f"mark={MARK | 5} " in table
        counters = tool("nft", "list", "table", "inet", "other")
        assert re.findall(r"packets (\d+)", counters) == ["0", "0", "0"]
        assert seen.payload(near.getsockname()[1]) == b"one"

    run(net.gateway, test)


def test_other_rules_judge_what_we_accept(net: SmallNet, backend: str) -> None:
    seen = Seen()

    async def test() -> None:
        tool("nft", "-f", "-", text=f"""
            table inet firewall {{
                chain forward {{ type filter hook forward priority 0; tcp dport {PORT} counter drop; }}
            }}""")  # fmt: skip
        with capturing(seen, backend):
            near = net.tcp(net.client, 4)
            with contextlib.suppress(BlockingIOError):
                near.connect((net.server_address[4], PORT))
            await until(lambda: seen.with_port(PORT), "the SYN")
            await until(
                lambda: "packets 0 " not in tool("nft", "list", "table", "inet", "firewall"), "its drop"
            )

    run(net.gateway, test)


def test_iptables_rules_of_others_in_the_same_chain_judge_every_packet(net: SmallNet) -> None:
    """As the one that clamps the MSS of a SYN, whether it was there before ours or came later."""
    seen = Seen(lambda _event: DONE)

    async def test() -> None:
        rule = ["-p", "tcp", "--dport", str(PORT), "--tcp-flags", "SYN,RST", "SYN", "-j", "TCPMSS"]
        add = ["iptables-legacy", "-t", "mangle", "-A", "FORWARD", *rule, "--set-mss", "900"]
        listener = net.listener(net.server, 4, PORT)

        async def clamped() -> bool:
            before = len(seen.events)
            near, far = await net.connect(4, PORT, listener)
            await send(net, near, far, b"x", b"y")
            assert len(seen.events) > before
            return far.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 900  # what its SYN said

        tool(*add)
        with capturing(seen, "iptables") as both:
            assert await clamped()
            assert "-A FORWARD -j SPIN_CAPTURE_FORWARD" in tool("iptables-legacy-save").splitlines()
            tool("iptables-legacy", "-t", "mangle", "-D", *add[4:])
            assert not await clamped()
            tool(*add)
            both.rules.check_order()
            lines = [line for line in tool("iptables-legacy-save").splitlines() if "-A FORWARD" in line]
            assert "TCPMSS" in lines[-2]
            assert "SPIN_CAPTURE_FORWARD" in lines[-1]
            assert await clamped()

    run(net.gateway, test)


def test_packets_that_nobody_understands_go_on(
    net: SmallNet, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_event: PacketSeen) -> Verdict:
        raise RuntimeError("a bug")

    async def test() -> None:
        with capturing(Seen(fail), backend) as both:
            assert await net.ping(net.server_address[4], 3) == 3
            assert both.total("failed") == 3
            # A TCP header of 4 bytes.
            with (
                inside(net.client),
                socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw,
            ):
                raw.sendto(b"\x1f\x90\x1f\x90" + bytes(16), (net.server_address[4], 0))
            one, sink = net.udp(net.client, 4), net.udp(net.server, 4, PORT)
            one.sendto(b"on", (net.server_address[4], PORT))
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sink, 9), PATIENCE) == b"on"
        assert caplog.text.count("handler failed") == 1

    run(net.gateway, test)


def test_a_verdict_can_drop(net: SmallNet, backend: str) -> None:
    async def test() -> None:
        with capturing(Seen(lambda _event: Verdict(accept=False, done=False)), backend) as both:
            assert await net.ping(net.server_address[4], 1, wait=0.3) == 0
            assert both.total("dropped") == 1

    run(net.gateway, test)


def test_no_packet_is_lost_at_the_start_and_at_the_end(net: SmallNet, backend: str) -> None:
    async def test() -> None:
        sink = net.udp(net.server, 4, PORT)
        set_receive_buffer(sink, 1 << 22)
        sent = 0

        def burst() -> None:
            nonlocal sent
            with inside(net.client):
                for _one in range(30):
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                        sock.sendto(b"%d" % sent, (net.server_address[4], PORT))
                    sent += 1

        seen = Seen()
        for _round in range(5):
            burst()
            with capturing(seen, backend):
                burst()
                await asyncio.sleep(0)
                burst()  # these wait in the queue when it is closed
            burst()
        missing = set(range(sent))

        def arrived() -> bool:
            with contextlib.suppress(BlockingIOError):
                while missing:
                    missing.remove(int(sink.recv(9)))
            return not missing

        await until(arrived, lambda: f"packets {sorted(missing)}")
        assert seen.events

    run(net.gateway, test)


def test_what_passes_unseen_is_counted(net: SmallNet, backend: str) -> None:
    seen = Seen()

    async def test() -> None:
        with capturing(seen, backend) as both:
            assert await net.ping(net.server_address[4], 4) == 4
            await until(lambda: len(seen.events) == 4)
            both.rules.look()
            assert both.rules.counters()["capture.bypassed"] == 0
            # The loop stands still until the dead man's switch is let go.
            select.select([], [], [], 1.3)
            sender = net.udp(net.client, 4)
            sender.sendto(b"unseen", (net.server_address[4], PORT))
            both.rules.look()
            assert both.rules.counters()["capture.bypassed"] == 1
            while len(seen.events) == 4:  # until it is held again
                assert await net.ping(net.server_address[4], 1) == 1
            both.rules.look()
            before = both.rules.counters()["capture.bypassed"]
            # A queue that nobody has.
            both.queues[1].stop()
            assert await net.ping(net.server_address[4], 3) == 3
            assert await net.ping(net.server_address[6], 2) == 2
            both.rules.look()
            assert both.rules.counters()["capture.bypassed"] == before + 5

    run(net.gateway, test)


def test_nothing_is_left_behind(net: SmallNet, backend: str) -> None:
    async def test() -> None:
        with capturing(Seen(), backend):
            assert ours()
        assert ours() == []

    run(net.gateway, test)


def test_rules_that_were_flushed_come_back(net: SmallNet, backend: str) -> None:
    seen = Seen()

    async def test() -> None:
        with capturing(seen, backend) as both:
            before = ours()
            if backend == "nftables":
                tool("nft", "flush", "ruleset")
            else:
                for command in ("iptables-legacy", "ip6tables-legacy"):
                    tool(command, "-t", "mangle", "-F")
            await until(lambda: both.rules.counters()["capture.rule_repairs"])
            assert len(ours()) == len(before)
            assert await net.ping(net.server_address[4], 1) == 1
            assert len(seen.events) == 1

    run(net.gateway, test)


def test_a_new_interface_is_captured(net: SmallNet, backend: str) -> None:
    seen = Seen()

    async def test() -> None:
        with capturing(seen, backend, lan=("not-yet",)) as both:
            assert await net.ping(net.server_address[4], 1) == 1
            assert seen.events == []
            both.rules.set_interfaces(("lan",))
            assert await net.ping(net.server_address[4], 1) == 1
            assert len(seen.events) == 1

    run(net.gateway, test)


# -- a daemon that is stopped, or killed --


@contextlib.asynccontextmanager
async def process(net: SmallNet, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    script = Path(__file__).with_name("capture_process.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    started = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", net.gateway, sys.executable, str(script), *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert started.stdin is not None
    assert started.stdout is not None
    try:
        assert await asyncio.wait_for(started.stdout.readline(), PATIENCE) == b"ready\n"
        yield started
    finally:
        if started.returncode is None:
            started.send_signal(signal.SIGCONT)
        started.stdin.close()
        await started.stdout.read()
        await asyncio.wait_for(started.wait(), PATIENCE)


def test_a_killed_daemon_stops_nothing_and_the_next_cleans_up(net: SmallNet, backend: str) -> None:
    async def test() -> None:
        for _round in range(2):
            async with process(net, backend, "watched") as daemon:
                assert await net.ping(net.server_address[4], 1) == 1
                daemon.kill()
                await daemon.wait()
                left = ours()
                assert left
                assert await net.ping(net.server_address[4], 5) == 5
        async with process(net, backend, "watched"):
            assert len(ours()) == len(left)
        assert ours() == []
        assert await net.ping(net.server_address[4], 1) == 1

    run(net.gateway, test)


@pytest.mark.parametrize("backend", [pytest.param("nftables", marks=pytest.mark.vm)], indirect=True)
def test_chains_that_an_older_version_hooked_elsewhere_are_moved(net: SmallNet, backend: str) -> None:
    """Which the kernel does not do: they go, and come back. Other chains of the table stay."""
    seen = Seen()

    async def test() -> None:
        tool("nft", "-f", "-", text="""
            table inet spin {
                counter capture_asked { }
                chain capture_forward { type filter hook forward priority mangle; jump capture_through; }
                chain capture_through { }
                chain block_forward { type filter hook forward priority -160; }
            }""")  # fmt: skip
        with capturing(seen, backend):
            listed = tool("nft", "-y", "list", "chain", "inet", "spin", "capture_forward")
            assert "hook forward priority -149;" in listed
            assert await net.ping(net.server_address[4], 1) == 1
            assert len(seen.events) == 1
        assert "block_forward" in tool("nft", "list", "table", "inet", "spin")

    run(net.gateway, test)


def test_the_other_backends_leftovers_go(net: SmallNet, backend: str) -> None:
    (other,) = set(BACKENDS) - {backend}

    async def test() -> None:
        with contextlib.suppress(OSError):
            BACKENDS[other]().probe(watched=True)
            async with process(net, other, "watched") as daemon:
                daemon.kill()
                await daemon.wait()
        with capturing(Seen(), backend):
            kinds = {line.strip().split()[0] for line in ours()}
            assert ("table" in kinds) == (backend == "nftables")
            assert any(line.startswith("-A") for line in ours()) == (backend == "iptables")

    run(net.gateway, test)


def test_a_stopped_daemon_holds_up_a_second_at_most(net: SmallNet, backend: str) -> None:
    async def test() -> None:
        async with process(net, backend, "watched") as daemon:
            daemon.send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + PATIENCE
            while not await net.ping(net.server_address[4], 1, wait=0.2):
                assert time.monotonic() < deadline
            assert await net.ping(net.server_address[4], 10, wait=0.5) == 10
            assert await net.ping(net.server_address[6], 10, wait=0.5) == 10
            daemon.send_signal(signal.SIGCONT)
            assert daemon.stdout is not None

            async def seen_again() -> None:
                while True:
                    assert await net.ping(net.server_address[4], 1) == 1
                    with contextlib.suppress(TimeoutError):
                        if await asyncio.wait_for(daemon.stdout.readline(), 0.2):
                            return

            await asyncio.wait_for(seen_again(), PATIENCE)

    run(net.gateway, test)


def test_a_full_queue_lets_packets_pass(net: SmallNet, backend: str) -> None:
    """Without the dead man's switch, the queue of a stopped daemon takes 16 packets and no more."""

    async def test() -> None:
        async with process(net, backend) as daemon:
            daemon.send_signal(signal.SIGSTOP)
            with inside(net.client):
                for number in range(16):
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                        sock.sendto(b"", (net.server_address[4], PORT + number))
            await until(lambda: kernel_queue(2).get("waiting") == 16)
            assert await net.ping(net.server_address[4], 10, wait=0.5) == 10
            daemon.send_signal(signal.SIGCONT)
            await until(lambda: kernel_queue(2).get("waiting") == 0)

    run(net.gateway, test)


# -- the other modes --


def test_a_bridge_sees_what_it_bridges(backend: str) -> None:
    seen = Seen(lambda event: DONE if event.packet.payload else ACCEPT)
    names = ("call-iptables", "call-ip6tables", "filter-vlan-tagged")

    def settings() -> list[str]:
        return [Path(f"/proc/sys/net/bridge/bridge-nf-{name}").read_text().strip() for name in names]

    async def test() -> None:
        tool("modprobe", "br_netfilter", check=False)
        for name in names:
            set_net(f"bridge/bridge-nf-{name}", "0")
        listener = net.listener(net.server, 4, PORT)
        with capturing(seen, backend, "bridge", ("br0",)):
            assert settings() == ["1", "1", "1"]
            near, far = await net.connect(4, PORT, listener)
            await send(net, near, far, b"one", b"two")
            assert seen.payload(near.getsockname()[1]) == b"one"
            assert all(event.from_lan and event.mac for event in seen.with_port(PORT))
            assert await net.ping(net.server_address[6], 1) == 1
            assert await net.ping("10.77.1.2", 1, where=net.server) == 1
            from_outside = [event for event in seen.events if event.packet.src == parse_address("10.77.1.3")]
            assert from_outside
            assert not any(event.from_lan for event in from_outside)
        assert settings() == ["0", "0", "0"]

    with SmallNet(bridged=True) as net:
        run(net.gateway, test)


def test_a_bridge_sees_tagged_frames(backend: str) -> None:
    """By hand, since not every kernel has VLAN interfaces: an IPv4 datagram in VLAN 12."""
    seen = Seen()
    payload = b"tagged all the way"
    udp = struct.pack("!HHHH", 4000, PORT, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    header += parse_address("192.0.2.1") + parse_address("192.0.2.2")
    words = struct.unpack("!10H", header)
    header = header[:10] + struct.pack("!H", 0xFFFF - sum(words) % 0xFFFF) + header[12:]
    macs = b"\x02\0\0\0\0\x22" + b"\x02\0\0\0\0\x11"
    frame = macs + struct.pack("!HHH", 0x8100, 12, 0x0800) + header + udp

    async def test() -> None:
        tool("modprobe", "br_netfilter", check=False)
        with inside(net.server):
            sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        with inside(net.client):
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with sniffer, sender, capturing(seen, backend, "bridge", ("br0",)):
            sniffer.setblocking(False)
            sender.bind(("end", 0))
            sender.send(frame)

            async def arrival() -> None:
                while payload not in await asyncio.get_running_loop().sock_recv(sniffer, 2048):
                    pass

            await asyncio.wait_for(arrival(), PATIENCE)
            (event,) = seen.with_port(PORT)
            assert event.packet.payload == payload
            assert (event.from_lan, event.mac) == (True, macs[6:])

    with SmallNet(bridged=True) as net:
        run(net.gateway, test)


def test_a_host_sees_its_own(net: SmallNet, backend: str) -> None:
    seen = Seen()

    async def test() -> None:
        listener = net.listener(net.server, 4, PORT)
        with capturing(seen, backend, "local", ()):
            loop = asyncio.get_running_loop()
            near = net.tcp(net.gateway, 4)
            await asyncio.wait_for(loop.sock_connect(near, (net.server_address[4], PORT)), PATIENCE)
            far, _ = await asyncio.wait_for(loop.sock_accept(listener), PATIENCE)
            with far:
                await send(net, near, far, b"request", b"more")
            assert seen.payload(near.getsockname()[1]) == b"requestmore"
            assert all((event.from_lan, event.mac) == (False, None) for event in seen.events)
            seen.events.clear()
            assert await net.ping("127.0.0.1", 1, where=net.gateway) == 1
            assert seen.events == [], "loopback is nobody's business"
            assert await net.ping(net.server_address[6], 1) == 1, "what a host forwards is not its own"
            assert [event.packet.dport >> 8 for event in seen.events if event.packet.proto == 58] == []

    run(net.gateway, test)
