# SPDX-License-Identifier: GPL-2.0-or-later
"""What books of rules say of one address, by the names that it has. Pure functions."""

from collections.abc import Iterable

from spind.books import Book, transports
from spind.model import Address
from spind.ruleset import Element, Shape

Verdict = tuple[tuple[int, int, str], ...]
"""(protocol, port, action) in order, zeros for any; the last one is for everything else."""

DIFFERENT: Verdict = ()
"""The names of an address differ: nothing is known until a connection says its name."""


def verdict_of(books: list[Book], name: str, address: Address) -> Verdict:
    """What the rules say of each service of a name (empty: none is known) at an address."""
    entries = sorted((e for book in books for e in book.about(name, address)), key=lambda entry: entry[0])
    said: list[tuple[int, int, str]] = []
    for _, rule in entries:
        services = (
            [(protocol, rule.port) for protocol in transports(rule)] if rule.port else [(rule.protocol, 0)]
        )
        for protocol, port in services:
            # What is said of a service counts once, and nothing more about its protocol.
            if not any(p in (0, protocol) and q in (0, port) for p, q, _ in said):
                said.append((protocol, port, rule.action))
        if services == [(0, 0)]:
            break
    else:
        said.append((0, 0, "allow"))
    while len(said) > 1 and said[-2][2] == said[-1][2]:
        del said[-2]
    return tuple(said)


def verdict_by_names(books: list[Book], names: Iterable[str], address: Address) -> Verdict | None:
    """What the rules say of an address that has these names; ``None`` where names make no difference."""
    plain = verdict_of(books, "", address)
    said = {verdict_of(books, name, address) for name in names}
    if said == {plain}:
        return None
    return said.pop() if len(said) == 1 else DIFFERENT


def blocks_all(books: list[Book], address: Address) -> bool:
    """Is everything at the address blocked that no rule about a service speaks of?"""
    return verdict_of(books, "", address)[-1][2] == "block"


def elements(class_: str, address: Address, verdict: Verdict | None) -> tuple[tuple[str, Element], ...]:
    """What puts a verdict on an address into the sets for names of a class: (set, element)."""
    if verdict is None:
        return ()
    if verdict == DIFFERENT:
        return ((f"{class_}_ni", address),)
    found: list[tuple[str, Element]] = []
    for protocol, port, action in verdict:
        if port:
            found.append((f"{class_}_ns{action[0]}", (address, protocol, port)))
        elif protocol:
            found.append((f"{class_}_nq{protocol}{action[0]}", address))
        else:
            found.append((f"{class_}_n{action[0]}", address))
    return tuple(found)


def shape_of(element: Element) -> Shape:
    """The shape of the set for names that holds such an element."""
    return Shape.ADDRESS_PORT if isinstance(element, tuple) else Shape.ADDRESS
