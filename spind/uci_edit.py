# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes in UCI text that leave the user's comments and layout alone.

Owns which characters of a text a change touches. ``uci commit`` writes the whole file anew and
loses every comment; here only the value's own characters change, a new line goes behind the last
one of its section, and a removed statement takes its lines (with the comment at their end, while
comments on lines of their own stay). Lines that no small change can do justice to, such as
several statements on one, are written out first. Each result is parsed again and must say
exactly what was asked for. Must not touch a file (that is ``store``).
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from spind.uci import Package, Section, Statement, UciError, Value, encode, parse, quote, scan

_COMMENT_ONLY = re.compile(r"[ \t\v\f\r]*(#[^\n]*)?\n?")
_NEWLINES = re.compile(r"\\?\r?\n")
_NOTHING_LEFT = " \t\v\f\r\n;'\"\\"
_NAME = re.compile(r"[A-Za-z0-9_]+")
_TYPE = re.compile(r"[!-~]+")
_BARE_TYPE = re.compile(r"[A-Za-z0-9_-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


class SetOption(NamedTuple):
    """Give an option one value, which may not be empty: UCI takes an empty one for none."""

    section: str
    option: str
    value: str


class SetList(NamedTuple):
    """Make an option a list of these values; none removes it."""

    section: str
    option: str
    values: Sequence[str]


class RemoveOption(NamedTuple):
    """Remove an option or list; one that is not there is no error."""

    section: str
    option: str


class AddSection(NamedTuple):
    """Add a section at the end, anonymous where ``name`` is empty."""

    type: str
    name: str
    options: Mapping[str, Value]


class RemoveSection(NamedTuple):
    """Remove a section with all that is in it."""

    section: str


Change = SetOption | SetList | RemoveOption | AddSection | RemoveSection
"""Sections go by name, anonymous ones by libuci's generated one; as it is when the change's turn
comes, since a section's removal renames the anonymous ones behind it."""


class _Patch(NamedTuple):
    start: int
    stop: int
    new: str


def edit(text: str, changes: Iterable[Change]) -> str:
    """``text`` with ``changes`` made, one after the other.

    Raises ``UciError`` where ``text`` is no UCI, and ``ValueError`` for a change that UCI cannot
    hold (names, characters, an empty value) or that names no section; all or nothing.
    """
    for change in changes:
        text = _edit_once(text, change)
    return text


def _edit_once(text: str, change: Change) -> str:
    _check(change)
    while True:
        package, statements = scan(text)
        section, own = _find(package, statements, change)
        if section is not None and _is_done(section, change):
            return text
        crowded = next((s for s in _touched(text, change, own, statements) if not _is_plain(text, s)), None)
        if crowded is None:
            break
        text = _write_out(text, [s for s in statements if s.line_start == crowded.line_start])
    if isinstance(change, AddSection):
        result = _append(text, change)
    elif isinstance(change, RemoveSection):
        result = _remove_section(text, own)
    else:
        result = _patched(text, _option_patches(text, change, own))
    _update(package, section, change)
    if not _same(parse(result), package):
        raise UciError("change would alter other settings", text.count("\n") + 1)
    return result


def _find(
    package: Package, statements: list[Statement], change: Change
) -> tuple[Section | None, list[Statement]]:
    """The section that is to change, with its statements; neither where one is to be added."""
    if isinstance(change, AddSection):
        if change.name and package.named(change.name):
            raise ValueError(f"section {change.name!r} exists already")
        return None, []
    section = package.named(change.section)
    if section is None:
        raise ValueError(f"no section {change.section!r}")
    return section, [s for s in statements if s.section >= 0 and package.sections[s.section] is section]


def _is_done(section: Section, change: Change) -> bool:
    match change:
        case SetOption(_, option, value):
            return section.options.get(option) == value
        case SetList(_, option, values) if values:
            return section.options.get(option) == list(values)
        case SetList(_, option, _) | RemoveOption(_, option):
            return option not in section.options
        case _:
            return False


def _update(package: Package, section: Section | None, change: Change) -> None:
    """Make the change in the parsed package, for comparison."""
    if isinstance(change, AddSection):
        options = {k: v if isinstance(v, str) else list(v) for k, v in change.options.items()}
        package.sections.append(Section(change.type, change.name, not change.name, 0, options))
    elif section is not None:
        match change:
            case SetOption(_, option, value):
                section.options[option] = value
            case SetList(_, option, values) if values:
                section.options[option] = list(values)
            case SetList(_, option, _) | RemoveOption(_, option):
                section.options.pop(option, None)
            case _:
                package.sections = [other for other in package.sections if other is not section]


def _same(one: Package, other: Package) -> bool:
    """Whether both say the same; generated names and the order of options do not count."""

    def said(package: Package) -> list[tuple[str, str, dict[str, Value]]]:
        return [(s.type, "" if s.anonymous else s.name, s.options) for s in package.sections]

    return said(one) == said(other)


def _check(change: Change) -> None:
    """Refuse what UCI cannot hold; the rules are those of ``uci set``."""
    values: list[str] = []
    names: list[str] = []
    match change:
        case SetOption(_, option, value):
            names, values = [option], [value]
            if not value:
                raise ValueError("an empty value is no value in UCI: remove the option instead")
        case SetList(_, option, items):
            names, values = [option], list(items)
        case AddSection(type_, name, options):
            if not _TYPE.fullmatch(type_):
                raise ValueError(f"not a section type: {type_!r}")
            names = [*options] + [name] * bool(name)
            for entry in options.values():
                values += [entry] if isinstance(entry, str) else entry
                if not entry:
                    raise ValueError("an empty value is no value in UCI: leave the option out")
        case _:
            pass
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a UCI name: {name!r}")
    for value in values:
        if _CONTROL.search(value):
            raise ValueError(f"control character in value {value!r}")
        try:
            encode(value)
        except UnicodeEncodeError:
            raise ValueError(f"character that no file can hold in value {value!r}") from None


def _touched(text: str, change: Change, own: list[Statement], statements: list[Statement]) -> list[Statement]:
    """Statements whose lines the change alters or writes behind."""
    match change:
        case AddSection():
            return [s for s in statements[-1:] if s.line_stop == len(text)]
        case RemoveSection():
            return own
        case _:
            touched = [s for s in own if s.kind != "config" and s.name == change.option]
            counting = any(s.kind == "list" or s.value.value for s in touched)
            return touched if counting else touched + own[-1:]


def _is_plain(text: str, statement: Statement) -> bool:
    """Whether it has its lines for itself, with at most a comment behind, and a value to replace."""
    before = text[statement.line_start : statement.start]
    itself = text[statement.start : statement.stop]
    after = text[statement.stop : statement.line_stop]
    if before.strip() or not _COMMENT_ONLY.fullmatch(after):
        return False
    if itself.endswith(("\\", "\\\n", "\\\r\n")):  # the next line may belong to it
        return False
    return statement.kind in ("config", "package") or statement.value.stop > statement.value.start


def _write_out(text: str, crowd: list[Statement]) -> str:
    """Text with the statements of one line (or continued line) on a plain line each."""
    start, stop = crowd[0].line_start, crowd[-1].line_stop
    rest = _NEWLINES.sub(" ", text[crowd[-1].stop : stop])
    if rest.strip(_NOTHING_LEFT):
        # what libuci drops from the end of a line becomes a comment
        rest = rest.strip()
        rest = f" {rest}" if rest.startswith("#") else f" # {rest}"
    else:
        rest = ""
    lines = []
    for statement in crowd:
        value = statement.value.value
        if statement.kind == "config":
            lines.append(_config_line(statement.name, value))
        elif statement.kind == "package":
            lines.append(f"package {statement.name}")
        else:
            lines.append(f"{_indent(text, statement)}{statement.kind} {statement.name} {quote(value)}")
    newline = _newline(text)
    return text[:start] + newline.join(lines) + rest + newline + text[stop:]


def _config_line(type_: str, name: str) -> str:
    shown = type_ if _BARE_TYPE.fullmatch(type_) else quote(type_)
    return f"config {shown} {quote(name)}" if name else f"config {shown}"


def _indent(text: str, statement: Statement) -> str:
    """Indentation for an option that stands for ``statement`` or follows it."""
    before = text[statement.line_start : statement.start]
    return "\t" if statement.kind == "config" or before.strip() else before


def _newline(text: str) -> str:
    return "\r\n" if 0 < text.find("\n") == text.find("\r\n") + 1 else "\n"


def _option_patches(
    text: str, change: SetOption | SetList | RemoveOption, own: list[Statement]
) -> list[_Patch]:
    name = change.option
    all_of_it = [s for s in own if s.kind != "config" and s.name == name]
    counting = [s for s in all_of_it if s.kind == "list" or s.value.value]
    # the last option statement overrides what is before it, lists included
    last_option = max((i for i, s in enumerate(counting) if s.kind == "option"), default=0)
    dead, live = counting[:last_option], counting[last_option:]
    if isinstance(change, SetOption):
        if not live:
            return [_lines_behind(text, own[-1], "option", name, [change.value])]
        if live[-1].kind == "option":
            return [_new_value(live[-1], change.value)]
        return [_rewritten(live[0], "option", change.value), *_without(live[1:])]
    if isinstance(change, RemoveOption) or not change.values:
        return _without(all_of_it)
    values = list(change.values)
    if not live:
        return [_lines_behind(text, own[-1], "list", name, values)]
    if live[0].kind == "list":
        return _list_patches(text, live, values)
    # as a list item it overrides nothing, so what it overrode has to go
    first = _rewritten(live[0], "list", values[0])
    more = [_lines_behind(text, live[0], "list", name, values[1:])] if values[1:] else []
    return [first, *more, *_without(dead + live[1:])]


def _list_patches(text: str, live: list[Statement], values: list[str]) -> list[_Patch]:
    """Patches that make the items of ``live`` into ``values``, keeping the lines of those that stay."""
    wanted = Counter(values)
    keep, drop = [], []
    for statement in live:
        if wanted[statement.value.value] > 0:
            wanted[statement.value.value] -= 1
            keep.append(statement)
        else:
            drop.append(statement)
    if not keep or [s.value.value for s in keep] != values[: len(keep)]:
        # another order, or nothing in common: put the values in place, one by one
        keep, drop = live[: len(values)], live[len(values) :]
    patches = [_new_value(s, v) for s, v in zip(keep, values, strict=False) if s.value.value != v]
    if len(values) > len(keep):
        patches.append(_lines_behind(text, keep[-1], "list", keep[-1].name, values[len(keep) :]))
    return patches + _without(drop)


def _new_value(statement: Statement, value: str) -> _Patch:
    return _Patch(statement.value.start, statement.value.stop, quote(value))


def _rewritten(statement: Statement, kind: str, value: str) -> _Patch:
    return _Patch(statement.start, statement.stop, f"{kind} {statement.name} {quote(value)}")


def _without(statements: list[Statement]) -> list[_Patch]:
    return [_Patch(s.line_start, s.line_stop, "") for s in statements]


def _lines_behind(text: str, statement: Statement, kind: str, name: str, values: Sequence[str]) -> _Patch:
    newline = _newline(text)
    indent = _indent(text, statement)
    new = "".join(f"{indent}{kind} {name} {quote(value)}{newline}" for value in values)
    at = statement.line_stop
    return _Patch(at, at, new if text.endswith("\n", 0, at) else newline + new)


def _patched(text: str, patches: list[_Patch]) -> str:
    parts = []
    done = 0
    for patch in sorted(patches):  # what is inserted goes before what is removed at the same place
        parts += [text[done : patch.start], patch.new]
        done = patch.stop
    return "".join(parts) + text[done:]


def _append(text: str, change: AddSection) -> str:
    newline = _newline(text)
    lines = [_config_line(change.type, change.name)]
    for name, value in change.options.items():
        if isinstance(value, str):
            lines.append(f"\toption {name} {quote(value)}")
        else:
            lines.extend(f"\tlist {name} {quote(item)}" for item in value)
    if text and not text.endswith("\n"):
        text += newline
    if text and not text.endswith(("\n\n", "\n\r\n")):
        text += newline
    return text + newline.join(lines) + newline


def _remove_section(text: str, own: list[Statement]) -> str:
    """Text without the section's lines, nor one of two empty lines that met by that."""
    at = own[0].line_start
    text = _patched(text, _without(own))
    before, after = text[:at], text[at:]
    if before.endswith(("\n\n", "\n\r\n")) and (not after or after.startswith(("\n", "\r\n"))):
        before = before[: -len(_newline(before[-2:]))]
    return before + after
