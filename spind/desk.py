# SPDX-License-Identifier: GPL-2.0-or-later
"""Where decisions are made: on behalf of whom, kept before anybody hears of them, and recorded. Pure.

The methods that decide check their arguments, turn them into one event and give it to :class:`Desk`. It
passes what follows to ``carry_out``, which keeps it or refuses. A refused call changes nothing. What was
decided is recorded, with who did it, so that it can be undone.
"""

from collections.abc import Callable
from typing import Any

from spind import audit, rules
from spind.calls import REFUSED, ApiError, Caller, DeniedError, NotInForceError, UnavailableError
from spind.commands import Command, RecordAudit, Save
from spind.engine import Engine
from spind.events import Event, RemoveRules
from spind.rules import Rule
from spind.views import Views

_AUTHORS = {"owner": "owner", "provider": "provider"}
"""Author of a rule by the role of the caller."""

_PROVIDER_SHARE = 4
"""One of so many rules may be the provider's: the owner always has room for more."""


class Desk:
    """Decides for the caller of the moment."""

    def __init__(
        self,
        engine: Engine,
        views: Views,
        clock: Callable[[], float],
        carry_out: Callable[[list[Command]], None],
    ) -> None:
        self.engine = engine
        self.views = views
        self.clock = clock
        self._carry_out = carry_out
        self.caller = Caller("", "")
        self._method = ""

    def begin(self, caller: Caller, method: str) -> None:
        """What is done from now on is done by this caller, through this method."""
        self.caller = caller
        self._method = method

    def tell(self, commands: list[Command]) -> None:
        """Commands that decide nothing."""
        self._carry_out(commands)

    def do(self, event: Event, undoes: int = 0) -> None:
        """Have the engine take a decision in; ``ApiError`` where it is not kept, or not in force yet.

        ``undoes`` is the entry of the audit list that it undoes.
        """
        now = self.clock()
        commands = self.engine.handle(event, now)
        pending: NotInForceError | None = None
        try:
            self._carry_out(commands)
        except NotInForceError as error:
            pending = error
        saves = [command for command in commands if isinstance(command, Save)]
        if saves:
            entry = self.engine.audit.record(self.caller, self._method, saves, now, undoes)
            self._carry_out([RecordAudit(audit.to_json(entry))])
        if pending is not None:
            raise pending

    def decidable(self, node: int) -> str:
        """What UCI calls a node; refuse to decide about one that it could not name."""
        key = self.views.node(node).decision_key
        if not key:
            raise ApiError(REFUSED, f"node {node} has no MAC, domain or address to remember it by")
        return key

    def rule(self, fields: dict[str, Any]) -> Rule:
        """A new rule of the caller's; ``ApiError`` says what is wrong with it."""
        author = _AUTHORS.get(self.caller.role, "owner")
        try:
            return rules.parse_rule(
                fields, id=self.engine.rules.next_id, author=author, created=int(self.clock())
            )
        except ValueError as error:
            raise ApiError(REFUSED, str(error)) from error

    def new_rule(self, fields: dict[str, Any]) -> Rule:
        """The same, where there is room for one more."""
        if self.caller.role == "provider":
            made = sum(rule.author == "provider" for rule in self.engine.rules)
            if made >= self.engine.limits.rules // _PROVIDER_SHARE:
                raise UnavailableError(f"there are {made} rules of the provider's, more are not allowed")
        if self.engine.rules.full:
            raise UnavailableError(
                f"there are {len(self.engine.rules)} rules, more are not allowed (limit_rules)"
            )
        return self.rule(fields)

    def remove_rules(self, ids: tuple[int, ...]) -> None:
        """Take rules back, unless one is none of the caller's business."""
        if self.caller.role == "provider":
            for rule in filter(None, map(self.engine.rules.get, ids)):
                if rule.author != "provider":
                    raise DeniedError(f"rule {rule.id} is not the provider's: only the owner can remove it")
        self.do(RemoveRules(ids))

    def label(self, key: str) -> str:
        """What people call a node, by its key."""
        node = self.engine.nodes.by_key(key)
        return node.label if node is not None else self.engine.nodes.decision(key).name or key
