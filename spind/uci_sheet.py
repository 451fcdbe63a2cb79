# SPDX-License-Identifier: GPL-2.0-or-later
"""UCI text cut into its sections, so that one can be changed without reading the others again.

Owns which part of a text each section is in. A change is made by ``uci_edit`` in the section's
part alone (with its neighbours, where it goes), which parses the result and compares; joined,
the parts are the new text. A text that does not fall apart into its sections (``uci.outline``)
stays in one part: everything works, at the price of reading it all. Must not know what sections
mean. Pure.
"""

from collections.abc import Callable, Collection, KeysView, Mapping, Sequence
from itertools import count, zip_longest
from typing import NamedTuple, Self

from spind.uci import (
    GENERATED,
    MAX_BYTES,
    MAX_SECTIONS,
    Package,
    Section,
    UciError,
    Value,
    decode,
    encode,
    outline,
    parse,
)
from spind.uci_edit import AddSection, RemoveOption, RemoveSection, SetList, SetOption, edit

_HEAD = ""
"""Key of the part before the first section."""


class _Part(NamedTuple):
    keys: tuple[str, ...]  # of its sections, in order
    text: bytes


class Sheet:
    """A UCI text and its sections.

    A section's key is its name. Of an anonymous one it is the name that libuci generates for it
    when the sheet is made, and stays the same when others come and go; one that is added gets a
    key of its own. ``identity`` gives what a section is about, empty for nothing, by which
    ``find`` finds the first one about it.
    """

    def __init__(
        self,
        identity: Callable[[Section], str],
        parts: dict[str, _Part],
        types: dict[str, str],
        found: dict[str, tuple[str, ...]],
        *,
        whole: bool,
    ) -> None:
        self._identity = identity
        self._parts = parts  # by the key of their section; one of several sections is the head's
        self._types = types
        self._found = found
        self._whole = whole  # whether all sections are in one part

    @classmethod
    def cut(cls, data: bytes, identity: Callable[[Section], str]) -> Self:
        """The sheet of a text; ``UciError`` where it is no UCI."""
        text = decode(data)
        package, starts = outline(text)
        keys = _keys(package)
        whole = starts is None
        parts = {_HEAD: _Part(tuple(keys), data)} if starts is None else _cut(text, starts, keys, _HEAD)
        types = dict(zip(keys, (section.type for section in package.sections), strict=True))
        sheet = cls(identity, parts, types, {}, whole=whole)
        for key, section in zip(keys, package.sections, strict=True):
            sheet._note(key, section)
        return sheet

    def copy(self) -> "Sheet":
        """A sheet that can be changed, while this one stays."""
        return Sheet(
            self._identity, self._parts.copy(), self._types.copy(), self._found.copy(), whole=self._whole
        )

    @property
    def data(self) -> bytes:
        """The text; ``UciError`` where it has become too large."""
        data = b"".join([part.text for part in self._parts.values()])
        if len(data) > MAX_BYTES:
            raise UciError(f"file of {len(data)} bytes, the limit is {MAX_BYTES}", 1)
        return data

    @property
    def keys(self) -> KeysView[str]:
        """The keys of all sections."""
        return self._types.keys()

    def anonymous(self) -> dict[str, list[str]]:
        """The keys of anonymous sections, in order, by what these say."""
        keys: dict[str, list[str]] = {}
        for key in self._types:
            if (key.startswith("@") or GENERATED.fullmatch(key)) and (section := self.section(key)).anonymous:
                content = repr((section.type, sorted(section.options.items())))
                keys.setdefault(content, []).append(key)
        return keys

    def find(self, identity: str) -> str:
        """Key of the first section about something; empty where there is none."""
        return self._found.get(identity, ("",))[0]

    def type(self, key: str) -> str:
        """The type of a section; empty where there is none of that key."""
        return self._types.get(key, "")

    def section(self, key: str) -> Section:
        """What a section says; ``KeyError`` where there is none of that key."""
        part = self._parts[self._home(key)]
        return parse(decode(part.text)).sections[part.keys.index(key)]

    def set(self, key: str, options: Mapping[str, Value]) -> None:
        """Give options these values; an empty one takes the option away.

        Raises as ``uci_edit.edit`` does; all or nothing.
        """
        changes: list[SetOption | SetList | RemoveOption] = []
        home = self._home(key)
        part = self._parts[home]
        name = _name(decode(part.text), part.keys.index(key))
        for option, value in options.items():
            if not value:
                changes.append(RemoveOption(name, option))
            elif isinstance(value, str):
                changes.append(SetOption(name, option, value))
            else:
                changes.append(SetList(name, option, value))
        self._put([home], edit(decode(part.text), changes), part.keys)

    def add(self, type_: str, name: str, options: Mapping[str, Value]) -> str:
        """Add a section at the end, anonymous where ``name`` is empty; its key."""
        if name in self._types:
            raise ValueError(f"section {name!r} exists already")
        if len(self._types) >= MAX_SECTIONS:
            raise UciError(f"more than {MAX_SECTIONS} sections", 1)
        key = name or _free(self._types)
        last = next(reversed(self._parts))
        part = self._parts[last]
        given = {option: value for option, value in options.items() if value}
        text = edit(decode(part.text), [AddSection(type_, name, given)])
        self._put([last], text, (*part.keys, key))
        self._types[key] = type_
        self._note(key, self.section(key))
        return key

    def remove(self, key: str) -> None:
        """Remove a section with all that is in it; comments on lines of their own stay."""
        section = self.section(key)
        names = list(self._parts)
        at = names.index(self._home(key))
        window = names[max(at - 1, 0) : at + 2]  # what is before it takes up what is left of it
        text = b"".join([self._parts[name].text for name in window])
        keys = [key for name in window for key in self._parts[name].keys]
        index = keys.index(key)
        result = edit(decode(text), [RemoveSection(_name(decode(text), index))])
        del keys[index]
        self._put(window, result, keys)
        del self._types[key]
        self._forget(key, section)

    def adopt_keys(self, before: "Sheet") -> None:
        """Give anonymous sections the keys that those with the same content have in ``before``.

        For somebody who knows that sheet, and for whom this text was changed by others. A key of
        ``before`` whose section is not there any more is the key of none.
        """
        known, ours = before.anonymous(), self.anonymous()
        named = self.keys - {key for keys in ours.values() for key in keys}
        new: dict[str, str] = {}
        for content, keys in ours.items():
            same = [key for key in known.get(content, []) if key not in named]
            new |= dict(zip_longest(keys, same[: len(keys)], fillvalue=""))
        taken = {*before.keys, *self.keys}
        for key, label in new.items():
            new[key] = label or _free(taken)
            taken.add(new[key])
        self._types = {new.get(key, key): type_ for key, type_ in self._types.items()}
        self._found = {what: tuple(new.get(key, key) for key in keys) for what, keys in self._found.items()}
        self._parts = {
            new.get(name, name): _Part(tuple(new.get(key, key) for key in part.keys), part.text)
            for name, part in self._parts.items()
        }

    def _home(self, key: str) -> str:
        """Name of the part that a section is in: its key, unless all are in one."""
        if key not in self._types:
            raise KeyError(key)
        return _HEAD if self._whole else key

    def _put(self, window: Sequence[str], text: str, keys: Sequence[str]) -> None:
        """Put a new text in place of some parts in a row."""
        first = window[0]
        if self._whole:
            self._parts[first] = _Part(tuple(keys), encode(text))
            return
        starts = outline(text)[1]
        if starts is None or len(starts) != len(keys):
            raise UciError("change would alter other settings", text.count("\n") + 1)
        fresh = _cut(text, starts, keys, first)
        for name in window:
            if name not in fresh:
                del self._parts[name]
        self._parts |= fresh  # those that were there keep their places

    def _note(self, key: str, section: Section) -> None:
        what = self._identity(section)
        if what:
            self._found[what] = (*self._found.get(what, ()), key)

    def _forget(self, key: str, section: Section) -> None:
        what = self._identity(section)
        if what:
            rest = tuple(other for other in self._found[what] if other != key)
            self._found |= {what: rest}
            if not rest:
                del self._found[what]


def _keys(package: Package) -> list[str]:
    keys: dict[str, None] = {}
    for section in package.sections:
        keys[section.name if section.name not in keys else _free(keys)] = None
    return list(keys)


def _free(taken: Collection[str]) -> str:
    """A key that no section has, whatever it is called."""
    return next(key for number in count(len(taken)) if (key := f"@{number}") not in taken)


def _cut(text: str, starts: Sequence[int], keys: Sequence[str], first: str) -> dict[str, _Part]:
    """The parts of a text, by name. If the ``first`` one is the head, it is what precedes all sections."""
    stops = [*starts[1:], len(text)] if starts else []
    parts = {}
    if first == _HEAD:
        parts[_HEAD] = _Part((), encode(text[: starts[0] if starts else len(text)]))
    for key, start, stop in zip(keys, starts, stops, strict=True):
        parts[key] = _Part((key,), encode(text[start:stop]))
    return parts


def _name(text: str, index: int) -> str:
    """The name of a section within the text of its part."""
    package = parse(text)
    section = package.sections[index]
    if package.named(section.name) is not section:
        raise UciError(f"two sections of the name {section.name}", section.line)
    return section.name
