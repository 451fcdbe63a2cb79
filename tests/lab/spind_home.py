# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of the whole need: spind and a broker in a lab's gateway, watched from outside."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
import pytest

from spind.lab import Lab
from spind.lab.node import wait_until
from spind.lab.patience import patient
from spind.lab.stack import BROKER_PORT, Broker, Spind

Counts = list[int]


SAMPLES = Path(__file__).parents[3] / "shared/contract/spin-samples"
"""Messages recorded from SPIN 1.0, where they are."""


def samples(name: str) -> list[dict[str, Any]]:
    """What was recorded under a name; the test is skipped where there are no records."""
    if not SAMPLES.is_dir():
        pytest.skip("no recorded messages here")
    found: list[dict[str, Any]] = json.loads((SAMPLES / f"{name}.json").read_text())
    return found


def shape(value: Any) -> Any:
    """Keys and types of a JSON value; lists by their first element."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value).__name__


def covers(ours: Any, recorded: Any, where: str = "") -> None:
    """Every recorded key is there with the recorded type; more may be."""
    if isinstance(recorded, dict):
        assert isinstance(ours, dict), where
        for key, value in recorded.items():
            assert key in ours, f"{where}.{key}"
            covers(ours[key], value, f"{where}.{key}")
    elif isinstance(recorded, list):
        assert isinstance(ours, list), where
        if recorded and ours:
            covers(ours[0], recorded[0], f"{where}[0]")
    else:
        assert ours == recorded, where


class Home:
    """A lab with spind and a broker running in its gateway."""

    def __init__(self, lab: Lab, **options: Any) -> None:
        self.lab = lab
        self.broker = Broker(lab)
        self.spind = Spind(lab, options)
        self.call = self.spind.call

    def start(self) -> None:
        self.broker.start()
        self.spind.start()
        self.settle()

    def stop(self) -> None:
        self.spind.stop()
        self.broker.stop()

    def settle(self) -> None:
        """Wait until conntrack has been read three times more, so that counters are those of now.

        The first reading may have begun before; in the second a connection may be left out whose
        addresses and ports belonged to one that ended just before (see ``accounting``).
        """
        before = self.call("status")["conntrack"]["dumps"]
        wait_until(
            lambda: self.call("status")["conntrack"]["dumps"] >= before + 3,
            patient(60),
            "three more readings of the counters",
            interval=0.1,
        )

    def pages(self, method: str, **params: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        while True:
            page = self.call(method, limit=500, offset=len(items), **params)["items"]
            if not page:
                return items
            items += page

    def log(self) -> str:
        return self.lab.gateway.log_file("spind").read_text()

    def kernel(self) -> dict[tuple[str, int], Counts]:
        """(device, family) -> [bytes up, down, packets up, down], by the gateway's own nft counters."""
        sums: dict[tuple[str, int], Counts] = {}
        for scope in ("forward", "gateway"):
            for device, families in self.lab.kernel_counters(scope).items():
                for family, counts in families.items():
                    total = sums.setdefault((device, family), [0, 0, 0, 0])
                    for i, value in enumerate(counts):
                        total[i] += value
        return sums

    def counted(self) -> dict[tuple[str, int], Counts]:
        """The same by spind's ``list_flows``."""
        names = {node["id"]: node["hostname"] for node in self.pages("list_nodes", kind="device")}
        sums = {(name, family): [0, 0, 0, 0] for name in names.values() for family in (4, 6)}
        for flow in self.pages("list_flows"):
            ways = [("up_bytes", "down_bytes", "up_packets", "down_packets")]
            ways.append(("down_bytes", "up_bytes", "down_packets", "up_packets"))
            for end, fields in zip(("device", "node"), ways, strict=True):
                if flow[end] in names:
                    total = sums[names[flow[end]], flow["family"]]
                    for i, field in enumerate(fields):
                        total[i] += flow[field]
        return sums

    @contextmanager
    def counting(self) -> Iterator[Callable[[], dict[tuple[str, int], tuple[Counts, Counts]]]]:
        """Gives a function that returns (kernel's, spind's) growth since the block was entered."""
        self.settle()
        kernel, counted = self.kernel(), self.counted()

        def grown() -> dict[tuple[str, int], tuple[Counts, Counts]]:
            self.settle()
            now = (self.kernel(), self.counted())
            return {
                key: (
                    [a - b for a, b in zip(now[0][key], kernel[key], strict=True)],
                    [a - b for a, b in zip(now[1][key], counted.get(key, [0] * 4), strict=True)],
                )
                for key in kernel
            }

        yield grown


class Listener:
    """An MQTT subscriber in the gateway: every message in order, with its arrival time."""

    def __init__(self, lab: Lab, topic: str = "SPIN/#") -> None:
        self.messages: list[tuple[float, str, bytes, bool]] = []
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._ready = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe(topic)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _c, _u, m: self.messages.append(
            (time.time(), m.topic, m.payload, m.retain)
        )
        # The socket belongs to the namespace in which it was made.
        lab.gateway.call(lambda: self._client.connect("127.0.0.1", BROKER_PORT))

    def __enter__(self) -> Self:
        self._client.loop_start()
        assert self._ready.wait(patient(5))
        return self

    def __exit__(self, *_: object) -> None:
        self._client.loop_stop()
        self._client.disconnect()

    def commands(self, command: str) -> list[dict[str, Any]]:
        found = []
        for _, _, payload, _ in list(self.messages):
            if payload.startswith(b"{"):
                message = json.loads(payload)
                if message.get("command") == command:
                    found.append(message)
        return found
