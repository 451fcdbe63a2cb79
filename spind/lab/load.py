# SPDX-License-Identifier: GPL-2.0-or-later
"""Load from a device through the gateway, measured: for tests of the whole and for ``bench/``.

Starts ``loadgen``'s programs in the right namespaces and gives their results. The numbers are
those of the traffic; what they mean is decided by who asked.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from spind.lab import plan
from spind.lab.errors import LabError
from spind.lab.lab import Lab
from spind.lab.patience import patient

SERVER_NUMBER = 40  # the address that load goes to: server4(40), server6(40)
MAX_RATE, MAX_SECONDS, MAX_BYTES = 50_000.0, 600.0, 64 << 30


@dataclass(frozen=True)
class Churn:
    """Short connections: how many were to be opened, and how they ended; payload bytes.

    ``skipped`` were not opened because too many were open. ``seconds`` from the first to the
    last start, so ``attempted / seconds`` is the rate that was reached.
    """

    attempted: int
    completed: int
    failed: int
    skipped: int
    sent: int
    received: int
    seconds: float


@dataclass(frozen=True)
class Latency:
    """How long the handshake took, in microseconds."""

    completed: int
    failed: int
    median_us: float
    p99_us: float
    max_us: float


@dataclass(frozen=True)
class Bulk:
    """One connection's payload and time; ``port`` is the device's."""

    bytes: int
    seconds: float
    port: int

    @property
    def bits_per_second(self) -> float:
        """Payload rate."""
        return self.bytes * 8 / self.seconds


@dataclass(frozen=True)
class Dns:
    """Queries sent once each, and answered or lost; ``errors`` are answers with a code other than 0."""

    sent: int
    answered: int
    lost: int
    errors: int
    seconds: float
    median_us: float
    p99_us: float
    max_us: float


def target(family: int) -> str:
    """The address that churn, latency and bulk connect to."""
    return plan.server6(SERVER_NUMBER) if family == 6 else plan.server4(SERVER_NUMBER)


def churn(lab: Lab, device: str, *, family: int = 4, rate: float = 5000, seconds: float = 10) -> Churn:
    """``rate`` short TCP connections a second from ``device`` to the internet."""
    _check(rate, seconds)
    with load_server(lab):
        return Churn(
            **_client(lab, device, "churn", seconds, host=target(family), rate=rate, seconds=seconds)
        )


def latency(lab: Lab, device: str, *, family: int = 4, rate: float = 200, seconds: float = 5) -> Latency:
    """Time of the TCP handshake at ``rate`` connections a second."""
    _check(rate, seconds)
    with load_server(lab):
        return Latency(
            **_client(lab, device, "latency", seconds, host=target(family), rate=rate, seconds=seconds)
        )


def bulk(lab: Lab, device: str, size: int, *, family: int = 4, upload: bool = False) -> Bulk:
    """``size`` bytes over one connection, down to ``device`` or (``upload``) up from it."""
    if not 0 < size <= MAX_BYTES:
        raise LabError(f"one connection carries 1 to {MAX_BYTES} bytes, not {size}")
    with load_server(lab):
        way = "U" if upload else "D"
        return Bulk(**_client(lab, device, "bulk", 300, host=target(family), size=size, way=way))


def dns(
    lab: Lab,
    device: str,
    *,
    rate: float = 200,
    seconds: float = 5,
    server: str = plan.GATEWAY4,
    zone: str = "wild.test",
    distinct: int = 0,
) -> Dns:
    """Queries from ``device`` to ``server`` (the gateway's forwarder, or ``plan.DNS4`` through it).

    ``rate`` 0 keeps 64 under way and counts what that gives. ``distinct`` 0 asks for a new name
    each time, so that no cache answers.
    """
    _check(rate or 1, seconds)
    arguments = {"server": server, "zone": zone, "rate": rate, "seconds": seconds, "distinct": distinct}
    return Dns(**_client(lab, device, "dns", seconds, **arguments))


@contextmanager
def load_server(lab: Lab) -> Iterator[None]:
    """The load server in the internet, while the block lasts."""
    process: subprocess.Popen[str] = lab.internet.popen(
        lab.internet.python("spind.lab.loadgen", "server"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None  # noqa: S101 - it was asked for
    with process, process.stdout:
        if "ready" not in process.stdout.readline():
            raise LabError("the load server did not start")
        try:
            yield
        finally:
            process.terminate()
            process.communicate(timeout=patient(10))


def _client(lab: Lab, device: str, role: str, expected: float, **arguments: Any) -> dict[str, Any]:
    node = lab.device(device)
    argv = node.python("spind.lab.loadgen", role, json.dumps(arguments))
    result = json.loads(node.run(argv, timeout=expected + 60).stdout)
    if not isinstance(result, dict):
        raise LabError(f"{role}: not a result: {result!r}")
    return result


def _check(rate: float, seconds: float) -> None:
    if not 0 < rate <= MAX_RATE or not 0 < seconds <= MAX_SECONDS:
        raise LabError(f"load is bounded: up to {MAX_RATE:g} a second for up to {MAX_SECONDS:g} seconds")
