# SPDX-License-Identifier: GPL-2.0-or-later
"""Names: what comes in as DNS labels and what is claimed in TLS and HTTP."""

import dns.name
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.wire.hostname import escape, from_labels, from_text


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([], ""),
        ([b"www", b"Example", b"COM"], "www.example.com"),
        ([b"_dns-sd", b"_udp"], "_dns-sd._udp"),
        ([b"a.b", b"c"], r"a\.b.c"),
        ([b"a\\b"], r"a\\b"),
        ([b"My TV", b"local"], r"my\032tv.local"),
        ([b"\x00\x1b\x7f\xff"], r"\000\027\127\255"),
        ([b"<script>", b"com"], "<script>.com"),
        ([b"K\xc3\x96LN"], r"k\195\150ln"),
        ([b".", b"."], r"\..\."),
    ],
)
def test_from_labels(labels: list[bytes], text: str) -> None:
    assert from_labels(labels) == text


wire_labels = st.lists(st.binary(min_size=1, max_size=63), max_size=6).filter(
    lambda labels: sum(map(len, labels)) + len(labels) < 255
)


@settings(deadline=None, database=None, max_examples=300)
@given(wire_labels, wire_labels)
def test_text_is_harmless_and_tells_names_apart(labels: list[bytes], others: list[bytes]) -> None:
    text = from_labels(labels)
    assert text.isascii()
    assert all(0x21 <= ord(char) <= 0x7E for char in text)
    assert len(text) <= 4 * 255
    same = [label.lower() for label in labels] == [label.lower() for label in others]
    assert (text == from_labels(others)) == same
    # dnspython reads the text back as the name it was.
    assert dns.name.from_text(text + ".").labels[:-1] == tuple(label.lower() for label in labels)


def test_escape_keeps_case_and_dots() -> None:
    assert escape(b"http/1.1") == "http/1.1"
    assert escape(b"H2\n\\") == r"H2\010\\"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"Www.Example.COM", "www.example.com"),
        (b"example.com.", "example.com"),
        ("router", "router"),
        (b"xn--kln-sna.example", "xn--kln-sna.example"),
        (b"_sip._tcp.example.com", "_sip._tcp.example.com"),
        (b"3com.com", "3com.com"),
        (b"1.2.3.4.example", "1.2.3.4.example"),
        (b"4.3.2.1.in-addr.arpa", "4.3.2.1.in-addr.arpa"),
        (b"a" * 63 + b".com", "a" * 63 + ".com"),
        (b"0xabg", "0xabg"),
    ],
)
def test_host_names(name: bytes | str, text: str) -> None:
    assert from_text(name) == text
    as_text = name if isinstance(name, str) else name.decode()
    assert from_text(as_text) == from_text(as_text.encode()) == text


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a..b",
        ".example.com",
        "example.com..",
        "-a.example",
        "a-.example",
        "a" * 64 + ".com",
        "a b",
        "a\x00b",
        "example.com\n",
        "example.com:443",
        "user@example.com",
        "*.example.com",
        "a/../b",
        "<b>.com",
        "köln.example",
        "\u212aelvin.example",
        "192.0.2.1",
        "192.0.2.1.",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "example.0x",
        "2001:db8::1",
        "[2001:db8::1]",
        "::ffff:192.0.2.1",
        ("a" * 49 + ".") * 5 + "abcd",
    ],
)
def test_not_host_names(name: str) -> None:
    assert from_text(name) is None
    assert from_text(name.encode()) is None


def test_length_bounds() -> None:
    longest = ("a" * 49 + ".") * 5 + "abc"
    assert len(longest) == 253
    assert from_text(longest) == longest
    assert from_text(longest + ".") == longest
    assert from_text("a" * 1_000_000) is None


@settings(deadline=None, database=None, max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=260), st.text(max_size=260), st.from_regex(r"[a-z0-9.x-]{1,255}", fullmatch=True)
    )
)
def test_what_is_accepted_is_a_host_name(name: bytes | str) -> None:
    text = from_text(name)
    if text is None:
        return
    assert 0 < len(text) <= 253
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert from_text(text) == text
    assert from_labels(text.encode().split(b".")) == text
