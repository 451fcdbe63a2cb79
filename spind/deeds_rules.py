# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods that decide by rules: people's own, and those that DOTS asks for. Pure."""

import logging
from typing import Any

from spind import rules
from spind.calls import REFUSED, ApiError, NotFoundError, UnavailableError
from spind.commands import Notice
from spind.desk import Desk
from spind.dots import DotsError, Scope, parse_request
from spind.events import PutRules
from spind.model import format_mac
from spind.rules import Rule
from spind.shapes import Json
from spind.views import PAGE_LIMIT, fitting


class RuleDeeds:
    """Makes and takes back rules."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def list_rules(self, limit: int = PAGE_LIMIT, offset: int = 0) -> list[Json]:
        """All rules, oldest first."""
        if limit < 1 or offset < 0:
            raise ApiError(REFUSED, "limit must be positive, offset must not be negative")
        found = sorted(self._desk.engine.rules, key=lambda rule: rule.id)
        return fitting(map(self._rule_json, found[offset : offset + limit]))

    def add_rule(self, **fields: Any) -> Json:
        """Make a rule; its id."""
        node = fields.pop("node", 0)
        if node:
            fields["node"] = self._desk.decidable(node)
        if fields.get("device"):
            fields["device"] = str(fields["device"]).lower().replace("-", ":")
        rule = self._desk.new_rule(fields)
        if rule.until and rule.until <= self._desk.clock():
            raise ApiError(REFUSED, "until: a time that is over; give Unix seconds in the future")
        self._desk.do(PutRules((rule,)))
        return {"id": rule.id}

    def remove_rule(self, id: int) -> None:  # noqa: A002 - the argument's name on the wire
        """Take a rule back."""
        if self._desk.engine.rules.get(id) is None:
            raise NotFoundError(f"id: there is no rule {id}")
        self._desk.remove_rules((id,))

    def _rule_json(self, rule: Rule) -> Json:
        shape: Json = rules.to_json(rule)
        shape["active"] = self._desk.engine.rules.in_force(rule.id)
        if rule.node:
            node = self._desk.engine.nodes.by_key(rule.node)
            shape["node"] = node.id if node is not None else 0
            shape["party"] = rule.node
        shape["text"] = rules.describe(rule, self._desk.label)
        return shape

    # -- DOTS ----------------------------------------------------------------------------

    def dots_signal(self, dots_signal: dict[str, Any]) -> None:
        """A mitigation request: keep the devices that it is about from what they attack."""
        engine = self._desk.engine
        if not engine.decisions.dots_enabled:
            raise UnavailableError("DOTS is not enabled in the configuration (dots_enabled)")
        try:
            scopes = parse_request(dots_signal)
        except DotsError as error:
            raise ApiError(REFUSED, str(error)) from error
        now = int(self._desk.clock())
        made: dict[tuple[bytes, tuple[bytes, int]], Rule] = {}
        for scope in scopes:
            for device in self._attackers(scope):
                for prefix in scope.prefixes:
                    until = now + scope.lifetime if scope.lifetime else 0
                    made[device, prefix] = Rule(
                        0,
                        "block",
                        device,
                        prefix=prefix,
                        until=until,
                        comment="asked for by a DOTS mitigation request",
                        author="detector",
                        created=now,
                    )
        found = sorted({self._desk.label(format_mac(device)) for device, _ in made})
        does = "only told, as dots_log_only says" if engine.decisions.dots_log_only else "kept from it"
        self._desk.tell(
            [
                Notice(
                    logging.WARNING,
                    f"DOTS: {len(scopes)} scopes; "
                    + (f"{', '.join(found)}: {does}" if found else "no device"),
                )
            ]
        )
        if engine.decisions.dots_log_only:
            return
        fresh = [rule for rule in made.values() if not self._has(rule)]
        if len(engine.rules) + len(fresh) > engine.limits.rules:
            raise UnavailableError("there is no room for so many rules (limit_rules)")
        first = engine.rules.next_id
        self._desk.do(PutRules(tuple(rule._replace(id=first + i) for i, rule in enumerate(fresh))))

    def _attackers(self, scope: Scope) -> list[bytes]:
        """Devices with traffic that the request is about, lately."""
        nodes = self._desk.engine.nodes
        found = []
        for mac, device in nodes.devices.items():
            for flow in self._desk.engine.flows.flows(device.id):
                party = nodes.by_id.get(flow.key.node if flow.key.device == device.id else flow.key.device)
                if party is not None and scope.concerns(flow, party.addresses):
                    found.append(mac)
                    break
        return found

    def _has(self, wanted: Rule) -> bool:
        """Is there a rule like this that lasts as long?"""
        return any(
            (rule.action, rule.device, rule.prefix, rule.author)
            == (wanted.action, wanted.device, wanted.prefix, wanted.author)
            and (rule.until == 0 or 0 < wanted.until <= rule.until)
            for rule in self._desk.engine.rules
        )
