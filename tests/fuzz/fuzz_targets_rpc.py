# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz targets: JSON-RPC, as it comes from any client of the socket or the broker."""

import json
from collections.abc import Mapping

from fuzz_targets import Target

from spind.calls import ApiError, Caller
from spind.json_framer import FrameError, JsonFramer
from spind.jsonrpc import MAX_REPLY, OTHER_ERROR, handle

# JSON-RPC


def rpc(method: object, params: object, ident: object = 1) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}).encode()


JSONRPC = [
    rpc("list_devices", {}),
    rpc("set_device_name", {"node": 3, "name": "Käse"}),
    rpc("list_flows", {"since": 1.5e9, "limit": 10}, "abc"),
    rpc("nothing", []),
    b"[" + rpc("status", {}) + b"," + rpc("status", {}, None) + b"]",
    b'{"jsonrpc":"2.0","method":"status"}',
    b'{"jsonrpc": "2.0", "id": -1e5, "method": "x\\u00e9\\ud83d\\udcfa", "params": {"a": [true, null, {}]}} ',
]
JSON_TOKENS = [
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"1e999", b"-", b"0", b"\\u", b"\\ud800",
    b"\\", b'"id"', b'"jsonrpc":"2.0"', b'"method"', b'"params"', b"NaN", b"1" * 400, b"[" * 100,
    b'{"a":' * 50, b"\n",
    b" ", b"\xff", b"\0",
]  # fmt: skip


# Targets


class Echo:
    def call(self, name: str, params: Mapping[str, object], _caller: Caller) -> object:
        if name == "nothing":
            raise ApiError(OTHER_ERROR, name)
        return [name, params]


ECHO, CALLER = Echo(), Caller("fuzz", "owner")


def check_reply(_data: bytes, reply: bytes) -> None:
    assert len(reply) <= MAX_REPLY
    assert b"\n" not in reply
    json.loads(reply)


def frame(data: bytes) -> list[bytes] | None:
    framer = JsonFramer()
    texts = []
    # In two parts, so that its memory of where it stopped is used.
    for part in (data[: len(data) // 2], data[len(data) // 2 :]):
        framer.feed(part)
        while (text := framer.next()) is not None:
            texts.append(text)
    return texts or None


def check_texts(data: bytes, texts: list[bytes]) -> None:
    assert all(text in data and text[:1] in b"{[" and text[-1:] in b"}]" for text in texts)


TARGETS = {
    "jsonrpc": Target(lambda data: handle(ECHO, data, CALLER), (), JSONRPC, JSON_TOKENS, check_reply),
    "json-framer": Target(frame, (FrameError,), JSONRPC, JSON_TOKENS, check_texts),
}
