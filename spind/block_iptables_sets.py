# SPDX-License-Identifier: GPL-2.0-or-later
"""Which sets of ipset a ruleset needs, what they are called, and what is in them.

Owns the names of sets that begin with ``spin_``, and the groups of classes by which a packet finds its
class. Pure. The rules that look into the sets are in ``block_iptables_text``.
"""

import re
from collections.abc import Collection, Iterable
from math import isqrt
from typing import NamedTuple, cast
from zlib import crc32

from spind.model import Address
from spind.ruleset import EVERYBODY, Element, Ruleset, Shape, Step
from spind.wire import ipset

_SET = "spin_"
OUR_SET = re.compile(_SET + r"[46][cgs]_.+\.\d+")
"""Names that :meth:`SetName.text` gives, whatever the ruleset."""

_FEW = 6  # classes that are looked up one after the other, at some 0.1 µs each


KINDS = {
    Shape.ADDRESS: "hash:ip",
    Shape.PREFIX: "hash:net",
    Shape.ADDRESS_PORT: "hash:ip,port",
    Shape.PREFIX_PORT: "hash:net,port",
    Shape.PORT: "hash:net,port",
}
"""Shapes in ipset's words."""

# ipset has no prefix without a bit: any address is one of these halves.
_HALVES = {4: (bytes(4), b"\x80" + bytes(3)), 6: (bytes(16), b"\x80" + bytes(15))}


class SetName(NamedTuple):
    """A set of the kernel, by what it holds.

    :data:`OF_RULES`: what a set of the ruleset holds. :data:`OF_CLASS`: the addresses of a class.
    :data:`OF_GROUP`: those of several classes.
    """

    family: int
    what: str
    name: str

    def text(self, generation: int) -> str:
        """The kernel's name. New contents get another generation, until the old ones are gone."""
        return f"{_SET}{self.family}{self.what}_{self.name}.{generation}"


OF_RULES, OF_CLASS, OF_GROUP = "s", "c", "g"


def classes(ruleset: Ruleset) -> dict[str, tuple[Step, ...]]:
    """All classes; everybody's comes last, and is always there."""
    others = {name: steps for name, steps in ruleset.classes.items() if name != EVERYBODY}
    return others | {EVERYBODY: ruleset.classes.get(EVERYBODY, ())}


def groups(names: Collection[str]) -> dict[str, list[str]]:
    """Groups of classes, so that a packet finds its class in a few steps; none where classes are few.

    A class stays in its group while others come and go, until their number has doubled twice.
    """
    if len(names) <= _FEW:
        return {}
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(str(crc32(name.encode()) % (1 << isqrt(len(names)).bit_length())), []).append(name)
    return dict(sorted(found.items()))


def device_sets(ruleset: Ruleset, family: int) -> dict[SetName, set[Address]]:
    """The sets of devices' addresses, of classes and of groups, with what is in them."""
    size = 4 if family == 4 else 16
    found: dict[str, set[Address]] = {name: set() for name in classes(ruleset)}
    for address, name in ruleset.addresses.items():
        if len(address) == size:
            found[name].add(address)
    sets = {SetName(family, OF_CLASS, name): held for name, held in found.items()}
    for group, names in groups(found).items():
        sets[SetName(family, OF_GROUP, group)] = set().union(*(found[name] for name in names))
    return sets


def set_shape(ruleset: Ruleset, name: SetName) -> Shape:
    """The shape of a set; its type in ipset's words is in :data:`KINDS`."""
    return ruleset.shapes[name.name] if name.what == OF_RULES else Shape.ADDRESS


def elements(shape: Shape, family: int, found: Iterable[Element]) -> list[ipset.Element]:
    """Elements of one family as ipset takes them."""
    size = 4 if family == 4 else 16
    if shape is Shape.PORT:
        ports = cast("Iterable[tuple[int, int]]", found)
        return [(half, 1, protocol, port) for half in _HALVES[family] for protocol, port in ports]
    addressed = cast("Iterable[ipset.Element]", found)
    if shape is Shape.ADDRESS:
        return [element for element in addressed if len(element) == size]
    return [element for element in addressed if len(cast("bytes", element[0])) == size]
