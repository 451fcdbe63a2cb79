# SPDX-License-Identifier: GPL-2.0-or-later
"""`spind replay` from file to output: link types, damage, order, and the command."""

import argparse
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from capture_forms import enhanced, interface, section
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import ARP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw
from scapy.utils import PcapWriter

from spind import replay as command
from spind.capfile import CapturedPacket, CaptureFileError, read_bytes, read_capture
from spind.engine import Engine
from spind.model import Evidence, format_mac
from spind.replay_report import flow_line
from spind.replay_run import replay

ROUTER = "02:00:00:00:00:01"
PHONE = "02:00:00:00:00:10"
PLUG = "02:00:00:00:00:11"
HERE = "192.168.1.10"
SITE = "198.51.100.7"
OTHER = "203.0.113.9"
RESOLVER = "192.168.1.1"
NAME = "www.example.co.uk"

REQUEST = b"GET / HTTP/1.1\r\nHost: Shop.Example.com\r\n\r\n"


def packets():
    """One exchange of a device: DNS, a connection by that name, one by HTTP Host, pings, fragments."""
    question = DNSQR(qname=NAME)
    answer = DNSRR(rrname=NAME, type="A", ttl=60, rdata=SITE)
    yield True, IP(src=HERE, dst=RESOLVER) / UDP(sport=4000, dport=53) / DNS(id=7, qd=question)
    yield (
        False,
        IP(src=RESOLVER, dst=HERE) / UDP(sport=53, dport=4000) / DNS(id=7, qr=1, qd=question, an=answer),
    )
    yield True, IP(src=HERE, dst=SITE) / UDP(sport=5000, dport=443) / (b"x" * 400)
    yield False, IP(src=SITE, dst=HERE) / UDP(sport=443, dport=5000) / (b"y" * 1200)
    yield True, IP(src=HERE, dst=OTHER) / TCP(sport=5001, dport=80, flags="S", seq=100)
    yield False, IP(src=OTHER, dst=HERE) / TCP(sport=80, dport=5001, flags="SA", seq=900, ack=101)
    yield True, IP(src=HERE, dst=OTHER) / TCP(sport=5001, dport=80, flags="PA", seq=101) / REQUEST[:20]
    yield True, IP(src=HERE, dst=OTHER) / TCP(sport=5001, dport=80, flags="PA", seq=121) / REQUEST[20:]
    yield False, IP(src=OTHER, dst=HERE) / TCP(sport=80, dport=5001, flags="PA", seq=901) / (b"z" * 700)
    yield True, IPv6(src="fe80::10", dst="fe80::1") / ICMPv6EchoRequest(id=3, data=b"ping")
    yield False, IPv6(src="fe80::1", dst="fe80::10") / ICMPv6EchoReply(id=3, data=b"ping")
    yield (
        False,
        IP(src=SITE, dst=HERE) / ICMP(type=3, code=1) / IP(src=HERE, dst=SITE) / UDP(sport=5000, dport=443),
    )
    for part in fragment(IP(src=HERE, dst=SITE, id=5) / UDP(sport=5002, dport=443) / bytes(2000), 1200):
        yield True, part
    yield True, IPv6(src="fe80::10", dst="fe80::1") / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / b"options"


EXPECTED = [
    ("udp", HERE, 4000, RESOLVER, 53, 2, RESOLVER, "", "none"),
    ("udp", HERE, 5000, SITE, 443, 2, "example.co.uk", NAME, "dns"),
    ("tcp", HERE, 5001, OTHER, 80, 5, "example.com", "shop.example.com", "http"),
    ("icmpv6", "fe80::10", 128, "fe80::1", 0, 2, "fe80::1", "", "none"),
    ("icmp", SITE, 3, HERE, 1, 1, "example.co.uk", NAME, "dns"),
    ("udp", HERE, 5002, SITE, 443, 2, "example.co.uk", NAME, "dns"),
    ("udp", "fe80::10", 1, "fe80::1", 2, 1, "fe80::1", "", "none"),
]


def ether(up):
    return Ether(src=PHONE, dst=ROUTER) if up else Ether(src=ROUTER, dst=PHONE)


def sll2(up, packet):
    proto = 0x86DD if IPv6 in packet else 0x0800
    return CookedLinuxV2(
        proto=proto, ifindex=2, lladdrlen=6, src=bytes.fromhex("020000000010") if up else b""
    )


DIALECTS = {
    "ethernet": (1, lambda up, packet: ether(up) / packet),
    "vlan": (1, lambda up, packet: ether(up) / Dot1Q(vlan=7) / packet),
    "qinq": (1, lambda up, packet: ether(up) / Dot1AD(vlan=3) / Dot1Q(vlan=7) / packet),
    "raw": (101, lambda _up, packet: packet),
    "sll": (113, lambda up, packet: CookedLinux(pkttype=4 if up else 0) / packet),
    "sll2": (276, lambda up, packet: sll2(up, packet) / packet),
}


def write(path, linktype, frames, **options):
    with PcapWriter(str(path), linktype=linktype, **options) as out:
        for number, frame in enumerate(frames):
            frame.time = 1_700_000_000 + number * 0.25
            out.write(frame)


def capture(path, dialect, **options):
    linktype, wrap = DIALECTS[dialect]
    frames = [wrap(up, packet) for up, packet in packets()]
    if linktype == 1:
        frames.insert(
            0, Ether(src=ROUTER, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=ROUTER, psrc=RESOLVER, pdst=HERE)
        )
        frames.insert(0, Ether(src=PHONE, dst="01:80:c2:00:00:03", type=0x888E) / b"not IP")
    write(path, linktype, frames, **options)
    return frames


def flows_of(captured, **options):
    records = []
    outcome = replay(captured, records.append, **options)
    records.sort(key=lambda record: record.conn.first)
    return [json.loads(flow_line(record)) for record in records], outcome


def short(flow):
    names = ("proto", "src", "sport", "dst", "dport", "packets", "site", "name", "evidence")
    return tuple(flow[name] for name in names)


def sizes(frames):
    return sum(
        frame[IP].len if IP in frame else frame[IPv6].plen + 40
        for frame in (frame.__class__(bytes(frame)) for frame in frames)
        if IP in frame or IPv6 in frame
    )


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("nano", [False, True])
def test_every_link_type_tells_the_same(tmp_path, dialect, nano):
    path = tmp_path / "capture"
    frames = capture(path, dialect, nano=nano)
    flows, outcome = flows_of(read_capture(str(path)))
    assert [short(flow) for flow in flows] == EXPECTED
    ethernet = DIALECTS[dialect][0] == 1
    assert {flow["device"] for flow in flows if ":" not in flow["src"]} == {PHONE if ethernet else HERE}
    assert sum(flow["bytes"] for flow in flows) == outcome.totals.ip_bytes == sizes(frames)
    assert outcome.totals.other == (2 if ethernet else 0)
    assert outcome.totals.malformed.total() == 0
    assert outcome.error is None
    assert {format_mac(mac) for mac in outcome.totals.gateways} == ({ROUTER} if ethernet else set())


def test_up_is_from_the_device_whoever_began(tmp_path):
    path = tmp_path / "capture"
    capture(path, "ethernet")
    flows, _ = flows_of(read_capture(str(path)))
    quic, error = flows[1], flows[4]
    assert (quic["up_bytes"], quic["down_bytes"]) == (428, 1228)
    assert (error["up_bytes"], error["down_bytes"]) == (0, 56)
    assert quic["first"] == pytest.approx(1_700_000_001.0)
    assert quic["last"] == pytest.approx(1_700_000_001.25)


def test_pcapng_with_every_link_type_at_once():
    """One file, an interface for each dialect with a resolution of its own, and the same exchange on each."""
    data = section()
    for dialect, resolution in zip(DIALECTS, (6, 9, 3, 0x80 | 10, 6, 9), strict=True):
        data += interface(DIALECTS[dialect][0], tsresol=resolution)
    units = (10**6, 10**9, 10**3, 2**10, 10**6, 10**9)
    frames = []
    for number, (_, wrap) in enumerate(DIALECTS.values()):
        for position, (up, packet) in enumerate(packets()):
            frames.append(wrap(up, packet))
            ticks = int((1_700_000_000 + number * 7200 + position * 0.25) * units[number])
            data += enhanced(number, ticks, bytes(frames[-1]))
    flows, outcome = flows_of(read_bytes(data))
    assert outcome.totals.ip_bytes == sizes(frames)
    assert outcome.totals.last - outcome.totals.first == pytest.approx(5 * 7200 + 14 * 0.25)
    # An hour apart, what is not TCP is told apart: six times the same, but for the one device by MAC.
    udp = [short(flow) for flow in flows if flow["proto"] == "udp"]
    assert udp == [row for row in EXPECTED if row[0] == "udp"] * 6
    assert {flow["device"] for flow in flows} == {PHONE}


def test_two_devices_up_is_from_the_initiator():
    talk = [
        Ether(src=PLUG, dst=PHONE) / IP(src="192.168.1.11", dst=HERE) / UDP(sport=1, dport=2) / bytes(100),
        Ether(src=PHONE, dst=PLUG) / IP(src=HERE, dst="192.168.1.11") / UDP(sport=2, dport=1) / bytes(10),
    ]
    flows, _ = flows_of([CapturedPacket(float(n), 1, bytes(f), len(f)) for n, f in enumerate(talk)])
    assert [(flow["device"], flow["site"], flow["up_bytes"], flow["down_bytes"]) for flow in flows] == [
        (PLUG, HERE, 128, 38)
    ]


def test_a_connection_of_no_device():
    frame = Ether(src=ROUTER, dst="01:00:5e:00:00:fb") / IP(src=RESOLVER, dst="224.0.0.251") / UDP() / b"x"
    captured = [CapturedPacket(1.5, 1, bytes(frame), len(frame))]
    flows, _ = flows_of(captured, gateways=frozenset({bytes.fromhex("020000000001")}))
    assert [(flow["device"], flow["site"], flow["up_bytes"]) for flow in flows] == [(None, "224.0.0.251", 29)]


def test_snapped_packets_count_in_full(tmp_path):
    """Also where the header holds no length, as segmentation offload leaves it."""
    big = IP(src=HERE, dst=SITE, len=0) / TCP(sport=1, dport=2) / bytes(30000)
    usual = IP(src=HERE, dst=SITE) / TCP(sport=1, dport=2) / bytes(1000)
    captured = [CapturedPacket(0.0, 101, bytes(packet)[:96], len(packet)) for packet in (big, usual)]
    flows, _ = flows_of(captured)
    assert [flow["bytes"] for flow in flows] == [len(big) + len(usual)]
    assert len(big) == 30040
    six = IPv6(src="fe80::1", dst="fe80::2", plen=0) / TCP(sport=1, dport=2) / bytes(30000)
    flows, _ = flows_of([CapturedPacket(0.0, 101, bytes(six)[:96], len(six))])
    assert [flow["bytes"] for flow in flows] == [30060]


def test_malformed_packets_are_counted_and_passed_over(tmp_path):
    path = tmp_path / "capture"
    capture(path, "raw")
    good = list(read_capture(str(path)))
    bad = [CapturedPacket(0.0, 101, b"\x41" + bytes(30), 31), CapturedPacket(0.0, 101, b"", 0)]
    flows, outcome = flows_of([*bad, *good, *bad])
    assert [short(flow) for flow in flows] == EXPECTED
    assert outcome.totals.malformed.total() == 4
    assert outcome.error is None


def test_reasons_for_malformed_packets_are_bounded():
    captured = [CapturedPacket(0.0, 1000 + number, b"x", 1) for number in range(500)]
    _, outcome = flows_of(captured)
    assert len(outcome.totals.malformed) == 33
    assert outcome.totals.malformed.total() == 500


def test_a_link_type_nobody_knows_is_an_error():
    _, outcome = flows_of([CapturedPacket(0.0, 147, b"whatever", 8)] * 3)
    assert outcome.error is not None
    assert "link type 147" in outcome.error.message


def test_no_packets():
    flows, outcome = flows_of([])
    assert flows == []
    assert outcome.error is None


def test_times_from_any_year_do_no_harm(monkeypatch):
    """And the engine's time never runs backwards."""
    handled = []
    handle = Engine.handle

    def noting(self, event, now):
        handled.append(now)
        return handle(self, event, now)

    monkeypatch.setattr(Engine, "handle", noting)
    frame = bytes(ether(up=True) / IP(src=HERE, dst=SITE) / UDP(sport=1, dport=2))
    times = [0.0, 1.8e19, -5.0, 1.0e9, 2.0**64, 3.0]
    flows, outcome = flows_of([CapturedPacket(when, 1, frame, len(frame)) for when in times])
    assert sum(flow["packets"] for flow in flows) == len(times)
    assert outcome.engine.flows.flows()[0].up_packets == len(times)
    assert handled == sorted(handled)


def test_traffic_is_reported_before_the_silence_after_it():
    frame = bytes(ether(up=True) / IP(src=HERE, dst=SITE) / UDP(sport=1, dport=2))
    other = bytes(ether(up=True) / IP(src=HERE, dst=OTHER) / UDP(sport=1, dport=2))
    captured = [CapturedPacket(when, 1, data, 42) for when, data in ((100.0, frame), (9000.0, other))]
    _, outcome = flows_of(captured)
    assert sorted(flow.lastseen for flow in outcome.engine.flows.flows()) == [101.0, 9000.0]


def test_the_engine_sees_what_the_live_capture_would_have_queued():
    """DNS, the first packets, and a client's payload until its name is known."""
    exchange = [packet for packet in packets() if TCP in packet[1]]
    more = (True, IP(src=HERE, dst=OTHER) / TCP(sport=5001, dport=80, flags="PA", seq=200) / b"more")
    frames = [ether(up) / packet for up, packet in [*exchange, more, more, more]]
    captured = [CapturedPacket(n * 0.1, 1, bytes(f), len(f)) for n, f in enumerate(frames)]
    flows, outcome = flows_of(captured)
    assert flows[0]["name"] == "shop.example.com"
    assert outcome.engine.counters["packets"] == 3  # the SYN, and the request in two parts


def test_a_full_table_prints_early_and_loses_nothing():
    frames = [
        ether(up=True) / IP(src=HERE, dst=f"198.51.100.{n}") / UDP(sport=1, dport=2) for n in range(100)
    ]
    captured = [CapturedPacket(float(n), 1, bytes(f), len(f)) for n, f in enumerate(frames)]
    order = []
    outcome = replay(captured, order.append, connections=10)
    assert len(order) == outcome.totals.connections == 100
    assert outcome.totals.evicted == 90
    assert [record.conn.first for record in order] == list(map(float, range(100)))
    assert all(record.attribution is not None for record in order)


def test_more_than_is_read_ahead(monkeypatch):
    monkeypatch.setattr("spind.replay_run.AHEAD_PACKETS", 3)
    frames = [ether(up) / packet for up, packet in packets()]
    captured = [CapturedPacket(n * 0.25, 1, bytes(f), len(f)) for n, f in enumerate(frames)]
    flows, outcome = flows_of(captured)
    assert [short(flow)[:6] for flow in flows] == [row[:6] for row in EXPECTED]
    assert outcome.totals.packets == len(frames)


def test_the_same_port_again_is_printed_twice_with_its_own_name():
    def talk(start, name):
        request = b"GET / HTTP/1.0\r\nHost: " + name + b"\r\n\r\n"
        return [
            (True, IP(src=HERE, dst=SITE) / TCP(sport=1, dport=80, flags="S", seq=start)),
            (False, IP(src=SITE, dst=HERE) / TCP(sport=80, dport=1, flags="SA", seq=5)),
            (True, IP(src=HERE, dst=SITE) / TCP(sport=1, dport=80, flags="PA", seq=start + 1) / request),
            (False, IP(src=SITE, dst=HERE) / TCP(sport=80, dport=1, flags="R", seq=6)),
        ]

    frames = [ether(up) / packet for up, packet in talk(100, b"a.example.com") + talk(999, b"b.example.org")]
    flows, _ = flows_of([CapturedPacket(n * 0.1, 1, bytes(f), len(f)) for n, f in enumerate(frames)])
    assert [(flow["name"], flow["site"], flow["packets"]) for flow in flows] == [
        ("a.example.com", "example.com", 4),
        ("b.example.org", "example.org", 4),
    ]


def test_cut_off_at_every_byte(tmp_path):
    """What was whole before the cut is told, whatever the cut; nothing else is raised."""
    path = tmp_path / "capture"
    linktype, wrap = DIALECTS["ethernet"]
    write(path, linktype, [wrap(up, packet) for up, packet in list(packets())[4:8]])
    data = path.read_bytes()
    whole = read_bytes(data)

    def reading(cut):
        path.write_bytes(data[:cut])
        return read_capture(str(path))

    ends = [24]
    for packet in whole:
        ends.append(ends[-1] + 16 + len(packet.data))
    for cut in range(len(data) + 1):
        flows, outcome = flows_of(reading(cut))
        complete = max((number for number, end in enumerate(ends) if end <= cut), default=0)
        assert sum(flow["packets"] for flow in flows) == complete
        assert (outcome.error is None) == (cut in ends)
        if outcome.error is not None:
            assert outcome.error.packets_read == complete


# -- the command ---------------------------------------------------------------------------

SPIND = [
    sys.executable,
    "-W",
    "error",
    "-c",
    "import sys; from spind.cli import main; sys.exit(main())",
    "replay",
]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(command.__file__).parents[1])}


def spind(*words, **options):
    words = [*SPIND, *map(str, words)]
    return subprocess.run(words, capture_output=True, timeout=60, check=False, env=ENVIRONMENT, **options)


def test_flows_on_the_command_line(tmp_path):
    path = tmp_path / "capture"
    capture(path, "ethernet")
    done = spind(path, "--flows")
    assert (done.returncode, done.stderr) == (0, b"")
    flows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [short(flow) for flow in flows] == EXPECTED
    with path.open("rb") as stream:
        assert spind("-", "--flows", stdin=stream).stdout == done.stdout


def test_a_cut_off_file_on_the_command_line(tmp_path):
    path = tmp_path / "capture"
    frames = capture(path, "ethernet")
    path.write_bytes(path.read_bytes()[:-3])
    done = spind(path, "--flows")
    assert done.returncode == 1
    assert [short(json.loads(line)) for line in done.stdout.splitlines()] == EXPECTED[:-1]
    message = done.stderr.decode()
    assert message.count("\n") == 1
    assert "cut off" in message
    assert f"after {len(frames) - 1} packets" in message
    summary = spind(path)
    assert summary.returncode == 1
    assert b"example.co.uk" in summary.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["/nonexistent/capture"], 1, "cannot open"),
        (["/"], 1, "cannot open"),
        (["/dev/null"], 1, "empty"),
        ([__file__], 1, "not a capture file"),
        (["/dev/null", "--lan", "300.1.1.1/8"], 2, "--lan"),
        (["/dev/null", "--gateway", "router"], 2, "--gateway"),
        (["/dev/null", "--flows", "--summary"], 2, "not allowed with"),
        ([], 2, "FILE"),
    ],
)
def test_what_is_wrong_is_said(arguments, status, says):
    done = spind(*arguments)
    assert done.returncode == status
    assert says in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_whoever_stops_reading_is_left_in_peace(tmp_path):
    path = tmp_path / "capture"
    frames = [ether(up=True) / IP(src=HERE, dst=SITE) / UDP(sport=n + 1, dport=2) for n in range(3000)]
    write(path, 1, frames)
    with subprocess.Popen(
        [*SPIND, path, "--flows"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_an_interrupt_ends_the_capture(tmp_path, monkeypatch, capsys):
    """As Ctrl-C does in ``tcpdump -w - | spind replay -``: what came so far is shown."""
    path = tmp_path / "capture"
    frames = capture(path, "ethernet")

    def interrupted(name):
        yield from read_capture(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "read_capture", interrupted)
    given = arguments(str(path), "--flows")
    assert given.run(given) == 1
    out, err = capsys.readouterr()
    assert [short(json.loads(line)) for line in out.splitlines()] == EXPECTED
    assert f"interrupted after {len(frames)} packets" in err


def arguments(*texts):
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    return parser.parse_args(["replay", *texts])


def test_the_home_can_be_given(tmp_path, capsys):
    path = tmp_path / "capture"
    write(path, 101, [IP(src="198.51.100.20", dst=SITE) / UDP(sport=1, dport=2)])
    given = arguments(str(path), "--flows", "--lan", "198.51.100.16/28", "--lan", "2001:db8::1/64")
    assert given.run(given) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "198.51.100.20"
    given = arguments(str(path), "--flows")
    assert given.run(given) == 0
    assert json.loads(capsys.readouterr().out)["device"] is None


def test_the_gateway_can_be_given(tmp_path, capsys):
    path = tmp_path / "capture"
    write(path, 1, [Ether(src=PLUG, dst=PHONE) / IP(src=SITE, dst=HERE) / UDP(sport=1, dport=2)])
    for options, devices in ((["--gateway", PLUG.upper()], {PHONE}), ([], {PLUG})):
        given = arguments(str(path), "--flows", *options)
        assert given.run(given) == 0
        assert {json.loads(line)["device"] for line in capsys.readouterr().out.splitlines()} == devices


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_for_terminals_and_large_files(tmp_path, monkeypatch, capsys):
    path = tmp_path / "capture"
    write(path, 1, [ether(up=True) / IP(src=HERE, dst=SITE) / UDP() / Raw(bytes(900)) for _ in range(50)])
    given = arguments(str(path))
    assert given.run(given) == 0
    assert capsys.readouterr().err == ""
    clock = iter(range(100000))
    monkeypatch.setattr(command, "PROGRESS_BYTES", 1000)
    monkeypatch.setattr("spind.replay_run.PROGRESS_PACKETS", 10)
    monkeypatch.setattr(command.time, "monotonic", lambda: next(clock))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert given.run(given) == 0
    assert "20 packets, 40 %" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_evidence_words_are_those_of_the_format():
    assert {str(kind) for kind in Evidence} == {"sni", "http", "dns", "dns-other", "none"}
    with pytest.raises(CaptureFileError):
        read_bytes(b"")
