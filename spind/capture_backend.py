# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the capture rules in the kernel: which backend, installed, watched, taken out.

Owns the choice between nftables and iptables, the kernel settings that mode ``bridge`` needs, and the
dead man's switch: while the event loop runs, it is held; when the loop stands still for a second, the
rules cease to queue packets, whose verdicts would not come (but for those to be inspected). Holding
it also tells when somebody has flushed our rules: they are put back.
"""

import contextlib
import logging
import subprocess
from asyncio import AbstractEventLoop, TimerHandle
from pathlib import Path
from typing import Protocol

from spind.capture import kernel_queue
from spind.capture_iptables import IptablesRules
from spind.capture_nftables import NftablesRules
from spind.capture_rules import CaptureSpec
from spind.netlink_socket import enable_accounting, write_sysctl

_LOG = logging.getLogger(__name__)

# The switch holds for ALIVE_SECONDS = 1 s: three beats may be late.
_BEAT_SECONDS = 0.25
# Rules that were flushed are put back, but no more often than this: somebody may insist.
_REPAIR_SECONDS = 5.0
# How often the order of rules and their counters are looked at.
_LOOK_SECONDS = 10.0

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
    def passed(self) -> tuple[int, int]: ...


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
        self._look: TimerHandle | None = None
        self._repaired_at = float("-inf")
        self._repairs = 0
        self._unseen = _Unseen()
        self._settings: dict[str, str] = {}
        self.backend = ""
        self.reason = ""

    def start(self) -> None:
        """Choose a backend and install the rules, in place of any that an earlier run has left.

        ``OSError`` where no backend serves. Bind the queues first: until then the rules let
        everything pass unseen.
        """
        enable_accounting()
        if self._spec.mode == "bridge":
            self._see_bridged_packets()
        self._rules = self._choose()
        self._rules.install(self._spec)
        self._unseen.start(self._passed(), self._queued())
        if self._spec.watched and not self._rules.beat():
            self._go_unwatched()
        self._keep_alive()
        self._keep_looking()

    def stop(self) -> None:
        """Take the rules out. Stop the queues before: when hooks go, the kernel drops what waits."""
        for timer in (self._beat, self._look):
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
        return {"capture.rule_repairs": self._repairs, "capture.bypassed": self._unseen.total}

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
        self._count_unseen()
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

    def look(self) -> None:
        """See to the order of the rules, and count what they let pass. Done every ten seconds anyway."""
        self.check_order()
        self._count_unseen()

    def _keep_looking(self) -> None:
        self.look()
        self._look = self._loop.call_later(_LOOK_SECONDS, self._keep_looking)

    def _count_unseen(self) -> None:
        passed = self._passed()  # before the queues: what is just under way must not count
        self._unseen.look(passed, self._queued())

    def _passed(self) -> tuple[int, int]:
        if self._rules is not None:
            with contextlib.suppress(OSError):
                return self._rules.passed()
        return 0, 0

    def _queued(self) -> int:
        """Packets that the queues took since they were bound, or dropped for want of room."""
        numbers = {self._spec.queue_dns, self._spec.queue_first}
        if self._spec.inspect_mark:
            numbers.add(self._spec.queue_inspect)
        queues = [kernel_queue(number) for number in numbers]
        return sum(queue.get("queued", 0) + queue.get("queue_dropped", 0) for queue in queues)

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


class _Unseen:
    """Packets that passed unseen, from counters of rules and of queues; they may begin at 0 again.

    What rules wanted to queue and no queue took: nobody was there, or there was no room.
    """

    def __init__(self) -> None:
        self._passed = (0, 0)
        self._queued = 0
        self._open = 0  # asked for, not taken: below 0 where a queue was read later than the rules
        self._let_go = 0
        self._most = 0

    @property
    def total(self) -> int:
        """Packets so far."""
        return self._most + self._let_go

    def start(self, passed: tuple[int, int], queued: int) -> None:
        """Count from here on."""
        self._passed = passed
        self._queued = queued

    def look(self, passed: tuple[int, int], queued: int) -> None:
        """Take new values; one that went down has begun again."""
        asked, let_go = (
            now - old if now >= old else now for now, old in zip(passed, self._passed, strict=True)
        )
        taken = queued - self._queued if queued >= self._queued else queued
        self.start(passed, queued)
        self._let_go += let_go
        self._open += asked - taken
        self._most = max(self._most, self._open)
