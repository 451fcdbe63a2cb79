# SPDX-License-Identifier: GPL-2.0-or-later
"""The block rules for iptables: which chains and rules a ruleset wants.

Owns the names of the chains ``SPIN_BLOCK_...`` of the table ``filter`` and ``SPIN_INSPECT_...`` of the
table ``mangle``. Pure. What the rules mean is said in ``ruleset``, which sets they look into in
``block_iptables_sets``; ``block_iptables`` puts both into the kernel.

The way of a forwarded packet of a device, in brackets what is looked up (U and D: up and down)::

    FORWARD               -> SPIN_BLOCK_FORWARD, before all other rules
    SPIN_BLOCK_FORWARD    [cut] -> CUT; [interface] -> UP; [interface] -> DOWN
    SPIN_BLOCK_UP         [MAC] -> M_class; [address] -> U_class; else U_all
    SPIN_BLOCK_M_class    U_class, and then [address] -> U_class of the address, if it has one
    SPIN_BLOCK_U_class    a rule a step: RETURN, QUIC (inspect) or NO_UP (block)

To go (``-g``) to a chain instead of jumping there (``-j``) means that its end leads out of this one as
well: the first class that a packet has judges it, and no other. Nothing here accepts. Where classes are
many, those with an address are looked up in two steps: the group (``SPIN_BLOCK_UP_3``), then the class.

``SPIN_INSPECT_...`` repeats the same for the steps up to a class's last one for inspection, since only
``mangle`` comes before the capture rules: who is blocked or allowed before that returns unmarked.
"""

from collections.abc import Callable, Collection, Iterator
from hashlib import sha256
from typing import NamedTuple

from spind.block_iptables_sets import KINDS, OF_CLASS, OF_GROUP, OF_RULES, SetName, classes, groups
from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from spind.ruleset import EVERYBODY, Action, Placement, Ruleset, Step
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

CUT, REFUSED = (BLOCK + "CUT",), (BLOCK + "NO_UP", BLOCK + "NO_TCP", BLOCK + "NO_DOWN")
"""Chains whose last rules count: what was cut, and what was refused."""

REPORTS = (20, 100)
ANSWERS = (100, 200)
"""Packets a second, and in a burst, that are reported and answered. Those beyond are blocked like them."""

_HOOKS = ("FORWARD", "INPUT", "OUTPUT")
_DHCP = {4: (67, 68), 6: (546, 547)}
# Bridged, between exactly these ports.
_DHCP_BRIDGED = {4: ((68, 67), (67, 67), (67, 68)), 6: ((546, 547), (547, 546))}
# Peers in so many sets are looked at for inspection before it is asked who sends; else after.
_FEW_SETS = 4
_NEIGHBOURS = range(133, 138)  # RFC 4861 section 4
_ADMIN = {4: "icmp-admin-prohibited", 6: "icmp6-adm-prohibited"}

Index = Callable[[SetName], tuple[str, int]]
"""The name and the index that a set has in the kernel."""


class Rules(NamedTuple):
    """Rules of one table and family: our chains, and to which of them the built-in chains jump."""

    chains: dict[str, list[XtRule]]
    hooks: dict[str, str]


NOTHING = Rules({}, {})


def render(ruleset: Ruleset, family: int, index: Index) -> dict[str, Rules]:
    """The rules for both tables, for a ruleset that ``check`` likes."""
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
    # What REJECT answers with belongs to the connection, cut or not: without it, a device that is blocked
    # would wait for a time-out.
    reset = (tcp_flags("RST", "RST"), related())
    rules.append(XtRule(BLOCK + "OUTPUT", jump("RETURN"), reset, protocol=IPPROTO_TCP))
    rules += [XtRule(BLOCK + hook, goto(CUT[0]), (cut,)) for hook in hooks]
    if place.mode == "local":
        ways = {"INPUT": goto(_class("D", place.own)), "OUTPUT": goto(_class("U", place.own))}
    else:
        ways = {"INPUT": goto(BLOCK + "UP"), "OUTPUT": goto(BLOCK + "DOWN")}
        rules += _forward(place, family)
        rules += _judges(ruleset, BLOCK, classes(ruleset), index, family)
        names = classes(ruleset)
        to_class = {name: goto(_class("D", name)) for name in names}
        rules += _by_address(BLOCK + "DOWN", to_class, "dst", family, index, to_class[EVERYBODY])
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
        # What REJECT answers others with.
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
    # Apart from each other: whatever a device pours out, its connections end at once.
    yield XtRule(no_up, goto(answer), protocol=tcp)
    yield XtRule(no_up, reject(_ADMIN[family], family), (limit(*ANSWERS),))
    yield XtRule(no_up, jump("DROP"))
    yield XtRule(answer, reject("tcp-reset", family), (limit(*ANSWERS),), protocol=tcp)
    yield XtRule(answer, jump("DROP"))
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
    way = goto(_class("U", place.own, INSPECT) if place.mode == "local" else INSPECT + "UP")
    sets = {step.set for steps in parts.values() for step in steps if step.action is Action.INSPECT}
    if "" in sets or len(sets) > _FEW_SETS:
        sets = {""}  # all of TCP
    for name in _home(place):
        for each in sorted(sets):
            step = Step(Action.INSPECT, each, IPPROTO_TCP)
            rule = _step(INSPECT + hook, step, way, ruleset, family, index, "dst")
            rules.append(_through(rule, place, name))
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
    judges = {name: goto(_class("U", name, prefix)) for name in parts}
    yield from _by_address(up, judges, "src", family, index, judges[EVERYBODY])
    yield from _by_address(by_source, judges, "src", family, index)
    for name in dict.fromkeys(ruleset.macs.values()):
        chain = _class("M", name, prefix)
        # Mostly the address has the same class: once is enough.
        yield XtRule(chain, judges[name], (_devices(family, OF_CLASS, name, "src", index),))
        yield XtRule(chain, jump(judges[name].name))
        yield XtRule(chain, goto(by_source))


def _by_address(
    chain: str,
    ways: dict[str, Extension],
    field: str,
    family: int,
    index: Index,
    otherwise: Extension | None = None,
) -> Iterator[XtRule]:
    """Go the way of the class that has the address; ``otherwise`` if none has."""
    grouped = groups(ways)
    for group in grouped:
        members = _devices(family, OF_GROUP, group, field, index)
        yield XtRule(chain, goto(f"{chain}_{group}"), (members,))
    parts: list[tuple[str, Collection[str]]] = [(f"{chain}_{group}", of) for group, of in grouped.items()]
    for part, names in parts or [(chain, ways)]:
        for name in names:
            yield XtRule(part, ways[name], (_devices(family, OF_CLASS, name, field, index),))
        if otherwise and grouped:
            yield XtRule(part, otherwise)
    if otherwise:
        yield XtRule(chain, otherwise)


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
        name, number = index(SetName(family, OF_RULES, step.set))
        ports = KINDS[ruleset.shapes[step.set]].endswith(",port")
        matches = (in_set(name, f"{peer},{peer}" if ports else peer, number),)
    protocol = _icmp(family) if step.protocol == IPPROTO_ICMP else step.protocol
    return XtRule(chain, target, matches, protocol=protocol)


def _devices(family: int, what: str, name: str, field: str, index: Index) -> Extension:
    text, number = index(SetName(family, what, name))
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
