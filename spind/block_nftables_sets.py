# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets and maps of the block rules: their names and types, their elements as text and as messages.

Owns how the sets and classes of a :class:`~spind.ruleset.Ruleset` are laid out in nftables, in
one place, so that what ``nft`` is told at first and what is sent later cannot differ. Pure.

Names in the kernel end in ``4``, ``6`` or ``_port`` for sets of the ruleset and in ``_class`` or
``_macs`` for those about devices, so that no name of a set can be taken for another.
"""

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple, cast

from spind.model import Address, Mac, format_address, format_mac
from spind.ruleset import EVERYBODY, ClassesChange, Element, Ruleset, SetChange, Shape
from spind.wire.nftables import ElementsChange, SetElement

MAC_CLASSES = "block_mac_class"
"""Map: MAC of a sender to the chain for it."""

FAMILIES = (4, 6)
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_SERVICE = Struct("!B3xH2x")  # protocol and port, each in 4 bytes of their own


class Declaration(NamedTuple):
    """A set or map in the kernel: its name, and what stands between the braces."""

    name: str
    body: str
    is_map: bool = False


def address_classes(direction: str, family: int) -> str:
    """Name of the map of a family from a device's address to the chain for ``up`` or ``down``."""
    return f"block_{direction}{family}_class"


def class_chain(direction: str, family: int, name: str) -> str:
    """Name of the chain with the steps of a class."""
    return f"block_{direction}{family}_{name}"


def mac_chain(name: str) -> str:
    """Name of the chain for what a MAC of a class has sent, from an address without a class."""
    return f"block_mac_{name}"


def sender_chain(family: int, name: str) -> str:
    """Name of the chain for what was sent from an address of a class."""
    return f"block_from{family}_{name}"


def class_macs(name: str) -> str:
    """Name of the set of the MACs of a class."""
    return f"block_{name}_macs"


def kernel_set(name: str, shape: Shape, family: int) -> str:
    """Name in the kernel of the set ``name`` of the ruleset."""
    return f"block_{name}_port" if shape is Shape.PORT else f"block_{name}{family}"


def declarations(name: str, shape: Shape) -> tuple[Declaration, ...]:
    """The kernel's sets for the set ``name`` of the ruleset."""
    if shape is Shape.PORT:
        return (Declaration(kernel_set(name, shape, 0), "type inet_proto . inet_service;"),)
    service = " . inet_proto . inet_service" if shape in (Shape.ADDRESS_PORT, Shape.PREFIX_PORT) else ""
    flags = " flags interval;" if shape in (Shape.PREFIX, Shape.PREFIX_PORT) else ""
    return tuple(
        Declaration(kernel_set(name, shape, family), f"type {_TYPES[family]}{service};{flags}")
        for family in FAMILIES
    )


def device_declarations(classes: Iterable[str]) -> tuple[Declaration, ...]:
    """The maps from devices to the chains of their classes, and the sets of the MACs of each."""
    return (
        Declaration(MAC_CLASSES, "type ether_addr : verdict;", is_map=True),
        *(
            Declaration(address_classes(direction, family), f"type {_TYPES[family]} : verdict;", is_map=True)
            for direction in ("up", "down")
            for family in FAMILIES
        ),
        *(Declaration(class_macs(name), "type ether_addr;") for name in classes),
    )


def by_kernel_set(name: str, shape: Shape, elements: Iterable[Element]) -> dict[str, list[Element]]:
    """Elements by the kernel's set that they belong to."""
    if shape is Shape.PORT:
        return {kernel_set(name, shape, 0): list(elements)}
    found: dict[str, list[Element]] = {kernel_set(name, shape, family): [] for family in FAMILIES}
    four, six = found.values()
    for element in elements:
        (four if _family(_address(shape, element)) == 4 else six).append(element)
    return found


def element_text(shape: Shape, element: Element) -> str:
    """An element as ``nft`` reads it. ``ValueError`` where it is none of that shape."""
    if shape is Shape.ADDRESS:
        return format_address(cast("Address", element))
    words = []
    *network, protocol, port = _parts(shape, element)
    if network:
        words.append(format_address(network[0]))
    if len(network) == 2:
        words[0] += f"/{_bits(*network)}"
    if shape is not Shape.PREFIX:
        words += map(str, _service(protocol, port))
    return " . ".join(words)


def element_keys(shape: Shape, element: Element) -> Iterator[SetElement]:
    """The same as the kernel has it: a range of addresses alone is two elements."""
    if shape is Shape.ADDRESS:
        yield SetElement(cast("Address", element))
        return
    *network, protocol, port = _parts(shape, element)
    service = b"" if shape is Shape.PREFIX else _SERVICE.pack(*_service(protocol, port))
    if len(network) < 2:
        yield SetElement(b"".join(network) + service)
        return
    first, last = _range(*network)
    if service:
        yield SetElement(first + service, last + service)
    elif last == b"\xff" * len(last):
        yield SetElement(first, open=True)
    else:
        yield SetElement(first)
        yield SetElement((int.from_bytes(last, "big") + 1).to_bytes(len(last), "big"), end=True)


class DeviceElement(NamedTuple):
    """An element that tells a device's class: in which set or map, as text, as the kernel has it."""

    set: str
    text: str
    element: SetElement


def mac_elements(mac: Mac, name: str) -> tuple[DeviceElement, ...]:
    """The elements of a MAC with a class."""
    if len(mac) != 6:
        raise ValueError(f"not a MAC address: {mac!r}")
    text, chain = format_mac(mac), mac_chain(name)
    return (
        DeviceElement(MAC_CLASSES, f"{text} : goto {chain}", SetElement(mac, chain=chain)),
        DeviceElement(class_macs(name), text, SetElement(mac)),
    )


def address_elements(address: Address, name: str) -> tuple[DeviceElement, ...]:
    """The elements of an address with a class."""
    family, text = _family(address), format_address(address)
    return tuple(
        DeviceElement(
            address_classes(direction, family), f"{text} : goto {chain}", SetElement(address, chain=chain)
        )
        for direction, chain in (
            ("up", sender_chain(family, name)),
            ("down", class_chain("down", family, name)),
        )
    )


def advance(ruleset: Ruleset, changes: Sequence[SetChange | ClassesChange]) -> list[ElementsChange]:
    """Change ``ruleset`` and return what the kernel must be told.

    What is so already is left out. ``ValueError`` for a set or class that is not there, and for an
    element of another shape; ``ruleset`` is then changed in part.
    """
    told: list[ElementsChange] = []
    for change in changes:
        if isinstance(change, ClassesChange):
            told += _advance_classes(ruleset, change)
        else:
            told += _advance_set(ruleset, change)
    return [each for each in told if each.elements]


def _advance_set(ruleset: Ruleset, change: SetChange) -> Iterator[ElementsChange]:
    name, shape, there = change.name, ruleset.shapes.get(change.name), ruleset.sets.get(change.name)
    if shape is None or there is None:
        raise ValueError(f"no set of that name: {name!r}")
    # Deleted first: a prefix that is split is gone before its parts come.
    removed = there.intersection(change.removed)
    added = {element for element in change.added if element not in there or element in removed}
    for delete, elements in ((True, removed), (False, added)):
        for kernel_name, those in by_kernel_set(name, shape, elements).items():
            keys = tuple(key for element in those for key in element_keys(shape, element))
            yield ElementsChange(kernel_name, delete, keys)
    there.difference_update(change.removed)
    there.update(change.added)


def _advance_classes(ruleset: Ruleset, change: ClassesChange) -> Iterator[ElementsChange]:
    silent = ruleset.placement.mode == "local"  # no maps there
    for classes, changed, elements in (
        (ruleset.macs, change.macs, mac_elements),
        (ruleset.addresses, change.addresses, address_elements),
    ):
        for key, name in changed:
            if name not in ruleset.classes and name not in ("", EVERYBODY):
                raise ValueError(f"no class of that name: {name!r}")
            before = classes.pop(key, "")
            if name:
                classes[key] = name
            if before == name or silent:
                continue
            for each in elements(key, before) if before else ():
                yield ElementsChange(each.set, True, (each.element._replace(chain=""),))
            for each in elements(key, name) if name else ():
                yield ElementsChange(each.set, False, (each.element,))


def _address(shape: Shape, element: Element) -> Address:
    return cast("Address", element if shape is Shape.ADDRESS else element[0])


def _family(address: Address) -> int:
    if len(address) == 4:
        return 4
    if len(address) == 16:
        return 6
    raise ValueError(f"not an address: {address!r}")


def _bits(address: Address, bits: int) -> int:
    if not 1 <= bits <= len(address) * 8:
        raise ValueError(f"not the length of a prefix: {bits}")
    return bits


def _range(address: Address, bits: int) -> tuple[Address, Address]:
    size = len(address)
    hosts = (1 << size * 8 - _bits(address, bits)) - 1
    first = int.from_bytes(address, "big") & ~hosts
    return first.to_bytes(size, "big"), (first | hosts).to_bytes(size, "big")


def _parts(shape: Shape, element: Element) -> tuple[Any, ...]:
    """Address and bits as far as there are some, then protocol and port, 0 for a plain prefix."""
    parts: tuple[Any, ...] = (*element, 0, 0) if shape is Shape.PREFIX else tuple(element)
    if shape is not Shape.PORT:
        _family(parts[0])
    return parts


def _service(protocol: int, port: int) -> tuple[int, int]:
    if not (0 < protocol < 256 and 0 <= port < 65536):
        raise ValueError(f"not a protocol and a port: {protocol}, {port}")
    return protocol, port
