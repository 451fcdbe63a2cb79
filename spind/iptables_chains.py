# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of ours in a table of iptables: compared with the kernel's, and made like they shall be.

Owns, in a table that it is given, the chains whose names begin with a prefix, and all rules that jump
to them. What stays as it is keeps its counters.
"""

import ctypes
from typing import Any, NamedTuple

from spind.iptables import TableReader, open_table
from spind.wire.xtables import Entry, Identity, XtRule, identify, jump, pack_again, pack_entry

Chains = dict[str, list[Entry]]

# Jumps of ours may stand behind these, since they only take marks to connections.
_CAPTURE = "SPIN_CAPTURE_"


class _Chain(NamedTuple):
    rules: list[XtRule]
    packed: list[bytes]
    identities: list[Identity]


def _chain(rules: list[XtRule], family: int) -> _Chain:
    packed = [pack_entry(rule, family) for rule in rules]
    return _Chain(rules, packed, [identify(each, family) for each in packed])


class OurChains:
    """Chains of the table ``reader`` that begin with ``prefix``, as they shall be.

    ``hooks`` are the built-in chains that jump to one of ours before anything else. Rules that are those
    of ``before`` are not made anew.
    """

    def __init__(
        self,
        reader: TableReader,
        prefix: str,
        chains: dict[str, list[XtRule]],
        hooks: dict[str, str],
        before: "OurChains | None" = None,
    ) -> None:
        self._reader = reader
        self._prefix = prefix
        self._hooks = hooks
        self.chains: dict[str, _Chain] = {}
        for chain, rules in chains.items():
            same = before.chains.get(chain) if before is not None else None
            self.chains[chain] = same if same and same.rules == rules else _chain(rules, reader.family)
        self._jumps = {
            hook: _chain([XtRule(hook, jump(chain))], reader.family) for hook, chain in hooks.items()
        }

    def in_place(self) -> bool:
        """Whether the kernel has just this of ours."""
        there = self._reader.read()
        ours = {chain for chain in there if chain.startswith(self._prefix)}
        return (
            ours == self.chains.keys()
            and not self._changed(there)
            and all(self._well_hooked(chain, there.get(chain, [])) for chain in (there.keys() | self._hooks))
        )

    def write(self, *, others: bool = True) -> None:
        """Make it so, in one step. Without ``others``, other chains that begin so and their jumps stay."""
        with open_table(self._reader.name, self._reader.family) as table:
            there = self._reader.read()
            for chain in self.chains:
                if chain not in there:
                    table.create_chain(chain)
            for chain in self._changed(there):
                table.flush_entries(chain)
                for packed in self.chains[chain].packed:
                    table.append_entry(chain, _buffer(packed))
            self._hook(table, there, others=others)
            if others:
                stray = [name for name in there if name.startswith(self._prefix) and name not in self.chains]
                for chain in stray:
                    table.flush_entries(chain)
                for chain in stray:
                    table.delete_chain(chain)

    def _changed(self, there: Chains) -> list[str]:
        return [
            chain
            for chain, wanted in self.chains.items()
            if chain not in there or [entry.identity for entry in there[chain]] != wanted.identities
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
            and [entries[ours[0]].identity] == self._jumps[chain].identities
            and all(_steps_aside(chain, entry) for entry in entries[: ours[0]])
        )

    def _hook(self, table: Any, there: Chains, *, others: bool) -> None:
        for chain in there.keys() | self._hooks:
            entries = there.get(chain, [])
            if self._well_hooked(chain, entries):
                continue
            for entry in entries:
                if others and entry.target.startswith(self._prefix):
                    packed = pack_again(entry.identity, self._reader.family)
                    table.delete_entry(chain, _buffer(packed), _buffer(b"\xff" * len(packed)))
            if chain in self._hooks:
                table.insert_entry(chain, _buffer(self._jumps[chain].packed[0]), 0)


def _steps_aside(chain: str, entry: Entry) -> bool:
    return entry.target.startswith(_CAPTURE) and entry.target != _CAPTURE + chain


def _buffer(packed: bytes) -> Any:
    return ctypes.create_string_buffer(packed, len(packed))
