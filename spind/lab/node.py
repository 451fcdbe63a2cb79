# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of the lab: a network namespace in which programs and functions run.

Owns the start and the end of programs in one namespace and the reading of its addresses.
What a machine is for (gateway, device, internet) is decided elsewhere.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import spind
from spind.lab import netns, plan, runtime
from spind.lab.errors import LabError
from spind.lab.patience import patient
from spind.lab.plan import DeviceSpec

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float, what: str, interval: float = 0.02) -> T:
    """Ask ``condition`` until it gives something true, and return that.

    ``LabError`` naming ``what`` after ``timeout`` seconds (more on a slow machine: ``patience``).
    """
    deadline = time.monotonic() + patient(timeout)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(interval)


class Node:
    """One namespace: ``name`` in the lab, ``namespace`` for ip-netns(8), ``root`` the runtime directory."""

    def __init__(self, name: str, namespace: str, root: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.root = root
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.namespace}>"

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """``argv`` so that it runs in this namespace (the process id stays that of the program)."""
        return ["ip", "netns", "exec", self.namespace, *(str(word) for word in argv)]

    def environment(self) -> dict[str, str]:
        """Our environment, with this package importable and the lab's CA trusted by TLS clients."""
        package = str(Path(spind.__file__).resolve().parent.parent)
        certificate = str(self.root / "certs" / "ca.pem")
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
        trust = {"SSL_CERT_FILE": certificate, "CURL_CA_BUNDLE": certificate}
        return {**os.environ, "PYTHONPATH": path, "SPIND_LAB_NODE": self.name, **trust}

    def popen(self, argv: Sequence[str | Path], **options: Any) -> "subprocess.Popen[Any]":
        """Start ``argv`` here; ``options`` are those of ``subprocess.Popen``."""
        return subprocess.Popen(self.command(argv), **{"env": self.environment(), **options})

    def run(
        self, argv: Sequence[str | Path], *, check: bool = True, timeout: float = 30, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run ``argv`` here to its end and capture its text; ``LabError`` where it fails and ``check``."""
        defaults = {"env": self.environment(), "text": True, "capture_output": True}
        if "input" not in options:
            defaults["stdin"] = subprocess.DEVNULL
        try:
            result = subprocess.run(
                self.command(argv), check=False, timeout=patient(timeout), **{**defaults, **options}
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: {' '.join(map(str, argv))} took more than {timeout:g} s") from None
        if check and result.returncode:
            said = (result.stderr or result.stdout or "").strip()
            raise LabError(f"{self.name}: {' '.join(map(str, argv))} failed ({result.returncode}): {said}")
        return result

    def python(self, module: str, *arguments: str | Path) -> list[str | Path]:
        """Command line of one of this package's own programs."""
        return [sys.executable, "-m", module, *arguments]

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` on a thread inside this namespace. Sockets that it makes stay inside."""
        return netns.call_in(self.namespace, function)

    def start(self, what: str, argv: Sequence[str | Path]) -> "subprocess.Popen[bytes]":
        """Start a daemon that lives until ``stop`` or the lab's end; its output goes to ``log/``.

        It gets a session of its own, so that Ctrl-C in a terminal reaches only who started it.
        """
        with self.log_file(what).open("ab") as log:
            process = self.popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._daemons[what] = process
        self._pid_file(what).write_text(f"{process.pid} {runtime.start_time(process.pid) or 0}\n")
        return process

    def log_file(self, what: str) -> Path:
        """Where the daemon ``what`` of this node writes."""
        return self.root / "log" / f"{self.name}-{what}.log"

    def _pid_file(self, what: str) -> Path:
        return self.root / "pids" / f"{self.name}-{what}"

    def pid(self, what: str) -> int | None:
        """Process id of the daemon ``what``, or ``None`` where it does not run (any more)."""
        try:
            pid, _, started = self._pid_file(what).read_text().partition(" ")
        except FileNotFoundError:
            return None
        return int(pid) if runtime.start_time(int(pid)) == int(started) else None

    def check(self, what: str) -> None:
        """``LabError`` with the last words of the daemon ``what`` where it has ended."""
        if self.pid(what) is None:
            words = self.log_file(what).read_text(errors="replace").strip().splitlines()[-5:]
            raise LabError(f"{self.name}: {what} has ended: {' / '.join(words)}")

    def stop(self, what: str, number: signal.Signals = signal.SIGTERM, timeout: float = 5) -> int | None:
        """End the daemon ``what``; its exit status where it was started by this process.

        ``LabError`` where it is still there after ``timeout`` seconds.
        """
        pid = self.pid(what)
        if pid is not None:
            os.kill(pid, number)
        process = self._daemons.pop(what, None)
        status = None
        if process is not None:
            try:
                status = process.wait(patient(timeout))
            except subprocess.TimeoutExpired:
                self._daemons[what] = process
                raise LabError(f"{self.name}: {what} does not end") from None
        elif pid is not None:
            wait_until(lambda: self.pid(what) is None, timeout, f"the end of {self.name}'s {what}")
        self._pid_file(what).unlink(missing_ok=True)
        return status

    def collect(self) -> None:
        """Wait for daemons that were ended from outside, so that none is left a zombie."""
        for process in self._daemons.values():
            try:
                process.wait(patient(5))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(patient(5))
        self._daemons.clear()

    def release(self) -> None:
        """Let the daemons outlive this process: it will not wait for them any more."""
        for process in self._daemons.values():
            process.returncode = 0  # nothing left to wait for: init takes them over
        self._daemons.clear()

    def interface_addresses(self, interface: str) -> list[dict[str, Any]]:
        """Addresses of ``interface`` as iproute2's JSON has them (``local``, ``prefixlen``, flags)."""
        argv = ["ip", "-n", self.namespace, "-j", "addr", "show", "dev", interface]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
        if result.returncode:
            raise LabError(f"{self.name}: {result.stderr.strip()}")
        info = json.loads(result.stdout)
        return [entry for link in info for entry in link.get("addr_info", ())]


class Device(Node):
    """A device of the home."""

    def __init__(self, spec: DeviceSpec, namespace: str, root: Path) -> None:
        super().__init__(spec.name, namespace, root)
        self.spec = spec
        self.mac = spec.mac

    def addresses(self, family: int) -> list[str]:
        """Usable addresses of ``family`` (4 or 6; global scope, DAD passed) that it has just now."""
        wanted = "inet" if family == 4 else "inet6"
        return [
            str(entry["local"])
            for entry in self.interface_addresses(plan.DEVICE_INTERFACE)
            if entry["family"] == wanted
            and entry["scope"] == "global"
            and not entry.get("tentative")
            and not entry.get("dadfailed")
        ]

    @property
    def ipv4(self) -> str:
        """Its IPv4 address, from DHCP."""
        addresses = self.addresses(4)
        if not addresses:
            raise LabError(f"{self.name} has no IPv4 address")
        return addresses[0]

    @property
    def ipv6(self) -> list[str]:
        """Its global IPv6 addresses (and those of the home's own prefix), from SLAAC and DHCPv6."""
        return self.addresses(6)

    @property
    def link_local(self) -> str:
        """Its link-local IPv6 address."""
        entries = self.interface_addresses(plan.DEVICE_INTERFACE)
        return next(str(e["local"]) for e in entries if e["family"] == "inet6" and e["scope"] == "link")
