# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocking with nftables: what the ruleset wants is put into the kernel, and kept in view.

Owns the chains, sets, maps and counters of table ``inet spin`` whose names begin with ``block_``,
and table ``bridge spin``; other things in ``inet spin`` are none of its business. Structure goes
through ``nft`` in one transaction, elements through netlink. What the rules are is decided in
``block_nftables_text``.
"""

import os
import subprocess
from collections.abc import Sequence

from spind.block_nftables_sets import advance
from spind.block_nftables_table import There
from spind.block_nftables_text import (
    BESIDE_TABLE,
    BETWEEN,
    BRIDGE_TABLE,
    CUT,
    PREFIX,
    REFUSED_DOWN,
    REFUSED_UP,
    TABLE,
    render,
    render_bridge,
    render_removal,
)
from spind.nft_elements import NftSocket, NftWatch
from spind.ruleset import Action, ClassesChange, Marks, Placement, Ruleset, SetChange, Shape, Step
from spind.wire.nftables import NFPROTO_BRIDGE, NFPROTO_INET

_NAME = TABLE.split()[1]
_PROBE_TABLE = "inet spin_probe"
_PROBE_BRIDGE = "bridge spin_probe"
_NOT_BESIDE = f"add table {BESIDE_TABLE}\ndelete table {BESIDE_TABLE}\n"
_TIMEOUT = 20  # seconds that nft may take; it waits for other transactions
# Events that are read before an install; when there are more, everything is put in anew.
_EVENTS_MAX = 256


class NftablesBlock:
    """The block rules in the kernel. All methods raise ``OSError`` with the kernel's or ``nft``'s words.

    ``notes`` says in sentences what this kernel cannot do; :meth:`probe` finds out. The rules belong
    to the network namespace in which the first method was called.
    """

    name = "nftables"

    def __init__(self) -> None:
        self.notes: tuple[str, ...] = ()
        self._bridges = True
        self._known: Ruleset | None = None  # whose elements the kernel has, unless others say no
        self._socket: NftSocket | None = None
        self._watch: NftWatch | None = None
        self._touched = False

    def probe(self) -> None:
        """Try all kinds of rules in tables that are deleted in the same transaction.

        So the kernel has seen each, and loaded what modules it has for them. No chain has a hook.
        Where only the family ``bridge`` is missing, ``notes`` says so and bridged frames are left alone.
        """
        everything = _everything()
        _nft(render(everything, table=_PROBE_TABLE) + f"delete table {_PROBE_TABLE}\n")
        try:
            _nft(render_bridge(everything, table=_PROBE_BRIDGE) + f"delete table {_PROBE_BRIDGE}\n")
        except OSError as error:
            self._bridges = False
            self.notes = (f"traffic between devices on one bridge cannot be blocked: {error}",)
        else:
            self._bridges, self.notes = True, ()

    def install(self, ruleset: Ruleset) -> None:
        """Leave exactly these rules of ours in the kernel, in one transaction.

        Elements are sent where they differ from what this object has put there before, or all of
        them where it has not, or where others have been at our rules since. ``ValueError`` for a
        ruleset that cannot be said, with nothing changed.

        Kernels show a new set with intervals empty for up to a millisecond after its transaction has
        taken effect (``set->ops->commit`` comes last in ``nf_tables_commit``). So where such a set may
        take the place of an old one, the same rules stand beside for that long.
        """
        sock, watch = self._open()
        if self._touched or watch.touched(_EVENTS_MAX) is not False:
            self._known = None
        there = _there(sock, NFPROTO_INET)
        text = render(ruleset, there, self._known)
        if self._bridges:
            bridge = _there(sock, NFPROTO_BRIDGE)
            text += render_bridge(ruleset, bridge if bridge.chains or bridge.sets else None, self._known)
        if self._known is not None:
            self._known = None
            _nft(text, watch)
        elif there.sets and _has_intervals(ruleset):
            _nft(_NOT_BESIDE + render(ruleset, table=BESIDE_TABLE), watch)
            try:
                _nft(text, watch)
            finally:
                _nft(_NOT_BESIDE, watch)
        else:
            _nft(text + _NOT_BESIDE, watch)  # a daemon may have been killed in the middle of this
        self._known = _copy(ruleset)
        self._touched = False

    def update(self, changes: Sequence[SetChange | ClassesChange]) -> None:
        """Change elements of what was installed: all, or none and ``OSError``.

        Takes a fraction of a millisecond. After an error nothing is known of the kernel, so that the
        next :meth:`install` puts in everything. ``ValueError`` for a set or class that is not there.
        """
        known, self._known = self._known, None
        if known is None or self._socket is None:
            raise OSError("nftables: the rules must be installed anew")
        told = advance(known, changes)
        if told:
            self._socket.change_elements(told, _NAME)
        self._known = known

    def remove(self) -> None:
        """Take all of ours out, and the table if nothing else is in it; fine where there is nothing."""
        self._known = None
        sock, watch = self._open()
        tables = _nft("list tables\n").split("\n")
        others = (table for table in (BRIDGE_TABLE, BESIDE_TABLE) if f"table {table}" in tables)
        text = "".join(f"delete table {table}\n" for table in others)
        if f"table {TABLE}" in tables:
            text += render_removal(_there(sock, NFPROTO_INET))
        if text:
            _nft(text, watch)
        if f"table {TABLE}" in tables and len(_nft(f"list table {TABLE}\n").splitlines()) <= 2:
            _nft(f"delete table {TABLE}\n", watch)  # all there was of it: its name, and a brace

    def close(self) -> None:
        """Close the sockets; the rules stay. Any other method opens them again."""
        self._known = None
        for each in (self._socket, self._watch):
            if each is not None:
                each.close()
        self._socket = self._watch = None

    def counters(self) -> dict[str, int]:
        """What was blocked since our table came to be.

        ``block.packets`` and ``block.bytes``: refused, up and down. ``block.cut``: packets of
        connections that were cut. ``block.between``: frames between devices on one bridge.
        """
        sock, _watch = self._open()
        up, down, cut = (sock.counter(_NAME, name) for name in (REFUSED_UP, REFUSED_DOWN, CUT))
        between = sock.counter(_NAME, BETWEEN, NFPROTO_BRIDGE)
        return {
            "block.packets": up[0] + down[0],
            "block.bytes": up[1] + down[1],
            "block.cut": cut[0],
            "block.between": between[0],
        }

    def watch_fd(self) -> int:
        """Readable when somebody changed rules; then ask :meth:`changed_by_others`."""
        return self._open()[1].fileno()

    def changed_by_others(self) -> bool:
        """Whether anybody else has touched our rules, sets or table since they were installed.

        Reads a bounded part of what the kernel tells; ``watch_fd`` stays readable while there is more.
        What was touched is put right by :meth:`install`, and until then this goes on to be true.
        """
        _sock, watch = self._open()
        if watch.touched():
            self._touched = True
        return self._touched

    def _open(self) -> tuple[NftSocket, NftWatch]:
        if self._socket is None:
            self._socket = NftSocket()
        if self._watch is None:
            self._watch = NftWatch(_NAME, PREFIX, (self._socket.port,))
        return self._socket, self._watch


def _there(sock: NftSocket, family: int) -> There:
    """What is ours by name. A chain of another type is nowhere that we would want it."""
    chains: dict[str, tuple[int, int] | None] = {}
    for chain in sock.chains(_NAME, family):
        if chain.name.startswith(PREFIX):
            hook = chain.hook if chain.type == "filter" else -1
            chains[chain.name] = None if chain.hook < 0 else (hook, chain.priority)
    sets = {each.name: each.is_map for each in sock.sets(_NAME, family) if each.name.startswith(PREFIX)}
    return There(chains, sets)


def _has_intervals(ruleset: Ruleset) -> bool:
    return any(shape in (Shape.PREFIX, Shape.PREFIX_PORT) for shape in ruleset.shapes.values())


def _copy(ruleset: Ruleset) -> Ruleset:
    return Ruleset(
        ruleset.placement,
        dict(ruleset.classes),
        dict(ruleset.shapes),
        {name: set(elements) for name, elements in ruleset.sets.items()},
        dict(ruleset.macs),
        dict(ruleset.addresses),
        set(ruleset.isolated),
        set(ruleset.apart),
        set(ruleset.together),
    )


def _everything() -> Ruleset:
    """A ruleset with every kind of rule and set."""
    here, mac, other = bytes([192, 0, 2, 1]), bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2])
    return Ruleset(
        Placement("router", ("lo", "lo0"), Marks(1, 2, 4), 0),
        {
            "steps": (
                *(Step(Action.BLOCK, shape.value) for shape in Shape),
                *(Step(action, protocol=protocol) for action in Action for protocol in (0, 1, 6)),
            )
        },
        {shape.value: shape for shape in Shape},
        {
            Shape.ADDRESS.value: {here},
            Shape.PREFIX.value: {(here, 24)},
            Shape.ADDRESS_PORT.value: {(here, 6, 443)},
            Shape.PREFIX_PORT.value: {(here, 24, 17, 53)},
            Shape.PORT.value: {(6, 25)},
        },
        {mac: "steps"},
        {here: "steps"},
        {mac},
        {(mac, other)},
        {(other, mac)},
    )


def _nft(text: str, watch: NftWatch | None = None) -> str:
    """Run one transaction, which ``watch`` does not count, and return what ``nft`` prints.

    ``nft`` finds the text whole, in a file in memory that it holds itself: of a pipe, it would take
    what a killed daemon had got to, and half a transaction opens what is blocked.
    """
    whole = os.memfd_create("nft")
    try:
        with open(whole, "w", closefd=False) as file:
            file.write(text)
        with subprocess.Popen(
            ["nft", "-f", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=(whole,),
        ) as process:
            if watch is not None:
                watch.expect(process.pid)  # it does nothing before it has read the line
            try:
                out, err = process.communicate(f'include "/proc/self/fd/{whole}"\n', timeout=_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise OSError("nft takes too long") from None
            finally:
                if watch is not None:
                    watch.expect(0)
    finally:
        os.close(whole)
    if process.returncode:
        # What is wrong, and the beginning of the command: a command can be long.
        lines = err.strip().splitlines() or [f"nft ended with {process.returncode}"]
        first = next((number for number, line in enumerate(lines) if "Error: " in line), 0)
        said = lines[first].split("Error: ")[-1]
        raise OSError(": ".join([said, *(line[:200] for line in lines[first + 1 : first + 2])]))
    return out
