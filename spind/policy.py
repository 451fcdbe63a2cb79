# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rules in force mean: for one connection, and for the kernel. Pure.

Owns the classes of devices, the addresses of names in rules, and the :class:`Ruleset` that follows
from both, which it changes in place. Devices with the same rules could share a class; here a class is
a device with rules of its own, or a profile.

A connection's rule is the strongest that matches (``rules.rank``). For names the kernel knows addresses
only. So for each address that had a name which a rule is about, and for each class, ``verdicts`` works out
what the rules say for each of the address's names:

* the same for all of them: the address is put into the class's sets that say so;
* different things: the address is put into the class's set for inspection.

These sets come before those of the rules about addresses, ports and everything, whose verdict has been
taken into account. A class has elements only where it differs from :data:`EVERYBODY`, whose sets
for names it looks at after its own.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, Protocol

from spind.addresses import PrefixSet
from spind.books import TIERS, Book, Entry, NameIndex, Sets, rule_name, transports
from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6, Address, Mac, format_mac
from spind.named_addresses import UNTOLD, NamedAddresses
from spind.profiles import Profile, profile_rules
from spind.rules import Rule
from spind.ruleset import (
    EVERYBODY,
    Action,
    ClassesChange,
    Element,
    Placement,
    Ruleset,
    SetChange,
    Shape,
    Step,
)
from spind.sites import registrable_domain
from spind.verdicts import Verdict, blocks_all, elements, shape_of, verdict_by_names, verdict_of

EXPIRE_SECONDS = 60.0
"""How often addresses whose time is over are looked for."""


class KnownNames(Protocol):
    """The DNS answers that were seen, whoever they were for."""

    def at(self, address: Address) -> Iterable[tuple[str, float]]:
        """Names of an address, and when their answers end."""

    def everything(self) -> Iterable[tuple[Address, str, float]]:
        """All of them."""


class Changes(NamedTuple):
    """What became of the ruleset: ``restructured`` where it has to be written anew, else elements."""

    restructured: bool
    sets: tuple[SetChange, ...]
    classes: ClassesChange


class _Device:
    __slots__ = ("addresses", "profile")

    def __init__(self) -> None:
        self.addresses: frozenset[Address] = frozenset()
        self.profile = ""


class Policy:
    """All rules in force, and what follows."""

    def __init__(self, placement: Placement, known: KnownNames, limit: int = 8192) -> None:
        """``limit`` bounds the addresses that names in rules have."""
        self.ruleset = Ruleset(placement)
        self._known = known
        self._sets = Sets(self.ruleset)
        self._about = NameIndex()
        self._shared = Book("a", self._sets, self._about)
        self._own: dict[Mac, Book] = {}
        self._profiles: dict[str, Profile] = {}
        self._profile_books: dict[str, Book] = {}
        self._numbers: dict[str, int] = {}
        self._rules: dict[int, Rule] = {}
        self._parties: dict[str, set[int]] = {}  # node key -> ids of rules about it
        self._party_addresses: dict[str, frozenset[Address]] = {}
        self._devices: dict[Mac, _Device] = {}
        self._home: tuple[tuple[Address, int], ...] = ()
        self._own_mac: Mac | None = None
        self._named = NamedAddresses(limit, self.concerns)
        # Names from before a restart about which no rule is: they count where another of the address comes.
        self._remembered: dict[Address, list[tuple[str, float]]] = {}
        self._expired = 0.0
        self._entered: dict[str, dict[Address, tuple[tuple[str, Element], ...]]] = {}
        self._class_macs: dict[Mac, str] = {}
        self._class_addresses: dict[Address, str] = {}
        # Classes whose sets for names are kept up to date: those in use to which names matter.
        self._following: set[str] = set()
        self._written: set[str] = set()  # those that were when steps were written
        self._stale = True

    # -- rules ---------------------------------------------------------------------------

    def add(self, rule: Rule) -> None:
        """A rule comes into force."""
        self.discard(rule.id)
        self._rules[rule.id] = rule
        book = self._shared
        if rule.device is not None:
            if rule.device not in self._own:
                self._own[rule.device] = Book(
                    self._number("d", format_mac(rule.device)), self._sets, self._about
                )
            book = self._own[rule.device]
        if rule.node:
            self._parties.setdefault(rule.node, set()).add(rule.id)
        book.add(rule.id, rule, self._addresses_of(rule.node) if rule.node else ())
        self._rule_changed(rule)

    def discard(self, rule_id: int) -> None:
        """A rule is no longer in force; fine if it was not."""
        rule = self._rules.pop(rule_id, None)
        if rule is None:
            return
        book = self._shared if rule.device is None else self._own[rule.device]
        book.discard(rule_id)
        if rule.node:
            self._parties[rule.node].discard(rule_id)
            if not self._parties[rule.node]:
                del self._parties[rule.node]
        self._rule_changed(rule)
        if rule.device is not None and not book:
            del self._own[rule.device]
            self._stale = True

    @property
    def ids(self) -> Collection[int]:
        """Ids of the rules in force."""
        return self._rules.keys()

    def set_profiles(self, profiles: Mapping[str, Profile]) -> None:
        """The profiles that there are, by name; those of devices change with them."""
        old, self._profiles = self._profiles, dict(profiles)
        for name in list(self._profile_books):
            if old.get(name) != profiles.get(name):
                self._fill_profile(name)

    def set_home(self, prefixes: tuple[tuple[Address, int], ...]) -> None:
        """The home's prefixes, which profiles call ``home``."""
        if prefixes != self._home:
            self._home = prefixes
            for name in list(self._profile_books):
                self._fill_profile(name)
            self._stale = True

    def set_placement(self, placement: Placement) -> None:
        """Where the rules stand."""
        if placement != self.ruleset.placement:
            self.ruleset.placement = placement
            self._sets.restructured = True
            self._stale = True

    def set_own(self, mac: Mac | None) -> None:
        """In mode ``local``, the device that this machine is."""
        self._own_mac = mac
        self._stale = True

    # -- devices and other parties -------------------------------------------------------

    def set_device(self, mac: Mac, profile: str, addresses: Iterable[Address]) -> None:
        """A device is there, with a profile (empty: none) and its addresses at present."""
        device = self._devices.get(mac)
        if device is None:
            device = self._devices[mac] = _Device()
        held = frozenset(addresses)
        if held != device.addresses:
            device.addresses = held
            self._stale = True
            self.set_party(format_mac(mac), held)
        if profile != device.profile:
            device.profile = profile
            self._stale = True
            if profile and profile not in self._profile_books:
                self._profile_books[profile] = Book(self._number("p", profile), self._sets, self._about)
                self._fill_profile(profile)
            if mac in self._own:
                self._unfollow(self._own[mac].name)

    def profile_of(self, mac: Mac) -> str:
        """The profile that a device was said to have; empty: none."""
        device = self._devices.get(mac)
        return device.profile if device is not None else ""

    def forget_device(self, mac: Mac) -> None:
        """A device is not there any more; rules about it stay."""
        if self._devices.pop(mac, None) is not None:
            self._stale = True
            self.set_party(format_mac(mac), ())

    def set_party(self, key: str, addresses: Iterable[Address]) -> None:
        """A node that rules may be about has these addresses now."""
        held = frozenset(addresses)
        if held == self._party_addresses.get(key, frozenset()):
            return
        if held:
            self._party_addresses[key] = held
        else:
            self._party_addresses.pop(key, None)
        for rule_id in self._parties.get(key, ()):
            rule = self._rules[rule_id]
            book = self._shared if rule.device is None else self._own[rule.device]
            changed = book.set_addresses(rule_id, self._addresses_of(key))
            self._refresh([a for a in changed if a in self._named], self._classes_of(rule))
            self._stale = True

    # -- names ---------------------------------------------------------------------------

    def concerns(self, name: str) -> bool:
        """Is any rule about this name?"""
        return name in self._about

    def learn(self, address: Address, name: str, expires: float) -> None:
        """``name`` has ``address`` until ``expires``. Kept if rules are about a name of the address."""
        answers = [(name, expires)]
        if address not in self._named:
            if not self.concerns(name):
                return
            answers[:0] = [*self._known.at(address), *self._remembered.pop(address, ())]
        self._renamed(self._named.note(address, answers))

    def claim(self, address: Address, name: str, expires: float) -> None:
        """A client says that ``name`` has ``address``.

        Where no answer has told that, it may well be that other names at the address were not told either:
        the empty name stands for them, so that a connection's own word goes on to decide.
        """
        names = self._named.names(address)
        told = name in names or any(other == name for other, _ in self._known.at(address))
        alone = told and UNTOLD not in names
        self.learn(address, name, expires)
        if not alone and address in self._named:
            self._renamed(self._named.note(address, [(UNTOLD, expires)]))

    def remember(self, address: Address, name: str, expires: float) -> None:
        """From before a restart: one of the names of an address, in any order."""
        if address in self._named or self.concerns(name):
            self.learn(address, name, expires)
        else:
            self._remembered.setdefault(address, []).append((name, expires))

    def take_names(self) -> list[tuple[Address, str, float]]:
        """What is to be remembered beyond a restart that was not known at the last call."""
        return self._named.take_news()

    def expire(self, now: float) -> None:
        """Forget names whose time is long over."""
        if abs(now - self._expired) >= EXPIRE_SECONDS:
            self._expired = now
            self._renamed(self._named.expire(now))
            self._remembered.clear()  # by now, rules have come that care

    def shift(self, delta: float) -> None:
        """The clock was set by ``delta`` seconds."""
        self._named.shift(delta)
        self._expired += delta

    @property
    def named(self) -> NamedAddresses:
        """The addresses of names in rules."""
        return self._named

    # -- what the rules say --------------------------------------------------------------

    def decide(self, mac: Mac | None, name: str, address: Address, protocol: int, port: int) -> Rule | None:
        """The rule for a connection of a device to ``name`` (empty: unknown) at ``address``."""
        protocol = IPPROTO_ICMP if protocol == IPPROTO_ICMPV6 else protocol
        best: Entry | None = None
        for book in self._books_of(self._class(mac), mac):
            for entry in book.about(name, address):
                rule = entry[1]
                if rule.protocol and rule.protocol != protocol:
                    continue
                if rule.port and (rule.port != port or protocol not in transports(rule)):
                    continue
                if best is None or entry[0] < best[0]:
                    best = entry
        return best[1] if best is not None else None

    def inspects(self, mac: Mac | None, address: Address) -> bool:
        """Does the device's class have the address inspected?"""
        return any(
            address in self.ruleset.sets.get(f"{class_}_ni", ()) for class_ in (self._class(mac), EVERYBODY)
        )

    # -- for the kernel ------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Is there anything for ``take``?"""
        return self._stale or self._sets.pending or self._named.any_news

    def take(self) -> Changes:
        """Bring the ruleset up to date; what changed since the last call."""
        if self._stale:
            self._classify()
        if self._sets.restructured:
            self._write_steps()
        sets = self._sets.take()
        restructured, self._sets.restructured = self._sets.restructured, False
        return Changes(restructured, sets, self._class_changes())

    # -- inside: classes -----------------------------------------------------------------

    def _class(self, mac: Mac | None) -> str:
        if mac is None:
            return EVERYBODY
        own = self._own.get(mac)
        if own is not None:
            return own.name
        device = self._devices.get(mac)
        book = self._profile_books.get(device.profile) if device is not None and device.profile else None
        return book.name if book else EVERYBODY

    def _classes(self) -> list[str]:
        """All classes, everybody's first."""
        return [EVERYBODY, *(book.name for book in self._own.values()), *self._used_profiles()]

    def _used_profiles(self) -> list[str]:
        return [book.name for book in self._profile_books.values() if book]

    def _classes_of(self, rule: Rule) -> list[str]:
        return self._classes() if rule.device is None else [self._own[rule.device].name]

    def _books_of(self, class_: str, mac: Mac | None = None) -> list[Book]:
        """The books that a class goes by."""
        if class_ == EVERYBODY:
            return [self._shared]
        books = [self._shared]
        if mac is None:
            mac = next((m for m, book in self._own.items() if book.name == class_), None)
        if mac is not None and mac in self._own:
            books.append(self._own[mac])
            device = self._devices.get(mac)
            profile = self._profile_books.get(device.profile) if device is not None else None
        else:
            profile = next((book for book in self._profile_books.values() if book.name == class_), None)
        if profile:
            books.append(profile)
        return books

    def _number(self, letter: str, key: str) -> str:
        number = self._numbers.setdefault(key, len(self._numbers) + 1)
        return f"{letter}{number}"

    def _fill_profile(self, name: str) -> None:
        """Put the profile's rules into its book, in place of what was there."""
        book = self._profile_books[name]
        for rule in book.rules():
            book.discard(rule.id)
        profile = self._profiles.get(name)
        if profile is not None:
            nobody = bytes(6)  # any device will do: the book is the profile's
            for index, rule in enumerate(profile_rules(profile, nobody, self._home)):
                book.add(index, rule._replace(id=index))
        self._stale = True
        self._sets.restructured = True
        self._seed([rule for rule in book.rules() if rule_name(rule)])
        self._unfollow(book.name)
        for mac, device in self._devices.items():
            if device.profile == name and mac in self._own:
                self._unfollow(self._own[mac].name)

    def _unfollow(self, class_: str) -> None:
        """Take out all that the class's sets say of names; they are filled again if it is in use."""
        self._following.discard(class_)
        self._stale = True
        for entries in self._entered.pop(class_, {}).values():
            for set_name, element in entries:
                self._sets.remove(set_name, element)

    def _classify(self) -> None:
        macs: dict[Mac, str] = {}
        addresses: dict[Address, str] = {}
        for mac in {*self._own, *self._devices}:
            class_ = self._class(mac)
            if class_ != EVERYBODY:
                macs[mac] = class_
                device = self._devices.get(mac)
                if device is not None:
                    addresses.update(dict.fromkeys(device.addresses, class_))
        self.ruleset.macs.clear()
        self.ruleset.macs.update(macs)
        self.ruleset.addresses.clear()
        self.ruleset.addresses.update(addresses)
        for name in self._profile_books.keys() - {device.profile for device in self._devices.values()}:
            book = self._profile_books.pop(name)
            for rule in book.rules():
                book.discard(rule.id)
        own = macs.get(self._own_mac, EVERYBODY) if self._own_mac is not None else EVERYBODY
        if own != self.ruleset.placement.own:
            self.ruleset.placement = self.ruleset.placement._replace(own=own)
            self._sets.restructured = True
        used = {EVERYBODY, *macs.values()}
        if used != self.ruleset.classes.keys():
            self._sets.restructured = True
        following = {class_ for class_ in used if self._about and self._names_matter(class_)}
        if (EVERYBODY in following) != (EVERYBODY in self._following):
            for class_ in list(self._following):  # what they say is where they differ from it
                self._unfollow(class_)
        for class_ in self._following - following:
            self._unfollow(class_)
        fresh = following - self._following
        if fresh or following != self._written:
            self._sets.restructured = True
        self._following = following
        self._stale = False
        if fresh:
            self._refresh(self._named, fresh)
        self._bridge()

    def _class_changes(self) -> ClassesChange:
        macs, addresses = self.ruleset.macs, self.ruleset.addresses
        changed_macs = tuple(
            (mac, macs.get(mac, ""))
            for mac in {*macs, *self._class_macs}
            if macs.get(mac) != self._class_macs.get(mac)
        )
        changed = tuple(
            (address, addresses.get(address, ""))
            for address in {*addresses, *self._class_addresses}
            if addresses.get(address) != self._class_addresses.get(address)
        )
        if changed_macs or changed:
            self._class_macs, self._class_addresses = dict(macs), dict(addresses)
        return ClassesChange(changed_macs, changed)

    def _write_steps(self) -> None:
        self._written = set(self._following)
        classes: dict[str, tuple[Step, ...]] = {}
        for class_ in sorted({EVERYBODY, *self.ruleset.macs.values()}):
            steps: list[Step] = []
            for one in dict.fromkeys((class_, EVERYBODY)):
                if class_ in self._following and one in self._following:
                    steps += self._named_steps(one)
            classes[class_] = (*steps, *self._plain_steps(class_))
        used = {step.set for steps in classes.values() for step in steps}
        for name in [name for name, held in self.ruleset.sets.items() if not held]:
            if name not in used:
                self._sets.drop(name)
        self.ruleset.classes.clear()
        self.ruleset.classes.update(classes)
        self._sets.restructured = True

    def _plain_steps(self, class_: str) -> list[Step]:
        """Steps for rules about addresses, ports and everything, by rank."""
        shared, *own = self._books_of(class_)
        steps: list[Step] = []
        for tier in TIERS:
            for book in own:
                steps += book.steps(tier)
            alone = {book.alone(tier) for book in own}
            if Action.ALLOW in alone:
                return [*steps, Step(Action.ALLOW)]
            steps += shared.steps(tier)
            if Action.BLOCK in alone:
                return [*steps, Step(Action.BLOCK)]
            everything = shared.alone(tier)
            if everything is not None:
                return [*steps, Step(everything)]
        return steps

    # -- inside: names -------------------------------------------------------------------

    def _names_matter(self, class_: str) -> bool:
        """Can a name make a difference to the class? Not where a rule about everything is stronger."""
        books = self._books_of(class_)
        anything = [(order, rule.action) for book in books for order, rule in book.about_everything()]
        if not anything:
            return True
        limit, action = min(anything)
        return any(book.names_outrank(limit) for book in books) and any(
            book.differs_above(limit, action) for book in books
        )

    def _named_steps(self, class_: str) -> list[Step]:
        steps: list[Step] = []
        for action in (Action.BLOCK, Action.ALLOW):
            name = f"{class_}_ns{action[0]}"
            if self.ruleset.sets.get(name):
                steps.append(Step(action, name))
        prefix = f"{class_}_nq"
        for name in sorted(n for n in self.ruleset.sets if n.startswith(prefix)):
            if self.ruleset.sets[name]:
                action = Action.BLOCK if name.endswith("b") else Action.ALLOW
                steps.append(Step(action, name, int(name[len(prefix) : -1])))
        for action in (Action.BLOCK, Action.ALLOW, Action.INSPECT):
            name = f"{class_}_n{action[0]}"
            # There from the start: an answer that waits must not wait for new rules.
            self._sets.ensure(name, Shape.ADDRESS)
            steps.append(Step(action, name))
        return steps

    def _rule_changed(self, rule: Rule) -> None:
        """A rule came or went: look again at the addresses that it may be about."""
        classes = self._classes_of(rule)
        name = rule_name(rule)
        if name:
            if rule.id in self._rules:
                self._seed([rule])
            self._refresh(self._named.of(lambda other: _covers(rule, other)), classes)
        elif rule.prefix is not None:
            within = PrefixSet((rule.prefix,))
            self._refresh([a for a in self._named if a in within], classes)
        elif rule.node:
            self._refresh([a for a in self._addresses_of(rule.node) if a in self._named], classes)
        else:
            self._refresh(self._named, classes)
        # Rules about everything, or others beside such, may let names matter, or matter no more.
        self._stale = True

    def _seed(self, rules: Iterable[Rule]) -> None:
        """Take in the addresses that names in new rules are known to have."""
        if any(map(rule_name, rules)):
            for address, name, expires in list(self._known.everything()):
                self.learn(address, name, expires)

    def _addresses_of(self, key: str) -> frozenset[Address]:
        return self._party_addresses.get(key, frozenset())

    def _renamed(self, addresses: Iterable[Address]) -> None:
        """Addresses have other names now, or are not in the table any more."""
        for address in addresses:
            if address in self._named:
                self._refresh([address], self._following)
            else:
                for class_ in list(self._entered):
                    self._enter(class_, address, None)

    def _refresh(self, addresses: Iterable[Address], classes: Iterable[str]) -> None:
        """Work out again what the classes' sets say of addresses that have names."""
        chosen = self._following.intersection(classes)
        if EVERYBODY in chosen:  # the others say where they differ from it
            chosen = self._following
        if not chosen:
            return
        books_of = {class_: self._books_of(class_) for class_ in chosen if class_ != EVERYBODY}
        for address in list(addresses):
            names = self._named.names(address)
            if not names:
                continue
            everybody = None
            if EVERYBODY in self._following:
                everybody = verdict_by_names([self._shared], names, address)
                if EVERYBODY in chosen:
                    self._enter(EVERYBODY, address, everybody)
            for class_, books in books_of.items():
                verdict = verdict_by_names(books, names, address)
                if verdict == everybody:
                    verdict = None
                elif verdict is None:
                    verdict = verdict_of(books, "", address)
                self._enter(class_, address, verdict)

    def _enter(self, class_: str, address: Address, verdict: Verdict | None) -> None:
        """Have the class's sets say ``verdict`` of the address."""
        entries = elements(class_, address, verdict)
        entered = self._entered.setdefault(class_, {})
        before = entered.get(address, ())
        if entries == before:
            return
        # What it says from now on comes first, so that it is never said to be free.
        for set_name, element in entries:
            self._sets.ensure(set_name, shape_of(element))
            if not self.ruleset.sets[set_name] and set_name[len(class_) + 2] in "sq":
                self._sets.restructured = True
            self._sets.add(set_name, element)
        for set_name, element in before:
            if (set_name, element) not in entries:
                self._sets.remove(set_name, element)
        if entries:
            entered[address] = entries
        else:
            entered.pop(address, None)

    # -- inside: frames between devices --------------------------------------------------

    def _bridge(self) -> None:
        """Have the ruleset say who may exchange frames with whom, where the gateway just bridges them.

        In mode ``bridge`` it says nothing of it: all packets are judged there, by address and service,
        and a device's way to the internet is over the bridge, too.
        """
        ruleset = self.ruleset
        between = self._between() if ruleset.placement.mode != "bridge" else (set(), set(), set())
        if between != (ruleset.isolated, ruleset.apart, ruleset.together):
            ruleset.isolated, ruleset.apart, ruleset.together = between
            self._sets.restructured = True

    def _between(self) -> tuple[set[Mac], set[tuple[Mac, Mac]], set[tuple[Mac, Mac]]]:
        """Who is isolated, apart, together."""
        isolated: set[Mac] = set()
        apart: set[tuple[Mac, Mac]] = set()
        together: set[tuple[Mac, Mac]] = set()
        at = {address: mac for mac, device in self._devices.items() for address in device.addresses}
        typical = [network for network, _ in self._home]
        pairs: set[tuple[Mac, Mac]] = set()
        for mac in self.ruleset.macs:
            books = self._books_of(self._class(mac), mac)
            if any(blocks_all(books, address) for address in typical or [bytes(4)]):
                isolated.add(mac)
            peers = {at[a] for book in books[1:] for a in book.exact_addresses() if a in at}
            pairs |= {(mac, peer) for peer in peers - {mac}}
        for mac in {at[address] for address in self._shared.exact_addresses() if address in at}:
            if any(blocks_all([self._shared], address) for address in self._held(mac)):
                isolated.add(mac)
        for one, other in pairs:
            blocked = any(
                blocks_all(self._books_of(self._class(mac), mac), address)
                for mac, peer in ((one, other), (other, one))
                for address in self._held(peer)
            )
            (apart if blocked else together).update({(one, other), (other, one)})
        return isolated, apart, together

    def _held(self, mac: Mac) -> Collection[Address]:
        device = self._devices.get(mac)
        return device.addresses if device is not None else ()


def _covers(rule: Rule, name: str) -> bool:
    """Is a rule about a name about this one, too?"""
    if rule.node:
        return registrable_domain(name) == rule.node
    return name == rule.domain or name.endswith("." + rule.domain)
