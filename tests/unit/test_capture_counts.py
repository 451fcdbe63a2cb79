# SPDX-License-Identifier: GPL-2.0-or-later
"""What passed unseen, from counters that others reset; and the counters of nftables."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.capture_backend import _Unseen
from spind.wire.errors import WireError
from spind.wire.netlink import attribute_map, pack_attribute, pack_message
from spind.wire.nftables import NFT_MSG_NEWOBJ, counter_request, parse_counter


def test_what_no_queue_took_passed_unseen() -> None:
    unseen = _Unseen()
    unseen.start((100, 7), 90)
    unseen.look((150, 7), 140)
    assert unseen.total == 0
    unseen.look((160, 10), 144)
    assert unseen.total == 6 + 3
    unseen.look((170, 10), 160)  # 6 more were taken: they had been under way
    assert unseen.total == 9


def test_packets_under_way_are_not_counted() -> None:
    """The rules are read before the queues: more packets were taken than asked for."""
    unseen = _Unseen()
    unseen.start((0, 0), 0)
    unseen.look((10, 0), 13)
    unseen.look((20, 0), 20)
    assert unseen.total == 0
    unseen.look((30, 0), 25)
    assert unseen.total == 5


def test_counters_that_begin_again() -> None:
    unseen = _Unseen()
    unseen.start((100, 5), 100)
    unseen.look((3, 1), 1)  # new rules and a new queue
    assert unseen.total == 2 + 1
    unseen.look((4, 1), 2)
    assert unseen.total == 3


def reply(packets: int, name: bytes = b"capture_asked") -> bytes:
    counter = pack_attribute(1, (99).to_bytes(8, "big")) + pack_attribute(2, packets.to_bytes(8, "big"))
    body = pack_attribute(1, b"spin\0") + pack_attribute(2, name + b"\0") + pack_attribute(3, b"\0\0\0\1")
    body += pack_attribute(0x8000 | 4, counter)
    return pack_message(NFT_MSG_NEWOBJ, 0, 1, b"\1\0\0\0" + body)


@pytest.mark.parametrize("packets", [0, 1, 2**40])
def test_a_counters_reply(packets: int) -> None:
    assert parse_counter(reply(packets)) == packets


def test_an_error_is_no_counter() -> None:
    assert parse_counter(pack_message(2, 0, 1, struct.pack("=i", -2) + bytes(16))) is None
    assert parse_counter(b"") is None


def test_a_request_names_table_and_counter() -> None:
    body = counter_request("spin", "capture_asked")
    assert attribute_map(body, 4, len(body)) == {1: b"spin\0", 2: b"capture_asked\0", 3: b"\0\0\0\1"}
    assert body[0] == 1, "family inet"


@given(st.binary(max_size=60), st.integers(0, 90))
def test_any_reply_is_read_or_refused(patch: bytes, at: int) -> None:
    data = bytearray(reply(5))
    data[at : at + len(patch)] = patch
    try:
        parse_counter(bytes(data))
    except WireError:
        pass
