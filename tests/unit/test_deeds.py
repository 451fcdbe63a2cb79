# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods that decide: what they change, what they refuse, what the audit list says, undo."""

import json

import pytest
from test_api import MAC
from test_engine import CAMERA, CAMERA_V4, CDN, PHONE, T0, home, resolve, transfer

from spind.api import REFUSED, Api, ApiError
from spind.audit import ENTRIES, Audit
from spind.calls import Caller, NotInForceError
from spind.changes import DeviceChange, RuleChange
from spind.commands import Command, RecordAudit, Save
from spind.engine import Engine
from spind.events import Decided, Tick
from spind.limits import Limits
from spind.model import ConnKey, parse_address

OWNER = Caller("socket", "owner")
PROVIDER = Caller("ubus", "provider")
PHONE_MAC = "02:00:00:00:08:12"


class Desk:
    """An Api on an engine with some traffic, at a time that tests set."""

    def __init__(self, **options: object) -> None:
        self.now = T0 + 5
        self.engine: Engine = home(**options)
        resolve(self.engine, CAMERA, CAMERA_V4, "api.vendor.test", "198.18.0.20", T0)
        transfer(self.engine, ConnKey(6, CAMERA_V4, 5000, CDN, 443), 100, 200, T0)
        self.commands: list[Command] = []
        self.api = Api(self.engine, lambda: self.now, self.commands.extend)
        self.camera = self.engine.nodes.devices[CAMERA].id
        self.phone = self.engine.nodes.devices[PHONE].id
        self.site = self.engine.nodes.find_domain("vendor.test").id

    def __call__(self, method: str, caller: Caller = OWNER, **params: object) -> object:
        result = self.api.call(method, params, caller)
        assert len(json.dumps(result)) < 256 * 1024
        return result

    def refused(self, method: str, caller: Caller = OWNER, **params: object) -> str:
        """The sentence of a refusal, which changed nothing."""
        before = self.decided()
        self.commands.clear()
        with pytest.raises(ApiError) as error:
            self.api.call(method, params, caller)
        assert self.decided() == before
        assert not self.commands
        assert error.value.code in (REFUSED, -32602)
        assert error.value.message.isprintable()
        assert len(error.value.message) < 400
        return error.value.message

    def decided(self, *, audit: bool = True) -> str:
        """All that a call may change, as the methods and the kernel's rules show it."""
        lists = [self("list_iplist", list=name) for name in ("ignore", "block", "allow")]
        shown = [self(method) for method in ("list_rules", "list_profiles", "get_flow_block")]
        nodes = self("list_nodes", limit=500)
        self.engine.policy.take()
        kernel = self.engine.policy.ruleset
        sets = sorted(
            (name, sorted(map(repr, elements))) for name, elements in kernel.sets.items() if elements
        )
        classes = sorted((mac.hex(), name) for mac, name in kernel.macs.items())
        told = [nodes, lists, shown, sets, classes]
        return json.dumps([*told, self("list_audit")] if audit else told)

    def entries(self) -> list[dict[str, object]]:
        return self("list_audit")["items"]

    def blocks(self, mac: bytes, address: str, name: str = "", port: int = 443, protocol: int = 6) -> bool:
        rule = self.engine.policy.decide(mac, name, parse_address(address), protocol, port)
        return rule is not None and rule.action == "block"


# -- what they change --------------------------------------------------------------------


def test_a_rule_is_made_listed_and_taken_back() -> None:
    desk = Desk()
    made = desk("add_rule", device=MAC, domain="Ads.Tracker.TEST.", action="block", comment="noisy")
    assert made == {"id": 1}
    (rule,) = desk("list_rules")
    assert rule == {
        "id": 1,
        "action": "block",
        "device": MAC,
        "domain": "ads.tracker.test",
        "comment": "noisy",
        "author": "owner",
        "created": int(T0 + 5),
        "active": True,
        "text": f"{MAC} may not reach ads.tracker.test",
    }
    assert desk.blocks(CAMERA, "198.18.7.7", "x.ads.tracker.test")
    assert not desk.blocks(PHONE, "198.18.7.7", "x.ads.tracker.test")
    assert desk("remove_rule", id=1) is None
    assert desk("list_rules") == []
    assert not desk.blocks(CAMERA, "198.18.7.7", "x.ads.tracker.test")


def test_a_rule_about_a_node_follows_the_node() -> None:
    desk = Desk()
    desk("add_rule", device=MAC.upper().replace(":", "-"), node=desk.phone, action="block")
    (rule,) = desk("list_rules")
    assert (rule["device"], rule["node"], rule["party"]) == (MAC, desk.phone, PHONE_MAC)
    assert desk.blocks(CAMERA, "192.168.8.12")
    assert desk("get_flow_block") == [{"node1": desk.camera, "node2": desk.phone}]


def test_ids_are_not_given_twice() -> None:
    desk = Desk()
    first = desk("add_rule", domain="a.test.example", action="block")["id"]
    desk("remove_rule", id=first)
    assert desk("add_rule", domain="a.test.example", action="block")["id"] > first


@pytest.mark.parametrize("action", ["block", "allow"])
def test_a_node_on_a_list_is_a_rule(action: str) -> None:
    desk = Desk()
    mark = {"block": "is_blocked", "allow": "is_excepted"}[action]
    for node, key in ((desk.camera, "device"), (desk.site, "node")):
        desk("add_iplist_node", list=action, node=node)
        desk("add_iplist_node", list=action, node=node)
        (rule,) = desk("list_rules")
        assert (rule["action"], key in rule) == (action, True)
        assert desk("get_device_data", node=node)[mark] is True
        desk("remove_iplist_node", list=action, node=node)
        assert mark not in desk("get_device_data", node=node)
        assert desk("list_rules") == []


def test_an_address_on_the_list_of_a_device_means_the_device() -> None:
    """SPIN 1.0 blocked an address whoever had it: what the device sends from its others must not leak."""
    desk = Desk()
    desk("add_iplist_ip", list="block", ip="192.168.8.11")
    assert desk("list_iplist", list="block") == ["192.168.8.11", "2001:db8:8::11"]
    assert desk.blocks(CAMERA, "198.18.0.20")
    assert not desk.blocks(PHONE, "198.18.0.20")
    desk("remove_iplist_ip", list="block", ip="2001:db8:8::11")
    assert desk("list_iplist", list="block") == []
    assert not desk.blocks(CAMERA, "198.18.0.20")


def test_an_address_is_on_a_list_by_itself_or_with_its_node() -> None:
    desk = Desk()
    desk("add_iplist_ip", list="block", ip="198.18.0.0/24")
    desk("add_iplist_ip", list="block", ip="198.18.0.77/24")
    assert desk("list_iplist", list="block") == ["198.18.0.0/24"]
    assert len(desk("list_rules")) == 1
    desk("remove_iplist_ip", list="block", ip="198.18.0.1")
    assert desk("list_iplist", list="block") == ["198.18.0.0/24"], "another entry"
    desk("remove_iplist_ip", list="block", ip="198.18.0.5/24")
    assert desk("list_iplist", list="block") == []
    desk("add_iplist_node", list="block", node=desk.site)
    assert desk("list_iplist", list="block") == ["198.18.0.20"]
    assert "remove_iplist_node" in desk.refused("remove_iplist_ip", list="block", ip="198.18.0.20")


def test_flow_blocks_in_both_orders() -> None:
    desk = Desk()
    desk("set_flow_block", node1=desk.site, node2=desk.camera, block=1)
    desk("set_device_flow_block", device=MAC, node=desk.site, block=1)
    assert desk("get_flow_block") == [{"node1": desk.camera, "node2": desk.site}]
    assert {"to": desk.site, "dst_port": 0, "icmp_type": 0, "blocked": 1} in desk(
        "list_device_flows", device=MAC
    )
    assert desk.blocks(CAMERA, "198.18.0.20", "api.vendor.test")
    assert not desk.blocks(PHONE, "198.18.0.20", "api.vendor.test")
    desk("set_flow_block", node1=desk.camera, node2=desk.site, block=0)
    assert desk("get_flow_block") == []
    desk("set_flow_block", node1=desk.camera, node2=desk.phone, block=1)
    desk("set_flow_block", node1=desk.phone, node2=desk.camera, block=0)
    assert desk("get_flow_block") == []


def test_profiles() -> None:
    desk = Desk()
    assert [p["name"] for p in desk("list_profiles")] == [
        "full",
        "learned",
        "local",
        "nointernet",
        "quarantine",
    ]
    desk("set_device_profile", device=MAC, profile="local")
    profiles = {p["name"]: p for p in desk("list_profiles")}
    assert profiles["local"]["devices"] == [MAC]
    assert desk.blocks(CAMERA, "198.18.0.20")
    assert not desk.blocks(CAMERA, "192.168.8.12")
    desk("set_profile", profile="kids", name="Children", default="allow", block_domain=["games.test.example"])
    desk("set_device_profile", device=MAC, profile="kids")
    assert desk.blocks(CAMERA, "198.18.7.7", "www.games.test.example")
    desk("set_profile", profile="kids", block_ip=["198.18.9.0/24"])
    kids = {p["name"]: p for p in desk("list_profiles")}["kids"]
    assert (kids["title"], kids["block_domain"], kids["block_ip"]) == (
        "Children",
        ["games.test.example"],
        ["198.18.9.0/24"],
    )
    assert "another one first" in desk.refused("remove_profile", profile="kids")
    desk("set_device_profile", device=MAC, profile="")
    desk("remove_profile", profile="kids")
    assert "kids" in desk.refused("set_device_profile", device=MAC, profile="kids")


def test_a_shipped_profile_is_replaced_and_comes_back() -> None:
    desk = Desk()
    shipped = next(p for p in desk("list_profiles") if p["name"] == "quarantine")
    desk("set_device_profile", device=MAC, profile="quarantine")
    desk("set_profile", profile="quarantine", allow_domain=["update.vendor.test"])
    assert not desk.blocks(CAMERA, "198.18.0.20", "update.vendor.test")
    assert desk.blocks(CAMERA, "198.18.0.20", "api.vendor.test")
    desk("remove_profile", profile="quarantine")
    assert desk.blocks(CAMERA, "198.18.0.20", "update.vendor.test")
    now = next(p for p in desk("list_profiles") if p["name"] == "quarantine")
    assert now == {**shipped, "devices": [MAC]}
    assert "no profile" in desk.refused("remove_profile", profile="quarantine")


def test_the_learned_profile_is_what_the_device_used() -> None:
    desk = Desk()
    transfer(desk.engine, ConnKey(6, CAMERA_V4, 5001, parse_address("198.18.66.6"), 80), 10, 10, T0)
    desk("set_device_profile", device=MAC, profile="learned")
    name = "learned_020000000811"
    profile = next(p for p in desk("list_profiles") if p["name"] == name)
    assert profile["devices"] == [MAC]
    assert profile["allow_domain"] == ["vendor.test"]
    assert profile["allow_ip"] == ["home", "198.18.66.6"]
    assert desk.engine.nodes.profile_of(desk.engine.nodes.devices[CAMERA]) == name
    assert not desk.blocks(CAMERA, "198.18.0.20", "api.vendor.test")
    assert desk.blocks(CAMERA, "198.18.0.21", "other.test")
    (entry,) = desk.entries()
    assert entry["text"] == f"profile {name} set; {MAC}: profile {name}"
    desk("undo", id=entry["id"])
    assert name not in [p["name"] for p in desk("list_profiles")]
    assert not desk.blocks(CAMERA, "198.18.0.21", "other.test")


# -- what they refuse --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"action": "block"}, "whole home"),
        ({"action": "allow"}, "every other"),
        ({"action": "drop", "domain": "a.example.org"}, "action"),
        ({"action": "block", "domain": "a.example.org", "ip": "192.0.2.1"}, "together"),
        ({"action": "block", "domain": "com"}, "domain"),
        ({"action": "block", "domain": "co.uk"}, "public suffix"),
        ({"action": "block", "domain": "x" * 64 + ".example.org"}, "domain"),
        ({"action": "block", "domain": ".".join(["x" * 60] * 6)}, "domain"),
        ({"action": "block", "domain": "a.example.org; nft flush ruleset"}, "domain"),
        ({"action": "block", "domain": "a.example.org\nconfig rule"}, "domain"),
        ({"action": "block", "domain": "a'b.example.org"}, "domain"),
        ({"action": "block", "domain": 'a"b.example.org'}, "domain"),
        ({"action": "block", "domain": "\u202eexample.org"}, "domain"),
        ({"action": "block", "domain": "faß.example.org"}, "ASCII"),
        ({"action": "block", "ip": "0.0.0.0/0"}, "every address"),
        ({"action": "block", "ip": "::/0"}, "every address"),
        ({"action": "block", "ip": "127.0.0.1"}, "no party"),
        ({"action": "block", "ip": "192.0.2.1/33"}, "ip"),
        ({"action": "block", "ip": "fe80::1%eth0"}, "ip"),
        ({"action": "block", "ip": "192.0.2.1 drop"}, "ip"),
        ({"action": "block", "device": "00:00:00:00:00:00"}, "device"),
        ({"action": "block", "device": "ff:ff:ff:ff:ff:ff"}, "device"),
        ({"action": "block", "device": "camera"}, "device"),
        ({"action": "block", "device": MAC, "port": 65536}, "port"),
        ({"action": "block", "device": MAC, "port": -1}, "port"),
        ({"action": "block", "device": MAC, "port": 53, "protocol": "icmp"}, "port"),
        ({"action": "block", "device": MAC, "protocol": "tcp; drop"}, "protocol"),
        ({"action": "block", "device": MAC, "protocol": "43"}, "protocol"),
        ({"action": "block", "device": MAC, "until": 5}, "until"),
        ({"action": "block", "device": MAC, "until": int(T0 * 1000 * 1000 * 100)}, "until"),
        ({"action": "block", "device": MAC, "schedule": "whenever"}, "schedule"),
        ({"action": "block", "device": MAC, "schedule": "25:00-26:00"}, "schedule"),
        ({"action": "block", "device": MAC, "schedule": "mon " + "1:00-2:00 " * 500}, "schedule"),
        ({"action": "block", "device": MAC, "comment": "x" * 201}, "comment"),
        ({"action": "block", "device": MAC, "comment": "\x1b[2J"}, "comment"),
        ({"action": "block", "device": MAC, "comment": "a\nb"}, "comment"),
        ({"action": "block", "node": 99999}, "node"),
        ({"action": "block", "node": -1}, "node"),
        ({"action": "block", "device": MAC, "node": 1}, "another party"),
    ],
)
def test_rules_that_cannot_be(fields: dict[str, object], word: str) -> None:
    desk = Desk()
    if fields.get("node") == 1:
        fields = {**fields, "node": desk.camera}
    assert word in desk.refused("add_rule", **fields)


@pytest.mark.parametrize(
    ("method", "fields", "word"),
    [
        ("remove_rule", {"id": 1}, "no rule 1"),
        ("undo", {"id": 1}, "no entry 1"),
        ("set_device_profile", {"device": MAC, "profile": "nope"}, "quarantine"),
        ("set_device_profile", {"device": MAC, "profile": "x'\n\x1b[2J"}, "no profile"),
        ("set_device_profile", {"device": "02:00:00:00:00:99", "profile": "full"}, "Device not found"),
        ("set_profile", {"profile": "a b"}, "profile"),
        ("set_profile", {"profile": "x" * 65}, "profile"),
        ("set_profile", {"profile": "p'\nconfig rule"}, "profile"),
        ("set_profile", {"profile": "p", "default": "maybe"}, "default"),
        ("set_profile", {"profile": "p", "allow_domain": ["com"]}, "allow_domain"),
        ("set_profile", {"profile": "p", "allow_ip": ["everywhere"]}, "allow_ip"),
        ("set_profile", {"profile": "p", "allow_ip": ["0.0.0.0/0"]}, "allow_ip"),
        (
            "set_profile",
            {"profile": "p", "block_ip": [f"198.18.{i // 256}.{i % 256}" for i in range(1025)]},
            "1024",
        ),
        ("set_profile", {"profile": "p", "allow_domain": [7]}, "array of strings"),
        ("set_profile", {"profile": "p", "name": "a\x00b"}, "name"),
        ("remove_profile", {"profile": "full"}, "no profile"),
        ("remove_profile", {"profile": ""}, "no profile"),
        ("set_flow_block", {"node1": 99998, "node2": 99999, "block": 1}, "Unknown node id"),
        ("set_ignore", {"node": 99999, "ignore": True}, "Unknown node id"),
        ("add_iplist_node", {"list": "block", "node": 99999}, "Unknown node id"),
        ("add_iplist_ip", {"list": "block", "ip": "0.0.0.0/0"}, "ip"),
        ("remove_iplist_ip", {"list": "nope", "ip": "192.0.2.1"}, "Unknown ip list"),
        ("list_rules", {"limit": 0}, "limit"),
        ("list_rules", {"offset": -1}, "offset"),
        ("list_audit", {"limit": 0}, "limit"),
    ],
)
def test_other_refusals(method: str, fields: dict[str, object], word: str) -> None:
    assert word in Desk().refused(method, **fields)


def test_flow_blocks_need_a_device_another_party_and_a_word() -> None:
    desk = Desk()
    resolve(desk.engine, CAMERA, CAMERA_V4, "other.test", "198.18.0.99", T0)
    other = desk.engine.nodes.find_domain("other.test").id
    assert "device" in desk.refused("set_flow_block", node1=desk.site, node2=other, block=1)
    assert "block must be" in desk.refused("set_flow_block", node1=desk.camera, node2=desk.site, block=2)
    assert "another party" in desk.refused("set_flow_block", node1=desk.camera, node2=desk.camera, block=1)


def test_no_more_rules_than_there_is_room_for() -> None:
    """One too many would be there until the next start only, which reads no more than that."""
    desk = Desk(limits=Limits(rules=2))
    desk("add_rule", domain="a.test.example", action="block")
    desk("add_iplist_node", list="block", node=desk.phone)
    for method, fields in (
        ("add_rule", {"domain": "b.test.example", "action": "block"}),
        ("add_iplist_node", {"list": "block", "node": desk.camera}),
        ("add_iplist_ip", {"list": "allow", "ip": "192.0.2.1"}),
        ("set_flow_block", {"node1": desk.camera, "node2": desk.site, "block": 1}),
    ):
        assert "limit_rules" in desk.refused(method, **fields)
    desk("remove_rule", id=1)
    desk("add_rule", domain="b.test.example", action="block")
    removal = next(entry["id"] for entry in desk.entries() if entry["method"] == "remove_rule")
    assert "no room" in desk.refused("undo", id=removal)


def test_names_of_strangers_do_not_get_into_sentences_unescaped() -> None:
    desk = Desk()
    sentence = desk.refused("add_rule", action="block", domain="\x1b]0;owned\x07" + "é" * 300)
    assert sentence.isprintable()


# -- the audit list ----------------------------------------------------------------------


def test_an_entry_says_who_what_when_and_through_which_interface() -> None:
    desk = Desk()
    desk("set_device_name", node=desk.camera, name="Front door")
    desk("add_rule", PROVIDER, device=MAC, action="block", until=int(T0 + 3600))
    later, first = desk.entries()
    assert first == {
        "id": 1,
        "time": int(T0 + 5),
        "author": "owner",
        "interface": "socket",
        "method": "set_device_name",
        "text": "Front door: called 'Front door'",
        "before": [{"device": MAC, "name": "", "ignore": False, "profile": ""}],
        "after": [{"device": MAC, "name": "Front door", "ignore": False, "profile": ""}],
        "undone": 0,
        "undoes": 0,
        "undoable": True,
    }
    assert (later["author"], later["interface"], later["method"]) == ("provider", "ubus", "add_rule")
    assert later["text"].startswith("rule made: Front door may not reach anything, until 1970-")
    assert later["before"] == [{"rule": 1, "section": "", "options": None}]
    assert later["after"][0]["options"]["author"] == "provider"


def test_what_changes_nothing_leaves_no_entry() -> None:
    desk = Desk()
    for method, fields in (
        ("set_device_name", {"node": desk.camera, "name": ""}),
        ("set_ignore", {"node": desk.camera, "ignore": False}),
        ("remove_iplist_node", {"list": "block", "node": desk.camera}),
        ("remove_iplist_ip", {"list": "block", "ip": "192.0.2.1"}),
        ("set_flow_block", {"node1": desk.camera, "node2": desk.site, "block": 0}),
        ("set_device_profile", {"device": MAC, "profile": ""}),
        ("reset_iplist_ignore", {}),
    ):
        desk(method, **fields)
        assert not [command for command in desk.commands if isinstance(command, Save | RecordAudit)], method
    assert desk.entries() == []


def test_the_list_is_bounded_and_comes_in_pages() -> None:
    desk = Desk()
    for number in range(ENTRIES + 20):
        desk("set_device_name", node=desk.camera, name=f"n{number}")
    page = desk("list_audit", limit=500)
    assert page["total"] == ENTRIES
    assert page["items"][0]["text"].endswith(f"'n{ENTRIES + 19}'")
    assert desk("list_audit", limit=1, offset=1)["items"] == page["items"][1:2]
    assert "no entry 1 " in desk.refused("undo", id=1)
    assert desk("list_audit", since=int(T0 + 6))["total"] == 0


def test_entries_outlast_a_restart() -> None:
    desk = Desk()
    desk("add_rule", device=MAC, domain="tracker.test.example", action="block", comment="Müll 📺")
    desk("set_device_profile", device=MAC, profile="learned")
    desk("undo", id=2)
    kept = [json.loads(json.dumps(c.entry)) for c in desk.commands if isinstance(c, RecordAudit)]
    later = Desk()
    damaged = later.engine.audit.load([*kept, {"id": 9}, {"id": "x", "changes": []}])
    assert damaged == 2
    assert [entry["id"] for entry in later.entries()] == [3, 2, 1]
    assert [entry["undone"] for entry in later.entries()] == [0, 3, 0]
    assert list(later.engine.audit) == list(desk.engine.audit)
    later("set_ignore", node=later.camera, ignore=True)
    assert later.entries()[0]["id"] == 4


def test_what_the_time_ends_can_be_seen_in_commands_of_the_tick() -> None:
    desk = Desk()
    desk("add_rule", device=MAC, action="block", until=int(T0 + 60))
    assert desk.blocks(CAMERA, "198.18.0.20")
    commands = desk.engine.handle(Tick(), T0 + 61)
    (save,) = [command for command in commands if isinstance(command, Save)]
    assert isinstance(save.before, RuleChange)
    assert save.after.rule is None
    assert not desk.blocks(CAMERA, "198.18.0.20")
    desk.now = T0 + 62
    assert "changed since" in desk.refused("undo", id=1)


# -- undo --------------------------------------------------------------------------------

DEEDS = {
    "name": ("set_device_name", {"node": "camera", "name": "Front door"}),
    "name of a site": ("set_device_name", {"node": "site", "name": "The vendor"}),
    "ignore": ("set_ignore", {"node": "camera", "ignore": True}),
    "ignored address": ("add_iplist_ip", {"list": "ignore", "ip": "198.18.0.0/24"}),
    "rule": ("add_rule", {"device": MAC, "domain": "tracker.test.example", "action": "block", "port": 443}),
    "rule with schedule": ("add_rule", {"device": MAC, "action": "block", "schedule": "mon 10:00-11:00"}),
    "list of nodes": ("add_iplist_node", {"list": "block", "node": "camera"}),
    "list of addresses": ("add_iplist_ip", {"list": "allow", "ip": "2001:db8:2::/48"}),
    "flow block": ("set_flow_block", {"node1": "camera", "node2": "site", "block": 1}),
    "profile": ("set_device_profile", {"device": MAC, "profile": "local"}),
    "learned": ("set_device_profile", {"device": MAC, "profile": "learned"}),
    "profile made": ("set_profile", {"profile": "kids", "block_domain": ["games.test.example"]}),
    "shipped profile changed": ("set_profile", {"profile": "local", "allow_domain": ["a.test.example"]}),
}

TAKING_BACK = {
    "name": ("set_device_name", {"node": "camera", "name": ""}),
    "ignore": ("reset_iplist_ignore", {}),
    "ignored address": ("remove_iplist_ip", {"list": "ignore", "ip": "198.18.0.0/24"}),
    "rule": ("remove_rule", {"id": 1}),
    "list of nodes": ("remove_iplist_node", {"list": "block", "node": "camera"}),
    "list of addresses": ("remove_iplist_ip", {"list": "allow", "ip": "2001:db8:2::/48"}),
    "flow block": ("set_device_flow_block", {"device": MAC, "node": "site", "block": 0}),
    "profile": ("set_device_profile", {"device": MAC, "profile": ""}),
    "profile made": ("remove_profile", {"profile": "kids"}),
    "shipped profile changed": ("remove_profile", {"profile": "local"}),
}


def do(desk: Desk, deed: tuple[str, dict[str, object]]) -> None:
    method, fields = deed
    nodes = {"camera": desk.camera, "site": desk.site}
    keys = ("node", "node1", "node2")
    desk(method, **{k: nodes.get(v, v) if k in keys else v for k, v in fields.items()})


@pytest.mark.parametrize("kind", sorted(DEEDS))
def test_undo_has_what_was_before_and_can_be_undone(kind: str) -> None:
    desk = Desk()
    before = desk.decided(audit=False)
    do(desk, DEEDS[kind])
    after = desk.decided(audit=False)
    assert after != before
    (entry,) = desk.entries()
    desk.commands.clear()
    desk("undo", id=entry["id"])
    assert desk.decided(audit=False) == before
    assert [c.after for c in desk.commands if isinstance(c, Save)], "it is kept, too"
    undo, done = desk.entries()
    assert (done["undone"], done["undoable"]) == (undo["id"], False)
    assert (undo["undoes"], undo["method"], undo["undoable"]) == (done["id"], "undo", True)
    assert "already" in desk.refused("undo", id=done["id"])
    desk("undo", id=undo["id"])
    assert desk.decided(audit=False) == after


@pytest.mark.parametrize("kind", sorted(TAKING_BACK))
def test_taking_back_can_be_undone(kind: str) -> None:
    desk = Desk()
    do(desk, DEEDS[kind])
    before = desk.decided(audit=False)
    do(desk, TAKING_BACK[kind])
    assert desk.decided(audit=False) != before
    desk("undo", id=desk.entries()[0]["id"])
    assert desk.decided(audit=False) == before


def test_undo_is_refused_after_a_later_change() -> None:
    desk = Desk()
    desk("set_device_name", node=desk.camera, name="one")
    desk("set_device_name", node=desk.camera, name="two")
    assert [entry["undoable"] for entry in desk.entries()] == [True, False]
    assert "changed since" in desk.refused("undo", id=1)
    desk("undo", id=2)
    desk("undo", id=1)
    assert "name" not in desk("get_device_data", node=desk.camera)


def test_undo_is_refused_after_the_configuration_was_edited() -> None:
    desk = Desk()
    desk("set_device_name", node=desk.camera, name="one")
    desk.engine.handle(Decided({MAC: ("by hand", False, "")}, ()), desk.now)
    assert "changed since" in desk.refused("undo", id=1)


def test_undo_of_a_rule_whose_time_is_over() -> None:
    desk = Desk()
    desk("add_rule", device=MAC, action="block", until=int(T0 + 60))
    desk("remove_rule", id=1)
    desk.now = T0 + 60
    assert "over by its end time" in desk.refused("undo", id=2)


def test_undo_gives_a_rule_its_id_and_all_fields_again() -> None:
    desk = Desk()
    desk(
        "add_rule",
        device=MAC,
        node=desk.site,
        port=443,
        protocol="tcp",
        action="allow",
        until=int(T0 + 9000),
        schedule="mon-fri 08:00-12:00",
        comment="why; 'not' \"so\"",
    )
    (before,) = desk("list_rules")
    desk("remove_rule", id=1)
    desk("undo", id=2)
    assert desk("list_rules") == [before]


# -- roles -------------------------------------------------------------------------------


def test_a_viewer_decides_nothing() -> None:
    desk = Desk()
    for method in desk.api.methods.values():
        if method.writes:
            with pytest.raises(ApiError, match="may only look"):
                desk.api.call(method.name, {}, Caller("web", "viewer"))
    assert desk.entries() == []


def test_rules_of_the_provider_yield_to_the_owners() -> None:
    desk = Desk()
    desk("add_rule", PROVIDER, device=MAC, domain="vendor.test", port=443, action="block")
    assert desk("list_rules")[0]["author"] == "provider"
    assert desk.blocks(CAMERA, "198.18.0.20", "api.vendor.test")
    desk("add_rule", domain="vendor.test", action="allow")
    assert not desk.blocks(CAMERA, "198.18.0.20", "api.vendor.test")


def test_the_provider_takes_back_only_what_is_the_providers() -> None:
    desk = Desk()
    desk("add_rule", device=MAC, action="block")
    desk("add_iplist_node", list="block", node=desk.site)
    desk("set_flow_block", node1=desk.phone, node2=desk.site, block=1)
    assert "not the provider's" in desk.refused("remove_rule", PROVIDER, id=1)
    assert "not the provider's" in desk.refused("remove_iplist_node", PROVIDER, list="block", node=desk.site)
    flow = {"node1": desk.phone, "node2": desk.site, "block": 0}
    assert "not the provider's" in desk.refused("set_flow_block", PROVIDER, **flow)
    assert "only the owner" in desk.refused("undo", PROVIDER, id=1)
    assert [desk("list_audit", caller)["items"][-1]["undoable"] for caller in (OWNER, PROVIDER)] == [
        True,
        False,
    ]
    mine = desk("add_rule", PROVIDER, domain="bad.test.example", action="block")["id"]
    desk("remove_rule", PROVIDER, id=mine)
    desk("undo", PROVIDER, id=desk.entries()[0]["id"])
    assert mine in [rule["id"] for rule in desk("list_rules")]
    desk("remove_rule", id=mine)
    assert mine not in [rule["id"] for rule in desk("list_rules")], "the owner may"


def test_an_undone_rule_keeps_its_author() -> None:
    desk = Desk()
    desk("add_rule", PROVIDER, device=MAC, action="block")
    desk("remove_rule", id=1)
    desk("undo", id=2)
    assert [rule["author"] for rule in desk("list_rules")] == ["provider"]


# -- when it cannot be kept --------------------------------------------------------------


def test_what_cannot_be_kept_is_no_entry() -> None:
    engine = home()

    def fails(commands: list[Command]) -> None:
        if any(isinstance(command, Save) for command in commands):
            raise ApiError(REFUSED, "disk full")

    api = Api(engine, lambda: T0, fails)
    with pytest.raises(ApiError, match="disk full"):
        api.call("set_device_name", {"node": 1, "name": "x"}, OWNER)
    assert list(engine.audit) == []


def test_an_audit_of_its_own() -> None:
    audit = Audit()
    change = DeviceChange(MAC, "", False, "")
    entry = audit.record(OWNER, "m", [Save(change, change._replace(name="x"))], T0)
    assert audit.get(entry.id) == entry
    undo = audit.record(OWNER, "undo", [Save(change._replace(name="x"), change)], T0, undoes=entry.id)
    assert audit.get(entry.id).undone == undo.id
    assert audit.get(99) is None


def test_a_decision_that_the_kernel_does_not_take_yet_is_kept_and_said_to_be_pending() -> None:
    bench = Desk()

    def refuse(commands: list[Command]) -> None:
        bench.commands.extend(commands)
        if any(isinstance(command, Save) for command in commands):
            raise NotInForceError("nft takes too long")

    bench.api = Api(bench.engine, lambda: T0 + 5, refuse)
    with pytest.raises(ApiError, match="kept, but not in force yet: nft takes too long"):
        bench("add_rule", ip="192.0.2.1", action="block")
    assert [rule["ip"] for rule in bench("list_rules")] == ["192.0.2.1"]
    assert bench("list_audit")["total"] == 1


OWNERS_ONLY = [
    ("set_device_name", {"node": 1, "name": "mine"}),
    ("node_add_ip", {"node": 0, "ipaddr": "198.18.7.7"}),
    ("set_ignore", {"node": 1, "ignore": True}),
    ("add_iplist_ip", {"list": "ignore", "ip": "198.18.7.7"}),
    ("remove_iplist_ip", {"list": "ignore", "ip": "198.18.7.7"}),
    ("add_iplist_node", {"list": "ignore", "node": 1}),
    ("remove_iplist_node", {"list": "ignore", "node": 1}),
    ("reset_iplist_ignore", {}),
    ("set_device_profile", {"device": CAMERA, "profile": ""}),
    ("set_profile", {"profile": "mine", "default": "block"}),
    ("remove_profile", {"profile": "local"}),
    ("start_capture", {"device": MAC}),
    ("dismiss_notification", {"id": 1}),
]


@pytest.mark.parametrize(("method", "params"), OWNERS_ONLY, ids=map(repr, OWNERS_ONLY))
def test_what_has_no_author_is_the_owners_to_decide(method: str, params: dict) -> None:
    assert "owner" in Desk().refused(method, PROVIDER, **params)


def test_the_provider_cannot_use_up_the_room_for_rules() -> None:
    desk = Desk(limits=Limits(rules=8))
    for last in (1, 2):
        desk("add_rule", PROVIDER, action="block", ip=f"198.18.7.{last}")
    assert "more are not allowed" in desk.refused("add_rule", PROVIDER, action="block", ip="198.18.7.3")
    desk("add_rule", action="block", ip="198.18.7.3")
