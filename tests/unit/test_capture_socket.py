# SPDX-License-Identifier: GPL-2.0-or-later
"""Slices of packets, and replies that the library must not see."""

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from spind.capture_socket import _SLICE_PACKETS, SlicedSocket
from spind.wire.netlink import pack_message

PACKET, CONFIG = 0x300, 0x302


class Pair:
    """A sliced socket and the end that plays the kernel."""

    def __init__(self) -> None:
        self.kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ours = SlicedSocket(ours)

    def close(self) -> None:
        self.kernel.close()
        self.ours.close()

    def slice(self) -> list[bytes]:
        """What the library would be given until it believes that there is no more."""
        self.ours.begin_slice()
        taken: list[bytes] = []

        def read_on() -> None:
            while True:
                taken.append(self.ours.recv(4096))

        with pytest.raises(BlockingIOError) as end:
            read_on()
        assert end.value.errno == errno.EAGAIN, "which the library takes for the end"
        return taken


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def packet(number: int) -> bytes:
    return pack_message(PACKET, 0, 0, b"%04d" % number)


def test_slices_are_bounded_and_nothing_is_lost(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spind.capture_socket._SLICE_SECONDS", 60.0)
    wanted = [packet(number) for number in range(_SLICE_PACKETS + 10)]
    for data in wanted:
        pair.kernel.send(data)
    first = pair.slice()
    assert first == wanted[:_SLICE_PACKETS]
    assert not pair.ours.empty
    assert pair.slice() == wanted[_SLICE_PACKETS:]
    assert pair.ours.empty


def test_slices_are_bounded_in_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spind.capture_socket._SLICE_SECONDS", -1.0)
    pair.kernel.send(packet(1))
    assert pair.slice() == []
    assert not pair.ours.empty


def test_what_is_no_packet_is_kept_from_the_library(pair: Pair) -> None:
    pair.kernel.send(pack_message(2, 0, 77, struct.pack("=i", -2) + bytes(16)))
    pair.kernel.send(packet(1))
    pair.kernel.send(b"\0")
    assert pair.slice() == [packet(1)]


@pytest.mark.parametrize("error", [0, errno.EOPNOTSUPP])
def test_an_answer_is_found_behind_packets_that_are_kept(pair: Pair, error: int) -> None:
    pair.kernel.send(packet(1))
    pair.kernel.send(pack_message(2, 0, 5, struct.pack("=i", -errno.EPERM) + bytes(16)))  # another's
    pair.kernel.send(pack_message(2, 0, pair.ours._sequence + 1, struct.pack("=i", -error) + bytes(16)))
    pair.kernel.send(packet(2))
    assert pair.ours.ask(CONFIG, b"\0\0\0\7") == error
    asked = pair.kernel.recv(100)
    assert struct.unpack_from("=IHH", asked) == (20, CONFIG, 5), "a request that wants an answer"
    assert pair.slice() == [packet(1), packet(2)]


def test_no_answer_is_an_error(pair: Pair) -> None:
    assert pair.ours.ask(CONFIG, b"\0\0\0\7") == errno.EAGAIN


def test_overflows_are_counted_and_read_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        failures = 2

        def recv(self, *_: int) -> bytes:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.ENOBUFS, "no room")
            return packet(1)

    sliced = SlicedSocket(Full())
    sliced.begin_slice()
    assert sliced.recv(4096) == packet(1)
    assert sliced.overflows == 2
