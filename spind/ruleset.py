# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel shall enforce, without a word of nftables or iptables. Pure.

``compiler`` makes it out of rules, devices and names; a blocking back-end puts it into the kernel.
Both back-ends must mean the same by it:

* A packet that comes from the home is judged by its sender's class, in direction *up*: the peer is
  the destination, the peer's port the destination port. It is judged by the class of the sender's
  MAC, if that has one, and by the class of the source address, if that has one (they may differ:
  a device may forward for another); where neither has one, by :data:`EVERYBODY`.
* A packet that goes to the home is judged by its receiver's class, in direction *down*: the peer is
  the source, the peer's port the source port. The class is that of the destination address, or
  :data:`EVERYBODY`.
* A packet between two devices is judged twice, and blocked if either class blocks it.
* The steps of a class are tried in order; the first that matches decides. Where none matches, the
  packet is none of our business. Nothing here may end the judgement of anybody else's rules.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from spind.model import Address, Mac

EVERYBODY = "all"
"""The class of whoever has none of its own."""

MAX_NAME = 20
"""Characters of a set's or class's name: an ipset's name has at most 31, and back-ends add to ours."""


class Shape(StrEnum):
    """What a set holds. Each set is two in the kernel, one a family, except ``PORT``."""

    ADDRESS = "address"  # Address
    PREFIX = "prefix"  # (Address, bits); disjoint, bits at least 1
    ADDRESS_PORT = "address-port"  # (Address, protocol, port)
    PREFIX_PORT = "prefix-port"  # (Address, bits, protocol, port); disjoint for each protocol and port
    PORT = "port"  # (protocol, port)


Element = (
    Address | tuple[Address, int] | tuple[Address, int, int] | tuple[Address, int, int, int] | tuple[int, int]
)
"""By the set's shape. Protocols of elements are 6 (TCP) and 17 (UDP)."""


class Action(StrEnum):
    """What a step does with a packet that matches.

    ``BLOCK``: counted, reported within a rate, and refused. ``ALLOW``: no further step is tried.
    ``INSPECT``: the peer's address serves several names, of which some are blocked: TCP goes to the
    queue for inspection until its connection is marked *done*, UDP to port 443 (QUIC) is blocked so
    that clients fall back to TCP, everything else is allowed; down, all is allowed.
    """

    BLOCK = "block"
    ALLOW = "allow"
    INSPECT = "inspect"


class Step(NamedTuple):
    """Matches packets whose peer is in set ``set`` (any, if empty) and which are of ``protocol``
    (IP protocol number; 0: any; 1 stands for ICMP and ICMPv6). Port sets look at the peer's port."""

    action: Action
    set: str = ""
    protocol: int = 0


class Marks(NamedTuple):
    """Bits of marks that are ours, one each.

    On the connection: ``done`` (nothing more to inspect) and ``cut`` (its name is blocked: TCP is
    reset in both directions). On the packet: ``inspect`` asks the capture rules, which come after
    ours, for the queue for inspection.
    """

    done: int
    cut: int
    inspect: int


class Placement(NamedTuple):
    """Where the rules stand.

    ``mode`` is router, bridge or local. ``interfaces`` are the home's; none of them in mode local
    means all but loopback. ``log_group`` is the NFLOG group for reports. ``own`` is the class of this
    machine itself in mode local.
    """

    mode: str
    interfaces: tuple[str, ...]
    marks: Marks
    log_group: int
    own: str = EVERYBODY


@dataclass(slots=True)
class Ruleset:
    """All of it. A set that steps mention is in ``shapes`` and ``sets``, be it empty.

    ``macs`` and ``addresses`` are the classes of devices. ``isolated``, ``apart`` and ``together``
    are for frames that the gateway bridges from one device to another without routing them: nothing
    passes from or to a MAC that is isolated, except between two that are together, and what they
    need to find each other; nothing passes between two that are apart. Pairs are in both orders.
    """

    placement: Placement
    classes: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    sets: dict[str, set[Element]] = field(default_factory=dict)
    macs: dict[Mac, str] = field(default_factory=dict)
    addresses: dict[Address, str] = field(default_factory=dict)
    isolated: set[Mac] = field(default_factory=set)
    apart: set[tuple[Mac, Mac]] = field(default_factory=set)
    together: set[tuple[Mac, Mac]] = field(default_factory=set)

    @property
    def seeking(self) -> set[Mac]:
        """Isolated ones that are together with another: they may ask all for that one's MAC."""
        return {one for one, _ in self.together if one in self.isolated}


class SetChange(NamedTuple):
    """Elements that come to and go from set ``name``; nothing else changes."""

    name: str
    added: tuple[Element, ...] = ()
    removed: tuple[Element, ...] = ()


class ClassesChange(NamedTuple):
    """Devices' MACs and addresses that get a class, another class, or (empty) none any more."""

    macs: tuple[tuple[Mac, str], ...] = ()
    addresses: tuple[tuple[Address, str], ...] = ()


_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_NAME}}}")
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")


def check_interfaces(names: Iterable[str]) -> None:
    """``ValueError`` for what cannot be an interface's name, so that nothing else gets into rules."""
    for name in names:
        if not _INTERFACE.fullmatch(name):
            raise ValueError(f"not an interface name: {name!r}")


def check(ruleset: Ruleset) -> None:
    """``ValueError`` for what cannot be said: names that are not plain, sets and classes that are missing."""
    place = ruleset.placement
    if place.mode not in ("router", "bridge", "local"):
        raise ValueError(f"not a mode: {place.mode!r}")
    check_interfaces(place.interfaces)
    if not place.interfaces and place.mode != "local":
        raise ValueError("no interface of the home")
    for mark in place.marks:
        if not 0 < mark < 1 << 32 or mark & (mark - 1):
            raise ValueError(f"not one bit of a mark: {mark:#x}")
    if not 0 <= place.log_group < 1 << 16:
        raise ValueError(f"not a group for reports: {place.log_group}")
    used = {*ruleset.macs.values(), *ruleset.addresses.values(), place.own}
    for name in (*ruleset.classes, *ruleset.sets, *used):
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a plain name: {name!r}")
    for steps in ruleset.classes.values():
        for step in steps:
            if step.set and (step.set not in ruleset.sets or step.set not in ruleset.shapes):
                raise ValueError(f"no set of that name: {step.set!r}")
    for name in used - {EVERYBODY}:
        if name not in ruleset.classes:
            raise ValueError(f"no class of that name: {name!r}")
