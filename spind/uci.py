# SPDX-License-Identifier: GPL-2.0-or-later
"""UCI text, read and written as libuci does; the reference is its ``file.c`` and ``list.c``.

Owns the syntax: words, quoting, statements, names of anonymous sections, and what several
statements for one section or option add up to. Must not know what any option means (that is
``config``) nor touch a file (that is ``store``). Changing text in place is ``uci_edit``.

Oddities of libuci are kept, because a file must mean the same to ``uci`` and to us: a statement
may follow another one on a line, an empty ``option`` is as good as none, and after an unquoted
word that touches a ``;`` the rest of the line is dropped. Stricter than libuci in three things:
NUL bytes, more than ``MAX_BYTES`` and more than ``MAX_SECTIONS`` are errors. Bytes that are not
UTF-8 are kept, as lone surrogates (``decode`` and ``encode``).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

MAX_BYTES = 8 << 20
"""Size of a file. A gateway's real ones have some kilobytes; 20,000 rules with long comments have 7 MiB."""

MAX_SECTIONS = 40_000
"""Sections in a file; one per device, site, rule and profile."""

Value = str | list[str]
"""An ``option``'s value, or a ``list``'s values."""

_SPACE = " \t\n\v\f\r"  # isspace() in the C locale
_PLAIN = re.compile(r"""[^ \t\n\v\f\r'"#;\\]+""")
_IN_DOUBLE_QUOTES = re.compile(r'[^"\\]*')
_NOT_SPACE = re.compile(r"[^ \t\n\v\f\r]")
_COMMAND = re.compile(r"([ \t]*)([^ \t]+)([ \t]?)")  # strtok(…, " \t") does not stop at newlines
_USUAL = re.compile(
    r"""[ \t]*(?:
        (?:
            (option|list)[ \t]+([A-Za-z0-9_]+)(?:[ \t]+('[^'\n]*'|[A-Za-z0-9_.:/-]+))?
            |(config)[ \t]+([A-Za-z0-9_-]+)(?:[ \t]+('[A-Za-z0-9_]+'|[A-Za-z0-9_]+))?
        )[ \t]*|\#[^\n]*
    )?\n""",
    re.VERBOSE,
)  # lines as nearly all are: a statement and nothing else, a comment, or nothing
_NAME = re.compile(r"[A-Za-z0-9_]+")
_TYPE = re.compile(r"[!-~]+")
_PACKAGE = re.compile(r"[A-Za-z0-9_-]+")
GENERATED = re.compile(r"cfg[0-9a-f]{6,}")
"""Names as ``generated_name`` makes them."""

_KINDS = {kind[:n]: kind for kind in ("package", "config", "option", "list") for n in (1, len(kind))}


class UciError(ValueError):
    """Text that libuci refuses, with libuci's reason.

    ``line`` counts from 1 and is the last line read, ``byte`` counts from 0 in the statement's
    line (continuation lines included), both as libuci reports them, except that a last line
    without a newline counts as a line here. ``since`` is the line where that statement began.
    """

    def __init__(self, reason: str, line: int, byte: int = 0, since: int = 0) -> None:
        begun = f" (statement began in line {since})" if 0 < since < line else ""
        super().__init__(f"line {line}, byte {byte}: {reason}{begun}")
        self.reason = reason
        self.line = line
        self.byte = byte
        self.since = since or line


@dataclass(slots=True)
class Section:
    """A section; ``lines`` gives the line of each option's last statement, for messages."""

    type: str
    name: str
    anonymous: bool
    line: int
    options: dict[str, Value] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Package:
    """A file: its sections in order. Names are unique but for generated ones that were taken."""

    name: str
    sections: list[Section] = field(default_factory=list)

    def named(self, name: str) -> Section | None:
        """The first section of that name; anonymous ones have libuci's generated name."""
        return next((section for section in self.sections if section.name == name), None)

    def typed(self, type_: str) -> list[Section]:
        """All sections of a type, in order."""
        return [section for section in self.sections if section.type == type_]


class Word(NamedTuple):
    """An argument and where it stands in the text (quotes included)."""

    value: str
    start: int
    stop: int


@dataclass(slots=True)
class Statement:
    """One statement and where it stands: offsets into the text.

    ``start`` to ``stop`` is the statement itself, ``line_start`` to ``line_stop`` the lines it
    is on, newline included; several statements may share them. ``section`` is the index of the
    section that it belongs to, -1 before the first. ``name`` is a section's type for ``config``.
    """

    kind: str
    name: str
    value: Word
    section: int
    start: int
    stop: int
    line_start: int
    line_stop: int = 0


def decode(data: bytes) -> str:
    """Text of a file's bytes; what is not UTF-8 survives as lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The reverse of ``decode``."""
    return text.encode("utf-8", "surrogateescape")


def quote(value: str) -> str:
    r"""A value as libuci writes it: in single quotes, each ``'`` in it as ``'\''``."""
    return "'" + value.replace("'", "'\\''") + "'"


def parse(text: str, name: str = "config") -> Package:
    """What ``text`` says, as ``uci show`` of that file would; ``UciError`` where it is refused.

    A ``package`` statement is checked and otherwise ignored, as libuci does for a single file.
    """
    return _read(text, name, lambda _: None)


def dump(package: Package, *, header: bool = False) -> str:
    """The text that ``uci commit`` writes; with ``header``, what ``uci export`` prints."""
    parts = [f"package {package.name}\n"] if header else []
    for section in package.sections:
        # libuci writes types bare, although they may hold characters that need quotes
        name = "" if section.anonymous else f" {quote(section.name)}"
        parts.append(f"\nconfig {quote(section.type)[1:-1]}{name}\n")
        for option, value in section.options.items():
            if isinstance(value, str):
                parts.append(f"\toption {option} {quote(value)}\n")
            else:
                parts.extend(f"\tlist {option} {quote(item)}\n" for item in value)
    parts.append("\n")
    return "".join(parts)


def scan(text: str, name: str = "config") -> tuple[Package, list[Statement]]:
    """Like ``parse``, with the statements and their places, for those who change text."""
    statements: list[Statement] = []
    return _read(text, name, statements.append), statements


def outline(text: str) -> tuple[Package, list[int] | None]:
    """Like ``parse``, with the offset of the line where each section begins.

    ``None`` in place of the offsets where the text does not fall apart into its sections: one is
    opened twice, begins in the middle of a line, or has a name as libuci generates them.
    """
    starts: list[int] = []
    whole = False
    last = -1

    def see(statement: Statement) -> None:
        nonlocal whole, last
        if statement.kind == "config":
            whole |= statement.line_start == last or statement.section < len(starts)
            whole |= GENERATED.fullmatch(statement.value.value) is not None
            starts.append(statement.line_start)
        last = statement.line_start

    package = _read(text, "config", see)
    return package, None if whole else starts


def _read(text: str, name: str, see: Callable[[Statement], None]) -> Package:
    """The package, each statement being shown to ``see`` (before its ``line_stop`` is known)."""
    _check_text(text)
    package = Package(name)
    by_name: dict[str, int] = {}
    scanner = _Scanner(text)
    current = -1
    for statement in scanner.statements():
        if statement.kind == "config":
            current = _open_section(package, by_name, statement, scanner)
        elif statement.kind != "package":
            _add_value(package.sections[current], statement, scanner.line)
        statement.section = current
        see(statement)
    return package


def _check_text(text: str) -> None:
    try:
        size = len(encode(text))
    except UnicodeEncodeError as error:
        raise UciError("character that no file can hold", text.count("\n", 0, error.start) + 1) from None
    if size > MAX_BYTES:
        raise UciError(f"file of {size} bytes, the limit is {MAX_BYTES}", 1)
    nul = text.find("\0")
    if nul >= 0:
        raise UciError("NUL byte", text.count("\n", 0, nul) + 1)


def _open_section(
    package: Package, by_name: dict[str, int], statement: Statement, scanner: "_Scanner"
) -> int:
    """The index of the section that ``statement`` opens, or opens again."""
    type_, name = statement.name, statement.value.value
    known = by_name.get(name) if name else None
    if known is not None:
        if package.sections[known].type != type_:
            scanner.fail("section of different type overwrites prior section with same name")
        return known
    index = len(package.sections)
    if index >= MAX_SECTIONS:
        scanner.fail(f"more than {MAX_SECTIONS} sections")
    anonymous = not name
    if anonymous:
        name = generated_name(index + 1, type_)
    package.sections.append(Section(type_, name, anonymous, scanner.line))
    by_name.setdefault(name, index)
    return index


def _add_value(section: Section, statement: Statement, line: int) -> None:
    option, value = statement.name, statement.value.value
    old = section.options.get(option)
    if statement.kind == "list":
        if isinstance(old, list):
            old.append(value)
        else:
            section.options[option] = [value] if old is None else [old, value]
    elif value:
        section.options[option] = value  # in the place of an older one, be it a list or not
    else:
        return
    section.lines[option] = line


def generated_name(count: int, type_: str) -> str:
    """Name, as libuci generates it, of the anonymous section that is the ``count``-th of its file."""
    digest = 5381
    for char in type_:
        digest = (digest * 33 + ord(char)) & 0x7FFFFFFF
    return f"cfg{count:02x}{digest & 0xFFFF:04x}"


class _Scanner:
    """Splits text into statements.

    Like libuci it works on one line at a time and lets quotes and backslashes pull in the next:
    ``pos`` is the next character, ``end`` the end of what has been pulled in, ``following`` the
    start of the next line. ``end`` falls back to ``pos`` where the rest of a line is dropped.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.line = 0
        self.pos = self.end = self.following = 0
        self._begin = 0
        self._since = 0
        self._skipped = 0
        self._opened = False

    def statements(self) -> Iterator[Statement]:
        while self.following < len(self.text):
            self.pos = self._begin = self.following
            self._skipped = 0
            self._since = self.line + 1
            usual = _USUAL.match(self.text, self.pos)
            if usual is not None and (self._opened or not usual[1]):
                self.line += 1
                self.pos = self.end = self.following = usual.end()
                if usual.lastindex is not None:
                    yield self._usual_statement(usual)
                continue
            self._pull()
            self._skip_space()
            on_this_line = []
            while (statement := self._statement()) is not None:
                on_this_line.append(statement)
                yield statement
            for statement in on_this_line:
                statement.line_stop = self.following

    def fail(self, reason: str) -> NoReturn:
        """Raise ``UciError`` for the current position."""
        byte = len(encode(self.text[self._begin : self.pos])) - self._skipped
        raise UciError(reason, self.line, byte, self._since)

    def _usual_statement(self, usual: re.Match[str]) -> Statement:
        first = 1 if usual[1] else 4
        self._opened = True
        start, stop = usual.span(first + 2)
        if start < 0:  # no value is an empty one at the end of the line
            value = Word("", self.pos, self.pos)
            stop = usual.end(first + 1)
        elif self.text[start] == "'":
            value = Word(self.text[start + 1 : stop - 1], start, stop)
        else:
            value = Word(usual[first + 2], start, stop)
        kind, name = usual[first], usual[first + 1]
        return Statement(kind, name, value, -1, usual.start(first), stop, self._begin, self.following)

    def _pull(self) -> None:
        """Make the next line, if there is one, a part of the current one."""
        if self.following < len(self.text):
            newline = self.text.find("\n", self.following)
            self.end = self.following = newline + 1 or len(self.text)
            self.line += 1

    def _pull_until(self, pos: int) -> None:
        while self.end <= pos and self.following < len(self.text):
            self._pull()
        self.pos = pos

    def _char(self) -> str:
        return self.text[self.pos] if self.pos < self.end else ""

    def _skip_space(self) -> None:
        found = _NOT_SPACE.search(self.text, self.pos, self.end)
        self.pos = found.start() if found else self.end

    def _statement(self) -> Statement | None:
        command = _COMMAND.match(self.text, self.pos, self.end)
        if command is None or command[2].startswith("#"):
            return None
        kind = _KINDS.get(command[2])
        if kind is None:
            self.fail("invalid command")
        if kind in ("option", "list") and not self._opened:
            self.fail("option/list command found before the first section")
        if not command[3]:
            self.fail(f"{'option' if kind == 'list' else kind} without name")
        self.pos = command.end()
        name = self._argument(required=True)
        if kind == "package":
            self._check_name(name, _PACKAGE)
            value = name
        elif kind == "config":
            if not _TYPE.fullmatch(name.value):
                self.fail("invalid character in type field")
            value = self._argument()
            self._check_name(value, _NAME)
            self._opened = True
        else:
            self._check_name(name, _NAME)
            value = self._argument()
        stop = max(name.stop, value.stop) if value.value or value.start < value.stop else name.stop
        self._expect_end()
        return Statement(kind, name.value, value, -1, command.start(2), stop, self._begin)

    def _check_name(self, word: Word, allowed: re.Pattern[str]) -> None:
        if word.value and not allowed.fullmatch(word.value):
            self.fail("invalid character in name field")

    def _expect_end(self) -> None:
        if self._argument().value:
            self.fail("too many arguments")

    def _argument(self, *, required: bool = False) -> Word:
        self._skip_space()
        start = self.pos
        if self._char() == ";":
            word = Word("", start, start)
            self.pos += 1
        else:
            word = self._word()
        if required and not word.value:
            self.fail("insufficient arguments")
        return word

    def _word(self) -> Word:
        start = self.pos
        parts: list[str] = []
        while True:
            char = self._char()
            if char == "'":
                parts.append(self._single_quoted())
            elif char == '"':
                parts.append(self._double_quoted())
            elif char == "#":
                self.end = self.pos
            elif char == "\\":
                parts.append(self._escaped())
            elif plain := _PLAIN.match(self.text, self.pos, self.end):
                parts.append(plain[0])
                self.pos = plain.end()
            char = self._char()
            if char in _SPACE or char == ";":  # "" is in it, too
                break
        word = Word("".join(parts), start, self.pos)
        if char == ";":
            # libuci ends the word by a NUL behind it, which hits the ';' if nothing was unquoted
            if word.stop - word.start == len(word.value):
                self.end = self.pos
        elif char:
            self.pos += 1
        return word

    def _single_quoted(self) -> str:
        start = self.pos + 1
        stop = self.text.find("'", start)
        self._pull_until(stop if stop >= 0 else len(self.text))
        if stop < 0:
            self.fail("EOF with unterminated '")
        self.pos = stop + 1
        return self.text[start:stop]

    def _double_quoted(self) -> str:
        self.pos += 1
        parts: list[str] = []
        while True:
            run = _IN_DOUBLE_QUOTES.match(self.text, self.pos)
            if run:
                parts.append(run[0])
                self._pull_until(run.end())
            match self._char():
                case '"':
                    self.pos += 1
                    return "".join(parts)
                case "\\":
                    parts.append(self._escaped())
                case _:
                    self.fail('EOF with unterminated "')

    def _escaped(self) -> str:
        """What a backslash and what follows stand for: that character, or a line that goes on."""
        self.pos += 1
        if self.text.startswith(("\n", "\r\n"), self.pos) or not self._char():
            self._skipped += self.following - self.pos
            self.pos = self.following
            self._pull()
            return ""
        self.pos += 1
        return self.text[self.pos - 1]
