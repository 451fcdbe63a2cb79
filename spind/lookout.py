# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the things that happen in the home people are told: new devices, attempts at what is blocked,
rules that end, tables that are full. Pure.

Owns when to tell and how often. Must not know how it is told.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final

from spind import rules
from spind.changes import RuleChange
from spind.commands import Command, Save
from spind.limits import Limits
from spind.model import format_mac
from spind.nodes import Node, Nodes
from spind.notifications import Notifications

SETTLE_SECONDS: Final = 60.0
"""A daemon that starts without any memory finds the whole home new: for so long it says nothing of it."""

NAMING_SECONDS: Final = 5.0
"""A new device is told of this long after it was seen, by the name that its lease has brought."""

AGAIN_SECONDS: Final = 3600.0
"""How often people hear of the same device trying the same party, or of the same table being full."""

TRIED: Final = 1024
"""Pairs of devices and parties for which that is remembered; the oldest goes."""

TABLES: Final = {
    "devices": "engine.devices-evicted",
    "sites": "engine.sites-evicted",
    "connections": "engine.connections-evicted",
    "flows": "engine.flows-evicted",
    "names": "engine.names-evicted",
    "blocked_addresses": "engine.blocked-addresses-evicted",
}
"""Tables, by their limit's name, and the counter of what they lost."""

WORDS: Final = {"names": "names of addresses", "blocked_addresses": "addresses of blocked names"}


class Lookout:
    """Looks at what changed."""

    def __init__(self, nodes: Nodes, notifications: Notifications, limits: Limits, *, fresh: bool) -> None:
        """``fresh``: nothing is known from before the start."""
        self._nodes = nodes
        self._notifications = notifications
        self._limits = limits
        self._fresh = fresh
        self._quiet_until: float | None = None
        self._tried: OrderedDict[tuple[int, int], float] = OrderedDict()
        self._lost: dict[str, int] = {}
        self._told: dict[str, float] = {}

    def blocked(self, device: Node, node: Node, name: str, now: float) -> None:
        """``device`` tried to reach ``node``, by ``name`` where one is known, and may not."""
        pair = (device.id, 0 if device.blocked else node.id)
        at = self._tried.get(pair)
        if at is not None and abs(now - at) < AGAIN_SECONDS:
            return
        self._tried[pair] = now
        self._tried.move_to_end(pair)
        if len(self._tried) > TRIED:
            self._tried.popitem(last=False)
        key = "blocked.device" if device.blocked else "blocked.party"
        party = node.name or name or node.label
        self._notifications.notify(now, "blocked", key, (device.label, party), device.id, node.id)

    def ended(self, commands: Iterable[Command], now: float) -> None:
        """What the time has done: rules are over."""
        for command in commands:
            if isinstance(command, Save) and isinstance(command.before, RuleChange):
                rule = command.before.rule
                if rule is not None:
                    device = self._nodes.devices.get(rule.device) if rule.device is not None else None
                    node = self._nodes.by_key(rule.node) if rule.node else None
                    self._notifications.notify(
                        now,
                        "rule",
                        "rule.ended",
                        (rules.describe(rule._replace(until=0), self._label),),
                        device.id if device is not None else 0,
                        node.id if node is not None else 0,
                    )

    def tick(self, statistics: Mapping[str, int], now: float) -> None:
        """The time goes on; ``statistics`` are the engine's counters by their names."""
        if self._quiet_until is None:
            self._quiet_until = now + SETTLE_SECONDS if self._fresh else now
        if self._nodes.newcomers:
            self._newcomers(now)
        self._tables(statistics, now)

    def shift(self, delta: float) -> None:
        """The clock was set by ``delta`` seconds."""
        if self._quiet_until is not None:
            self._quiet_until += delta
        self._tried = OrderedDict((pair, at + delta) for pair, at in self._tried.items())
        self._told = {name: at + delta for name, at in self._told.items()}

    # -- inside --------------------------------------------------------------------------

    def _newcomers(self, now: float) -> None:
        waiting: list[Node] = []
        for device in self._nodes.newcomers:
            if device.deleted or device.ignored or device.mac is None:
                continue
            if device.firstseen < (self._quiet_until or 0.0):
                continue
            if now - device.firstseen < NAMING_SECONDS:
                waiting.append(device)
                continue
            profile = self._nodes.given.get(format_mac(device.mac), "")
            if profile and self._nodes.profile_of(device) == profile:
                args = (device.label, profile)
                self._notifications.notify(now, "device", "device.profile", args, device.id)
            else:
                self._notifications.notify(now, "device", "device.new", (device.label,), device.id)
        self._nodes.newcomers[:] = waiting

    def _tables(self, statistics: Mapping[str, int], now: float) -> None:
        for table, counter in TABLES.items():
            lost = statistics.get(counter, 0)
            if lost == self._lost.get(table, 0):
                continue
            self._lost[table] = lost
            if table in self._told and abs(now - self._told[table]) < AGAIN_SECONDS:
                continue
            self._told[table] = now
            limit = str(getattr(self._limits, table))
            self._notifications.notify(now, "table", "table.full", (WORDS.get(table, table), limit))

    def _label(self, key: str) -> str:
        node = self._nodes.by_key(key)
        return node.label if node is not None else self._nodes.decision(key).name or key
