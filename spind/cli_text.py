# SPDX-License-Identifier: GPL-2.0-or-later
"""Between words of the command line and values of the methods; pure.

Owns how ``name=value`` becomes an argument of the type that the method declares, and how a
nested result becomes lines for people. It must not know any method.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from spind.text import inert

_TRUTH = {"true": True, "yes": True, "on": True, "1": True}
_TRUTH |= {"false": False, "no": False, "off": False, "0": False}
_WRITTEN = {"string": "text", "integer": "a whole number", "boolean": "true or false", "complex": "JSON"}


class UsageError(ValueError):
    """The words do not fit the method; the sentence says what would."""


def parse_arguments(
    words: Sequence[str], method: str, methods: Sequence[Mapping[str, Any]]
) -> dict[str, object]:
    """The arguments of ``method`` from ``name=value`` words; ``UsageError``.

    ``methods`` is what ``list_rpc_methods`` answers. A text argument takes the value as it
    stands, so that a device can be named ``42``. Where the type is not known (another name,
    another method: the daemon then says so) a value is JSON if it can be, else text.
    """
    types = _types(method, methods)
    values: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{word!r} is not of the form name=value")
        if name in values:
            raise UsageError(f"{name} is given twice")
        kind = types.get(name)
        try:
            values[name] = _value(kind, text)
        except ValueError as error:
            raise UsageError(f"{name} must be {_WRITTEN[kind or 'complex']}, not {text!r}") from error
    return values


def _types(method: str, methods: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    for each in methods:
        if each["rpc-name"] == method:
            return {str(arg["rpc-arg-name"]): str(arg["rpc-arg-type"]) for arg in each["rpc-args"]}
    return {}


def _value(kind: str | None, text: str) -> object:
    if kind == "string":
        return text
    if kind == "integer":
        return int(text)
    if kind == "boolean":
        if text.lower() not in _TRUTH:
            raise ValueError(text)
        return _TRUTH[text.lower()]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if kind == "complex":
            raise ValueError(text) from None
        return text


def readable(value: object, indent: str = "") -> list[str]:
    """A result of JSON types as indented lines: ``name: value``, lists with dashes."""
    lines: list[str] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            name = f"{indent}{inert(str(key))}:"
            lines += _entry(name, inner, indent + "  ")
    elif isinstance(value, list):
        for inner in value:
            lines += _entry(f"{indent}-", inner, indent + "  ")
    else:
        lines.append(indent + _plain(value))
    return lines


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines: each column as wide as it must be, the last one as long as it is."""
    lines = [[inert(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    return [
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]
        ).rstrip()
        for line in lines
    ]


def _entry(head: str, value: object, indent: str) -> list[str]:
    if isinstance(value, dict | list):
        return [head, *readable(value, indent)] if value else [f"{head} none"]
    return [f"{head} {_plain(value)}"]


def _plain(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return inert(str(value)) or "-"
