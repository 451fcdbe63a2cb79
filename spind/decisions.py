# SPDX-License-Identifier: GPL-2.0-or-later
"""What people decide: names, what is ignored, rules, profiles. Pure.

Each handler returns the nodes that changed and the commands that follow from the decision: what is
to be saved, with what held before, so that it can be undone. Must not know about traffic.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from spind.changes import Change, DeviceChange, IgnoredChange, ProfileChange, RuleChange, SiteChange
from spind.commands import Command, ListChanged, Notice, Save
from spind.events import (
    AssignAddress,
    Decided,
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
from spind.ignore import IgnoreList, parse_prefix
from spind.model import Mac, format_address, format_mac, parse_address, parse_mac
from spind.nodes import Decision, Kind, Listed, Node, Nodes
from spind.policy import Policy
from spind.profiles import BUILTIN, Profile
from spind.rulebook import RuleBook
from spind.rules import Rule

Outcome = tuple[list[Node], list[Command]]

LISTS = ("ignore", "block", "allow")

FIRST_REFUSED = -1_000_000
"""Ids of the rules that refuse DoH resolvers: below those of people's rules, which are positive."""

HTTPS = 443
DNS_OVER_TLS = 853


class Decisions:
    """Applies decisions to the tables of nodes, rules and profiles, and to the policy.

    ``touched`` are the rules and devices whose connections have to be looked at again, since the
    owner last emptied it; ``None`` in it stands for all connections.
    """

    def __init__(self, nodes: Nodes, ignored: IgnoreList, rules: RuleBook, policy: Policy) -> None:
        self._nodes = nodes
        self._ignored = ignored
        self._policy = policy
        self._lists: dict[str, list[str]] = {name: [] for name in LISTS}
        self._counts: dict[str, list[int]] = {}  # node key -> rules about it alone that block, allow
        # Addresses and prefixes that rules are about and nothing else, by action, in the order they came.
        self._alone: dict[str, Counter[str]] = {"block": Counter(), "allow": Counter()}
        self._refused: tuple[str, ...] = ()
        self.rules = rules
        self.profiles: Mapping[str, Profile] = dict(BUILTIN)
        policy.set_profiles(self.profiles)
        self.touched: list[Rule | Mac | None] = []
        self.resolvers: frozenset[str] = frozenset()
        """Names and addresses that serve encrypted DNS."""
        self.refuses_resolvers = False
        self.dots_enabled = False
        self.dots_log_only = False

    def handlers(self) -> dict[type, Callable[..., Outcome]]:
        """The events that are decisions, and who handles each."""
        return {
            Decided: self._decided,
            SetName: self._set_name,
            SetIgnored: self._set_ignored,
            IgnoreAddress: self._ignore_address,
            ResetIgnored: self._reset_ignored,
            SetProfile: self._set_profile,
            PutRules: self._put_rules,
            RemoveRules: self._remove_rules,
            PutProfile: self._put_profile,
            Restore: self._restore,
            AssignAddress: self._assign_address,
        }

    def list_texts(self, name: str) -> list[str]:
        """A list as SPIN 1.0 has it: the addresses of its nodes, and those that are on it by themselves."""
        if name == "ignore":
            texts = dict.fromkeys(
                format_address(address) for node in self._nodes if node.ignored for address in node.addresses
            )
            return list(texts | dict.fromkeys(self._ignored.texts()))
        texts = {}
        for key, counts in self._counts.items():
            if counts[name == "allow"]:
                node = self._nodes.by_key(key)
                if node is not None:
                    texts.update(dict.fromkeys(map(format_address, node.addresses)))
                elif _is_address(key):
                    texts[key] = None
        return list(texts | dict.fromkeys(self._alone[name]))

    def turn(self, now: float) -> Outcome:
        """Look at the time: rules begin, cease and end by it."""
        turned = self.rules.turn(now)
        if not (turned.began or turned.ceased or turned.ended):
            return [], []
        changed: list[Node] = []
        commands: list[Command] = []
        for rule in turned.began:
            self._in_force(rule, changed, force=True)
        for rule in turned.ceased:
            self._in_force(rule, changed, force=False)
        for rule in turned.ended:
            self._in_force(rule, changed, force=False)
            before = RuleChange(rule.id, rule.section, rule)
            commands.append(Save(before, before._replace(rule=None)))
        return changed, commands + self._lists_changed()

    # -- handlers ------------------------------------------------------------------------

    def _decided(self, event: Decided, now: float) -> Outcome:
        self._nodes.decide({key: Decision(*value) for key, value in event.nodes.items()}, now)
        commands: list[Command] = []
        self._ignored.keep(event.ignored_addresses)
        for text in event.ignored_addresses:
            try:
                self._ignored.add(text)
            except ValueError as error:
                commands.append(Notice(logging.WARNING, f"ignored address left out: {error}"))
        changed: list[Node] = []
        self._set_profiles(event.profiles)
        wanted = {rule.id: rule for rule in event.rules}
        for rule in list(self.rules):
            if wanted.get(rule.id) != rule:
                self._take_rule(rule.id, changed)
        for rule in wanted.values():
            if self.rules.get(rule.id) is None:
                self._enter_rule(rule, changed, now)
        self.resolvers = frozenset(event.resolvers)
        self.refuses_resolvers = event.refuse
        self._refuse(event.resolvers if event.refuse else ())
        self._nodes.new_profile = event.new_device_profile
        self.dots_enabled, self.dots_log_only = event.dots_enabled, event.dots_log_only
        commands += self._lists_changed()
        return [node for node in self._nodes if node.changed], commands

    def _set_name(self, event: SetName, now: float) -> Outcome:
        key, decision = self._decision(event.node)
        return self._change([self._node_change(key, decision._replace(name=event.name))], now)

    def _set_ignored(self, event: SetIgnored, now: float) -> Outcome:
        key, decision = self._decision(event.node)
        return self._change([self._node_change(key, decision._replace(ignored=event.ignored))], now)

    def _set_profile(self, event: SetProfile, now: float) -> Outcome:
        key, decision = self._decision(event.node)
        return self._change([self._node_change(key, decision._replace(profile=event.profile))], now)

    def _ignore_address(self, event: IgnoreAddress, now: float) -> Outcome:
        changes: list[Change] = []
        texts = self._ignored.texts()
        entry = parse_prefix(event.address)
        same = [text for text in texts if parse_prefix(text) == entry]
        if event.ignored:
            self._ignored.check_room(event.address)
            texts += [] if same else [event.address]
        elif same:
            texts = [text for text in texts if text not in same]
        else:
            # Listed because its node is: the node's other addresses stay, by themselves.
            for node in self._nodes:
                addresses = [format_address(address) for address in node.addresses]
                if node.ignored and event.address in addresses:
                    key, decision = self._decision(node.id)
                    changes.append(self._node_change(key, decision._replace(ignored=False)))
                    texts += [other for other in addresses if other != event.address]
        return self._change([*changes, IgnoredChange(tuple(dict.fromkeys(texts)))], now)

    def _reset_ignored(self, _event: ResetIgnored, now: float) -> Outcome:
        changes: list[Change] = []
        for node in self._nodes:
            if node.ignored:
                key, decision = self._decision(node.id)
                changes.append(self._node_change(key, decision._replace(ignored=False)))
        return self._change([*changes, IgnoredChange(())], now)

    def _put_rules(self, event: PutRules, now: float) -> Outcome:
        return self._change([RuleChange(rule.id, rule.section, rule) for rule in event.rules], now)

    def _remove_rules(self, event: RemoveRules, now: float) -> Outcome:
        rules = [rule for rule in map(self.rules.get, event.ids) if rule is not None]
        return self._change([RuleChange(rule.id, rule.section, None) for rule in rules], now)

    def _put_profile(self, event: PutProfile, now: float) -> Outcome:
        return self._change([ProfileChange(event.name, event.profile)], now)

    def _restore(self, event: Restore, now: float) -> Outcome:
        changes: list[Change] = []
        for change in event.changes:
            if isinstance(change, RuleChange) and change.rule and self.rules.get(change.id) is None:
                # Its section is gone: it gets one of its own.
                changes.append(RuleChange(change.id, "", change.rule._replace(section="")))
            else:
                changes.append(change)
        return self._change(changes, now)

    def _assign_address(self, event: AssignAddress, now: float) -> Outcome:
        node = self._nodes.by_id[event.node] if event.node else None
        node = self._nodes.assign(node, event.address, now)
        if node.kind is not Kind.DEVICE and node.decision_key:
            self._policy.set_party(node.decision_key, self._party(node.decision_key))
        return [node], self._lists_changed()

    # -- changes -------------------------------------------------------------------------

    def current(self, change: Change) -> Change:
        """What holds now of that which ``change`` is about."""
        if isinstance(change, RuleChange):
            rule = self.rules.get(change.id)
            return RuleChange(change.id, rule.section if rule is not None else change.section, rule)
        if isinstance(change, ProfileChange):
            profile = self.profiles.get(change.name)
            return ProfileChange(change.name, None if profile is None or profile.builtin else profile)
        if isinstance(change, IgnoredChange):
            return IgnoredChange(tuple(self._ignored.texts()))
        key = change.mac if isinstance(change, DeviceChange) else change.key
        return self._node_change(key, self._nodes.decision(key))

    def _change(self, changes: Iterable[Change], now: float) -> Outcome:
        """Apply changes; each is to be saved if it is one."""
        changed: list[Node] = []
        commands: list[Command] = []
        for after in changes:
            before = self.current(after)
            if before != after:
                self._apply(after, changed, now)
                commands.append(Save(before, after))
        return changed, commands + self._lists_changed()

    def _apply(self, change: Change, changed: list[Node], now: float) -> None:
        if isinstance(change, RuleChange):
            self._take_rule(change.id, changed)
            if change.rule is not None:
                self._enter_rule(change.rule, changed, now)
        elif isinstance(change, ProfileChange):
            profiles = {name: profile for name, profile in self.profiles.items() if name != change.name}
            if change.profile is not None:
                profiles[change.name] = change.profile
            elif change.name in BUILTIN:
                profiles[change.name] = BUILTIN[change.name]
            self._set_profiles(profiles)
        elif isinstance(change, IgnoredChange):
            self._ignored.keep(change.addresses)
            for text in change.addresses:
                self._ignored.add(text)
        else:
            key = change.mac if isinstance(change, DeviceChange) else change.key
            profile = change.profile if isinstance(change, DeviceChange) else ""
            node = self._nodes.decide_one(key, Decision(change.name, change.ignore, profile), now)
            if node is not None:
                changed.append(node)
                node.changed = True
                if node.mac is not None:
                    self.touched.append(node.mac)

    def _decision(self, node_id: int) -> tuple[str, Decision]:
        key = self._nodes.by_id[node_id].decision_key
        return key, self._nodes.decision(key)

    @staticmethod
    def _node_change(key: str, decision: Decision) -> Change:
        try:
            parse_mac(key)
        except ValueError:
            return SiteChange(key, decision.name, decision.ignored)
        return DeviceChange(key, decision.name, decision.ignored, decision.profile)

    # -- rules ---------------------------------------------------------------------------

    def _enter_rule(self, rule: Rule, changed: list[Node], now: float) -> None:
        if self.rules.put(rule, now):
            self._in_force(rule, changed, force=True)

    def _take_rule(self, rule_id: int, changed: list[Node]) -> None:
        force = self.rules.in_force(rule_id)
        rule = self.rules.remove(rule_id)
        if rule is not None and force:
            self._in_force(rule, changed, force=False)

    def _in_force(self, rule: Rule, changed: list[Node], *, force: bool) -> None:
        """A rule comes into force, or is no longer."""
        self.touched.append(rule)
        if force:
            if rule.node:
                self._policy.set_party(rule.node, self._party(rule.node))
            self._policy.add(rule)
        else:
            self._policy.discard(rule.id)
        if is_address_alone(rule):
            alone, text = self._alone[rule.action], _prefix_text(rule)
            alone[text] += 1 if force else -1
            if not alone[text]:
                del alone[text]
        key = listed_key(rule)
        if key:
            counts = self._counts.setdefault(key, [0, 0])
            counts[rule.action == "allow"] += 1 if force else -1
            node = self._nodes.set_listed(key, Listed(bool(counts[0]), bool(counts[1])))
            if not any(counts):
                del self._counts[key]
            if node is not None:
                changed.append(node)

    def _set_profiles(self, profiles: Mapping[str, Profile]) -> None:
        if profiles != self.profiles:
            self.profiles = dict(profiles)
            self.touched.append(None)
        self._policy.set_profiles(self.profiles)

    def _refuse(self, resolvers: tuple[str, ...]) -> None:
        """Refuse DoH and DoT to known resolvers: rules that anybody's rule may overrule."""
        if resolvers == self._refused:
            return
        self._refused = resolvers
        for rule_id in [rule_id for rule_id in self._policy.ids if rule_id <= FIRST_REFUSED]:
            self._policy.discard(rule_id)
        rule_id = FIRST_REFUSED
        base = Rule(0, "block", author="profile")
        for text in resolvers:
            prefix = _address_prefix(text)
            whom = base._replace(domain=text) if prefix is None else base._replace(prefix=prefix)
            for port in (HTTPS, DNS_OVER_TLS):  # plain DNS may be on the same addresses
                self._policy.add(whom._replace(id=rule_id, port=port))
                rule_id -= 1
        self.touched.append(None)

    def _party(self, key: str) -> set[bytes]:
        """The addresses by which rules about node ``key`` hold, names aside."""
        node = self._nodes.by_key(key)
        if node is not None and node.kind is Kind.SITE and node.domain:
            return self._nodes.assigned_to(node)
        addresses = set(node.addresses) if node is not None else set()
        if _is_address(key):
            addresses.add(parse_address(key))
        return addresses

    # -- lists ---------------------------------------------------------------------------

    def _lists_changed(self) -> list[Command]:
        changed: list[Command] = []
        for name in LISTS:
            texts = self.list_texts(name)
            if texts != self._lists[name]:
                self._lists[name] = texts
                changed.append(ListChanged(name, texts))
        return changed


def listed_key(rule: Rule) -> str:
    """The node that is on a list because of this rule: it is about that node, and nothing else."""
    if rule.domain or rule.prefix is not None or rule.port or rule.protocol:
        return ""
    if rule.device is not None:
        return "" if rule.node else format_mac(rule.device)
    return rule.node


def is_address_alone(rule: Rule) -> bool:
    """Is the rule about an address or prefix, and nothing else?"""
    return rule.prefix is not None and rule.device is None and not (rule.port or rule.protocol)


def _prefix_text(rule: Rule) -> str:
    if rule.prefix is None:
        return ""
    address, bits = rule.prefix
    text = format_address(address)
    return text if bits == len(address) * 8 else f"{text}/{bits}"


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def _address_prefix(text: str) -> tuple[bytes, int] | None:
    try:
        address = parse_address(text)
    except ValueError:
        return None
    return address, len(address) * 8
