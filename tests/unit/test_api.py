# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of methods: arguments, refusals, results, and the recorded SPIN 1.0 shapes."""

import json
from pathlib import Path

import pytest
from test_engine import CAMERA, CAMERA_V4, CDN, PHONE, PHONE_V4, T0, home, resolve, transfer

from spind.api import INVALID_ARGUMENTS, REFUSED, UNKNOWN_METHOD, Api, ApiError, Caller
from spind.changes import DeviceChange
from spind.commands import Command, ListChanged, Save
from spind.limits import Limits
from spind.model import ConnKey

SAMPLES = Path(__file__).parents[3] / "shared/contract/spin-samples"
OWNER = Caller("socket", "owner")
MAC = "02:00:00:00:08:11"


class Bench:
    """An Api on an engine with some traffic, and the commands that it gave."""

    def __init__(self, **options: object) -> None:
        self.engine = home(**options)
        resolve(self.engine, CAMERA, CAMERA_V4, "api.vendor.test", "198.18.0.20", T0)
        transfer(self.engine, ConnKey(6, CAMERA_V4, 5000, CDN, 443), 100, 200, T0)
        transfer(self.engine, ConnKey(1, CAMERA_V4, 77, CDN, 0x0800), 84, 84, T0 + 1)
        self.commands: list[Command] = []
        self.api = Api(self.engine, lambda: T0 + 5, self.commands.extend)

    def __call__(self, method: str, **params: object) -> object:
        result = self.api.call(method, params, OWNER)
        json.dumps(result)
        return result

    def refused(self, method: str, **params: object) -> ApiError:
        before = self.decided()
        self.commands.clear()
        with pytest.raises(ApiError) as error:
            self.api.call(method, params, OWNER)
        assert self.decided() == before
        assert not self.commands
        return error.value

    def decided(self) -> str:
        """All that a call may change, as the methods show it."""
        lists = [self("list_iplist", list=name) for name in ("ignore", "block", "allow")]
        views = ("list_rules", "list_profiles", "get_flow_block", "list_audit")
        return json.dumps([self("list_nodes", limit=500), lists, *map(self, views)])


def same_shape(ours: object, recorded: object, where: str = "") -> None:
    """Every key that was recorded is there, with a value of the same JSON type."""
    if isinstance(recorded, dict):
        assert isinstance(ours, dict), where
        for key, value in recorded.items():
            if key in ("name", "is_blocked", "is_excepted", "blocked"):
                continue  # only there where it applies
            assert key in ours, f"{where}.{key}"
            same_shape(ours[key], value, f"{where}.{key}")
    elif isinstance(recorded, list):
        assert isinstance(ours, list), where
        if recorded and ours:
            same_shape(ours[0], recorded[0], f"{where}[0]")
    else:
        assert type(ours) is type(recorded), where


def test_list_devices_and_flows() -> None:
    bench = Bench()
    camera, phone = bench("list_devices")
    assert camera == {
        "id": bench.engine.nodes.devices[CAMERA].id,
        "mac": MAC,
        "lastseen": int(T0 + 1),
        "ips": ["192.168.8.11", "2001:db8:8::11"],
        "domains": [],
    }
    assert phone["mac"] == "02:00:00:00:08:12"
    site = bench.engine.nodes.find_domain("vendor.test").id
    flows = bench("list_device_flows", device=MAC)
    assert {
        "to": site,
        "dst_port": 443,
        "icmp_type": 0,
        "packets": 2,
        "bytes": 300,
        "lastseen": int(T0),
    } in flows
    assert {
        "to": site,
        "dst_port": 0,
        "icmp_type": 8,
        "packets": 2,
        "bytes": 168,
        "lastseen": int(T0 + 1),
    } in flows


def test_list_flows_filters_and_pages() -> None:
    bench = Bench()
    everything = bench("list_flows")
    assert everything["total"] == 2
    item = next(item for item in everything["items"] if item["protocol"] == 6)
    assert item["name"] == "api.vendor.test"
    assert item["evidence"] == "dns"
    assert (item["up_bytes"], item["down_bytes"], item["port"], item["family"]) == (100, 200, 443, 4)
    assert bench("list_flows", limit=1, offset=1)["items"] == everything["items"][1:]
    assert bench("list_flows", since=int(T0 + 1))["total"] == 1
    assert bench("list_flows", device="02:00:00:00:08:12")["total"] == 0
    assert bench("list_flows", node=item["node"], device=MAC)["total"] == 2


def test_flows_between_two_devices_are_seen_from_both() -> None:
    bench = Bench()
    transfer(bench.engine, ConnKey(6, CAMERA_V4, 5, PHONE_V4, 80), 7, 9, T0)
    (mine,) = bench("list_flows", device=MAC, node=bench.engine.nodes.devices[PHONE].id)["items"]
    (theirs,) = bench("list_flows", device="02:00:00:00:08:12")["items"]
    assert (mine["up_bytes"], mine["down_bytes"], mine["inbound"]) == (7, 9, False)
    assert (theirs["up_bytes"], theirs["down_bytes"], theirs["inbound"]) == (9, 7, True)
    assert theirs["node"] == mine["device"]


def test_get_traffic_is_a_series() -> None:
    bench = Bench()
    series = bench("get_traffic", step=60)
    assert sum(row["up_bytes"] for row in series["items"]) == 184
    assert [row["time"] for row in series["items"]] == sorted(row["time"] for row in series["items"])
    assert bench.refused("get_traffic", step=7).code == INVALID_ARGUMENTS


def test_names() -> None:
    bench = Bench()
    node = bench.engine.nodes.devices[CAMERA].id
    assert bench("set_device_name", node=node, name="  Front door ") is None
    assert (
        Save(DeviceChange(MAC, "", False, ""), DeviceChange(MAC, "Front door", False, "")) in bench.commands
    )
    assert bench("get_device_data", node=node)["name"] == "Front door"
    assert bench("list_nodes", query="front")["total"] == 1
    for bad in ("x" * 65, "a\nb", "a\u202eb", "\x1b[2J"):
        assert bench.refused("set_device_name", node=node, name=bad).code == REFUSED
    assert bench.refused("set_device_name", node=99999, name="x").message == "Unknown node id"
    bench("set_device_name", node=node, name="")
    assert "name" not in bench("get_device_data", node=node)


def test_ignore() -> None:
    bench = Bench()
    node = bench.engine.nodes.devices[CAMERA].id
    bench("add_iplist_node", list="ignore", node=node)
    assert ListChanged("ignore", ["192.168.8.11", "2001:db8:8::11"]) in bench.commands
    assert bench("list_iplist", list="ignore") == ["192.168.8.11", "2001:db8:8::11"]
    assert bench("list_flows")["total"] == 0
    assert bench("list_flows", device=MAC)["total"] == 2, "shown where asked for by name"
    bench("add_iplist_ip", list="ignore", ip="198.18.0.0/24")
    bench("remove_iplist_node", list="ignore", node=node)
    assert bench("list_iplist", list="ignore") == ["198.18.0.0/24"]
    bench("remove_iplist_ip", list="ignore", ip="198.18.0.0/24")
    bench("add_iplist_node", list="ignore", node=node)
    bench("reset_iplist_ignore")
    assert bench("list_iplist", list="ignore") == []


def test_node_add_ip() -> None:
    bench = Bench()
    site = bench.engine.nodes.find_domain("vendor.test").id
    bench("node_add_ip", node=site, ipaddr="198.18.99.1")
    assert bench.refused("node_add_ip", node=site, ipaddr="198.18.99.1").message == (
        "IP address already assigned to a node"
    )
    bench("node_add_ip", node=0, ipaddr="2001:db8:2:9::1")
    transfer(bench.engine, ConnKey(6, CAMERA_V4, 5001, bytes([198, 18, 99, 1]), 80), 1, 1, T0)
    assert bench("list_flows", node=site)["total"] == 3
    assert bench.refused("node_add_ip", node=site, ipaddr="198.18.999.1").message == "Invalid IP address"


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("no_such_method", {}, UNKNOWN_METHOD),
        ("list_devices", {"a": 1}, INVALID_ARGUMENTS),
        ("get_device_data", {}, INVALID_ARGUMENTS),
        ("get_device_data", {"node": "x"}, INVALID_ARGUMENTS),
        ("get_device_data", {"node": True}, INVALID_ARGUMENTS),
        ("get_device_data", {"node": 2**60}, INVALID_ARGUMENTS),
        ("get_device_data", {"node": 99999}, REFUSED),
        ("list_device_flows", {"device": "00:00:00:00:00:00"}, REFUSED),
        ("list_device_flows", {"device": "x" * 5000}, REFUSED),
        ("list_iplist", {"list": "nope"}, REFUSED),
        ("add_iplist_ip", {"list": "ignore", "ip": "999.1.1.1"}, REFUSED),
        ("add_iplist_ip", {"list": "block", "ip": "0.0.0.0/0"}, REFUSED),
        ("add_iplist_ip", {"list": "block", "ip": "224.0.0.251"}, REFUSED),
        ("list_nodes", {"limit": 0}, INVALID_ARGUMENTS),
        ("list_nodes", {"offset": -1}, INVALID_ARGUMENTS),
        ("list_nodes", {"kind": "toaster"}, INVALID_ARGUMENTS),
    ],
)
def test_refusals_change_nothing(method: str, params: dict[str, object], code: int) -> None:
    assert Bench().refused(method, **params).code == code


def test_viewers_only_look() -> None:
    bench = Bench()
    for method in bench.api.methods.values():
        if method.writes:
            with pytest.raises(ApiError, match="may only look"):
                bench.api.call(method.name, {}, Caller("web", "viewer"))


def test_status_says_what_the_numbers_lack() -> None:
    bench = Bench(limits=Limits(flows=1))
    status = bench("status")
    assert status["statistics"]["engine.flows-evicted"] > 0
    assert any("flows were folded" in note for note in status["notes"])


def test_replies_stay_bounded() -> None:
    bench = Bench(limits=Limits(sites_per_device=4000))
    for i in range(1500):
        resolve(bench.engine, CAMERA, CAMERA_V4, f"{'x' * 60}.{'y' * 60}.site{i}.test", "198.18.0.9", T0)
    page = bench("list_nodes", limit=500)
    assert page["total"] > 1500
    assert len(json.dumps(page)) < 256 * 1024
    seen = 0
    while True:
        items = bench("list_nodes", limit=500, offset=seen)["items"]
        if not items:
            break
        seen += len(items)
    assert seen == page["total"]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the recorded SPIN 1.0 messages are not here")
@pytest.mark.parametrize(
    ("sample", "params"),
    [
        ("list_devices", {}),
        ("list_device_flows", {"device": MAC}),
        ("get_device_data", {"node": 1}),
        ("list_iplist-ignore", {"list": "ignore"}),
        ("get_flow_block", {}),
        ("list_rpc_methods", {}),
    ],
)
def test_recorded_shapes(sample: str, params: dict[str, object]) -> None:
    bench = Bench()
    bench("add_iplist_node", list="ignore", node=1)
    recorded = json.loads((SAMPLES / f"rpc-{sample}.json").read_text())
    same_shape(bench(sample.partition("-")[0], **params), recorded["reply"]["result"])


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the recorded SPIN 1.0 messages are not here")
def test_every_recorded_method_is_there_with_its_arguments() -> None:
    ours = {row["rpc-name"]: row for row in Bench()("list_rpc_methods")}
    recorded = json.loads((SAMPLES / "rpc-list_rpc_methods.json").read_text())["reply"]["result"]
    for row in recorded:
        mine = ours[row["rpc-name"]]
        assert mine["rpc-result-type"] == row["rpc-result-type"]
        assert [(a["rpc-arg-name"], a["rpc-arg-type"]) for a in mine["rpc-args"]] == [
            (a["rpc-arg-name"], a["rpc-arg-type"]) for a in row["rpc-args"]
        ]
