# SPDX-License-Identifier: GPL-2.0-or-later
"""A sheet beside the editor that reads the whole text for each change."""

import random

import pytest
from uci_changes import random_changes
from uci_texts import random_text

from spind import uci_sheet
from spind.uci import UciError, decode, encode, outline, parse
from spind.uci_edit import AddSection, RemoveOption, RemoveSection, SetList, SetOption, edit
from spind.uci_sheet import Sheet

TEXT = """\
# what this is for

config spind 'spind'
	option mode router

# a rule of mine
config rule
	option action 'block'

config rule 'rule7'
	option action 'allow'  # why
	# between
	option comment 'two
config rule lines'

config rule
	option action 'block'
"""


def identity(section):
    return f"= {section.type}" if section.type in {"device", "spind"} else ""


def cut(text):
    return Sheet.cut(encode(text), identity)


def text_of(sheet):
    return decode(sheet.data)


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("", []),
        ("# x\n", []),
        ("config a b\n\n# c\n  config d e", [0, 16]),
        ("config a b\n\toption c 'x\nconfig d'\nconfig e\n", [0, 34]),
        ("config a b\n\toption c d \\\n\nconfig e\n", [0, 26]),
        ("config a b '' config c d\n", None),
        ("config a b\noption c d '' config e\n", None),
        ("config a b\nconfig c d\nconfig a b\n", None),
        ("config a cfg01a6e2\n", None),
        ("package x\nconfig a\n", [10]),
    ],
)
def test_where_sections_begin(text, starts):
    assert outline(text)[1] == starts
    assert text_of(cut(text)) == text


def test_what_is_where():
    sheet = cut(TEXT)
    assert [*sheet.keys] == [section.name for section in parse(TEXT).sections]
    assert (sheet.find("= spind"), sheet.find("= device"), sheet.type("rule7"), sheet.type("x")) == (
        "spind",
        "",
        "rule",
        "",
    )
    assert sheet.section("rule7").options["comment"] == "two\nconfig rule lines"
    with pytest.raises(KeyError):
        sheet.section("x")


def test_one_change_reads_no_other_section(monkeypatch):
    text = TEXT + "".join(f"\nconfig rule 'r{n}'\n\toption action 'block'\n" for n in range(500))
    sheet = cut(text)
    read = []
    real = uci_sheet.outline
    monkeypatch.setattr(uci_sheet, "outline", lambda text: read.append(len(text)) or real(text))
    monkeypatch.setattr(
        uci_sheet, "edit", lambda text, changes: read.append(len(text)) or edit(text, changes)
    )
    sheet.set("r100", {"action": "allow"})
    sheet.remove("r200")
    sheet.add("rule", "r600", {"action": "block"})
    assert len(read) == 6
    assert max(read) < 200
    changes = [
        SetOption("r100", "action", "allow"),
        RemoveSection("r200"),
        AddSection("rule", "r600", {"action": "block"}),
    ]
    assert text_of(sheet) == edit(text, changes)


def test_a_copy_leaves_the_other_alone():
    sheet = cut(TEXT)
    copy = sheet.copy()
    copy.remove("rule7")
    copy.add("device", "", {"mac": "x"})
    assert text_of(sheet) == TEXT
    assert "rule7" in sheet.keys
    assert sheet.find("= device") == ""
    assert copy.find("= device") != ""


def test_keys_of_anonymous_sections_stay():
    sheet = cut(TEXT)
    _, first, _, last = sheet.keys
    sheet.remove(first)
    sheet.set(last, {"comment": "this one"})
    assert parse(text_of(sheet)).sections[-1].options["comment"] == "this one"
    new = sheet.add("rule", "", {"action": "block"})
    assert new not in {first, last}


def test_keys_are_adopted_where_others_changed_the_text():
    before = cut(
        "config r\n\toption a 1\nconfig r\n\toption a 2\nconfig r\n\toption a 3\nconfig r\n\toption a 2\n"
    )
    one, two, three, four = before.keys
    now = cut(
        "config r\n\toption a 3 # x\nconfig q\nconfig r\n\toption a '2'\nconfig r x\nconfig r\n\toption a 2\n"
    )
    now.adopt_keys(before)
    assert now.section(three).options == {"a": "3"}
    assert [key for key in now.keys if key in {two, four}] == [two, four]
    assert one not in now.keys
    now.remove(two)
    now.remove(three)
    assert [(s.type, s.options) for s in parse(text_of(now)).sections] == [
        ("q", {}),
        ("r", {}),
        ("r", {"a": "2"}),
    ]


def test_a_name_that_others_took_is_theirs():
    before = cut("config r\n\toption a 1\n")
    (key,) = before.keys
    now = cut(f"config r {key}\n\toption a 2\nconfig r\n\toption a 1\n")
    now.adopt_keys(before)
    assert now.section(key).options == {"a": "2"}


def test_names_that_are_taken_or_look_generated_are_refused():
    sheet = cut(TEXT)
    for name in ("spind", "rule7", "cfg0123ab", "a-b", "é"):
        with pytest.raises(ValueError):
            sheet.add("rule", name, {"a": "1"})
        assert text_of(sheet) == TEXT


def test_bounds(monkeypatch):
    sheet = cut(TEXT)
    monkeypatch.setattr(uci_sheet, "MAX_SECTIONS", 5)
    sheet.add("rule", "a", {"x": "1"})
    with pytest.raises(UciError, match="more than 5 sections"):
        sheet.add("rule", "b", {"x": "1"})
    monkeypatch.setattr(uci_sheet, "MAX_BYTES", len(TEXT))
    with pytest.raises(UciError, match="limit"):
        _ = sheet.data


def perform(sheet, change, keys):
    """A change of ``uci_edit`` made in a sheet; ``keys`` are those of the sections, in order."""
    if isinstance(change, AddSection):
        keys.append(sheet.add(change.type, change.name, change.options))
        return
    names = [section.name for section in parse(text_of(sheet)).sections]
    key = keys[names.index(change.section)]
    match change:
        case SetOption(_, option, value):
            sheet.set(key, {option: value})
        case SetList(_, option, values):
            sheet.set(key, {option: list(values)})
        case RemoveOption(_, option):
            sheet.set(key, {option: ""})
        case RemoveSection():
            sheet.remove(key)
            keys.remove(key)


@pytest.mark.parametrize("trouble", [0.0, 0.05, 0.3])
def test_changes_are_those_of_the_editor(trouble):
    rng = random.Random(f"sheet {trouble}")
    done = whole = same = 0
    while done < 500:
        text = random_text(rng, trouble)
        try:
            package = parse(text)
            expected = edit(text, changes := random_changes(rng, package))
        except UciError:
            continue
        sheet = cut(text)
        whole += outline(text)[1] is None
        keys = [*sheet.keys]
        try:
            for change in changes:
                perform(sheet, change, keys)
        except UciError:
            # a name like a generated one, which the editor lets pass
            assert "cfg" in text
            continue
        result = text_of(sheet)
        assert [(s.type, "" if s.anonymous else s.name, s.options) for s in parse(result).sections] == [
            (s.type, "" if s.anonymous else s.name, s.options) for s in parse(expected).sections
        ], repr(text)
        same += result == expected
        assert [*sheet.keys] == keys
        again = cut(result)
        assert again.anonymous().keys() == sheet.anonymous().keys()
        done += 1
    assert same > 0.97 * done
    assert trouble == 0 or whole > 10
