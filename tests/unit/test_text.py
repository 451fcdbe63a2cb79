# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile text made inert."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.text import REPLACEMENT, inert, json_text


@pytest.mark.parametrize("text", ["Küche", "テレビ", "🚪 door", "", "a b", "👨\u200d👩"])
def test_what_prints_stays(text):
    assert inert(text) == text


@pytest.mark.parametrize("char", "\x00\n\r\x1b\x7f\x9b\u202e\u2066\u2028\ud800\ufeff")
def test_what_does_not_print_is_replaced(char):
    assert inert(f"a{char}b") == f"a{REPLACEMENT}b"


def test_limit():
    assert inert("x" * 5000) == "x" * 1024
    assert inert("x" * 5000, 3) == "xxx"


JSON = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_json_means_the_same_and_prints(value):
    for indent in (None, 2):
        text = json_text(value, indent=indent)
        assert json.loads(text) == value
        assert all(line.isprintable() for line in text.split("\n"))
        assert indent or "\n" not in text


def test_json_escapes_beyond_the_basic_plane():
    assert json_text("\U000e0001") == '"\\udb40\\udc01"'
