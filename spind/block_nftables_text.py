# SPDX-License-Identifier: GPL-2.0-or-later
"""The block rules as text for ``nft -f``: one transaction to what a ruleset wants from what is there.

Owns the chains, sets, maps and counters of table ``inet spin`` whose names begin with ``block_``,
and table ``bridge spin``. Pure. What the rules mean is said in ``ruleset``, how sets are laid out in
``block_nftables_sets``.

The way of a forwarded packet of a device, in brackets what is looked up::

    block_forward      [interface] -> block_up, then [interface] -> block_down
    block_up           [address] -> block_from4_CLASS, [MAC] -> block_mac_CLASS, else block_up4_all
    block_from4_CLASS  [MAC of the same class] -> block_up4_CLASS, else that and [MAC] as above
    block_up4_CLASS    one rule a step: return, block_inspect or block_refuse_up

A chain has the steps for one family and one direction, so that no packet meets a rule that is not
for it. Nothing here ends the judgement of other rules: who is not refused returns, and the policy
of a base chain goes on to the next.
"""

from spind.block_nftables_sets import (
    FAMILIES,
    MAC_CLASSES,
    Declaration,
    address_classes,
    address_elements,
    by_kernel_set,
    class_chain,
    class_macs,
    declarations,
    device_declarations,
    element_text,
    kernel_set,
    mac_chain,
    mac_elements,
    sender_chain,
)
from spind.block_nftables_table import SetWanted, TableWanted, There, transaction
from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6, Mac, format_mac
from spind.ruleset import EVERYBODY, Action, Placement, Ruleset, Shape, Step, check

TABLE = "inet spin"
BRIDGE_TABLE = "bridge spin"
BESIDE_TABLE = "inet spin_beside"
"""Where the rules are a second time while those in the first place are replaced, sets and all."""
PREFIX = "block_"
REFUSED_UP, REFUSED_DOWN, CUT, BETWEEN = "block_up", "block_down", "block_cut", "block_between"
"""Counters, which outlive the rules: refused up and down, of connections that are cut, on a bridge."""

PRIORITY = -160
"""Before the capture rules at mangle (-150), after conntrack (-200), which puts fragments together. Rules
that stand beside others come one later: what the others refuse is for them to count."""
CUT_PRIORITY = -140
"""After them: they take the mark that cuts from the packet to its connection."""

REPORTS = "limit rate 20/second burst 100 packets"
ANSWERS = "100/second burst 200 packets"

_BRIDGE_BASE = "block_forward"

# Between a device and this machine. Neighbour discovery passes everywhere, but it is looked for only
# where a packet is about to be refused: its hop limit says that no router has handed it on (RFC 4861
# 3.1), so that it is no way out, and it is bridged past us where br_netfilter shows us frames.
_DHCP = "udp dport { 67, 68, 546, 547 } return"
_NEIGHBOURS = "icmpv6 type 133-137 ip6 hoplimit 255 return"
# The same for requests for an address in mode bridge, where the server is behind the bridge.
_DHCP_BRIDGED = "udp sport . udp dport { 68 . 67, 67 . 67, 67 . 68, 546 . 547, 547 . 546 } return"
# What our own rules answer with: without these, a device that is blocked would wait for a time-out.
_OUR_ANSWERS = (
    "tcp flags & rst == rst return",
    "icmp type destination-unreachable icmp code admin-prohibited return",
    "icmpv6 type destination-unreachable icmpv6 code admin-prohibited return",
)


def render(
    ruleset: Ruleset,
    there: There | None = None,
    known: Ruleset | None = None,
    *,
    table: str = TABLE,
) -> str:
    """Commands that leave exactly the rules of ``ruleset`` in the table, of what is ours.

    ``there`` is what the kernel has. ``known`` is a ruleset whose elements the kernel is known to
    have: only what differs is sent. ``ValueError`` for what cannot be said: names that no interface
    has, names that are not plain, marks that are not one bit.
    """
    there = there or There()
    return transaction(_inet(ruleset, there, known, table), there)


def render_bridge(
    ruleset: Ruleset, there: There | None = None, known: Ruleset | None = None, *, table: str = BRIDGE_TABLE
) -> str:
    """The same for the table of bridged frames; nothing where there never was anything to say.

    ``there`` is ``None`` where the kernel has no such table. Once its base chain is there it stays, be
    it empty: with it would go the packets that wait in any queue (see ``transaction``).
    """
    if not (ruleset.isolated or ruleset.apart or ruleset.together):
        if there is None or _BRIDGE_BASE not in there.chains:
            return f"delete table {table}\n" if there is not None else ""
        empty = TableWanted(table, table == BRIDGE_TABLE, (BETWEEN,))
        empty.chain(_BRIDGE_BASE, hook=("forward", PRIORITY))
        return transaction(empty, there)
    there = there or There()
    return transaction(_bridge(ruleset, there, known, table), there)


def render_removal(there: There, table: str = TABLE) -> str:
    """Commands that take all of ours out of the table. The counters go too."""
    counters = REFUSED_UP, REFUSED_DOWN, CUT
    text = transaction(TableWanted(table, True, counters), there)
    return text + "".join(f"delete counter {table} {name}\n" for name in counters)


def _inet(ruleset: Ruleset, there: There, known: Ruleset | None, name: str) -> TableWanted:
    check(ruleset)
    place = ruleset.placement
    table = TableWanted(name, name in (TABLE, BESIDE_TABLE), (REFUSED_UP, REFUSED_DOWN, CUT))
    _base_chains(table, place)
    if place.mode == "local":
        for direction in ("up", "down"):
            table.chain(f"block_{direction}", *_fallback(direction, place.own, ruleset))
    else:
        senders = [
            f"{ip} saddr vmap @{address_classes('up', family)}" for ip, family in (("ip", 4), ("ip6", 6))
        ]
        receivers = [
            f"{ip} daddr vmap @{address_classes('down', family)}" for ip, family in (("ip", 4), ("ip6", 6))
        ]
        by_mac = f"ether saddr vmap @{MAC_CLASSES}"
        table.chain("block_up", *senders, by_mac, *_fallback("up", EVERYBODY, ruleset))
        table.chain("block_down", *receivers, *_fallback("down", EVERYBODY, ruleset))
        for each in _classes(ruleset):
            table.chain(mac_chain(each), *_calls("goto", "up", each))
            for family in FAMILIES:
                steps_chain = class_chain("up", family, each)
                table.chain(
                    sender_chain(family, each),
                    f"ether saddr @{class_macs(each)} goto {steps_chain}",
                    f"jump {steps_chain}",
                    by_mac,
                )
        _devices(table, ruleset, there, known)
    for each, steps in _classes(ruleset).items():
        for direction in ("up", "down"):
            for family in FAMILIES:
                rules = [_step(step, ruleset.shapes, family, direction) for step in steps]
                table.chain(class_chain(direction, family, each), *rules)
    _ends(table, place)
    _sets(table, ruleset, there, known)
    return table


def _classes(ruleset: Ruleset) -> dict[str, tuple[Step, ...]]:
    """Everybody's class is always there: a device may get it later."""
    return {EVERYBODY: ruleset.classes.get(EVERYBODY, ())} | ruleset.classes


def _base_chains(table: TableWanted, place: Placement) -> None:
    home = _interfaces(place)
    priority = PRIORITY + (table.name == BESIDE_TABLE)
    if place.mode != "local":
        table.chain(
            "block_forward",
            f"iifname {home} jump block_up",
            f"oifname {home} goto block_down",
            hook=("forward", priority),
        )
    arriving, leaving = ("down", "up") if place.mode == "local" else ("up", "down")
    table.chain("block_input", _DHCP, f"iifname {home} goto block_{arriving}", hook=("input", priority))
    table.chain(
        "block_output",
        _DHCP,
        *_OUR_ANSWERS,
        f"oifname {home} goto block_{leaving}",
        hook=("output", priority),
    )
    cut = f"{place.marks.cut:#010x}"
    for hook in ("forward", "input", "output"):
        if hook != "forward" or place.mode != "local":
            # The reset that it is answered with belongs to the same connection.
            answer = _OUR_ANSWERS[:1] if hook == "output" else ()
            rule = f"ct mark & {cut} == {cut} goto block_cut"
            table.chain(f"block_cut_{hook}", *answer, rule, hook=(hook, CUT_PRIORITY))


def _interfaces(place: Placement) -> str:
    quoted = [f'"{name}"' for name in place.interfaces]
    if not quoted:
        return '!= "lo"'
    return quoted[0] if len(quoted) == 1 else f"{{ {', '.join(quoted)} }}"


def _calls(verb: str, direction: str, name: str) -> list[str]:
    return [
        f"meta nfproto {word} {verb} {class_chain(direction, family, name)}"
        for word, family in (("ipv4", 4), ("ipv6", 6))
    ]


def _fallback(direction: str, name: str, ruleset: Ruleset) -> list[str]:
    """Go to a class, unless it has no steps."""
    return _calls("goto", direction, name) if _classes(ruleset)[name] else []


def _step(step: Step, shapes: dict[str, Shape], family: int, direction: str) -> str:
    words = []
    if step.protocol:
        icmp = step.protocol == IPPROTO_ICMP and family == 6
        words.append(f"meta l4proto {IPPROTO_ICMPV6 if icmp else step.protocol}")
    if step.set:
        shape = shapes[step.set]
        address = f"{'ip' if family == 4 else 'ip6'} {'daddr' if direction == 'up' else 'saddr'}"
        service = f"meta l4proto . th {'dport' if direction == 'up' else 'sport'}"
        field_ = {Shape.ADDRESS: address, Shape.PREFIX: address, Shape.PORT: service}
        words.append(field_.get(shape, f"{address} . {service}"))
        words.append(f"@{kernel_set(step.set, shape, family)}")
    if step.action is Action.BLOCK:
        words.append(f"goto block_refuse_{direction}")
    elif step.action is Action.INSPECT and direction == "up":
        words.append("goto block_inspect")
    else:
        words.append("return")
    return " ".join(words)


def _ends(table: TableWanted, place: Placement) -> None:
    """The chains that packets end in. Each packet is counted before any limit."""
    passes = (_NEIGHBOURS, _DHCP_BRIDGED) if place.mode == "bridge" else (_NEIGHBOURS,)
    settled, inspect = place.marks.done | place.marks.cut, f"{place.marks.inspect:#010x}"
    table.chain(
        "block_inspect",
        "udp dport 443 goto block_refuse_up",
        "meta l4proto != tcp return",
        # A packet without a connection has no mark, and must not pass for that.
        f"ct mark & {settled:#010x} != 0x00000000 return",
        f"meta mark set meta mark | {inspect}",
    )
    report = f'log prefix "spin {{}}" group {place.log_group}'
    table.chain(
        "block_refuse_up",
        *passes,
        f"counter name {REFUSED_UP}",
        f"{REPORTS} {report.format('up')}",
        # Apart from each other: whatever a device pours out, its connections end at once.
        f"meta l4proto tcp limit rate {ANSWERS} reject with tcp reset",
        f"meta l4proto != tcp limit rate {ANSWERS} reject with icmpx admin-prohibited",
        "drop",
    )
    # Strangers learn nothing; the peer of a connection that ran does.
    table.chain(
        "block_refuse_down",
        *passes,
        f"counter name {REFUSED_DOWN}",
        f"{REPORTS} {report.format('down')}",
        f"tcp flags & (syn | rst) == 0x0 limit rate {ANSWERS} reject with tcp reset",
        "drop",
    )
    table.chain(
        "block_cut",
        f"counter name {CUT}",
        f"meta l4proto tcp limit rate {ANSWERS} reject with tcp reset",
        "drop",
    )


def _devices(table: TableWanted, ruleset: Ruleset, there: There, known: Ruleset | None) -> None:
    wanted = _device_elements(ruleset)
    before = _device_elements(known) if known and known.placement.mode != "local" else {}
    for declaration in device_declarations(_classes(ruleset)):
        name = declaration.name
        kept = name in before and name in there.sets
        old = before[name] if kept else set()
        gone = (text.split(" : ")[0] for text in old - wanted[name])
        table.sets.append(SetWanted(declaration, sorted(wanted[name] - old), sorted(gone), kept))


def _device_elements(ruleset: Ruleset) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {each.name: set() for each in device_declarations(_classes(ruleset))}
    for mac, name in ruleset.macs.items():
        for each in mac_elements(mac, name):
            found[each.set].add(each.text)
    for address, name in ruleset.addresses.items():
        for each in address_elements(address, name):
            found[each.set].add(each.text)
    return found


def _sets(table: TableWanted, ruleset: Ruleset, there: There, known: Ruleset | None) -> None:
    for name, elements in sorted(ruleset.sets.items()):
        shape = ruleset.shapes[name]
        declared = declarations(name, shape)
        kept = known is not None and known.shapes.get(name) is shape and name in known.sets
        kept = kept and all(each.name in there.sets for each in declared)
        old = known.sets[name] if known is not None and kept else set()
        added = by_kernel_set(name, shape, elements - old)
        removed = by_kernel_set(name, shape, old - elements)
        for each in declared:
            come = [element_text(shape, element) for element in sorted(added[each.name])]
            go = [element_text(shape, element) for element in sorted(removed[each.name])]
            table.sets.append(SetWanted(each, come, go, kept))


def _bridge(ruleset: Ruleset, there: There, known: Ruleset | None, name: str) -> TableWanted:
    table = TableWanted(name, name == BRIDGE_TABLE, (BETWEEN,))
    before = _bridge_elements(known) if known else {}
    for declaration, wanted in _bridge_elements(ruleset).items():
        kept = declaration in before and declaration.name in there.sets
        old = before[declaration] if kept else set()
        table.sets.append(SetWanted(declaration, sorted(wanted - old), sorted(old - wanted), kept))
    table.chain(
        _BRIDGE_BASE,
        "ether saddr . ether daddr @block_apart goto block_between",
        "ether saddr . ether daddr @block_together return",
        # They have to find each other first, by frames that are for all or many (RFC 826; RFC 2464 7).
        "ether saddr @block_seeking ether daddr ff:ff:ff:ff:ff:ff ether type arp return",
        "ether saddr @block_seeking ether daddr & ff:ff:ff:00:00:00 == 33:33:ff:00:00:00 return",
        "ether saddr @block_isolated goto block_between",
        "ether daddr @block_isolated goto block_between",
        hook=("forward", PRIORITY),
    )
    table.chain("block_between", f"counter name {BETWEEN}", "drop")
    return table


def _bridge_elements(ruleset: Ruleset) -> dict[Declaration, set[str]]:
    pair = "type ether_addr . ether_addr;"
    return {
        Declaration("block_apart", pair): _pairs(ruleset.apart),
        Declaration("block_together", pair): _pairs(ruleset.together),
        Declaration("block_isolated", "type ether_addr;"): set(map(format_mac, ruleset.isolated)),
        Declaration("block_seeking", "type ether_addr;"): set(map(format_mac, ruleset.seeking)),
    }


def _pairs(pairs: set[tuple[Mac, Mac]]) -> set[str]:
    return {f"{format_mac(one)} . {format_mac(other)}" for one, other in pairs}
