# SPDX-License-Identifier: GPL-2.0-or-later
"""UCI texts for tests: random ones, of which about half are valid, from a seed."""

import random

_WORDS = ["a", "foo", "b_c", "x1", "é", "b-c", "=", "a'b'c", 'd"e f"g', r"e\ f", r"g\;h", r"i\#j", r"\\"]
_QUOTED = [
    "'q r'",
    r"'it'\''s'",
    '"d\\"q"',
    '"x\\\\y"',
    "''",
    '""',
    "'m\nn'",
    '"m\nn"',
    '"m\\\nn"',
    '"m\\\r\nn"',
    r"'back\slash'",
    "'#;'",
    "'tab\there'",
]
_TROUBLE = [";", "v;", "'u';", "#", "x#y", "\\", "'", '"', "g\\\nh", "\\\n", "\\\r\n", "\v", "\x7f", "\udc80"]
_GAPS = [" "] * 12 + ["\t", "  ", " \\\n", "\f"]
_ENDS = ["\n"] * 14 + ["\r\n", " # why\n", "#why\n", " ; ", ";", " \\\n\n", ""]
_STARTS = ["", "", "", "\t", "    ", "\v"]
_LINES = [
    "# a comment\n",
    "\n",
    "\t# option a b\n",
    "package x\n",
    "package 'x-y'\n",
    ";\n",
    "list\n",
    "bogus x\n",
]


def random_text(rng: random.Random, trouble: float = 0.05) -> str:
    """A text of some sections; ``trouble`` is the share of words and lines that ask for it."""
    out: list[str] = []

    def word(usual: list[str]) -> str:
        if rng.random() < trouble:
            return rng.choice(_TROUBLE + _WORDS + _QUOTED)
        return rng.choice(usual)

    for _ in range(rng.randint(0, 4)):
        out += [rng.choice(_STARTS), rng.choice(["config", "config", "c"]), rng.choice(_GAPS)]
        out.append(word(["device", "rule", "spind", "'device'", "t-1"]))
        if rng.random() < 0.5:
            out += [rng.choice(_GAPS), word(["n1", "'n2'", '"n3"', "cfg01a6e2"])]
        out.append(rng.choice(_ENDS))
        for _ in range(rng.randint(0, 4)):
            if rng.random() < 2 * trouble:
                out.append(rng.choice(_LINES[:3] if rng.random() < 0.7 else _LINES))
            out += [rng.choice(_STARTS), rng.choice(["option", "option", "list", "list", "o", "l"])]
            out += [rng.choice(_GAPS), word(["mac", "name", "x", "'x'"])]
            if rng.random() < 0.97:
                out += [rng.choice(_GAPS), word(_QUOTED + _WORDS)]
            out.append(rng.choice(_ENDS))
    text = "".join(out)
    if rng.random() < trouble:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(_TROUBLE) + text[at + rng.randint(0, 2) :]
    return text
