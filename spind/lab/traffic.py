# SPDX-License-Identifier: GPL-2.0-or-later
"""Setting the devices in motion, and collecting what each of them says it did.

Owns the device programs of one run. They end by themselves; leaving the ``with`` block ends
those that have not.
"""

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spind.lab import behaviours, plan
from spind.lab.device import GRACE_SECONDS
from spind.lab.errors import LabError
from spind.lab.lab import Lab
from spind.lab.node import Device
from spind.lab.patience import patient

MAX_SECONDS = 3600.0

Report = dict[str, list[dict[str, Any]]]
"""Per device the list of what it did, each as ``perform.Done`` has it."""


class Traffic:
    """All devices of ``lab`` (or ``only`` some) busy for ``seconds``.

    ``misbehave`` maps a device to one of ``behaviours.MISBEHAVIOURS``. ``seed`` is the lab's own
    where it is ``None``. ``names_over`` (4 or 6) says over which family they ask for names.
    """

    def __init__(
        self,
        lab: Lab,
        seconds: float,
        *,
        seed: int | None = None,
        misbehave: Mapping[str, str] | None = None,
        only: tuple[str, ...] = (),
        names_over: int = 4,
    ) -> None:
        if not 0 < seconds <= MAX_SECONDS:
            raise LabError(f"traffic lasts more than 0 and at most {MAX_SECONDS:g} seconds, not {seconds:g}")
        self._lab = lab
        self._seconds = seconds
        self._seed = lab.seed if seed is None else seed
        self._misbehave = dict(misbehave or {})
        for name, kind in self._misbehave.items():
            lab.device(name)
            if kind not in behaviours.MISBEHAVIOURS:
                kinds = ", ".join(behaviours.MISBEHAVIOURS)
                raise LabError(f"not a misbehaviour: {kind!r}; there are: {kinds}")
        self._devices = [lab.device(name) for name in only] or list(lab.devices.values())
        self._dns = plan.GATEWAY6 if names_over == 6 else plan.GATEWAY4
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._deadline = 0.0

    def __enter__(self) -> Self:
        self._deadline = time.monotonic() + self._seconds + patient(GRACE_SECONDS + 10)
        for device in self._devices:
            with self._said(device).open("wb") as out, device.log_file("life").open("ab") as log:
                self._running[device.name] = device.popen(
                    device.python("spind.lab.device", self._life(device)),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=log,
                    start_new_session=True,
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        for process in self._running.values():
            try:
                process.wait(patient(5))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _said(self, device: Device) -> Path:
        """Where ``device`` writes what it has done."""
        return self._lab.root / "data" / f"{device.name}.done"

    def _life(self, device: Device) -> str:
        return json.dumps(
            {
                "name": device.name,
                "kind": device.spec.kind,
                "seed": self._seed,
                "seconds": self._seconds,
                "peers": [name for name in self._lab.devices if name != device.name],
                "misbehave": self._misbehave.get(device.name, ""),
                "dns": self._dns,
            }
        )

    def busy(self) -> bool:
        """Whether any device still goes on."""
        return any(process.poll() is None for process in self._running.values())

    def wait(self) -> Report:
        """Wait for the end of all of them, and return what they did; ``LabError`` where one failed."""
        report: Report = {}
        for name, process in self._running.items():
            try:
                status = process.wait(max(0.1, self._deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise LabError(f"{name} does not come to an end") from None
            if status != 0:
                words = self._lab.device(name).log_file("life").read_text(errors="replace")[-500:]
                raise LabError(f"{name} failed ({status}): {words.strip()}")
            lines = self._said(self._lab.device(name)).read_text().splitlines()
            report[name] = [entry for entry in map(json.loads, lines) if "finished" not in entry]
        return report


def run(lab: Lab, seconds: float, **options: Any) -> Report:
    """``Traffic(lab, seconds, **options)`` to its end."""
    with Traffic(lab, seconds, **options) as traffic:
        return traffic.wait()
