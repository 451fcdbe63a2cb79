# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz targets: messages of OpenWrt's bus, as any program on the router may send them."""

import json
from pathlib import Path

from fuzz_targets import Target

from spind.ubus.blob import decode_table, encode_table
from spind.ubus.messages import MAX_MESSAGE, Fields, Framer, Message, pack_message, parse_fields
from spind.wire.errors import WireError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/ubus_vectors.json").read_text())
TABLES = [bytes.fromhex(vector["hex"]) for vector in GOLDEN["tables"]]
MESSAGES = [bytes.fromhex(vector["hex"]) for vector in GOLDEN["messages"]]
TOKENS = [
    b"\0\0\0\4", b"\0\0\0\5", b"\0\0\0\3", b"\x81\0\0\x08\0\0\0\0", b"\x82\0\0\x08\0\0\0\0", b"\x83\0\0\x0c",
    b"\x84\0\0\x10", b"\x85\0\0\x0c", b"\x87\0\0\x09", b"\x88\0\0\x10", b"\xff\xff\xff\xff", b"\0\1a\0",
    b"\0\0\0\0", b"\x7f\xf8\0\0\0\0\0\0", b"\3\0\0\x08", b"\4\0\0\x09", b"\7\0\0\4", b"\x0a\0\0\5",
]  # fmt: skip


# Targets


def check_table(_data: bytes, table: dict[str, object]) -> None:
    json.dumps(table, allow_nan=False)
    assert "" not in table
    again = decode_table(encode_table(table))
    assert repr(again) == repr(table)


def frame(data: bytes) -> list[Message] | None:
    framer = Framer()
    found = []
    for part in (data[: len(data) // 2], data[len(data) // 2 :]):
        framer.feed(part)
        while (message := framer.next()) is not None:
            found.append(message)
    return found or None


def check_messages(data: bytes, found: list[Message]) -> None:
    position = 0
    for message in found:
        packed = pack_message(*message)
        # The id of the outermost attribute means nothing, and is not kept.
        assert data[position : position + 8] == packed[:8]
        assert data[position + 9 : position + len(packed)] == packed[9:]
        assert len(message.body) < MAX_MESSAGE
        position += len(packed)


def fields(data: bytes) -> Fields:
    return parse_fields(data[12:])


def check_fields(data: bytes, found: Fields) -> None:
    assert all(part is None or part in data for part in (found.data, found.signature))
    assert all(
        text is None or text.encode() + b"\0" in data for text in (found.method, found.path, found.user)
    )


TARGETS = {
    "blobmsg": Target(decode_table, (WireError,), TABLES, TOKENS, check_table),
    "ubus-framer": Target(frame, (WireError,), [*MESSAGES, b"".join(MESSAGES)], TOKENS, check_messages),
    "ubus-fields": Target(fields, (WireError,), MESSAGES, TOKENS, check_fields),
}
