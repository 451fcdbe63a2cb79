# SPDX-License-Identifier: GPL-2.0-or-later
"""Who decided what, through which interface, and what held before: the list that undo goes by. Pure.

An entry holds changes as JSON, so that it outlasts a restart. It can be undone as long as what it made
still holds. Must not know how entries are kept (that is ``audit_file``).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from spind import profiles, rules
from spind.calls import Caller
from spind.changes import Change, DeviceChange, IgnoredChange, ProfileChange, RuleChange, SiteChange
from spind.commands import Save

ENTRIES = 1000
"""Entries kept; the oldest go."""

Json = dict[str, Any]


class Entry(NamedTuple):
    """One call that changed something. ``undone`` is the id of the entry that undid it, 0 if none did;
    ``undoes`` that of the entry that this one undid."""

    id: int
    time: int
    role: str
    interface: str
    method: str
    changes: tuple[tuple[Change, Change], ...]
    undone: int = 0
    undoes: int = 0


class Audit:
    """The latest entries, oldest first."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=ENTRIES)
        self._last_id = 0

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def load(self, lines: Iterable[Mapping[str, Any]]) -> int:
        """Take in entries of before a restart; how many could not be understood."""
        damaged = 0
        for line in lines:
            try:
                entry = from_json(line)
            except (KeyError, TypeError, ValueError, AttributeError):
                damaged += 1
                continue
            self._last_id = max(self._last_id, entry.id)
            self._append(entry)
        return damaged

    def record(
        self, caller: Caller, method: str, saves: Iterable[Save], now: float, undoes: int = 0
    ) -> Entry:
        """A call changed something."""
        changes = tuple((save.before, save.after) for save in saves)
        self._last_id += 1
        entry = Entry(self._last_id, int(now), caller.role, caller.interface, method, changes, undoes=undoes)
        self._append(entry)
        return entry

    @property
    def last_id(self) -> int:
        """The id of the latest entry, 0 before the first."""
        return self._last_id

    def get(self, entry_id: int) -> Entry | None:
        """The entry with this id."""
        return next((entry for entry in self._entries if entry.id == entry_id), None)

    def _append(self, entry: Entry) -> None:
        if entry.undoes:
            for index, other in enumerate(self._entries):
                if other.id == entry.undoes:
                    self._entries[index] = other._replace(undone=entry.id)
        self._entries.append(entry)


def to_json(entry: Entry) -> Json:
    """The entry as it is kept: ``from_json`` makes the same of it."""
    return {
        "id": entry.id,
        "time": entry.time,
        "role": entry.role,
        "interface": entry.interface,
        "method": entry.method,
        "undoes": entry.undoes,
        "changes": [[change_json(before), change_json(after)] for before, after in entry.changes],
    }


def from_json(line: Mapping[str, Any]) -> Entry:
    """The entry of a kept line. ``KeyError``, ``TypeError``, ``ValueError`` where it is none."""
    changes = tuple((_change(before), _change(after)) for before, after in line["changes"])
    return Entry(
        int(line["id"]),
        int(line["time"]),
        str(line["role"]),
        str(line["interface"]),
        str(line["method"]),
        changes,
        undoes=int(line["undoes"]),
    )


def change_json(change: Change) -> Json:
    """A change in words of the configuration."""
    if isinstance(change, DeviceChange):
        return {"device": change.mac, "name": change.name, "ignore": change.ignore, "profile": change.profile}
    if isinstance(change, SiteChange):
        return {"site": change.key, "name": change.name, "ignore": change.ignore}
    if isinstance(change, RuleChange):
        options = None if change.rule is None else rules.to_options(change.rule)
        return {"rule": change.id, "section": change.section, "options": options}
    if isinstance(change, ProfileChange):
        said = None if change.profile is None else profiles.to_options(change.profile)
        return {"profile": change.name, "options": said}
    return {"ignored": list(change.addresses)}


def _change(said: Mapping[str, Any]) -> Change:
    if "ignored" in said:
        return IgnoredChange(tuple(map(str, said["ignored"])))
    if "site" in said:
        return SiteChange(str(said["site"]), str(said["name"]), bool(said["ignore"]))
    if "device" in said:
        return DeviceChange(
            str(said["device"]), str(said["name"]), bool(said["ignore"]), str(said["profile"])
        )
    options = said["options"]
    if "rule" in said:
        number, section = int(said["rule"]), str(said["section"])
        if options is None:
            return RuleChange(number, section, None)
        fields = {name: value for name, value in options.items() if name not in ("author", "created")}
        rule = rules.parse_rule(
            fields, id=number, author=str(options["author"]), created=int(options["created"])
        )
        return RuleChange(number, section, rule._replace(section=section))
    name = str(said["profile"])
    return ProfileChange(name, None if options is None else profiles.parse_profile(options, name))
