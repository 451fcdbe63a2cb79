# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo: a home, spind in its gateway, all devices busy, and what spind sees of it, live.

Owns the order of things from the first line to the clean stop. What is shown comes from the
daemon alone, through its public interface.
"""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from spind.lab import traffic
from spind.lab.lab import Lab
from spind.lab.stack import Broker, RpcClient, Spind

REFRESH_SECONDS = 1.0
MAX_FLOWS = 20


def run(seconds: float, seed: int, misbehave: dict[str, str]) -> None:
    """Show the home for ``seconds``, or until Ctrl-C or SIGTERM; everything is taken down then."""
    say("building a home in network namespaces ...")
    with _terminated_as_interrupt(), contextlib.suppress(KeyboardInterrupt), Lab(seed=seed) as lab:
        Broker(lab).start()
        daemon = Spind(lab)
        daemon.start()
        say(f"lab {lab.name}: {len(lab.devices)} devices, an internet, a gateway with spind and a broker")
        say(f"look inside: spind lab exec {lab.name} gw -- mosquitto_sub -t 'SPIN/#' -v")
        say(f"         or: spind lab exec {lab.name} phone -- curl https://www.shop.test/")
        with traffic.Traffic(lab, min(seconds, traffic.MAX_SECONDS), misbehave=misbehave):
            _watch(daemon.rpc_socket, seconds)
        daemon.stop()
    say("stopped; nothing of the lab is left")


def say(words: str) -> None:
    """One line of progress, on standard error."""
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(path: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    clear = "\x1b[H\x1b[J" if sys.stdout.isatty() else ""
    with RpcClient(path) as client:
        while time.monotonic() < end:
            devices = client.call("list_devices")
            flows = client.call("list_flows", limit=200)
            sys.stdout.write(clear + table(devices, flows["items"], flows["total"]))
            sys.stdout.flush()
            time.sleep(max(0.0, min(REFRESH_SECONDS, end - time.monotonic())))


def table(devices: list[dict[str, Any]], flows: list[dict[str, Any]], total: int) -> str:
    """Devices and their busiest flows as text."""
    names = {entry["id"]: str(entry.get("name") or entry.get("mac")) for entry in devices}
    lines = [f"{'DEVICE':<12} {'MAC':<18} ADDRESSES"]
    for entry in devices:
        addresses = " ".join(entry["ips"])
        lines.append(f"{names[entry['id']]:<12.12} {entry.get('mac', ''):<18} {addresses:.78}")
    lines += ["", f"{'DEVICE':<12} {'TO':<28} {'BY':<9} {'PORT':>6} {'UP':>10} {'DOWN':>10}"]
    busiest = sorted(flows, key=lambda flow: -(flow["up_bytes"] + flow["down_bytes"]))
    for flow in busiest[:MAX_FLOWS]:
        device = names.get(flow["device"], str(flow["device"]))
        lines.append(
            f"{device:<12.12} {flow['name'] or flow['node']!s:<28.28} {flow['evidence']:<9}"
            f" {flow['port']:>6} {size(flow['up_bytes']):>10} {size(flow['down_bytes']):>10}"
        )
    return "\n".join([*lines, f"{total} flows", ""])


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
