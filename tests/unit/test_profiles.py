# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles: the shipped ones, what is refused, and the rules that they mean."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.model import parse_address
from spind.profiles import (
    BUILTIN,
    FIELDS,
    LIST_LIMIT,
    Profile,
    learned,
    parse_profile,
    profile_rules,
    to_json,
    to_options,
    with_builtin,
)
from spind.rule_fields import FieldError, parse_prefix
from spind.rules import Rule, rank

DEVICE = bytes.fromhex("020000000001")
HOME = (parse_prefix("", "192.168.8.0/24"), parse_prefix("", "2001:db8:1::/64"))
WHERE = {
    "home": ["192.168.8.7", "2001:db8:1::7"],
    "link": ["169.254.1.1", "224.0.0.251", "255.255.255.255", "fe80::1", "ff02::fb"],
    "private": ["10.0.0.1", "100.64.0.1", "172.16.0.1", "192.168.9.1", "fd00::1"],
    "internet": ["198.51.100.1", "8.8.8.8", "2001:db8:2::1", "2606:4700::1111", "::2"],
}


def verdict(profile, address, home=HOME):
    """What the rules of a profile say of a nameless address, by precedence."""
    packed = parse_address(address)
    for rule in sorted(profile_rules(profile, DEVICE, home), key=rank):
        assert (rule.device, rule.author, rule.id) == (DEVICE, "profile", 0)
        if rule.prefix is not None:
            network, bits = rule.prefix
            shift = len(packed) * 8 - bits
            same = len(network) == len(packed)
            if not same or int.from_bytes(network, "big") >> shift != int.from_bytes(packed, "big") >> shift:
                continue
        elif rule.domain:
            continue
        return rule.action
    return "allow"


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("full", {"home", "link", "private", "internet"}),
        ("local", {"home", "link"}),
        ("nointernet", {"home", "link", "private"}),
        ("learned", {"home", "link"}),
        ("quarantine", set()),
    ],
)
def test_what_the_shipped_profiles_reach(name, reached):
    for place, addresses in WHERE.items():
        for address in addresses:
            assert verdict(BUILTIN[name], address) == ("allow" if place in reached else "block"), address


def test_the_shipped_profiles_are_all_and_well_formed():
    assert list(BUILTIN) == ["full", "local", "nointernet", "learned", "quarantine"]
    for profile in BUILTIN.values():
        assert profile.builtin
        assert profile.title
        assert parse_profile(to_options(profile), profile.name) == profile._replace(builtin=False)
    assert profile_rules(BUILTIN["full"], DEVICE, HOME) == []
    assert profile_rules(BUILTIN["quarantine"], DEVICE, HOME) == [Rule(0, "block", DEVICE, author="profile")]


def test_words_in_unusual_places():
    guest = Profile("guest", "Guest", "", "block", allow_ip=("internet",))
    assert verdict(guest, "8.8.8.8") == "allow"
    assert verdict(guest, "2001:db8:1::7") == "block"  # the home has public addresses, too
    assert verdict(guest, "10.0.0.1") == "block"
    # A word says nothing of what it does not mean.
    strict = Profile("strict", "Strict", "", "block", block_ip=("internet",))
    assert verdict(strict, "10.0.0.1") == "block"
    lax = Profile("lax", "Lax", "", "allow", allow_ip=("internet",))
    assert verdict(lax, "10.0.0.1") == "allow"
    alone = Profile("alone", "Alone", "", "allow", block_ip=("home",))
    assert verdict(alone, "192.168.8.7") == "block"
    assert verdict(alone, "10.0.0.1") == "allow"
    both = Profile("both", "Both", "", "block", allow_ip=("internet", "home"))
    assert [verdict(both, address) for address in ("192.168.8.7", "8.8.8.8", "10.0.0.1")] == [
        "allow",
        "allow",
        "block",
    ]


def test_what_is_listed_wins_over_the_holes_of_the_internet():
    profile = Profile("p", "P", block_ip=("internet", "192.168.0.0/16", "10.1.0.0/16"), allow_ip=("8.8.8.8",))
    assert verdict(profile, "192.168.8.7") == "block"
    assert verdict(profile, "10.1.0.1") == "block"
    assert verdict(profile, "10.2.0.1") == "allow"
    assert verdict(profile, "8.8.8.8") == "allow"
    assert verdict(profile, "8.8.4.4") == "block"


def test_allow_wins_where_both_list_it():
    profile = Profile("p", "P", allow_ip=("192.0.2.0/24",), block_ip=("192.0.2.0/24", "192.0.2.5"))
    assert (verdict(profile, "192.0.2.1"), verdict(profile, "192.0.2.5")) == ("allow", "block")
    assert verdict(Profile("p", "P", allow_ip=("internet",), block_ip=("internet",)), "8.8.8.8") == "allow"


def test_domains_are_rules():
    profile = Profile("p", "P", allow_domain=("a.example.org",), block_domain=("example.org",))
    assert profile_rules(profile, DEVICE, HOME) == [
        Rule(0, "allow", DEVICE, domain="a.example.org", author="profile"),
        Rule(0, "block", DEVICE, domain="example.org", author="profile"),
    ]


def test_learned():
    profile = learned(
        "learned_020000000001",
        "Camera: only what it used",
        ["b.example.org", "A.example.org.", "localhost", "com", "b.example.org"],
        ["192.0.2.9", "2001:db8::1", "192.0.2.10", "nonsense", "home", "0.0.0.0/0"],
    )
    assert profile == Profile(
        "learned_020000000001",
        "Camera: only what it used",
        BUILTIN["learned"].description,
        "block",
        allow_domain=("a.example.org", "b.example.org"),
        allow_ip=("home", "192.0.2.9", "192.0.2.10", "2001:db8::1"),
    )
    assert parse_profile(to_options(profile), profile.name) == profile
    many = learned(
        "x",
        "X",
        [f"a{n}.example.org" for n in range(3000)],
        [f"192.0.{n >> 8}.{n & 255}" for n in range(3000)],
    )
    assert (len(many.allow_domain), len(many.allow_ip)) == (LIST_LIMIT, LIST_LIMIT)
    assert parse_profile(to_options(many), "x") == many
    with pytest.raises(FieldError):
        learned("a b", "X", [], [])


@pytest.mark.parametrize(
    ("fields", "name", "sentence"),
    [
        ({"default": "drop"}, "p", "default must be allow or block, not 'drop'"),
        ({"allow_domain": ["co.uk"]}, "p", "allow_domain is 'co.uk', a public suffix"),
        ({"allow_domain": "a.example.org, b"}, "p", "allow_domain must be a domain of two parts"),
        ({"allow_ip": ["0.0.0.0/0"]}, "p", "allow_ip must be"),
        ({"block_ip": ["nowhere"]}, "p", "home or internet, not 'nowhere'"),
        ({"block_ip": [["x"]]}, "p", "block_ip must be text or a number, not a value of type list"),
        ({"block_ip": 5}, "p", "block_ip must be"),
        (
            {"block_ip": [f"10.{n >> 8}.{n & 255}.0/24" for n in range(1025)]},
            "p",
            "block_ip has 1025 entries",
        ),
        ({"name": "x" * 65}, "p", "name must be at most 64 characters"),
        ({"description": "a\x1b"}, "p", "description contains control characters"),
        ({"colour": "red"}, "p", "a profile has no field 'colour'"),
        ({}, "", "profile must be a name of at most 64 letters"),
        ({}, "a'b", "profile must be a name of at most 64 letters"),
    ],
)
def test_what_is_refused_and_why(fields, name, sentence):
    with pytest.raises(FieldError) as caught:
        parse_profile(fields, name)
    assert sentence in str(caught.value)


def test_json():
    assert to_json(BUILTIN["local"]) == {
        "name": "local",
        "title": "Local network only",
        "description": "May reach the home, and nothing else.",
        "default": "block",
        "allow_domain": [],
        "block_domain": [],
        "allow_ip": ["home"],
        "block_ip": [],
        "builtin": True,
    }


def test_replacing():
    mine = Profile("full", "Mine")
    assert with_builtin([mine])["full"] is mine
    assert list(with_builtin([mine, Profile("x", "X")])) == [*BUILTIN, "x"]


_ip = st.sampled_from(
    ["home", "internet", "10.0.0.0/8", "10.2.0.0/16", "192.168.8.7", "2001:db8::/32", "fd00::/8"]
)


@given(st.lists(_ip), st.lists(_ip), st.sampled_from(["allow", "block"]))
@settings(max_examples=200, deadline=None)
def test_the_longest_entry_decides(allow, block, default):
    profile = parse_profile({"allow_ip": allow, "block_ip": block, "default": default}, "p")
    for place, addresses in WHERE.items():
        for address in [*addresses, "10.2.0.1", "10.1.0.1"] if place == "private" else addresses:
            packed = parse_address(address)
            best = (-1, 0)
            for action, texts in ((0, block), (1, allow)):
                for text in texts:
                    lengths = []
                    if text == "internet":
                        lengths = [0] if place == "internet" else []
                    elif text == "home":
                        if place == "home":
                            lengths = [24 if len(packed) == 4 else 64]
                        elif place == "link":
                            lengths = [1]  # nothing else here is within them
                    else:
                        network, bits = parse_prefix("", text)
                        shift = len(packed) * 8 - bits
                        if len(network) == len(packed) and (
                            int.from_bytes(network, "big") >> shift == int.from_bytes(packed, "big") >> shift
                        ):
                            lengths = [bits]
                    best = max([best, *((bits, action) for bits in lengths)])
            wanted = default if best[0] < 0 else ("block", "allow")[best[1]]
            assert verdict(profile, address) == wanted, (address, profile)


def test_fields_are_those_of_the_file():
    assert FIELDS == (
        "name",
        "description",
        "default",
        "allow_domain",
        "block_domain",
        "allow_ip",
        "block_ip",
    )
