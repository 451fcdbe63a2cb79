# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo and the stack it is made of: spind and a broker in the gateway, and a clean end."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spind import uci
from spind.lab import Lab, netns, runtime, traffic, wait_until
from spind.lab.stack import Broker, Spind

pytestmark = pytest.mark.lab

REPOSITORY = Path(__file__).resolve().parents[2]


class Demo:
    """``spind lab demo``, running, with its output in files."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.out, self.err = folder / "out", folder / "err"
        argv = [sys.executable, "-m", "spind", "lab", "demo", *options]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment
            )

    def said(self) -> str:
        assert self.process.poll() in (None, 0), self.err.read_text()
        return self.err.read_text()

    def name(self) -> str:
        found = wait_until(lambda: re.search(r"lab (\w+):", self.said()), 30, "the demo's lab")
        return found[1]

    def gone(self) -> bool:
        name = re.search(r"lab (\w+):", self.err.read_text())[1]
        return not any(netns.NETNS_DIR.glob(f"{name}-*")) and name not in runtime.names()


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[Demo]:
    running = Demo(folder, *options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()
        runtime.reap()


def test_the_demo_shows_the_home_and_ends_by_itself(tmp_path: Path) -> None:
    with demo(tmp_path, "--seconds", "7", "--misbehave", "plug:portscan") as running:
        assert running.process.wait(60) == 0, running.err.read_text()
        shown = running.out.read_text()
        for word in ("camera", "plug", "tv", "phone", "hub", "vendor.test", "plug.test", "tv.test"):
            assert word in shown
        assert running.gone()
        assert running.said().endswith("stopped; nothing of the lab is left\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_ends_cleanly_when_told(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path) as running:
        name = running.name()
        spind = Lab.attach(name).gateway.pid("spind")
        assert spind is not None
        running.process.send_signal(number)
        running.process.send_signal(number)  # an impatient person
        assert running.process.wait(30) == 0
        assert running.gone()
        assert runtime.start_time(spind) is None


def test_the_page_is_reached_from_outside_the_lab(tmp_path: Path) -> None:
    with demo(tmp_path, "--port", "0") as running:
        found = wait_until(lambda: re.search(r"http://127\.0\.0\.1:\d+/", running.said()), 30, "its address")
        with urllib.request.urlopen(found[0], timeout=10) as reply:
            assert b"<title>" in reply.read()
        with urllib.request.urlopen(found[0] + "api/v1/events", timeout=10) as stream:
            assert stream.readline() == b"event: hello\n"
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(30) == 0
        assert running.gone()
        assert found[0] in running.out.read_text() or not running.out.read_text()


def test_the_demo_says_so_when_the_daemon_dies(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        os.kill(Lab.attach(running.name()).gateway.pid("spind"), signal.SIGKILL)
        assert running.process.wait(30) == 1
        assert "gw: spind has ended" in running.err.read_text()
        assert running.gone()


def test_spind_and_a_broker_run_in_the_gateway(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    Broker(lab).start()
    daemon = Spind(lab, {"node_cache_retain_time": 600})
    daemon.start()
    assert daemon.call("status")["mode"] == "router"
    retained = lab.gateway.run(["mosquitto_sub", "-t", "SPIN/status", "-C", "1", "-W", "10"])
    assert retained.stdout == "online\n"
    before = lab.kernel_counters()
    report = traffic.run(lab, 3)
    assert set(report) == set(lab.devices)

    def equal() -> bool:
        counted = lab.kernel_counters()
        for name, families in daemon.forwarded().items():
            for family, seen in families.items():
                pairs = zip(counted[name][family], before[name][family], strict=True)
                if seen != tuple(now - then for now, then in pairs):
                    return False
        return True

    wait_until(equal, 10, "list_flows to equal the kernel's counters")
    assert daemon.stop() == 0
    # A second one starts where the first one was.
    again = Spind(lab, what="again")
    again.start()
    assert again.stop() == 0


def test_its_configuration_is_uci(lab: Lab) -> None:
    options = {"mode": None, "state_dir": "it's", "pubsub_port": 3, "lan": ["x y", "z"]}
    text = Spind(lab, options, "config device\n\toption name 'Tv'\n").text()
    first, second = uci.parse(text).sections
    assert (first.type, first.name) == ("spind", "spind")
    assert "mode" not in first.options
    assert [first.options[key] for key in ("state_dir", "pubsub_port", "lan")] == ["it's", "3", ["x y", "z"]]
    assert (second.type, second.options) == ("device", {"name": "Tv"})
