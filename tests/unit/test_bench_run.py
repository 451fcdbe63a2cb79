# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark as a whole, in a lab: that its programs do what they say, never how fast."""

import json
import os

import pytest

from bench.arrivals import TCP, UDP, Sniffer
from bench.bed import Bed
from bench.cli import main
from bench.rows_cost import many_sites, site_address
from bench.rows_truth import Ledger
from spind.lab import load, plan

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def bed():
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Bed(2) as shared:
        yield shared


def test_connections_are_held_and_talk(bed):
    names = many_sites(bed, 3)
    targets = [*names, "nobody.test"]
    with (
        bed.program(bed.lab.internet, "server"),
        bed.program(bed.lab.device("camera"), "hold", targets=targets, dns=plan.DNS4, beat=0.05) as held,
    ):
        program, said = held
        assert (said["open"], said["failed"]) == (3, 1)
        table = bed.lab.gateway.run(["conntrack", "-L", "-p", "tcp"]).stdout
        assert all(f"dst={site_address(number)} " in table for number in range(3))
        beats = program.end()[-1]
    assert beats["answered"] == beats["sent"]


def test_datagrams_fill_the_table(bed):
    bed.flush()
    addresses = [site_address(number) for number in range(5)]
    camera = bed.lab.device("camera")
    with bed.lasting_datagrams(), bed.program(camera, "spread", addresses=addresses, ports=4) as (_, said):
        assert (said["sent"], said["answered"]) == (20, 20)
        table = bed.lab.gateway.run(["conntrack", "-L", "-p", "udp", "--dport", "7"]).stdout
        assert table.count("src=192.168.8.") == 20
    timeout = bed.lab.gateway.run(["sysctl", "-n", "net.netfilter.nf_conntrack_udp_timeout"]).stdout
    assert timeout.strip() == "30"


def test_each_query_and_connection_says_when_it_was_sent(bed):
    plug = bed.lab.device("plug")
    query = {"server": plan.DNS4, "zone": "wild.test"}
    asked = bed.run(plug, "asks", count=3, every=0.01, **query)["sent"]
    assert list(asked) == ["e0.wild.test", "e1.wild.test", "e2.wild.test"]
    assert list(asked.values()) == sorted(asked.values())
    with bed.program(bed.lab.internet, "server"):
        opened = bed.run(plug, "opens", host=load.target(6), count=3, every=0.01)["sent"]
    assert len(opened) == 3
    done = bed.run(plug, "queries", rate=100, seconds=0.2, **query)
    assert (done["sent"], done["answered"]) == (20, 20)


def test_the_ledger_agrees_with_the_kernel(bed):
    with bed.daemon() as running:
        ledger = Ledger.open(bed, running)
        load.churn(bed.lab, "camera", rate=100, seconds=1)
        found = ledger.settle()
    assert found[4].kernel > 50_000
    assert (found[4].off, found[6].off) == (0, 0)


def test_streams_run_and_what_arrives_is_seen(bed):
    camera = bed.lab.device("camera")
    hosts = [load.target(4), load.target(6)]
    with (
        bed.program(bed.lab.internet, "streams.serve", hosts=hosts),
        Sniffer(bed.lab.internet, plan.INTERNET_INTERFACE) as there,
    ):
        with bed.program(camera, "streams.run", host=load.target(6)) as (program, said):
            assert said == {"ready": True, "carried": ["tcp-up", "tcp-down", "udp"]}
            arrivals = there.take()
            assert program.end() == [{"ended": {}}]
        up = {(one.protocol, one.target_port) for one in arrivals if one.hops == 63}
        assert {(TCP, 9300), (TCP, 9301), (UDP, 9302)} <= up
        sent = bed.run(camera, "streams.burst", host=load.target(4), sources=[camera.ipv4], count=2)["sent"]
        assert sent == 6
        ask = {"host": plan.CDN[0], "names": ["a.cdn.test"], "count": 2, "rate": 50}
        taken = bed.run(camera, "streams.handshakes", **ask)["names"]["a.cdn.test"]
        assert (len(taken["took"]), taken["failed"]) == (2, 0)


def test_a_daemon_begins_with_its_rules_and_ends_without(bed):
    rule = "\nconfig rule 'rule1'\n\toption action 'block'\n\toption ip '10.9.9.9'\n"
    for more, there in ((rule, 1), ("", 0)):
        with bed.daemon({"block_backend": "nftables"}, more) as running:
            assert running.started > 0
            assert len(running.call("list_rules")) == there
    assert "block_" not in bed.lab.gateway.run(["nft", "list", "ruleset"]).stdout


def test_a_row_ends_in_a_table_and_a_file(tmp_path, capsys):
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    file = tmp_path / "result.json"
    assert main(["--quick", "--seconds", "1", "--rows", "mqtt-dns", "--json", str(file)]) == 0
    captured = capsys.readouterr()
    assert "DNS query to MQTT, median" in captured.out
    assert "mqtt-dns: " in captured.err
    record = json.loads(file.read_text())
    (figure,) = record["figures"]
    assert len(figure["samples"]) == 5
    assert min(figure["samples"]) > 0
    assert figure["verdict"] in {"met", "missed"}
    assert record["not_measured"] == []
