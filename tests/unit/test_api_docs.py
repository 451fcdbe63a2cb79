# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/api.md holds the table of methods as it is. Run this file to write the table anew."""

from pathlib import Path

from test_engine import T0, home

from spind.api import Api

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
BEGIN, END = "<!-- methods: begin -->\n", "<!-- methods: end -->\n"


def table() -> str:
    methods = Api(home(), lambda: T0, lambda _commands: None).methods
    lines = ["| method | arguments | what it does |", "|---|---|---|"]
    for method in methods.values():
        arguments = "<br>".join(
            f"`{arg.name}`{'?' if arg.optional else ''} {arg.type}: {arg.doc}".replace("|", "\\|")
            for arg in method.args
        )
        name = f"`{method.name}`" + (" ✎" if method.writes else "")
        lines.append(f"| {name} | {arguments or 'none'} | {method.doc} |")
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    head, _, rest = text.partition(BEGIN)
    return head + BEGIN + table() + END + rest.partition(END)[2]


def test_the_documented_methods_are_the_methods() -> None:
    text = DOCUMENT.read_text()
    assert text == written(text), f"PYTHONPATH=. python {__file__} writes it anew"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
