# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that began while rules were not in force: they are found, and ended."""

from test_engine import CAMERA, CAMERA_V4, PHONE_V4, T0
from test_engine_blocking import block, guarded

from spind.commands import Command, CutConnections
from spind.events import ConnDelta, Recheck, Traffic, TrafficEnd
from spind.model import Address, ConnKey, parse_address

SERVER = "198.18.0.40"


def key(device: Address) -> ConnKey:
    return ConnKey(6, device, 40000, parse_address(SERVER), 443)


def running(number: int, device: Address) -> ConnDelta:
    return ConnDelta(number, key(device), 9, 900, 8, 1000, ended=False)


def cuts(commands: list[Command]) -> list[ConnKey]:
    return [one for c in commands if isinstance(c, CutConnections) for one, _ in c.connections]


def test_what_runs_past_the_rules_is_cut_once_conntrack_was_read() -> None:
    engine = guarded(block(device=CAMERA))
    deltas = [running(7, CAMERA_V4), running(8, PHONE_V4)]
    assert cuts(engine.handle(Traffic(deltas), T0)) == []
    assert cuts(engine.handle(TrafficEnd(2, resynced=False), T0)) == []
    assert cuts(engine.handle(Recheck(), T0)) == []
    # The reading that was under way, and the one that began after: each may bring one.
    for second in (1, 2):
        assert cuts(engine.handle(TrafficEnd(2, resynced=False), T0 + second)) == [key(CAMERA_V4)]
    assert cuts(engine.handle(TrafficEnd(2, resynced=False), T0 + 3)) == []
