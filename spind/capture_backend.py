# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the capture rules in the kernel: which backend, installed, watched, taken out.

Owns the choice between nftables and iptables, the kernel settings that mode ``bridge`` needs, and the
dead man's switch: while the event loop runs, it is held; when the loop stands still for a second, the
rules cease to queue packets, whose verdicts would not come. Holding it also tells when somebody has
flushed our rules: they are put back.
"""

import contextlib
import logging
import subprocess
from asyncio import AbstractEventLoop, TimerHandle
from pathlib import Path
from typing import Protocol

from spind.capture_iptables import IptablesRules
from spind.capture_nftables import NftablesRules
from spind.capture_rules import CaptureSpec
from spind.netlink_socket import write_sysctl

_LOG = logging.getLogger(__name__)

# The switch holds for ALIVE_SECONDS = 1 s: three beats may be late.
_BEAT_SECONDS = 0.25
# Rules that were flushed are put back, but no more often than this: somebody may insist.
_REPAIR_SECONDS = 5.0
# How often the order of rules is looked at, where it matters.
_ORDER_SECONDS = 30.0

# Lets bridged packets pass the hooks of iptables and of nftables' inet tables (br_netfilter).
_BRIDGE_SETTINGS = tuple(
    f"net/bridge/bridge-nf-{name}" for name in ("call-iptables", "call-ip6tables", "filter-vlan-tagged")
)


class _Backend(Protocol):
    @property
    def name(self) -> str: ...
    def probe(self, *, watched: bool) -> None: ...
    def install(self, spec: CaptureSpec) -> None: ...
    def remove(self) -> None: ...
    def beat(self) -> bool: ...
    def in_place(self) -> bool: ...


class CaptureRules:
    """The rules of one :class:`CaptureSpec`, by ``backend``: ``auto``, ``nftables``, ``iptables``.

    ``backend`` says after ``start`` which one is in use, ``reason`` why, for the log and ``status``.
    """

    def __init__(self, loop: AbstractEventLoop, backend: str, spec: CaptureSpec) -> None:
        self._loop = loop
        self._wanted = backend
        self._spec = spec
        self._rules: _Backend | None = None
        self._beat: TimerHandle | None = None
        self._order: TimerHandle | None = None
        self._repaired_at = float("-inf")
        self._repairs = 0
        self._settings: dict[str, str] = {}
        self.backend = ""
        self.reason = ""

    def start(self) -> None:
        """Choose a backend and install the rules, in place of any that an earlier run has left.

        ``OSError`` where no backend serves. Bind the queues first: until then the rules let
        everything pass unseen.
        """
        if self._spec.mode == "bridge":
            self._see_bridged_packets()
        self._rules = self._choose()
        self._rules.install(self._spec)
        if self._spec.watched and not self._rules.beat():
            self._go_unwatched()
        self._keep_alive()
        self._keep_order()

    def stop(self) -> None:
        """Take the rules out. Stop the queues before: when hooks go, the kernel drops what waits."""
        for timer in (self._beat, self._order):
            if timer is not None:
                timer.cancel()
        if self._rules is not None:
            try:
                self._rules.remove()
            except OSError as error:
                _LOG.error("capture rules are left behind: %s", error)
            self._rules = None
        for path, value in self._settings.items():
            write_sysctl(path, value)
        self._settings.clear()

    def set_interfaces(self, interfaces: tuple[str, ...]) -> None:
        """Capture on these interfaces from now on."""
        if interfaces != self._spec.interfaces:
            self._spec = self._spec._replace(interfaces=interfaces)
            if self._rules is not None:
                self._install()

    def counters(self) -> dict[str, int]:
        """Numbers for ``status``."""
        return {"capture.rule_repairs": self._repairs}

    def _choose(self) -> _Backend:
        backends: list[_Backend] = [NftablesRules(), IptablesRules()]
        failures: list[str] = []
        chosen: _Backend | None = None
        for backend in backends:
            if chosen is not None or self._wanted not in ("auto", backend.name):
                with contextlib.suppress(OSError):  # what an earlier run with another choice has left
                    backend.remove()
                continue
            failure = ""
            for watched in (True, False) if self._spec.watched else (False,):
                try:
                    backend.probe(watched=watched)
                except OSError as error:
                    failure = f"{backend.name}: {error}"
                else:
                    self._spec = self._spec._replace(watched=watched)
                    chosen = backend
                    break
            if failure:
                failures.append(failure)
        if chosen is None:
            raise OSError("no way to capture packets: " + "; ".join(failures))
        self.backend = chosen.name
        self.reason = "; ".join(failures) or f"{chosen.name} has all that is needed"
        _LOG.info("capture by %s (%s)", self.backend, self.reason)
        return chosen

    def _install(self) -> bool:
        if self._rules is None:
            return False
        try:
            self._rules.install(self._spec)
        except OSError as error:
            _LOG.error("capture rules cannot be installed: %s", error)
            return False
        return True

    def _go_unwatched(self) -> None:
        _LOG.error("capture: the dead man's switch does not work here; going on without")
        self._spec = self._spec._replace(watched=False)
        self._install()

    def _keep_alive(self) -> None:
        if self._rules is None or not self._spec.watched:
            return
        now = self._loop.time()
        if not self._rules.beat() and now - self._repaired_at >= _REPAIR_SECONDS:
            self._repaired_at = now
            self._repairs += 1
            _LOG.warning("capture rules were removed by another program: putting them back")
            if self._install() and not self._rules.beat():
                self._go_unwatched()
                return
        self._beat = self._loop.call_later(_BEAT_SECONDS, self._keep_alive)

    def check_order(self) -> None:
        """Put the rules back to where they belong, should others have been added behind them."""
        if self._rules is None:
            return
        with contextlib.suppress(OSError):
            if not self._rules.in_place():
                _LOG.info("capture rules moved behind those that were added since")
                self._install()

    def _keep_order(self) -> None:
        self.check_order()
        self._order = self._loop.call_later(_ORDER_SECONDS, self._keep_order)

    def _see_bridged_packets(self) -> None:
        if not Path("/proc/sys", _BRIDGE_SETTINGS[0]).exists():
            try:
                subprocess.run(["modprobe", "br_netfilter"], check=False, capture_output=True, timeout=20)
            except (OSError, subprocess.TimeoutExpired) as error:
                _LOG.error("modprobe br_netfilter: %s", error)
        for path in _BRIDGE_SETTINGS:
            before = write_sysctl(path, "1")
            if before not in (None, "1"):
                self._settings[path] = before
