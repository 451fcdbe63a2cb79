# SPDX-License-Identifier: GPL-2.0-or-later
"""A home for tests of the page: names and services that one can block, and devices that were busy."""

import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from blocking import Service, Talk, fresh_port, quiet_limits, wait_for
from blocking_home import BESIDE, Blocks
from web_browser import PAGE, PORT

from spind.lab import Lab, traffic
from spind.lab.node import Device, wait_until
from spind.lab.patience import patient


class WebHome(Blocks):
    """``Blocks`` with the web interface on; ``options`` are those of the section ``spind``."""

    def __init__(self, lab: Lab, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(lab, "nftables")
        self.spind.options.update({"spinweb_port": PORT, **(options or {})})

    def start(self) -> None:
        super().start()
        wait_until(self.serves, 15, "the page")

    def serves(self) -> bool:
        """Whether somebody listens on the page's port."""

        def connects() -> bool:
            with socket.socket() as probe:
                probe.settimeout(2)
                return probe.connect_ex(("127.0.0.1", PORT)) == 0

        return self.lab.gateway.call(connects)

    def restart(self, **options: Any) -> None:
        """The daemon ends and comes back, with other options where there are any."""
        self.spind.stop()
        self.spind.options.update(options)
        self.spind.start()
        wait_until(self.serves, 15, "the page")

    def device_id(self, name: str) -> int:
        """The id of a device of the lab."""
        return self.node_of(self.lab.device(name).mac, "device")

    def live(self, seconds: float, *only: str) -> None:
        """Let devices do for some seconds what such devices do."""
        traffic.run(self.lab, seconds, only=only)

    def http(
        self, path: str, body: Any = None, method: str | None = None, **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of a request to the daemon, made in the gateway."""
        data = None if body is None else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            names.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(PAGE + path.lstrip("/"), data, names, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def ask() -> tuple[int, Mapping[str, str], bytes]:
            try:
                with opener.open(request, timeout=patient(10)) as reply:
                    return reply.status, dict(reply.headers), reply.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, dict(error.headers), error.read()

        return self.lab.gateway.call(ask)


class Pair:
    """A device and a party outside, ``node`` by id, that talk over UDP when they are told to."""

    def __init__(self, home: WebHome, device: Device, number: int) -> None:
        self.home = home
        self.address = BESIDE[4].format(number)
        self._stack = contextlib.ExitStack()
        where = home.lab.internet
        self.service = self._stack.enter_context(Service(where, self.address, "udp", fresh_port()))
        self._near = device
        self.talk()
        self.device = home.node_of(device.mac, "device")
        self.node = home.node_of(self.address)

    def close(self) -> None:
        self._stack.close()

    def talk(self) -> None:
        """A conversation of a new port, which succeeds."""
        with Talk(self._near, self.service) as talk:
            talk.establish()

    def talk_much(self, packets: int) -> None:
        """Long packets to the party, as many as that."""
        with Talk(self._near, self.service) as talk:
            talk.establish()
            for _ in range(packets):
                talk.send(1400)

    def silent(self) -> bool:
        """Whether a conversation of a new port is refused."""
        with Talk(self._near, self.service) as talk:
            talk.begin()
            return not talk.heard(1)

    def blocked_in_time(self) -> None:
        """Wait until the pair cannot talk any more."""
        wait_for(self.silent, f"an end of talks with {self.address}")

    def talks_in_time(self) -> None:
        """Wait until the pair can talk again."""
        wait_for(lambda: not self.silent(), f"talks with {self.address}")


@contextlib.contextmanager
def web_home(
    options: Mapping[str, Any] | None = None,
    devices: int = 5,
    prepare: Callable[[WebHome], object] = lambda home: None,
) -> Iterator[WebHome]:
    """A lab of its own with such a home that runs; ``prepare`` comes before the daemon's start."""
    with Lab(devices=devices) as lab:
        home = WebHome(lab, options)
        quiet_limits(home)
        prepare(home)
        home.start()
        yield home
        home.stop()
