# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole configurations beside libuci: what we write it reads as it was meant, and the other way round."""

import random
import subprocess
from pathlib import Path

import pytest
from uci_binary import UCI

from spind.changes import Change, DeviceChange, IgnoredChange, ProfileChange, RuleChange, SiteChange
from spind.config import Config, load
from spind.profiles import Profile
from spind.rules import Rule, parse_rule, to_options
from spind.store import Store

pytestmark = pytest.mark.skipif(UCI is None, reason="the uci program is not installed")

COUNT = 100  # each way
NAMES = [
    "Käse",
    "it's",
    'say "hi"',
    "; reboot",
    "$(reboot)",
    "a\\b",
    "#1",
    "\U0001f9c0",
    " x y ",
    "config device",
    "%s",
]
PROFILES = ["", "quarantine", "local"]
COMMENTS = ["", "why", "don't", "two  spaces", "'; nft flush ruleset", "«äöü»"]


def mac(rng: random.Random) -> str:
    return f"02:00:00:00:00:{rng.randrange(256):02x}"


def random_rule(rng: random.Random, number: int) -> Rule:
    fields: dict[str, object] = {"action": rng.choice(["block", "allow"]), "comment": rng.choice(COMMENTS)}
    party = rng.choice(["domain", "ip", "node", "", "port"])
    if party == "domain":
        fields["domain"] = rng.choice(["ads.tracker.test", "example.co.uk", "bücher.example"])
    elif party == "ip":
        fields["ip"] = rng.choice(["192.0.2.7", "198.51.100.0/24", "2001:db8::/32"])
    elif party == "node":
        fields["node"] = rng.choice(["tracker.test", "198.18.0.1"])
    elif party == "port":
        fields |= {"port": rng.randrange(1, 65536), "protocol": rng.choice(["", "tcp", "udp"])}
    if party == "" or rng.random() < 0.5:
        fields["device"] = mac(rng)
    if rng.random() < 0.3:
        fields["until"] = 2_000_000_000 + rng.randrange(1000)
    if rng.random() < 0.3:
        fields["schedule"] = rng.choice(["mon-fri 22:00-06:30", "sat,sun 23:00-08:00", "daily 21:00-07:00"])
    return parse_rule(fields, id=number, author=rng.choice(["owner", "provider"]), created=1_700_000_000)


def random_decisions(rng: random.Random) -> list[Change]:
    """What people may have decided, in any order."""
    changes: list[Change] = [
        DeviceChange(address, rng.choice(NAMES).strip(), rng.random() < 0.3, rng.choice(PROFILES))
        for address in sorted({mac(rng) for _ in range(rng.randrange(6))})
    ]
    changes += [
        SiteChange(key, rng.choice(NAMES).strip(), rng.random() < 0.5)
        for key in rng.sample(["a.test", "b.test", "192.0.2.1", "2001:db8::1"], rng.randrange(4))
    ]
    changes += [RuleChange(n, "", random_rule(rng, n)) for n in rng.sample(range(1, 500), rng.randrange(8))]
    for name in rng.sample(["kids", "work", "guests_2"], rng.randrange(3)):
        lists = {"allow_domain": ("a.test", "b.test"), "block_ip": ("internet", "192.0.2.0/24")}
        chosen = {key: lists[key] for key in rng.sample(sorted(lists), rng.randrange(3))}
        changes.append(ProfileChange(name, Profile(name, rng.choice(NAMES).strip(), "", "block", **chosen)))
    changes.append(IgnoredChange(tuple(rng.sample(["192.0.2.9", "2001:db8::/48"], rng.randrange(3)))))
    rng.shuffle(changes)
    return changes


def values(config: Config) -> tuple[object, ...]:
    """What a configuration says, apart from what its sections are called and their order."""
    return (
        sorted((d.mac, d.name, d.profile, d.ignore) for d in config.devices),
        sorted((s.key, s.name, s.ignore) for s in config.sites),
        sorted(rule._replace(section="") for rule in config.rules),
        sorted(config.profiles),
        config.ignore_ip,
        config.log_loglevel,
        config.pubsub_host,
        config.lan,
    )


def uci(directory: Path, *words: str, text: str = "") -> str:
    staged = directory / "staged"
    staged.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(UCI), "-c", str(directory / "config"), "-t", str(staged), *words],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    return tmp_path / "config" / "spin"


def test_libuci_reads_what_we_wrote(path: Path, tmp_path: Path) -> None:
    rng = random.Random("ours")
    sizes = []
    for _ in range(COUNT):
        path.write_text(
            "# mine\nconfig spind 'spind'\n\toption log_loglevel '5'\n\tlist lan 'lan'\n\tlist lan 'guest'\n"
        )
        store = Store(str(path))
        store.load()
        changes = random_decisions(rng)
        for change in changes:
            store.apply([change])
        config, problems = load(store.read())
        assert not problems
        sizes.append(len(config.rules) + len(config.devices))
        # What libuci makes of it, read again: every value is the same, or ours was written wrongly.
        again, problems = load(uci(tmp_path, "export", "spin").removeprefix("package spin\n"))
        assert not problems
        assert values(again) == values(config)
        written = {change.id: change.rule for change in changes if isinstance(change, RuleChange)}
        assert {rule.id: rule._replace(section="") for rule in config.rules} == written
    assert max(sizes) > 8


def quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def test_we_read_what_libuci_wrote(path: Path, tmp_path: Path) -> None:
    rng = random.Random("theirs")
    for _ in range(COUNT):
        path.write_text("")
        level, host = rng.randrange(8), rng.choice(["192.0.2.5", "broker.test"])
        lines = [
            "set spin.spind=spind",
            f"set spin.spind.log_loglevel={level}",
            f"set spin.spind.pubsub_host={host}",
        ]
        lines += ["add_list spin.spind.lan=lan", "add_list spin.spind.lan=guest"]
        devices = {mac(rng): rng.choice(NAMES).strip() for _ in range(rng.randrange(5))}
        for address, name in devices.items():
            lines += ["add spin device", f"set spin.@device[-1].mac={address}"]
            lines.append(f"set spin.@device[-1].name={quoted(name)}")
        rules = [random_rule(rng, number) for number in rng.sample(range(1, 500), rng.randrange(6))]
        for rule in rules:
            lines.append(f"set spin.rule{rule.id}=rule")
            lines += [
                f"set spin.rule{rule.id}.{key}={quoted(text)}" for key, text in to_options(rule).items()
            ]
        uci(tmp_path, "batch", text="\n".join([*lines, "commit spin"]) + "\n")
        config, problems = load(path.read_text())
        assert not problems
        assert (config.log_loglevel, config.pubsub_host, config.lan) == (level, host, ("lan", "guest"))
        assert {device.mac.hex(":"): device.name for device in config.devices} == devices
        assert sorted(rule._replace(section="") for rule in config.rules) == sorted(rules)
