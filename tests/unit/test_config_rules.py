# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules and profiles in the configuration file, and what of a bad one is in force."""

import time

from spind.config import Config, load
from spind.config_options import DOH_RESOLVERS
from spind.model import parse_mac
from spind.profiles import Profile
from spind.rules import to_options
from spind.uci import quote

CAMERA = "02:00:00:00:00:01"
WELL = f"""
config rule rule7
	option device {CAMERA}
	option domain tracker.example.org
	option action block
	option author provider
	option created 5

config rule
	option ip 192.0.2.7/24
	option action allow

config rule night
	option device {CAMERA}
	option action block
	option schedule 'Daily 21:00-07:00'
"""


def told(problems):
    return [(p.kind, p.section, p.option, p.value, p.in_force) for p in problems]


def test_rules_are_typed_and_have_ids():
    config, problems = load(WELL)
    assert problems == []
    first, second, third = config.rules
    assert (first.id, first.section, first.author, first.created) == (7, "", "provider", 5)
    assert (first.device, first.domain, first.action) == (parse_mac(CAMERA), "tracker.example.org", "block")
    assert (second.id, second.section[:3], second.prefix) == (8, "cfg", (b"\xc0\0\2\0", 24))
    assert (third.id, third.section, third.schedule) == (9, "night", "daily 21:00-07:00")
    assert config.highest_rule_id == 9


def test_ids_stay_while_the_daemon_runs():
    before, _ = load(WELL)
    text = WELL + f"config rule rule3\n\toption action allow\n\toption device {CAMERA}\n"
    text = "config rule early\n\toption action block\n\toption port 23\n" + text
    after, _ = load(text, before)
    assert {
        rule.section or f"rule{rule.id}": rule.id for rule in after.rules if "cfg" not in rule.section
    } == {
        "early": 10,
        "rule7": 7,
        "night": 9,
        "rule3": 3,
    }
    assert len({rule.id for rule in after.rules}) == 5
    # A section that takes a number has it, whoever had it before.
    after, _ = load(WELL + f"config rule rule9\n\toption action allow\n\toption device {CAMERA}\n", before)
    ids = {rule.section or f"rule{rule.id}": rule.id for rule in after.rules}
    assert (ids["rule9"], ids["night"]) == (9, 10)


def test_names_that_only_look_like_numbers_are_names():
    body = "\n\toption action block\n\toption port 23\n"
    names = ["rule007", "rule0", "rule7", "rule99999999999", "rules8", "Rule9"]
    config, problems = load("".join(f"config rule {name}{body}" for name in names))
    assert problems == []
    assert [(rule.id, rule.section) for rule in config.rules] == [
        (8, "rule007"),
        (9, "rule0"),
        (7, ""),
        (10, "rule99999999999"),
        (11, "rules8"),
        (12, "Rule9"),
    ]


def test_numbers_of_sections_that_give_no_rule_are_not_given_away():
    config, problems = load("config rule rule12\n\toption action no\nconfig device rule30\n")
    assert config.rules == ()
    assert len(problems) == 2
    assert config.highest_rule_id == 30


def test_a_rule_with_a_wrong_option_is_left_out_as_a_whole():
    for option, value in [
        ("device", "camera"),
        ("domain", "co.uk"),
        ("port", "http"),
        ("protocol", "tpc"),
        ("until", "tomorrow"),
        ("schedule", "25:00-26:00"),
        ("author", "me"),
        ("action", "drop"),
    ]:
        text = "config rule rule1\n\toption action block\n\toption node example.org\n"
        text += f"\toption {option} {value}\n"
        if option == "domain":
            text = text.replace("\toption node example.org\n", "")
        config, problems = load(text + WELL)
        assert [rule.id for rule in config.rules] == [7, 8, 9]
        assert told(problems) == [("bad", "rule1", option, value, "the rule is left out")]
        assert problems[0].line == text.count("\n")


def test_a_misspelt_option_does_not_make_a_rule_wider():
    config, problems = load(
        f"config rule r\n\toption action block\n\toption devcie {CAMERA}\n\toption port 53\n"
    )
    assert config.rules == ()
    assert told(problems) == [("bad", "r", "devcie", CAMERA, "the rule is left out")]
    assert problems[0].allowed == "no option of that name; is device meant?"
    config, problems = load(
        "config rule r\n\toption action block\n\tlist device a\n\tlist device b\n\toption port 1\n"
    )
    assert config.rules == ()
    assert problems[0].allowed == "one value, not a list"


def test_a_rule_that_became_bad_stays_as_it_was():
    before, _ = load(WELL)
    after, problems = load(
        WELL.replace("tracker.example.org", "tracker..org").replace("Daily", "Nightly"), before
    )
    assert after.rules == before.rules
    assert {p.in_force for p in problems} == {"the rule as it was stays in force"}
    # A section without a name may be another one than before.
    after, problems = load(WELL.replace("192.0.2.7/24", "192.0.2.7/33"), before)
    assert [rule.id for rule in after.rules] == [7, 9]
    assert {p.in_force for p in problems} == {"the rule is left out"}
    assert load(WELL.replace("rule7", "rule8"), before)[0].rules[0].id == 8


def test_what_changes_nothing_about_a_rule_does_not_cost_it():
    text = "config rule rule1\n\toption action block\n\toption port 23\n\toption created soon\n"
    config, problems = load(text + f"\toption comment {quote('a' * 201)}\n")
    assert to_options(config.rules[0]) == {"action": "block", "port": "23", "author": "owner", "created": "0"}
    assert [p.option for p in problems] == ["created", "comment"]


def test_rules_are_bounded():
    body = "\toption action block\n\toption port 23\n"
    text = "config spind spind\n\toption limit_rules 16\n"
    config, problems = load(text + "".join(f"config rule\n{body}" for _ in range(20)))
    assert len(config.rules) == 16
    assert [p.allowed for p in problems] == ["up to 16 rules (limit_rules)"] * 4


def test_ten_thousand_rules_load_in_time():
    text = "".join(
        f"config rule rule{n}\n\toption action block\n\toption domain host.site{n}.example.org\n"
        f"\toption device 02:00:00:00:{n >> 8:02x}:{n & 255:02x}\n"
        for n in range(1, 9990)
    )
    started = time.process_time()
    config, problems = load(text)
    assert time.process_time() - started < 10  # a second or so
    assert (len(config.rules), problems) == (9989, [])


CHILDREN = """
config profile children
	option name ' Children '
	option description 'What children may reach'
	option default block
	list allow_domain Example.ORG
	list allow_domain '*.example.net'
	list allow_ip home
	list block_ip '192.0.2.1/24'

config device tablet
	option mac 02:00:00:00:00:01
	option profile children

config spind spind
	option new_device_profile children
"""


def test_profiles_are_typed():
    config, problems = load(CHILDREN)
    assert problems == []
    assert config.profiles == (
        Profile(
            "children",
            "Children",
            "What children may reach",
            "block",
            ("example.org", "example.net"),
            (),
            ("home",),
            ("192.0.2.0/24",),
        ),
    )
    assert config.devices[0].profile == config.new_device_profile == "children"
    assert list(config.all_profiles()) == ["full", "local", "nointernet", "learned", "quarantine", "children"]


def test_a_section_replaces_a_shipped_profile():
    config, _ = load("config profile quarantine\n\toption default block\n\tlist allow_ip 192.0.2.1\n")
    assert config.all_profiles()["quarantine"] == Profile(
        "quarantine", "quarantine", "", "block", allow_ip=("192.0.2.1",)
    )
    assert len(config.all_profiles()) == 5


def test_the_good_entries_of_a_profile_apply():
    bad = (
        CHILDREN.replace("Example.ORG", "'exam ple'")
        .replace("block\n", "blok\n")
        .replace(" Children ", "\x1b")
        .replace("192.0.2.1/24", "1.2.3.4.5")
    )
    config, problems = load(bad)
    assert config.profiles == (
        Profile("children", "children", "What children may reach", "allow", ("example.net",), (), ("home",)),
    )
    assert [(p.section, p.option) for p in problems] == [
        ("children", "name"),
        ("children", "default"),
        ("children", "allow_domain"),
        ("children", "block_ip"),
    ]
    before, _ = load(CHILDREN)
    config, _ = load(bad, before)
    assert config.profiles == (
        Profile(
            "children",
            "Children",
            "What children may reach",
            "block",
            ("example.net",),
            (),
            ("home",),
            ("192.0.2.0/24",),
        ),
    )


def test_a_bad_default_of_a_shipped_profile_is_the_shipped_one():
    config, _ = load("config profile quarantine\n\toption default x\n")
    assert config.profiles[0].default == "block"


def test_a_profile_needs_a_name():
    config, problems = load(f"config profile\n\toption default block\nconfig profile {'x' * 65}\n")
    assert config.profiles == ()
    assert [(p.kind, p.section) for p in problems] == [("ignored", "@profile[0]"), ("bad", "x" * 65)]


def test_a_profile_that_does_not_exist_is_none():
    config, problems = load(CHILDREN.replace("profile children\n", "profile childern\n", 1))
    assert (config.devices[0].profile, config.new_device_profile) == ("", "")
    assert [(p.section, p.option, p.value) for p in problems] == [
        ("tablet", "profile", "children"),
        ("spind", "new_device_profile", "children"),
    ]
    before, _ = load(CHILDREN)
    text = CHILDREN.replace("option profile children", "option profile x")
    text = text.replace("new_device_profile children", "new_device_profile y")
    config, problems = load(text, before)
    assert (config.devices[0].profile, config.new_device_profile) == ("children", "children")
    assert len(problems) == 2
    config, _ = load(text.replace("config profile children", "config profile kids"), before)
    assert (config.devices[0].profile, config.new_device_profile) == ("", "")


def test_resolvers():
    assert Config().doh_resolvers == DOH_RESOLVERS
    text = "config spind\n\tlist doh_resolvers DNS.Example.org.\n\tlist doh_resolvers '2001:DB8::1'\n"
    config, problems = load(text + "\tlist doh_resolvers localhost\n")
    assert config.doh_resolvers == ("dns.example.org", "2001:db8::1")
    assert [p.value for p in problems] == ["localhost"]
