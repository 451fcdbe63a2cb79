# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/web-api.md holds the resources as they are. Run this file to write their table anew."""

import re
from pathlib import Path

from web_parts import web

from spind.web.rest import RESOURCES

DOCUMENT = Path(__file__).parents[2] / "docs" / "web-api.md"
BEGIN, END = "<!-- resources: begin -->\n", "<!-- resources: end -->\n"


def table() -> str:
    methods = web().api.methods
    lines = ["| resource | other arguments | method |", "|---|---|---|"]
    for each in RESOURCES:
        args = {arg.name: arg for name in each.methods for arg in methods[name].args}
        elsewhere = {*each.fixed, *re.findall(r"{(\w+)}", each.path)}
        left = [
            f"`{name}`{'?' if arg.optional or each.also else ''}"
            for name, arg in args.items()
            if name not in elsewhere
        ]
        fixed = "".join(f", `{name}` {value}" for name, value in each.fixed.items())
        called = " and ".join(f"`{name}`" for name in each.methods)
        lines.append(f"| `{each.verb} {each.path}` | {', '.join(left)} | {called}{fixed} |")
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    head, _, rest = text.partition(BEGIN)
    return head + BEGIN + table() + END + rest.partition(END)[2]


def test_the_documented_resources_are_the_resources() -> None:
    text = DOCUMENT.read_text()
    assert text == written(text), f"PYTHONPATH=.:tests/unit python {__file__} writes it anew"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
