# SPDX-License-Identifier: GPL-2.0-or-later
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.wire.errors import WireError
from spind.wire.netlink import (
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    attribute_map,
    attributes,
    error_code,
    messages,
    pack_attribute,
    pack_message,
)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=12))
def test_attributes_come_back_as_they_were_packed(wanted: list[tuple[int, bytes]]) -> None:
    data = b"\xff" * 3 + b"".join(pack_attribute(kind, value) for kind, value in wanted)
    found = [(kind, data[first:stop]) for kind, first, stop in attributes(data, 3, len(data))]
    assert found == wanted


@given(st.lists(st.tuples(st.integers(16, 0xFFFF), st.binary(max_size=40)), max_size=12))
def test_messages_come_back_as_they_were_packed(wanted: list[tuple[int, bytes]]) -> None:
    data = b"".join(
        pack_message(kind, 5, number, payload) + bytes(-len(payload) & 3)
        for number, (kind, payload) in enumerate(wanted)
    )
    found = list(messages(data))
    assert [(m.type, data[m.start : m.end]) for m in found] == wanted
    assert [m.seq for m in found] == list(range(len(wanted)))
    assert all(m.flags == 5 for m in found)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        for message in messages(data):
            assert 16 <= message.start <= message.end <= len(data)
            attribute_map(data, message.start, message.end)
    except WireError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"\x10\0\0",  # half a header
        struct.pack("=IHHII", 15, 1, 0, 0, 0),  # shorter than its header
        struct.pack("=IHHII", 17, 1, 0, 0, 0),  # longer than the buffer
        struct.pack("=IHHII", 0, 1, 0, 0, 0),  # would never end
    ],
)
def test_message_lengths_that_do_not_fit_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        list(messages(data))


@pytest.mark.parametrize("data", [b"\5", b"\3\0\1\0", b"\0\0\1\0", b"\6\0\1\0\0"])
def test_attribute_lengths_that_do_not_fit_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        list(attributes(data, 0, len(data)))


def test_flags_in_the_type_are_no_part_of_it_and_the_last_of_a_kind_counts() -> None:
    data = pack_attribute(0x8000 | 7, b"a") + pack_attribute(0x4000 | 7, b"b")
    assert attribute_map(data, 0, len(data)) == {7: b"b"}


def test_errors_are_positive_numbers() -> None:
    data = struct.pack("=i", -105)
    assert error_code(data, Message(NLMSG_ERROR, 0, 0, 0, 0, 4)) == 105
    assert error_code(data, Message(NLMSG_DONE, 0, 0, 0, 0, 0)) == 0
    with pytest.raises(WireError):
        error_code(data, Message(NLMSG_ERROR, 0, 0, 0, 0, 3))
