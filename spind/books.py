# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules, indexed for the two who ask: "what matches this?" and "which sets does the kernel need?". Pure.

A :class:`Book` holds the rules of one scope: those for all devices, those for one device, or those of
one profile. What a set of the kernel holds follows from the rules that are in a book; a book keeps the
two in step, element by element. Must not know about devices' classes, names' addresses or time: a rule
is in a book while it is in force.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple, TypeVar

from spind.model import IPPROTO_TCP, IPPROTO_UDP, Address
from spind.prefixes import Carver, Prefix
from spind.rules import AUTHORS, Rule, rank
from spind.ruleset import Action, Element, Ruleset, SetChange, Shape, Step
from spind.sites import registrable_domain

Entry = tuple[tuple[int, ...], Rule]
"""A rule with its rank."""

TIERS = range(len(AUTHORS))

TRANSPORTS = (IPPROTO_TCP, IPPROTO_UDP)


class Sets:
    """The sets of a :class:`Ruleset`, and what changed in them since somebody last took the changes.

    ``restructured`` says that more than elements changed, so that the rules have to be written anew.
    """

    def __init__(self, ruleset: Ruleset) -> None:
        self.ruleset = ruleset
        self.restructured = False
        self._added: dict[str, set[Element]] = {}
        self._removed: dict[str, set[Element]] = {}

    def ensure(self, name: str, shape: Shape) -> None:
        """Have the set, be it empty."""
        if name not in self.ruleset.sets:
            self.ruleset.shapes[name] = shape
            self.ruleset.sets[name] = set()
            self.restructured = True

    def drop(self, name: str) -> None:
        """No step mentions the set any more."""
        if self.ruleset.sets.pop(name, None) is not None:
            del self.ruleset.shapes[name]
            self._added.pop(name, None)
            self._removed.pop(name, None)
            self.restructured = True

    def add(self, name: str, element: Element) -> None:
        """Put an element in; nothing where it is in already."""
        elements = self.ruleset.sets[name]
        if element not in elements:
            elements.add(element)
            gone = self._removed.get(name)
            if gone is not None and element in gone:
                gone.discard(element)
            else:
                self._added.setdefault(name, set()).add(element)

    def remove(self, name: str, element: Element) -> None:
        """Take an element out; nothing where it is not in."""
        elements = self.ruleset.sets.get(name)
        if elements is not None and element in elements:
            elements.discard(element)
            fresh = self._added.get(name)
            if fresh is not None and element in fresh:
                fresh.discard(element)
            else:
                self._removed.setdefault(name, set()).add(element)

    @property
    def pending(self) -> bool:
        """Has anything changed since the last ``take``?"""
        return self.restructured or bool(self._added or self._removed)

    def take(self) -> tuple[SetChange, ...]:
        """The changes of elements since the last call."""
        if not self._added and not self._removed:
            return ()
        names = dict.fromkeys((*self._added, *self._removed))
        changes = tuple(
            SetChange(name, tuple(self._added.get(name, ())), tuple(self._removed.get(name, ())))
            for name in names
        )
        self._added.clear()
        self._removed.clear()
        return tuple(change for change in changes if change.added or change.removed)


class NameIndex:
    """The names that rules of any book are about."""

    def __init__(self) -> None:
        self._domains: Counter[str] = Counter()
        self._sites: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._domains or self._sites)

    def __contains__(self, name: str) -> bool:
        if self._sites and registrable_domain(name) in self._sites:
            return True
        if self._domains:
            while name:
                if name in self._domains:
                    return True
                name = name.partition(".")[2]
        return False

    def add(self, rule: Rule) -> None:
        """A rule is about a name."""
        (self._sites if rule.node else self._domains)[rule_name(rule)] += 1

    def discard(self, rule: Rule) -> None:
        """It is in no book any more."""
        _discount(self._sites if rule.node else self._domains, rule_name(rule))


class _Slot(NamedTuple):
    """Where a rule without a name goes: its author's tier, its form, its service."""

    tier: int
    form: int
    protocol: int
    port: int


FORM_PARTY_PORT, FORM_PARTY_PROTOCOL, FORM_PARTY, FORM_PORT, FORM_PROTOCOL, FORM_ANY = range(6)


def form_of(rule: Rule) -> int:
    """Which of party, port and protocol the rule names."""
    party = bool(rule.node or rule.domain or rule.prefix is not None)
    if rule.port:
        return FORM_PARTY_PORT if party else FORM_PORT
    if rule.protocol:
        return FORM_PARTY_PROTOCOL if party else FORM_PROTOCOL
    return FORM_PARTY if party else FORM_ANY


def transports(rule: Rule) -> tuple[int, ...]:
    """Protocols that a rule with a port is about."""
    return (rule.protocol,) if rule.protocol else TRANSPORTS


def rule_name(rule: Rule) -> str:
    """The host name or registrable domain that the rule is about, else empty."""
    if rule.domain:
        return rule.domain
    return "" if rule.node == "" or ":" in rule.node or _is_ipv4(rule.node) else rule.node


def _is_ipv4(text: str) -> bool:
    return text.rpartition(".")[2].isdigit()


class Book:
    """Rules of one scope. ``name`` begins the names of its sets: one to six letters and digits."""

    def __init__(self, name: str, sets: Sets, index: NameIndex) -> None:
        self.name = name
        self._sets = sets
        self._index = index
        self._names: dict[str, list[Entry]] = {}  # a name and those below it
        self._sites: dict[str, list[Entry]] = {}  # the names of a registrable domain
        self._prefixes: dict[Prefix, list[Entry]] = {}
        self._lengths: dict[tuple[int, int], int] = {}  # (address length, bits) -> how many
        self._others: list[Entry] = []  # no party: by port, by protocol, any
        self._carvers: dict[_Slot, Carver] = {}
        self._ports: dict[_Slot, list[int]] = {}  # [blocks, allows]
        self._placed: dict[int, tuple[Rule, Entry, set[Prefix]]] = {}
        # Levels are the author and category of a rank; how many rules there are of each.
        self._levels: Counter[tuple[tuple[int, ...], str]] = Counter()
        self._name_levels: Counter[tuple[int, ...]] = Counter()

    def __len__(self) -> int:
        return len(self._placed)

    @property
    def has_names(self) -> bool:
        """Is any rule about a name?"""
        return bool(self._names or self._sites)

    def names_outrank(self, limit: tuple[int, ...]) -> bool:
        """Is there a rule about a name that is stronger than ``limit``?"""
        return any(level < limit[:2] for level in self._name_levels)

    def differs_above(self, limit: tuple[int, ...], action: str) -> bool:
        """Is there a rule stronger than ``limit`` that does not say ``action``?"""
        return any(level < limit[:2] and other != action for level, other in self._levels)

    def about_everything(self) -> list[Entry]:
        """Rules that name neither party nor service."""
        return [entry for entry in self._others if form_of(entry[1]) == FORM_ANY]

    def rules(self) -> list[Rule]:
        """All rules of the book."""
        return [rule for rule, _, _ in self._placed.values()]

    # -- what is in it -------------------------------------------------------------------

    def add(self, key: int, rule: Rule, addresses: Iterable[Address] = ()) -> None:
        """Enter a rule under ``key``; ``addresses`` are those of its node at present."""
        entry = (rank(rule), rule)
        prefixes: set[Prefix] = {(address, len(address) * 8) for address in addresses}
        if rule.prefix is not None:
            prefixes.add(rule.prefix)
        self._placed[key] = (rule, entry, set())
        self._levels[entry[0][:2], rule.action] += 1
        name = rule_name(rule)
        if name:
            (self._sites if rule.node else self._names).setdefault(name, []).append(entry)
            self._name_levels[entry[0][:2]] += 1
            self._index.add(rule)
        elif not (rule.node or rule.prefix is not None):
            self._others.append(entry)
            self._count(rule, 1)
        for prefix in prefixes:
            self._add_prefix(key, prefix)

    def discard(self, key: int) -> Rule | None:
        """Take the rule under ``key`` out; the rule, if it was there."""
        placed = self._placed.get(key)
        if placed is None:
            return None
        rule, entry, prefixes = placed
        for prefix in list(prefixes):
            self._remove_prefix(key, prefix)
        del self._placed[key]
        _discount(self._levels, (entry[0][:2], rule.action))
        name = rule_name(rule)
        if name:
            index = self._sites if rule.node else self._names
            index[name].remove(entry)
            _discount(self._name_levels, entry[0][:2])
            self._index.discard(rule)
            if not index[name]:
                del index[name]
        elif not (rule.node or rule.prefix is not None):
            self._others.remove(entry)
            self._count(rule, -1)
        return rule

    def set_addresses(self, key: int, addresses: Collection[Address]) -> set[Address]:
        """The node of the rule under ``key`` now has ``addresses``; those that came or went."""
        rule, _, prefixes = self._placed[key]
        wanted = {(address, len(address) * 8) for address in addresses}
        if rule.prefix is not None:
            wanted.add(rule.prefix)
        changed = wanted ^ prefixes
        for prefix in wanted - prefixes:
            self._add_prefix(key, prefix)
        for prefix in prefixes - wanted:
            self._remove_prefix(key, prefix)
        return {address for address, _ in changed}

    # -- what matches --------------------------------------------------------------------

    def about_name(self, name: str) -> list[Entry]:
        """Rules about ``name``, a name that it is below, or its site."""
        found: list[Entry] = []
        if self._sites:
            found += self._sites.get(registrable_domain(name), ())
        while name:
            entries = self._names.get(name)
            if entries:
                found += entries
            name = name.partition(".")[2]
        return found

    def about(self, name: str, address: Address) -> list[Entry]:
        """Rules that a connection to ``name`` (may be empty) at ``address`` may match, by its service."""
        found = self.about_name(name) if name and self.has_names else []
        if self._prefixes:
            value = int.from_bytes(address, "big")
            size = len(address)
            for length, bits in self._lengths:
                if length == size:
                    shift = size * 8 - bits
                    network = (value >> shift << shift).to_bytes(size, "big")
                    entries = self._prefixes.get((network, bits))
                    if entries:
                        found += entries
        return found + self._others if self._others else found

    def exact_addresses(self) -> list[Address]:
        """Addresses that rules are about one by one."""
        return [address for address, bits in self._prefixes if bits == len(address) * 8]

    # -- what the kernel needs -----------------------------------------------------------

    def steps(self, tier: int) -> list[Step]:
        """Steps for the rules of one author that say *what*, strongest first."""
        steps: list[Step] = []
        for form, letter in ((FORM_PARTY_PORT, "s"), (FORM_PARTY_PROTOCOL, "q"), (FORM_PARTY, "p")):
            protocols = sorted({s.protocol for s in self._carvers if s.tier == tier and s.form == form})
            for protocol in protocols if form == FORM_PARTY_PROTOCOL else protocols[:1]:
                number = str(protocol) if form == FORM_PARTY_PROTOCOL else ""
                step = protocol if form == FORM_PARTY_PROTOCOL else 0
                for action in (Action.ALLOW, Action.BLOCK):
                    name = f"{self.name}_{tier}{letter}{number}{action[0]}"
                    if self._sets.ruleset.sets.get(name):
                        steps.append(Step(action, name, step))
        for action in (Action.ALLOW, Action.BLOCK):
            name = f"{self.name}_{tier}t{action[0]}"
            if self._sets.ruleset.sets.get(name):
                steps.append(Step(action, name))
        protocols = sorted({s.protocol for s in self._ports if s.tier == tier and s.form == FORM_PROTOCOL})
        for protocol in protocols:
            blocks, allows = self._ports[_Slot(tier, FORM_PROTOCOL, protocol, 0)]
            if blocks or allows:
                steps.append(Step(Action.ALLOW if allows else Action.BLOCK, "", protocol))
        return steps

    def alone(self, tier: int) -> Action | None:
        """What an author says about everything: the rule without any *what*."""
        blocks, allows = self._ports.get(_Slot(tier, FORM_ANY, 0, 0), (0, 0))
        if allows:
            return Action.ALLOW
        return Action.BLOCK if blocks else None

    # -- inside --------------------------------------------------------------------------

    def _slots(self, rule: Rule) -> list[_Slot]:
        tier = AUTHORS.index(rule.author)
        form = form_of(rule)
        if form in (FORM_PARTY_PORT, FORM_PORT):
            return [_Slot(tier, form, protocol, rule.port) for protocol in transports(rule)]
        return [_Slot(tier, form, rule.protocol, 0)]

    def _add_prefix(self, key: int, prefix: Prefix) -> None:
        rule, entry, prefixes = self._placed[key]
        prefixes.add(prefix)
        self._prefixes.setdefault(prefix, []).append(entry)
        length = (len(prefix[0]), prefix[1])
        self._lengths[length] = self._lengths.get(length, 0) + 1
        for slot in self._slots(rule):
            carver = self._carvers.get(slot)
            if carver is None:
                carver = self._carvers[slot] = Carver()
            self._carved(slot, carver.add(prefix, rule.action))

    def _remove_prefix(self, key: int, prefix: Prefix) -> None:
        rule, entry, prefixes = self._placed[key]
        prefixes.discard(prefix)
        self._prefixes[prefix].remove(entry)
        if not self._prefixes[prefix]:
            del self._prefixes[prefix]
        length = (len(prefix[0]), prefix[1])
        self._lengths[length] -= 1
        if not self._lengths[length]:
            del self._lengths[length]
        for slot in self._slots(rule):
            carver = self._carvers[slot]
            self._carved(slot, carver.remove(prefix, rule.action))
            if not carver:
                del self._carvers[slot]

    def _carved(self, slot: _Slot, changes: tuple[Iterable[Prefix], ...]) -> None:
        added_block, removed_block, added_allow, removed_allow = changes
        letter = {FORM_PARTY_PORT: "s", FORM_PARTY_PROTOCOL: f"q{slot.protocol}", FORM_PARTY: "p"}[slot.form]
        service = (slot.protocol, slot.port) if slot.form == FORM_PARTY_PORT else ()
        shape = Shape.PREFIX_PORT if slot.form == FORM_PARTY_PORT else Shape.PREFIX
        for action, added, removed in (("b", added_block, removed_block), ("a", added_allow, removed_allow)):
            name = f"{self.name}_{slot.tier}{letter}{action}"
            for prefix in removed:
                self._change(name, shape, (*prefix, *service), present=False)
            for prefix in added:
                self._change(name, shape, (*prefix, *service), present=True)

    def _count(self, rule: Rule, by: int) -> None:
        """Count a rule without a party."""
        for slot in self._slots(rule):
            counts = self._ports.setdefault(slot, [0, 0])
            before = tuple(counts)
            counts[rule.action == "allow"] += by
            if slot.form == FORM_PORT:
                self._port_changed(slot, counts)
            elif tuple(map(bool, before)) != tuple(map(bool, counts)):
                self._sets.restructured = True
            if not any(counts):
                del self._ports[slot]

    def _port_changed(self, slot: _Slot, counts: list[int]) -> None:
        element = (slot.protocol, slot.port)
        blocks, allows = counts
        for action, present in (("a", bool(allows)), ("b", bool(blocks) and not allows)):
            self._change(f"{self.name}_{slot.tier}t{action}", Shape.PORT, element, present=present)

    def _change(self, name: str, shape: Shape, element: Element, *, present: bool) -> None:
        """Add or remove an element; a set that gets its first one or loses its last makes or ends a step."""
        sets = self._sets
        if present:
            sets.ensure(name, shape)
            sets.add(name, element)
        elif name in sets.ruleset.sets:
            sets.remove(name, element)
            if not sets.ruleset.sets[name]:
                sets.restructured = True


Key = TypeVar("Key")


def _discount(counter: Counter[Key], key: Key) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
