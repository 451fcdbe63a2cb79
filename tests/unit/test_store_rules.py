# SPDX-License-Identifier: GPL-2.0-or-later
"""Every kind of decision in the configuration file."""

import pytest
from test_store import TEXT, leftovers

from spind.changes import DeviceChange, IgnoredChange, ProfileChange, RuleChange, SiteChange
from spind.model import parse_mac
from spind.profiles import Profile
from spind.rules import Rule, to_options
from spind.store import Store, StoreError
from spind.uci import parse, quote

MAC = "02:00:00:00:00:01"
RULE = Rule(
    7,
    "block",
    device=parse_mac(MAC),
    domain="tracker.example",
    port=443,
    protocol=6,
    until=2_000_000_000,
    comment='it\'s; "noisy" # \\',
    created=1_700_000_000,
)
WRITTEN = "\nconfig rule 'rule7'\n" + "".join(
    f"\toption {option} {quote(value)}\n" for option, value in to_options(RULE).items()
)
PROFILE = Profile("kids", "Children's", "Of the small ones", "block", allow_domain=("a.example", "b.example"))
RULES_BY_HAND = """
config rule
	option action 'block'
	option domain 'one.example'

# mine
config rule
	option action 'block'
	option domain 'two.example'

config rule 'evening'
	option action 'block'
	option domain 'three.example'  # every day
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "config" / "spin"
    file.parent.mkdir()
    file.write_text(TEXT)
    return file


@pytest.fixture
def store(path):
    return Store(str(path))


def sections(path, type_):
    return [(section.name, section.options) for section in parse(path.read_text()).typed(type_)]


def domains(path):
    return [options.get("domain") for _, options in sections(path, "rule")]


def test_a_rule_is_written_changed_and_removed(store, path):
    assert store.apply([RuleChange(7, "", RULE)]) is True
    assert path.read_text() == TEXT + WRITTEN
    assert store.load()[0].rules == (RULE,)
    assert store.apply([RuleChange(7, "", RULE)]) is False
    changed = RULE._replace(domain="", node="example.org", port=0, comment="")
    assert store.apply([RuleChange(7, "", changed)]) is True
    assert sections(path, "rule") == [("rule7", to_options(changed))]
    assert store.apply([RuleChange(7, "", None)]) is True
    assert path.read_text() == TEXT
    assert store.apply([RuleChange(7, "", None)]) is False
    assert leftovers(path) == []


def test_everything_at_once_is_one_rewrite(store, path):
    changes = [
        DeviceChange(MAC, "Drucker", ignore=True, profile="kids"),
        DeviceChange("02:00:00:00:00:02", "", ignore=False, profile=""),
        DeviceChange("02-00-00-00-00-0A", "New", ignore=False, profile="kids"),
        SiteChange("Example.ORG", "News", ignore=False),
        SiteChange("2001:db8:0::1", "", ignore=True),
        RuleChange(7, "", RULE),
        RuleChange(8, "", RULE._replace(id=8, action="allow")),
        ProfileChange("kids", PROFILE),
        IgnoredChange(("192.0.2.1", "2001:db8::/32")),
    ]
    inode = path.stat().st_ino
    seen = []
    real = store._file.rewrite

    def rewrite(change):
        seen.append(change)
        return real(change)

    store._file.rewrite = rewrite
    assert store.apply(changes) is True
    assert len(seen) == 1
    assert path.stat().st_ino != inode
    config, problems = store.load()
    assert problems == []
    assert {(d.mac.hex(":"), d.name, d.profile, d.ignore) for d in config.devices} == {
        (MAC, "Drucker", "kids", True),
        ("02:00:00:00:00:0a", "New", "kids", False),
    }
    assert config.decisions()["example.org"] == ("News", False)
    assert config.decisions()["2001:db8::1"] == ("", True)
    assert [rule.id for rule in config.rules] == [7, 8]
    assert sections(path, "profile") == [
        (
            "kids",
            {
                "name": "Children's",
                "description": "Of the small ones",
                "default": "block",
                "allow_domain": ["a.example", "b.example"],
            },
        )
    ]
    assert config.ignore_ip == ("192.0.2.1", "2001:db8::/32")
    assert store.apply(changes) is False


def test_the_last_change_of_the_same_thing_holds(store, path):
    store.apply(
        [RuleChange(7, "", RULE), RuleChange(7, "", None), RuleChange(7, "", RULE), RuleChange(7, "", None)]
    )
    assert path.read_text() == TEXT


@pytest.mark.parametrize(
    "bad",
    [
        DeviceChange("x", "", ignore=True, profile=""),
        DeviceChange(MAC, "a\nb", ignore=True, profile=""),
        DeviceChange(MAC, "", ignore=True, profile="a b"),
        DeviceChange(MAC, "", ignore=True, profile="x'\n\toption mode 'local"),
        SiteChange(MAC, "", ignore=True),
        SiteChange("a b", "", ignore=True),
        SiteChange("x" * 2000, "", ignore=True),
        RuleChange(0, "", RULE),
        RuleChange(9, "", RULE._replace(comment="two\nlines")),
        RuleChange(9, "", RULE._replace(comment="\x1b[2J")),
        RuleChange(9, "", RULE._replace(domain="\ud800")),
        RuleChange(9, "", RULE._replace(comment="\0")),
        ProfileChange("a-b", PROFILE),
        ProfileChange("", PROFILE),
        ProfileChange("x" * 65, PROFILE),
        ProfileChange("kids", PROFILE._replace(block_domain=("a\tb",))),
        ProfileChange("spind", PROFILE),
        ProfileChange("printer", PROFILE),
        IgnoredChange(("192.0.2.1", "x")),
    ],
)
def test_what_may_not_be_written_changes_nothing(store, path, bad):
    for changes in ([bad], [RuleChange(7, "", RULE), bad], [bad, RuleChange(7, "", RULE)]):
        with pytest.raises(ValueError):
            store.apply(changes)
        assert path.read_text() == TEXT
    assert store.apply([RuleChange(7, "", RULE)]) is True, "and the next change is made as ever"
    assert path.read_text() == TEXT + WRITTEN


@pytest.mark.parametrize(
    "comment",
    [
        "'; option mode 'local",
        "\\",
        '"',
        "#",
        "$(reboot)",
        "; nft flush ruleset",
        "config rule 'rule9'",
        "ü🖨",
    ],
)
def test_comments_that_look_like_syntax_are_only_comments(store, path, comment):
    store.apply([RuleChange(n, "", RULE._replace(id=n, comment=comment)) for n in (7, 9)])
    assert [options["comment"] for _, options in sections(path, "rule")] == [comment, comment]
    store.apply([RuleChange(7, "", None)])
    assert [name for name, _ in sections(path, "rule")] == ["rule9"]
    store.apply([RuleChange(9, "", None)])
    assert path.read_text() == TEXT


def test_rules_by_hand_go_by_their_section_when_loaded(store, path):
    path.write_text(TEXT + RULES_BY_HAND)
    one, two, three = store.load()[0].rules
    assert three.section == "evening"
    store.apply([RuleChange(one.id, one.section, None)])
    assert domains(path) == ["two.example", "three.example"]
    # the second one is the first now, and goes by the name that it had
    store.apply([RuleChange(two.id, two.section, two._replace(comment="mine"))])
    assert sections(path, "rule")[0][1]["comment"] == "mine"
    store.apply([RuleChange(three.id, three.section, three._replace(port=80))])
    assert "\toption domain 'three.example'  # every day\n" in path.read_text()
    store.apply([RuleChange(two.id, two.section, None)])
    assert domains(path) == ["three.example"]
    assert "# mine\n" in path.read_text()


def test_what_was_removed_comes_back_by_another_name_and_can_be_removed_again(store, path):
    path.write_text(TEXT + RULES_BY_HAND)
    one, _, three = store.load()[0].rules
    for rule in (one, three):
        store.apply([RuleChange(rule.id, rule.section, None)])
    for rule in (one, three):
        store.apply([RuleChange(rule.id, rule.section, rule)])
    assert [name for name, _ in sections(path, "rule")][1:] == [f"rule{one.id}", "evening"]
    for rule in (one, three):
        store.apply([RuleChange(rule.id, rule.section, None)])
    assert domains(path) == ["two.example"]


def test_rules_by_hand_are_found_again_when_others_changed_the_file(store, path):
    path.write_text(TEXT + RULES_BY_HAND)
    one, two, _ = store.load()[0].rules
    path.write_text(
        TEXT + "\nconfig rule\n\toption action allow\n\toption domain zero.example\n" + RULES_BY_HAND
    )
    store.apply([RuleChange(two.id, two.section, None)])
    assert domains(path) == ["zero.example", "one.example", "three.example"]
    path.write_text(path.read_text().replace("one.example", "uno.example"))
    before = path.read_text()
    with pytest.raises(ValueError, match="somebody else changed the file"):
        store.apply([RuleChange(one.id, one.section, None)])
    assert path.read_text() == before


def test_options_that_we_do_not_know_stay(store, path):
    path.write_text(TEXT + WRITTEN + "\toption colour 'red'\n")
    store.apply([RuleChange(7, "", RULE._replace(action="allow"))])
    assert sections(path, "rule") == [("rule7", {**to_options(RULE), "action": "allow", "colour": "red"})]


def test_a_section_name_of_another_type_is_left_alone(store, path):
    path.write_text(TEXT + "\nconfig device 'rule7'\n\toption mac '02:00:00:00:00:07'\n")
    before = path.read_text()
    with pytest.raises(ValueError, match="rule7"):
        store.apply([RuleChange(7, "", RULE)])
    store.apply([RuleChange(7, "", None)])
    assert path.read_text() == before


def test_a_device_keeps_its_profile_where_only_the_name_is_saved(store, path):
    store.save_device(MAC, "", ignore=False)
    assert store.load()[0].devices[0].profile == "local"
    store.apply([DeviceChange(MAC, "", ignore=False, profile="")])
    assert MAC not in path.read_text()


def test_profiles_are_changed_and_removed(store, path):
    store.apply([ProfileChange("kids", PROFILE)])
    store.apply(
        [ProfileChange("kids", PROFILE._replace(allow_domain=("b.example",), block_ip=("internet",)))]
    )
    assert sections(path, "profile")[0][1]["allow_domain"] == ["b.example"]
    assert sections(path, "profile")[0][1]["block_ip"] == ["internet"]
    store.apply([ProfileChange("kids", None), ProfileChange("none", None)])
    assert path.read_text() == TEXT


@pytest.mark.parametrize(
    "odd",
    [
        "config rule 'again'\n\toption port 22\nconfig rule 'rule7'\n\toption port 80\nconfig rule 'again'\n",
        "config rule 'rule7' '' config rule 'x'\n\toption action block\n",
        "config profile 'cfg01a6e2'\n\toption name x\n",
        "config rule 'rule7'\n\toption action 'two\nconfig rule rule8\nlines'\n",
    ],
)
def test_files_that_do_not_fall_apart_are_changed_all_the_same(store, path, odd):
    path.write_text(TEXT + odd)
    others = [
        (s.type, s.options) for s in parse(path.read_text()).sections if s.name not in ("rule7", "rule8")
    ]
    store.load()
    changes = [
        RuleChange(7, "", RULE),
        RuleChange(8, "", RULE),
        DeviceChange(MAC, "New", ignore=False, profile="local"),
    ]
    assert store.apply(changes) is True
    said = dict(sections(path, "rule"))
    assert said["rule7"] == said["rule8"] == to_options(RULE)
    assert store.load()[0].decisions()[MAC] == ("New", False)
    store.apply(
        [
            RuleChange(7, "", None),
            RuleChange(8, "", None),
            DeviceChange(MAC, "Printer", ignore=False, profile="local"),
        ]
    )
    assert [(s.type, s.options) for s in parse(path.read_text()).sections] == others


def test_a_full_file_takes_no_more(store, path, monkeypatch):
    monkeypatch.setattr("spind.uci_sheet.MAX_BYTES", len(TEXT) + 100)
    with pytest.raises(StoreError, match="limit"):
        store.apply([RuleChange(7, "", RULE)])
    assert path.read_text() == TEXT
    store.apply([DeviceChange(MAC, "", ignore=False, profile="")])


def test_thousands_of_rules(store, path):
    rules = [RULE._replace(id=number, domain=f"host{number}.example") for number in range(1, 3001)]
    store.apply([RuleChange(rule.id, "", rule) for rule in rules])
    assert path.read_text().startswith(TEXT)
    assert store.load()[0].rules == tuple(rules)
    store.apply(
        [RuleChange(1500, "", None), RuleChange(1, "", rules[1]._replace(id=1)), RuleChange(3001, "", RULE)]
    )
    names = [name for name, _ in sections(path, "rule")]
    assert names == [f"rule{n}" for n in (*range(1, 1500), *range(1501, 3002))]
    store.apply([RuleChange(number, "", None) for number in range(1, 51)])
    assert len(sections(path, "rule")) == 2950
