# SPDX-License-Identifier: GPL-2.0-or-later
"""blobmsg: golden bytes of libubox, round trips, refusals; libubox itself where it is installed."""

import ctypes
import json
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.ubus.blob import (
    MAX_DEPTH,
    MAX_VALUES,
    attributes,
    decode_table,
    encode_table,
    pack_attribute,
    signed32,
)
from spind.wire.errors import WireError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/ubus_vectors.json").read_text())["tables"]

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4)
)
tables = st.dictionaries(names, values, max_size=6)


def exact(value):
    """Told apart where == does not: 1, True and 1.0, 0.0 and -0.0."""
    return repr(value)


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: str(vector["value"])[:40])
def test_bytes_are_those_of_libubox(vector):
    data = bytes.fromhex(vector["hex"])
    assert encode_table(vector["value"]).hex() == vector["hex"]
    assert exact(decode_table(data)) == exact(vector["value"])


@given(tables)
def test_round_trip(table):
    data = encode_table(table)
    assert len(data) % 4 == 0
    assert exact(decode_table(data)) == exact(table)


@given(tables, st.data())
def test_whatever_is_cut_or_changed_is_refused_or_a_table(table, data):
    encoded = bytearray(encode_table(table))
    for _ in range(data.draw(st.integers(1, 3))):
        if encoded:
            encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    del encoded[data.draw(st.integers(0, len(encoded))) :]
    try:
        found = decode_table(bytes(encoded))
    except WireError:
        return
    # A 16-bit number and padding that is not zero may come back in another form, values may not.
    assert exact(decode_table(encode_table(found))) == exact(found)


def member(kind, value, name=b"a", *, extended=True):
    """A member of a table, as its bytes."""
    head = struct.pack(">H", len(name)) + name + b"\0"
    head += bytes(-len(head) % 4)
    return pack_attribute((0x80 if extended else 0) | kind, head + value if extended else value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0", "cut short"),
        (b"\x83\0\0\3", "length out of bounds"),
        (b"\x83\0\0\x10\0\1a\0abc\0", "length out of bounds"),
        (b"\x83\xff\xff\xff\0\1a\0abc\0", "length out of bounds"),
        (member(3, b"abc\0") + b"\0\0", "cut short"),
        (b"\x83\0\0\x0b\0\1a\0ab\0", "length out of bounds"),  # padding is part of it
        (member(3, b"abc\0", extended=False), "no name"),
        (b"\x83\0\0\5\0\0\0\0", "name cut short"),
        (b"\x83\0\0\x08\0\1a\0", "without an end"),
        (b"\x83\0\0\x08\0\2ab", "name out of bounds"),
        (b"\x83\0\0\x0c\0\1ab\0\0\0\0", "name out of bounds"),
        (b"\x83\0\0\x0c\xff\xffa\0\0\0\0\0", "name out of bounds"),
        (member(3, b"\0", name=b""), "empty name"),
        (member(3, b"\0", name=b"a\0b"), "NUL"),
        (member(3, b"\0", name=b"\xff"), "UTF-8"),
        (member(3, b"\0") * 2, "same name"),
        (member(3, b"abc"), "without an end"),
        (member(3, b""), "without an end"),
        (member(3, b"a\0b\0"), "NUL"),
        (member(3, b"\xc3\0"), "UTF-8"),
        (member(3, "\ud800".encode("utf-8", "surrogatepass") + b"\0"), "UTF-8"),
        (member(4, bytes(4)), "wrong length"),
        (member(5, bytes(8)), "wrong length"),
        (member(5, b""), "wrong length"),
        (member(6, bytes(4)), "wrong length"),
        (member(7, b""), "wrong length"),
        (member(7, bytes(4)), "wrong length"),
        (member(8, bytes(4)), "wrong length"),
        (member(8, bytes(12)), "wrong length"),
        (member(8, struct.pack(">d", math.nan)), "not a number"),
        (member(8, struct.pack(">d", -math.inf)), "not a number"),
        (member(0, bytes(4)), "unknown type"),
        (member(9, bytes(4)), "unknown type"),
        (member(127, b""), "unknown type"),
        (member(1, b"\0\0\0\1"), "length out of bounds"),
        (member(1, b"\x83\0\0\5\0\0\0\0"), "name cut short"),
        (member(2, b"\0\0\0"), "cut short"),
    ],
)
def test_malformed(data, words):
    with pytest.raises(WireError, match=words):
        decode_table(data)


def test_what_libubox_writes_in_other_ways():
    assert decode_table(member(6, struct.pack(">h", -2))) == {"a": -2}
    assert decode_table(member(7, b"\x17")) == {"a": True}
    # Items of arrays may have no name, or one that says nothing.
    items = pack_attribute(5, b"\0\0\0\7") + member(3, b"x\0", name=b"") + member(7, b"\0", name=b"any")
    assert decode_table(member(1, items)) == {"a": [7, "x", False]}
    assert decode_table(b"") == {}


def nested(depth, make):
    value = make([])
    for _ in range(depth - 2):  # the table itself is the first, what is inside the last
        value = make([value])
    return {"a": value}


@pytest.mark.parametrize("make", [list, lambda inner: {str(n): value for n, value in enumerate(inner)}])
def test_depth_is_bounded(make):
    deepest = nested(MAX_DEPTH, make)
    assert decode_table(encode_table(deepest)) == deepest
    too_deep = nested(MAX_DEPTH + 1, make)
    with pytest.raises(ValueError, match="nests at most"):
        encode_table(too_deep)
    inner = b""
    kind = 1 if make is list else 2
    for _ in range(MAX_DEPTH + 1):
        inner = member(kind, inner)
    with pytest.raises(WireError, match="too deep"):
        decode_table(inner)
    for _ in range(100_000 // 8):
        inner = member(kind, inner)  # far beyond Python's own depth
    with pytest.raises(WireError, match="too deep"):
        decode_table(inner)


def test_values_are_bounded():
    full = {"a": [1] * (MAX_VALUES - 1)}
    assert decode_table(encode_table(full)) == full
    with pytest.raises(WireError, match="too many"):
        decode_table(encode_table({"a": [1] * MAX_VALUES}))
    assert len(decode_table(encode_table({"a": [1] * MAX_VALUES}), 10**6)["a"]) == MAX_VALUES


@pytest.mark.parametrize(
    "wrong",
    [
        {"": 1},
        {"a\0": 1},
        {"x" * 65536: 1},
        {"a": {"": 1}},
        {"a": math.nan},
        {"a": [math.inf]},
        {"a": 2**63},
        {"a": -(2**63) - 1},
        {"a": "x" * 2**24},
        {"a": ["x" * 2**23, "x" * 2**23]},
    ],
)
def test_what_cannot_be_written(wrong):
    with pytest.raises(ValueError):
        encode_table(wrong)


@pytest.mark.parametrize("wrong", [b"x", object(), {1}, 1j])
def test_what_json_does_not_have(wrong):
    with pytest.raises(TypeError, match="no type for"):
        encode_table({"a": wrong})


def test_texts_from_the_network_always_go_out():
    assert decode_table(encode_table({"a": "x\0y", "b": "\ud800z"})) == {
        "a": "x\N{REPLACEMENT CHARACTER}y",
        "b": "?z",
    }


def test_the_longest_name():
    table = {"ä" * 32767: 1, "x" * 65535: 2}
    assert decode_table(encode_table(table)) == table


def test_plain_attributes():
    data = pack_attribute(1, b"abc") + pack_attribute(127, b"")
    assert data.hex() == "01000007616263007f000004"
    assert list(attributes(data)) == [(1, b"abc"), (127, b"")]
    assert list(attributes(b"\xff\0\0\4")) == [(127, b"")]
    for bad in (b"\0", data[:-1], b"\1\0\0\3", b"\1\0\0\5\0"):
        with pytest.raises(WireError):
            list(attributes(bad))
    with pytest.raises(ValueError, match="16 MiB"):
        pack_attribute(1, bytes(2**24))


@given(st.integers(0, 2**32 - 1))
def test_ids_keep_their_bits(number):
    data = encode_table({"id": signed32(number)})
    assert data[0] == 0x85
    assert int.from_bytes(data[-4:]) == number


# Against libubox


class Buffer(ctypes.Structure):
    """struct blob_buf"""

    _fields_ = [
        ("head", ctypes.c_void_p),
        ("grow", ctypes.c_void_p),
        ("buflen", ctypes.c_int),
        ("buf", ctypes.c_void_p),
    ]


@pytest.fixture(scope="module")
def libubox():
    try:
        ubox = ctypes.CDLL("libubox.so", mode=ctypes.RTLD_GLOBAL)
        blobmsg = ctypes.CDLL("libblobmsg_json.so")
    except OSError:
        pytest.skip("OpenWrt's libubox is not installed")
    blobmsg.blobmsg_add_json_from_string.restype = ctypes.c_bool
    blobmsg.blobmsg_format_json_with_cb.restype = ctypes.c_void_p
    ubox.blobmsg_check_attr_list_len.restype = ctypes.c_bool
    libc = ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]

    class Libubox:
        def __init__(self):
            self.buffer = Buffer()

        def encode(self, table):
            ubox.blob_buf_init(ctypes.byref(self.buffer), 0)
            text = json.dumps(table, ensure_ascii=False).encode()
            assert blobmsg.blobmsg_add_json_from_string(ctypes.byref(self.buffer), text)
            (head,) = struct.unpack(">I", ctypes.string_at(self.buffer.head, 4))
            return ctypes.string_at(self.buffer.head, head & 0xFFFFFF)[4:]

        @staticmethod
        def decode(data):
            whole = ctypes.create_string_buffer(pack_attribute(2, data))
            text = blobmsg.blobmsg_format_json_with_cb(whole, True, None, None, -1)
            try:
                return json.loads(ctypes.string_at(text), strict=False)
            finally:
                libc.free(text)

        @staticmethod
        def accepts(data):
            whole = ctypes.create_string_buffer(pack_attribute(2, data))
            return ubox.blobmsg_check_attr_list_len(whole, 0, ctypes.c_size_t(len(data) + 4))

    return Libubox()


def near(value):
    """libubox prints six digits after the point."""
    if isinstance(value, float):
        return float(f"{value:f}")
    if isinstance(value, dict):
        return {name: near(inner) for name, inner in value.items()}
    return [near(inner) for inner in value] if isinstance(value, list) else value


@settings(max_examples=300)
@given(table=tables)
def test_libubox_reads_and_writes_the_same(libubox, table):
    data = encode_table(table)
    assert libubox.encode(table) == data
    assert near(libubox.decode(data)) == near(table)


@settings(max_examples=300)
@given(table=tables, data=st.data())
def test_what_we_accept_libubox_accepts(libubox, table, data):
    encoded = bytearray(encode_table(table))
    if not encoded:
        return
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_table(bytes(encoded))
    except WireError:
        return
    assert libubox.accepts(bytes(encoded))
    assert near(libubox.decode(bytes(encoded))) == near(found)
