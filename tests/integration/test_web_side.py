# SPDX-License-Identifier: GPL-2.0-or-later
"""Server, gate and live events together: what a reload does, and in which order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from mosquitto_broker import free_port
from web_served import T0, engine

from spind.api import Api
from spind.captures import Captures
from spind.config_options import Config
from spind.limits import CaptureLimits
from spind.ubus.client import UbusClient
from spind.web.server import WebServer
from spind.web.side import WebSide


@asynccontextmanager
async def side(config: Config) -> AsyncIterator[tuple[WebSide, UbusClient]]:
    """The web interface of a daemon with this configuration; no bus is there."""
    loop = asyncio.get_running_loop()
    home = engine()
    api = Api(home, lambda: T0 + 5, lambda _commands: None)
    made = WebSide(loop, home, api, Captures(loop, lambda: (), CaptureLimits()), lambda: T0 + 5)
    bus = UbusClient(loop, config.ubus_socket)
    try:
        yield made, bus
    finally:
        await made.stop()


def differing(old: Config, new: Config) -> Callable[[tuple[str, ...]], list[str]]:
    return lambda names: [name for name in names if getattr(old, name) != getattr(new, name)]


def config_of(folder: Path, **options: object) -> Config:
    return replace(Config(), ubus_socket=str(folder / "no-ubus"), **options)  # type: ignore[arg-type]


def test_nobody_is_served_openly_at_an_address_that_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an address of the home to loopback only: nobody has to log in from then on, and until the last
    connection from outside is gone that would have let in whoever has one."""
    sources: list[object] = []
    stop = WebServer.stop

    async def watched(server: WebServer) -> None:
        sources.append(web.status()["accounts"])
        await stop(server)
        sources.append(web.status()["accounts"])

    async def test() -> None:
        nonlocal web
        before = config_of(tmp_path, spinweb_interfaces=("127.0.0.1", "192.0.2.1"), spinweb_port=port)
        after = replace(before, spinweb_interfaces=("127.0.0.1",))
        async with side(before) as (web, bus):
            await web.start(before, bus)
            assert web.status()["accounts"] == "closed"
            monkeypatch.setattr(WebServer, "stop", watched)
            await web.reload(after, bus, differing(before, after))
            monkeypatch.setattr(WebServer, "stop", stop)
            assert sources == ["closed", "closed"]
            assert web.status()["accounts"] == "open"
            assert web.status()["url"] == f"http://127.0.0.1:{port}/"

    port = free_port()
    web: WebSide
    asyncio.run(test())
