# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of nftables: what is asked for, changed and watched while we run.

Owns the messages of ``linux/netfilter/nf_tables.h`` for counters, for elements of sets, for what a
table holds, and for the events of group ``NFNLGRP_NFTABLES``. Pure. Rules are written as text for
``nft``; elements are not, since they change while a packet waits, and starting ``nft`` takes
milliseconds.
"""

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from spind.wire.netlink import (
    NLM_F_ACK,
    NLM_F_REQUEST,
    Message,
    attribute_map,
    messages,
    pack_attribute,
    pack_message,
)

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
NFT_MSG_NEWCHAIN = _SUBSYSTEM << 8 | 3
NFT_MSG_GETCHAIN = _SUBSYSTEM << 8 | 4
NFT_MSG_NEWSET = _SUBSYSTEM << 8 | 9
NFT_MSG_GETSET = _SUBSYSTEM << 8 | 10
NFT_MSG_NEWOBJ = _SUBSYSTEM << 8 | 18
NFT_MSG_GETOBJ = _SUBSYSTEM << 8 | 19
_NEWTABLE, _DELTABLE, _NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE = 0, 2, 3, 5, 6, 8
_NEWSET, _DELSET, _NEWSETELEM, _DELSETELEM, _NEWGEN, _NEWOBJ, _DELOBJ = 9, 11, 12, 14, 15, 18, 20
_DESTROYTABLE, _DESTROYCHAIN, _DESTROYRULE, _DESTROYSET, _DESTROYSETELEM, _DESTROYOBJ = range(26, 32)
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # linux/netfilter/nfnetlink.h

NFPROTO_INET = 1
NFPROTO_BRIDGE = 7

_NFGENMSG = Struct("!BBH")
_OBJ_TABLE, _OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 1, 2, 3, 4
_OBJECT_COUNTER = 1
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2

_NLA_F_NESTED = 0x8000
_NLM_F_EXCL, _NLM_F_CREATE = 0x200, 0x400
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEM = 1, 2, 3 | _NLA_F_NESTED, 1 | _NLA_F_NESTED
_ELEM_KEY, _ELEM_DATA, _ELEM_KEY_END = 1 | _NLA_F_NESTED, 2 | _NLA_F_NESTED, 10 | _NLA_F_NESTED
_ELEM_FLAGS, _ELEM_USERDATA = 3, 6
_DATA_VALUE, _DATA_VERDICT = 1, 2 | _NLA_F_NESTED
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_NFT_GOTO = (-4).to_bytes(4, "big", signed=True)
_INTERVAL_END = (1).to_bytes(4, "big")
# What nft itself remembers of a range without an end (NFTNL_UDATA_SET_ELEM_FLAGS,
# SET_ELEM_F_INTERVAL_OPEN), in host byte order; without it, nft could not list the range.
_OPEN = Struct("=BBI").pack(1, 4, 1)

# Elements in one message: an attribute's length has 16 bits, and one of ours takes up to 140 bytes.
_ELEMENTS_MAX = 400

_TABLE_NAME, _TABLE_FLAGS, _TABLE_DORMANT = 1, 2, 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE = 1, 3, 4, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_MAP = 1, 2, 3, 8
_GEN_PROC_PID = 2

# Which attribute of an event names the thing that is ours or not.
_EVENT_NAME = {
    **dict.fromkeys((_NEWCHAIN, _DELCHAIN, _DESTROYCHAIN), 3),
    **dict.fromkeys((_NEWRULE, _DELRULE, _DESTROYRULE), 2),  # NFTA_RULE_CHAIN
    **dict.fromkeys((_NEWSET, _DELSET, _DESTROYSET), 2),
    **dict.fromkeys((_NEWSETELEM, _DELSETELEM, _DESTROYSETELEM), 2),  # NFTA_SET_ELEM_LIST_SET
    **dict.fromkeys((_NEWOBJ, _DELOBJ, _DESTROYOBJ), 2),
}


# -- counters --


def counter_request(table: str, name: str, family: int = NFPROTO_INET) -> bytes:
    """Body of an ``NFT_MSG_GETOBJ`` request for a counter of a table."""
    return (
        dump_request(family)
        + pack_attribute(_OBJ_TABLE, table.encode() + b"\0")
        + pack_attribute(_OBJ_NAME, name.encode() + b"\0")
        + pack_attribute(_OBJ_TYPE, _OBJECT_COUNTER.to_bytes(4, "big"))
    )


def parse_counter(data: bytes) -> int | None:
    """Packets of the counter in a reply; ``None`` where there is none. ``WireError`` if malformed."""
    both = parse_counters(data)
    return None if both is None else both[0]


def parse_counters(data: bytes) -> tuple[int, int] | None:
    """Packets and bytes of the counter in a reply; ``None`` where there is none."""
    for message in messages(data):
        start = message.start + _NFGENMSG.size
        if message.type != NFT_MSG_NEWOBJ or start > message.end:
            continue
        counter = attribute_map(data, start, message.end).get(_OBJ_DATA, b"")
        found = attribute_map(counter, 0, len(counter))
        if _COUNTER_PACKETS in found:
            count = int.from_bytes(found[_COUNTER_PACKETS], "big")
            return count, int.from_bytes(found.get(_COUNTER_BYTES, b""), "big")
    return None


# -- elements of sets --


class SetElement(NamedTuple):
    """One element as the kernel knows it.

    ``key`` is the value; in a concatenation each part is padded to 4 bytes. ``key_end`` is the last
    value of a range in a concatenation. A range in a plain set is two elements: its first value, and
    with ``end`` the first value after it; of one that reaches the last value there is, only the
    first, which is ``open``. In a map, ``chain`` is where to go.
    """

    key: bytes
    key_end: bytes = b""
    end: bool = False
    open: bool = False
    chain: str = ""


class ElementsChange(NamedTuple):
    """Elements that one set gets, or (``delete``) loses."""

    set: str
    delete: bool
    elements: tuple[SetElement, ...]


def pack_elements(
    changes: Iterable[ElementsChange], table: str, sequence: int, family: int = NFPROTO_INET
) -> tuple[bytes, int]:
    """A batch that makes all of ``changes`` in order or none, and the number of the message to wait for.

    The messages are numbered from ``sequence``. The kernel acknowledges the last one, or says which
    have failed: to add what is there, and to delete what is not, are errors.
    """
    bodies = [
        (change.delete, _elements_body(family, table, change.set, change.elements[at : at + _ELEMENTS_MAX]))
        for change in changes
        for at in range(0, len(change.elements), _ELEMENTS_MAX)
    ]
    parts = [pack_message(_BATCH_BEGIN, NLM_F_REQUEST, sequence, _NFGENMSG.pack(0, 0, _SUBSYSTEM))]
    for delete, body in bodies:
        sequence += 1
        flags = NLM_F_REQUEST if delete else NLM_F_REQUEST | _NLM_F_CREATE | _NLM_F_EXCL
        if len(parts) == len(bodies):
            flags |= NLM_F_ACK
        kind = _SUBSYSTEM << 8 | (_DELSETELEM if delete else _NEWSETELEM)
        parts.append(pack_message(kind, flags, sequence, body))
    parts.append(pack_message(_BATCH_END, NLM_F_REQUEST, sequence + 1, _NFGENMSG.pack(0, 0, _SUBSYSTEM)))
    return b"".join(parts), sequence


def _elements_body(family: int, table: str, name: str, elements: tuple[SetElement, ...]) -> bytes:
    return (
        _NFGENMSG.pack(family, 0, 0)
        + pack_attribute(_LIST_TABLE, table.encode() + b"\0")
        + pack_attribute(_LIST_SET, name.encode() + b"\0")
        + pack_attribute(_LIST_ELEMENTS, b"".join(map(_element, elements)))
    )


def _element(element: SetElement) -> bytes:
    body = pack_attribute(_ELEM_KEY, pack_attribute(_DATA_VALUE, element.key))
    if element.chain:
        verdict = pack_attribute(_VERDICT_CODE, _NFT_GOTO)
        verdict += pack_attribute(_VERDICT_CHAIN, element.chain.encode() + b"\0")
        body += pack_attribute(_ELEM_DATA, pack_attribute(_DATA_VERDICT, verdict))
    if element.end:
        body += pack_attribute(_ELEM_FLAGS, _INTERVAL_END)
    if element.open:
        body += pack_attribute(_ELEM_USERDATA, _OPEN)
    if element.key_end:
        body += pack_attribute(_ELEM_KEY_END, pack_attribute(_DATA_VALUE, element.key_end))
    return pack_attribute(_LIST_ELEM, body)


# -- what is there --


class ChainThere(NamedTuple):
    """A chain in the kernel; one without a hook has ``hook`` -1."""

    family: int
    table: str
    name: str
    type: str
    hook: int
    priority: int


class SetThere(NamedTuple):
    """A set in the kernel, or a map."""

    family: int
    table: str
    name: str
    is_map: bool


def dump_request(family: int) -> bytes:
    """Body of a request for all chains, or all sets, of a family."""
    return _NFGENMSG.pack(family, 0, 0)


def parse_chains(data: bytes) -> Iterator[ChainThere]:
    """Chains in one buffer of a dump. ``WireError`` if malformed."""
    for message, found in _bodies(data, NFT_MSG_NEWCHAIN):
        hook = found.get(_CHAIN_HOOK)
        number, priority = -1, 0
        if hook is not None:
            parts = attribute_map(hook, 0, len(hook))
            number = int.from_bytes(parts.get(_HOOK_NUMBER, b""), "big")
            priority = int.from_bytes(parts.get(_HOOK_PRIORITY, b""), "big", signed=True)
        yield ChainThere(
            data[message.start],
            _text(found.get(_CHAIN_TABLE)),
            _text(found.get(_CHAIN_NAME)),
            _text(found.get(_CHAIN_TYPE)),
            number,
            priority,
        )


def parse_sets(data: bytes) -> Iterator[SetThere]:
    """Sets and maps in one buffer of a dump. ``WireError`` if malformed."""
    for message, found in _bodies(data, NFT_MSG_NEWSET):
        flags = int.from_bytes(found.get(_SET_FLAGS, b""), "big")
        yield SetThere(
            data[message.start],
            _text(found.get(_SET_TABLE)),
            _text(found.get(_SET_NAME)),
            bool(flags & _SET_MAP),
        )


def _bodies(data: bytes, kind: int) -> Iterator[tuple[Message, dict[int, bytes]]]:
    for message in messages(data):
        start = message.start + _NFGENMSG.size
        if message.type == kind and start <= message.end:
            yield message, attribute_map(data, start, message.end)


def _text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode("utf-8", "replace")


# -- events --


class TableEvents(NamedTuple):
    """What one buffer of events says: whether something of ours is touched, and, where a transaction
    ends in it, the process that made it (as the first PID namespace numbers it; 0: does not end)."""

    touched: bool
    process: int


def parse_events(data: bytes, table: str, prefix: str) -> TableEvents:
    """Look for events of tables called ``table`` (inet and bridge) and of things in them whose names
    begin with ``prefix``. ``WireError`` if malformed.

    That the table came to be or woke up says nothing: its deletion, or falling asleep, does.
    """
    name, begin = table.encode() + b"\0", prefix.encode()
    touched, process = False, 0
    for message in messages(data):
        kind, start = message.type & 0xFF, message.start + _NFGENMSG.size
        if message.type >> 8 != _SUBSYSTEM or start > message.end:
            continue
        if kind == _NEWGEN:
            found = attribute_map(data, start, message.end)
            process = int.from_bytes(found.get(_GEN_PROC_PID, b""), "big")
            continue
        if touched or data[message.start] not in (NFPROTO_INET, NFPROTO_BRIDGE):
            continue
        # All of them begin with the name of the table: others' are cheap to pass over.
        if data[start + 4 : start + 4 + len(name)] != name:
            continue
        found = attribute_map(data, start, message.end)
        if found.get(_TABLE_NAME) != name:
            continue
        if kind in (_DELTABLE, _DESTROYTABLE):
            touched = True
        elif kind == _NEWTABLE:
            touched = bool(int.from_bytes(found.get(_TABLE_FLAGS, b""), "big") & _TABLE_DORMANT)
        elif kind in _EVENT_NAME:
            touched = found.get(_EVENT_NAME[kind], b"").startswith(begin)
    return TableEvents(touched, process)
