# SPDX-License-Identifier: GPL-2.0-or-later
"""ubus messages: as recorded between libubus and ubusd, round trips, framing, refusals."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.ubus import messages
from spind.ubus.blob import decode_table, encode_table, pack_attribute
from spind.ubus.messages import MAX_MESSAGE, Fields, Framer, Message, Status, pack_message, parse_fields
from spind.wire.errors import WireError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/ubus_vectors.json").read_text())["messages"]


def body_of(fields):
    """A message's attributes, in the order in which libubus writes them."""
    packers = {
        "status": lambda value: messages.number(messages.ATTR_STATUS, value),
        "path": lambda value: messages.text(messages.ATTR_OBJPATH, value),
        "object": lambda value: messages.number(messages.ATTR_OBJID, value),
        "type": lambda value: messages.number(messages.ATTR_OBJTYPE, value),
        "target": lambda value: messages.number(messages.ATTR_TARGET, value),
        "active": lambda value: messages.flag(messages.ATTR_ACTIVE, value=value),
        "method": lambda value: messages.text(messages.ATTR_METHOD, value),
        "user": lambda value: messages.text(messages.ATTR_USER, value),
        "group": lambda value: messages.text(messages.ATTR_GROUP, value),
        "signature": lambda value: messages.table(messages.ATTR_SIGNATURE, encode_table(value)),
        "data": lambda value: messages.table(messages.ATTR_DATA, encode_table(value)),
        "no_reply": lambda value: messages.flag(messages.ATTR_NO_REPLY, value=value),
    }
    return b"".join(pack(fields[name]) for name, pack in packers.items() if name in fields)


def read(data):
    framer = Framer()
    framer.feed(data)
    message = framer.next()
    assert framer.next() is None
    return message


@pytest.mark.parametrize(
    "vector", GOLDEN, ids=lambda vector: f"{vector['by']}-{vector['type']}-{vector['seq']}"
)
def test_recorded_messages(vector):
    data = bytes.fromhex(vector["hex"])
    message = read(data)
    assert message[:3] == (vector["type"], vector["seq"], vector["peer"])
    found = {name: value for name, value in parse_fields(message.body)._asdict().items() if value is not None}
    for name in ("signature", "data"):
        if name in found:
            found[name] = decode_table(found[name])
    assert found == vector["fields"]
    assert pack_message(*message).hex() == vector["hex"]
    assert body_of(vector["fields"]).hex() == message.body.hex()


def test_every_type_was_recorded():
    named = {
        messages.HELLO, messages.STATUS, messages.DATA, messages.LOOKUP, messages.INVOKE, messages.ADD_OBJECT,
        messages.SUBSCRIBE, messages.UNSUBSCRIBE, messages.NOTIFY,
    }  # fmt: skip
    assert {vector["type"] for vector in GOLDEN} == named


numbers = st.integers(0, 2**32 - 1)
strings = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
fields = st.fixed_dictionaries(
    {},
    optional={
        "status": numbers, "object": numbers, "type": numbers, "target": numbers, "path": strings,
        "method": strings, "user": strings, "group": strings, "active": st.booleans(),
        "no_reply": st.booleans(), "signature": st.just({}), "data": st.just({"a": 1}),
    },
)  # fmt: skip
whole = st.builds(Message, st.integers(0, 255), st.integers(0, 65535), numbers, st.builds(body_of, fields))


@given(fields)
def test_fields_round_trip(some):
    encoded = {k: encode_table(v) if k in ("signature", "data") else v for k, v in some.items()}
    assert parse_fields(body_of(some)) == Fields(**encoded)


@given(st.lists(whole, max_size=5), st.data())
def test_messages_however_cut(some, data):
    stream = b"".join(pack_message(*message) for message in some)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    framer = Framer()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        framer.feed(stream[start:end])
        while (message := framer.next()) is not None:
            found.append(message)
    assert found == some


def test_the_largest_message():
    body = pack_attribute(messages.ATTR_DATA, bytes(MAX_MESSAGE - 8))
    data = pack_message(messages.INVOKE, 1, 2, body)
    assert len(data) == MAX_MESSAGE + 8
    assert read(data) == Message(messages.INVOKE, 1, 2, body)
    with pytest.raises(ValueError, match="at most 1048576 bytes, not 1048580"):
        pack_message(messages.INVOKE, 1, 2, body + bytes(4))


@pytest.mark.parametrize(
    "data",
    [
        b"\1\0\0\0\0\0\0\0\0\0\0\4",  # version
        b"\0\0\0\0\0\0\0\0\0\0\0\3",  # shorter than its own head
        b"\0\0\0\0\0\0\0\0\0\x10\0\1",  # longer than ubusd takes
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_what_is_no_message(data):
    framer = Framer()
    framer.feed(data[:11])
    assert framer.next() is None
    framer.feed(data[11:])
    with pytest.raises(WireError):
        framer.next()


@pytest.mark.parametrize(
    "body",
    [
        b"\0",
        pack_attribute(messages.ATTR_OBJID, b""),
        pack_attribute(messages.ATTR_STATUS, bytes(8)),
        pack_attribute(messages.ATTR_METHOD, b""),
        pack_attribute(messages.ATTR_METHOD, b"abc"),
        pack_attribute(messages.ATTR_USER, b"\xff\0"),
        pack_attribute(messages.ATTR_ACTIVE, b""),
        pack_attribute(messages.ATTR_NO_REPLY, bytes(4)),
        messages.number(messages.ATTR_OBJID, 1) + b"\7\0\1\0",
    ],
)
def test_malformed_attributes(body):
    with pytest.raises(WireError):
        parse_fields(body)


def test_unknown_attributes_are_skipped_and_the_last_counts():
    body = pack_attribute(11, b"subscribers") + pack_attribute(99, b"?")
    body += messages.number(messages.ATTR_OBJID, 1) + messages.number(messages.ATTR_OBJID, 2)
    assert parse_fields(body) == Fields(object=2)


def test_a_name_with_a_nul_is_not_sent():
    with pytest.raises(ValueError, match="NUL"):
        messages.text(messages.ATTR_METHOD, "a\0b")


def test_statuses_are_those_of_ubusmsg_h():
    assert [status.value for status in Status] == list(range(14))
    assert (Status.INVALID_ARGUMENT, Status.METHOD_NOT_FOUND, Status.NOT_FOUND) == (2, 3, 4)
    assert (Status.PERMISSION_DENIED, Status.UNKNOWN_ERROR) == (6, 9)
