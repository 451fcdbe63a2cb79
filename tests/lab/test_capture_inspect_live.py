# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that wait until it is known what they are for, in the real kernel.

A table of the test's stands for the blocking rules: it asks for inspection, and resets what is cut.
"""

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import dns.message
import dns.rcode
import pytest
from capture_net import (
    CUT,
    GATEWAY,
    IN_VM,
    INSPECT,
    MARK,
    PATIENCE,
    SmallNet,
    inside,
    net,
    run,
    tool,
    until,
)

from spind.capture import Capture, kernel_queue
from spind.capture_backend import CaptureRules
from spind.capture_iptables import IptablesRules
from spind.capture_nftables import NftablesRules
from spind.capture_rules import CaptureSpec
from spind.commands import Verdict
from spind.events import PacketSeen
from spind.model import ConnKey
from spind.wire.dns_refusal import refuse
from spind.wire.packet import parse_ip
from spind.wire.tls import client_hello

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]
__all__ = ["net"]  # a fixture

PORT = 8443
OURS = MARK | CUT | INSPECT
ACCEPT, HOLD = Verdict(accept=True), Verdict(accept=False, hold=True)
DONE, RESET = Verdict(accept=True, done=True), Verdict(accept=False, cut=True)
BLOCKED = "blocked.example"
BACKENDS = {"nftables": NftablesRules, "iptables": IptablesRules}


@pytest.fixture(params=[pytest.param("nftables", marks=pytest.mark.vm), "iptables"])
def backend(request: pytest.FixtureRequest, net: SmallNet) -> str:
    """The name of a way to capture that this kernel has."""
    name: str = request.param
    with inside(net.gateway):
        try:
            BACKENDS[name]().probe(watched=True)
        except OSError as error:
            if IN_VM:
                raise
            pytest.skip(f"this kernel cannot: {error}")
    return name


def block_by_nftables(hook: str = "forward") -> None:
    # That way round: what conntrack finds invalid has no mark to compare, and must be inspected. A reset
    # that this machine sends has its connection's mark, and must get out.
    tool("nft", "-f", "-", text=f"""
        table inet blocker {{
            chain before {{ type filter hook {hook} priority -160;
                ct mark & {MARK | CUT:#x} != 0 return
                tcp dport {PORT} meta mark set meta mark | {INSPECT:#x}
            }}
            chain after {{ type filter hook {hook} priority -140;
                ct mark & {CUT:#x} == {CUT:#x} tcp flags & rst == 0 reject with tcp reset
            }}
            chain late {{ type filter hook {hook} priority 10;
                meta mark & {OURS:#x} != 0 counter comment "ours"
                tcp dport {PORT} counter comment "through"
            }}
        }}""")  # fmt: skip


def block_by_iptables() -> None:
    """Before the capture rules that take bits to the connection, too: it was put there last."""
    block_by_nftables()
    for chain in ("before", "after"):
        tool("nft", "flush", "chain", "inet", "blocker", chain)
    for command in ("iptables-legacy", "ip6tables-legacy"):
        rule = [
            "-p", "tcp", "--dport", f"{PORT}", "-m", "connmark", "--mark", f"0/{MARK | CUT:#x}",
            "-j", "MARK", "--set-xmark", f"{INSPECT:#x}/{INSPECT:#x}",
        ]  # fmt: skip
        tool(command, "-t", "mangle", "-I", "FORWARD", *rule)
        reset = ["-m", "connmark", "--mark", f"{CUT:#x}/{CUT:#x}", "-p", "tcp", "-j", "REJECT"]
        tool(command, "-I", "FORWARD", *reset, "--reject-with", "tcp-reset")


BLOCKERS = [pytest.param(block_by_nftables, marks=pytest.mark.vm), block_by_iptables]


def counters() -> dict[str, int]:
    """Packets that went on with a bit of ours, and packets to the port that went on."""
    text = tool("nft", "list", "table", "inet", "blocker")
    return {name: int(count) for count, name in re.findall(r'packets (\d+) bytes \d+ comment "(\w+)"', text)}


def hello(name: str) -> bytes:
    """A ClientHello as OpenSSL sends it."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    data = outgoing.read()
    assert len(data) > 250
    return data


class Inspector:
    """Holds a ClientHello until it is complete, then looks at its name."""

    def __init__(self) -> None:
        self.events: list[PacketSeen] = []
        self._streams: dict[ConnKey, bytes] = {}
        self._seen: set[tuple[ConnKey, int]] = set()

    def __call__(self, event: PacketSeen) -> Verdict:
        if not event.inspect:
            return ACCEPT
        self.events.append(event)
        packet = event.packet
        if not packet.payload:
            return ACCEPT
        if (packet.key, packet.seq) not in self._seen:  # else TCP has sent it again
            self._seen.add((packet.key, packet.seq))
            self._streams[packet.key] = self._streams.get(packet.key, b"") + packet.payload
        found = client_hello(self._streams[packet.key])
        if found is None:
            return HOLD
        return RESET if found.sni == BLOCKED else DONE


class Capturing:
    def __init__(self, rules: CaptureRules, queues: list[Capture]) -> None:
        self.rules = rules
        self.queues = queues

    def total(self, name: str) -> int:
        return sum(queue.counters()[f"capture.{name}"] for queue in self.queues)


@contextlib.contextmanager
def capturing(
    decide: Callable[[PacketSeen], Verdict], backend: str, mode: str = "router"
) -> Iterator[Capturing]:
    loop = asyncio.get_running_loop()
    home = {socket.if_nametoindex("lan")} if mode == "router" else set()
    bits = {"done_mark": MARK, "cut_mark": CUT, "inspect_mark": INSPECT}
    queues = [
        Capture(loop, number, decide, home.__contains__, inspect=number == 3, **bits) for number in (1, 2, 3)
    ]
    for queue in queues:
        queue.start()
    assert [queue.fail_open for queue in queues] == [True, True, False]
    lan = ("lan",) if mode == "router" else ()
    rules = CaptureRules(loop, backend, CaptureSpec(mode, lan, 1, 2, MARK, True, 3, CUT, INSPECT))
    rules.start()
    try:
        yield Capturing(rules, queues)
    finally:
        for queue in queues:
            queue.stop()
        rules.stop()
    assert kernel_queue(1) == kernel_queue(2) == kernel_queue(3) == {}


async def receive(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 65536), PATIENCE)
        assert piece, "the end"
        got += piece
    return got


def nothing_came(sock: socket.socket) -> bool:
    try:
        return sock.recv(100) == b"unexpected"
    except BlockingIOError:
        return True


@contextlib.contextmanager
def sniffing(net: SmallNet) -> Iterator[Callable[[], list[bytes]]]:
    """What arrives at the server's port with payload, each once, in order."""
    with inside(net.server):
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    found: dict[int, bytes] = {}

    def look() -> list[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, address = sniffer.recvfrom(65536)
                if address[1] not in (0x0800, 0x86DD):
                    continue
                packet = parse_ip(data)
                if packet.dport == PORT and packet.payload:
                    found.setdefault(packet.seq, packet.payload)
        return list(found.values())

    with sniffer:
        sniffer.setblocking(False)
        yield look


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("block", BLOCKERS)
def test_a_hello_waits_until_it_is_complete_and_arrives_in_order(
    net: SmallNet, backend: str, version: int, block: Callable[[], None]
) -> None:
    inspector = Inspector()
    whole = hello("allowed.example")

    async def test() -> None:
        loop = asyncio.get_running_loop()
        listener = net.listener(net.server, version, PORT)
        with sniffing(net) as arrived, capturing(inspector, backend) as both:
            block()
            near, far = await net.connect(version, PORT, listener)
            for start, end in ((0, 100), (100, 200)):
                await loop.sock_sendall(near, whole[start:end])
                await until(lambda end=end: both.total("held") * 100 >= end, "the held packet")
            assert nothing_came(far)
            assert arrived() == []
            await loop.sock_sendall(near, whole[200:])
            assert await receive(far, len(whole)) == whole
            assert arrived() == [whole[:100], whole[100:200], whole[200:]]
            seen = len(inspector.events)
            await loop.sock_sendall(near, b"more")
            assert await receive(far, 4) == b"more"
            await loop.sock_sendall(far, b"answer")
            assert await receive(near, 6) == b"answer"
            assert len(inspector.events) == seen, "its connection is done"
            assert (both.total("held"), both.total("dropped")) == (0, 0)
            assert f"mark={MARK} " in tool("conntrack", "-L", "-p", "tcp", "--orig-port-dst", f"{PORT}")
            both.rules.look()
            assert both.rules.counters()["capture.bypassed"] == 0
        assert counters()["ours"] == 0, "nobody else sees our bits on a packet"

    run(net.gateway, test)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("block", BLOCKERS)
@pytest.mark.parametrize("pieces", [1, 2])
def test_nothing_of_a_blocked_hello_arrives_and_both_sides_are_reset(
    net: SmallNet, backend: str, version: int, block: Callable[[], None], pieces: int
) -> None:
    whole = hello(BLOCKED)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        listener = net.listener(net.server, version, PORT)
        with sniffing(net) as arrived, capturing(Inspector(), backend) as both:
            block()
            near, far = await net.connect(version, PORT, listener)
            if pieces == 2:
                await loop.sock_sendall(near, whole[:100])
                await until(lambda: both.total("held"), "the held packet")
            await loop.sock_sendall(near, whole[100:] if pieces == 2 else whole)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(loop.sock_recv(near, 100), PATIENCE)
            assert nothing_came(far)
            await loop.sock_sendall(far, b"are you there?")
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(loop.sock_recv(far, 100), PATIENCE)
            assert arrived() == []
            assert both.total("cut") >= 1
            assert f"mark={CUT} " in tool("conntrack", "-L", "-p", "tcp", "--orig-port-dst", f"{PORT}")
            # The next connection is judged by itself.
            near, far = await net.connect(version, PORT, listener)
            other = hello("allowed.example")
            await loop.sock_sendall(near, other)
            assert await receive(far, len(other)) == other
        assert counters()["ours"] == 0

    run(net.gateway, test)


def test_what_is_held_too_long_is_dropped(
    net: SmallNet, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And sent again by TCP, until the rest has come."""
    monkeypatch.setattr("spind.capture_held.HOLD_SECONDS", 0.05)
    whole = hello("allowed.example")

    async def test() -> None:
        loop = asyncio.get_running_loop()
        listener = net.listener(net.server, 4, PORT)
        with capturing(Inspector(), backend) as both:
            block_by_nftables()
            near, far = await net.connect(4, PORT, listener)
            await loop.sock_sendall(near, whole[:100])
            await until(lambda: both.total("held_expired") >= 2)
            assert nothing_came(far)
            await loop.sock_sendall(near, whole[100:])
            assert await receive(far, len(whole)) == whole

    run(net.gateway, test)


def test_the_end_lets_what_is_held_go(net: SmallNet, backend: str) -> None:
    whole = hello(BLOCKED)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        listener = net.listener(net.server, 4, PORT)
        with capturing(Inspector(), backend) as both:
            block_by_nftables()
            near, far = await net.connect(4, PORT, listener)
            await loop.sock_sendall(near, whole[:100])
            await until(lambda: both.total("held"))
            await loop.sock_sendall(near, b"waiting in the queue")
            both.rules.look()
            both.queues[2].stop()
            assert await receive(far, 120) == whole[:100] + b"waiting in the queue"
            # Nobody has the queue: what was to be inspected passes, and is counted as unseen, once each.
            before = counters()["ours"]
            await loop.sock_sendall(near, b"more")
            assert await receive(far, 4) == b"more"
            both.rules.look()
            assert both.rules.counters()["capture.bypassed"] == counters()["ours"] > before

    run(net.gateway, test)


def test_what_fails_is_not_let_through(net: SmallNet, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: PacketSeen) -> Verdict:
        if event.inspect:
            raise RuntimeError("a bug")
        return ACCEPT

    async def test() -> None:
        with capturing(fail, backend) as both:
            block_by_nftables()
            near = net.tcp(net.client, 4)
            with contextlib.suppress(BlockingIOError):
                near.connect((net.server_address[4], PORT))
            await until(lambda: both.total("failed"))
            with (
                inside(net.client),
                socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw,
            ):
                raw.sendto(b"\x1f\x90" + PORT.to_bytes(2) + bytes(16), (net.server_address[4], 0))
            await until(lambda: both.total("malformed"))
            assert await net.ping(net.server_address[4]) == 1
            assert both.total("dropped") == both.total("failed") + 1
        assert counters()["through"] == 0
        assert caplog.text.count("handler failed") == caplog.text.count("parser failed") == 1

    run(net.gateway, test)


def test_a_host_inspects_what_it_sends(net: SmallNet, backend: str) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        listener = net.listener(net.server, 4, PORT)
        with capturing(Inspector(), backend, "local") as both:
            block_by_nftables("output")
            for name, mark in (("allowed.example", MARK), (BLOCKED, CUT)):
                whole = hello(name)
                near = net.tcp(net.gateway, 4)
                await asyncio.wait_for(loop.sock_connect(near, (net.server_address[4], PORT)), PATIENCE)
                far, _ = await asyncio.wait_for(loop.sock_accept(listener), PATIENCE)
                with far:
                    await loop.sock_sendall(near, whole[:100])
                    await until(lambda: both.total("held"))
                    await loop.sock_sendall(near, whole[100:])
                    port = near.getsockname()[1]
                    if name == BLOCKED:
                        with pytest.raises(ConnectionResetError):
                            await asyncio.wait_for(loop.sock_recv(near, 100), PATIENCE)
                        assert nothing_came(far)
                    else:
                        assert await receive(far, len(whole)) == whole
                        await loop.sock_sendall(far, b"answer")
                        assert await receive(near, 6) == b"answer"
                    table = tool("conntrack", "-L", "-p", "tcp", "--orig-port-src", f"{port}")
                    assert f"mark={mark} " in table
            both.rules.look()
            assert both.rules.counters()["capture.bypassed"] == 0
        assert counters()["ours"] == 0

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


def test_a_stopped_daemon_holds_up_what_is_to_be_inspected_and_nothing_else(
    net: SmallNet, backend: str
) -> None:
    """What finds no room in its queue of 16 is dropped, and comes again."""

    async def test() -> None:
        listener = net.listener(net.server, 4, PORT)
        other = net.listener(net.server, 4, 8000)
        async with process(net, backend, "watched", "inspect") as daemon:
            block_by_nftables()
            daemon.send_signal(signal.SIGSTOP)
            waiting = [net.tcp(net.client, 4) for _ in range(26)]
            for sock in waiting:
                with contextlib.suppress(BlockingIOError):
                    sock.connect((net.server_address[4], PORT))
            await until(lambda: kernel_queue(3).get("waiting") == 16, lambda: str(kernel_queue(3)))
            await until(lambda: kernel_queue(3)["queue_dropped"] >= 10, lambda: str(kernel_queue(3)))
            await net.connect(4, 8000, other)
            assert await net.ping(net.server_address[4], 5, wait=2.0) == 5
            assert counters()["through"] == 0
            assert select.select([listener], [], [], 0)[0] == []
            daemon.send_signal(signal.SIGCONT)
            accepted: list[socket.socket] = []

            def all_accepted() -> bool:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        accepted.append(listener.accept()[0])
                return len(accepted) == len(waiting)

            await until(all_accepted, lambda: f"{len(accepted)} of {len(waiting)}")
            for sock in accepted:
                sock.close()

    run(net.gateway, test)


def test_a_killed_daemon_lets_pass_what_it_would_inspect(net: SmallNet, backend: str) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        listener = net.listener(net.server, 4, PORT)
        async with process(net, backend, "watched", "inspect") as daemon:
            block_by_nftables()
            daemon.kill()
            await daemon.wait()
            near, far = await net.connect(4, PORT, listener)
            await loop.sock_sendall(near, b"anything")
            assert await receive(far, 8) == b"anything"
        with capturing(Inspector(), backend):  # the next one inspects again
            near, far = await net.connect(4, PORT, listener)
            await loop.sock_sendall(near, hello(BLOCKED))
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(loop.sock_recv(near, 100), PATIENCE)

    run(net.gateway, test)


# -- answers that are changed --


@pytest.mark.parametrize("version", [4, 6])
def test_a_refused_dns_answer_reaches_who_asked(net: SmallNet, backend: str, version: int) -> None:
    """From a resolver outside, and from one of the gateway's, whose checksums are not filled in."""

    def decide(event: PacketSeen) -> Verdict:
        return Verdict(accept=True, payload=refuse(event.data))

    async def test() -> None:
        loop = asyncio.get_running_loop()
        with capturing(decide, backend) as both:
            for where, address in ((net.server, net.server_address), (net.gateway, GATEWAY)):
                client, resolver = net.udp(net.client, version), net.udp(where, version, 53)
                query = dns.message.make_query("use-application-dns.net.", "A", use_edns=True)
                client.sendto(query.to_wire(), (address[version], 53))
                asked, source = await asyncio.wait_for(loop.sock_recvfrom(resolver, 500), PATIENCE)
                answer = dns.message.make_response(dns.message.from_wire(asked))
                answer.answer.append(
                    dns.rrset.from_text("use-application-dns.net.", 60, "IN", "A", "192.0.2.1")
                )
                resolver.sendto(answer.to_wire(), source[:2])
                got = await asyncio.wait_for(loop.sock_recv(client, 500), PATIENCE)
                told = dns.message.from_wire(got)
                assert (told.id, told.question, told.answer) == (query.id, query.question, [])
                assert (told.rcode(), told.edns) == (dns.rcode.NXDOMAIN, 0)
                resolver.close()
            assert both.total("changed") == 2

    run(net.gateway, test)
