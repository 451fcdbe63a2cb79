# SPDX-License-Identifier: GPL-2.0-or-later
"""The table, for a terminal and for a Markdown file. Pure, no I/O."""

from collections.abc import Sequence

from bench.figures import Figure

HEAD = ("what", "target", "measured", "", "remarks")


def cells(figure: Figure) -> tuple[str, ...]:
    """One line's cells, in the order of ``HEAD``."""
    return (figure.what, figure.target_text(), figure.text(), figure.verdict, figure.note)


def plain(figures: Sequence[Figure]) -> str:
    """Aligned columns; the remarks come last, so that nothing has to be cut."""
    rows = [HEAD, *map(cells, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    rule = "  ".join("─" * width for width in [*widths, len(HEAD[-1])])
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], rule, *lines[1:]])


def markdown(figures: Sequence[Figure]) -> str:
    """The same as a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells(figure))} |" for figure in figures
    ]
    return "\n".join(lines)


def closing(figures: Sequence[Figure]) -> str:
    """How many targets were met, and which were not."""
    judged = [figure for figure in figures if figure.target is not None]
    missed = [figure.what for figure in judged if figure.verdict == "missed"]
    line = f"{len(judged) - len(missed)} of {len(judged)} targets met"
    return f"{line}; missed: {'; '.join(missed)}" if missed else line
