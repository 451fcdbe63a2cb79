# SPDX-License-Identifier: GPL-2.0-or-later
"""A flood may cost accuracy, and say so, but never memory: the engine's real limits, in full."""

import subprocess
import sys
from pathlib import Path

import pytest

# Runs in a process of its own, so that the resident size is the engine's alone. Prints the size in
# KiB after a quarter of the flood, when every table is full, and at its end.
PROGRAM = """
import sys
from test_engine import CAMERA, CAMERA_V4, T0, home, packet
from spind.events import ConnDelta, NeighbourSeen, PacketSeen, Tick, Traffic
from spind.wire import dns

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4

def name_message(number, response):
    label = b"n%d" % number
    site = b"dga%d" % number
    question = bytes([len(label)]) + label + bytes([len(site)]) + site + b"\\x04test\\x00\\x00\\x01\\x00\\x01"
    address = bytes([198, 18, number >> 8 & 255, number & 255])
    answer = b"\\xc0\\x0c\\x00\\x01\\x00\\x01\\x00\\x00\\x0e\\x10\\x00\\x04" + address
    flags = b"\\x81\\x80" if response else b"\\x01\\x00"
    counts = b"\\x00\\x01" + (b"\\x00\\x01" if response else b"\\x00\\x00") + b"\\x00" * 4
    return b"\\x00\\x07" + flags + counts + question + (answer if response else b"")

kind, count = sys.argv[1], int(sys.argv[2])
engine = home()
gateway = bytes([192, 168, 8, 1])
for number in range(count):
    now = T0 + number / 5000
    if kind == "destinations":
        target = (0xC6120000 + number).to_bytes(4, "big")
        syn = packet(6, CAMERA_V4, 1024 + number % 60000, target, 23, flags=2, seq=1)
        engine.handle(PacketSeen(syn, CAMERA, True), now)
        engine.handle(Traffic([ConnDelta(number, syn.key, 1, 60, 0, 0, number % 2 == 0)]), now)
    elif kind == "names":
        query = packet(17, CAMERA_V4, 4000, gateway, 53, payload=name_message(number, False))
        reply = packet(17, gateway, 53, CAMERA_V4, 4000, payload=name_message(number, True))
        engine.handle(PacketSeen(query, CAMERA, True), now)
        engine.handle(PacketSeen(reply, None, False), now)
    else:
        mac = (0x020000100000 + number).to_bytes(6, "big")
        address = bytes.fromhex("20010db8000800000000") + mac
        engine.handle(NeighbourSeen(address, mac), now)
        engine.handle(PacketSeen(packet(17, address, 9, gateway, 9), mac, True), now)
    if number % 5000 == 0:
        engine.handle(Tick(), now)
    if number == count // 4:
        print(resident())
print(resident())
print(sum(value for name, value in engine.statistics().items() if "evicted" in name or "overflowed" in name))
"""


@pytest.mark.parametrize(
    ("kind", "count"), [("destinations", 1_000_000), ("names", 100_000), ("macs", 10_000)]
)
def test_memory_stays_where_it_was_when_the_tables_were_full(kind: str, count: int) -> None:
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, str(count)],
        env={"PYTHONPATH": f"{root}:{root / 'tests/unit'}", "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    full, end, lost = map(int, result.stdout.split())
    assert lost > 0, "the bounds were reached, and counted"
    assert end < full * 1.15 + 4096, f"{full} KiB when the tables were full, {end} KiB at the end"
