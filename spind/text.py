# SPDX-License-Identifier: GPL-2.0-or-later
"""Text from the network made safe to show to people; pure.

Names in a home are chosen by devices and by strangers' DNS servers. Printed as they are they
could move a terminal's cursor, forge log lines, or turn the reading direction around. This
module owns the two ways out: ``inert`` for prose and tables, ``json_text`` for JSON. It must
not decide what a name means.
"""

import json

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_JOINER = "\u200d"  # zero width: joins emoji, and does nothing else


def inert(text: str, limit: int = 1024) -> str:
    """``text`` with every character that does not simply print replaced, cut to ``limit``.

    Control and escape characters, line and paragraph separators, format characters (which
    include those that change direction) and lone surrogates do not print (``str.isprintable``);
    the zero-width joiner, which names may hold, is let through.
    """
    text = text[:limit]
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == _JOINER else REPLACEMENT for char in text)


def json_text(value: object, *, indent: int | None = None) -> str:
    r"""``value`` as JSON whose characters all print, other than the line ends of ``indent``.

    Characters that do not print stand as ``\u`` escapes (RFC 8259 section 7), so the text
    means the same to a parser.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    if text.isprintable():
        return text
    return "".join(char if char == "\n" or char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return json.dumps(char)[1:-1]
