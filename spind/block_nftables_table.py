# SPDX-License-Identifier: GPL-2.0-or-later
"""One transaction for ``nft -f`` from what a table has of ours to what it shall have.

Owns the order of its commands. Pure. It knows nothing of what the rules are for: see
``block_nftables_text``.
"""

from dataclasses import dataclass, field

from spind.block_nftables_sets import Declaration

_HOOKS = {"forward": 2, "input": 1, "output": 3}  # NF_INET_*, and NF_BR_* alike


@dataclass(slots=True)
class There:
    """What a table has of ours by now: chains with (hook, priority), sets with whether they are maps."""

    chains: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    sets: dict[str, bool] = field(default_factory=dict)


@dataclass(slots=True)
class SetWanted:
    """A set with what it gets and loses, as text; ``kept``: the kernel has it, with other elements."""

    declaration: Declaration
    added: list[str]
    removed: list[str]
    kept: bool


@dataclass(slots=True)
class TableWanted:
    """A table as it is wanted; ``chains`` with (hook, priority), or ``None`` for one that is called.

    ``hooked``: base chains get their hooks; in a table for trying they do not.
    """

    name: str
    hooked: bool
    counters: tuple[str, ...]
    chains: dict[str, tuple[str, int] | None] = field(default_factory=dict)
    sets: list[SetWanted] = field(default_factory=list)
    rules: list[tuple[str, str]] = field(default_factory=list)

    def chain(self, name: str, *rules: str, hook: tuple[str, int] | None = None) -> None:
        """Add a chain with its rules."""
        self.chains[name] = hook
        self.rules += [(name, rule) for rule in rules]


def transaction(table: TableWanted, there: There) -> str:
    """The commands. Base chains that stay are emptied and kept, since the kernel drops what waits in
    any queue when one goes (``nf_queue_nf_hook_drop``)."""
    name = table.name
    kept = {each.declaration.name for each in table.sets if each.kept}
    lines = [f"add table {name}"]
    lines += [f"add counter {name} {counter}" for counter in table.counters]
    lines += [f"flush chain {name} {chain}" for chain in there.chains]
    for each in table.sets:
        if each.kept and each.removed:
            lines.append(f"delete element {name} {each.declaration.name} {{ {', '.join(each.removed)} }}")
    lines += [
        f"delete {'map' if is_map else 'set'} {name} {each}"
        for each, is_map in there.sets.items()
        if each not in kept
    ]
    # In the way are chains that nobody needs, and those that are elsewhere than they should.
    for chain, place in there.chains.items():
        wanted = table.chains.get(chain)
        if chain not in table.chains or place != (wanted and (_HOOKS[wanted[0]], wanted[1])):
            lines.append(f"delete chain {name} {chain}")
    for chain, hook in table.chains.items():
        lines.append(f"add chain {name} {chain}{_hook(hook if table.hooked else None)}")
    for each in table.sets:
        kind = "map" if each.declaration.is_map else "set"
        if not each.kept:
            lines.append(f"add {kind} {name} {each.declaration.name} {{ {each.declaration.body} }}")
        if each.added:
            lines.append(f"add element {name} {each.declaration.name} {{ {', '.join(each.added)} }}")
    lines += [f"add rule {name} {chain} {rule}" for chain, rule in table.rules]
    return "\n".join(lines) + "\n"


def _hook(hook: tuple[str, int] | None) -> str:
    if hook is None:
        return ""
    return f" {{ type filter hook {hook[0]} priority {hook[1]}; policy accept; }}"
