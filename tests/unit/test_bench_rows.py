# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's rows, its command line, and how it compares bytes."""

from pathlib import Path

import pytest

from bench.cli import main, parser, settings_of
from bench.rows import UnknownRowError, catalogue, choose
from bench.rows_truth import Comparison, compare

REPOSITORY = Path(__file__).resolve().parents[2]


def names(rows):
    return [row.name for row in rows]


def test_each_row_has_a_name_of_its_own_and_is_explained():
    rows = catalogue()
    assert len(set(names(rows))) == len(rows)
    text = (REPOSITORY / "bench" / "README.md").read_text()
    assert [name for name in names(rows) if f"`{name}`" not in text] == []


def test_rows_are_chosen_by_name_or_by_family_in_the_order_of_the_table():
    rows = catalogue()
    assert choose("", rows) == rows
    assert names(choose("latency,throughput-6", rows)) == ["throughput-6", "latency"]
    assert names(choose(" cpu , cpu-idle", rows)) == ["cpu-dns", "cpu-connections", "cpu-idle"]
    with pytest.raises(UnknownRowError, match=r"no row 'cp'; there are: throughput-4"):
        choose("cp", rows)


def test_quick_is_shorter_and_numbers_given_count():
    thorough, quick = (settings_of(parser().parse_args(words)) for words in ([], ["--quick"]))
    assert quick.pairs < thorough.pairs
    assert quick.seconds < thorough.seconds
    given = settings_of(parser().parse_args(["--quick", "--seconds", "7", "--pairs", "2", "--patience", "9"]))
    assert (given.pairs, given.seconds, given.quick, given.patience) == (2, 7, True, 9)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "nothing"], "no row 'nothing'"),
        (["--pairs", "0"], "--pairs is 1 to 100, not 0"),
        (["--seconds", "0.5"], "--seconds is 1 to 300, not 0.5"),
        (["--patience", "-1"], "--patience is 0 to 3600, not -1"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_help_lists_every_row(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in names(catalogue()))
    assert main(["--list", "--rows", "cpu"]) == 0
    assert capsys.readouterr().out == "cpu-dns\ncpu-connections\ncpu-idle\n"


def test_too_much_for_one_does_not_hide_too_little_for_another():
    kernel = {("tv", 4): (100, 900), ("hub", 4): (500, 500), ("tv", 6): (7, 7)}
    counted = {("tv", 4): (110, 900), ("hub", 4): (490, 500), ("tv", 6): (7, 7), ("other", 4): (1, 1)}
    found = compare(4, kernel, counted)
    assert (found.kernel, found.off, found.worst) == (2000, 20, "tv +10 up +0 down")
    assert found.percent == pytest.approx(99.0)
    assert compare(6, kernel, counted) == Comparison(14, 0)
    assert compare(6, kernel, counted).percent == 100
    assert compare(4, {("tv", 4): (10, 0)}, {}).percent == 0
    assert compare(4, {}, {}).percent == 0


def test_what_conntrack_refused_is_no_difference():
    found = Comparison(1000, 120, "phone -120 up +0 down")
    assert found.less(0) is found
    assert found.less(120) == Comparison(880, 0)
    assert found.less(60) == Comparison(940, 60, "phone -120 up +0 down")
    assert found.less(180).off == 60
