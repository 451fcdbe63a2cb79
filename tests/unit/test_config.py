# SPDX-License-Identifier: GPL-2.0-or-later
import random
import time
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uci_texts import random_text

from spind.config import MAX_PROBLEMS, OPTIONS, Config, load
from spind.config_kinds import FLAG, HOST, MASK, NETWORK, PORT, PREFIX, SOCKET, TOPIC, seconds
from spind.config_options import OBSOLETE
from spind.limits import CaptureLimits, Limits
from spind.model import parse_mac
from spind.uci import UciError, quote

SPIN_1_0 = """
config spind 'spind'
	option iptable_debug '/tmp/blockcommands'
	option iptable_queue_dns '1'
	option iptable_queue_block '2'
	option iptable_place_dns '0'
	option iptable_place_block '0'
	option pubsub_host '127.0.0.1'
	option pubsub_port '1883'
	option pubsub_channel_traffic 'SPIN/traffic'
	option pubsub_timeout '60'
	option log_usesyslog '1'
	option log_loglevel '1'
	option spinweb_interfaces '127.0.0.1, 192.168.11.1'
	option pubsub_run_mosquitto '1'
	option spinweb_tls_certificate_file '/etc/nginx/nginx.cer'
	option spinweb_tls_key_file '/etc/nginx/nginx.key'
"""
"""The example of SPIN 1.0's own documentation."""


def main(lines):
    return "config spind 'spind'\n" + lines


def problems_of(text, previous=None):
    return [(p.kind, p.section, p.option, p.value) for p in load(text, previous)[1]]


def test_nothing_said_is_all_defaults():
    for text in ("", "config spind 'spind'\n", "config spind\n"):
        assert load(text) == (Config(), [])


def test_defaults_of_spin_1_0():
    config = Config()
    assert (config.pubsub_host, config.pubsub_port, config.pubsub_timeout) == ("127.0.0.1", 1883, 60)
    assert (config.pubsub_websocket_host, config.pubsub_websocket_port) == ("127.0.0.1", 1884)
    assert config.pubsub_channel_traffic == "SPIN/traffic"
    assert (config.iptable_queue_dns, config.iptable_queue_block) == (1, 2)
    assert config.node_cache_retain_time == 1800
    assert (config.spinweb_interfaces, config.spinweb_port) == (("127.0.0.1",), 13026)
    assert (config.log_usesyslog, config.log_loglevel) == (True, 6)
    assert (config.dots_enabled, config.dots_log_only, config.pid_file) == (False, False, "")


def test_a_file_of_spin_1_0_is_understood():
    config, problems = load(SPIN_1_0)
    assert config.log_loglevel == 1
    assert config.spinweb_interfaces == ("127.0.0.1", "192.168.11.1")
    assert config.spinweb_tls_key_file == "/etc/nginx/nginx.key"
    assert [(p.kind, p.option) for p in problems] == [
        ("ignored", "iptable_debug"),
        ("ignored", "iptable_place_dns"),
        ("ignored", "iptable_place_block"),
        ("ignored", "pubsub_run_mosquitto"),
    ]
    assert str(problems[0]) == (
        "line 3: spin.spind.iptable_debug is ignored: spind keeps its rules in a table of its own; "
        "'nft list table inet spin' shows it"
    )


def test_every_option_is_an_attribute_and_its_default_is_allowed():
    assert set(OPTIONS) == {f.name for f in fields(Config)} - {
        "devices",
        "sites",
        "rules",
        "profiles",
        "highest_rule_id",
    }
    for option in OPTIONS.values():
        assert option.doc.endswith(".")
        values = option.default if option.kind.most else [option.default]
        for value in values:
            text = option.kind.show(value)
            if text:
                assert option.kind.parse(text) == value


def test_limits_are_those_of_the_engine():
    assert Config().limits == Limits()
    captures = {"limit_captures", "limit_capture_seconds", "limit_capture_bytes"}
    of_engine = {f"limit_{name}" for name in Limits._fields}
    assert {name for name in OPTIONS if name.startswith("limit_")} == of_engine | captures
    assert Config().capture_limits == CaptureLimits()
    assert load(main("option limit_capture_bytes 70000\n"))[0].capture_limits.bytes == 70000
    assert load(main("option limit_devices 20\n"))[0].limits == Limits(devices=20)


def test_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Config().mode = "local"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (FLAG, "enabled", True),
        (FLAG, "off", False),
        (PORT, "0080", 80),
        (seconds(0.1, 60), "0.25", 0.25),
        (MASK, "ff0000", 0xFF0000),
        (MASK, "0X80000003", 0x80000003),
        (HOST, "2001:DB8::1", "2001:db8::1"),
        (HOST, "broker.example", "broker.example"),
        (PREFIX, "192.168.8.1/24", "192.168.8.1/24"),
        (NETWORK, "br-lan.3", "br-lan.3"),
        (TOPIC, "Home/SPIN é", "Home/SPIN é"),
        (SOCKET, "/" + "x" * 106, "/" + "x" * 106),
    ],
)
def test_kinds_take(kind, text, value):
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (FLAG, "maybe"),
        (FLAG, "2"),
        (PORT, "0"),
        (PORT, "65536"),
        (PORT, "-1"),
        (PORT, "1_0"),
        (PORT, "٣"),
        (PORT, " 1"),
        (PORT, "9" * 5000),
        (seconds(0.1, 60), "0"),
        (seconds(0.1, 60), "1e1"),
        (seconds(0.1, 60), "nan"),
        (MASK, "0"),
        (MASK, "0x"),
        (MASK, "0x0c000000"),
        (MASK, "0x1ffffffff"),
        (HOST, "a b"),
        (HOST, "1::2::3"),
        (HOST, "fe80::1%eth0"),
        (PREFIX, "192.0.2.1/33"),
        (PREFIX, "192.0.2"),
        (PREFIX, "fe80::%x/64"),
        (NETWORK, ".."),
        (NETWORK, "a/b"),
        (TOPIC, "SPIN/#"),
        (TOPIC, "a\x07"),
        (SOCKET, "/" + "x" * 107),
        (SOCKET, "relative"),
        (SOCKET, "/\udc80"),
    ],
)
def test_kinds_refuse(kind, text):
    with pytest.raises(ValueError):
        kind.parse(text)


def test_a_bad_value_is_told_and_the_default_holds():
    config, problems = load(main("\toption pubsub_port 'lots'\n\toption pubsub_timeout 5\n"))
    assert (config.pubsub_port, config.pubsub_timeout) == (1883, 5)
    (problem,) = problems
    assert (problem.kind, problem.section, problem.option, problem.value) == (
        "bad",
        "spind",
        "pubsub_port",
        "lots",
    )
    assert str(problem) == (
        "line 2: spin.spind.pubsub_port: 'lots' is not allowed, allowed is an integer from 1 to 65535; "
        "'1883' stays in force"
    )


def test_the_last_good_value_survives_a_bad_one_but_not_its_removal():
    good, _ = load(main("option mode bridge\nlist lan br-lan\noption pubsub_port 1999\n"))
    after, problems = load(main("option mode brigde\nlist lan 'b/d'\n"), good)
    assert (after.mode, after.lan, after.pubsub_port) == ("bridge", ("br-lan",), 1883)
    assert [p.in_force for p in problems] == [
        "'bridge' stays in force",
        "it is left out",
    ]
    assert load(main(""), after)[0].mode == "router"


def test_the_good_entries_of_a_list_apply():
    config, problems = load(main("list ignore_ip 10.0.0.0/8\nlist ignore_ip 10/8\nlist ignore_ip ::1\n"))
    assert config.ignore_ip == ("10.0.0.0/8", "::1")
    assert [(p.option, p.value, p.line) for p in problems] == [("ignore_ip", "10/8", 4)]


def test_a_list_is_bounded_and_has_each_entry_once():
    lines = "".join(f"list lan eth{number}\n" for number in range(33))
    config, problems = load(main("list lan eth0\n" + lines))
    assert config.lan == tuple(f"eth{number}" for number in range(32))
    assert [p.value for p in problems] == ["eth32"]


def test_one_option_can_hold_a_list_and_a_list_of_one_an_option():
    config, problems = load(main("option lan 'lan guest,iot'\nlist mode local\nlist ignore_ip ''\n"))
    assert (config.lan, config.mode, config.ignore_ip) == (("lan", "guest", "iot"), "local", ())
    assert problems == []
    assert problems_of(main("list mode local\nlist mode bridge\n")) == [
        ("bad", "spind", "mode", "local bridge")
    ]


def test_the_queues_must_differ():
    config, problems = load(main("option iptable_queue_dns 2\n"))
    assert (config.iptable_queue_dns, config.iptable_queue_block) == (1, 2)
    assert [p.option for p in problems] == ["iptable_queue_dns"]
    before = replace(Config(), iptable_queue_dns=7, iptable_queue_block=8)
    config, _ = load(main("option iptable_queue_dns 4\noption iptable_queue_block 4\n"), before)
    assert (config.iptable_queue_dns, config.iptable_queue_block) == (7, 8)
    config, problems = load(main("option iptable_queue_dns 5\noption iptable_queue_block 3\n"))
    assert (config.iptable_queue_dns, config.iptable_queue_block, config.iptable_queue_inspect) == (1, 2, 3)
    assert [(p.option, p.value) for p in problems] == [("iptable_queue_block", "3")]
    _, problems = load(main("option iptable_queue_dns 2\noption iptable_queue_inspect 5\n"))
    assert [(p.option, p.value) for p in problems] == [("iptable_queue_dns", "2")]
    assert load(main("option iptable_queue_dns 2\noption iptable_queue_block 1\n"))[1] == []


def test_unknown_names_are_told_with_what_may_be_meant():
    text = main("option pubsub_prot 1\noption zzz 1\n") + "config devices\nconfig spind two\n"
    assert [str(p) for p in load(text)[1]] == [
        "line 2: spin.spind.pubsub_prot is ignored: unknown option; is pubsub_port meant?",
        "line 3: spin.spind.zzz is ignored: unknown option",
        "line 4: spin.@devices[0] is ignored: unknown section type; is device meant?",
        "line 5: spin.two is ignored: the settings are those of section spind",
    ]


def test_problems_are_bounded_in_number_and_time():
    text = main("".join(f"option pubsub_prot{number} x\n" for number in range(20_000)))
    started = time.process_time()
    assert len(load(text)[1]) == MAX_PROBLEMS
    assert time.process_time() - started < 20  # all of them would take minutes


def test_an_empty_value_is_none():
    before = Config(mode="bridge", lan=("eth1",))
    assert load(main("list mode ''\nlist lan ''\noption pubsub_port ''\n"), before) == (Config(), [])


def test_every_obsolete_option_is_ignored_with_a_reason():
    assert not OBSOLETE.keys() & OPTIONS.keys()
    text = main("".join(f"option {name} x\n" for name in OBSOLETE))
    assert problems_of(text) == [("ignored", "spind", name, "") for name in OBSOLETE]


def test_the_password_is_nowhere_to_be_read():
    config, problems = load(main("option pubsub_password 'tell\tnobody'\noption pubsub_user u\n"))
    assert (config.pubsub_password, config.pubsub_user) == ("", "u")
    assert "nobody" not in str(problems[0]) + repr(problems[0])
    config, problems = load(main("option pubsub_password hush\n"))
    assert config.pubsub_password == "hush"
    assert "hush" not in repr(config)
    _, problems = load(main("option pubsub_password ' \t'\n"), config)
    assert "hush" not in str(problems[0]) + repr(problems[0])


def test_what_a_bad_value_says_cannot_harm_a_terminal_or_fill_the_log():
    (problem,) = load(main(f"option mode {quote(chr(27) + '[2J' + 'x' * 5000)}\n"))[1]
    assert str(problem).isprintable()
    assert len(str(problem)) < 400


DEVICES = """
config device
	option mac 'AA-BB-CC-DD-EE-F0'
	option name ' Café 🖨 '
	option ignore yes

config device tv
	option mac 'aa:bb:cc:dd:ee:f2'
	option profile quarantine
"""


def test_devices():
    config, problems = load(DEVICES)
    assert problems == []
    first, second = config.devices
    assert (first.section, first.mac, first.name, first.ignore) == (
        "@device[0]",
        parse_mac("aa:bb:cc:dd:ee:f0"),
        "Café 🖨",
        True,
    )
    assert (second.section, second.profile, second.name, second.ignore) == (
        "tv",
        "quarantine",
        "",
        False,
    )
    assert config.decisions() == {"aa:bb:cc:dd:ee:f0": ("Café 🖨", True), "aa:bb:cc:dd:ee:f2": ("", False)}
    assert config.decided_nodes()["aa:bb:cc:dd:ee:f2"] == ("", False, "quarantine")


@pytest.mark.parametrize(
    "mac", ["", "x", "aa:bb:cc:dd:ee", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "01:00:5e:00:00:01"]
)
def test_a_device_without_a_mac_of_a_device_is_left_out(mac):
    config, problems = load(f"config device d\n\toption name x\n\toption mac '{mac}'\n")
    assert config.devices == ()
    assert [(p.kind, p.section, p.option) for p in problems] == [("bad", "d", "mac")]


def test_a_device_is_there_once():
    config, problems = load(DEVICES + "config device three\n\toption mac aabbccddeef0\n\toption name other\n")
    assert [device.name for device in config.devices] == ["Café 🖨", ""]
    assert problems[0].allowed == "one section per device, and @device[0] has it"


def test_what_is_bad_about_a_device_keeps_its_last_good_value():
    before, _ = load(DEVICES)
    text = DEVICES.replace("yes", "maybe").replace(" Café 🖨 ", "a\x1b[1m")
    after, problems = load(text, before)
    assert (after.devices[0].name, after.devices[0].ignore) == ("Café 🖨", True)
    assert [(p.section, p.option) for p in problems] == [("@device[0]", "name"), ("@device[0]", "ignore")]
    fresh, _ = load(text)
    assert (fresh.devices[0].name, fresh.devices[0].ignore) == ("", False)


def test_sites_by_domain_or_address():
    config, problems = load(
        "config site\n\toption domain Example.ORG\n\toption name News\n"
        "config site\n\toption ip 2001:DB8::1\n\toption ignore 1\n"
        "config site s3\n\toption domain example.org\n"
        "config site s4\n\toption domain 'a b'\n\toption colour red\n"
    )
    assert config.decisions() == {"example.org": ("News", False), "2001:db8::1": ("", True)}
    assert [(p.kind, p.section, p.option) for p in problems] == [
        ("bad", "s3", "domain"),
        ("bad", "s4", "domain"),
        ("ignored", "s4", "colour"),
    ]


def test_the_section_named_spind_is_the_one():
    config, problems = load("config spind\n\toption mode local\nconfig spind spind\n\toption mode bridge\n")
    assert config.mode == "bridge"
    assert [(p.section, p.line) for p in problems] == [("@spind[0]", 1)]


def test_no_uci_is_one_error():
    with pytest.raises(UciError) as caught:
        load("config spind 'spind\n")
    assert caught.value.line == 1


_values = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0") | st.just("\udcff"))


@given(
    st.dictionaries(st.sampled_from([*OPTIONS, *OBSOLETE]), st.lists(_values, min_size=1, max_size=3)),
    st.dictionaries(
        st.sampled_from(["mac", "name", "ignore", "domain", "ip", "x", "action", "profile", "default"]),
        _values,
    ),
    st.sampled_from(["device", "site", "rule", "profile", "spind", "x"]),
)
@settings(max_examples=300, deadline=None)
def test_any_values_give_a_configuration_of_the_right_types(options, others, type_):
    text = "config spind spind\n" + "".join(f"list {k} {quote(v)}\n" for k in options for v in options[k])
    text += f"config {type_}\n" + "".join(f"option {k} {quote(v)}\n" for k, v in others.items())
    config, problems = load(text)
    for option in OPTIONS.values():
        assert type(getattr(config, option.name)) is type(option.default)
    for problem in problems:
        assert str(problem).isprintable()
        assert 1 <= problem.line <= text.count("\n")
    assert load(text, config)[0] == config


def test_any_text_gives_a_configuration_or_the_one_error():
    rng = random.Random(9)
    outcomes = set()
    for _ in range(1500):
        try:
            load(random_text(rng).replace("mac", rng.choice(["mac", "mode", "lan"])))
            outcomes.add("config")
        except UciError:
            outcomes.add("error")
    assert outcomes == {"config", "error"}
