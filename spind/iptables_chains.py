# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of ours in a table of iptables: compared with the kernel's, and made like they shall be.

Owns, in a table that it is given, the chains whose names begin with a prefix, and all rules that jump
to them. What stays as it is keeps its counters.
"""

import ctypes
from typing import Any

from spind.iptables import open_table, read_table, table_in_use
from spind.wire.xtables import Entry, XtRule, identity, jump, pack_again, pack_entry

Chains = dict[str, list[Entry]]

# Jumps of ours may stand behind these, since they only take marks to connections.
_CAPTURE = "SPIN_CAPTURE_"


class OurChains:
    """Chains of ``table`` that begin with ``prefix``, as they shall be.

    ``hooks`` are the built-in chains that jump to one of ours before anything else.
    """

    def __init__(
        self, table: str, family: int, prefix: str, chains: dict[str, list[XtRule]], hooks: dict[str, str]
    ) -> None:
        self._table = table
        self._family = family
        self._prefix = prefix
        self._chains = chains
        self._hooks = hooks
        self._identities = {
            chain: [identity(rule, family) for rule in rules] for chain, rules in chains.items()
        }
        self._jumps = {hook: identity(XtRule(hook, jump(chain)), family) for hook, chain in hooks.items()}

    def in_place(self) -> bool:
        """Whether the kernel has just this of ours."""
        there = self._read()
        ours = {chain for chain in there if chain.startswith(self._prefix)}
        return (
            ours == self._chains.keys()
            and not self._changed(there)
            and all(self._well_hooked(chain, there.get(chain, [])) for chain in (there.keys() | self._hooks))
        )

    def write(self, *, others: bool = True) -> None:
        """Make it so, in one step. Without ``others``, other chains that begin so and their jumps stay."""
        if self.in_place():
            return
        with open_table(self._table, self._family) as table:
            there = self._read()
            for chain in self._chains:
                if chain not in there:
                    table.create_chain(chain)
            for chain in self._changed(there):
                table.flush_entries(chain)
                for rule in self._chains[chain]:
                    table.append_entry(chain, _buffer(pack_entry(rule, self._family)))
            self._hook(table, there, others=others)
            if others:
                stray = [name for name in there if name.startswith(self._prefix) and name not in self._chains]
                for chain in stray:
                    table.flush_entries(chain)
                for chain in stray:
                    table.delete_chain(chain)

    def counts(self, chains: tuple[str, ...]) -> tuple[int, int]:
        """Packets and bytes that ended in ``chains``: those of the rules that drop, or refuse."""
        there = self._read()
        last = [
            entry for chain in chains for entry in there.get(chain, ()) if entry.target in ("DROP", "REJECT")
        ]
        return sum(entry.packets for entry in last), sum(entry.bytes for entry in last)

    def _read(self) -> Chains:
        return read_table(self._table, self._family) if table_in_use(self._table, self._family) else {}

    def _changed(self, there: Chains) -> list[str]:
        return [
            chain
            for chain, wanted in self._identities.items()
            if chain not in there or [entry.identity for entry in there[chain]] != wanted
        ]

    def _well_hooked(self, chain: str, entries: list[Entry]) -> bool:
        """Whether a chain jumps to ours where it shall, and nowhere else."""
        if chain.startswith(self._prefix):
            return True
        ours = [number for number, entry in enumerate(entries) if entry.target.startswith(self._prefix)]
        if chain not in self._hooks:
            return not ours
        return (
            len(ours) == 1
            and entries[ours[0]].identity == self._jumps[chain]
            and all(_steps_aside(chain, entry) for entry in entries[: ours[0]])
        )

    def _hook(self, table: Any, there: Chains, *, others: bool) -> None:
        for chain in there.keys() | self._hooks:
            entries = there.get(chain, [])
            if self._well_hooked(chain, entries):
                continue
            for entry in entries:
                if others and entry.target.startswith(self._prefix):
                    packed = pack_again(entry.identity, self._family)
                    table.delete_entry(chain, _buffer(packed), _buffer(b"\xff" * len(packed)))
            if chain in self._hooks:
                rule = XtRule(chain, jump(self._hooks[chain]))
                table.insert_entry(chain, _buffer(pack_entry(rule, self._family)), 0)


def _steps_aside(chain: str, entry: Entry) -> bool:
    return entry.target.startswith(_CAPTURE) and entry.target != _CAPTURE + chain


def _buffer(packed: bytes) -> Any:
    return ctypes.create_string_buffer(packed, len(packed))
