# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests to delete connections, and what the kernel's answers to them count for."""

import errno
import itertools
import logging
import socket
import struct
from collections.abc import Iterator

import pytest
from conntrack_messages import Connection, attribute, entry, tcp
from hypothesis import given
from hypothesis import strategies as st

from spind import conntrack_delete
from spind.conntrack_delete import ConntrackDeleter, _find
from spind.model import ConnKey
from spind.wire.conntrack import CT_DELETE, CT_NEW, delete_entry_request, delete_request, parse_entry
from spind.wire.errors import WireError
from spind.wire.netlink import NLMSG_DONE, NLMSG_ERROR, messages, pack_message

V4 = b"\xc0\xa8\1\5", b"\xcb\0\x71\5"
V6 = b"\xfd\0" + bytes(13) + b"\5", b"\x20\1\x0d\xb8" + bytes(11) + b"\5"
KEY = ConnKey(6, V4[0], 50_000, V4[1], 443)


def pairs(size: int) -> st.SearchStrategy[tuple[bytes, bytes]]:
    return st.tuples(st.binary(min_size=size, max_size=size), st.binary(min_size=size, max_size=size))


keys = st.builds(
    lambda proto, pair, sport, dport: ConnKey(proto, pair[0], sport, pair[1], dport),
    st.sampled_from([1, 6, 17, 33, 47, 58, 132, 136]),
    st.one_of(pairs(4), pairs(16)),
    st.integers(0, 65_535),
    st.integers(0, 65_535),
)


@given(keys)
def test_both_requests_together_are_the_connection(key: ConnKey) -> None:
    """As if the kernel had written their tuples into an entry."""
    there, back = delete_request(key, reply=False), delete_request(key, reply=True)
    assert there[:4] == back[:4] == bytes([2 if len(key.src) == 4 else 10, 0, 0, 0])
    message = pack_message(CT_NEW, 0, 0, there + back[4:])
    assert parse_entry(message, 0, len(message)).key == key


@pytest.mark.parametrize(
    ("proto", "first", "kind", "answer"), [(1, 4, 8, 0), (1, 4, 13, 14), (58, 7, 128, 129), (58, 7, 1, 1)]
)
def test_icmp_is_answered_by_another_type(proto: int, first: int, kind: int, answer: int) -> None:
    ends = V4 if proto == 1 else V6
    key = ConnKey(proto, ends[0], 0x1234, ends[1], kind << 8 | 3)
    for reply, wanted in ((False, kind), (True, answer)):
        src, dst = ends[::-1] if reply else ends
        part = 1 if proto == 1 else 3
        tuple_ = attribute(0x8001, attribute(part, src) + attribute(part + 1, dst)) + attribute(
            0x8002,
            attribute(1, bytes([proto]))
            + attribute(first, b"\x12\x34")
            + attribute(first + 1, bytes([wanted]))
            + attribute(first + 2, b"\3"),
        )
        wanted_body = attribute(0x8000 | (2 if reply else 1), tuple_)
        assert delete_request(key, reply=reply)[4:] == wanted_body


def test_an_entry_is_deleted_by_what_it_showed_and_no_other() -> None:
    zone = attribute(18, b"\0\7")
    message = entry(tcp(3), (1, 2, 3, 4), extra=zone)
    padding = b"\xff" * 4
    body = delete_entry_request(padding + message + padding, 4, 4 + len(message))
    wanted = entry(tcp(3), None)  # up to its id: tuples, status, id
    orig = wanted[20 : 20 + 52]
    assert body == b"\2\0\0\0" + orig + zone + attribute(12, b"\0\0\0\4")


@pytest.mark.parametrize("kept", [b"", attribute(12, b"\0\0\0\4"), attribute(0x8001, b"")])
def test_without_a_tuple_there_is_no_request(kept: bytes) -> None:
    """The kernel would empty its table."""
    message = pack_message(CT_NEW, 0, 0, b"\2\0\0\0" + kept)
    with pytest.raises(WireError):
        delete_entry_request(message, 0, len(message))
    with pytest.raises(WireError):
        delete_entry_request(message, 0, 18)


# The adapter, with a socket in place of the kernel's, whose answers are there in advance


class Pair:
    def __init__(self) -> None:
        self.kernel, self.ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.kernel, self.ours):
            end.setblocking(False)
        self.deleter = ConntrackDeleter()
        self.deleter._socket = self.ours

    def answer(self, *errors: tuple[int, int]) -> None:
        for index, error in errors:
            self.kernel.send(pack_message(NLMSG_ERROR, 0, index, struct.pack("=i", -error) + bytes(16)))

    def asked(self) -> list[list[bytes]]:
        """Bodies of requests, of each ``send``."""
        batches = []
        while True:
            try:
                data = self.kernel.recv(1 << 17)
            except BlockingIOError:
                return batches
            batch = list(messages(data))
            assert {(message.type, message.flags) for message in batch} == {(CT_DELETE, 1)}
            batches.append([data[message.start : message.end] for message in batch])


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.kernel.close()
    made.deleter.close()


def many(number: int) -> list[tuple[ConnKey, bool]]:
    return [(KEY._replace(sport=1_000 + index), True) for index in range(number)]


def test_silence_is_success(pair: Pair) -> None:
    assert pair.deleter.delete([(KEY, True), (KEY, False)]) == 2
    assert pair.asked() == [[delete_request(KEY, reply=False), delete_request(KEY, reply=True)]]
    assert pair.deleter.delete([]) == 0
    assert pair.asked() == []


def test_many_are_asked_for_in_few_messages(pair: Pair) -> None:
    wanted = many(300)
    assert pair.deleter.delete(iter(wanted)) == 300
    batches = pair.asked()
    assert [len(batch) for batch in batches] == [128, 128, 44]
    assert [*itertools.chain(*batches)] == [delete_request(key, reply=False) for key, _ in wanted]


def test_the_other_direction_is_tried_where_there_is_none(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.answer((1, errno.ENOENT), (2, errno.ENOENT))
    wanted = many(4)
    assert pair.deleter.delete(wanted) == 4
    _, again = pair.asked()
    assert again == [delete_request(key, reply=True) for key, _ in wanted[1:3]]
    assert pair.deleter.refused == 0
    assert not caplog.text


def test_those_that_the_kernel_keeps_are_counted(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    pair.answer((0, errno.EBUSY), (2, errno.EBUSY))
    assert pair.deleter.delete(many(3)) == 1
    assert pair.deleter.refused == 2
    assert caplog.text.count("busy") == 1


def test_who_may_not_delete_learns_it(pair: Pair) -> None:
    pair.answer((0, errno.EPERM))
    with pytest.raises(PermissionError, match="not permitted"):
        pair.deleter.delete(many(3))


def test_a_closed_one_deletes_nothing(pair: Pair) -> None:
    pair.deleter.close()
    assert pair.deleter.delete(many(3)) == 0


# Finding entries in a dump


class Dump:
    """Hands out buffers like a netlink socket."""

    def __init__(self, *buffers: bytes) -> None:
        self._buffers = list(buffers)

    def send(self, _data: bytes) -> None:
        pass

    def recv(self, size: int) -> bytes:
        data = self._buffers.pop(0)
        assert len(data) <= size
        return data


END = pack_message(NLMSG_DONE, 2, 1, bytes(4))


def connection(src: bytes, dst: bytes, *, proto: int = 17, number: int = 0) -> bytes:
    made = Connection(proto, src, 20_000 + number, dst, 443, dst, 443, 1 + number)
    return entry(made, (1, 2, 3, 4))


def some_address(number: int, version: int) -> bytes:
    return number.to_bytes(version, "big")


def entries(buffers: list[bytes]) -> list[tuple[bytes, ConnKey]]:
    found = []
    for data in buffers:
        for message in messages(data):
            if message.type == CT_NEW:
                start = message.start - 16
                found.append(
                    (
                        delete_entry_request(data, start, message.end),
                        parse_entry(data, start, message.end).key,
                    )
                )
    return found


small = st.integers(0, 9)


@pytest.mark.parametrize("few", [0, 16])
@given(
    st.lists(st.tuples(small, small, st.sampled_from([4, 16]), st.sampled_from([1, 6, 47])), max_size=20),
    st.sets(st.tuples(small, st.sampled_from([4, 16])), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_those_that_have_one_of_the_addresses_are_found(
    few: int, table: list[tuple[int, int, int, int]], wanted: set[tuple[int, int]], size: int
) -> None:
    """Whether the buffers are searched first, or taken apart: addresses that are mostly zeros occur
    all over the messages."""
    written = [
        connection(some_address(src, length), some_address(dst, length), proto=proto, number=number)
        for number, (src, dst, length, proto) in enumerate(table)
    ]
    buffers = [b"".join(written[first : first + size]) for first in range(0, len(written), size)]
    addresses = frozenset(some_address(number, length) for number, length in wanted)
    expected = [body for body, key in entries(buffers) if key.src in addresses or key.dst in addresses]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conntrack_delete, "_FEW", few)
        assert _find(Dump(*buffers, END), addresses) == expected  # type: ignore[arg-type]


def test_a_malformed_entry_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    broken = pack_message(CT_NEW, 2, 1, b"\2\0\0\0" + attribute(0x8001, V4[0]))
    data = broken + connection(*V4) + broken
    assert len(_find(Dump(data, END), frozenset(V4))) == 1  # type: ignore[arg-type]
    assert "connections to delete" in caplog.text


def test_a_dump_that_is_refused_is_an_error() -> None:
    refusal = pack_message(NLMSG_ERROR, 0, 1, struct.pack("=i", -errno.EPERM) + bytes(16))
    with pytest.raises(PermissionError, match="cannot be read"):
        _find(Dump(refusal), frozenset(V4))  # type: ignore[arg-type]


def test_no_address_is_no_work() -> None:
    assert ConntrackDeleter().delete_matching([]) == 0
