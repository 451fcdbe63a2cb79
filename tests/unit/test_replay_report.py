# SPDX-License-Identifier: GPL-2.0-or-later
"""What `spind replay` prints, line by line."""

import json
import re
from collections import Counter

import pytest

from spind.attribution import Attribution
from spind.engine import Engine
from spind.events import LeaseSeen, NeighbourSeen
from spind.model import ConnKey, Evidence, parse_address, parse_mac
from spind.replay_report import Record, Summary, Totals, flow_line, ports_of, protocol_name, size_text
from spind.tracker import Connection

PHONE = "02:00:00:00:00:10"
A = parse_address("192.168.1.10")
B = parse_address("198.51.100.7")
HTTPS = ConnKey(6, A, 1000, B, 443)
EVIL = "\x1b[2Jevil\u202e"

TOTALS = Totals(
    packets=0,
    ip_packets=0,
    ip_bytes=0,
    other=0,
    malformed=Counter(),
    first=0.0,
    last=0.0,
    connections=0,
    evicted=0,
    gateways=frozenset(),
    seconds=0.0,
)


def record(*, key=HTTPS, sent=(2, 100), got=(3, 900), outbound=True, **attribution):
    conn = Connection(1, key, 10.0, 0)
    conn.last = 12.5
    conn.orig_packets, conn.orig_bytes = sent
    conn.reply_packets, conn.reply_bytes = got
    known = None
    if attribution.pop("known", True):
        known = Attribution(
            attribution.get("device", PHONE),
            attribution.get("site", "example.com"),
            attribution.get("name", "www.example.com"),
            attribution.get("evidence", Evidence.SNI),
        )
    return Record(conn, known, outbound)


def test_a_connection_as_json():
    assert flow_line(record()) == (
        '{"proto":"tcp","src":"192.168.1.10","sport":1000,"dst":"198.51.100.7","dport":443,"packets":5,'
        '"bytes":1000,"up_bytes":100,"down_bytes":900,"first":10.0,"last":12.5,'
        '"device":"02:00:00:00:00:10","site":"example.com","name":"www.example.com","evidence":"sni"}'
    )


def test_up_is_from_the_device():
    flow = json.loads(flow_line(record(outbound=False)))
    assert (flow["up_bytes"], flow["down_bytes"]) == (900, 100)


def test_nobodys_connection():
    flow = json.loads(flow_line(record(known=False)))
    assert [flow[name] for name in ("device", "site", "name", "evidence")] == [
        None,
        "198.51.100.7",
        "",
        "none",
    ]


def test_lines_are_inert_and_mean_the_same():
    line = flow_line(record(name=EVIL))
    assert line.isprintable()
    assert json.loads(line)["name"] == EVIL


def test_icmp_prints_type_and_code():
    assert ports_of(ConnKey(1, A, 77, B, 0x0800)) == (8, 0)
    assert ports_of(ConnKey(58, A, 0, B, 0x0104)) == (1, 4)
    assert [protocol_name(proto) for proto in (1, 6, 17, 58, 47)] == ["icmp", "tcp", "udp", "icmpv6", "47"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (2.5e15, "2,500.0 TB"),
    ],
)
def test_sizes(size, text):
    assert size_text(size) == text


def lines(*records, totals=TOTALS, events=()):
    engine = Engine()
    for event in events:
        engine.handle(event, 0.0)
    summary = Summary()
    for one in records:
        summary.add(one)
    return list(summary.lines(engine.nodes, totals))


def test_a_summary():
    totals = TOTALS._replace(
        packets=1234,
        ip_packets=1200,
        ip_bytes=56789,
        other=30,
        malformed=Counter({"too short": 3, "too long": 1}),
        first=1_700_000_000.0,
        last=1_700_000_010.0,
        connections=3,
        evicted=2,
        gateways=frozenset({parse_mac("02:00:00:00:00:01")}),
        seconds=0.5,
    )
    mac = parse_mac(PHONE)
    events = [
        LeaseSeen(mac, A, "my-phone"),
        NeighbourSeen(parse_address("192.168.1.99"), parse_mac("02:00:00:00:00:99")),
    ]
    records = [
        record(),
        record(key=ConnKey(17, A, 5, B, 53), name="cdn.example.com", evidence=Evidence.DNS),
        record(
            key=ConnKey(6, B, 5, A, 22), outbound=False, site="198.51.100.7", name="", evidence=Evidence.NONE
        ),
        record(known=False, sent=(1, 40), got=(0, 0)),
    ]
    assert lines(*records, totals=totals, events=events) == [
        "1,234 packets, 1,200 of them IP with 56.8 kB in 3 connections",
        "from 2023-11-14 22:13:20 UTC to 2023-11-14 22:13:30 UTC: 10.0 s, 123.4 packets/s, 5.7 kB/s",
        "read in 0.5 s, 2,468 packets/s",
        "gateway: 02:00:00:00:00:01",
        "not IP: 30 frames",
        "malformed: 4 packets: too short (3), too long (1)",
        "the connection table was full: 2 connections were closed early",
        "",
        "02:00:00:00:00:10  my-phone  192.168.1.10",
        "  site              up    down  conns  services         evidence  names",
        "  example.com    200 B  1.8 kB      2  tcp/443, udp/53  sni, dns  www.example.com, cdn.example.com",
        "  198.51.100.7   900 B   100 B      1  tcp/22 in        -",
        "  total         1.1 kB  1.9 kB      3",
        "",
        "No device took part",
        "  site            up  down  conns  services  evidence  names",
        "  198.51.100.7  40 B   0 B      1  tcp/443   -",
        "  total         40 B   0 B      1",
        "",
        "Seen without traffic of their own:",
        "  02:00:00:00:00:99  192.168.1.99",
    ]


def test_an_empty_summary():
    assert lines() == ["0 packets, 0 of them IP with 0 B in 0 connections"]


def test_times_beyond_the_calendar():
    totals = TOTALS._replace(packets=1, first=1.8e19, last=1.8e19)
    assert lines(totals=totals)[1] == "from 1.8e+19 s to 1.8e+19 s: 0.0 s"


def test_a_summary_is_inert():
    shown = lines(
        record(site=EVIL, name=EVIL),
        events=[LeaseSeen(parse_mac(PHONE), A, EVIL)],
        totals=TOTALS._replace(malformed=Counter({"x": 1})),
    )
    assert all(line.isprintable() for line in shown)
    assert any("evil" in line for line in shown)


def test_long_tables_are_summed_up(monkeypatch):
    monkeypatch.setattr("spind.replay_report.ROWS", 3)
    shown = lines(*[record(site=f"s{n}.example", sent=(1, n + 1), got=(0, 0)) for n in range(10)])
    assert [line.split()[0] for line in shown[4:]] == [
        "s9.example",
        "s8.example",
        "s7.example",
        "(7",
        "total",
    ]
    assert "28 B" in shown[-2]
    assert "55 B" in shown[-1]


def test_many_names_and_services_are_cut():
    shown = lines(
        *[record(key=ConnKey(6, A, 1, B, port), name=f"n{port}.example.com") for port in range(1, 9)]
    )
    assert "  tcp/1, tcp/2, tcp/3, tcp/4, ...  sni  " in re.sub(" {2,}", "  ", shown[-2])
    assert shown[-2].endswith("n1.example.com, n2.example.com, n3.example.com, n4.example.com, ...")


def test_parties_are_bounded(monkeypatch):
    monkeypatch.setattr("spind.replay_report.PARTIES", 5)
    monkeypatch.setattr("spind.replay_report.DEVICES", 3)
    summary = Summary()
    for number in range(100):
        summary.add(record(site=f"s{number}.example", device=f"02:00:00:00:00:{number % 2:02x}"))
    assert sum(map(len, summary._devices.values())) <= 5 + 2
    totals = [line for line in summary.lines(Engine().nodes, TOTALS) if line.startswith("  total")]
    assert [line.split()[-1] for line in totals] == ["50", "50"]
    for number in range(100):
        summary.add(record(device=f"02:00:00:00:01:{number:02x}"))
    assert len(summary._devices) == 4
    shown = list(summary.lines(Engine().nodes, TOTALS))
    others = shown.index("(other devices)")
    assert shown[others + 3].split() == ["total", "9.9", "kB", "89.1", "kB", "99"]
