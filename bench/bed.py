# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab as a test bench: a home with a broker, with and without spind in its gateway.

Owns the start and the end of the daemon and of the programs that make load, and the state in
which each measurement begins: no connections in the gateway's table, a daemon that is ready.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from bench.process import CpuMeter
from spind.lab import Lab, Node, load, netns, wait_until
from spind.lab.stack import Broker, Option, Spind

T = TypeVar("T")

SETTLE_SECONDS = 1.0
COUNTERS_SECONDS = 10.0
"""How often spind asks its adapters for their counters."""

_UDP_TIMEOUTS = ("net.netfilter.nf_conntrack_udp_timeout", "net.netfilter.nf_conntrack_udp_timeout_stream")


class Running:
    """A daemon that runs: its process id ``pid``, and how many seconds it took to its first answer."""

    def __init__(self, spind: Spind, pid: int, started: float = 0.0) -> None:
        self.spind = spind
        self.pid = pid
        self.started = started

    def call(self, method: str, **params: Any) -> Any:
        """Result of a JSON-RPC method."""
        return self.spind.call(method, **params)

    def statistics(self) -> dict[str, int]:
        """The counters of ``status``; those of the adapters are up to ``COUNTERS_SECONDS`` old."""
        statistics: dict[str, int] = self.call("status")["statistics"]
        return statistics

    def cpu(self, seconds: float) -> float:
        """Percent of a core that it uses in the next ``seconds``."""
        meter = CpuMeter(self.pid)
        time.sleep(seconds)
        return meter.percent()

    def longest_stall(self, seconds: float) -> float:
        """The longest stall of its loop in the next ``seconds``, in milliseconds.

        ``loop.recent-stall-us`` covers the time since it was counted last, and is there until it is
        counted again.
        """
        longest = 0
        # What was before is none of our business: the next count still covers it, and is there for as long.
        time.sleep(2 * COUNTERS_SECONDS + 1)
        deadline = time.monotonic() + max(seconds, COUNTERS_SECONDS + 1)
        while time.monotonic() < deadline:
            longest = max(longest, self.statistics()["loop.recent-stall-us"])
            time.sleep(0.5)
        return longest / 1000

    def nodes(self, kind: str) -> list[dict[str, Any]]:
        """All nodes of one kind."""
        return self._all("list_nodes", kind=kind)

    def flows(self) -> list[dict[str, Any]]:
        """All flows."""
        return self._all("list_flows")

    def _all(self, method: str, **params: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        while True:
            page = self.call(method, limit=500, offset=len(items), **params)["items"]
            items += page
            if not page:
                return items


class Program:
    """A program of ``bench.programs`` (or ``bench.listener``) that runs in a namespace."""

    def __init__(self, node: Node, module: str, *arguments: str) -> None:
        self._process: subprocess.Popen[str] = node.popen(
            node.python(module, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._what = f"{module} {' '.join(arguments)[:80]}"

    def read(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._what} ended: {self._process.wait()}")
        words: dict[str, Any] = json.loads(line)
        return words

    def end(self, timeout: float = 30, words: str = "") -> list[dict[str, Any]]:
        """Say ``words`` and close its standard input; the rest of its lines."""
        out, _ = self._process.communicate(words, timeout=timeout)
        return [json.loads(line) for line in out.splitlines()]

    def kill(self) -> None:
        """End it where it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class Bed:
    """A lab with a broker. ``with Bed() as bed:``"""

    def __init__(self, devices: int = 5) -> None:
        self.lab = Lab(devices=devices)

    def __enter__(self) -> Self:
        self.lab.up()
        try:
            Broker(self.lab).start()
        except BaseException:
            self.lab.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.lab.down()

    def warm_up(self) -> None:
        """Let neighbours, routes and caches be found before anything is measured; forget connections."""
        for device in list(self.lab.devices)[-2:]:
            for family in (4, 6):
                load.latency(self.lab, device, family=family, rate=100, seconds=0.1)
        self.flush()

    def flush(self) -> None:
        """Empty the gateway's table of connections."""
        self.lab.gateway.run(["conntrack", "-F"])

    @contextmanager
    def daemon(
        self, options: Mapping[str, Option | None] | None = None, more: str = "", *, fresh: bool = True
    ) -> Iterator[Running]:
        """spind in the gateway while the block lasts; it has begun to capture, count and publish.

        ``more`` is UCI text with rules. It takes its rules out of the kernel at the end, so that what
        is measured next meets none, and (``fresh``) knows nothing of names that an earlier one saw.
        """
        self.flush()
        spind = Spind(self.lab, {"block_on_stop": 0, **(options or {})}, more)
        if fresh:
            shutil.rmtree(spind.state_dir / "history", ignore_errors=True)
        began = time.monotonic()
        process = spind.start()
        running = Running(spind, process.pid, time.monotonic() - began)
        try:
            wait_until(lambda: _ready(running), 15, "spind to capture, count and publish")
            time.sleep(SETTLE_SECONDS)
            yield running
        finally:
            if self.lab.gateway.pid(spind.what) is not None:
                os.kill(running.pid, signal.SIGCONT)
                spind.stop()

    def alternate(
        self,
        pairs: int,
        run: Callable[[Running | None], T],
        options: Mapping[str, Option | None] | None = None,
        more: str = "",
    ) -> list[tuple[T, T]]:
        """``run`` without and with the daemon, ``pairs`` times; results as (without, with)."""
        return self.in_turn(
            pairs, lambda: self.without(run), lambda: self.with_daemon(run, options, more)
        )

    def in_turn(self, pairs: int, first: Callable[[], T], second: Callable[[], T]) -> list[tuple[T, T]]:
        """Two things to compare, ``pairs`` times.

        Every second pair begins with ``second``, so that a machine that gets slower or faster
        meanwhile favours neither.
        """
        results = []
        for number in range(pairs):
            if number % 2 == 0:
                before = first()
                results.append((before, second()))
            else:
                after = second()
                results.append((first(), after))
        return results

    def with_daemon(
        self,
        run: Callable[[Running | None], T],
        options: Mapping[str, Option | None] | None = None,
        more: str = "",
    ) -> T:
        """``run`` with a daemon of its own."""
        with self.daemon(options, more) as running:
            self.warm_up()
            return run(running)

    def without(self, run: Callable[[Running | None], T]) -> T:
        """``run`` with no daemon, after as much rest."""
        time.sleep(SETTLE_SECONDS)
        self.warm_up()
        return run(None)

    @contextmanager
    def program(self, node: Node, role: str, **arguments: Any) -> Iterator[tuple[Program, dict[str, Any]]]:
        """A program that stays, with the first line that it has said; ``role`` as in ``run``."""
        program = Program(node, *_module_and_role(role), json.dumps(arguments))
        try:
            yield program, program.read()
        finally:
            program.kill()

    def run(self, node: Node, role: str, timeout: float = 120, **arguments: Any) -> dict[str, Any]:
        """The result of a program that ends by itself: a role of ``bench.programs``, or ``module.role``."""
        argv = node.python(*_module_and_role(role), json.dumps(arguments))
        result: dict[str, Any] = json.loads(node.run(argv, timeout=timeout).stdout)
        return result

    @contextmanager
    def lasting_datagrams(self, seconds: int = 600) -> Iterator[None]:
        """Let the gateway remember UDP for ``seconds`` instead of half a minute or two."""
        names = [name.replace(".", "/") for name in _UDP_TIMEOUTS]
        before = self.lab.gateway.call(lambda: [Path("/proc/sys", name).read_text() for name in names])
        netns.write_sysctls(self.lab.gateway.namespace, dict.fromkeys(_UDP_TIMEOUTS, str(seconds)))
        try:
            yield
        finally:
            values = dict(zip(_UDP_TIMEOUTS, before, strict=True))
            netns.write_sysctls(self.lab.gateway.namespace, values)


def _module_and_role(role: str) -> tuple[str, str]:
    module, dot, name = role.partition(".")
    return (f"bench.{module}", name) if dot else ("bench.programs", role)


def _ready(running: Running) -> bool:
    running.spind.lab.gateway.check(running.spind.what)
    status = running.call("status")
    counting = status["statistics"].get("conntrack.dumps", 0) > 0
    return bool(status["capture"]["backend"] != "none" and status["mqtt"]["connected"] and counting)
