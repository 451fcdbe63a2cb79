# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of ipset: what we send, read back bit by bit, and what the kernel answers, also damaged."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spind.model import parse_address
from spind.wire.errors import WireError
from spind.wire.ipset import (
    CMD_ADD,
    CMD_CREATE,
    CMD_DEL,
    CMD_DESTROY,
    CMD_LIST,
    Element,
    Header,
    change_requests,
    create_request,
    destroy_request,
    error_text,
    list_request,
    parse_headers,
)
from spind.wire.netlink import attribute_map, attributes, messages, pack_attribute, pack_message

NFGEN = bytes(4)
# What ipset 7.17 sends for "create x hash:net,port family inet6 hashsize 64 maxelem 65536", but for the
# numbers of protocol and revision, which are the newest of its kernel; and for "add x 2001:db8::/32,udp:53",
# but that our elements are in a list.
CREATE = (
    "0500010006000000.0600020078000000.12000300686173683a6e65742c706f7274000000."
    "0500040004000000.050005000a000000.1400078008001240000000400800134000010000"
)
ADD = (
    "0500010006000000.0600020078000000.0800094000000000."
    "38000880.34000780.1800018014000240.20010db8000000000000000000000000."
    "0500030020000000.0600044000350000.0500070011000000"
)

v4, v6 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
addresses = v4 | v6
prefixes = st.tuples(v4, st.integers(1, 32)) | st.tuples(v6, st.integers(1, 128))
services = st.tuples(st.sampled_from([6, 17]), st.integers(0, 65535))
elements = (
    addresses
    | prefixes
    | st.tuples(addresses, services).map(lambda pair: (pair[0], *pair[1]))
    | st.tuples(prefixes, services).map(lambda pair: (*pair[0], *pair[1]))
)


def body(request: bytes) -> bytes:
    return request[16 + 4 :]


def nested(data: bytes, start: int, end: int) -> dict[int, bytes]:
    return {kind: data[first:stop] for kind, first, stop in attributes(data, start, end)}


def read_elements(request: bytes) -> list[Element]:
    """The elements of a request, read in another way than they were written."""
    found: list[Element] = []
    adt = attribute_map(request, 20, len(request))[8]
    for kind, start, end in attributes(adt, 0, len(adt)):
        assert kind == 7
        assert struct.unpack_from("=H", adt, start - 2)[0] == 0x8007, "the kernel wants the flag"
        inner = nested(adt, start, end)
        ((which, address),) = nested(inner[1], 0, len(inner[1])).items()
        assert which == (1 if len(address) == 4 else 2)
        element: tuple[int, ...] = ()
        if 3 in inner:
            element += (inner[3][0],)
        if 4 in inner:
            element += (inner[7][0], int.from_bytes(inner[4], "big"))
        found.append((address, *element) if element else address)  # type: ignore[arg-type]
    return found


def test_requests_are_those_of_ipset() -> None:
    request = create_request(7, "x", "hash:net,port", 6, 64, 65536)
    (message,) = messages(request)
    assert (message.type, message.flags, message.seq) == (6 << 8 | CMD_CREATE, 0x605, 7)
    assert body(request).hex() == CREATE.replace(".", "")
    (request,) = change_requests(8, "x", add=True, elements=[(parse_address("2001:db8::"), 32, 17, 53)])
    (message,) = messages(request)
    assert (message.type, message.flags, message.seq) == (6 << 8 | CMD_ADD, 0x205, 8)
    assert body(request).hex() == ADD.replace(".", "")
    (message,) = messages(destroy_request(9, "x"))
    assert (message.type, message.flags) == (6 << 8 | CMD_DESTROY, 5)
    (message,) = messages(list_request(10))
    assert (message.type, message.flags) == (6 << 8 | CMD_LIST, 0x301)


@given(st.lists(elements, max_size=20), st.booleans())
@example([], True)
def test_all_elements_are_in_the_messages(given_: list[Element], add: bool) -> None:
    requests = list(change_requests(1, "spin_4s_x.0", add=add, elements=given_))
    assert len(requests) == bool(given_)
    for request in requests:
        (message,) = messages(request)
        assert message.end == len(request), "one message, padded"
        assert message.type == 6 << 8 | (CMD_ADD if add else CMD_DEL)
        assert read_elements(request) == given_


def test_many_elements_are_several_messages() -> None:
    given_: list[Element] = [(number.to_bytes(16, "big"), 128, 6, 443) for number in range(2500)]
    requests = list(change_requests(40, "x", add=True, elements=given_))
    assert [next(messages(request)).seq for request in requests] == [40, 41, 42]
    for request in requests:
        adt = attribute_map(request, 20, len(request))[8]
        assert len(adt) + 4 <= 65535, "the length of an attribute has 16 bits"
    assert [element for request in requests for element in read_elements(request)] == given_


@pytest.mark.parametrize(
    "element",
    [
        b"",
        b"abc",
        bytes(5),
        (bytes(4), 0),
        (bytes(4), 33),
        (bytes(16), 129),
        (bytes(4), -1),
        (bytes(4), 6, 65536),
        (bytes(4), 6, -1),
        (bytes(4), 1, 0),
        (bytes(4), 256, 80),
        (bytes(4), 24, 6),
        (bytes(4), 24, 6, 80, 1),
        (bytes(5), 24),
        (bytes(4),),
        ("10.0.0.1", 24),
        None,
        7,
    ],
)
def test_malformed_elements_are_refused(element: Element) -> None:
    with pytest.raises(ValueError, match=r"ipset|element"):
        list(change_requests(1, "x", add=True, elements=[bytes(4), element]))


@pytest.mark.parametrize("name", ["", "x" * 32, "a\0b"])
def test_names_that_no_set_has_are_refused(name: str) -> None:
    for request in (
        lambda: destroy_request(1, name),
        lambda: create_request(1, name, "hash:ip", 4, 64, 64),
        lambda: list(change_requests(1, name, add=True, elements=[bytes(4)])),
    ):
        with pytest.raises(ValueError, match="name of a set"):
            request()


def header(name: str, kind: str, family: int, count: int | None, references: int) -> bytes:
    inner = pack_attribute(18 | 0x4000, (64).to_bytes(4, "big"))
    if count is not None:
        inner += pack_attribute(24 | 0x4000, count.to_bytes(4, "big"))
    inner += pack_attribute(25 | 0x4000, references.to_bytes(4, "big"))
    payload = (
        NFGEN
        + pack_attribute(1, b"\7")
        + pack_attribute(2, name.encode() + b"\0")
        + pack_attribute(3, kind.encode() + b"\0")
        + pack_attribute(5, bytes([10 if family == 6 else 2]))
        + pack_attribute(7 | 0x8000, inner)
    )
    return pack_message(6 << 8 | CMD_LIST, 2, 1, payload)


LISTED = [Header("spin_4s_x.0", "hash:ip", 4, 12, 3), Header("old", "hash:net", 6, None, 0)]
LIST = b"".join(header(*each) for each in LISTED)


def test_headers_are_read() -> None:
    done = pack_message(3, 2, 1, bytes(4))
    assert list(parse_headers(LIST + done)) == LISTED
    assert list(parse_headers(pack_message(2, 0, 1, bytes(20)))) == []


@given(st.integers(0, len(LIST) - 1), st.integers(0, 255), st.integers(0, len(LIST)))
def test_damaged_headers_are_refused_or_read(place: int, value: int, length: int) -> None:
    damaged = bytearray(LIST)
    damaged[place] = value
    for data in (bytes(damaged), LIST[:length], bytes(damaged[:length])):
        try:
            found = list(parse_headers(data))
        except WireError:
            continue
        assert all(each.family in (4, 6) for each in found)


def test_errors_are_words() -> None:
    assert error_text(4352) == "the set is full"
    assert error_text(4103)
    assert error_text(5000) == "error 5000 of ipset"
    assert error_text(13) == ""
