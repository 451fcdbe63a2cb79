# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures of real traffic in a home: by tcpdump and by our own reader; and the whole, over HTTP."""

import asyncio
import io
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.utils import rdpcap
from spind_home import Home

from spind.captures import Captures
from spind.deeds_captures import CaptureRequest
from spind.lab import Lab, netns, plan
from spind.lab.node import wait_until
from spind.lab.patience import patient
from spind.limits import CaptureLimits
from spind.model import parse_address, parse_mac
from spind.pcap_filter import Wanted
from spind.pcap_source import find_tcpdump

pytestmark = pytest.mark.lab

SITE4, SITE6 = "198.18.0.20", "2001:db8:2::20"
OTHER4 = "198.18.0.21"
PINGS = 4

TOOLS = [
    pytest.param(
        find_tcpdump(), id="tcpdump", marks=pytest.mark.skipif(not find_tcpdump(), reason="no tcpdump here")
    ),
    pytest.param("", id="scapy"),
]


def scene(
    lab: Lab,
    tcpdump: str,
    body: Callable[[Captures], Awaitable[None]],
    interfaces: tuple[str, ...] = (plan.LAN_BRIDGE,),
) -> None:
    """Run ``body`` with captures in the gateway; afterwards no process of theirs is left."""

    async def run() -> None:
        captures = Captures(asyncio.get_running_loop(), lambda: interfaces, CaptureLimits(), tcpdump=tcpdump)
        try:
            async with asyncio.timeout(patient(40)):
                await body(captures)
        finally:
            await captures.stop_all()

    with netns.visiting(lab.gateway.namespace):
        asyncio.run(run())
    assert not capturing(lab, "spind.pcap_child")


def capturing(lab: Lab, word: str) -> list[int]:
    """Processes in the lab's gateway with a word in their command line."""
    network = Path(netns.NETNS_DIR, lab.gateway.namespace).stat().st_ino
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.with_name("ns").joinpath("net").stat().st_ino != network:
                continue
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if word.encode() in words:
            found.append(int(path.parent.name))
    return found


async def begun(captures: Captures, *numbers: int) -> None:
    deadline = time.monotonic() + patient(15)
    while not all(one["state"] == "running" for one in captures.list() if one["id"] in numbers):
        assert time.monotonic() < deadline, captures.list()
        assert not any("reason" in one for one in captures.list()), captures.list()
        await asyncio.sleep(0.02)


async def ping(lab: Lab, device: str, target: str, *options: str) -> None:
    argv = ["ping", "-q", "-c", str(PINGS), "-i", "0.05", "-W", "2", *options, target]
    process = await asyncio.create_subprocess_exec(
        *lab.device(device).command(argv), stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0, (device, target)


async def stopped(captures: Captures, number: int) -> bytes:
    captures.stop(number)
    return await read(captures, number)


async def read(captures: Captures, number: int) -> bytes:
    return b"".join([chunk async for chunk in captures.open(number, "owner")])


def parsed(data: bytes) -> list[Any]:
    return list(rdpcap(io.BytesIO(data)))


def echoes(packets: list[Any], ipv4: str, ipv6: str) -> tuple[int, int]:
    """Echo requests and replies with an IPv4 and with an IPv6 address."""
    v4 = sum(ICMP in p and p[ICMP].type in (0, 8) and ipv4 in (p[IP].src, p[IP].dst) for p in packets)
    v6 = sum(
        (ICMPv6EchoRequest in p or ICMPv6EchoReply in p) and ipv6 in (p[IPv6].src, p[IPv6].dst)
        for p in packets
    )
    return v4, v6


@pytest.mark.vm
@pytest.mark.parametrize("tcpdump", TOOLS)
def test_device_site_and_pair_at_the_same_time(lab: Lab, tcpdump: str) -> None:
    camera, phone = lab.device("camera").mac, lab.device("phone").mac
    site = (parse_address(SITE4), parse_address(SITE6))
    wishes = {
        "device": Wanted(parse_mac(camera)),
        "site": Wanted(addresses=site),
        "pair": Wanted(parse_mac(camera), None, site),
        "devices": Wanted(parse_mac(camera), parse_mac(phone), (parse_address(lab.device("phone").ipv4),)),
    }
    found: dict[str, list[Any]] = {}

    async def body(captures: Captures) -> None:
        numbers = {
            name: captures.start(CaptureRequest(wanted, 60, 1 << 20)) for name, wanted in wishes.items()
        }
        await begun(captures, *(int(str(one["id"])) for one in numbers.values()))
        # so that it asks for the gateway anew, and there is ARP
        lab.device("camera").run(["ip", "neigh", "flush", "dev", plan.DEVICE_INTERFACE])
        for device in ("camera", "phone"):
            for target in (SITE4, SITE6, OTHER4):
                await ping(lab, device, target)
        for name, one in numbers.items():
            data = await stopped(captures, int(str(one["id"])))
            (told,) = [each for each in captures.list() if each["id"] == one["id"]]
            assert told["reason"] == "stopped"
            assert told["bytes"] == len(data)
            found[name] = parsed(data)
            assert len(found[name]) == told["packets"]
            assert "dropped" not in told
            assert tshark_count(data) in (None, told["packets"])

    scene(lab, tcpdump, body)
    both = 2 * PINGS
    assert all(camera in (p[Ether].src, p[Ether].dst) for p in found["device"])
    assert any(ARP in p for p in found["device"])
    assert echoes(found["device"], SITE4, SITE6) == (both, both)
    assert echoes(found["device"], OTHER4, SITE6) == (both, both)
    assert echoes(found["pair"], SITE4, SITE6) == (both, both)
    assert len(found["pair"]) == 2 * both, "nothing else"
    assert echoes(found["site"], SITE4, SITE6) == (2 * both, 2 * both)
    assert len(found["site"]) == 4 * both
    assert not found["devices"], "they do not talk to each other through the gateway"
    assert all(abs(float(p.time) - time.time()) < patient(60) for p in found["device"])


def tshark_count(data: bytes) -> int | None:
    """Packets that Wireshark's parser sees, none of them damaged; None where it is not installed."""
    program = shutil.which("tshark")
    if program is None:
        return None
    done = subprocess.run(
        [program, "-n", "-r", "-", "-T", "fields", "-e", "frame.len"],
        input=data,
        capture_output=True,
        check=True,
    )
    assert b"cut short" not in done.stderr
    return len(done.stdout.split())


@pytest.mark.parametrize("tcpdump", TOOLS)
def test_size_and_seconds_are_kept(lab: Lab, tcpdump: str) -> None:
    wanted = Wanted(parse_mac(lab.device("camera").mac))

    async def body(captures: Captures) -> None:
        captures.start(CaptureRequest(wanted, 60, 50_000))
        captures.start(CaptureRequest(wanted, 2, 1 << 20))
        await begun(captures, 1, 2)
        since = time.monotonic()
        late = asyncio.create_task(read(captures, 2))
        await ping(lab, "camera", SITE4, "-c", "60", "-s", "1000")
        data = await read(captures, 1)
        second, first = captures.list()
        assert first["reason"] == "size"
        assert 50_000 - 1100 < len(data) <= 50_000
        assert len(parsed(data)) == first["packets"]
        whole = await late
        assert 1.5 < time.monotonic() - since < patient(4)
        second, first = captures.list()
        assert second["reason"] == "time"
        assert len(parsed(whole)) == second["packets"]
        assert await read(captures, 2) == whole, "a reader that comes late gets the same"

    scene(lab, tcpdump, body)


@pytest.mark.parametrize("tcpdump", TOOLS)
def test_an_interface_that_is_not_there(lab: Lab, tcpdump: str) -> None:
    async def body(captures: Captures) -> None:
        captures.start(CaptureRequest(Wanted(parse_mac("02:00:00:00:00:01")), 60, 1 << 20))
        assert parsed(await read(captures, 1)) == []
        (told,) = captures.list()
        assert str(told["reason"]).startswith("error: nothing0: ")
        assert "No such device" in str(told["reason"]) or "not found" in str(told["reason"])

    scene(lab, tcpdump, body, ("nothing0",))


@pytest.mark.parametrize("tcpdump", TOOLS)
def test_the_capturing_process_has_no_privilege_to_spare(lab: Lab, tcpdump: str) -> None:
    async def body(captures: Captures) -> None:
        captures.start(CaptureRequest(Wanted(parse_mac("02:00:00:00:00:01")), 60, 1 << 20))
        await begun(captures, 1)
        (process,) = capturing(lab, tcpdump or "spind.pcap_child")
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
        assert "0" not in status["Uid"].split()
        assert "0" not in status["Gid"].split()
        assert not status["Groups"].split() or "0" not in status["Groups"].split()
        assert status["NoNewPrivs"] == "1"
        # CAP_NET_RAW, which tcpdump needs to open its socket; our own has it open already
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == (1 << 13 if tcpdump else 0)

    scene(lab, tcpdump, body)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Lab() as lab:
        fresh = Home(lab)
        fresh.start()
        yield fresh
        fresh.stop()


def node_of(home: Home, device: str) -> int:
    """The id of a device, once it was seen."""
    mac = home.lab.device(device).mac

    def find() -> int:
        nodes = home.pages("list_nodes", kind="device")
        return next((int(node["id"]) for node in nodes if node["mac"] == mac), 0)

    return wait_until(find, patient(20), f"the device {device}")


def test_the_whole_over_http(home: Home) -> None:
    camera = home.lab.device("camera")
    node_of(home, "camera")
    capture = home.call("start_capture", device=camera.mac, seconds=30)
    wait_until(lambda: home.call("list_captures")[0]["state"] == "running", patient(15), "the capture")
    pieces: list[bytes] = []

    def download() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:13026{capture['url']}", timeout=patient(20)) as reply:
            assert reply.status == 200
            while not any(ICMP in packet for packet in parsed(b"".join(pieces))) if pieces else True:
                pieces.append(reply.read1(65536))
            # it runs still, and packets are here
            assert home.call("list_captures")[0]["state"] == "running"
            home.call("stop_capture", id=capture["id"])
            pieces.append(reply.read())

    pinger = camera.popen(["ping", "-q", "-i", "0.1", SITE4], stdout=subprocess.DEVNULL)
    try:
        home.lab.gateway.call(download)
    finally:
        pinger.terminate()
        pinger.wait(patient(5))
    packets = parsed(b"".join(pieces))
    (told,) = home.call("list_captures")
    assert (told["state"], told["reason"], told["packets"]) == ("ended", "stopped", len(packets))
    assert all(camera.mac in (p[Ether].src, p[Ether].dst) for p in packets)
    assert f"capture {capture['id']} of " in home.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_ends_leaves_no_process(home: Home, number: signal.Signals) -> None:
    node_of(home, "camera")
    word = f"ether host {home.lab.device('camera').mac}"
    home.call("start_capture", device=home.lab.device("camera").mac)
    wait_until(lambda: home.call("list_captures")[0]["state"] == "running", patient(15), "the capture")
    assert capturing(home.lab, word)
    home.spind.stop(number)
    wait_until(lambda: not capturing(home.lab, word), patient(5), "the end of tcpdump")
    home.spind.start()
    assert home.call("list_captures") == []
