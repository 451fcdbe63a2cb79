# SPDX-License-Identifier: GPL-2.0-or-later
"""What people type: lengths of time, moments, names."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.cli_text import columns
from spind.cli_words import Party, WordError, find, parse_duration, parse_moment

NOW = datetime.fromisoformat("2026-11-25T17:30")  # local, as people's words are

CAMERA = {
    "id": 1,
    "kind": "device",
    "mac": "02:00:00:00:08:11",
    "name": "camera",
    "hostname": "camera",
    "label": "camera",
    "domain": "",
    "ips": ["192.168.8.11", "fe80::11"],
}
SITE = {
    "id": 5,
    "kind": "site",
    "label": "vendor.test",
    "hostname": "",
    "domain": "vendor.test",
    "ips": ["198.18.0.2"],
}
NAMELESS = {
    "id": 6,
    "kind": "site",
    "label": "198.18.0.9",
    "hostname": "",
    "domain": "",
    "ips": ["198.18.0.9"],
}
GATEWAY = {
    "id": 2,
    "kind": "gateway",
    "label": "gateway",
    "hostname": "",
    "domain": "",
    "ips": ["192.168.8.1"],
}
NODES = [CAMERA, SITE, NAMELESS, GATEWAY]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("15 min", 900),
        ("1h30m", 5400),
        ("2D", 172800),
        (" 1w ", 604800),
        ("1h 5s", 3605),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "1", "h", "-1h", "1.5h", "1y", "1h x", "0s", "1000w", "1e9s", "\u0661h", "9" * 4000]
)
def test_what_is_no_duration(text):
    with pytest.raises(WordError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:00", "2026-11-25T18:00:00"),
        ("17:30", "2026-11-26T17:30:00"),
        ("7:05", "2026-11-26T07:05:00"),
        ("2026-12-01", "2026-12-01T00:00:00"),
        ("2026-12-01 06:30", "2026-12-01T06:30:00"),
        ("2026-12-01T06:30:15", "2026-12-01T06:30:15"),
    ],
)
def test_moments(text, moment):
    assert parse_moment(text, NOW) == datetime.fromisoformat(moment)


def test_a_moment_with_a_zone_is_that_moment():
    moment = parse_moment("2027-01-01T00:00:00+00:00", NOW)
    assert moment.tzinfo is None
    assert moment.timestamp() == datetime.fromisoformat("2027-01-01T00:00:00+00:00").timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "24:00",
        "12:60",
        "tomorrow",
        "2026-11-25 17:30",
        "2020-01-01",
        "\u0660\u0667:\u0660\u0660",
        "2026-13-01",
    ],
)
def test_what_is_no_moment(text):
    with pytest.raises(WordError):
        parse_moment(text, NOW)


@pytest.mark.parametrize(
    ("word", "party"),
    [
        ("camera", Party("camera", node=1, device="02:00:00:00:08:11")),
        ("fe80:0::11", Party("camera", node=1, device="02:00:00:00:08:11")),
        ("vendor.test", Party("vendor.test", node=5, domain="vendor.test")),
        ("198.18.0.9", Party("198.18.0.9", ip="198.18.0.9")),
        ("198.18.0.9/24", Party("198.18.0.0/24", ip="198.18.0.0/24")),
        ("2001:DB8::/32", Party("2001:db8::/32", ip="2001:db8::/32")),
        ("192.168.8.1", Party("192.168.8.1", ip="192.168.8.1")),
        ("a.b.example", Party("a.b.example", domain="a.b.example")),
        ("02-00-00-00-08-77", Party("02:00:00:00:08:77", device="02:00:00:00:08:77")),
    ],
)
def test_words_for_parties(word, party):
    assert find(word, NODES) == party


@pytest.mark.parametrize("word", ["", " ", "gateway", "198.18.0.9.5 x", "a b.example", "02:00:00:00:08"])
def test_words_for_nobody(word):
    with pytest.raises(WordError):
        find(word, NODES)


def test_what_a_word_may_be():
    with pytest.raises(WordError, match="is a device"):
        find("02:00:00:00:08:11", NODES, devices=False)
    with pytest.raises(WordError, match="no party called"):
        find("camera", NODES, devices=False)
    with pytest.raises(WordError, match="is no device"):
        find("198.18.0.9", NODES, others=False)
    with pytest.raises(WordError, match="no device called"):
        find("vendor.test", NODES, others=False)


def test_many_candidates_are_shortened():
    twins = [{**CAMERA, "id": number, "mac": f"02:00:00:00:09:{number:02x}"} for number in range(20)]
    with pytest.raises(WordError, match=r"camera \(02:00:00:00:09:07\) or 12 more"):
        find("camera", twins)


@given(st.text(max_size=300), st.text(max_size=80), st.booleans())
def test_any_word_and_any_name_is_harmless(word, hostname, others):
    nodes = [*NODES, {**CAMERA, "id": 9, "name": hostname, "hostname": hostname, "label": hostname or "x"}]
    try:
        said = find(word, nodes, others=others).label
    except WordError as error:
        said = str(error)
    assert len(said) < 1500
    assert all(char.isprintable() or char == "\u200d" for char in said)


def test_columns():
    assert columns(("A", "BB", "C"), [("1", "x", "long text"), ("22", "", "\x1b")]) == [
        "A   BB  C",
        "1   x   long text",
        "22      �",
    ]
    assert columns(("A", "B"), []) == ["A  B"]
