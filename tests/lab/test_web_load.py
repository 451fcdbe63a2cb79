# SPDX-License-Identifier: GPL-2.0-or-later
"""Many browsers at once: nobody misses anything, nobody's slowness costs the others, memory is bounded.

Half a minute of it; ``bench/run --rows web-load`` is the whole minute, with numbers. Times are no part of
this test.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from blocking import wait_for
from spind_home import Home

from bench.process import memory
from spind.lab import Lab, traffic
from spind.lab.patience import patient
from spind.lab.webstate import key_of

pytestmark = pytest.mark.lab

STREAMS, RATE, SECONDS, SLOW = 50, 200, 10, 6
MORE_MEMORY = 40.0
"""MB that the daemon may grow by: what is queued for each of the clients is bounded."""


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Lab() as lab:
        fresh = Home(lab)
        fresh.start()
        traffic.run(lab, 3)
        yield fresh
        fresh.stop()


class Load:
    """The load program beside the daemon."""

    def __init__(self, home: Home, **arguments: Any) -> None:
        gateway = home.lab.gateway
        self._process: subprocess.Popen[str] = gateway.popen(
            gateway.python("spind.lab.webload", json.dumps(arguments)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the load program has ended"
        words: dict[str, Any] = json.loads(line)
        return words

    def end(self, marker: str) -> dict[str, Any]:
        """What the streams carried until ``marker`` had come to each."""
        out, _ = self._process.communicate(f"{marker}\n", timeout=patient(60))
        result: dict[str, Any] = json.loads(out)
        return result

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def load(home: Home, **arguments: Any) -> Iterator[Load]:
    made = Load(home, **arguments)
    try:
        yield made
    finally:
        made.close()


def marked(home: Home) -> str:
    """A change that every stream is told of, after all that was before."""
    marker = f"mark{time.monotonic_ns()}"
    (node, *_) = home.call("list_nodes", kind="device")["items"]
    home.call("set_device_name", node=node["id"], name=marker)
    return marker


def pid_of(home: Home) -> int:
    pid = home.lab.gateway.pid("spind")
    assert pid is not None
    return pid


def steady(home: Home) -> list[dict[str, Any]]:
    """The flows, once nothing changes any more."""

    def same() -> list[dict[str, Any]] | None:
        before = home.pages("list_flows")
        home.settle()
        return before if before == home.pages("list_flows") else None

    flows: list[dict[str, Any]] = wait_for(same, "an end of the traffic", 30)
    return flows


def web_counters(home: Home) -> dict[str, int]:
    counters: dict[str, int] = home.call("status")["web"]
    return counters


def test_fifty_streams_beside_calls_and_slow_readers_miss_nothing(home: Home) -> None:
    before = memory(pid_of(home)).resident
    dropped = web_counters(home)["dropped"]
    with (
        load(home, streams=STREAMS, rate=RATE, seconds=SECONDS, slow=SLOW) as running,
        traffic.Traffic(home.lab, SECONDS) as busy,
    ):
        assert running.read()["ready"] == STREAMS
        calls = running.read()
        busy.wait()
        flows = steady(home)
        # Those who never read have been stuck since their snapshots; by now they are given up, or soon.
        wait_for(lambda: web_counters(home)["dropped"] >= dropped + SLOW, "the end of slow readers", 60)
        result = running.end(marked(home))
    assert (calls["failed"], calls["answered"] + calls["open"]) == (0, calls["sent"])
    assert calls["sent"] >= RATE * SECONDS / 2, "the load was not what it was to be"
    assert result["without_marker"] == 0
    for each in result["streams"]:
        assert (each["missed"], each["snapshots"], each["ended"]) == (0, 1, False), each
        assert each["deltas"] >= SECONDS / 3
    (digest,) = {each["digest"] for each in result["streams"]}
    assert digest
    known = {key_of(flow): flow for flow in result["flows"]}
    assert known == {key_of(flow): flow for flow in flows}
    assert result["slow_dropped"] == SLOW
    assert memory(pid_of(home)).resident < before + MORE_MEMORY
