# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocking with iptables and ipset, for systems without nftables.

Owns the sets ``spin_...`` and the chains ``SPIN_BLOCK_...`` and ``SPIN_INSPECT_...`` in the kernel, and
the jumps to them. What they are is decided in ``block_iptables_sets`` and ``block_iptables_text``. Rules
are compared with those in the kernel, and written a table at a time; elements of sets go by netlink.

Sets whose contents change with the rules are made anew under another name, so that a table with its
sets takes effect in one step. Tables change in an order in which nothing is open between.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from spind.block_ebtables import EbtablesBlock
from spind.block_iptables_sets import (
    KINDS,
    OF_CLASS,
    OF_GROUP,
    OF_RULES,
    OUR_SET,
    SetName,
    classes,
    device_sets,
    elements,
    groups,
    set_shape,
)
from spind.block_iptables_text import CUT, NOTHING, REFUSED, TABLES, Rules, render, render_between
from spind.ipset import Ipset
from spind.iptables import TableReader, families, find_extension, library, load_table
from spind.iptables_chains import OurChains
from spind.ruleset import Action, ClassesChange, Element, Ruleset, SetChange, check
from spind.wire.ipset import Header
from spind.wire.xtables import Entry

_MATCHES = {"set": 4, "mac": 0, "connmark": 1, "conntrack": 3, "udp": 0, "tcp": 0, "limit": 0}
_TARGETS = {"REJECT": 0, "NFLOG": 0, "MARK": 2}
_LAST = ("DROP", "REJECT")  # where a rule goes to that a blocked packet meets last


class _Set(NamedTuple):
    """A set that we have made: its name in the kernel, its number for rules, its number of elements."""

    name: str
    number: int
    size: int


class IptablesBlock:
    """The block rules in the kernel. All methods raise ``OSError`` where it refuses.

    ``notes`` says in sentences what this system cannot do; :meth:`probe` finds out. The rules belong to
    the network namespace in which the first method was called.
    """

    name = "iptables"

    def __init__(self) -> None:
        self.notes: tuple[str, ...] = ()
        self._bridges: EbtablesBlock | None = EbtablesBlock()
        self._ipset: Ipset | None = None
        self._known: Ruleset | None = None  # what the kernel has, unless others have changed it
        self._sets: dict[SetName, _Set] = {}
        self._readers: dict[tuple[str, int], TableReader] = {}
        self._chains: dict[tuple[str, int], OurChains] = {}  # of the last install, once they are in place
        self._counted: dict[int, tuple[int, int, int]] = {}  # by family: what its rules counted by now
        self._totals = [0, 0, 0]

    def probe(self) -> None:
        """See that the kernel has all matches, targets and types of sets, and that libiptc is there.

        Where only ``ebtables`` is missing, ``notes`` says so and bridged frames are left alone.
        """
        library()
        for family in families():
            for table in TABLES:
                load_table(table, family)
            for name, revision in (_MATCHES | ({"icmp6": 0} if family == 6 else {})).items():
                find_extension(name, revision, family, target=False)
            for name, revision in _TARGETS.items():
                find_extension(name, revision, family, target=True)
            self._probe_sets(family)
        try:
            EbtablesBlock().probe()
        except OSError as error:
            self._bridges = None
            self.notes = (f"traffic between devices on one bridge cannot be blocked: {error}",)
        else:
            self._bridges, self.notes = self._bridges or EbtablesBlock(), ()

    def _probe_sets(self, family: int) -> None:
        sets = self._open()
        name = SetName(family, OF_RULES, "probe").text(99)
        if name in sets.headers():
            sets.destroy(name)
        for kind in dict.fromkeys(KINDS.values()):
            sets.create(name, kind, family, 1)
            sets.destroy(name)

    def install(self, ruleset: Ruleset) -> None:
        """Leave exactly these rules of ours in the kernel.

        A set is filled where it differs from what this object has put there before, or where its number
        of elements is another one by now. ``ValueError`` for a ruleset that cannot be said, with nothing
        changed.
        """
        check(ruleset)
        sets = self._open()
        there = sets.headers()
        before, known, self._known = self._sets, self._known, None
        made: dict[SetName, _Set] = {}
        try:
            for name, (held, same) in _sets_of(ruleset, known).items():
                if same and _intact(before.get(name), there):
                    made[name] = before[name]
                else:
                    made[name] = self._fill(name, ruleset, held, there)
            self._sets = made
            self.counters()
            self._write_tables(ruleset)
        except (OSError, ValueError):
            self._sets = {}  # what the tables refer to now stays, the others go
            self._sweep(sets.headers().keys())
            raise
        self._sweep(there.keys() - {each.name for each in made.values()})
        self._known = _copy(ruleset)
        if self._bridges is not None:
            self._bridges.install(ruleset)

    def update(self, changes: Sequence[SetChange | ClassesChange]) -> None:
        """Change elements of what was installed.

        Takes a fraction of a millisecond; some more for classes of MACs, since they are rules. The order
        is such that nothing is open that is blocked before and after. After an ``OSError`` nothing is
        known of the kernel, so that the next :meth:`install` puts in everything. ``ValueError`` for a set
        or class that is not there.
        """
        known, self._known = self._known, None
        if known is None:
            raise OSError("iptables: the rules must be installed anew")
        macs = dict(known.macs)
        changed = _advance(known, changes)
        blocking = {
            step.set for steps in known.classes.values() for step in steps if step.action is not Action.ALLOW
        }

        def turn(name: SetName) -> int:
            """A group leads to a class, so its members come later and go earlier."""
            if name.what == OF_RULES:
                return 0 if name.name in blocking else 3
            return 1 if name.what == OF_CLASS else 2

        first = sorted(changed, key=turn)
        for add, names in ((True, first), (False, reversed(first))):
            for name in names:
                self._change(
                    name, known, [each for each, new in changed[name].items() if new is add], add=add
                )
        if known.macs != macs:
            self._write_tables(known)
        self._known = known

    def remove(self) -> None:
        """Take all of ours out; fine where there is nothing."""
        self._known = None
        for family in families():
            for table in TABLES:
                _write(self._ours(table, family, NOTHING))
        self._sets, self._chains = {}, {}
        self._sweep(self._open().headers().keys())
        if self._bridges is not None:
            self._bridges.remove()

    def close(self) -> None:
        """Close the socket. The rules stay, and another method opens it again."""
        if self._ipset is not None:
            self._ipset.close()
            self._ipset = None

    def counters(self) -> dict[str, int]:
        """What was blocked since the first :meth:`install`.

        ``block.packets`` and ``block.bytes``: refused, up and down. ``block.cut``: packets of connections
        that were cut.
        """
        for family in families():
            reader = self._reader("filter", family)
            there = reader.read()
            now = (*_counts(reader, there, REFUSED), _counts(reader, there, CUT)[0])
            # What an earlier run has left counts from now on, and what was flushed from 0.
            old = self._counted.get(family, now)
            for number, (value, last) in enumerate(zip(now, old, strict=True)):
                self._totals[number] += value - last if value >= last else value
            self._counted[family] = now
        packets, octets, cut = self._totals
        return {"block.packets": packets, "block.bytes": octets, "block.cut": cut}

    def watch_fd(self) -> None:
        """Nothing tells of changes: ask :meth:`changed_by_others` from time to time."""

    def changed_by_others(self) -> bool:
        """Whether chains, jumps or numbers of elements are others than were installed."""
        if self._known is None:
            return False
        there = self._open().headers()
        return not all(_intact(each, there) for each in self._sets.values()) or not all(
            chains.in_place() for chains in self._chains.values()
        )

    def _open(self) -> Ipset:
        if self._ipset is None:
            self._ipset = Ipset()
        return self._ipset

    def _fill(
        self, name: SetName, ruleset: Ruleset, held: Iterable[Element], there: dict[str, Header]
    ) -> _Set:
        """Make a set under a name that is free, with all its elements."""
        sets = self._open()
        found = elements(set_shape(ruleset, name), name.family, held)
        kernel_name = next(text for n in range(99) if (text := name.text(n)) not in there)
        sets.create(kernel_name, KINDS[set_shape(ruleset, name)], name.family, len(found))
        sets.change(kernel_name, add=True, elements=found)
        return _Set(kernel_name, sets.index(kernel_name), len(found))

    def _change(self, name: SetName, ruleset: Ruleset, found: list[Element], *, add: bool) -> None:
        told = elements(set_shape(ruleset, name), name.family, found)
        each = self._sets.get(name)
        if told and each is not None:  # else a family that this kernel does not have
            self._open().change(each.name, add=add, elements=told)
            self._sets[name] = each._replace(size=each.size + (len(told) if add else -len(told)))

    def _write_tables(self, ruleset: Ruleset) -> None:
        def index(name: SetName) -> tuple[str, int]:
            return self._sets[name][:2]

        before, self._chains = self._chains, {}
        for family in families():
            rules = render(ruleset, family, index)
            block, inspect = (
                self._ours(table, family, rules[table], before.get((table, family))) for table in TABLES
            )
            inspecting = not inspect.in_place()
            if inspecting and rules["mangle"] is not NOTHING:
                self._ours("mangle", family, render_between(ruleset, family, index)).write(others=False)
            _write(block)
            if inspecting:
                inspect.write()
            self._chains |= {("filter", family): block, ("mangle", family): inspect}

    def _ours(self, table: str, family: int, rules: Rules, before: OurChains | None = None) -> OurChains:
        return OurChains(self._reader(table, family), TABLES[table], rules.chains, rules.hooks, before)

    def _reader(self, table: str, family: int) -> TableReader:
        return self._readers.setdefault((table, family), TableReader(table, family))

    def _sweep(self, names: Iterable[str]) -> None:
        """Destroy those that are ours. What a rule still refers to stays until the next time."""
        for name in names:
            if OUR_SET.fullmatch(name):
                with contextlib.suppress(OSError):
                    self._open().destroy(name)


def _counts(reader: TableReader, there: dict[str, list[Entry]], chains: tuple[str, ...]) -> tuple[int, int]:
    """Packets and bytes that met one of the last rules of these chains."""
    rules = (rule for chain in chains for rule in there.get(chain, ()) if rule.target in _LAST)
    numbers = [reader.counters(rule) for rule in rules]
    return sum(packets for packets, _ in numbers), sum(octets for _, octets in numbers)


def _write(chains: OurChains) -> None:
    if not chains.in_place():
        chains.write()


def _sets_of(ruleset: Ruleset, known: Ruleset | None) -> dict[SetName, tuple[Iterable[Element], bool]]:
    """All sets that a ruleset needs: what they hold, and whether ``known`` says the same."""
    found: dict[SetName, tuple[Iterable[Element], bool]] = {}
    for family in families():
        for name, held in ruleset.sets.items():
            same = known is not None and known.shapes.get(name) is ruleset.shapes[name]
            same = same and known is not None and known.sets.get(name) == held
            found[SetName(family, OF_RULES, name)] = held, same
        before = device_sets(known, family) if known is not None else {}
        for of, addresses in device_sets(ruleset, family).items():
            found[of] = addresses, before.get(of) == addresses
    return found


def _intact(each: _Set | None, there: dict[str, Header]) -> bool:
    header = there.get(each.name) if each is not None else None
    return header is not None and each is not None and header.elements in (each.size, None)


def _advance(
    known: Ruleset, changes: Sequence[SetChange | ClassesChange]
) -> dict[SetName, dict[Element, bool]]:
    """Take the changes into ``known``; what comes (true) and goes, by set."""
    changed: dict[SetName, dict[Element, bool]] = {}
    in_group: dict[str, str] = {}
    if any(isinstance(change, ClassesChange) and change.addresses for change in changes):
        in_group = {name: group for group, names in groups(classes(known)).items() for name in names}

    def note(name: SetName, element: Element, *, new: bool) -> None:
        found = changed.setdefault(name, {})
        if found.pop(element, new) is new:  # else it comes and goes
            found[element] = new

    for change in changes:
        if isinstance(change, SetChange):
            if change.name not in known.sets:
                raise ValueError(f"no set of that name: {change.name!r}")
            held = known.sets[change.name]
            for new, elements_ in ((True, change.added), (False, change.removed)):
                for element in elements_:
                    if (element in held) is not new:
                        (held.add if new else held.discard)(element)
                        for family in (4, 6):
                            note(SetName(family, OF_RULES, change.name), element, new=new)
            continue
        for mac, name in change.macs:
            _class(known.macs, mac, name, known)
        for address, name in change.addresses:
            old = _class(known.addresses, address, name, known)
            family = 4 if len(address) == 4 else 6
            for of, new in ((name, True), (old, False)):
                if of and name != old:
                    note(SetName(family, OF_CLASS, of), address, new=new)
                    if of in in_group:
                        note(SetName(family, OF_GROUP, in_group[of]), address, new=new)
    return changed


def _class(held: dict[bytes, str], key: bytes, name: str, known: Ruleset) -> str:
    """Give a device a class, or none; the class that it had."""
    if name and name not in classes(known):
        raise ValueError(f"no class of that name: {name!r}")
    old = held.pop(key, "")
    if name:
        held[key] = name
    return old


def _copy(ruleset: Ruleset) -> Ruleset:
    return Ruleset(
        ruleset.placement,
        dict(ruleset.classes),
        dict(ruleset.shapes),
        {name: set(elements_) for name, elements_ in ruleset.sets.items()},
        dict(ruleset.macs),
        dict(ruleset.addresses),
        set(ruleset.isolated),
        set(ruleset.apart),
        set(ruleset.together),
    )
