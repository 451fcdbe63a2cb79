# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may call what on OpenWrt: the files for rpcd and ubusd say what the table of methods says.

Both are made from the table: run this file with Python to write them anew.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from test_engine import T0, home

from spind.api import Api, Method

FILES = Path(__file__).parent.parent.parent / "openwrt" / "files"
RPCD = FILES / "rpcd-acl.json"
UBUSD = FILES / "ubusd-acl.json"
CAPABILITIES = FILES / "spind.capabilities.json"

OBJECT = "spin"
EVENTS = ["spin.device", "spin.notification", "spin.rule"]
ANY_METHOD = "rpc"
"""The method for callers of SPIN 1.0 carries any other: who may use it may do all."""


def methods() -> Mapping[str, Method]:
    return Api(home(), lambda: T0, lambda _commands: None).methods


def names(*, writes: bool) -> list[str]:
    return sorted(name for name, method in methods().items() if method.writes is writes)


def rpcd_acl() -> dict[str, object]:
    """For sessions of rpcd: whoever logs in by LuCI or uhttpd's /ubus.

    The configuration is a group of its own: the broker's password stands in it, which who may only
    look at the home need not see.
    """
    return {
        "spin": {
            "description": "See and control what the devices of the home do on the network (spind)",
            "read": {"ubus": {OBJECT: names(writes=False)}},
            "write": {"ubus": {OBJECT: sorted([*names(writes=True), ANY_METHOD])}},
        },
        "spin-config": {
            "description": "Read and change the configuration of spind, with its passwords",
            "read": {"uci": ["spin"]},
            "write": {"uci": ["spin"]},
        },
    }


def ubusd_acl() -> dict[str, object]:
    """For processes of users other than root: members of the group may look."""
    return {
        "group": "spin",
        "access": {OBJECT: {"methods": names(writes=False)}},
        "subscribe": [OBJECT],
        "listen": EVENTS,
    }


def text(acl: dict[str, object]) -> str:
    return json.dumps(acl, indent="\t") + "\n"


def test_rpcd_knows_what_reads_and_what_writes() -> None:
    assert RPCD.read_text() == text(rpcd_acl())


def test_other_users_may_look_and_not_touch() -> None:
    assert UBUSD.read_text() == text(ubusd_acl())


def test_nothing_that_writes_is_among_what_reads() -> None:
    reading = set(names(writes=False))
    assert "status" in reading
    assert not {name for name in reading if re.match(r"add|remove|set_|reset|undo|node_add|dots", name)}
    assert ANY_METHOD not in reading


def test_the_configuration_takes_a_right_of_its_own() -> None:
    acl = json.loads(RPCD.read_text())
    assert [name for name, group in acl.items() if "uci" in group["read"]] == ["spin-config"]
    assert "ubus" not in acl["spin-config"]["write"]


def test_the_capabilities_are_those_of_the_network() -> None:
    sets = json.loads(CAPABILITIES.read_text())
    assert sets.pop("ambient") == []
    assert set(sets) == {"bounding", "effective", "permitted", "inheritable"}
    assert {tuple(names) for names in sets.values()} == {("CAP_NET_ADMIN", "CAP_NET_RAW")}


if __name__ == "__main__":
    RPCD.write_text(text(rpcd_acl()))
    UBUSD.write_text(text(ubusd_acl()))
