# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz targets: fields of rules and profiles, and schedules, as people and programs write them."""

from fuzz_targets import Target

from spind.profiles import Profile, parse_profile
from spind.profiles import to_options as profile_options
from spind.rules import FieldError, Rule, describe, parse_rule, rank, to_json, to_options
from spind.schedule import Schedule, parse_schedule

CREATED = 1_700_000_000

RULES = [
    b"action=block\ndevice=02:00:c0:ff:ee:01\ndomain=*.Tracker.example.org.\nport=443\nprotocol=tcp",
    b"action=allow\nip=192.0.2.7/24\nuntil=1893456000",
    b"action=block\nip=2001:db8::/32\nschedule=mon-fri 22:00-06:30, sat,sun 23:00-08:00",
    b"action=block\nnode=example.org\ncomment=no 'screens' at night",
    b"action=allow\nnode=02-00-C0-FF-EE-02\nprotocol=icmp",
    "action=block\ndomain=b\u00fccher.example\ncomment=\u2602".encode(),
    b"action=block\nip=::ffff:192.0.2.7/120\nport=53",
]
RULE_TOKENS = [
    b"action=", b"block", b"allow", b"device=", b"node=", b"domain=", b"ip=", b"port=", b"protocol=",
    b"until=", b"schedule=", b"comment=", b"\n", b"/0", b"/", b"::", b"*.", b".", b"xn--", b"127.0.0.1",
    b"ff02::1", b"0", b"99999999999", b"-1", b"; nft flush ruleset", b"'", b'"',
    b"\0", b"\xe2\x80\xae", b"\xc3\x9f",
    b"\xef\xbc\x8e",
]  # fmt: skip
SCHEDULES = [
    b"mon-fri 22:00-06:30, sat,sun 23:00-08:00",
    b"daily 21:00-07:00",
    b"fri-mon 00:00-24:00, 1:00-2:00 3:00-4:00",
    b"12:00-13:00",
]
SCHEDULE_TOKENS = [
    b"mon", b"fri", b"su", b"sunday", b"daily", b"-", b",", b" ", b":", b"24:00", b"00:00-24:00", b"23:59",
    b"99:99",
]  # fmt: skip
PROFILES = [
    b"name=Children\ndefault=block\nallow_domain=example.org, a.example.net\nallow_ip=home 192.0.2.0/24",
    b"block_ip=internet,2001:db8::/32\ndescription=what it is",
    b"default=allow\nblock_domain=*.example.org\nblock_ip=224.0.0.0/4",
]
PROFILE_TOKENS = [
    *RULE_TOKENS, b"default=", b"allow_domain=", b"block_domain=", b"allow_ip=", b"block_ip=", b"name=",
    b"home", b"internet", b",",
]  # fmt: skip


def _fields(data: bytes) -> dict[str, object]:
    lines = (line.partition("=") for line in data.decode("utf-8", "surrogateescape").split("\n"))
    return {name: value for name, equals, value in lines if equals}


def _rule(data: bytes) -> Rule:
    return parse_rule(_fields(data), id=1, author="owner", created=CREATED)


def check_rule(_data: bytes, rule: Rule) -> None:
    options = to_options(rule)
    assert all("\n" not in text and "\0" not in text for text in options.values())
    for name in ("device", "node", "domain", "ip", "schedule", "protocol"):
        assert options.get(name, "").isascii()
    again: dict[str, object] = {k: v for k, v in options.items() if k not in ("author", "created")}
    assert parse_rule(again, id=1, author="owner", created=CREATED) == rule
    assert to_json(rule)["action"] == rule.action
    assert rank(rule) <= rank(rule)
    assert describe(rule, str).isprintable()


def _profile(data: bytes) -> Profile:
    return parse_profile(_fields(data), "fuzzed")


def check_profile(_data: bytes, profile: Profile) -> None:
    assert parse_profile(profile_options(profile), "fuzzed") == profile


def check_schedule(_data: bytes, schedule: Schedule) -> None:
    assert parse_schedule(str(schedule)) == schedule
    for weekday in range(7):
        minutes = schedule.next_change(weekday, 700)
        assert 1 <= minutes <= 10080
        then = weekday * 1440 + 700 + minutes
        changed = schedule.active(then // 1440 % 7, then % 1440) != schedule.active(weekday, 700)
        assert changed or minutes == 10080


TARGETS = {
    "rule": Target(_rule, (FieldError,), RULES, RULE_TOKENS, check_rule),
    "profile": Target(_profile, (FieldError,), PROFILES, PROFILE_TOKENS, check_profile),
    "schedule": Target(
        lambda data: parse_schedule(data.decode("utf-8", "surrogateescape")),
        (ValueError,),
        SCHEDULES,
        SCHEDULE_TOKENS,
        check_schedule,
    ),
}
