# SPDX-License-Identifier: GPL-2.0-or-later
"""A reload sees that networks have got other devices in /etc/config/network."""

import asyncio
from pathlib import Path

import pytest

from spind.neighbours import NeighbourWatcher

LAN = "config interface 'lan'\n\toption device 'br-lan'\n\toption ipaddr '192.0.2.1'\n"


def watcher(path: Path) -> NeighbourWatcher:
    loop = asyncio.new_event_loop()
    try:
        return NeighbourWatcher(
            loop,
            lambda _event: None,
            ("lan",),
            "router",
            on_interfaces=lambda _names: None,
            network_config=path,
        )
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("before", "after", "outdated"),
    [
        (LAN, LAN, False),
        (LAN, LAN.replace("192.0.2.1", "192.0.2.2"), False),
        (LAN, LAN.replace("br-lan", "br-home"), True),
        (LAN, LAN + "config interface 'guest'\n\toption device 'br-guest'\n", True),
        (None, LAN, True),
        (LAN, None, True),
        (None, None, False),
    ],
)
def test_only_devices_of_networks_matter(
    before: str | None, after: str | None, outdated: bool, tmp_path: Path
) -> None:
    path = tmp_path / "network"

    def write(text: str | None) -> None:
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)

    write(before)
    neighbours = watcher(path)
    assert not neighbours.outdated()
    write(after)
    assert neighbours.outdated() is outdated
