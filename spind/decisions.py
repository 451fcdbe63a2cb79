# SPDX-License-Identifier: GPL-2.0-or-later
"""What people decide about nodes: names, what is ignored, addresses given by hand. Pure.

Each handler returns the nodes that changed and the commands that follow from the decision. Must
not know about traffic.
"""

import logging
from collections.abc import Callable

from spind.commands import Command, ListChanged, Notice, SaveDecision, SaveIgnoredAddresses
from spind.events import AssignAddress, Decided, IgnoreAddress, ResetIgnored, SetIgnored, SetName
from spind.ignore import IgnoreList
from spind.model import format_address
from spind.nodes import Decision, Node, Nodes

Outcome = tuple[list[Node], list[Command]]


class Decisions:
    """Applies decisions to the table of nodes and the ignore list."""

    def __init__(self, nodes: Nodes, ignored: IgnoreList) -> None:
        self._nodes = nodes
        self._ignored = ignored

    def handlers(self) -> dict[type, Callable[..., Outcome]]:
        """The events that are decisions, and who handles each."""
        return {
            Decided: self._decided,
            SetName: self._set_name,
            SetIgnored: self._set_ignored,
            IgnoreAddress: self._ignore_address,
            ResetIgnored: self._reset_ignored,
            AssignAddress: self._assign_address,
        }

    def ignored_texts(self) -> list[str]:
        """The ignore list as SPIN 1.0 has it: the addresses of ignored nodes, and those by themselves."""
        texts = dict.fromkeys(
            format_address(address) for node in self._nodes if node.ignored for address in node.addresses
        )
        return list(texts | dict.fromkeys(self._ignored.texts()))

    def _decided(self, event: Decided, now: float) -> Outcome:
        before = self.ignored_texts()
        self._nodes.decide({key: Decision(*value) for key, value in event.nodes.items()}, now)
        commands: list[Command] = []
        self._ignored.keep(event.ignored_addresses)
        for text in event.ignored_addresses:
            try:
                self._ignored.add(text)
            except ValueError as error:
                commands.append(Notice(logging.WARNING, f"ignored address left out: {error}"))
        if self.ignored_texts() != before:
            commands.append(self._list_changed())
        return [node for node in self._nodes if node.changed], commands

    def _set_name(self, event: SetName, now: float) -> Outcome:  # noqa: ARG002 - one signature for handlers
        node = self._nodes.by_id[event.node]
        node.name = event.name
        return [node], self._save(node)

    def _set_ignored(self, event: SetIgnored, now: float) -> Outcome:  # noqa: ARG002
        node = self._nodes.by_id[event.node]
        node.ignored = event.ignored
        return [node], [*self._save(node), self._list_changed()]

    def _ignore_address(self, event: IgnoreAddress, now: float) -> Outcome:  # noqa: ARG002
        changed: list[Node] = []
        commands: list[Command] = []
        if event.ignored:
            self._ignored.add(event.address)
        elif not self._ignored.remove(event.address):
            # Listed because its node is: the node's other addresses stay, by themselves.
            for node in self._nodes:
                addresses = [format_address(address) for address in node.addresses]
                if node.ignored and event.address in addresses:
                    node.ignored = False
                    changed.append(node)
                    commands += self._save(node)
                    for other in addresses:
                        if other != event.address:
                            self._ignored.add(other)
        saved = SaveIgnoredAddresses(self._ignored.texts())
        return changed, [*commands, saved, self._list_changed()]

    def _reset_ignored(self, _event: ResetIgnored, now: float) -> Outcome:  # noqa: ARG002
        changed = [node for node in self._nodes if node.ignored]
        commands: list[Command] = []
        for node in changed:
            node.ignored = False
            commands += self._save(node)
        self._ignored.keep(())
        return changed, [*commands, SaveIgnoredAddresses([]), self._list_changed()]

    def _assign_address(self, event: AssignAddress, now: float) -> Outcome:
        node = self._nodes.by_id[event.node] if event.node else None
        return [self._nodes.assign(node, event.address, now)], []

    def _save(self, node: Node) -> list[Command]:
        node.changed = True
        self._nodes.remember(node)
        key = node.decision_key
        return [SaveDecision(key, node.name, node.ignored)] if key else []

    def _list_changed(self) -> ListChanged:
        return ListChanged("ignore", self.ignored_texts())
