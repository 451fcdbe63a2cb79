# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of people who decide: block, unblock, rename, ignore, profile, undo and the rest."""

import json
import time

import pytest
from rpc_server import serving
from test_api import MAC, Bench
from test_engine import CAMERA, CAMERA_V4, PHONE, PHONE_V4, T0, resolve

from spind import cli
from spind.api import Api
from spind.calls import NotInForceError
from spind.events import LeaseSeen, SetName

PHONE_MAC = "02:00:00:00:08:12"


class Terminal:
    """Runs subcommands against a table of methods that is served on a socket."""

    def __init__(self, capsys, path, bench):
        self.capsys = capsys
        self.path = str(path)
        self.bench = bench

    def __call__(self, *words):
        """Exit status, standard output, standard error."""
        try:
            status = cli.main([*words, "--socket", self.path])
        except SystemExit as error:
            status = error.code
        out = self.capsys.readouterr()
        assert out.out.replace("\n", "").isprintable()
        assert out.err.replace("\n", "").isprintable()
        return status, out.out, out.err

    def done(self, *words):
        """Standard output of a subcommand that succeeds."""
        status, out, err = self(*words)
        assert (status, err) == (0, "")
        return out

    def refused(self, *words, status=1):
        """The sentence of one that does not, and changes nothing."""
        before = self.bench.decided()
        found, out, err = self(*words)
        assert (found, out) == (status, "")
        assert self.bench.decided() == before
        return err

    def rules(self):
        return self.bench("list_rules")


@pytest.fixture
def spind(capsys, tmp_path):
    bench = Bench()
    bench.engine.handle(LeaseSeen(CAMERA, CAMERA_V4, "camera"), T0 + 2)
    bench.engine.handle(LeaseSeen(PHONE, PHONE_V4, "pixel"), T0 + 2)
    bench.engine.handle(SetName(bench.engine.nodes.devices[PHONE].id, "Ben's phone"), T0 + 2)
    bench.api = Api(bench.engine, time.time, bench.commands.extend)
    path = tmp_path / "rpc.sock"
    with serving(bench.api, path):
        yield Terminal(capsys, path, bench)


def fields(rule):
    return {
        name: rule[name] for name in ("device", "party", "domain", "ip", "port", "protocol") if name in rule
    }


@pytest.mark.parametrize(
    ("words", "expected", "text"),
    [
        (["camera"], {"device": MAC}, "camera may not reach anything"),
        (["CAMERA"], {"device": MAC}, "camera may not reach anything"),
        ([MAC.upper().replace(":", "-")], {"device": MAC}, "camera may not reach anything"),
        (["192.168.8.11"], {"device": MAC}, "camera may not reach anything"),
        (["2001:db8:8:0::11"], {"device": MAC}, "camera may not reach anything"),
        (["02:00:00:00:00:77"], {"device": "02:00:00:00:00:77"}, "02:00:00:00:00:77 may not reach anything"),
        (["ben's phone"], {"device": PHONE_MAC}, "Ben's phone may not reach anything"),
        (["vendor.test"], {"party": "vendor.test"}, "no device may reach vendor.test"),
        (["API.vendor.test."], {"domain": "api.vendor.test"}, "no device may reach api.vendor.test"),
        (["never.seen.example"], {"domain": "never.seen.example"}, "no device may reach never.seen.example"),
        (["198.18.0.0/24"], {"ip": "198.18.0.0/24"}, "no device may reach 198.18.0.0/24"),
        (["--everyone", "camera"], {"party": MAC}, "no device may reach camera"),
        (["--everyone", "vendor.test"], {"party": "vendor.test"}, "no device may reach vendor.test"),
        (["--everyone", "--port", "25"], {"port": 25}, "no device may reach anything on port 25"),
        (["--everyone", "--protocol", "icmp"], {"protocol": "icmp"}, "no device may reach anything on ICMP"),
        (
            ["camera", "--from", "tracker.example.org"],
            {"device": MAC, "domain": "tracker.example.org"},
            "camera may not reach tracker.example.org",
        ),
        (
            ["camera", "--from", "pixel"],
            {"device": MAC, "party": PHONE_MAC},
            "camera may not reach Ben's phone",
        ),
        (
            ["camera", "--to", "198.18.0.9", "--port", "443", "--protocol", "TCP"],
            {"device": MAC, "ip": "198.18.0.9", "port": 443, "protocol": "tcp"},
            "camera may not reach 198.18.0.9 on TCP port 443",
        ),
    ],
)
def test_block_and_unblock(spind, words, expected, text):
    assert spind.done("block", *words) == f"rule 1: {text}\n"
    (rule,) = spind.rules()
    assert (rule["action"], fields(rule), rule["text"]) == ("block", expected, text)
    assert spind.done("unblock", *words) == f"no longer: {text}\n"
    assert spind.rules() == []


def test_allow(spind):
    spind.done("block", "camera")
    assert spind.done("allow", "camera", "--to", "vendor.test") == "rule 2: camera may reach vendor.test\n"
    assert [rule["action"] for rule in spind.rules()] == ["block", "allow"]
    assert "no rule blocks just that" in spind.refused("unblock", "camera", "--from", "vendor.test")
    assert spind.done("rules", "--remove", "2", "1").splitlines() == [
        "no longer: camera may reach vendor.test",
        "no longer: camera may not reach anything",
    ]


def test_times(spind):
    before = int(time.time())
    spind.done("block", "camera", "--for", "1h30m", "--comment", "too loud")
    (rule,) = spind.rules()
    assert before + 5400 <= rule["until"] <= int(time.time()) + 5400
    assert rule["comment"] == "too loud"
    out = spind.done("block", "pixel", "--schedule", "mon-fri 22:00-06:30")
    assert out == "rule 2: Ben's phone may not reach anything, at mon-fri 22:00-06:30\n"
    spind.done("block", "vendor.test", "--until", "2100-01-31 18:00")
    assert spind.rules()[2]["until"] == int(time.mktime((2100, 1, 31, 18, 0, 0, 0, 0, -1)))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name a device or party"),
        (["--everyone"], "--port or --protocol"),
        (["--port", "25"], "name a device or party"),
        (["--everyone", "vendor.test", "--from", "camera"], "goes without --from"),
        (["camera", "--for", "soon"], "no length of time"),
        (["camera", "--for", "0m"], "no length of time"),
        (["camera", "--for", "999999999w"], "ten years"),
        (["camera", "--until", "later"], "no time"),
        (["camera", "--until", "1999-01-01"], "is over already"),
        (["camera", "--until", "18:00", "--for", "1h"], "not allowed with"),
        (["camera", "--port", "0"], "no port"),
        (["camera", "--port", "9" * 5000], "no port"),
        (["camera", "phone"], "unrecognized arguments: phone"),
    ],
)
def test_wrong_usage(spind, words, sentence):
    assert sentence in spind.refused("block", *words, status=2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["kamera"], "there is no device or other party called 'kamera'\n"),
        (["cam"], "called 'cam'; there is camera (02:00:00:00:08:11)"),
        (["vendor.test", "--from", "camera"], "no device called 'vendor.test'"),
        (["198.18.0.20", "--from", "camera"], "198.18.0.20 is no device: give a device's name"),
        (["camera", "--from", "camera"], "another party"),
        (["camera", "--from", "02:00:00:00:00:77"], "was not seen yet"),
        (["com."], "called 'com.'"),
        (["co.uk"], "public suffix"),
        (["0.0.0.0/0"], "every address"),
        (["camera", "--protocol", "smoke"], "protocol"),
        (["camera", "--schedule", "never"], "schedule"),
        (["camera", "--comment", "x" * 201], "comment"),
        (["a;nft flush ruleset.example"], "there is no device or other party"),
        (["x\x1b[2Jy.example"], "domain"),
        (["x\x1b[2J"], "called"),
    ],
)
def test_what_cannot_be_blocked(spind, words, sentence):
    err = spind.refused("block", *words)
    assert sentence in err
    assert err.startswith("spind block: ")


def test_names_that_several_have(spind):
    spind.bench.engine.handle(LeaseSeen(PHONE, PHONE_V4, "camera"), T0 + 3)
    err = spind.refused("block", "camera")
    assert "'camera' may be" in err
    assert f"camera ({MAC})" in err
    assert f"Ben's phone ({PHONE_MAC})" in err
    camera = spind.bench.engine.nodes.devices[CAMERA].id
    spind.bench.engine.handle(SetName(camera, "Front door"), T0 + 3)
    assert "Front door may not" in spind.done("block", "front door")


def test_the_name_that_people_gave_counts_before_one_that_a_device_gave_itself(spind):
    spind.bench.engine.handle(LeaseSeen(CAMERA, CAMERA_V4, "ben's phone"), T0 + 3)
    assert spind.done("block", "Ben's phone") == "rule 1: Ben's phone may not reach anything\n"
    assert fields(spind.rules()[0]) == {"device": PHONE_MAC}


def test_a_device_that_calls_itself_like_a_domain(spind):
    spind.bench.engine.handle(LeaseSeen(CAMERA, CAMERA_V4, "vendor.test"), T0 + 3)
    assert "may be vendor.test" in spind.refused("block", "vendor.test")
    spind.bench.engine.handle(LeaseSeen(CAMERA, CAMERA_V4, "unseen.example"), T0 + 3)
    assert "or the domain" in spind.refused("block", "unseen.example")
    assert spind.done("block", "unseen.example", "--from", "vendor.test").startswith("rule 1: unseen.example")
    assert fields(spind.rules()[0]) == {"device": MAC, "party": "vendor.test"}


def test_hostile_names_do_not_reach_the_terminal(spind):
    spind.bench.engine.handle(LeaseSeen(CAMERA, CAMERA_V4, "\x1b]0;x\x07\u202ecam"), T0 + 3)
    resolve(spind.bench.engine, CAMERA, CAMERA_V4, "\x1b[2Jx.evil.test", "198.18.0.77", T0 + 3)
    spind.done("block", MAC, "--from", "evil.test")
    for words in (["rules"], ["audit"], ["profile"], ["profile", MAC], ["undo"], ["block", "cam"]):
        spind(*words)  # Terminal looks at what is printed


def test_unblock_says_what_there_is(spind):
    spind.done("block", "camera", "--from", "vendor.test")
    spind.done("block", "camera", "--port", "443")
    spind.done("profile", "camera", "quarantine")
    err = spind.refused("unblock", "camera")
    assert "1: camera may not reach vendor.test; 2: camera may not reach anything on port 443" in err
    assert "rules --remove" in err
    assert "profile 'quarantine'" in err
    assert spind.refused("unblock", "pixel") == "spind unblock: no rule blocks just that (Ben's phone)\n"
    assert len(spind.rules()) == 2


def test_unblock_takes_all_that_say_the_same(spind):
    site = spind.bench.engine.nodes.find_domain("vendor.test").id
    spind.bench("add_rule", domain="vendor.test", action="block", schedule="mon 10:00-11:00")
    spind.bench("add_iplist_node", list="block", node=site)
    spind.bench("add_rule", domain="api.vendor.test", action="block")
    assert spind.done("unblock", "vendor.test").count("no longer: no device may reach vendor.test") == 2
    assert [rule["domain"] for rule in spind.rules()] == ["api.vendor.test"]


def test_rules(spind):
    assert spind.done("rules") == "no rules: nothing is blocked but by profiles ('spind profile')\n"
    assert spind.done("rules", "--json") == "[]\n"
    spind.done("block", "camera", "--comment", "why")
    spind.bench("add_rule", domain="x.example", action="block", schedule=_not_now())
    head, first, second = spind.done("rules").splitlines()
    assert head.split() == ["ID", "HOLDS", "BY", "RULE"]
    assert first == "1   now    owner  camera may not reach anything (why)"
    assert second.startswith("2   later  owner  no device may reach x.example, at ")
    assert [rule["id"] for rule in json.loads(spind.done("rules", "--json"))] == [1, 2]
    assert spind.refused("rules", "--remove", "9") == "spind rules: id: there is no rule 9\n"


def _not_now():
    """A schedule for another day of the week: the engine goes by Greenwich's."""
    return ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][(time.gmtime().tm_wday + 3) % 7] + " 10:00-11:00"


def test_more_rules_than_one_answer_holds(spind):
    for number in range(1200):
        spind.bench("add_rule", domain=f"n{number}.example", action="block", comment="x" * 150)
    assert len(spind.done("rules").splitlines()) == 1201
    assert spind.done("unblock", "n1199.example") == "no longer: no device may reach n1199.example\n"


def test_rename(spind):
    assert spind.done("rename", "camera", "Front door") == f"{MAC} is called Front door\n"
    assert spind.done("rename", "front door", "") == f"{MAC} is called camera\n"
    assert spind.done("rename", "vendor.test", "The vendor") == "vendor.test is called The vendor\n"
    assert spind.done("rename", "the VENDOR", "") == "vendor.test has no name\n"
    assert "longer than" in spind.refused("rename", "camera", "x" * 65)
    assert "not seen yet" in spind.refused("rename", "02:00:00:00:00:77", "x")
    assert "not seen yet" in spind.refused("rename", "other.example", "x")


def test_ignore(spind):
    assert spind.done("ignore", "camera").startswith("camera is hidden")
    assert spind.bench("list_iplist", list="ignore") == ["192.168.8.11", "2001:db8:8::11"]
    assert spind.done("unignore", "camera") == "camera is shown\n"
    spind.done("ignore", "198.18.0.0/24")
    assert spind.bench("list_iplist", list="ignore") == ["198.18.0.0/24"]
    spind.done("unignore", "198.18.0.0/24")
    assert spind.bench("list_iplist", list="ignore") == []
    assert "not seen yet" in spind.refused("ignore", "other.example")


def test_profile(spind):
    lines = spind.done("profile").splitlines()
    assert lines[0].split() == ["PROFILE", "NAME", "DEVICES", "MEANING"]
    assert [line.split()[0] for line in lines[1:]] == ["full", "learned", "local", "nointernet", "quarantine"]
    assert spind.done("profile", "camera") == "camera has no profile\n"
    assert spind.done("profile", "camera", "local") == "camera has the profile local\n"
    assert "camera" in next(line for line in spind.done("profile").splitlines() if line.startswith("local"))
    assert json.loads(spind.done("profile", "camera", "--json"))["profile"] == "local"
    assert spind.done("profile", "camera", "none") == "camera has no profile\n"
    assert "there are full, learned" in spind.refused("profile", "camera", "strict")
    assert "no device called" in spind.refused("profile", "vendor.test", "local")
    assert "not seen yet" in spind.refused("profile", "02:00:00:00:00:77")
    assert json.loads(spind.done("profile", "--json"))[0]["name"] == "full"


def test_audit_and_undo(spind):
    assert spind.done("audit") == "nothing was decided yet\n"
    assert "nothing that can be undone" in spind.refused("undo")
    spind.done("block", "camera")
    spind.done("rename", "camera", "Front door")
    spind.done("profile", MAC, "local")
    assert spind.done("undo") == "undid 3: Front door: profile local\n"
    assert spind.done("undo").startswith("undid 2: ")
    assert spind.bench("list_nodes", query="front")["items"] == []
    assert spind.done("undo").startswith("undid 1: ")
    assert spind.rules() == []
    assert "nothing that can be undone" in spind.refused("undo")
    head, *lines = spind.done("audit").splitlines()
    assert head.split() == ["ID", "WHEN", "WHO", "WHAT"]
    assert [line.split()[0] for line in lines] == ["6", "5", "4", "3", "2", "1"]
    assert "owner, socket" in lines[0]
    assert "undid 1: rule removed: camera may not reach anything" in lines[0]
    assert lines[-1].endswith("rule made: camera may not reach anything (undone by 6)")
    assert spind.done("undo", "6").startswith("undid 6: ")
    assert len(spind.rules()) == 1
    assert spind.refused("undo", "99") == "spind undo: there is no entry 99: see 'spind audit'\n"
    assert "undone already" in spind.refused("undo", "3")
    assert len(spind.done("audit", "--limit", "2").splitlines()) == 3
    assert json.loads(spind.done("audit", "--json", "--limit", "1"))[0]["undoes"] == 6


def test_what_the_kernel_did_not_take_is_said(spind):
    def refuse(_commands):
        raise NotInForceError("the kernel says no\x1b[2J")

    spind.bench.api._desk._carry_out = refuse
    status, out, err = spind("block", "camera")
    assert (status, out) == (1, "")
    assert err == "spind block: kept, but not in force yet: the kernel says no�[2J\n"


def test_no_daemon(capsys, tmp_path):
    for words in (["block", "x"], ["rules"], ["undo"], ["profile"], ["audit"], ["rename", "a", "b"]):
        assert cli.main([*words, "--socket", str(tmp_path / "none")]) == 1
        assert "spind does not run" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(cli._ACTS))
def test_help(capsys, name):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    out = capsys.readouterr().out
    assert f"examples:\n  spind {name}" in out
    assert all(len(line) <= 110 for line in out.splitlines())
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert name in capsys.readouterr().out
