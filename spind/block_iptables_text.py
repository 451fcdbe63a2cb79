# SPDX-License-Identifier: GPL-2.0-or-later
"""The block rules for iptables and ipset: which sets, chains and rules a ruleset wants.

Owns the names of sets that begin with ``spin_``, and of the chains ``SPIN_BLOCK_...`` of the table
``filter`` and ``SPIN_INSPECT_...`` of the table ``mangle``. Pure. What the rules mean is said in
``ruleset``; ``block_iptables`` puts them into the kernel.

The way of a forwarded packet of a device, in brackets what is looked up (U and D: up and down)::

    FORWARD               -> SPIN_BLOCK_FORWARD, before all other rules
    SPIN_BLOCK_FORWARD    [cut] -> CUT; [interface] -> UP; [interface] -> DOWN
    SPIN_BLOCK_UP         [MAC] -> M_class; [address] -> U_class; else U_all
    SPIN_BLOCK_M_class    U_class, and then [address] -> U_class of the address, if it has one
    SPIN_BLOCK_U_class    a rule a step: RETURN, QUIC (inspect) or NO_UP (block)

To go (``-g``) to a chain instead of jumping there (``-j``) means that its end leads out of this one as
well: the first class that a packet has judges it, and no other. Nothing here accepts.

``SPIN_INSPECT_...`` repeats the same for the steps up to a class's last one for inspection, since only
``mangle`` comes before the capture rules: who is blocked or allowed before that returns unmarked.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple, cast

from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from spind.ruleset import EVERYBODY, Action, Element, Placement, Ruleset, Shape, Step
from spind.wire import ipset
from spind.wire.xtables import (
    ANY_PORT,
    CHAIN_BYTES,
    Extension,
    XtRule,
    connection_mark,
    from_mac,
    goto,
    icmp6_type,
    in_set,
    jump,
    limit,
    log,
    reject,
    related,
    set_mark,
    tcp_flags,
    udp_ports,
)

BLOCK = "SPIN_BLOCK_"
INSPECT = "SPIN_INSPECT_"
TABLES = {"filter": BLOCK, "mangle": INSPECT}
"""The tables, with how our chains begin there."""

SET = "spin_"
CUT, REFUSED = (BLOCK + "CUT",), (BLOCK + "NO_UP", BLOCK + "REJECT", BLOCK + "NO_DOWN")
"""Chains whose last rules count: what was cut, and what was refused."""

REPORTS = (20, 100)
ANSWERS = (100, 200)
"""Packets a second, and in a burst, that are reported and answered. Those beyond are blocked like them."""

_HOOKS = ("FORWARD", "INPUT", "OUTPUT")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,20}")
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")
_DHCP = {4: (67, 68), 6: (546, 547)}
# Bridged, between exactly these ports.
_DHCP_BRIDGED = {4: ((68, 67), (67, 67), (67, 68)), 6: ((546, 547), (547, 546))}
_NEIGHBOURS = range(133, 138)  # RFC 4861 section 4
_ADMIN = {4: "icmp-admin-prohibited", 6: "icmp6-adm-prohibited"}
_KINDS = {
    Shape.ADDRESS: "hash:ip",
    Shape.PREFIX: "hash:net",
    Shape.ADDRESS_PORT: "hash:ip,port",
    Shape.PREFIX_PORT: "hash:net,port",
    Shape.PORT: "hash:net,port",
}
# ipset has no prefix without a bit: any address is one of these halves.
_HALVES = {4: (bytes(4), b"\x80" + bytes(3)), 6: (bytes(16), b"\x80" + bytes(15))}


class SetName(NamedTuple):
    """A set of the kernel: of a set of the ruleset, or (``devices``) the addresses of a class."""

    family: int
    devices: bool
    name: str

    def text(self, generation: int) -> str:
        """The kernel's name. New contents get another generation, until the old ones are gone."""
        return f"{SET}{self.family}{'c' if self.devices else 's'}_{self.name}.{generation}"


Index = Callable[[SetName], tuple[str, int]]
"""The name and the index that a set has in the kernel."""


class Rules(NamedTuple):
    """Rules of one table and family: our chains, and to which of them the built-in chains jump."""

    chains: dict[str, list[XtRule]]
    hooks: dict[str, str]


NOTHING = Rules({}, {})


def check(ruleset: Ruleset) -> None:
    """``ValueError`` for what cannot be said: names that are not plain, sets and classes that are missing."""
    place = ruleset.placement
    if place.mode not in ("router", "bridge", "local"):
        raise ValueError(f"not a mode: {place.mode!r}")
    for name in place.interfaces:
        if not _INTERFACE.fullmatch(name):
            raise ValueError(f"not an interface name: {name!r}")
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


def classes(ruleset: Ruleset) -> dict[str, tuple[Step, ...]]:
    """All classes; everybody's comes last, and is always there."""
    others = {name: steps for name, steps in ruleset.classes.items() if name != EVERYBODY}
    return others | {EVERYBODY: ruleset.classes.get(EVERYBODY, ())}


def set_kind(ruleset: Ruleset, name: SetName) -> str:
    """The type of a set in ipset's words."""
    return "hash:ip" if name.devices else _KINDS[ruleset.shapes[name.name]]


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


def render(ruleset: Ruleset, family: int, index: Index) -> dict[str, Rules]:
    """The rules for both tables, for a ruleset that :func:`check` likes."""
    return {"filter": _filter(ruleset, family, index), "mangle": _mangle(ruleset, family, index)}


def render_between(ruleset: Ruleset, family: int, index: Index) -> Rules:
    """Rules that mark for inspection whatever any class's steps would, and more, in chains of their own.

    They stand in ``mangle`` besides those of before while ``filter`` changes: a step for inspection lets
    packets pass there, so they must be marked from before it comes until after it has gone.
    """
    chain, place = INSPECT + "BETWEEN", ruleset.placement
    steps = {step: None for steps in ruleset.classes.values() for step in _inspected(steps)}
    rules = [_settled(chain, place)]
    for step in steps:
        if step.action is Action.INSPECT:
            rule = _step(chain, step, set_mark(place.marks.inspect), ruleset, family, index, "dst")
            rules += [_through(rule._replace(protocol=IPPROTO_TCP), place, name) for name in _home(place)]
    return Rules({chain: rules}, {_inspecting(place): chain})


def _filter(ruleset: Ruleset, family: int, index: Index) -> Rules:
    place = ruleset.placement
    rules = list(_ends(place, family))
    hooks = [hook for hook in _HOOKS if hook != "FORWARD" or place.mode != "local"]
    cut = connection_mark(place.marks.cut, place.marks.cut)
    rules += [XtRule(BLOCK + hook, goto(CUT[0]), (cut,)) for hook in hooks]
    if place.mode == "local":
        ways = {"INPUT": goto(_class("D", place.own)), "OUTPUT": goto(_class("U", place.own))}
    else:
        ways = {"INPUT": goto(BLOCK + "UP"), "OUTPUT": goto(BLOCK + "DOWN")}
        rules += _forward(place, family)
        rules += _judges(ruleset, BLOCK, classes(ruleset), index, family)
        rules += [
            XtRule(BLOCK + "DOWN", goto(_class("D", name)), (_devices(family, name, "dst", index),))
            for name in classes(ruleset)
        ]
        rules.append(XtRule(BLOCK + "DOWN", goto(_class("D", EVERYBODY))))
    for hook, way in ways.items():
        rules += _always(BLOCK + hook, family)
        for name in _home(place):
            rule = XtRule(BLOCK + hook, way)
            rules.append(rule._replace(incoming=name) if hook == "INPUT" else rule._replace(outgoing=name))
    for name, steps in classes(ruleset).items():
        rules += _steps(_class("U", name), steps, ruleset, family, index, "dst")
        rules += _steps(_class("D", name), steps, ruleset, family, index, "src")
    return _chains(rules, BLOCK, hooks)


def _forward(place: Placement, family: int) -> Iterator[XtRule]:
    chain, leave = BLOCK + "FORWARD", jump("RETURN")
    if place.mode == "bridge":
        for source, destination in _DHCP_BRIDGED[family]:
            ports = udp_ports((source, source), (destination, destination))
            yield XtRule(chain, leave, (ports,), protocol=IPPROTO_UDP)
        yield from _neighbours(chain, family)
    for name in place.interfaces:
        yield XtRule(chain, jump(BLOCK + "UP"), incoming=name)
    for name in place.interfaces:
        yield XtRule(chain, goto(BLOCK + "DOWN"), outgoing=name)


def _always(chain: str, family: int) -> Iterator[XtRule]:
    """What always passes between the home and this machine."""
    leave = jump("RETURN")
    yield XtRule(chain, leave, (udp_ports(ANY_PORT, _DHCP[family]),), protocol=IPPROTO_UDP)
    yield from _neighbours(chain, family)
    if chain == BLOCK + "OUTPUT":
        # What REJECT answers with: without these, a device that is blocked would wait for a time-out.
        yield XtRule(chain, leave, (tcp_flags("RST", "RST"), related()), protocol=IPPROTO_TCP)
        yield XtRule(chain, leave, (related(),), protocol=_icmp(family))


def _neighbours(chain: str, family: int) -> Iterator[XtRule]:
    if family == 6:
        for number in _NEIGHBOURS:
            yield XtRule(chain, jump("RETURN"), (icmp6_type(number),), protocol=IPPROTO_ICMPV6)


def _ends(place: Placement, family: int) -> Iterator[XtRule]:
    """The chains in which packets end. The rules that drop count."""
    cut, no_up, answer, no_down = CUT[0], *REFUSED
    tcp = IPPROTO_TCP
    yield XtRule(cut, reject("tcp-reset", family), (limit(*ANSWERS),), protocol=tcp)
    yield XtRule(cut, jump("DROP"))
    yield XtRule(BLOCK + "QUIC", goto(no_up), (udp_ports(ANY_PORT, (443, 443)),), protocol=IPPROTO_UDP)
    yield XtRule(no_up, log(place.log_group, "spin up"), (limit(*REPORTS),))
    yield XtRule(no_up, goto(answer), (limit(*ANSWERS),))
    yield XtRule(no_up, jump("DROP"))
    yield XtRule(answer, reject("tcp-reset", family), protocol=tcp)
    yield XtRule(answer, reject(_ADMIN[family], family))
    # Strangers learn nothing; the peer of a connection that ran does.
    yield XtRule(no_down, log(place.log_group, "spin down"), (limit(*REPORTS),))
    running = (tcp_flags("SYN,RST", "NONE"), limit(*ANSWERS))
    yield XtRule(no_down, reject("tcp-reset", family), running, protocol=tcp)
    yield XtRule(no_down, jump("DROP"))


def _mangle(ruleset: Ruleset, family: int, index: Index) -> Rules:
    place = ruleset.placement
    parts = {name: _inspected(steps) for name, steps in classes(ruleset).items()}
    if place.mode == "local":
        parts = {place.own: parts[place.own]}
    if not any(parts.values()):
        return NOTHING
    hook = _inspecting(place)
    rules = [_settled(INSPECT + hook, place), XtRule(INSPECT + "MARK", set_mark(place.marks.inspect))]
    for name in _home(place):
        way = goto(_class("U", place.own, INSPECT) if place.mode == "local" else INSPECT + "UP")
        rules.append(_through(XtRule(INSPECT + hook, way, protocol=IPPROTO_TCP), place, name))
    if place.mode != "local":
        rules += _judges(ruleset, INSPECT, parts, index, family)
    for name, steps in parts.items():
        rules += _steps(_class("U", name, INSPECT), steps, ruleset, family, index, "dst")
    return _chains(rules, INSPECT, [hook])


def _inspecting(place: Placement) -> str:
    return "OUTPUT" if place.mode == "local" else "FORWARD"


def _through(rule: XtRule, place: Placement, name: str) -> XtRule:
    return rule._replace(outgoing=name) if place.mode == "local" else rule._replace(incoming=name)


def _settled(chain: str, place: Placement) -> XtRule:
    """Leave alone what has been inspected. What belongs to no connection has no mark, and has not."""
    settled = connection_mark(0, place.marks.done | place.marks.cut, invert=True)
    return XtRule(chain, jump("RETURN"), (settled,), protocol=IPPROTO_TCP)


def _inspected(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps up to the last for inspection that may concern TCP."""
    concerned = [step for step in steps if step.protocol in (0, IPPROTO_TCP)]
    last = max((n for n, step in enumerate(concerned, 1) if step.action is Action.INSPECT), default=0)
    return tuple(concerned[:last])


def _judges(
    ruleset: Ruleset, prefix: str, parts: dict[str, tuple[Step, ...]], index: Index, family: int
) -> Iterator[XtRule]:
    """The choice of the sender's classes, and the judgement by each."""
    up, by_source = prefix + "UP", prefix + "SOURCE"
    for mac, name in sorted(ruleset.macs.items()):
        yield XtRule(up, goto(_class("M", name, prefix)), (from_mac(mac),))
    for chain in (up, by_source):
        for name in parts:
            yield XtRule(chain, goto(_class("U", name, prefix)), (_devices(family, name, "src", index),))
    yield XtRule(up, goto(_class("U", EVERYBODY, prefix)))
    for name in dict.fromkeys(ruleset.macs.values()):
        chain, judge = _class("M", name, prefix), _class("U", name, prefix)
        # Mostly the address has the same class: once is enough.
        yield XtRule(chain, goto(judge), (_devices(family, name, "src", index),))
        yield XtRule(chain, jump(judge))
        yield XtRule(chain, goto(by_source))


def _steps(
    chain: str, steps: tuple[Step, ...], ruleset: Ruleset, family: int, index: Index, peer: str
) -> Iterator[XtRule]:
    for step in steps:
        if step.action is Action.BLOCK and chain.startswith(BLOCK):
            target = goto(BLOCK + ("NO_UP" if peer == "dst" else "NO_DOWN"))
        elif step.action is Action.INSPECT and peer == "dst":
            target = goto(BLOCK + "QUIC" if chain.startswith(BLOCK) else INSPECT + "MARK")
        else:
            target = jump("RETURN")
        yield _step(chain, step, target, ruleset, family, index, peer)


def _step(
    chain: str, step: Step, target: Extension, ruleset: Ruleset, family: int, index: Index, peer: str
) -> XtRule:
    matches: tuple[Extension, ...] = ()
    if step.set:
        name, number = index(SetName(family, devices=False, name=step.set))
        ports = _KINDS[ruleset.shapes[step.set]].endswith(",port")
        matches = (in_set(name, f"{peer},{peer}" if ports else peer, number),)
    protocol = _icmp(family) if step.protocol == IPPROTO_ICMP else step.protocol
    return XtRule(chain, target, matches, protocol=protocol)


def _devices(family: int, name: str, field: str, index: Index) -> Extension:
    text, number = index(SetName(family, devices=True, name=name))
    return in_set(text, field, number)


def _icmp(family: int) -> int:
    return IPPROTO_ICMP if family == 4 else IPPROTO_ICMPV6


def _home(place: Placement) -> tuple[str, ...]:
    return place.interfaces or ("! lo",)


def _class(kind: str, name: str, prefix: str = BLOCK) -> str:
    """The name of a class's chain; where that has no room for the class's, a digest distinguishes it."""
    chain = f"{prefix}{kind}_{name}"
    if len(chain) > CHAIN_BYTES:
        chain = f"{chain[: CHAIN_BYTES - 9]}~{sha256(name.encode()).hexdigest()[:8]}"
    return chain


def _chains(rules: list[XtRule], prefix: str, hooks: list[str]) -> Rules:
    """Rules by chain, and an empty chain where one is gone to that has none."""
    chains: dict[str, list[XtRule]] = {}
    for rule in rules:
        chains.setdefault(rule.chain, []).append(rule)
    for rule in rules:
        if rule.target.name.startswith(prefix):
            chains.setdefault(rule.target.name, [])
    return Rules(chains, {hook: prefix + hook for hook in hooks})
