# SPDX-License-Identifier: GPL-2.0-or-later
"""Real captures through replay, with scapy and tshark as second opinions.

The captures are not part of the source; they are looked for in ``SPIND_CAPTURES``, else beside
the checkout. tshark is asked where it is installed.
"""

import io
import ipaddress
import json
import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.utils import PcapReader

from spind.capfile import read_capture
from spind.model import Evidence, format_address, format_mac
from spind.nodes import Kind
from spind.replay import FlowPrinter
from spind.replay_report import Record, flow_line
from spind.replay_run import replay

FOLDER = Path(os.environ.get("SPIND_CAPTURES", Path(__file__).parents[3] / "shared/data/captures"))
FILES = sorted(FOLDER.glob("*.pcap")) if FOLDER.is_dir() else []
TSHARK = shutil.which("tshark")

pytestmark = [
    pytest.mark.skipif(not FILES, reason=f"no captures in {FOLDER}"),
    pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem),
]
with_tshark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")

NAMES = {1: "icmp", 58: "icmpv6", 17: "udp", 6: "tcp"}
ECHO_REPLY = {(1, 8): 0, (58, 128): 129}


def records_of(path):
    records: list[Record] = []
    outcome = replay(read_capture(str(path)), records.append)
    assert outcome.error is None
    return records, outcome


def directions(records):
    """(proto, src, sport, dst, dport) -> [packets, bytes], a row for each direction.

    ICMP type and code stand for ports. Echoes with different identifiers share a row.
    """
    rows = defaultdict(lambda: [0, 0])
    for record in records:
        conn = record.conn
        proto, src, sport, dst, dport = conn.key
        if proto in (1, 58):
            kind, code = dport >> 8, dport & 255
            there = (proto, src, kind, dst, code)
            back = (proto, dst, ECHO_REPLY.get((proto, kind), -1), src, code)
        else:
            there, back = (proto, src, sport, dst, dport), (proto, dst, dport, src, sport)
        for key, packets, size in (
            (there, conn.orig_packets, conn.orig_bytes),
            (back, conn.reply_packets, conn.reply_bytes),
        ):
            if packets:
                row = rows[key[0], format_address(key[1]), key[2], format_address(key[3]), key[4]]
                row[0] += packets
                row[1] += size
    return dict(rows)


def directions_by_scapy(path):
    rows = defaultdict(lambda: [0, 0])
    with PcapReader(str(path)) as reader:
        for frame in reader:
            if IP in frame:
                packet = frame[IP]
                proto, size = packet.proto, packet.len
            elif IPv6 in frame:
                packet = frame[IPv6]
                proto, size = packet.nh, packet.plen + 40
                follows = packet.payload
                while proto in (0, 43, 44, 60):
                    proto, follows = follows.nh, follows.payload
            else:
                continue
            inner = packet[TCP] if proto == 6 else packet[UDP] if proto == 17 else None
            ports = (inner.sport, inner.dport) if inner else (0, 0)
            if proto == 1:
                ports = (packet[ICMP].type, packet[ICMP].code)
            elif proto == 58:
                ports = tuple(bytes(follows if IPv6 in frame and packet.nh == 0 else packet.payload)[:2])
            src = str(ipaddress.ip_address(packet.src))
            dst = str(ipaddress.ip_address(packet.dst))
            row = rows[proto, src, ports[0], dst, ports[1]]
            row[0] += 1
            row[1] += size
    return dict(rows)


def tshark(path, *fields, display=None):
    """Rows of a capture's packets, each a dict of the fields that it has."""
    command = [TSHARK, "-n", "-r", str(path), "-T", "fields", "-E", "separator=|", "-E", "occurrence=a"]
    command += ["-E", "aggregator=;", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"]
    for field in fields:
        command += ["-e", field]
    if display:
        command += ["-Y", display]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    for line in done.stdout.splitlines():
        values = line.split("|")
        yield {field: value for field, value in zip(fields, values, strict=True) if value}


def first(row, *fields):
    """The outermost value of the first field that is there: ICMP errors quote headers."""
    for field in fields:
        if field in row:
            return row[field].split(";")[0]
    return "0"


def directions_by_tshark(path):
    rows = defaultdict(lambda: [0, 0])
    fields = [
        *("ip.src", "ip.dst", "ip.proto", "ip.len", "ipv6.src", "ipv6.dst", "ipv6.plen", "frame.protocols"),
        *("tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport"),
        *("icmp.type", "icmp.code", "icmpv6.type", "icmpv6.code"),
    ]
    for row in tshark(path, *fields):
        if "ip.src" in row:
            size = int(first(row, "ip.len"))
            proto = int(first(row, "ip.proto"))
        elif "ipv6.src" in row:
            size = int(first(row, "ipv6.plen")) + 40
            layers = row["frame.protocols"].split(":")
            proto = next(number for number, name in NAMES.items() if number != 1 and name in layers)
        else:
            continue
        name = NAMES.get(proto)
        pair = ("type", "code") if proto in (1, 58) else ("srcport", "dstport")
        ports = [int(first(row, f"{name}.{end}")) if name else 0 for end in pair]
        key = (proto, first(row, "ip.src", "ipv6.src"), ports[0], first(row, "ip.dst", "ipv6.dst"), ports[1])
        rows[key][0] += 1
        rows[key][1] += size
    return dict(rows)


def test_counts_equal_those_of_scapy(path):
    assert directions(records_of(path)[0]) == directions_by_scapy(path)


@with_tshark
def test_counts_equal_those_of_tshark(path):
    assert directions(records_of(path)[0]) == directions_by_tshark(path)


def test_the_engine_has_counted_the_same(path):
    """Per device and address family, and in all."""
    records, outcome = records_of(path)
    engine = outcome.engine
    expected = defaultdict(lambda: [0, 0, 0, 0])
    unattributed = 0
    for record in records:
        if record.attribution is None:
            unattributed += record.conn.orig_bytes + record.conn.reply_bytes
            continue
        family = 4 if len(record.conn.key.src) == 4 else 6
        row = expected[record.attribution.device, family]
        for index, value in enumerate((record.up[1], record.down[1], record.up[0], record.down[0])):
            row[index] += value
    counted = {}
    for node in engine.nodes:
        for family in (4, 6):
            total = list(engine.flows.total(node.id, family))
            if any(total):
                counted[format_mac(node.mac), family] = total
    assert counted == dict(expected)
    flows = sum(flow.up_bytes + flow.down_bytes for flow in engine.flows.flows())
    assert flows == outcome.totals.ip_bytes - unattributed
    assert engine.counters["unattributed-bytes"] == unattributed
    assert outcome.totals.malformed.total() == 0


def test_the_device_is_a_device_and_the_gateway_is_not(path):
    macs = dict(line.split() for line in (FOLDER / "device-macs.txt").read_text().splitlines() if line)
    records, outcome = records_of(path)
    devices = {format_mac(node.mac) for node in outcome.engine.nodes if node.kind is Kind.DEVICE}
    assert macs[path.stem] in devices
    gateways = set(map(format_mac, outcome.totals.gateways))
    # Known from looking at them: two models of access point, and a capture without one.
    expected = {"D-LinkCam": {"28:b2:bd:c3:41:79"}, "EdimaxCam1": set()}
    assert gateways == expected.get(path.stem, {"00:b5:6d:06:08:ba"})
    assert not devices & gateways
    # The gateway's own multicast apart, nothing is left without a device.
    for record in records:
        assert record.attribution is not None or record.conn.key.src == bytes((10, 10, 10, 1))


def claimed_names(path):
    """(src, sport, dst, dport) -> what tshark found that the client said, first thing first."""
    names = {}
    fields = ("ip.src", "tcp.srcport", "ip.dst", "tcp.dstport")
    extension = "tls.handshake.extensions_server_name"
    for row in tshark(path, *fields, extension, "http.host", display=f"tcp && ({extension} || http.host)"):
        key = (row["ip.src"], int(row["tcp.srcport"]), row["ip.dst"], int(row["tcp.dstport"]))
        evidence = Evidence.SNI if extension in row else Evidence.HTTP
        name = first(row, extension, "http.host").lower().rsplit(":", 1)[0]
        names.setdefault(key, (name, evidence))
    return names


def is_address(text):
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@with_tshark
def test_claimed_names_equal_those_of_tshark(path):
    """SNI and HTTP Host; an HTTP Host that is an address names nothing."""
    found = {}
    for record in records_of(path)[0]:
        flow = json.loads(flow_line(record))
        if flow["evidence"] in ("sni", "http") and flow["proto"] == "tcp":
            key = (flow["src"], flow["sport"], flow["dst"], flow["dport"])
            found[key] = (flow["name"], flow["evidence"])
    assert found == {key: value for key, value in claimed_names(path).items() if not is_address(value[0])}


@with_tshark
def test_resolved_names_equal_those_of_tshark(path):
    """A connection has a DNS name exactly if its device was given that answer before, in its TTL."""
    answers = []  # (time, who, name, address, ttl)
    fields = ("frame.time_epoch", "ip.dst", "dns.qry.name", "dns.a", "dns.resp.ttl")
    display = "dns.flags.response == 1 && udp.srcport == 53 && dns.a && !icmp"
    for row in tshark(path, *fields, display=display):
        ttl = min(map(int, row["dns.resp.ttl"].split(";")))
        for address in row["dns.a"].split(";"):
            when = float(row["frame.time_epoch"])
            answers.append((when, row["ip.dst"], row["dns.qry.name"].lower(), address, ttl))
    records, outcome = records_of(path)
    own = {  # a device may ask from one address and connect from another
        format_mac(node.mac): set(map(format_address, node.addresses))
        for node in outcome.engine.nodes
        if node.kind is Kind.DEVICE
    }
    for record in records:
        flow = json.loads(flow_line(record))
        remote = flow["dst"] if record.outbound else flow["src"]
        given = [answer for answer in answers if answer[3] == remote and answer[0] <= flow["first"]]
        fresh = [answer for answer in given if flow["first"] <= answer[0] + answer[4]]
        if flow["evidence"] == "dns":
            assert flow["name"] in {name for _, who, name, _, _ in given if who in own[flow["device"]]}
        elif flow["evidence"] == "none":
            assert not fresh
        else:
            assert flow["evidence"] in ("sni", "http")


def test_lines_are_json_in_the_order_of_first_packets(path):
    out = io.StringIO()
    printer = FlowPrinter(out)
    outcome = replay(read_capture(str(path)), printer.add)
    printer.flush()
    flows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(flows) == outcome.totals.connections
    assert sum(flow["packets"] for flow in flows) == outcome.totals.ip_packets
    assert sum(flow["bytes"] for flow in flows) == outcome.totals.ip_bytes
    assert [flow["first"] for flow in flows] == sorted(flow["first"] for flow in flows)
    for flow in flows:
        assert list(flow) == [
            *("proto", "src", "sport", "dst", "dport", "packets", "bytes", "up_bytes", "down_bytes"),
            *("first", "last", "device", "site", "name", "evidence"),
        ]
        assert flow["up_bytes"] + flow["down_bytes"] == flow["bytes"]
        assert flow["first"] <= flow["last"]
        assert flow["evidence"] in ("sni", "http", "dns", "dns-other", "none")
        assert bool(flow["name"]) == (flow["evidence"] != "none")
