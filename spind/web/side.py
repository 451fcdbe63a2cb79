# SPDX-License-Identifier: GPL-2.0-or-later
"""The web interface of a daemon: server, gate and live events, started and stopped together.

Owns what of the configuration needs which of them to begin anew. The server and its HTTP library are
imported when they are needed: a daemon without web interface does without their memory.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from spind import __version__
from spind.api import Api
from spind.commands import Command
from spind.config_options import Config
from spind.engine import Engine
from spind.feed import Feed
from spind.shapes import Json
from spind.ubus.client import UbusClient
from spind.web.gate import Gate, GateSettings
from spind.web.messages import Captures
from spind.web.rpcd import RouterAccounts
from spind.web.streams import Streams

if TYPE_CHECKING:
    from spind.web.server import WebServer

log = logging.getLogger(__name__)

OPTIONS = (
    "spinweb_interfaces",
    "spinweb_port",
    "spinweb_hostnames",
    "spinweb_tls_certificate_file",
    "spinweb_tls_key_file",
)
"""Options of the server: where they change, it is stopped and started."""


class WebSide:
    """Serves the page and the API; all calls from the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        engine: Engine,
        api: Api,
        captures: Captures,
        clock: Callable[[], float],
    ) -> None:
        """``clock`` gives Unix seconds."""
        self._loop = loop
        self._api = api
        self._captures = captures
        instance = secrets.token_hex(4)  # of before a restart, nothing can be gone on with
        self._streams = Streams(loop, Feed(engine, clock, instance, __version__))
        self._gate: Gate | None = None
        self._server: WebServer | None = None
        self._problem = ""

    async def start(self, config: Config, bus: UbusClient) -> None:
        """Serve as ``config`` says; ``bus`` is where the router's accounts would be."""
        self._gate = Gate(GateSettings.of(config), RouterAccounts(bus, config.ubus_socket))
        self._gate.start()
        await self._serve(config)

    async def reload(
        self, config: Config, bus: UbusClient, changed: Callable[[tuple[str, ...]], list[str]]
    ) -> None:
        """Serve as ``config`` says from now on; ``changed`` tells which of some options differ."""
        if self._gate is None:
            return
        if changed(("ubus_socket",)):
            await self._end()
            await self.start(config, bus)
            return
        # The files of a certificate change without their names: those who renew one have us reload.
        anew = bool(changed(OPTIONS) or config.spinweb_tls_certificate_file)
        if anew:
            # First: where it goes back to loopback nobody has to log in, and somebody may be connected from
            # outside still.
            await self._stop_server()
        self._gate.configure(GateSettings.of(config))
        if anew:
            await self._serve(config)

    async def stop(self) -> None:
        """End all streams and connections, for good."""
        await self._streams.stop()
        await self._end()

    async def _end(self) -> None:
        await self._stop_server()
        if self._gate is not None:
            await self._gate.stop()
            self._gate = None

    def publish(self, command: Command) -> None:
        """Tell those who watch."""
        self._streams.publish(command)

    def captures_changed(self) -> None:
        """The list of captures says something new."""
        self._streams.mention("captures")

    def problems(self) -> list[str]:
        """Sentences on what does not work."""
        found = [self._problem] if self._problem else []
        if self._server is not None:
            found += self._server.problems
            if self._gate is not None and self._gate.problem:
                found.append(f"web: {self._gate.problem}")
        return found

    def status(self) -> Json:
        """What ``status`` says of it."""
        server, gate = self._server, self._gate
        return {
            "url": server.url if server else "",
            "accounts": gate.source if gate else "",
            **(server.counters if server else {}),
            "events": dict(self._streams.counters),
            "logins": gate.counters if gate else {},
        }

    async def _serve(self, config: Config) -> None:
        self._problem = ""
        if not config.spinweb_port or not config.spinweb_interfaces or self._gate is None:
            log.info("no web interface: it is switched off")
            return
        try:
            from spind.web.server import WebServer, WebSettings  # noqa: PLC0415  (only where it is on)
        except ModuleNotFoundError as error:
            self._problem = f"no web interface: {error.name} is not installed (python3-tornado)"
            log.error("%s", self._problem)
            return
        settings = WebSettings(
            config.spinweb_interfaces,
            config.spinweb_port,
            config.spinweb_tls_certificate_file,
            config.spinweb_tls_key_file,
            config.spinweb_hostnames,
        )
        self._server = WebServer(self._loop, self._api, settings, self._gate, self._streams, self._captures)
        await self._server.start()

    async def _stop_server(self) -> None:
        if self._server is not None:
            await self._server.stop()
            self._server = None
