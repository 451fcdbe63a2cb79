# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's numbers: medians, spreads, targets and the table."""

import pytest

from bench.figures import Figure, at_least, at_most, differences, exactly, medians, ratios
from bench.table import closing, markdown, plain


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (at_least(0.99), 0.99, "met"),
        (at_least(0.99), 0.9899, "missed"),
        (at_most(80), 80, "met"),
        (at_most(80), 80.01, "missed"),
        (exactly(100), 100, "met"),
        (exactly(100), 99.9999999, "missed"),
        (exactly(0), 1, "missed"),
        (None, 5, ""),
    ],
)
def test_a_verdict_is_about_the_number_before_it_is_rounded(target, value, verdict):
    assert Figure("row", "what", (value,), target=target, digits=1).verdict == verdict


def test_the_middle_counts_and_the_spread_is_shown():
    figure = Figure("row", "what", (5.0, 1.0, 3.04), "ms", at_most(1000), digits=1)
    assert figure.value == 3.04
    assert figure.text() == "3.0 ms (1.0 to 5.0)"
    assert figure.target_text() == "≤ 1,000 ms"
    assert Figure("row", "what", (12345.6,), digits=0).text() == "12,346"
    assert Figure("row", "what", (1.0,)).target_text() == "-"
    assert Figure("row", "what", (1.0,), "%", exactly(100)).target_text() == "100 %"


def test_pairs_are_without_and_with():
    pairs = [(10.0, 9.0), (20.0, 30.0), (0.0, 1.0)]
    assert ratios(pairs) == (0.9, 1.5)
    assert differences(pairs) == (-1.0, 10.0, 1.0)
    assert medians(pairs) == (10.0, 9.0)


def figures():
    return [
        Figure("one", "first | thing", (1.0,), "%", at_most(2), note="a note"),
        Figure("two", "second", (3.0, 4.0), "", at_most(2)),
        Figure("two", "told only", (7.0,), "MB"),
    ]


def test_the_table_lines_up():
    lines = plain(figures()).splitlines()
    assert len(lines) == 5
    assert {line.index(mark) for line, mark in zip(lines[2:4], ("≤", "≤"), strict=True)} == {15}
    assert lines[2].endswith("met     a note")
    assert not any(line.endswith(" ") for line in lines)


def test_the_table_as_markdown_has_one_line_for_each_figure():
    lines = markdown(figures()).splitlines()
    assert len(lines) == 5
    assert lines[2] == "| first \\| thing | ≤ 2 % | 1.0 % | met | a note |"


def test_the_closing_line_counts_those_with_a_target():
    assert closing(figures()) == "1 of 2 targets met; missed: second"
    assert closing(figures()[:1]) == "1 of 1 targets met"


def test_the_record_has_every_sample():
    record = figures()[1].as_json()
    assert record["samples"] == [3.0, 4.0]
    assert record["target"] == ["<=", 2]
    assert (record["value"], record["verdict"]) == (3.5, "missed")
