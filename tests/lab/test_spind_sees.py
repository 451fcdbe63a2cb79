# SPDX-License-Identifier: GPL-2.0-or-later
"""spind in a home with real traffic: bytes to the last one, names with their evidence, messages."""

import json
from collections.abc import Iterator

import pytest
from spind_home import SAMPLES, Home, Listener, covers, shape

from spind.lab import Lab, load, traffic
from spind.lab.node import wait_until
from spind.lab.patience import patient

pytestmark = pytest.mark.lab

SLOW = min(patient(1), 3)
"""An emulated machine gets more time for the same things to happen, within reason."""


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Lab() as lab:
        fresh = Home(lab)
        fresh.start()
        yield fresh
        fresh.stop()


@pytest.mark.vm
def test_bytes_of_a_whole_home_equal_the_kernels_own(home: Home) -> None:
    with home.counting() as grown:
        report = traffic.run(home.lab, 12 * SLOW)
        result = grown()
    assert sum(map(len, report.values())) > 20, "the devices did something"
    for key, (kernel, counted) in result.items():
        assert counted == kernel, key
    assert all(result[device, family][0][0] for device in home.lab.devices for family in (4, 6))


@pytest.mark.vm
def test_names_come_with_their_evidence(home: Home) -> None:
    traffic.run(home.lab, 6 * SLOW, only=("phone", "tv", "camera"))
    home.settle()
    sites = {node["id"]: node["domain"] for node in home.pages("list_nodes", kind="site")}
    flows = home.pages("list_flows")
    by_evidence: dict[str, set[str]] = {}
    for flow in flows:
        by_evidence.setdefault(flow["evidence"], set()).add(flow["name"])
        if flow["name"]:
            assert flow["name"].endswith(sites[flow["node"]]), flow
    assert "cam.vendor.test" in by_evidence["sni"]
    assert by_evidence["http"]
    assert by_evidence["none"] == {""}


def fetch(home: Home, device: str, address: str, name: str | None) -> None:
    """A TLS connection from a device to an address, with or without a server name."""
    program = (
        "import socket, ssl, sys\n"
        "context = ssl.create_default_context()\n"
        "context.check_hostname = False\n"
        "context.verify_mode = ssl.CERT_NONE\n"
        "raw = socket.create_connection((sys.argv[1], 443), 10)\n"
        "tls = context.wrap_socket(raw, server_hostname=sys.argv[2] or None)\n"
        "tls.sendall(b'GET /bytes/5000 HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n"
        "while tls.recv(65536): pass\n"
    )
    home.lab.device(device).run([home.lab.device(device).python("x")[0], "-c", program, address, name or ""])


def ask(home: Home, device: str, name: str) -> str:
    """Resolve over the gateway's forwarder; the first IPv4 address."""
    answer = home.lab.device(device).run(["dig", "+short", "@192.168.8.1", name, "A"]).stdout
    return answer.split()[-1]


@pytest.mark.vm
def test_two_sites_on_one_address_are_told_apart_per_device(home: Home) -> None:
    address = ask(home, "plug", "img.tv.test")
    assert ask(home, "hub", "static.news.test") == address, "both names are on one address"
    fetch(home, "plug", address, "img.tv.test")
    fetch(home, "plug", address, "static.news.test")
    fetch(home, "hub", address, None)
    fetch(home, "camera", address, None)
    home.settle()
    macs = {node["hostname"]: node["mac"] for node in home.pages("list_nodes", kind="device")}

    def seen(device: str) -> set[tuple[str, str]]:
        flows = home.pages("list_flows", device=macs[device])
        return {(flow["name"], flow["evidence"]) for flow in flows if flow["port"] == 443}

    assert {("img.tv.test", "sni"), ("static.news.test", "sni")} <= seen("plug")
    assert ("static.news.test", "dns") in seen("hub")
    assert any(evidence == "dns-other" for _, evidence in seen("camera")), "others asked for it"


@pytest.mark.vm
def test_dns_over_tcp_and_long_answers_are_understood(home: Home) -> None:
    before = home.call("status")["statistics"]
    home.lab.device("plug").run(["dig", "+tcp", "@192.168.8.1", "big.dns.test", "A"])
    home.lab.device("plug").run(["dig", "+tcp", "@192.168.8.1", "api.plug.test", "AAAA"])
    after = home.call("status")["statistics"]
    assert after["engine.dns-queries"] - before["engine.dns-queries"] == 2
    assert after["engine.dns-answers"] - before["engine.dns-answers"] == 2
    assert after["engine.dns-malformed"] == before["engine.dns-malformed"]


def test_counters_go_beyond_32_bits(home: Home) -> None:
    size = (1 << 32) + (1 << 28) if patient(1) == 1 else 1 << 26
    with home.counting() as grown:
        load.bulk(home.lab, "phone", size)
        kernel, counted = grown()["phone", 4]
    assert counted == kernel
    assert counted[1] > size


@pytest.mark.parametrize("family", [4, 6])
def test_five_thousand_connections_a_second(home: Home, family: int) -> None:
    with home.counting() as grown:
        done = load.churn(home.lab, "tv", family=family, rate=5000 / patient(1), seconds=2)
        kernel, counted = grown()["tv", family]
    assert done.completed > 1000 / patient(1)
    assert counted == kernel


def test_messages_have_the_recorded_shapes_and_announce_nodes_first(home: Home) -> None:
    with Listener(home.lab) as listener:
        retained = {topic for _, topic, _, retain in listener.messages if retain}
        traffic.run(home.lab, 5 * SLOW)
        home.settle()
        wait_until(lambda: listener.commands("traffic"), patient(10), "a traffic message")
        known: set[int] = set()
        for _, topic, payload, _ in listener.messages:
            if topic.startswith("SPIN/traffic/node/"):
                assert payload, "no node is deleted meanwhile"
                node = json.loads(payload)["result"]
                assert topic.endswith(f"/{node['id']}")
                known.add(node["id"])
            elif topic == "SPIN/traffic":
                message = json.loads(payload)
                if message["command"] == "traffic":
                    assert {
                        flow[end] for flow in message["result"]["flows"] for end in ("from", "to")
                    } <= known
                elif message["command"] == "dnsquery":
                    assert {message["result"]["from"], message["result"]["queriednode"]} <= known
        assert any(topic.startswith("SPIN/traffic/node/") for topic in retained) or known
        devices = {node["id"] for node in home.pages("list_nodes", kind="device")}
        assert devices <= known
        counters = {topic for _, topic, _, _ in listener.messages if topic.startswith("SPIN/stat/")}
        assert "SPIN/stat/engine/dns-queries" in counters
        if SAMPLES.is_dir():
            for command, file in (("traffic", "traffic"), ("dnsquery", "dnsquery"), ("nodeInfo", "nodeInfo")):
                (recorded, *_) = json.loads((SAMPLES / f"mqtt-{file}.json").read_text())
                covers(shape(listener.commands(command)[0]), shape(json.loads(recorded["payload"])), command)


def test_dns_queries_and_new_flows_reach_subscribers_soon(home: Home) -> None:
    with Listener(home.lab) as listener:
        ask(home, "plug", "www.shop.test")
        wait_until(
            lambda: any(m["result"]["query"] == "www.shop.test." for m in listener.commands("dnsquery")),
            patient(5),
            "the query's message",
        )
