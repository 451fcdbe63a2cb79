# SPDX-License-Identifier: GPL-2.0-or-later
"""How packets come to the daemon: the queues, and the rules that fill them.

Owns both and their order. At the start queues come before the rules that fill them. At the stop queues go
first, too: without a queue the rules let packets pass, while with the rules the kernel would drop the
packets that wait.
"""

import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable

from spind.capture import Capture
from spind.capture_backend import CaptureRules
from spind.capture_rules import CaptureSpec, bits
from spind.commands import Verdict
from spind.config_options import Config
from spind.events import PacketSeen
from spind.shapes import Json

log = logging.getLogger(__name__)

OPTIONS = (
    "capture_backend",
    "iptable_queue_dns",
    "iptable_queue_block",
    "iptable_queue_inspect",
    "ctmark_mask",
)
"""Options that say how packets come in: where they change, it is stopped and started."""


class Intake:
    """The queues of one daemon. ``packet`` decides about a packet, ``is_lan`` knows interfaces by index."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        packet: Callable[[PacketSeen], Verdict],
        is_lan: Callable[[int], bool],
    ) -> None:
        self.problem = ""
        """Why no packets come in; empty where they do."""
        self._loop = loop
        self._packet = packet
        self._is_lan = is_lan
        self._queues: list[Capture] = []
        self._rules: CaptureRules | None = None

    def start(self, config: Config, interfaces: tuple[str, ...]) -> None:
        """Open the queues and have the kernel fill them; ``problem`` says what does not work."""
        marks = bits(config.ctmark_mask)
        spec = CaptureSpec(
            config.mode,
            interfaces,
            config.iptable_queue_dns,
            config.iptable_queue_block,
            marks.done,
            queue_inspect=config.iptable_queue_inspect,
            cut_mark=marks.cut,
            inspect_mark=marks.inspect,
        )
        numbers = (config.iptable_queue_dns, config.iptable_queue_block, config.iptable_queue_inspect)
        self.problem = ""
        try:
            for number in numbers:
                queue = Capture(
                    self._loop,
                    number,
                    self._packet,
                    self._is_lan,
                    done_mark=marks.done,
                    cut_mark=marks.cut,
                    inspect_mark=marks.inspect,
                    inspect=number == config.iptable_queue_inspect,
                )
                queue.start()
                self._queues.append(queue)
            self._rules = CaptureRules(self._loop, config.capture_backend, spec)
            self._rules.start()
        except (OSError, ValueError) as error:
            # Counters still work without: say so, and go on.
            self.problem = f"no packets are captured, so names are missing: {error}"
            log.error("%s", self.problem)
            self.stop()

    def stop(self) -> None:
        """Let go of both; packets pass as if we had never been."""
        for queue in self._queues:
            queue.stop()
        self._queues.clear()
        if self._rules is not None:
            self._rules.stop()
            self._rules = None

    def set_interfaces(self, interfaces: tuple[str, ...]) -> None:
        """The home's side is reached through these from now on."""
        if self._rules is None:
            return
        try:
            self._rules.set_interfaces(interfaces)
        except (OSError, ValueError) as error:
            log.error("capture rules for %s: %s", ", ".join(interfaces), error)

    def check_order(self) -> None:
        """Somebody may have changed the firewall: have our rules where they belong."""
        if self._rules is not None:
            self._rules.check_order()

    def counters(self) -> dict[str, int]:
        """Sums over the queues, and the rules' own."""
        sources = [queue.counters() for queue in self._queues]
        if self._rules is not None:
            sources.append(self._rules.counters())
        totals: dict[str, int] = {}
        for counters in sources:
            for name, value in counters.items():
                totals[name] = totals.get(name, 0) + value
        return totals

    def status(self) -> Json:
        """What ``status`` says of capturing."""
        rules = self._rules
        open_ended = [queue.fail_open for queue in self._queues if not queue.inspects]
        return {
            "backend": rules.backend if rules else "none",
            "reason": rules.reason if rules else self.problem,
            "fail_open": bool(open_ended) and all(open_ended),
        }
