# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods that decide: names, lists, rules, profiles, undo. Pure.

Each checks its arguments, turns them into one event and passes what follows to ``carry_out``, which
keeps it before anybody hears of it. A refused call changes nothing. What was decided is recorded, with
who did it, so that it can be undone.
"""

import logging
from collections.abc import Callable
from typing import Any

from spind import audit, profiles, rules
from spind.audit import Entry
from spind.calls import (
    REFUSED,
    ApiError,
    Caller,
    DeniedError,
    NotFoundError,
    NotInForceError,
    UnavailableError,
)
from spind.changes import Change, DeviceChange, IgnoredChange, ProfileChange, RuleChange, SiteChange
from spind.commands import Command, Notice, RecordAudit, Save
from spind.decisions import is_address_alone, listed_key
from spind.dots import DotsError, Scope, parse_request
from spind.engine import Engine
from spind.events import (
    AssignAddress,
    Event,
    IgnoreAddress,
    PutProfile,
    PutRules,
    RemoveRules,
    ResetIgnored,
    Restore,
    SetIgnored,
    SetName,
    SetProfile,
)
from spind.flows import Flow
from spind.hostile import clean_name
from spind.ignore import parse_prefix
from spind.model import format_address, format_mac, parse_address
from spind.nodes import Kind, Node
from spind.profiles import BUILTIN, Profile
from spind.rules import Rule
from spind.shapes import Json
from spind.views import PAGE_LIMIT, Views, fitting, is_flow_block

LISTS = ("ignore", "block", "allow")

_LEARNED = "learned"

_AUTHORS = {"owner": "owner", "provider": "provider"}
"""Author of a rule by the role of the caller."""


class Deeds:
    """Decides, on behalf of the caller of the moment."""

    def __init__(
        self,
        engine: Engine,
        views: Views,
        clock: Callable[[], float],
        carry_out: Callable[[list[Command]], None],
    ) -> None:
        self._engine = engine
        self._views = views
        self._clock = clock
        self._carry_out = carry_out
        self._caller = Caller("", "")
        self._method = ""

    def begin(self, caller: Caller, method: str) -> None:
        """What is done from now on is done by this caller, through this method."""
        self._caller = caller
        self._method = method

    # -- nodes ---------------------------------------------------------------------------

    def set_device_name(self, node: int, name: str) -> None:
        """Give a node a name; an empty one takes it back."""
        self._decidable(node)
        try:
            name = clean_name(name)
        except ValueError as error:
            raise ApiError(REFUSED, f"name: {error}") from error
        self._do(SetName(node, name))

    def set_ignore(self, node: int, ignore: bool) -> None:
        """Hide a node from views, or show it again."""
        self._decidable(node)
        self._do(SetIgnored(node, ignored=bool(ignore)))

    def node_add_ip(self, node: int, ipaddr: str) -> None:
        """Give a node an address by hand; node 0 makes a new one."""
        try:
            address = parse_address(ipaddr)
        except ValueError as error:
            raise ApiError(REFUSED, "Invalid IP address") from error
        if node:
            self._views.node(node)
        if self._engine.nodes.has_address(address):
            raise ApiError(REFUSED, "IP address already assigned to a node")
        self._do(AssignAddress(node, address))

    # -- the lists of SPIN 1.0 -----------------------------------------------------------

    def list_iplist(self, list: str) -> list[str]:  # noqa: A002 - the argument's name on the wire
        """The addresses of a list."""
        self._check_list(list)
        return self._engine.decisions.list_texts(list)

    def add_iplist_node(self, list: str, node: int) -> None:  # noqa: A002
        """Put a node on a list; it stays there with all its addresses."""
        self._check_list(list)
        key = self._decidable(node)
        if list == "ignore":
            self._do(SetIgnored(node, ignored=True))
        elif not self._listed(list, key):
            device = self._engine.nodes.by_id[node].mac
            fields = {"action": list} | ({"device": key} if device is not None else {"node": key})
            self._do(PutRules((self._new_rule(fields),)))

    def remove_iplist_node(self, list: str, node: int) -> None:  # noqa: A002
        """Take a node off a list."""
        self._check_list(list)
        key = self._decidable(node)
        if list == "ignore":
            self._do(SetIgnored(node, ignored=False))
        else:
            self._remove(self._listed(list, key))

    def add_iplist_ip(self, list: str, ip: str) -> None:  # noqa: A002
        """Put an address or prefix on a list. A device's address means the device, with all it has."""
        self._check_list(list)
        self._prefix(ip)
        device = self._device_at(ip)
        if device is not None and list != "ignore":
            self.add_iplist_node(list, device.id)
            return
        try:
            if list == "ignore":
                self._do(IgnoreAddress(ip, ignored=True))
                return
        except ValueError as error:
            raise ApiError(REFUSED, f"ip: {error}") from error
        fields = {"action": list, "ip": ip}
        if not self._same_address(self._rule(fields)):
            self._do(PutRules((self._new_rule(fields),)))

    def remove_iplist_ip(self, list: str, ip: str) -> None:  # noqa: A002
        """Take an address or prefix off a list."""
        self._check_list(list)
        self._prefix(ip)
        if list == "ignore":
            self._do(IgnoreAddress(ip, ignored=False))
            return
        there = self._same_address(self._rule({"action": list, "ip": ip}))
        device = self._device_at(ip)
        if device is not None:
            there += self._listed(list, device.decision_key)
        if not there and ip in self._engine.decisions.list_texts(list):
            sentence = f"ip: {ip} is on the list because its node is; remove_iplist_node takes that off"
            raise ApiError(REFUSED, sentence)
        self._remove(there)

    def reset_iplist_ignore(self) -> None:
        """Ignore nothing any more."""
        self._do(ResetIgnored())

    # -- flow blocks ---------------------------------------------------------------------

    def set_flow_block(self, node1: int, node2: int, block: int) -> None:
        """Block or allow again what two nodes exchange; one of them is a device."""
        first, second = self._views.node(node1), self._views.node(node2)
        if first.mac is None:
            first, second = second, first
        if first.mac is None:
            raise ApiError(REFUSED, "node1, node2: one of them must be a device of the home")
        self._flow_block(first, second, block=block)

    def set_device_flow_block(self, device: str, node: int, block: int) -> None:
        """Block or allow again what a device exchanges with a node."""
        self._flow_block(self._views.device(device), self._views.node(node), block=block)

    def get_flow_block(self) -> list[Json]:
        """Pairs of nodes that are blocked."""
        return fitting({"node1": one, "node2": other} for one, other, _ in self._views.flow_blocks())

    def _flow_block(self, device: Node, node: Node, *, block: int) -> None:
        if block not in (0, 1):
            raise ApiError(REFUSED, "block must be 0 or 1")
        key = self._decidable(node.id)
        there = tuple(
            rule.id
            for rule in self._engine.rules
            if rule.action == "block"
            and is_flow_block(rule)
            and (rule.device, rule.node) in ((device.mac, key), (node.mac, self._decidable(device.id)))
        )
        if not block:
            self._remove(there)
        elif not there:
            fields = {"action": "block", "device": self._decidable(device.id), "node": key}
            self._do(PutRules((self._new_rule(fields),)))

    # -- rules ---------------------------------------------------------------------------

    def list_rules(self, limit: int = PAGE_LIMIT, offset: int = 0) -> list[Json]:
        """All rules, oldest first."""
        if limit < 1 or offset < 0:
            raise ApiError(REFUSED, "limit must be positive, offset must not be negative")
        found = sorted(self._engine.rules, key=lambda rule: rule.id)
        return fitting(map(self._rule_json, found[offset : offset + limit]))

    def add_rule(self, **fields: Any) -> Json:
        """Make a rule; its id."""
        node = fields.pop("node", 0)
        if node:
            fields["node"] = self._decidable(node)
        if fields.get("device"):
            fields["device"] = str(fields["device"]).lower().replace("-", ":")
        rule = self._new_rule(fields)
        if rule.until and rule.until <= self._clock():
            raise ApiError(REFUSED, "until: a time that is over; give Unix seconds in the future")
        self._do(PutRules((rule,)))
        return {"id": rule.id}

    def remove_rule(self, id: int) -> None:  # noqa: A002 - the argument's name on the wire
        """Take a rule back."""
        if self._engine.rules.get(id) is None:
            raise NotFoundError(f"id: there is no rule {id}")
        self._remove((id,))

    def _rule_json(self, rule: Rule) -> Json:
        shape: Json = rules.to_json(rule)
        shape["active"] = self._engine.rules.in_force(rule.id)
        if rule.node:
            node = self._engine.nodes.by_key(rule.node)
            shape["node"] = node.id if node is not None else 0
            shape["party"] = rule.node
        shape["text"] = rules.describe(rule, self._label)
        return shape

    # -- profiles ------------------------------------------------------------------------

    def list_profiles(self) -> list[Json]:
        """The profiles, each with the devices that have it."""
        nodes = self._engine.nodes
        holders: dict[str, list[str]] = {}
        for mac, device in nodes.devices.items():
            holders.setdefault(nodes.profile_of(device), []).append(format_mac(mac))
        found = self._engine.decisions.profiles
        return fitting(
            {**profiles.to_json(found[name]), "devices": holders.get(name, [])} for name in sorted(found)
        )

    def set_device_profile(self, device: str, profile: str) -> None:
        """Give a device a profile; an empty one takes it back. ``learned`` makes one of what it used."""
        node = self._views.device(device)
        if profile == _LEARNED:
            self._learn(node)
            return
        if profile and profile not in self._engine.decisions.profiles:
            names = ", ".join(sorted(self._engine.decisions.profiles))
            raise NotFoundError(f"profile: there is no profile {profile!r:.70}; there are {names:.300}")
        self._do(SetProfile(node.id, profile))

    def set_profile(self, profile: str, **fields: Any) -> None:
        """Make a profile, or change what is given of one."""
        old = self._engine.decisions.profiles.get(profile)
        if old is not None:
            fields = {**profiles.to_options(old), **fields}
        try:
            made = profiles.parse_profile(fields, profile)
        except ValueError as error:
            raise ApiError(REFUSED, str(error)) from error
        self._do(PutProfile(profile, made))

    def remove_profile(self, profile: str) -> None:
        """Take a profile back; one that comes with spind gets its shipped content again."""
        found = self._engine.decisions.profiles.get(profile)
        if found is None or found.builtin:
            raise NotFoundError(f"profile: there is no profile {profile!r:.70} that was made or changed here")
        nodes = self._engine.nodes
        holders = [device.label for device in nodes.devices.values() if nodes.profile_of(device) == profile]
        if holders and profile not in BUILTIN:
            raise ApiError(REFUSED, f"profile: {', '.join(holders):.200} has it; give that another one first")
        self._do(PutProfile(profile, None))

    def _learn(self, device: Node) -> None:
        """The profile of what this device has used until now, and the device gets it."""
        nodes = self._engine.nodes
        used: list[Flow] = self._engine.flows.flows(device.id)
        parties = {flow.key.node: nodes.by_id.get(flow.key.node) for flow in used if flow.up_packets}
        sites = [node for node in parties.values() if node is not None and node.kind is Kind.SITE]
        name = f"{_LEARNED}_{self._decidable(device.id).replace(':', '')}"
        title = f"Only what {device.label:.40} already used"
        made: Profile = profiles.learned(
            name,
            title,
            [site.domain for site in sites if site.domain],
            [format_address(address) for site in sites if not site.domain for address in site.addresses],
        )
        mac = self._decidable(device.id)
        decision = nodes.decision(mac)
        self._do(
            Restore(
                (
                    ProfileChange(name, made),
                    DeviceChange(mac, decision.name, decision.ignored, name),
                )
            )
        )

    # -- DOTS ----------------------------------------------------------------------------

    def dots_signal(self, dots_signal: dict[str, Any]) -> None:
        """A mitigation request: keep the devices that it is about from what they attack."""
        engine = self._engine
        if not engine.decisions.dots_enabled:
            raise UnavailableError("DOTS is not enabled in the configuration (dots_enabled)")
        try:
            scopes = parse_request(dots_signal)
        except DotsError as error:
            raise ApiError(REFUSED, str(error)) from error
        now = int(self._clock())
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
        found = sorted({self._label(format_mac(device)) for device, _ in made})
        does = "only told, as dots_log_only says" if engine.decisions.dots_log_only else "kept from it"
        self._carry_out(
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
        self._do(PutRules(tuple(rule._replace(id=first + i) for i, rule in enumerate(fresh))))

    def _attackers(self, scope: Scope) -> list[bytes]:
        """Devices with traffic that the request is about, lately."""
        nodes = self._engine.nodes
        found = []
        for mac, device in nodes.devices.items():
            for flow in self._engine.flows.flows(device.id):
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
            for rule in self._engine.rules
        )

    # -- the audit list ------------------------------------------------------------------

    def list_audit(self, since: int = 0, limit: int = 100, offset: int = 0) -> Json:
        """Who did what, the latest first."""
        found = [entry for entry in self._engine.audit if entry.time >= since]
        found.reverse()
        return self._views.page(found, limit, offset, self._entry_json)

    def undo(self, id: int) -> None:  # noqa: A002
        """Have what was before an entry of the audit list again."""
        entry = self._engine.audit.get(id)
        if entry is None:
            raise NotFoundError(f"id: there is no entry {id} in the audit list")
        problem = self._why_not(entry)
        if problem:
            raise ApiError(REFUSED, f"id: {problem}")
        self._do(Restore(tuple(before for before, _ in reversed(entry.changes))), undoes=entry.id)

    def _why_not(self, entry: Entry) -> str:
        """Why an entry cannot be undone; empty where it can."""
        if entry.undone:
            return f"entry {entry.id} was undone already, by entry {entry.undone}"
        if self._caller.role == "provider" and entry.role != "provider":
            return "only the owner can undo what the owner did"
        decisions = self._engine.decisions
        if any(decisions.current(after) != after for _, after in entry.changes):
            return f"what entry {entry.id} decided was changed since"
        moment = self._clock()
        for before, _ in entry.changes:
            if isinstance(before, RuleChange) and before.rule and 0 < before.rule.until <= moment:
                return f"the rule of entry {entry.id} is over by its end time"
            gone = (
                isinstance(before, RuleChange) and before.rule and self._engine.rules.get(before.id) is None
            )
            if gone and self._engine.rules.full:
                return "there is no room for another rule (limit_rules)"
        return ""

    def _entry_json(self, entry: Entry) -> Json:
        return {
            "id": entry.id,
            "time": entry.time,
            "author": entry.role,
            "interface": entry.interface,
            "method": entry.method,
            "text": "; ".join(self._sentence(before, after) for before, after in entry.changes),
            "before": [audit.change_json(before) for before, _ in entry.changes],
            "after": [audit.change_json(after) for _, after in entry.changes],
            "undone": entry.undone,
            "undoes": entry.undoes,
            "undoable": not self._why_not(entry),
        }

    def _sentence(self, before: Change, after: Change) -> str:
        """What changed, for people."""
        if isinstance(after, RuleChange) and isinstance(before, RuleChange):
            rule = after.rule or before.rule
            done = (
                "rule made"
                if before.rule is None
                else "rule removed"
                if after.rule is None
                else "rule changed"
            )
            return f"{done}: {rules.describe(rule, self._label)}" if rule is not None else done
        if isinstance(after, ProfileChange):
            return f"profile {after.name} {'removed' if after.profile is None else 'set'}"
        if isinstance(after, IgnoredChange):
            return "ignored addresses: " + (", ".join(after.addresses[:5]) or "none")
        return self._node_sentence(before, after)

    def _node_sentence(self, before: Change, after: Change) -> str:
        kinds = DeviceChange | SiteChange
        if not isinstance(before, kinds) or not isinstance(after, kinds):
            return ""
        said = []
        if before.name != after.name:
            said.append(f"called {after.name!r}" if after.name else "name taken back")
        if before.ignore != after.ignore:
            said.append("ignored" if after.ignore else "not ignored any more")
        profiles_ = [change.profile for change in (before, after) if isinstance(change, DeviceChange)]
        if len(set(profiles_)) > 1:
            said.append(f"profile {profiles_[-1] or 'none'}")
        key = after.mac if isinstance(after, DeviceChange) else after.key
        return f"{self._label(key)}: {', '.join(said)}"

    # -- inside --------------------------------------------------------------------------

    def _do(self, event: Event, undoes: int = 0) -> None:
        now = self._clock()
        commands = self._engine.handle(event, now)
        pending: NotInForceError | None = None
        try:
            self._carry_out(commands)
        except NotInForceError as error:
            pending = error
        saves = [command for command in commands if isinstance(command, Save)]
        if saves:
            entry = self._engine.audit.record(self._caller, self._method, saves, now, undoes)
            self._carry_out([RecordAudit(audit.to_json(entry))])
        if pending is not None:
            raise pending

    def _decidable(self, node: int) -> str:
        """What UCI calls a node; refuse to decide about one that it could not name."""
        key = self._views.node(node).decision_key
        if not key:
            raise ApiError(REFUSED, f"node {node} has no MAC, domain or address to remember it by")
        return key

    def _rule(self, fields: dict[str, Any]) -> Rule:
        """A new rule of the caller's; ``ApiError`` says what is wrong with it."""
        author = _AUTHORS.get(self._caller.role, "owner")
        try:
            return rules.parse_rule(
                fields, id=self._engine.rules.next_id, author=author, created=int(self._clock())
            )
        except ValueError as error:
            raise ApiError(REFUSED, str(error)) from error

    def _new_rule(self, fields: dict[str, Any]) -> Rule:
        """The same, where there is room for one more."""
        if self._engine.rules.full:
            raise UnavailableError(
                f"there are {len(self._engine.rules)} rules, more are not allowed (limit_rules)"
            )
        return self._rule(fields)

    def _remove(self, ids: tuple[int, ...]) -> None:
        """Take rules back, unless one is none of the caller's business."""
        if self._caller.role == "provider":
            for rule in filter(None, map(self._engine.rules.get, ids)):
                if rule.author != "provider":
                    raise DeniedError(f"rule {rule.id} is not the provider's: only the owner can remove it")
        self._do(RemoveRules(ids))

    def _listed(self, name: str, key: str) -> tuple[int, ...]:
        """The rules that put a node on a list."""
        return tuple(
            rule.id for rule in self._engine.rules if rule.action == name and listed_key(rule) == key
        )

    def _same_address(self, wanted: Rule) -> tuple[int, ...]:
        return tuple(
            rule.id
            for rule in self._engine.rules
            if rule.action == wanted.action and is_address_alone(rule) and rule.prefix == wanted.prefix
        )

    def _device_at(self, text: str) -> Node | None:
        """The device that has an address; ``None`` for prefixes, too."""
        try:
            return self._engine.nodes.device_at(parse_address(text))
        except ValueError:
            return None

    def _check_list(self, name: str) -> None:
        if name not in LISTS:
            raise ApiError(REFUSED, "Unknown ip list name, should be 'ignore', 'block', or 'allow'")

    def _prefix(self, text: str) -> None:
        try:
            parse_prefix(text)
        except ValueError as error:
            raise ApiError(REFUSED, "Invalid IP address") from error

    def _label(self, key: str) -> str:
        node = self._engine.nodes.by_key(key)
        return node.label if node is not None else self._engine.nodes.decision(key).name or key
