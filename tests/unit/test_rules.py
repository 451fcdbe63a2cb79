# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rules are allowed, which one wins, and how they are shown."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.rule_fields import PROTOCOLS, FieldError
from spind.rules import AUTHORS, FIELDS, Rule, describe, parse_rule, rank, to_json, to_options

CAMERA = "02:00:00:00:00:01"
MAC = bytes.fromhex("020000000001")
NOW = 1_700_000_000


def rule(action="block", author="owner", **fields):
    return parse_rule({"action": action, **fields}, id=1, author=author, created=NOW)


def test_all_fields():
    assert rule(
        "allow",
        "provider",
        device=CAMERA.upper(),
        domain="*.Tracker.Example.ORG.",
        port=443,
        protocol="TCP",
        until=NOW + 3600,
        schedule="Mo-Fr 8:00-9:00",
        comment=" why ☂ not ",
        ip="",
        node=None,
    ) == Rule(
        1,
        "allow",
        MAC,
        domain="tracker.example.org",
        port=443,
        protocol=6,
        until=NOW + 3600,
        schedule="mon-fri 08:00-09:00",
        comment="why ☂ not",
        author="provider",
        created=NOW,
    )


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("example.org", "example.org"),
        ("a_b.Example.org.", "a_b.example.org"),
        ("*.example.co.uk", "example.co.uk"),
        ("printer.lan", "printer.lan"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("*.例え.jp", "xn--r8jz45g.jp"),
        ("www。example。org", "www.example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("www.ck", "www.ck"),
        ("foo.github.io", "foo.github.io"),
        (".".join(["a" * 63] * 3) + ".example.org", ".".join(["a" * 63] * 3) + ".example.org"),
    ],
)
def test_domains(text, domain):
    assert rule(domain=text).domain == domain


@pytest.mark.parametrize(
    "text",
    [
        "com",
        "co.uk",
        "*.co.uk",
        "github.io",
        "foo.ck",
        "localhost",
        "router",
        "*",
        "*.",
        ".",
        ".example.org",
        "a..example.org",
        "www.*.example.org",
        "-a.example.org",
        "192.0.2.1",
        "2001:db8::1",
        "0x7f.1",
        "example.org:443",
        "https://example.org/",
        "example.org/path",
        "a b.example.org",
        "example.org; nft flush ruleset",
        "example.org\n}",
        "'example.org'",
        'a".example.org',
        "a\0.example.org",
        "a" * 64 + ".example.org",
        "a" * 300 + ".example.org",
        ".".join(["a" * 63] * 4) + ".org",
        "ü" * 300 + ".example",
        "straße.example",
        "a\u200db.example",
        "exa\u202emple.org",
        "℀.example",
        "\udcff.example",
        "\U0001f4fa.example.\U0001ffff",
    ],
)
def test_domains_that_are_refused(text):
    with pytest.raises(FieldError, match=r"^domain ") as caught:
        rule(domain=text)
    assert caught.value.field == "domain"
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/24", "192.0.2.0/24"),
        ("192.0.2.7/255.255.255.0", "192.0.2.0/24"),
        ("2001:DB8::1/32", "2001:db8::/32"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7/120", "192.0.2.0/24"),
        ("0.0.0.0/1", "0.0.0.0/1"),
        ("::/1", "::/1"),
        ("192.0.0.0/2", "192.0.0.0/2"),
        ("fe80::1", "fe80::1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
    ],
)
def test_prefixes(text, shown):
    assert to_json(rule(ip=text))["ip"] == shown


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0/0",
        "::/0",
        "::ffff:0.0.0.0/96",
        "224.0.0.251",
        "239.0.0.0/8",
        "255.255.255.255",
        "ff02::fb",
        "ff00::/8",
        "127.0.0.1",
        "127.0.0.0/8",
        "::1",
        "0.0.0.0",
        "0.0.0.5",
        "0.0.0.0/8",
        "::",
        "::/127",
        "::ffff:127.0.0.1",
        "192.0.2",
        "192.0.2.1/33",
        "192.0.2.01",
        "fe80::1%eth0",
        "example.org",
        "1.2.3.4 accept",
        "٣.0.0.1",
        "1" * 5000,
        3221225985,
        3.5,
    ],
)
def test_prefixes_that_are_refused(text):
    with pytest.raises(FieldError, match=r"^ip ") as caught:
        rule(ip=text)
    assert caught.value.field == "ip"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("02-00-00-00-00-AA", "02:00:00:00:00:aa"),
        ("Example.org", "example.org"),
        ("router", "router"),
        ("github.io", "github.io"),
        (r"a\032b", r"a\032b"),
        ("::FFFF:192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
    ],
)
def test_nodes(text, node):
    assert rule(node=text).node == node


@pytest.mark.parametrize(
    "text", ["www.example.org", "ff:ff:ff:ff:ff:ff", "224.0.0.1", "192.0.2.0/24", "a b", "x" * 2000, "é"]
)
def test_nodes_that_are_refused(text):
    with pytest.raises(FieldError, match=r"^node "):
        rule(node=text)


@pytest.mark.parametrize(
    ("text", "number", "shown"),
    [
        ("tcp", 6, "tcp"),
        ("6", 6, "tcp"),
        (17, 17, "udp"),
        ("ICMP", 1, "icmp"),
        ("icmpv6", 1, "icmp"),
        ("58", 1, "icmp"),
        ("esp", 50, "esp"),
        (253, 253, "253"),
        ("255", 255, "255"),
    ],
)
def test_protocols(text, number, shown):
    made = rule(protocol=text)
    assert made.protocol == number
    assert to_json(made)["protocol"] == to_options(made)["protocol"] == shown


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"action": "drop"}, "action must be block or allow, not 'drop'"),
        ({"action": ""}, "action must be block or allow, not ''"),
        ({"action": True}, "action must be text or a number, not True"),
        ({"device": "camera"}, "device must be the MAC address of a device, not 'camera'"),
        ({"device": "01:00:5e:00:00:01"}, "device must be the MAC address of a device"),
        ({"device": "00:00:00:00:00:00"}, "device must be the MAC address of a device"),
        (
            {"port": 0, "device": CAMERA, "until": NOW},
            f"until must be a time after the rule was made ({NOW})",
        ),
        ({"port": 65536}, "port must be a number from 0 to 65535, not '65536'"),
        ({"port": "-1"}, "port must be a number from 0 to 65535, not '-1'"),
        ({"port": "٣"}, "port must be a number"),
        ({"port": [1]}, "port must be text or a number, not a value of type list"),
        ({"port": 53, "protocol": "icmp"}, "port goes with protocol tcp, udp or none, not with icmp"),
        ({"protocol": "tpc"}, "protocol must be tcp, udp, icmp, another protocol's name or its number"),
        ({"protocol": 256}, "protocol must be"),
        ({"protocol": 44}, "protocol must be"),
        ({"domain": "a.example.org", "ip": "192.0.2.1"}, "domain and ip cannot go together"),
        ({"node": "example.org", "domain": "a.example.org"}, "node and domain cannot go together"),
        ({"device": CAMERA, "node": CAMERA.upper()}, "node must be another party than the device itself"),
        ({"port": 1, "until": 10**11}, "until must be text or a number"),
        ({"port": 1, "schedule": "never"}, "schedule: 'never' is"),
        ({"port": 1, "comment": "x" * 201}, "comment must be at most 200 characters"),
        ({"port": 1, "comment": "a\nb"}, "comment contains control characters"),
        ({"port": 1, "comment": "x" * 150 + "\u202e"}, "comment contains invisible formatting characters"),
        ({}, "a rule to block everything for all devices would cut the whole home: give device,"),
        ({"action": "allow"}, "a rule to allow everything for all devices would undo every other"),
        ({"port": 0, "protocol": "any"}, "a rule to block everything"),
        ({"port": 1, "devise": "x"}, "a rule has no field 'devise'"),
    ],
)
def test_what_is_refused_and_why(fields, sentence):
    with pytest.raises(FieldError) as caught:
        parse_rule({"action": "block", **fields}, id=1, author="owner", created=NOW)
    assert sentence in str(caught.value)
    assert caught.value.allowed


def test_authors_are_known():
    for author in AUTHORS:
        assert rule(author=author, port=1).author == author
    with pytest.raises(FieldError, match="author must be owner, provider, detector or profile"):
        rule(author="root", port=1)


ORDER = [
    # Equal lines are a group; each group wins over all that are below it. Action, author, fields.
    [("allow", "owner", {"device": CAMERA, "domain": "a.b.example.org", "port": 1})],
    [("block", "owner", {"device": CAMERA, "domain": "a.b.example.org", "port": 1})],
    [
        ("block", "owner", {"device": CAMERA, "domain": "example.org", "port": 1}),
        ("block", "owner", {"device": CAMERA, "node": "example.org", "port": 9, "protocol": "udp"}),
    ],
    [
        ("allow", "owner", {"device": CAMERA, "ip": "192.0.2.1", "port": 1}),
        ("allow", "owner", {"device": CAMERA, "ip": "2001:db8::1", "port": 1}),
        ("allow", "owner", {"device": CAMERA, "node": "02:00:00:00:00:09", "port": 1}),
        ("allow", "owner", {"device": CAMERA, "node": "192.0.2.1", "port": 1}),
    ],
    [("block", "owner", {"device": CAMERA, "ip": "192.0.2.0/24", "port": 1})],
    [("block", "owner", {"device": CAMERA, "domain": "example.org", "protocol": "tcp"})],
    [("block", "owner", {"device": CAMERA, "domain": "a.example.org"})],
    [("allow", "owner", {"device": CAMERA, "domain": "example.org"})],
    [("block", "owner", {"device": CAMERA, "domain": "example.org"})],
    [("allow", "owner", {"device": CAMERA, "ip": "192.0.2.1"})],
    [("block", "owner", {"device": CAMERA, "ip": "192.0.2.1"})],
    [("allow", "owner", {"device": CAMERA, "ip": "0.0.0.0/1"})],
    [("block", "owner", {"device": CAMERA, "port": 1, "protocol": "tcp"})],
    [("block", "owner", {"device": CAMERA, "protocol": "icmp"})],
    [("allow", "owner", {"device": CAMERA})],
    [("block", "owner", {"domain": "example.org", "port": 1})],
    [("allow", "owner", {"domain": "example.org"})],
    [("block", "owner", {"node": "example.org"})],
    [("block", "owner", {"ip": "192.0.2.1"})],
    [("block", "owner", {"port": 1})],
    [("allow", "owner", {"protocol": "gre"})],
    [("block", "owner", {"device": CAMERA})],
    [("allow", "provider", {"device": CAMERA, "domain": "a.b.example.org", "port": 1})],
    [("block", "provider", {"device": CAMERA})],
    [("allow", "detector", {"device": CAMERA})],
    [("block", "detector", {"device": CAMERA})],
    [("allow", "profile", {"device": CAMERA, "domain": "a.b.example.org", "port": 1})],
    [("block", "profile", {"device": CAMERA})],
]


def test_precedence():
    groups = [{rank(rule(action, author, **fields)) for action, author, fields in group} for group in ORDER]
    assert all(len(group) == 1 for group in groups)
    ranks = [group.pop() for group in groups]
    shuffled = random.Random(3).sample(ranks, len(ranks))
    assert sorted(shuffled) == ranks
    assert len(set(ranks)) == len(ranks)


def test_allow_wins_wherever_all_else_is_equal():
    whats = [{"domain": "example.org"}, {"ip": "192.0.2.0/24"}, {"port": 1}, {"protocol": "udp"}, {}]
    for what, device, author in itertools.product(whats, [{"device": CAMERA}, {}], AUTHORS):
        if what or device:
            fields = what | device
            assert rank(rule("allow", author, **fields)) < rank(rule("block", author, **fields))


def test_json_has_what_is_set():
    assert to_json(rule(device=CAMERA, ip="192.0.2.1/32", protocol="udp", port="53", comment="c")) == {
        "id": 1,
        "action": "block",
        "device": CAMERA,
        "ip": "192.0.2.1",
        "port": 53,
        "protocol": "udp",
        "comment": "c",
        "author": "owner",
        "created": NOW,
    }


@pytest.mark.parametrize(
    ("action", "fields", "sentence"),
    [
        (
            "block",
            {"device": CAMERA, "domain": "tracker.test.example"},
            "camera may not reach tracker.test.example",
        ),
        ("allow", {"device": CAMERA}, "camera may reach anything"),
        ("block", {"device": CAMERA, "node": "example.org"}, "camera may not reach <example.org>"),
        ("block", {"ip": "192.0.2.1/24"}, "no device may reach 192.0.2.0/24"),
        ("allow", {"port": 53, "protocol": "udp"}, "every device may reach anything on UDP port 53"),
        (
            "block",
            {"device": CAMERA, "until": NOW + 60, "schedule": "daily 8:00-9:00"},
            "camera may not reach anything, at daily 08:00-09:00, until 2023-11-14 22:14 UTC",
        ),
    ],
)
def test_sentences(action, fields, sentence):
    names = {CAMERA: "camera"}
    made = rule(action, **fields)
    assert describe(made, lambda key: names.get(key, f"<{key}>")) == sentence


def test_the_moment_can_be_told_otherwise():
    assert describe(rule(port=1, until=NOW + 1), str, lambda _: "18:00").endswith(", until 18:00")


_mac = st.binary(min_size=6, max_size=6).map(lambda mac: bytes([mac[0] & 0xFE | 2]) + mac[1:])
_label = st.from_regex("[a-z0-9_]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
_host = st.lists(_label, min_size=1, max_size=4).map(lambda labels: ".".join([*labels, "example", "org"]))
_ipv4 = st.tuples(st.ip_addresses(v=4), st.integers(1, 32)).map(lambda pair: f"{pair[0]}/{pair[1]}")
_ipv6 = st.tuples(st.ip_addresses(v=6), st.integers(1, 128)).map(lambda pair: f"{pair[0]}/{pair[1]}")
_optional = {
    "device": _mac.map(lambda mac: mac.hex(":")),
    "port": st.integers(0, 65535),
    "protocol": st.sampled_from([*PROTOCOLS, "any", "6", 17, 99]),
    "until": st.integers(0, 10**10),
    "schedule": st.sampled_from(["", "sat 8:00-7:00", "daily 22:00-24:00"]),
    "comment": st.text(max_size=50),
}


@given(
    st.fixed_dictionaries({"action": st.sampled_from(["block", "allow"])}, optional=_optional),
    st.sampled_from(["node", "domain", "ip", ""]),
    st.one_of(_host, _ipv4, _ipv6, st.text()),
)
@settings(max_examples=400, deadline=None)
def test_a_rule_survives_being_written(fields, party, value):
    if party:
        fields[party] = value
    try:
        made = parse_rule(fields, id=5, author="owner", created=NOW)
    except FieldError as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert refused.field in FIELDS
        assert str(refused).isprintable()
        return
    options = to_options(made)
    assert all(isinstance(text, str) and text for text in options.values())
    author, created = options.pop("author"), int(options.pop("created"))
    assert parse_rule(options, id=5, author=author, created=created) == made
    shown = to_json(made)
    assert (
        parse_rule(
            {name: shown[name] for name in FIELDS if name in shown}, id=5, author=author, created=created
        )
        == made
    )
    assert describe(made, str).isprintable()
