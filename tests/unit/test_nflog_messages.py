# SPDX-License-Identifier: GPL-2.0-or-later
"""NFLOG messages, as the kernel writes them, and what the adapter makes of them."""

import asyncio
import errno
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.block_log import BlockedSeen, BlockLog
from spind.wire.errors import WireError
from spind.wire.netlink import attribute_map, pack_attribute, pack_message
from spind.wire.nflog import LOG_PACKET, LoggedPacket, bind_request, parse_logged

MAC = b"\x02\0\0\0\0\5"
TCP = struct.pack("!HHIIBBHHH", 50_000, 443, 7, 0, 0x50, 0x02, 65_535, 0, 0)
IP = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1500, 0, 0, 64, 6, 0, b"\xc0\xa8\1\5", b"\xcb\0\x71\5") + TCP

HEADER = pack_attribute(1, b"\x08\0\2\0")
ADDRESS = struct.pack("!HH8s", 6, 0, MAC)


def index(kind: int, value: int) -> bytes:
    return pack_attribute(kind, value.to_bytes(4, "big"))


WHOLE = (
    HEADER
    + pack_attribute(10, b"spin up\0")
    + index(4, 7)
    + index(5, 8)
    + index(6, 9)
    + index(2, 0x4000)  # the packet's mark
    + pack_attribute(8, ADDRESS)
    + pack_attribute(15, b"\0\1")
    + pack_attribute(16, MAC + MAC + b"\x08\0")
    + pack_attribute(9, IP)
)


def parse(attributes: bytes) -> LoggedPacket:
    before, after = b"\xff" * 5, b"\xff" * 3
    data = before + bytes(4) + attributes + after
    return parse_logged(data, len(before), len(data) - len(after))


def test_all_that_is_wanted_is_found() -> None:
    assert parse(WHOLE) == LoggedPacket("spin up", 7, 8, 9, MAC, IP)


def test_what_is_missing_is_none() -> None:
    """Packets that this machine sends have neither an interface of arrival nor a sender's MAC."""
    assert parse(HEADER + pack_attribute(9, IP)) == LoggedPacket("", 0, 0, 0, None, IP)


@pytest.mark.parametrize(
    ("size", "kind", "wanted"),
    [(6, b"\0\1", MAC), (6, b"", MAC), (8, b"\0\1", None), (6, b"\0\x18", None), (0, b"\0\1", None)],
)
def test_only_ethernet_has_macs(size: int, kind: bytes, wanted: bytes | None) -> None:
    address = pack_attribute(8, struct.pack("!HH8s", size, 0, MAC))
    hardware = pack_attribute(15, kind) if kind else b""
    assert parse(HEADER + address + hardware + pack_attribute(9, IP)).mac == wanted


@pytest.mark.parametrize(
    "attributes",
    [
        b"",
        HEADER,
        pack_attribute(9, IP),
        WHOLE + index(4, 7)[:6],
        HEADER + pack_attribute(9, IP) + pack_attribute(4, b"\0\0\7"),
        HEADER + pack_attribute(9, IP) + pack_attribute(8, ADDRESS[:10]),
        HEADER + pack_attribute(9, IP) + pack_attribute(8, ADDRESS) + pack_attribute(15, b"\1"),
    ],
)
def test_malformed_messages_are_refused(attributes: bytes) -> None:
    with pytest.raises(WireError):
        parse(attributes)


@given(st.binary(max_size=20))
def test_prefixes_end_at_the_first_zero_and_are_ascii(prefix: bytes) -> None:
    found = parse(HEADER + pack_attribute(10, prefix) + pack_attribute(9, IP)).prefix
    assert found.encode("ascii", "replace") == bytes(
        byte if byte < 128 else ord("?") for byte in prefix.split(b"\0")[0]
    )


def test_the_request_is_what_libnetfilter_log_sends() -> None:
    body = bind_request(0x1234, copy_range=128, buffer_size=4096, timeout=5)
    assert body[:4] == b"\0\0\x12\x34"
    assert attribute_map(body, 4, len(body)) == {
        1: b"\1",
        2: b"\0\0\0\x80\2\0",
        3: b"\0\0\x10\0",
        4: b"\0\0\0\5",
    }


# The adapter, with a socket in place of the kernel's


class Log:
    def __init__(self) -> None:
        self.seen: list[BlockedSeen] = []
        self.kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        self.log = BlockLog(asyncio.new_event_loop(), 5, self.seen.append, {7, 9}.__contains__)
        self.log._socket = ours

    def counter(self, name: str) -> int:
        return self.log.counters()[f"block.{name}"]


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.log.stop()
    made.kernel.close()
    made.log._loop.close()


def report(prefix: bytes = b"spin up", *, indev: int = 7, physindev: int = 0, payload: bytes = IP) -> bytes:
    attributes = HEADER + pack_attribute(10, prefix + b"\0") + index(4, indev)
    if physindev:
        attributes += index(6, physindev)
    attributes += pack_attribute(8, ADDRESS) + pack_attribute(9, payload)
    return pack_message(LOG_PACKET, 0, 0, bytes(4) + attributes)


def test_reports_become_events(log: Log) -> None:
    end = pack_message(3, 0, 0, bytes(4))  # what the kernel ends several with
    log.kernel.send(report() + report(b"spin down", indev=8) + end)
    log.log._on_readable()
    up, down = log.seen
    assert up.up
    assert up.mac == MAC
    assert up.packet.key == (6, b"\xc0\xa8\1\5", 50_000, b"\xcb\0\x71\5", 443)
    assert up.packet.length == 1500
    assert not down.up
    assert down.mac is None, "a stranger's, or a router's"
    assert log.counter("reported") == 2
    assert log.counter("log_malformed") == 0


def test_of_a_bridge_the_port_counts(log: Log) -> None:
    log.kernel.send(report(indev=3, physindev=9))
    log.log._on_readable()
    assert [seen.mac for seen in log.seen] == [MAC]


def test_what_is_malformed_is_counted_and_the_rest_is_taken(log: Log) -> None:
    log.kernel.send(report(payload=IP[:30]) + report(b"others") + report() + b"\0")
    log.kernel.send(report())
    log.log._on_readable()
    assert len(log.seen) == 2
    assert log.counter("log_malformed") == 3
    assert log.counter("reported") == 2


def test_slices_are_bounded_in_time(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spind.block_log._SLICE_SECONDS", -1.0)
    for _ in range(3):
        log.kernel.send(report())
    for taken in (1, 2, 3):
        log.log._on_readable()
        assert len(log.seen) == taken


def test_overflows_are_counted_and_read_on(log: Log) -> None:
    class Full:
        failures = 2

        def recv(self, _size: int) -> bytes:
            self.failures -= 1
            if self.failures >= 0:
                raise OSError(errno.ENOBUFS, "no room")
            if self.failures == -1:
                return report()
            raise BlockingIOError

    real, log.log._socket = log.log._socket, Full()
    log.log._on_readable()
    log.log._socket = real
    assert log.counter("log_overflows") == 2
    assert len(log.seen) == 1


def test_one_may_stop_in_the_middle(log: Log) -> None:
    log.log._on_report = lambda _seen: log.log.stop()
    log.kernel.send(report())
    log.kernel.send(report())
    log.log._on_readable()
    assert log.counter("reported") == 1
    log.log._on_readable()
