# SPDX-License-Identifier: GPL-2.0-or-later
"""The internet's servers answer as they say, from the address that was asked, and count it."""

import socket
from collections.abc import Callable

import pytest

from spind.lab import Device, Lab, plan
from spind.lab.tally import MAX_PEERS, Peer, Tally
from spind.lab.web import parse_head

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# Not an address of any name: the whole range is there.
ANYWHERE = {4: "198.19.77.88", 6: "2001:db8:2:beef::1"}
NONSENSE = [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01" * 30000, b"GET / HTTP/1.1\r\n"]


def udp(device: Device, family: int, port: int, data: bytes) -> tuple[bytes, tuple[str, int]]:
    def exchange() -> tuple[bytes, tuple[str, int]]:
        with socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as link:
            link.settimeout(10)
            link.sendto(data, (ANYWHERE[family], port))
            answer, sender = link.recvfrom(65535)
            return answer, sender[:2]

    return device.call(exchange)


def tcp(device: Device, family: int, port: int, data: bytes) -> tuple[bytes, int]:
    def exchange() -> tuple[bytes, int]:
        with socket.create_connection((ANYWHERE[family], port), timeout=10) as link:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            got = b""
            while more := link.recv(1 << 20):
                got += more
            return got, link.getsockname()[1]

    return device.call(exchange)


def counted(lab: Lab, proto: str, port: int, family: int, remote_port: int | None = None) -> dict:
    found = [
        peer
        for peer in lab.server_status()["peers"]
        if (peer["proto"], peer["local_port"], peer["local"]) == (proto, port, ANYWHERE[family])
        and remote_port in (None, peer["remote_port"])
    ]
    return found[-1]


@pytest.mark.lab
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("port", [7, 123, 443, 5683])
def test_udp_is_echoed_from_where_it_was_sent_to(lab: Lab, port: int, family: int) -> None:
    data = bytes(range(256)) * 4
    assert udp(lab.device("plug"), family, port, data) == (data, (ANYWHERE[family], port))
    peer = counted(lab, "udp", port, family)
    assert (peer["received"], peer["sent"], peer["requests"]) == (1024, 1024, 1)


@pytest.mark.lab
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("port", [7, 9])
def test_tcp_is_echoed_or_discarded(lab: Lab, port: int, family: int) -> None:
    data = bytes(range(256)) * 8192
    got, own_port = tcp(lab.device("tv"), family, port, data)
    assert got == (data if port == 7 else b"")
    peer = counted(lab, "tcp", port, family, own_port)
    assert (peer["received"], peer["sent"]) == (len(data), len(got))


@pytest.mark.lab
def test_an_upload_is_counted(lab: Lab) -> None:
    picture = lab.root / "data" / "picture"
    picture.write_bytes(bytes(300_000))
    camera = lab.device("camera")
    for more in ([], ["-H", "Transfer-Encoding: chunked"]):
        argv = ["curl", "-sS", "--data-binary", f"@{picture}", *more, "https://cam.vendor.test/in"]
        assert '"received": 300000' in camera.run(argv).stdout


@pytest.mark.lab
def test_a_connection_is_kept_for_more_requests(lab: Lab) -> None:
    lab.server_status(reset=True)
    url = "http://plain.http.test/bytes/10"
    lab.device("hub").run(["curl", "-sS4", url, url, url])
    (peer,) = (p for p in lab.server_status()["peers"] if p["name"] == "plain.http.test")
    assert peer["requests"] == 3


@pytest.mark.lab
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_ends_the_connection_and_nothing_else(lab: Lab, nonsense: bytes) -> None:
    try:
        answer, _ = tcp(lab.device("tv"), 4, 80, nonsense)
    except OSError:  # reset, perhaps before the end was sent
        answer = b""
    assert answer == b""
    assert "HTTP/1.1 200" in lab.device("tv").run(["curl", "-sS", "-i", "http://plain.http.test/"]).stdout


@pytest.mark.lab
def test_the_shared_lab_fixture_and_a_fresh_one_differ(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    fresh = make_lab(devices=1, ula=False, counters=False)
    assert fresh.name != lab.name
    assert fresh.device("camera").ipv6 == [plan.stable_address(plan.LAN6, fresh.device("camera").mac)]
    assert "lab_count" not in fresh.gateway.run(["nft", "list", "tables"]).stdout


def test_a_head_is_parsed() -> None:
    request = parse_head(b"POST /in?x HTTP/1.1\r\nHost: a.test\r\nX-Y:  z \r\nbroken")
    assert (request.method, request.path) == ("POST", "/in?x")
    assert request.headers == {"host": "a.test", "x-y": "z"}


def test_the_tally_is_bounded_and_its_totals_are_not() -> None:
    tally = Tally()
    for number in range(MAX_PEERS + 10):
        tally.add(Peer("udp", "198.18.0.1", 9, "192.0.2.1", number), received=3, requests=1)
    assert len(tally.peers) == MAX_PEERS
    assert tally.evicted == 10
    assert tally.services["udp/9"].received == 3 * (MAX_PEERS + 10)
    tally.clear()
    assert tally.as_json() == {"peers": [], "services": {}, "evicted": 0}
