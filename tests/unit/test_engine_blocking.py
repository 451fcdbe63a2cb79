# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocked names in the engine: what is held, cut, refused, let go, and what the kernel is told when."""

import struct
from collections.abc import Iterable

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRRHTTPS, SvcParam
from scapy.layers.inet import IP, TCP, UDP
from test_engine import (
    CAMERA,
    CAMERA_V4,
    CDN,
    GATEWAY_V4,
    PHONE,
    PHONE_V4,
    T0,
    answer,
    ask,
    client_hello,
    flows_of,
    home,
    packet,
    resolve,
    transfer,
)
from test_policy import PLACEMENT, kernel

from spind.commands import (
    BlockedReport,
    Command,
    CutConnections,
    Enforce,
    EnforceElements,
    KeepName,
    Verdict,
)
from spind.engine import CANARY, Engine
from spind.events import (
    BlockedSeen,
    Decided,
    NameRemembered,
    PacketSeen,
    Placed,
    PutRules,
    RemoveRules,
    Tick,
    Traffic,
)
from spind.events import ConnDelta as Delta
from spind.limits import Limits
from spind.model import ConnKey, Evidence, parse_address
from spind.rules import Rule
from spind.ruleset import Action
from spind.wire.packet import parse_ip

ADS, IMG = "ads.tracker.test", "img.tv.test"
ACCEPT, DONE = Verdict(accept=True), Verdict(accept=True, done=True)
HOLD, CUT, DROP = Verdict(accept=False, hold=True), Verdict(accept=False, cut=True), Verdict(accept=False)
ISN = 5000


def guarded(*rules: Rule, **options: object) -> Engine:
    """A home with rules in force."""
    engine = home(**options)
    engine.handle(Placed(PLACEMENT), T0)
    if rules:
        engine.handle(PutRules(rules), T0)
    return engine


def block(**fields: object) -> Rule:
    return Rule(**{"id": 1, "action": "block"} | fields)


def shared(*rules: Rule, **options: object) -> Engine:
    """A home where both names are known to be on one address, and the camera may not reach one."""
    engine = guarded(*(rules or (block(device=CAMERA, domain=ADS),)), **options)
    resolve(engine, CAMERA, CAMERA_V4, ADS, "198.18.0.20", T0)
    resolve(engine, CAMERA, CAMERA_V4, IMG, "198.18.0.20", T0)
    return engine


def says(engine: Engine, mac: bytes, address: bytes = CDN, protocol: int = 6, port: int = 443) -> Action:
    """What the kernel does with a packet of the device by the ruleset that it was told."""
    assert not engine.policy.pending
    return kernel(engine.policy.ruleset, mac, address, protocol, port)


def verdict(commands: Iterable[Command]) -> Verdict:
    (found,) = [command for command in commands if isinstance(command, Verdict)]
    return found


class Client:
    """A TCP client on the camera whose packets go to the queue for inspection."""

    def __init__(
        self, engine: Engine, port: int = 6000, *, mac: bytes = CAMERA, source: bytes = CAMERA_V4
    ) -> None:
        self.engine = engine
        self.port = port
        self.mac = mac
        self.source = source
        self.key = ConnKey(6, source, port, CDN, 443)
        self.seq = ISN
        self.inspect = True
        self.reports: list[BlockedReport] = []

    def send(self, flags: int, payload: bytes = b"", *, at: int | None = None, now: float = T0) -> Verdict:
        fields = {"flags": flags, "seq": self.seq if at is None else at, "payload": payload}
        seen = packet(6, self.source, self.port, CDN, 443, **fields)
        if at is None:
            self.seq += len(payload) + (flags & 2) // 2
        found = self.engine.handle(PacketSeen(seen, self.mac, from_lan=True, inspect=self.inspect), now)
        self.reports += [command for command in found if isinstance(command, BlockedReport)]
        return verdict(found)

    def open(self) -> "Client":
        assert self.send(0x02) == ACCEPT
        assert self.send(0x10) == ACCEPT
        return self

    def say(self, data: bytes, size: int = 100_000) -> list[Verdict]:
        return [self.send(0x18, data[i : i + size]) for i in range(0, len(data), size)]


# -- what the kernel is told, and when ---------------------------------------------------------


def test_an_address_is_blocked_before_the_answer_that_tells_it_goes_on() -> None:
    engine = guarded(block(device=CAMERA, domain=ADS))
    ask(engine, CAMERA, CAMERA_V4, ADS, T0)
    commands = answer(engine, CAMERA_V4, ADS, "198.18.0.20", T0, ttl=1)
    kinds = [type(command) for command in commands]
    assert kinds.index(EnforceElements) < kinds.index(Verdict)
    assert kinds.index(KeepName) < kinds.index(Verdict), "a killed daemon would not know it"
    assert Enforce not in kinds, "an answer must not wait for new rules"
    assert verdict(commands) == ACCEPT
    assert says(engine, CAMERA) is Action.BLOCK
    assert says(engine, CAMERA, protocol=17, port=9) is Action.BLOCK
    assert says(engine, PHONE) is Action.ALLOW


@pytest.mark.parametrize("order", [(ADS, IMG), (IMG, ADS)])
def test_an_address_of_two_names_is_inspected_whatever_was_heard_first(order: tuple[str, str]) -> None:
    engine = guarded(block(device=CAMERA, domain=ADS))
    resolve(engine, PHONE, PHONE_V4, order[0], "198.18.0.20", T0)
    resolve(engine, CAMERA, CAMERA_V4, order[1], "198.18.0.20", T0)
    assert says(engine, CAMERA) is Action.INSPECT
    assert says(engine, PHONE) is Action.ALLOW
    assert engine.policy.inspects(CAMERA, CDN)
    assert not engine.policy.inspects(PHONE, CDN)


def test_a_rule_that_comes_later_knows_the_addresses_of_all_answers() -> None:
    engine = guarded()
    addresses = [f"198.18.1.{n}" for n in range(1, 151)]
    ask(engine, CAMERA, CAMERA_V4, "big.test", T0)
    records = [DNSRR(rrname="big.test", ttl=1, rdata=address) for address in addresses]
    answer(engine, CAMERA_V4, "big.test", "", T0, an=records)
    for second in range(1, 1200, 60):
        engine.handle(Tick(), T0 + second)
    engine.handle(PutRules((block(device=CAMERA, domain="big.test"),)), T0 + 1200)
    assert {says(engine, CAMERA, parse_address(address)) for address in addresses} == {Action.BLOCK}


def test_an_address_stays_blocked_for_who_goes_on_using_it() -> None:
    engine = guarded(block(device=CAMERA, domain=ADS))
    resolve(engine, CAMERA, CAMERA_V4, ADS, "198.18.0.20", T0, ttl=1)
    for hour in range(24):
        engine.handle(Tick(), T0 + 3600 * hour)
        assert says(engine, CAMERA) is Action.BLOCK
    engine.handle(Tick(), T0 + 86400 + 10)
    assert says(engine, CAMERA) is Action.ALLOW, "by now it is most likely somebody else's"


def test_hints_are_addresses_that_clients_use() -> None:
    engine = guarded(block(device=CAMERA, domain=ADS))
    ask(engine, CAMERA, CAMERA_V4, ADS, T0)
    query = bytes(DNS(id=7, qd=DNSQR(qname=ADS, qtype="HTTPS")))
    engine.handle(PacketSeen(packet(17, CAMERA_V4, 4001, GATEWAY_V4, 53, payload=query), CAMERA, True), T0)
    hints = [SvcParam(key="ipv4hint", value=["198.18.0.20"])]
    record = DNSRRHTTPS(rrname=ADS, ttl=60, svc_priority=1, target_name=".", svc_params=hints)
    reply = bytes(DNS(id=7, qr=1, qd=DNSQR(qname=ADS, qtype="HTTPS"), an=record))
    seen = packet(17, GATEWAY_V4, 53, CAMERA_V4, 4001, payload=reply)
    assert verdict(engine.handle(PacketSeen(seen, None, from_lan=False), T0)) == ACCEPT
    assert says(engine, CAMERA) is Action.BLOCK


def test_a_site_covers_its_names_and_a_name_those_below_it() -> None:
    engine = guarded(
        block(device=CAMERA, node="tracker.test"),
        Rule(2, "allow", device=CAMERA, domain="help.tracker.test"),
        Rule(3, "block", device=CAMERA, domain="sub.shop.test"),
    )
    wanted = {
        "ads.tracker.test": Action.BLOCK,
        "new.deep.tracker.test": Action.BLOCK,
        "tracker.test": Action.BLOCK,
        "help.tracker.test": Action.ALLOW,
        "x.help.tracker.test": Action.ALLOW,
        "nottracker.test": Action.ALLOW,
        "sub.shop.test": Action.BLOCK,
        "a.b.sub.shop.test": Action.BLOCK,
        "sibling.shop.test": Action.ALLOW,
        "notsub.shop.test": Action.ALLOW,
        "shop.test": Action.ALLOW,
    }
    for number, name in enumerate(wanted, 1):
        resolve(engine, CAMERA, CAMERA_V4, name, f"198.18.2.{number}", T0)
    found = {name: says(engine, CAMERA, bytes((198, 18, 2, n))) for n, name in enumerate(wanted, 1)}
    assert found == wanted
    for number, (name, action) in enumerate(wanted.items(), 7000):
        client = Client(engine, number)
        client.key = client.key._replace(dst=CDN)
        client.open()
        assert client.say(client_hello(name)) == [CUT if action is Action.BLOCK else DONE], name


def test_names_from_before_a_restart_are_blocked_without_any_query() -> None:
    engine = guarded(block(device=CAMERA, domain=ADS))
    engine.handle(NameRemembered(CDN, ADS, T0 + 60), T0)
    assert says(engine, CAMERA) is Action.BLOCK


def kept(commands: Iterable[Command]) -> list[KeepName]:
    return [command for command in commands if isinstance(command, KeepName)]


def restarted(names: Iterable[KeepName], *rules: Rule) -> Engine:
    engine = guarded(*rules)
    for name in names:
        engine.handle(NameRemembered(*name), T0)
    return engine


@pytest.mark.parametrize("first", [ADS, IMG])
def test_all_names_of_an_address_outlive_a_restart_whatever_came_first(first: str) -> None:
    rule = block(device=CAMERA, domain=ADS)
    engine = guarded(rule)
    names: list[KeepName] = []
    for ident, name in enumerate((first, ADS if first == IMG else IMG)):
        ask(engine, CAMERA, CAMERA_V4, name, T0, ident=ident)
        names += kept(answer(engine, CAMERA_V4, name, "198.18.0.20", T0, ident=ident))
    assert {(one.address, one.name) for one in names} == {(CDN, ADS), (CDN, IMG)}
    for order in (names, names[::-1]):
        assert says(restarted(order, rule), CAMERA) is Action.INSPECT


def test_what_a_new_rule_is_about_outlives_a_restart_without_another_query() -> None:
    rule = block(device=CAMERA, domain=ADS)
    engine = guarded()
    resolve(engine, CAMERA, CAMERA_V4, ADS, "198.18.0.20", T0)
    names = kept(engine.handle(PutRules((rule,)), T0))
    assert says(restarted(names, rule), CAMERA) is Action.BLOCK


def test_a_doubt_outlives_a_restart() -> None:
    rule = block(device=CAMERA, domain=ADS)
    engine = guarded(rule)
    client = Client(engine)
    client.inspect = False
    client.open()
    (seen,) = [packet(6, CAMERA_V4, 6000, CDN, 443, flags=0x18, seq=client.seq, payload=client_hello(ADS))]
    names = kept(engine.handle(PacketSeen(seen, CAMERA, from_lan=True), T0))
    assert says(restarted(names, rule), CAMERA) is Action.INSPECT


def test_an_answer_that_comes_again_and_again_is_written_down_now_and_then() -> None:
    engine = guarded(block(device=CAMERA, domain=ADS))
    written = 0
    for second in range(600):
        ask(engine, CAMERA, CAMERA_V4, ADS, T0 + second)
        written += len(kept(answer(engine, CAMERA_V4, ADS, "198.18.0.20", T0 + second, ttl=1)))
    assert 10 <= written <= 11


def test_the_one_allowed_name_among_many_blocked_ones_is_not_forgotten() -> None:
    engine = guarded(block(device=CAMERA, node="tracker.test"))
    resolve(engine, CAMERA, CAMERA_V4, IMG, "198.18.0.20", T0)
    for number in range(100):
        resolve(engine, CAMERA, CAMERA_V4, f"n{number}.tracker.test", "198.18.0.20", T0)
    assert says(engine, CAMERA) is Action.INSPECT


# -- inspection --------------------------------------------------------------------------------


def test_the_name_decides_at_an_address_of_two() -> None:
    engine = shared()
    assert Client(engine, 6000).open().say(client_hello(IMG)) == [DONE]
    blocked = Client(engine, 6001).open()
    assert blocked.say(client_hello(ADS)) == [CUT]
    assert engine.statistics()["engine.connections-cut"] == 1
    assert flows_of(engine).keys() == {("tracker.test", 443)}, "what was cut is shown"
    (flow,) = engine.flows.flows()
    assert (flow.blocked, flow.name, flow.evidence) == (1, ADS, Evidence.SNI)
    (report,) = blocked.reports
    names = {engine.nodes.by_id[report.flow[end]].label for end in ("from", "to")}
    assert names == {"02:00:00:00:08:11", "tracker.test"}
    assert (report.flow["to_port"], report.flow["count"]) == (443, 1)


def test_two_devices_have_their_own_rules_at_one_address() -> None:
    engine = shared(block(device=CAMERA, domain=ADS), Rule(2, "block", device=PHONE, domain=IMG))
    for mac, source, blocked in ((CAMERA, CAMERA_V4, ADS), (PHONE, PHONE_V4, IMG)):
        assert says(engine, mac) is Action.INSPECT
        for port, name in ((6000, ADS), (6001, IMG)):
            client = Client(engine, port, mac=mac, source=source).open()
            assert client.say(client_hello(name)) == [CUT if name == blocked else DONE]


@pytest.mark.parametrize("size", [1448, 300, 16])
@pytest.mark.parametrize(("name", "end"), [(ADS, CUT), (IMG, DONE)])
def test_a_hello_in_pieces_is_held_until_it_is_whole(size: int, name: str, end: Verdict) -> None:
    verdicts = Client(shared()).open().say(client_hello(name), size)
    assert verdicts == [HOLD] * (len(verdicts) - 1) + [end]


def test_pieces_may_come_in_any_order_and_again() -> None:
    client = Client(shared()).open()
    hello = client_hello(ADS)
    start = client.seq
    assert client.send(0x18, hello[200:], at=start + 200) == HOLD
    assert client.send(0x10) == ACCEPT, "an acknowledgement decides nothing"
    assert client.send(0x18, hello[200:], at=start + 200) == HOLD
    assert client.send(0x18, hello[:200], at=start) == CUT


@pytest.mark.parametrize("name", [ADS, IMG])
def test_who_does_not_finish_is_cut_in_the_end(name: str) -> None:
    """TCP sends nothing new until what we hold is acknowledged, which nobody does: better to begin anew."""
    client = Client(shared()).open()
    hello = client_hello(name)
    assert client.send(0x18, hello[:100]) == HOLD
    for now in (T0 + 0.2, T0 + 0.6, T0 + 2.9):
        assert client.send(0x18, hello[:100], at=ISN + 1, now=now) == HOLD
    client.engine.shift(1000.0)
    assert client.send(0x18, hello[:100], at=ISN + 1, now=T0 + 1002.9) == HOLD
    assert client.send(0x18, hello[:100], at=ISN + 1, now=T0 + 1003.1) == CUT


def test_http_goes_by_its_host() -> None:
    engine = shared()
    request = "GET /{} HTTP/1.1\r\nUser-Agent: x\r\nHost: {}\r\n\r\n"
    assert Client(engine, 6000).open().say(request.format("a", ADS).encode(), 40)[-1] == CUT
    assert Client(engine, 6001).open().say(request.format(ADS, IMG).encode(), 40)[-1] == DONE


@pytest.mark.parametrize("asked", [ADS, IMG])
def test_what_cannot_be_read_does_not_pass(asked: str) -> None:
    """Servers may be less strict, or more patient, than we are."""
    engine = shared()
    resolve(engine, CAMERA, CAMERA_V4, asked, "198.18.0.20", T0)
    assert Client(engine, 6000).open().say(client_hello(ADS), 1)[-1] == CUT, "in hundreds of pieces"
    hello = bytearray(client_hello(ADS))
    at = hello.index(ADS.encode())
    struct.pack_into("!H", hello, at - 2, len(ADS) + 1)
    assert Client(engine, 6001).open().say(bytes(hello)) == [CUT], "lengths contradict each other"
    two = f"GET / HTTP/1.1\r\nHost: {IMG}\r\nHost: {ADS}\r\n\r\n".encode()
    assert Client(engine, 6002).open().say(two) == [CUT]


def test_what_there_is_no_room_for_does_not_pass() -> None:
    engine = shared(limits=Limits(streams=16))
    resolve(engine, CAMERA, CAMERA_V4, IMG, "198.18.0.20", T0)
    hello = client_hello(ADS)
    first = Client(engine, 6000).open()
    assert first.say(hello[:100]) == [HOLD]
    for port in range(7000, 7016):
        Client(engine, port).open().say(hello[:100])
    assert first.say(hello[100:]) == [CUT]


def test_other_protocols_go_by_the_name_that_the_device_asked_for() -> None:
    engine = shared()
    assert Client(engine, 6000).open().say(b"SSH-2.0-x\r\n") == [DONE], "it asked for the other name last"
    resolve(engine, CAMERA, CAMERA_V4, ADS, "198.18.0.20", T0)
    assert Client(engine, 6001).open().say(b"SSH-2.0-x\r\n") == [CUT]


def test_data_on_a_syn_does_not_pass() -> None:
    client = Client(shared())
    assert client.send(0x02, client_hello(ADS)) == DROP
    client.seq = ISN + 1
    assert client.say(client_hello(ADS)) == [CUT]


def test_ports_that_are_used_again_begin_anew() -> None:
    engine = shared()
    first = Client(engine).open()
    assert first.say(client_hello(ADS)) == [CUT]
    transfer(engine, first.key, 100, 50, T0)
    assert first.say(b"more") == [CUT]
    again = Client(engine)
    again.seq = 77
    again.open()
    assert engine.attribution(again.key).name == IMG, "the name of the old connection is not the new one's"
    assert again.say(client_hello(IMG)) == [DONE]


def test_what_began_unseen_is_made_anew_unless_it_says_a_name() -> None:
    """A killed daemon's restart, a new rule, a mark that was lost: the middle of a stream has no name."""
    engine = shared()
    assert Client(engine, 6000).say(b"\x17\x03\x03\x00\x20" + bytes(32)) == [CUT]
    assert Client(engine, 6001).say(client_hello(IMG)) == [DONE]
    assert Client(engine, 6002).say(client_hello(ADS)) == [CUT]


def test_answers_of_a_device_to_whom_opened_the_connection_pass() -> None:
    engine = shared()
    inbound = ConnKey(6, CDN, 443, CAMERA_V4, 6000)
    transfer(engine, inbound, 100, 100, T0)
    assert Client(engine, 6000).send(0x18, b"HTTP/1.1 200 OK\r\n\r\n") == DONE


def test_fragments_and_strangers_do_not_pass() -> None:
    engine = shared()
    piece = packet(6, CAMERA_V4, 6000, CDN, 443, fragment=True)
    assert verdict(engine.handle(PacketSeen(piece, CAMERA, from_lan=True, inspect=True), T0)) == DROP
    stray = packet(6, parse_address("203.0.113.9"), 6000, CDN, 443, flags=0x18, payload=b"x")
    assert verdict(engine.handle(PacketSeen(stray, None, from_lan=False, inspect=True), T0)) == DROP


def test_cut_connections_are_reported_within_a_rate_and_all_counted() -> None:
    engine = shared()
    reports = 0
    hello = client_hello(ADS)
    for port in range(10_000, 10_500):
        client = Client(engine, port).open()
        assert client.say(hello) == [CUT]
        reports += len(client.reports)
    (flow,) = engine.flows.flows()
    assert flow.blocked == 500
    assert 50 <= reports <= 150


# -- rules that come later ---------------------------------------------------------------------


def running(engine: Engine, port: int, name: str) -> Client:
    """A connection whose name was said when no rule was about it."""
    client = Client(engine, port)
    client.inspect = False
    client.open()
    assert client.say(client_hello(name)) == [DONE]
    transfer(engine, client.key, 1000, 1000, T0)
    client.inspect = True
    return client


def test_a_new_rule_cuts_the_connections_to_its_name_and_no_others() -> None:
    engine = guarded()
    for name in (ADS, IMG):
        resolve(engine, CAMERA, CAMERA_V4, name, "198.18.0.20", T0)
    ads, img = running(engine, 6000, ADS), running(engine, 6001, IMG)
    commands = engine.handle(PutRules((block(device=CAMERA, domain=ADS),)), T0 + 1)
    kinds = [type(command) for command in commands]
    assert kinds.index(Enforce) < kinds.index(CutConnections), "first the rule, then the cut"
    (cut,) = [command for command in commands if isinstance(command, CutConnections)]
    assert cut.connections == [(ads.key, True)]
    key = ads.key
    assert cut.ends == ((CAMERA, key.src, key.sport, key.dst, key.dport),), "where the device hears of it"
    again = engine.handle(PutRules((block(id=2, device=CAMERA, domain=ADS),)), T0 + 1)
    assert not [end for command in again if isinstance(command, CutConnections) for end in command.ends]
    assert ads.send(0x18, b"more") == CUT
    assert img.send(0x18, b"more") == DONE


@pytest.mark.parametrize("names", [(ADS,), (ADS, IMG)])
def test_a_connection_without_a_name_is_cut_where_all_names_are_blocked(names: tuple[str, ...]) -> None:
    """The kernel blocks its address, and would never see it if it is offloaded."""
    engine = guarded()
    for name in names:
        resolve(engine, CAMERA, CAMERA_V4, name, "198.18.0.20", T0 - 1000, ttl=1)
    client = Client(engine)
    client.inspect = False
    client.open()
    commands = engine.handle(PutRules((block(device=CAMERA, domain=ADS),)), T0 + 1)
    cut = [command.connections for command in commands if isinstance(command, CutConnections)]
    assert cut == ([[(client.key, True)]] if names == (ADS,) else [])


@pytest.mark.parametrize("payload", [b"", b"\x17\x03\x03\x00\x01x"])
def test_a_cut_connection_stays_cut_after_conntrack_forgot_it(payload: bytes) -> None:
    """Its entry is deleted; the next packet makes a new one, without mark and without a name."""
    engine = guarded()
    for name in (ADS, IMG):  # the last that it asked for is allowed
        resolve(engine, CAMERA, CAMERA_V4, name, "198.18.0.20", T0)
    ads = running(engine, 6000, ADS)
    engine.handle(PutRules((block(device=CAMERA, domain=ADS),)), T0 + 1)
    engine.handle(Traffic([Delta(1, ads.key, 1, 60, 0, 0, ended=True)]), T0 + 1)
    assert engine.connections.get(ads.key) is None
    # On a bridge the next packet may be the server's: then it opens the connection, for conntrack.
    transfer(engine, ConnKey(6, CDN, 443, CAMERA_V4, 6000), 1, 1, T0 + 1)
    assert ads.send(0x18 if payload else 0x10, payload) == CUT
    assert ads.send(0x02) == ACCEPT, "the ports may be used again"


def test_a_packet_that_waited_while_the_rule_came_gets_no_mark_that_lets_the_rest_pass() -> None:
    engine = guarded()
    resolve(engine, CAMERA, CAMERA_V4, ADS, "198.18.0.20", T0)
    ads = running(engine, 6000, ADS)
    engine.handle(PutRules((block(device=CAMERA, domain=ADS),)), T0 + 1)
    ads.inspect = False
    assert ads.send(0x18, b"more") == CUT


def test_when_the_rule_goes_the_name_is_free_again() -> None:
    engine = shared()
    engine.handle(RemoveRules((1,)), T0)
    assert says(engine, CAMERA) is Action.ALLOW
    client = Client(engine)
    client.inspect = False
    client.open()
    assert client.say(client_hello(ADS)) == [DONE]


def test_a_name_that_no_answer_told_is_cut_when_it_is_said_and_its_address_known_then() -> None:
    engine = guarded(block(device=CAMERA, domain=ADS))
    client = Client(engine)
    client.inspect = False  # for the kernel nothing is special about the address
    client.open()
    assert client.say(client_hello(ADS)) == [CUT]
    # Who else is there was not told either: their names decide from now on, and theirs pass.
    assert says(engine, CAMERA) is Action.INSPECT
    assert Client(engine, 6001).open().say(client_hello(IMG)) == [DONE]
    assert Client(engine, 6002).open().say(client_hello(ADS)) == [CUT]
    engine.handle(Tick(), T0 + 2 * 86400)
    assert says(engine, CAMERA) is Action.ALLOW


def test_what_an_answer_told_is_not_in_doubt_because_a_client_says_it_too() -> None:
    engine = guarded()
    resolve(engine, CAMERA, CAMERA_V4, ADS, "198.18.0.20", T0)
    running(engine, 6000, ADS)
    engine.handle(PutRules((block(device=CAMERA, domain=ADS),)), T0 + 1)
    assert says(engine, CAMERA) is Action.BLOCK


# -- DNS answers -------------------------------------------------------------------------------


def response(name: str, addresses: Iterable[str]) -> DNS:
    records = [DNSRR(rrname=name, ttl=60, rdata=address) for address in addresses]
    return DNS(id=1, qr=1, qd=DNSQR(qname=name), an=records)


def udp_response(message: DNS, device: str = "192.168.8.11") -> PacketSeen:
    data = bytes(IP(src="192.168.8.1", dst=device) / UDP(sport=53, dport=4000) / message)
    return PacketSeen(parse_ip(data), None, from_lan=False, data=data)


def no_such_name(found: Verdict) -> bool:
    if found.payload is None:
        return False
    message = IP(found.payload)[DNS]
    return bool(found.accept and message.rcode == 3 and not message.ancount)


def many(count: int) -> list[str]:
    return [f"198.18.{n >> 8}.{n & 255}" for n in range(256, 256 + count)]


def test_an_answer_too_long_to_be_read_reaches_nobody_who_may_not_reach_the_name() -> None:
    engine = guarded(block(device=CAMERA, domain="huge.test"))
    ask(engine, CAMERA, CAMERA_V4, "huge.test", T0)
    assert no_such_name(verdict(engine.handle(udp_response(response("huge.test", many(400))), T0)))
    assert verdict(engine.handle(udp_response(response("other.test", many(400))), T0)) == ACCEPT
    assert engine.statistics()["engine.dns-refused"] == 1
    assert engine.statistics()["engine.dns-oversized"] == 2


def test_an_answer_whose_question_was_not_seen_tells_nobody_a_blocked_name() -> None:
    engine = guarded(block(device=CAMERA, domain=ADS))
    assert no_such_name(verdict(engine.handle(udp_response(response(ADS, ["198.18.0.20"])), T0)))
    assert says(engine, CAMERA) is Action.ALLOW, "nor is it believed"
    assert verdict(engine.handle(udp_response(response(IMG, ["198.18.0.20"])), T0)) == ACCEPT
    other = udp_response(response(ADS, ["198.18.0.20"]), device="192.168.8.12")
    assert verdict(engine.handle(other, T0)) == ACCEPT, "for who may reach it that is not our business"


def test_over_tcp_a_refused_answer_does_not_pass_when_it_is_sent_again() -> None:
    engine = guarded(block(device=CAMERA, domain="huge.test"))
    message = bytes(response("huge.test", many(400)))
    stream = struct.pack("!H", len(message)) + message
    pieces = [stream[i : i + 1448] for i in range(0, len(stream), 1448)]

    def send(index: int, flags: str = "PA") -> Verdict:
        segment = TCP(sport=53, dport=4000, seq=101 + 1448 * index, flags=flags) / pieces[index]
        data = bytes(IP(src="192.168.8.1", dst="192.168.8.11") / segment)
        return verdict(engine.handle(PacketSeen(parse_ip(data), None, from_lan=False, data=data), T0))

    syn = packet(6, GATEWAY_V4, 53, CAMERA_V4, 4000, flags=0x12, seq=100)
    engine.handle(PacketSeen(syn, None, from_lan=False), T0)
    assert [send(i) for i in range(len(pieces))][-1] == DROP
    assert send(len(pieces) - 1, "FPA") == DROP, "sent again"
    assert send(len(pieces) - 1) == DROP
    engine.handle(PacketSeen(syn, None, from_lan=False), T0)
    assert send(0) == ACCEPT, "another connection"


def doh_home(*, refuse: bool) -> Engine:
    engine = guarded()
    resolvers = ("doh.test", "198.18.0.99", "2001:db8:2:1::99")
    engine.handle(Decided({}, (), resolvers=resolvers, refuse=refuse), T0)
    return engine


def test_the_canary_and_known_resolvers_are_refused_where_people_want_that() -> None:
    engine = doh_home(refuse=True)
    ask(engine, CAMERA, CAMERA_V4, CANARY, T0)
    assert no_such_name(verdict(engine.handle(udp_response(response(CANARY, ["198.18.0.1"])), T0)))
    resolve(engine, CAMERA, CAMERA_V4, "doh.test", "198.18.0.98", T0)
    for text in ("198.18.0.98", "198.18.0.99", "2001:db8:2:1::99"):
        address = parse_address(text)
        for protocol in (6, 17):
            found = {port: says(engine, CAMERA, address, protocol, port) for port in (53, 443, 853)}
            assert found == {53: Action.ALLOW, 443: Action.BLOCK, 853: Action.BLOCK}, (text, protocol)
    assert says(engine, CAMERA) is Action.ALLOW


def test_otherwise_they_are_reached_and_the_flow_says_so() -> None:
    engine = doh_home(refuse=False)
    ask(engine, CAMERA, CAMERA_V4, CANARY, T0)
    assert verdict(engine.handle(udp_response(response(CANARY, ["198.18.0.1"])), T0)) == ACCEPT
    resolve(engine, CAMERA, CAMERA_V4, "doh.test", "198.18.0.98", T0)
    for text, port in (("198.18.0.98", 443), ("198.18.0.99", 853), ("198.18.0.97", 443), ("198.18.0.99", 80)):
        transfer(engine, ConnKey(6, CAMERA_V4, 5000, parse_address(text), port), 1, 1, T0)
    notes = {(engine.nodes.by_id[f.key.node].label, f.key.port): f.note for f in engine.flows.flows()}
    assert notes == {
        ("doh.test", 443): "encrypted-dns",
        ("198.18.0.99", 853): "encrypted-dns",
        ("198.18.0.97", 443): "",
        ("198.18.0.99", 80): "",
    }


# -- hidden names ------------------------------------------------------------------------------


def with_ech(hello: bytes) -> bytes:
    """The hello with an encrypted_client_hello extension (RFC 9849) at its end."""
    extension = struct.pack("!HH", 0xFE0D, 40) + bytes(40)
    body = bytearray(hello[5:])
    at = 4 + 2 + 32
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2])
    at += 1 + body[at]
    size = int.from_bytes(body[at : at + 2]) + len(extension)
    body[at : at + 2] = size.to_bytes(2)
    body += extension
    body[1:4] = (len(body) - 4).to_bytes(3)
    return hello[:3] + len(body).to_bytes(2) + bytes(body)


def test_a_name_behind_a_mask_is_cut_by_the_name_that_was_asked_for() -> None:
    engine = shared()
    resolve(engine, CAMERA, CAMERA_V4, ADS, "198.18.0.20", T0)
    masked = Client(engine, 6000).open()
    assert masked.say(with_ech(client_hello("mask.cdn.test"))) == [CUT]
    (flow,) = engine.flows.flows()
    assert (flow.name, flow.note) == ("mask.cdn.test", "ech")
    # Browsers pretend to hide something in each hello: then the name is the true one, and was asked for.
    assert Client(engine, 6001).open().say(with_ech(client_hello(IMG))) == [DONE]
    resolve(engine, CAMERA, CAMERA_V4, IMG, "198.18.0.20", T0)
    assert Client(engine, 6002).open().say(with_ech(client_hello("mask.cdn.test"))) == [DONE]


def test_a_flow_tells_that_its_name_may_be_a_mask() -> None:
    engine = guarded()
    resolve(engine, CAMERA, CAMERA_V4, IMG, "198.18.0.20", T0)
    for port, hello in ((6000, client_hello("mask.cdn.test")), (6001, client_hello(IMG))):
        client = Client(engine, port)
        client.inspect = False
        client.open()
        assert client.say(with_ech(hello)) == [DONE]
        transfer(engine, client.key, 10, 10, T0)
    notes = {flow.name: flow.note for flow in engine.flows.flows()}
    assert notes == {"mask.cdn.test": "ech", IMG: ""}


# -- reports -----------------------------------------------------------------------------------


def test_blocked_packets_are_counted_with_their_flow_and_reported() -> None:
    engine = guarded(block(device=CAMERA, domain=ADS))
    resolve(engine, CAMERA, CAMERA_V4, ADS, "198.18.0.20", T0)
    up = packet(6, CAMERA_V4, 6000, CDN, 443, flags=2)
    down = packet(17, CDN, 443, CAMERA_V4, 7000)
    rows = []
    for event in (BlockedSeen(up, CAMERA, up=True), BlockedSeen(down, None, up=False)):
        rows += [c.flow for c in engine.handle(event, T0) if isinstance(c, BlockedReport)]
    camera, site = engine.nodes.devices[CAMERA].id, engine.nodes.by_key("tracker.test").id
    assert [(row["from"], row["to"], row["from_port"], row["to_port"]) for row in rows] == [
        (camera, site, 6000, 443),
        (site, camera, 443, 7000),
    ]
    assert {(f.name, f.blocked, f.up_packets) for f in engine.flows.flows()} == {(ADS, 1, 0)}
