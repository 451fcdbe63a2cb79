# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes, names, flows, connections and ignore lists on their own."""

import pytest

from spind.addresses import PrefixSet, is_link_local, is_public, is_unicast
from spind.flows import Counts, FlowKey, Flows
from spind.hostile import clean_name
from spind.ignore import IgnoreList, parse_prefix
from spind.limits import Limits
from spind.model import ConnKey, Evidence, format_address, format_mac, parse_address, parse_mac
from spind.names import KEEP_SECONDS, NAMES_PER_DEVICE, TTL_GRACE, Names, answered_addresses
from spind.nodes import Kind, Nodes
from spind.sites import registrable_domain
from spind.wire.dns import DnsMessage, Question, Record

T0 = 1000.0
A, AAAA, CNAME = 1, 28, 5


def message(name: str, *records: Record, ident: int = 1, response: bool = True, qtype: int = A) -> DnsMessage:
    return DnsMessage(ident, response, 0, 0, False, (Question(name, qtype, 1),), records)


def a(name: str, address: str, ttl: int = 60) -> Record:
    packed = parse_address(address)
    return Record(name, A if len(packed) == 4 else AAAA, ttl, packed, None)


def alias(name: str, target: str, ttl: int = 60) -> Record:
    return Record(name, CNAME, ttl, None, target)


@pytest.mark.parametrize(
    ("address", "public", "unicast"),
    [
        ("8.8.8.8", True, True),
        ("198.18.0.1", True, True),
        ("192.168.1.1", False, True),
        ("172.31.255.255", False, True),
        ("172.32.0.0", True, True),
        ("100.64.0.1", False, True),
        ("224.0.0.251", False, False),
        ("255.255.255.255", False, False),
        ("0.0.0.0", False, False),
        ("2001:db8::1", True, True),
        ("fd00::1", False, True),
        ("fe80::1", False, True),
        ("ff02::fb", False, False),
        ("::1", False, False),
        ("::ffff:10.0.0.1", False, True),
    ],
)
def test_kinds_of_addresses(address: str, public: bool, unicast: bool) -> None:
    assert is_public(parse_address(address)) is public
    assert is_unicast(parse_address(address)) is unicast


def test_prefixes() -> None:
    prefixes = PrefixSet((parse_prefix("192.168.8.0/24"), parse_prefix("2001:db8::/32")))
    assert parse_address("192.168.8.255") in prefixes
    assert parse_address("192.168.9.0") not in prefixes
    assert parse_address("2001:db8:ffff::1") in prefixes
    assert bytes(4) in PrefixSet((parse_prefix("0.0.0.0/0"),))
    assert bytes(16) not in PrefixSet((parse_prefix("0.0.0.0/0"),))
    assert is_link_local(parse_address("169.254.1.1"))
    assert is_link_local(parse_address("febf::1"))
    assert not is_link_local(parse_address("fec0::1"))


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.4.5", "::g", "1.2.3.4/24", "\x00", "1.2.3.4\n", "é"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        parse_address(text)


@pytest.mark.parametrize("text", ["", "02:00:00:00:08", "02:00:00:00:08:1g", "02000000081122"])
def test_macs_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a MAC address"):
        parse_mac(text)


def test_text_forms() -> None:
    assert format_address(parse_address("2001:DB8:0::1")) == "2001:db8::1"
    assert format_mac(parse_mac("AA-BB-CC-00-11-22")) == "aa:bb:cc:00:11:22"


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("a.b.example.co.uk", "example.co.uk"),
        ("example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("x.y.github.io", "y.github.io"),
        ("localhost", "localhost"),
        ("cam.vendor.test", "vendor.test"),
        ("www.xn--85x722f.xn--55qx5d.cn", "xn--85x722f.xn--55qx5d.cn"),
    ],
)
def test_registrable_domains(name: str, site: str) -> None:
    assert registrable_domain(name) == site


# -- names -------------------------------------------------------------------------------


def test_answered_addresses_follow_aliases_with_the_lowest_ttl_and_stop_at_loops() -> None:
    one = parse_address("198.18.0.1")
    records = (alias("w.test", "x.test", 5), alias("x.test", "y.test", 300), a("y.test", "198.18.0.1", 60))
    assert answered_addresses("w.test", records) == [(one, 5)]
    assert answered_addresses("z.test", records) == []
    loop = (alias("a.test", "b.test"), alias("b.test", "a.test"), a("b.test", "198.18.0.1"))
    assert answered_addresses("a.test", loop) == [(one, 60)]


class Resolver:
    def __init__(self, names: Names, device: int = 1) -> None:
        self.names = names
        self.device = device
        self.key = ConnKey(17, bytes([192, 168, 8, device]), 4000, bytes([192, 168, 8, 254]), 53)
        self.back = ConnKey(17, self.key.dst, 53, self.key.src, 4000)

    def learn(self, name: str, address: str, now: float, ttl: int = 60) -> None:
        assert self.names.query(self.key, self.device, message(name, response=False), now) == name
        assert self.names.answer(self.back, message(name, a(name, address, ttl)), now) is not None


def test_the_latest_valid_name_counts_and_expired_ones_do_not() -> None:
    names = Names(Limits())
    mine, others = Resolver(names, 1), Resolver(names, 2)
    address = parse_address("198.18.0.1")
    mine.learn("long.test", "198.18.0.1", T0, ttl=300)
    mine.learn("short.test", "198.18.0.1", T0, ttl=10)
    others.learn("theirs.test", "198.18.0.1", T0, ttl=1000)
    assert names.lookup(1, address, T0 + 5) == ("short.test", Evidence.DNS)
    assert names.lookup(1, address, T0 + 20) == ("long.test", Evidence.DNS)
    assert names.lookup(1, address, T0 + 400) == ("theirs.test", Evidence.DNS_OTHER)
    assert names.lookup(1, address, T0 + 2000) == ("", Evidence.NONE)
    names.expire(T0 + 2000)
    assert list(names.at(address)) != [], "kept for rules that are made later"
    names.expire(T0 + 1000 + TTL_GRACE + KEEP_SECONDS + 1)
    assert names.size == 0
    assert list(names.at(address)) == []


def test_names_are_bounded_per_device_and_in_all() -> None:
    names = Names(Limits(names=20))
    mine = Resolver(names)
    for number in range(NAMES_PER_DEVICE + 5):
        mine.learn(f"n{number}.test", "198.18.0.1", T0)
    assert names.size == NAMES_PER_DEVICE
    for number in range(100):
        mine.learn(f"m{number}.test", f"198.18.1.{number}", T0)
    assert names.size <= 20
    assert names.evicted > 0


def test_a_late_answer_is_not_believed() -> None:
    names = Names(Limits())
    mine = Resolver(names)
    names.query(mine.key, 1, message("slow.test", response=False), T0)
    assert names.answer(mine.back, message("slow.test", a("slow.test", "198.18.0.1")), T0 + 60) is None


# -- flows -------------------------------------------------------------------------------


def test_series_covers_ten_minutes_and_no_more() -> None:
    flows = Flows(Limits())
    flow = flows.get(FlowKey(1, 2, 6, 443, 4, False), T0)
    other = flows.get(FlowKey(3, 2, 6, 443, 4, False), T0)
    for second in range(0, 1300, 10):
        flows.count(flow, 10, 20, 1, 2, T0 + second)
        flows.count(other, 1, 1, 1, 1, T0 + second)
    now = T0 + 1295
    everything = flows.series(now, 0, 5)
    assert everything[0].time >= now - 605
    assert sum(step.counts.up_bytes for step in everything) == pytest.approx(61 * 11, abs=11)
    assert sum(step.counts.up_bytes for step in flows.series(now, 0, 60, device=1)) % 10 == 0
    assert sum(step.counts.up_bytes for step in flows.series(now, now - 20, 5, 3, 2)) == 2
    assert flows.series(now, 0, 5, device=9)[0].counts == Counts(0, 0, 0, 0)


def test_a_full_time_series_counts_pairs_together() -> None:
    flows = Flows(Limits(window_cells=2))
    for node in range(10, 20):
        flows.count(flows.get(FlowKey(1, node, 6, 443, 4, False), T0), 1, 0, 1, 0, T0)
    assert flows.cells_folded == 8
    assert sum(step.counts.up_bytes for step in flows.series(T0, 0, 5, device=1)) == 10


def test_weaker_evidence_does_not_replace_stronger() -> None:
    flow = Flows(Limits()).get(FlowKey(1, 2, 6, 443, 4, False), T0)
    flow.describe("a.test", Evidence.SNI)
    flow.describe("b.test", Evidence.DNS)
    assert (flow.name, flow.evidence) == ("a.test", Evidence.SNI)
    flow.describe("c.test", Evidence.SNI)
    assert flow.name == "c.test"


# -- nodes -------------------------------------------------------------------------------


def test_group_addresses_and_our_own_are_no_devices() -> None:
    nodes = Nodes(Limits())
    nodes.set_local(frozenset(), frozenset({parse_mac("02:00:00:00:00:01")}), (), T0)
    for mac in ("ff:ff:ff:ff:ff:ff", "33:33:00:00:00:fb", "00:00:00:00:00:00", "02:00:00:00:00:01"):
        assert nodes.device(parse_mac(mac), T0) is None
    assert nodes.device(parse_mac("02:00:00:00:00:02"), T0) is not None


def test_an_address_moves_with_the_neighbour_table() -> None:
    nodes = Nodes(Limits())
    first, second = (nodes.device(parse_mac(f"02:00:00:00:00:0{n}"), T0) for n in (1, 2))
    assert first is not None
    assert second is not None
    address = parse_address("192.168.8.9")
    nodes.learn(first, address, T0, sure=True)
    nodes.learn(second, address, T0, sure=False)
    assert nodes.device_at(address) is first
    nodes.learn(second, address, T0, sure=True)
    assert nodes.device_at(address) is second
    assert address not in first.addresses


def test_beyond_the_bound_a_devices_nameless_addresses_share_one_node() -> None:
    nodes = Nodes(Limits(sites_per_device=3))
    found = [nodes.site_at(bytes([198, 18, 0, n]), 1, T0) for n in range(6)]
    assert len({node.id for node in found}) == 4
    assert found[3] is found[4] is found[5]
    assert found[5].label == "other addresses"
    assert nodes.site_at(bytes([198, 18, 0, 9]), 2, T0) not in found, "another device has room of its own"


def test_decided_devices_are_never_evicted() -> None:
    nodes = Nodes(Limits(devices=2))
    for number in (1, 2):
        device = nodes.device(bytes([2, 0, 0, 0, 0, number]), T0)
        assert device is not None
        device.name = f"device {number}"
    assert nodes.device(bytes([2, 0, 0, 0, 0, 3]), T0) is None
    assert {node.kind for node in nodes} == {Kind.DEVICE}


# -- what people type --------------------------------------------------------------------


def test_ignore_list_knows_an_entry_in_any_spelling() -> None:
    ignored = IgnoreList()
    ignored.add("2001:DB8::/32")
    ignored.add("198.18.0.7/24")
    assert ignored.hides(parse_address("198.18.0.200"))
    assert ignored.hides(bytes(4), parse_address("2001:db8::5"))
    assert ignored.remove("2001:0db8::/32")
    assert not ignored.remove("2001:db8::/32")
    assert not ignored.remove("nonsense")
    assert ignored.texts() == ["198.18.0.7/24"]
    with pytest.raises(ValueError, match="nonsense"):
        ignored.add("nonsense")


@pytest.mark.parametrize("name", ["Kitchen", "Küche 🍳", "l'été", "a" * 64, "<img onerror=x>", "家"])
def test_names_that_people_give(name: str) -> None:
    assert clean_name(f"  {name} ") == name


@pytest.mark.parametrize("name", ["a" * 65, "a\x00b", "a\u202eb", "a\u2028b", "\ud800", "a\x7fb", "\x1b[31m"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"contains|longer"):
        clean_name(name)
