# SPDX-License-Identifier: GPL-2.0-or-later
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uci_texts import random_text

from spind.uci import MAX_BYTES, MAX_SECTIONS, UciError, decode, dump, encode, parse, quote, scan


def refusal(text):
    with pytest.raises(UciError) as caught:
        parse(text)
    return caught.value


def test_lines_of_sections_and_options_are_known():
    package = parse("\nconfig s x\n# c\n\toption a 1\n\tlist b 1\n\tlist b 2\n\nconfig s x\n\toption a 2\n")
    (section,) = package.sections
    assert section.line == 2
    assert section.lines == {"a": 9, "b": 6}


def test_sections_are_found_by_name_and_type():
    package = parse("config s x\nconfig t y\nconfig s\n")
    assert package.named("y").type == "t"
    assert package.named("z") is None
    assert [section.name for section in package.typed("s")] == ["x", "cfg03b618"]


def test_an_error_says_where():
    error = refusal("config s\n\toption a 'b'\n\toption c d e\n")
    assert (error.reason, error.line, error.since) == ("too many arguments", 3, 3)
    assert str(error) == "line 3, byte 14: too many arguments"


def test_an_open_quote_says_where_its_statement_began():
    error = refusal("config s\n\toption a 'b\n\n\n")
    assert str(error) == "line 4, byte 15: EOF with unterminated ' (statement began in line 2)"


def test_bytes_that_are_not_utf8_survive():
    data = b"config s\n\toption a '\xff\xfe \xc3\xa9'\n"
    package = parse(decode(data))
    assert encode(dump(package)).strip() == data.strip()


def test_nul_is_refused_with_its_line():
    error = refusal("config s\n\toption a 'b\0c'\n")
    assert (error.reason, error.line) == ("NUL byte", 2)


def test_surrogates_that_stand_for_no_byte_are_refused():
    error = refusal("config s\n\toption a '\ud800'\n")
    assert error.line == 2


def test_size_is_bounded_in_bytes():
    comment = "#" + "é" * (MAX_BYTES // 2 - 1)
    assert parse(comment + "\n").sections == []
    assert "limit" in refusal(comment + "é\n").reason


def test_sections_are_bounded():
    text = "config s\n" * MAX_SECTIONS
    assert len(parse(text).sections) == MAX_SECTIONS
    error = refusal(text + "config s\n")
    assert "sections" in error.reason
    assert error.line == MAX_SECTIONS + 1


@pytest.mark.parametrize(
    "text",
    [
        "config s\n" + "option a b\n" * 90_000,
        "config s\n" + "list a b\n" * 110_000,
        "config s\noption a " + "'b'" * 300_000 + "\n",
        "config s\noption a " + '"b\\"\n"' * 150_000 + "\n",
        "config s\noption a " + "\\\n" * 400_000 + "b\n",
        "config s\noption a 'b'" + " ; option a 'b'" * 60_000,
        "config s\noption a '" + "\n" * 1_000_000,
        "\n" * 1_000_000,
    ],
    ids=lambda text: repr(text[:30]),
)
def test_time_grows_with_size_only(text):
    """A quadratic step would take minutes on these; the bound has room for a slow machine."""
    started = time.process_time()
    try:
        parse(text)
    except UciError:
        pass
    assert time.process_time() - started < 20


@given(st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("\udc80\n\t ;#\\'\"\r")))
@settings(max_examples=300, deadline=None)
def test_nothing_but_the_own_error_escapes(text):
    for candidate in (text, "config s\n" + text):
        line = 1
        try:
            parse(candidate)
        except UciError as error:
            line = error.line
        assert 1 <= line <= candidate.count("\n") + 1


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1))
@settings(max_examples=300, deadline=None)
def test_every_value_can_be_quoted(value):
    package = parse(f"config s\n\toption a {quote(value)}\n\tlist b {quote(value)}\n")
    assert package.sections[0].options == {"a": value, "b": [value]}
    assert parse(dump(package)).sections[0].options == package.sections[0].options


def test_statements_stand_where_scan_says():
    rng = random.Random(4)
    seen = 0
    for _ in range(500):
        text = random_text(rng)
        try:
            _, statements = scan(text)
        except UciError:
            continue
        end = 0
        for statement in statements:
            itself = text[statement.start : statement.stop]
            assert itself[0] in "pcol"
            assert end <= statement.start < statement.stop <= statement.line_stop
            assert statement.line_start == 0 or text[statement.line_start - 1] == "\n"
            assert parse("config s\n" * (itself[0] in "ol") + itself + "\n") is not None
            end = statement.stop
            seen += 1
    assert seen > 500
