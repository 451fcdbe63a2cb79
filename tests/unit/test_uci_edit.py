# SPDX-License-Identifier: GPL-2.0-or-later
import random

import pytest
from uci_changes import apply, random_changes
from uci_texts import random_text

from spind.uci import UciError, parse, scan
from spind.uci_edit import AddSection, RemoveOption, RemoveSection, SetList, SetOption, edit

FILE = """\
# What this file is for

config spind 'spind'
	# where the broker is
	option pubsub_host 127.0.0.1   # here
	list lan 'lan'
	list lan 'guest'  # the visitors
	list lan 'iot'

# my printer
config device
	option mac 'aa:bb:cc:dd:ee:ff'
	option name 'Printer'

config device 'tv'
	option mac '11:22:33:44:55:66'
"""


def difference(change, text=FILE):
    """Lines that a change removes and adds, as ``-line`` and ``+line``, in order."""
    before, after = text.splitlines(), edit(text, [change]).splitlines()
    while before and after and before[0] == after[0]:
        del before[0], after[0]
    while before and after and before[-1] == after[-1]:
        del before[-1], after[-1]
    return ["-" + line for line in before] + ["+" + line for line in after]


def test_a_value_is_replaced_and_nothing_else():
    assert difference(SetOption("spind", "pubsub_host", "it's")) == [
        "-\toption pubsub_host 127.0.0.1   # here",
        "+\toption pubsub_host 'it'\\''s'   # here",
    ]


def test_a_value_that_is_there_already_changes_nothing():
    assert edit(FILE, [SetOption("spind", "pubsub_host", "127.0.0.1")]) == FILE
    assert edit(FILE, [SetList("spind", "lan", ["lan", "guest", "iot"])]) == FILE
    assert edit(FILE, [RemoveOption("spind", "pubsub_port")]) == FILE


def test_a_new_option_goes_behind_the_last_of_its_section():
    assert difference(SetOption("spind", "mode", "bridge")) == ["+\toption mode 'bridge'"]
    assert edit(FILE, [SetOption("spind", "mode", "bridge")]).splitlines()[8] == "\toption mode 'bridge'"


def test_a_new_option_is_indented_like_its_neighbour():
    assert difference(SetOption("s", "b", "2"), "config s s\n  option a 1\n") == ["+  option b '2'"]
    assert difference(SetOption("s", "b", "2"), "  config s s\n") == ["+\toption b '2'"]


def test_list_items_that_stay_keep_their_lines():
    assert difference(SetList("spind", "lan", ["guest", "iot", "cellar"])) == [
        "-\tlist lan 'lan'",
        "-\tlist lan 'guest'  # the visitors",
        "-\tlist lan 'iot'",
        "+\tlist lan 'guest'  # the visitors",
        "+\tlist lan 'iot'",
        "+\tlist lan 'cellar'",
    ]


def test_a_list_in_another_order():
    text = edit(FILE, [SetList("spind", "lan", ["iot", "lan"])])
    assert parse(text).named("spind").options["lan"] == ["iot", "lan"]


def test_an_option_becomes_a_list_without_what_it_overrode():
    text = "config s s\n\tlist a 1\n\toption a 2\n"
    assert edit(text, [SetList("s", "a", ["2", "3"])]) == "config s s\n\tlist a '2'\n\tlist a '3'\n"


def test_a_list_becomes_an_option():
    assert edit("config s s\n\tlist a 1\n\tlist a 2 # c\n\tlist b 3\n", [SetOption("s", "a", "4")]) == (
        "config s s\n\toption a '4'\n\tlist b 3\n"
    )


def test_an_option_is_removed_with_its_line():
    assert difference(RemoveOption("spind", "pubsub_host")) == ["-\toption pubsub_host 127.0.0.1   # here"]
    assert difference(SetList("spind", "lan", [])) == [
        "-\tlist lan 'lan'",
        "-\tlist lan 'guest'  # the visitors",
        "-\tlist lan 'iot'",
    ]


def test_an_anonymous_section_goes_by_its_generated_name():
    name = parse(FILE).sections[1].name
    assert name.startswith("cfg02")
    assert difference(SetOption(name, "name", "Drucker")) == [
        "-\toption name 'Printer'",
        "+\toption name 'Drucker'",
    ]


def test_sections_come_and_go_without_a_trace():
    change = AddSection("device", "", {"mac": "00:00:00:00:00:01", "tags": ["a", "b"]})
    longer = edit(FILE, [change])
    assert longer == FILE + (
        "\nconfig device\n\toption mac '00:00:00:00:00:01'\n\tlist tags 'a'\n\tlist tags 'b'\n"
    )
    assert edit(longer, [RemoveSection(parse(longer).sections[-1].name)]) == FILE


def test_comments_on_their_own_lines_survive_their_section():
    shorter = edit(FILE, [RemoveSection(parse(FILE).sections[1].name), RemoveSection("spind")])
    assert [line for line in shorter.splitlines() if line] == [
        "# What this file is for",
        "\t# where the broker is",
        "# my printer",
        "config device 'tv'",
        "\toption mac '11:22:33:44:55:66'",
    ]


def test_a_section_in_parts_is_removed_in_all_of_them():
    text = "config s x\n\toption a 1\n\nconfig t y\n\nconfig s x\n\toption b 2\n"
    assert edit(text, [SetOption("x", "c", "3")]) == text + "\toption c '3'\n"
    assert edit(text, [RemoveSection("x")]) == "\nconfig t y\n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("config s s ; option a 1 ; option b 2", "config s 's'\n\toption a 'x'\n\toption b '2'\n"),
        ("config s s\noption a 1;option b 2\n", "config s s\noption a 'x' # ;option b 2\n"),
        ("config s s\noption a 1 \\\n# why\n", "config s s\noption a 'x' # why\n"),
        ("config s s\noption a\n", "config s s\noption a ''\n\toption a 'x'\n"),
        ("config s s\noption a 1 \\", "config s s\noption a 'x'\n"),
        ("config s s\noption a 1\\\n", "config s s\noption a 'x'\n"),
        ("config s s\noption a '1\n2' # why", "config s s\noption a 'x' # why"),
    ],
)
def test_lines_that_are_hard_to_change_are_written_out(text, expected):
    result = edit(text, [SetOption("s", "a", "x")])
    assert parse(result).named("s").options["a"] == "x"
    assert [line.strip() for line in result.splitlines()] == [line.strip() for line in expected.splitlines()]


def test_a_file_that_ends_in_the_middle_of_a_line():
    for text in ("config s s\noption a 1", "config s s\noption a 1 \\\n", "config s s # c"):
        assert parse(edit(text, [SetOption("s", "b", "2")])).named("s").options["b"] == "2"
        assert parse(edit(text, [AddSection("t", "n", {})])).named("n").type == "t"


def test_new_lines_end_as_the_others_do():
    text = "config s s\r\n\toption a 1\r\n"
    assert edit(text, [SetOption("s", "b", "2")]) == text + "\toption b '2'\r\n"
    assert edit(text, [AddSection("t", "", {"b": "2"})]) == text + "\r\nconfig t\r\n\toption b '2'\r\n"


@pytest.mark.parametrize(
    "change",
    [
        SetOption("spind", "mode", ""),
        SetOption("spind", "a-b", "x"),
        SetOption("spind", "", "x"),
        SetOption("spind", "mode", "a\0b"),
        SetOption("spind", "mode", "a\x1b[0m"),
        SetOption("spind", "mode", "\ud800"),
        SetOption("nobody", "mode", "x"),
        SetList("spind", "lan", ["a", "\x07"]),
        RemoveOption("nobody", "x"),
        RemoveSection("nobody"),
        AddSection("spind", "spind", {}),
        AddSection("device", "a b", {}),
        AddSection("de vice", "", {}),
        AddSection("device", "", {"mac": ""}),
        AddSection("device", "", {"mac": []}),
        AddSection("device", "", {"ma c": "x"}),
    ],
)
def test_what_uci_cannot_hold_is_refused(change):
    with pytest.raises(ValueError, match=r"\w") as caught:
        edit(FILE, [change])
    assert not isinstance(caught.value, UciError)


def test_text_that_is_no_uci_is_refused():
    with pytest.raises(UciError):
        edit("config s 's\n", [AddSection("t", "", {})])


def comment_lines(text):
    _, statements = scan(text)
    within = [(statement.line_start, statement.line_stop) for statement in statements]
    at = 0
    for line in text.split("\n"):
        if line.lstrip(" \t\v\f\r").startswith("#") and not any(start <= at < stop for start, stop in within):
            yield line.rstrip("\r")
        at += len(line) + 1


@pytest.mark.parametrize("seed", range(4))
def test_any_change_of_any_text_says_what_was_asked_and_keeps_comments(seed):
    rng = random.Random(seed)
    done = 0
    while done < 250:
        text = random_text(rng)
        try:
            expected = parse(text)
        except UciError:
            continue
        changes = random_changes(rng, parse(text))
        for change in changes:
            apply(expected, change)
        result = edit(text, changes)
        said = [(s.type, s.name, s.anonymous, s.options) for s in parse(result).sections]
        assert said == [(s.type, s.name, s.anonymous, s.options) for s in expected.sections], (text, changes)
        left = comment_lines(result)
        assert all(line in left for line in comment_lines(text)), (text, changes, result)
        assert edit(result, [c for c in changes[-1:] if isinstance(c, SetOption)]) == result
        done += 1
