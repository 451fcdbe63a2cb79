# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections of a real kernel, deleted by the keys under which the model knows them."""

import asyncio
import contextlib
import os
from collections.abc import Iterator

import pytest
from capture_net import CLIENT, GATEWAY, SERVER, SmallNet, net, run, tool, until

from spind.conntrack_delete import ConntrackDeleter
from spind.model import ConnKey, parse_address
from spind.netlink_socket import NETLINK_NETFILTER, open_netlink, request
from spind.wire.conntrack import CT_GET, CT_NEW, DUMP_ALL, parse_entry
from spind.wire.netlink import NLMSG_DONE, messages

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]
__all__ = ["net"]  # a fixture

PORT = 7000
# The kernel tracks connections once a rule asks for them.
TRACK = "table inet track { chain forward { type filter hook forward priority 0; ct state new counter; }; }"


def table() -> set[ConnKey]:
    """Keys of all connections that the kernel has, loopback's apart."""
    keys: set[ConnKey] = set()
    with open_netlink(NETLINK_NETFILTER) as sock:
        request(sock, CT_GET, 0x300, 1, DUMP_ALL)
        while True:
            data = sock.recv(32_768)
            for message in messages(data):
                if message.type == NLMSG_DONE:
                    return {key for key in keys if key.src != key.dst}
                if message.type == CT_NEW:
                    keys.add(parse_entry(data, message.start - 16, message.end).key)


@contextlib.contextmanager
def deleting() -> Iterator[ConntrackDeleter]:
    made = ConntrackDeleter()
    made.open()
    try:
        yield made
    finally:
        made.close()


def client(version: int) -> bytes:
    return parse_address(CLIENT[version])


def server(version: int) -> bytes:
    return parse_address(SERVER[version])


@pytest.mark.vm
@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_goes_and_its_neighbours_stay(net: SmallNet, version: int) -> None:
    async def test() -> None:
        tool("nft", "-f", "-", text=TRACK)
        listener = net.listener(net.server, version, PORT)
        near, far = await net.connect(version, PORT, listener)
        one, other = net.udp(net.client, version), net.udp(net.client, version)
        sink = net.udp(net.server, version, PORT)
        for sender in (one, other):
            sender.sendto(b"x", (SERVER[version], PORT))
        assert await net.ping(SERVER[version]) == 1
        await until(lambda: sum(key.dst == server(version) for key in table()) >= 4)
        ports = {
            (6, near.getsockname()[1]): "tcp",
            (17, one.getsockname()[1]): "one",
            (17, other.getsockname()[1]): "other",
        }
        keys = {
            ports.get((key.proto, key.sport), "echo"): key for key in table() if key.dst == server(version)
        }
        assert keys.keys() == {"tcp", "one", "other", "echo"}
        assert {key.src for key in keys.values()} == {client(version)}
        with deleting() as deleter:
            for name in ("tcp", "one", "echo"):
                before = table()
                assert deleter.delete([(keys[name], True)]) == 1
                assert before - table() == {keys[name]}, "this one and no other"
                assert deleter.delete([(keys[name], True)]) == 0
            assert keys["other"] in table()
            assert deleter.refused == 0
        # Nothing blocks them: they go on, from either side, as new entries.
        for sender, receiver in ((near, far), (far, near)):
            sender.send(b"again")
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(receiver, 100), 10)
            assert data == b"again"
        assert (
            keys["tcp"] in table()
            or keys["tcp"]._replace(
                src=keys["tcp"].dst, sport=keys["tcp"].dport, dst=keys["tcp"].src, dport=keys["tcp"].sport
            )
            in table()
        )
        sink.close()

    run(net.gateway, test)


NAT = """
table ip nat {
    chain post { type nat hook postrouting priority 100; oifname "wan" masquerade; }
    chain pre {
        type nat hook prerouting priority -100;
        iifname "wan" udp dport 8000 dnat to 10.77.1.2:7000
        ip daddr 198.51.100.9 dnat to 10.77.2.2
        iifname "lan" udp dport 53 redirect to :7053
    }
}"""


@pytest.mark.vm
def test_translated_connections_are_found_by_the_keys_that_devices_know(net: SmallNet) -> None:
    async def test() -> None:
        tool("nft", "-f", "-", text=NAT)
        loop = asyncio.get_running_loop()
        sink, home = net.udp(net.server, 4, PORT), net.udp(net.client, 4, PORT)
        local = net.udp(net.gateway, 4, 7053)
        out, asker, stranger = net.udp(net.client, 4), net.udp(net.client, 4), net.udp(net.server, 4)
        out.sendto(b"hidden source", (SERVER[4], PORT))
        _, source = await asyncio.wait_for(loop.sock_recvfrom(sink, 100), 10)
        assert source[0] != CLIENT[4]
        stranger.sendto(b"forwarded port", ("10.77.2.1", 8000))
        await asyncio.wait_for(loop.sock_recvfrom(home, 100), 10)
        asker.sendto(b"redirected", (SERVER[4], 53))
        await asyncio.wait_for(loop.sock_recvfrom(local, 100), 10)

        device, remote, gateway = client(4), server(4), parse_address(GATEWAY[4])
        hidden = ConnKey(17, device, out.getsockname()[1], remote, PORT)
        forwarded = ConnKey(17, remote, stranger.getsockname()[1], device, PORT)
        redirected = ConnKey(17, device, asker.getsockname()[1], gateway, 7053)
        assert {hidden, forwarded, redirected} <= table()
        with deleting() as deleter:
            for key, outbound in ((hidden, True), (forwarded, False), (redirected, True)):
                before = table()
                assert deleter.delete([(key, outbound)]) == 1
                assert before - table() == {key}
            # Of one whose destination and source are both translated neither end's packets have the key.
            out.sendto(b"both", ("198.51.100.9", PORT))
            both = ConnKey(17, device, out.getsockname()[1], remote, PORT)
            await until(lambda: both in table())
            assert deleter.delete([(both, True)]) == 0
            assert deleter.delete_matching([remote]) == 1
            assert both not in table()

    run(net.gateway, test)


PORTS = ("--sport", "9", "--dport", "10")


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("sctp", (*PORTS, "--state", "ESTABLISHED", "--orig-vtag", "1", "--reply-vtag", "2")),
        ("udplite", PORTS),
        ("gre", ("--srckey", "1", "--dstkey", "2")),
        ("icmp", ("--icmp-type", "13", "--icmp-code", "0", "--icmp-id", "7")),
        ("50", ()),
    ],
)
def test_connections_of_any_protocol_go(net: SmallNet, protocol: str, options: tuple[str, ...]) -> None:
    async def test() -> None:
        add = ("conntrack", "-I", "-p", protocol, "-s", CLIENT[4], "-d", SERVER[4], "-t", "100", *options)
        with deleting() as deleter:
            for outbound in (True, False):
                tool(*add)
                (key,) = table()
                assert deleter.delete([(key, outbound)]) == 1
                assert not table()

    run(net.gateway, test)


def test_hundreds_go_at_once_and_the_dead_are_no_error(net: SmallNet) -> None:
    async def test() -> None:
        tool("nft", "-f", "-", text=TRACK)
        net.udp(net.server, 6, PORT)  # serves both families
        senders = []  # that their ports stay theirs
        for number in range(400):
            version = 4 if number % 2 else 6
            sender = net.udp(net.client, version)
            sender.sendto(b"x", (SERVER[version], PORT))
            senders.append(sender)
        await until(lambda: len([key for key in table() if key.dport == PORT]) == 400)
        keys = sorted(key for key in table() if key.dport == PORT)
        dead = [key._replace(dport=PORT + 1) for key in keys]
        wanted = [(key, True) for two in zip(keys[::2], dead, strict=False) for key in two]
        with deleting() as deleter:
            assert deleter.delete(wanted) == 200
            assert {key for key in table() if key.dport == PORT} == set(keys[1::2])
            assert deleter.refused == 0

    run(net.gateway, test)


def test_all_of_an_address_go_and_others_stay(net: SmallNet) -> None:
    async def test() -> None:
        tool("nft", "-f", "-", text=TRACK)
        for version in (4, 6):
            net.udp(net.client, version).sendto(b"x", (SERVER[version], PORT))
            net.udp(net.client, version).sendto(b"x", (SERVER[version], PORT + 1))
            net.udp(net.server, version).sendto(b"x", (CLIENT[version], PORT + 2))
        tool("conntrack", "-I", "-p", "udp", "-s", "192.0.2.1", "-d", "192.0.2.2", "-t", "100", *PORTS)
        await until(lambda: len([key for key in table() if key.dport in range(PORT, PORT + 3)]) == 6)
        with deleting() as deleter:
            assert deleter.delete_matching([parse_address("192.0.2.9")]) == 0
            assert deleter.delete_matching([client(4)]) == 3
            left = table()
            assert sum(client(6) in (key.src, key.dst) for key in left if key.proto == 17) == 3
            assert not any(client(4) in (key.src, key.dst) for key in left)
            # With many addresses, another way is taken.
            many = [parse_address(f"198.51.100.{number}") for number in range(100)]
            assert deleter.delete_matching([*many, server(6)]) >= 3
            assert {key for key in table() if key.proto == 17} == {
                ConnKey(17, parse_address("192.0.2.1"), 9, parse_address("192.0.2.2"), 10)
            }

    run(net.gateway, test)


def test_who_may_not_delete_learns_it_at_once(net: SmallNet) -> None:
    async def test() -> None:
        os.seteuid(65_534)
        try:
            with pytest.raises(PermissionError, match="cannot be deleted: not permitted"):
                ConntrackDeleter().open()
        finally:
            os.seteuid(0)

    run(net.gateway, test)
