# SPDX-License-Identifier: GPL-2.0-or-later
"""What spind builds on in a kernel as OpenWrt has it, with real traffic: queue, flow tables, VLANs, bridges.

These tests know nothing of spind. They say whether the kernel below the other tests behaves as those expect,
so that a failure there can be told from a failure here. Outside the virtual machine they skip what the kernel
lacks; inside, they fail.
"""

import contextlib
import os
import re
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netfilterqueue import NetfilterQueue
from vm_topology import (
    CLIENT,
    FAMILY,
    PATIENCE,
    SERVER,
    Topology,
    facility,
    inside,
    settle,
    tool,
    transfer,
)

pytestmark = [
    pytest.mark.vm,
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]

PORT = 7001
QUEUE = 31
FAMILIES = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])

NFT_QUEUE = f"""
table inet probe {{
    chain forward {{
        type filter hook forward priority 0; policy accept;
        udp dport {PORT} queue flags bypass to {QUEUE}
    }}
}}
"""


def ask_kernel_to_queue(backend: str, version: int) -> None:
    """Queue the client's datagrams in the current namespace."""
    if backend == "nft":
        facility("nft", "-f", "-", text=NFT_QUEUE)
        return
    command = "iptables-legacy" if version == 4 else "ip6tables-legacy"
    match = ["-p", "udp", "--dport", str(PORT)]
    facility(
        command,
        "-t",
        "mangle",
        "-A",
        "FORWARD",
        *match,
        "-j",
        "NFQUEUE",
        "--queue-num",
        str(QUEUE),
        "--queue-bypass",
    )


class Consumer:
    """Reads a queue in the current namespace; drops the packets that carry a marked payload."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self._queue = NetfilterQueue()
        self._queue.bind(QUEUE, self._see)

    def _see(self, packet: object) -> None:
        data = packet.get_payload()
        header = (data[0] & 15) * 4 if data[0] >> 4 == 4 else 40
        self.payloads.append(data[header + 8 :])
        if self.payloads[-1].startswith(b"drop"):
            packet.drop()
        else:
            packet.accept()

    def collect(self, count: int) -> None:
        """Handle packets until ``count`` were seen."""
        deadline = time.monotonic() + PATIENCE
        while len(self.payloads) < count and time.monotonic() < deadline:
            if select.select([self._queue.get_fd()], [], [], 0.1)[0]:
                self._queue.run(block=False)

    def close(self) -> None:
        self._queue.unbind()


@pytest.fixture
def topology() -> Iterator[Topology]:
    with Topology() as made:
        yield made


@FAMILIES
@pytest.mark.parametrize("backend", ["nft", "xtables"])
def test_queue_delivers_each_packet_and_obeys(topology: Topology, backend: str, version: int) -> None:
    with inside(topology.gateway):
        ask_kernel_to_queue(backend, version)
        consumer = Consumer()
    client, server = topology.udp_pair(version, PORT)
    sent = [b"%s %d" % (b"drop" if number % 3 == 0 else b"keep", number) for number in range(30)]
    with client, server, contextlib.closing(consumer):
        for payload in sent:
            client.send(payload)
        consumer.collect(len(sent))
        kept = [payload for payload in sent if payload.startswith(b"keep")]
        received = [server.recv(100) for _ in kept]
    assert consumer.payloads == sent
    assert received == kept


@FAMILIES
@pytest.mark.parametrize("backend", ["nft", "xtables"])
def test_queue_without_consumer_lets_packets_pass(topology: Topology, backend: str, version: int) -> None:
    client, server = topology.udp_pair(version, PORT)
    with client, server:
        with inside(topology.gateway):
            ask_kernel_to_queue(backend, version)
            consumer = Consumer()
        client.send(b"drop while somebody listens")
        consumer.collect(1)
        consumer.close()
        client.send(b"pass when nobody does")
        assert server.recv(100) == b"pass when nobody does"
    assert consumer.payloads == [b"drop while somebody listens"]


def test_queue_sees_a_tagged_lan() -> None:
    with Topology(vlan=20) as topology:
        with inside(topology.gateway):
            ask_kernel_to_queue("nft", 4)
            consumer = Consumer()
        client, server = topology.udp_pair(4, PORT)
        with client, server, contextlib.closing(consumer):
            client.send(b"keep")
            consumer.collect(1)
            assert server.recv(100) == b"keep"
            with inside(topology.gateway):
                frames = Path("/proc/net/vlan/lan.20").read_text()
        assert consumer.payloads == [b"keep"]
        assert re.search(r"total frames received +[1-9]", frames), frames


def flow_rules(*, offload: bool, counter: bool) -> str:
    """Forwarding as OpenWrt's firewall does it, and counters of our own before any fast path."""
    table = f"flowtable fast {{ hook ingress priority 0; devices = {{ lan, wan }}; {'counter;' * counter} }}"
    add = "meta l4proto tcp ct state established flow add @fast"
    return f"""
    table inet probe {{
        {table if offload else ""}
        counter forwarded {{ }}
        chain forward {{
            type filter hook forward priority 0; policy accept;
            meta l4proto tcp counter name forwarded
            ct state new accept
            {add if offload else ""}
        }}
    }}
    table netdev probe {{
        counter up {{ }}
        counter down {{ }}
        chain lan {{ type filter hook ingress device lan priority -300; meta l4proto tcp counter name up; }}
        chain wan {{ type filter hook ingress device wan priority -300; meta l4proto tcp counter name down; }}
    }}
    """


def load_flow_rules(*, offload: bool, counter: bool) -> None:
    facility("nft", "-f", "-", text=flow_rules(offload=offload, counter=counter))
    Path("/proc/sys/net/netfilter/nf_conntrack_acct").write_text("1")


def counters() -> dict[str, tuple[int, int]]:
    """Return (packets, bytes) of each named nft counter in the current namespace."""
    found = re.findall(r"counter (\w+) \{\s+packets (\d+) bytes (\d+)", tool("nft", "list", "counters"))
    return {name: (int(packets), int(size)) for name, packets, size in found}


def tracked(version: int) -> tuple[list[tuple[int, int]], bool]:
    """Return (packets, bytes) up and down of the one tracked connection, and whether it is offloaded."""
    listing = tool("conntrack", "-L", "-p", "tcp", "-f", f"ipv{version}")
    found = re.findall(r"packets=(\d+) bytes=(\d+)", listing)
    return [(int(packets), int(size)) for packets, size in found], "[OFFLOAD]" in listing


def wire_and_tracked(version: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return what passed the gateway's interfaces and what conntrack counted, each up and down."""
    passed = counters()
    return [passed["up"], passed["down"]], tracked(version)[0]


def is_exact(pair: object) -> bool:
    wire, connection = pair
    return bool(wire == connection)


@FAMILIES
@pytest.mark.parametrize("offload", [False, True], ids=["no-offload", "software-offload"])
def test_conntrack_counts_every_byte(topology: Topology, version: int, offload: bool) -> None:
    up, down = 3_000_000, 1_000_000
    with inside(topology.gateway):
        load_flow_rules(offload=offload, counter=True)
    client, server = topology.tcp_pair(version, PORT)
    with client, server:
        transfer(client, server, up)
        transfer(server, client, down)
        with inside(topology.gateway):
            # Late acknowledgements may pass between two looks; at rest, both must agree to the byte.
            wire, connection = settle(lambda: wire_and_tracked(version), is_exact)
            forwarded = counters()["forwarded"]
            offloaded = tracked(version)[1]
    assert connection == wire
    assert wire[0][1] >= up
    assert wire[1][1] >= down
    assert offloaded is offload
    total = wire[0][1] + wire[1][1]
    if offload:
        assert forwarded[1] < total / 10, "the fast path carried little, so that this test shows nothing"
    else:
        assert forwarded[1] == total


def test_offload_without_counter_hides_bytes(topology: Topology) -> None:
    """Some releases of OpenWrt's firewall leave ``counter`` out: conntrack then counts next to nothing."""
    size = 3_000_000
    with inside(topology.gateway):
        load_flow_rules(offload=True, counter=False)
    client, server = topology.tcp_pair(4, PORT)
    with client, server:
        transfer(client, server, size)
        with inside(topology.gateway):
            wire, connection = wire_and_tracked(4)
    assert wire[0][1] >= size
    assert connection[0][1] < size / 10


@FAMILIES
def test_conntrack_leaves_repeated_syns_out(topology: Topology, version: int) -> None:
    """So its counts are exact but for connections that had to knock again: 40 to 80 bytes each time."""
    with inside(topology.gateway):
        load_flow_rules(offload=False, counter=False)
    with inside(topology.server):
        chain = "type filter hook input priority 0; policy accept; meta l4proto tcp drop"
        facility("nft", "-f", "-", text=f"table inet deaf {{\n chain input {{\n {chain}\n }}\n}}\n")
    with inside(topology.client), socket.socket(FAMILY[version], socket.SOCK_STREAM) as client:
        client.setblocking(False)
        client.connect_ex((SERVER[version], PORT))
        with inside(topology.gateway):
            wire, connection = settle(
                lambda: wire_and_tracked(version),
                lambda pair: pair[0][0][0] >= 3,
            )
    assert wire[0][0] >= 3
    assert connection[0] == (1, wire[0][1] // wire[0][0])


@FAMILIES
def test_deleting_the_entry_ends_the_fast_path(topology: Topology, version: int) -> None:
    """A drop rule alone does not reach an offloaded connection; deleting its entry then does, at once."""
    with inside(topology.gateway):
        load_flow_rules(offload=True, counter=True)
    client, server = topology.tcp_pair(version, PORT)
    with client, server:
        transfer(client, server, 1_000_000)
        with inside(topology.gateway):
            assert tracked(version)[1]
            tool("nft", "insert", "rule", "inet", "probe", "forward", "drop")
        transfer(client, server, 1000)
        with inside(topology.gateway):
            tool("conntrack", "-D", "-f", f"ipv{version}", "-p", "tcp", "--dport", str(PORT))
            dropped = counters()["up"]
        client.send(b"must not arrive")
        with inside(topology.gateway):
            # Seen at the gateway's door, with its retransmission: so there was time enough to arrive.
            arrived = settle(lambda: counters()["up"][0], lambda packets: packets >= dropped[0] + 2)
        assert arrived >= dropped[0] + 2
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(100)


@FAMILIES
def test_one_packet_meets_rules_of_both_backends(topology: Topology, version: int) -> None:
    """Rules of nft and of legacy iptables live side by side: a packet meets both."""
    command = "iptables-legacy" if version == 4 else "ip6tables-legacy"
    with inside(topology.gateway):
        facility(command, "-t", "mangle", "-A", "FORWARD", "-p", "udp")
        facility(
            "nft",
            "-f",
            "-",
            text=flow_rules(offload=False, counter=False).replace("l4proto tcp", "l4proto udp"),
        )
    client, server = topology.udp_pair(version, PORT)
    with client, server:
        client.send(b"one")
        data, sender = server.recvfrom(100)
        with inside(topology.gateway):
            listing = tool(command, "-t", "mangle", "-L", "FORWARD", "-v", "-x", "-n")
            assert counters()["forwarded"][0] == 1
    assert (data, sender[0]) == (b"one", CLIENT[version])
    assert re.search(r"^\s+1\s", listing, re.MULTILINE), listing


def test_bridged_traffic_reaches_the_ip_hooks() -> None:
    """With br_netfilter, a bridge's traffic passes the inet forward hook: how mode ``bridge`` can see it."""
    with Topology() as topology:
        with inside(topology.gateway):
            facility("modprobe", "br_netfilter")
            tool("ip", "link", "add", "br0", "type", "bridge")
            for port in ("lan", "wan"):
                tool("ip", "address", "flush", "dev", port)
                tool("ip", "link", "set", port, "master", "br0")
            tool("ip", "link", "set", "br0", "up")
            Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")
            ask_kernel_to_queue("nft", 4)
            consumer = Consumer()
        # One network now: the server answers to an address in the client's.
        with inside(topology.server):
            tool("ip", "address", "add", "10.31.1.3/24", "dev", "eth")
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind(("10.31.1.3", PORT))
        with inside(topology.client):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.settimeout(PATIENCE)
        with client, server, contextlib.closing(consumer):
            client.sendto(b"keep", ("10.31.1.3", PORT))
            consumer.collect(1)
            assert server.recv(100) == b"keep"
        assert consumer.payloads == [b"keep"]
