# SPDX-License-Identifier: GPL-2.0-or-later
"""`spind replay FILE --web`: the command with a browser's requests, on captures made here."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.utils import PcapWriter

from spind.lab.patience import patient

ROUTER = "02:00:00:00:00:01"
PLUG = "02:00:00:00:00:11"
HERE, RESOLVER, SITE = "192.168.1.11", "192.168.1.1", "198.51.100.7"
BEGAN = 1_700_000_000
SECONDS = 900  # more than the page's ten minutes
PAYLOAD = 1000


def exchanges() -> Iterator[tuple[float, Any]]:
    up, down = Ether(src=PLUG, dst=ROUTER), Ether(src=ROUTER, dst=PLUG)
    question = DNSQR(qname="cloud.plug.example")
    answer = DNSRR(rrname="cloud.plug.example", type="A", ttl=3600, rdata=SITE)
    yield 0, Ether(src=ROUTER, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=ROUTER, psrc=RESOLVER, pdst=HERE)
    yield 1, up / IP(src=HERE, dst=RESOLVER) / UDP(sport=4000, dport=53) / DNS(id=7, qd=question)
    yield (
        1.1,
        down
        / IP(src=RESOLVER, dst=HERE)
        / UDP(sport=53, dport=4000)
        / DNS(id=7, qr=1, qd=question, an=answer),
    )
    for second in range(2, SECONDS, 10):
        yield second, up / IP(src=HERE, dst=SITE) / UDP(sport=5000, dport=443) / bytes(PAYLOAD)
        yield second + 0.5, down / IP(src=SITE, dst=HERE) / UDP(sport=443, dport=5000) / bytes(2 * PAYLOAD)
    yield SECONDS, up / IP(src=HERE, dst=RESOLVER) / UDP(sport=4001, dport=53) / DNS(id=8, qd=question)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captures") / "plug <b>.pcap"
    with PcapWriter(str(path), linktype=1) as out:
        for second, frame in exchanges():
            frame.time = BEGAN + second
            out.write(frame)
    return path


class Shown(NamedTuple):
    """The running command and where its page is."""

    process: "subprocess.Popen[str]"
    port: int

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=patient(20))
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            data = reply.read()
            is_json = "json" in reply.headers.get("Content-Type", "")
            return reply.status, json.loads(data) if is_json else data
        finally:
            connection.close()

    def call(self, method: str, **params: object) -> Any:
        _, reply = self.request(
            "POST", "/spin_api/jsonrpc", {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        )
        return reply

    @contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, Any]]]:
        """Kind and data of server-sent events, as they come."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=patient(20))
        connection.request("GET", "/api/v1/events")
        reply = connection.getresponse()
        assert reply.status == 200

        def each() -> Iterator[tuple[str, Any]]:
            kind = ""
            for line in reply:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)

        try:
            yield each()
        finally:
            reply.close()
            connection.close()

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Exit status and what was said on standard error."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=patient(20))
        return self.process.returncode, said


@contextmanager
def shown(file: Path, *words: str) -> Iterator[Shown]:
    command = [sys.executable, "-m", "spind", "replay", str(file), "--web", "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), process.communicate()[1]
            yield Shown(process, int(line.split("/")[2].rpartition(":")[2]))
        finally:
            if process.poll() is None:
                process.kill()


def refused(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "spind", "replay", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(60),
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def snapshot(events: Iterator[tuple[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for kind, data in events:
        found.setdefault(kind, []).append(data)
        if kind == "ready":
            break
    return found


def test_the_end_of_a_capture_is_shown_and_stays(capture: Path) -> None:
    with shown(capture) as page:
        status, body = page.request("GET", "/")
        assert status == 200
        assert b"<html" in body
        with page.events() as events:
            told = snapshot(events)
        (hello,) = told["hello"]
        assert hello["time"] == BEGAN + SECONDS
        assert (hello["capture"], hello["pace"]) == ("plug <b>.pcap", 0)
        nodes = {node["label"]: node for chunk in told["nodes"] for node in chunk["items"]}
        assert nodes["plug.example"]["kind"] == "site"
        (device,) = (node for node in nodes.values() if node["kind"] == "device")
        assert device["mac"] == PLUG
        flows = [flow for chunk in told["flows"] for flow in chunk["items"]]
        (cloud,) = (flow for flow in flows if flow["node"] == nodes["plug.example"]["id"])
        count = len(range(2, SECONDS, 10))
        assert cloud["up_bytes"] == count * (PAYLOAD + 28)
        assert cloud["name"] == "cloud.plug.example"
        steps = [chunk["time"] for chunk in told["window"]]
        assert BEGAN + SECONDS - 605 <= min(steps) < max(steps) <= BEGAN + SECONDS
        # Asked the usual way it says the same, at the same time.
        assert page.call("get_traffic", step=60)["result"]["items"][-1]["time"] <= BEGAN + SECONDS
        assert page.call("status")["result"]["capture"]["time"] == BEGAN + SECONDS
        assert page.end() == (0, "")


def test_nothing_can_be_decided(capture: Path) -> None:
    with shown(capture) as page:
        _, session = page.request("GET", "/api/v1/session")
        assert (session["role"], session["open"], session["login"]) == ("viewer", True, False)
        device = page.call("list_devices")["result"][0]
        reply = page.call("set_device_name", node=device["id"], name="Mine")
        assert "set_device_name is refused" in reply["error"]["message"]
        assert page.call("get_device_data", node=device["id"])["result"] == device
        reply = page.call("add_rule", device=device["mac"], action="block")
        assert "capture file" in reply["error"]["message"]
        assert page.call("list_rules")["result"] == []
        status, _ = page.request("POST", "/api/v1/session", {"user": "root", "password": "secret-word"})
        assert status == 403
        status, _ = page.request("GET", "/api/v1/captures/1.pcap")
        assert status == 404
        assert page.end(signal.SIGTERM) == (0, "")


def test_other_sites_do_not_get_in(capture: Path) -> None:
    with shown(capture) as page:
        connection = HTTPConnection("127.0.0.1", page.port, timeout=patient(20))
        connection.request("GET", "/api/v1/session", headers={"Host": "evil.example"})
        assert connection.getresponse().status == 421
        connection.close()
        assert page.end()[0] == 0


def test_a_capture_is_played(capture: Path) -> None:
    with shown(capture, "--play", "300") as page, page.events() as events:
        told = snapshot(events)
        assert told["hello"][0]["pace"] == 300
        began = told["hello"][0]["time"]
        assert BEGAN <= began < BEGAN + SECONDS
        queries, up, again = [], 0, False
        times = [began]
        for kind, data in events:
            if kind == "hello":
                again = True
                assert data["pace"] == 0
                assert data["time"] == BEGAN + SECONDS
                break
            if kind == "delta":
                times.append(data["time"])
                queries += [query["name"] for query in data.get("queries", [])]
                for flow in data.get("flows", []):
                    if flow["port"] == 443:
                        up = flow["up_bytes"]
        assert again
        assert times == sorted(times)
        assert len({time for time in times if began < time < BEGAN + SECONDS}) > 1
        assert queries[-1].startswith("cloud.plug.example")
        assert 0 < up <= len(range(2, SECONDS, 10)) * (PAYLOAD + 28)
        told = snapshot(events)
        flows = [flow for chunk in told["flows"] for flow in chunk["items"] if flow["port"] == 443]
        assert flows[0]["up_bytes"] == len(range(2, SECONDS, 10)) * (PAYLOAD + 28)
        assert page.end() == (0, "")


def test_it_ends_while_it_plays(capture: Path) -> None:
    with shown(capture, "--play") as page:
        assert page.call("status")["result"]["capture"]["pace"] == 1
        assert page.end() == (0, "")


@pytest.mark.parametrize("words", [(), ("--play", "10000")])
def test_what_was_read_of_a_damaged_file_is_shown(
    words: tuple[str, ...], capture: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(capture.read_bytes()[:-10])
    with shown(cut, *words) as page:
        with page.events() as events:
            for kind, data in events:
                if kind == "hello" and data["pace"] == 0:
                    break
        assert len(page.call("list_devices")["result"]) == 1
        status, said = page.end()
        assert status == 1
        assert "packets, which are shown" in said


@pytest.mark.parametrize("words", [(), ("--play",)])
def test_what_is_no_capture_is_not_served(words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("this is no capture at all, but long enough to be one")
    status, said = refused(str(path), "--web", "--port", "0", *words)
    assert status == 1
    assert str(path) in said
    status, said = refused(str(tmp_path / "none.pcap"), "--web", *words)
    assert status == 1
    assert "none.pcap" in said


def test_a_port_that_is_taken(capture: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, said = refused(str(capture), "--web", "--port", str(port))
    assert status == 1
    assert f"port {port}" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("x.pcap", "--port", "8000"), "go with --web"),
        (("x.pcap", "--play"), "go with --web"),
        (("-", "--web", "--play"), "--play wants a file"),
        (("x.pcap", "--web", "--flows"), "not allowed with"),
        (("x.pcap", "--web", "--port", "65536"), "0 to 65535"),
        (("x.pcap", "--web", "--play", "0"), "0.01 to 10000"),
        (("x.pcap", "--web", "--play", "nan"), "0.01 to 10000"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], sentence: str) -> None:
    status, said = refused(*words)
    assert status == 2
    assert sentence in said
