# SPDX-License-Identifier: GPL-2.0-or-later
"""The audit list, and undo. Pure."""

from spind import audit, rules
from spind.audit import Entry
from spind.calls import REFUSED, ApiError, NotFoundError
from spind.changes import Change, DeviceChange, IgnoredChange, ProfileChange, RuleChange, SiteChange
from spind.desk import Desk
from spind.events import Restore
from spind.shapes import Json


class AuditDeeds:
    """Shows who decided what, and undoes it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def list_audit(self, since: int = 0, limit: int = 100, offset: int = 0) -> Json:
        """Who did what, the latest first."""
        found = [entry for entry in self._desk.engine.audit if entry.time >= since]
        found.reverse()
        return self._desk.views.page(found, limit, offset, self._entry_json)

    def undo(self, id: int) -> None:  # noqa: A002
        """Have what was before an entry of the audit list again."""
        entry = self._desk.engine.audit.get(id)
        if entry is None:
            raise NotFoundError(f"id: there is no entry {id} in the audit list")
        problem = self._why_not(entry)
        if problem:
            raise ApiError(REFUSED, f"id: {problem}")
        self._desk.do(Restore(tuple(before for before, _ in reversed(entry.changes))), undoes=entry.id)

    def _why_not(self, entry: Entry) -> str:
        """Why an entry cannot be undone; empty where it can."""
        if entry.undone:
            return f"entry {entry.id} was undone already, by entry {entry.undone}"
        if self._desk.caller.role == "provider" and entry.role != "provider":
            return "only the owner can undo what the owner did"
        decisions = self._desk.engine.decisions
        if any(decisions.current(after) != after for _, after in entry.changes):
            return f"what entry {entry.id} decided was changed since"
        moment = self._desk.clock()
        for before, _ in entry.changes:
            if isinstance(before, RuleChange) and before.rule and 0 < before.rule.until <= moment:
                return f"the rule of entry {entry.id} is over by its end time"
            gone = (
                isinstance(before, RuleChange)
                and before.rule
                and self._desk.engine.rules.get(before.id) is None
            )
            if gone and self._desk.engine.rules.full:
                return "there is no room for another rule (limit_rules)"
        return ""

    def _entry_json(self, entry: Entry) -> Json:
        return {
            "id": entry.id,
            "time": entry.time,
            "author": entry.role,
            "interface": entry.interface,
            "method": entry.method,
            "text": "; ".join(self._sentence(before, after) for before, after in entry.changes),
            "before": [audit.change_json(before) for before, _ in entry.changes],
            "after": [audit.change_json(after) for _, after in entry.changes],
            "undone": entry.undone,
            "undoes": entry.undoes,
            "undoable": not self._why_not(entry),
        }

    def _sentence(self, before: Change, after: Change) -> str:
        """What changed, for people."""
        if isinstance(after, RuleChange) and isinstance(before, RuleChange):
            rule = after.rule or before.rule
            done = (
                "rule made"
                if before.rule is None
                else "rule removed"
                if after.rule is None
                else "rule changed"
            )
            return f"{done}: {rules.describe(rule, self._desk.label)}" if rule is not None else done
        if isinstance(after, ProfileChange):
            return f"profile {after.name} {'removed' if after.profile is None else 'set'}"
        if isinstance(after, IgnoredChange):
            return "ignored addresses: " + (", ".join(after.addresses[:5]) or "none")
        return self._node_sentence(before, after)

    def _node_sentence(self, before: Change, after: Change) -> str:
        kinds = DeviceChange | SiteChange
        if not isinstance(before, kinds) or not isinstance(after, kinds):
            return ""
        said = []
        if before.name != after.name:
            said.append(f"called {after.name!r}" if after.name else "name taken back")
        if before.ignore != after.ignore:
            said.append("ignored" if after.ignore else "not ignored any more")
        profiles_ = [change.profile for change in (before, after) if isinstance(change, DeviceChange)]
        if len(set(profiles_)) > 1:
            said.append(f"profile {profiles_[-1] or 'none'}")
        key = after.mac if isinstance(after, DeviceChange) else after.key
        return f"{self._desk.label(key)}: {', '.join(said)}"
