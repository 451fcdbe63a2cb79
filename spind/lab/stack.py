# SPDX-License-Identifier: GPL-2.0-or-later
"""spind and an MQTT broker in the lab's gateway: for the demo, and for tests of the whole.

Owns their configuration files and processes. Knows nothing of the daemon but its command line,
its configuration's words (UCI) and JSON-RPC on its Unix socket.
"""

import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from spind import uci
from spind.client import Client, ClientError
from spind.lab import plan
from spind.lab.counters import Counts
from spind.lab.lab import Lab
from spind.lab.node import wait_until

BROKER_PORT = 1883
START_SECONDS = 15.0
_PAGE = 500

Option = str | int | Sequence[str]


class Broker:
    """mosquitto on the gateway's loopback address, open to everybody there."""

    def __init__(self, lab: Lab, port: int = BROKER_PORT) -> None:
        self._lab = lab
        self._port = port

    def start(self) -> None:
        """Start it, and wait until it listens; ``LabError`` where it does not."""
        file = self._lab.root / "conf" / "mosquitto.conf"
        lines = ["user root", "allow_anonymous true", "persistence false", f"listener {self._port} 127.0.0.1"]
        file.write_text("\n".join(lines) + "\n")
        self._lab.gateway.start("mosquitto", ["mosquitto", "-c", file])
        wait_until(self._listens, START_SECONDS, "mosquitto")

    def stop(self) -> None:
        """Stop it."""
        self._lab.gateway.stop("mosquitto")

    def _listens(self) -> bool:
        self._lab.gateway.check("mosquitto")
        return self._lab.gateway.call(self._connects)

    def _connects(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(2)
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


class Spind:
    """``spind run`` in the gateway of ``lab``, with a configuration made for it.

    ``options`` add to or replace those of the section ``spind`` (a list becomes a ``list``;
    ``None`` leaves one out); ``more`` is UCI text put after it. ``what`` names the daemon in the
    lab, so that several can run after one another with states of their own.
    """

    def __init__(
        self,
        lab: Lab,
        options: Mapping[str, Option | None] | None = None,
        more: str = "",
        what: str = "spind",
    ) -> None:
        self.lab = lab
        self.what = what
        self.config = lab.root / "conf" / f"{what}.uci"
        self.state_dir = lab.root / "data" / what
        self.rpc_socket = self.state_dir / "rpc.sock"
        self.options: dict[str, Option | None] = {
            "mode": "router",
            "lan": [plan.LAN_BRIDGE],
            "pubsub_host": "127.0.0.1",
            "pubsub_port": BROKER_PORT,
            "rpc_socket": str(self.rpc_socket),
            "state_dir": str(self.state_dir),
            "history_dir": str(self.state_dir / "history"),
            "pid_file": str(self.state_dir / "spind.pid"),
            "lease_file": [str(lab.lease_file)],
            "log_usesyslog": 0,
            **(options or {}),
        }
        self.more = more

    def configure(self) -> None:
        """Write the configuration file out of ``options`` and ``more``."""
        self.config.write_text(self.text())

    def text(self) -> str:
        """The configuration, in UCI syntax."""
        options: dict[str, uci.Value] = {
            key: list(value) if isinstance(value, list | tuple) else str(value)
            for key, value in self.options.items()
            if value is not None
        }
        section = uci.Section("spind", "spind", anonymous=False, line=0, options=options)
        return uci.dump(uci.Package("spin", [section])) + self.more

    def start(self, *, wait: bool = True) -> "subprocess.Popen[bytes]":
        """Start it, and (``wait``) wait until it answers ``status``; ``LabError`` where it ends instead."""
        self.state_dir.mkdir(exist_ok=True)
        self.configure()
        gateway = self.lab.gateway
        process = gateway.start(self.what, gateway.python("spind", "run", "-c", self.config))
        if wait:
            wait_until(self._answers, START_SECONDS, "spind's first answer")
        return process

    def _answers(self) -> bool:
        self.lab.gateway.check(self.what)
        try:
            self.call("status")
        except ClientError:
            return False
        return True

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """End it with signal ``number``; its exit status."""
        return self.lab.gateway.stop(self.what, number)

    def call(self, method: str, **params: Any) -> Any:
        """Result of ``method``; ``client.CallError`` where it is refused, ``client.ClientError`` else."""
        with Client(str(self.rpc_socket)) as client:
            return client.call(method, params)

    def items(self, method: str, **params: Any) -> list[dict[str, Any]]:
        """All items of a method that answers in pages."""
        found: list[dict[str, Any]] = []
        with Client(str(self.rpc_socket)) as client:
            while True:
                page = client.call(method, {**params, "limit": _PAGE, "offset": len(found)})
                found += page["items"]
                if not page["items"] or len(found) >= page["total"]:
                    return found

    def forwarded(self) -> dict[str, dict[int, Counts]]:
        """What each device exchanged with parties beyond the home, out of ``list_flows``.

        In the shape of ``Lab.kernel_counters``, to be compared with it.
        """
        parties = {node["id"] for node in self.items("list_nodes", kind="site")}
        devices = {node["id"]: node["mac"] for node in self.items("list_nodes", kind="device")}
        names = {device.mac: device.name for device in self.lab.devices.values()}
        sums = {name: {4: [0, 0, 0, 0], 6: [0, 0, 0, 0]} for name in names.values()}
        for flow in self.items("list_flows"):
            name = names.get(devices.get(flow["device"], ""))
            if name is None or flow["node"] not in parties:
                continue
            total = sums[name][flow["family"]]
            for index, key in enumerate(("up_bytes", "down_bytes", "up_packets", "down_packets")):
                total[index] += flow[key]
        return {
            name: {family: (t[0], t[1], t[2], t[3]) for family, t in families.items()}
            for name, families in sums.items()
        }
