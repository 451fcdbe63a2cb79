# SPDX-License-Identifier: GPL-2.0-or-later
"""The envelope of JSON-RPC 2.0: each rule of the specification, each bound, and no way to make it raise."""

import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind import jsonrpc
from spind.calls import ApiError, Caller

CALLER = Caller("socket", "owner")


class Table:
    """A few methods with the behaviours that the envelope must carry."""

    def __init__(self):
        self.calls = []

    def call(self, name, params, caller):
        self.calls.append((name, params, caller))
        if name == "echo":
            return params
        if name == "nothing":
            return None
        if name == "long":
            return "x" * params["size"]
        if name == "refuse":
            raise ApiError(-1, params.get("sentence", "Unknown node id"))
        if name == "crash":
            raise RuntimeError("secret of the inside")
        if name == "nan":
            return {"value": float("nan")}
        if name == "unserialisable":
            return object()
        if name == "surrogate":
            return "\ud800"
        raise ApiError(-32601, f"there is no method {name!r}")


def ask(text, table=None):
    reply = jsonrpc.handle(table or Table(), text if isinstance(text, bytes) else text.encode(), CALLER)
    return None if reply is None else json.loads(reply)


def request(method, params=None, ident=1):
    message = {"jsonrpc": "2.0", "id": ident, "method": method}
    if params is not None:
        message["params"] = params
    return json.dumps(message)


def code(reply):
    return reply["error"]["code"]


def test_success_is_byte_for_byte_compact_with_the_recorded_order_of_keys():
    reply = jsonrpc.handle(Table(), request("echo", {"node": 7}).encode(), CALLER)
    assert reply == b'{"jsonrpc":"2.0","id":1,"result":{"node":7}}'


def test_success_without_a_value_has_a_null_result():
    reply = jsonrpc.handle(Table(), request("nothing").encode(), CALLER)
    assert reply == b'{"jsonrpc":"2.0","id":1,"result":null}'


def test_text_stays_utf8():
    text = '{"jsonrpc":"2.0","id":1,"method":"echo","params":{"n":"Tür 🚪"}}'
    reply = jsonrpc.handle(Table(), text.encode(), CALLER)
    assert reply == '{"jsonrpc":"2.0","id":1,"result":{"n":"Tür 🚪"}}'.encode()


@pytest.mark.parametrize("ident", [1, 0, -5, 2**63, "abc", "", None, 1.5, "é" * 64])
def test_id_comes_back_as_it_was(ident):
    assert ask(request("nothing", ident=ident)) == {"jsonrpc": "2.0", "id": ident, "result": None}


@pytest.mark.parametrize("ident", [True, False, [], {}, [1], "x" * 65])
def test_id_of_another_type_is_refused_with_null(ident):
    table = Table()
    reply = ask(request("nothing", ident=ident), table)
    assert (code(reply), reply["id"], table.calls) == (-32600, None, [])


@pytest.mark.parametrize(
    "text",
    [
        '{"id":1,"method":"nothing"}',
        '{"jsonrpc":"1.0","id":1,"method":"nothing"}',
        '{"jsonrpc":2.0,"id":1,"method":"nothing"}',
        '{"jsonrpc":null,"id":1,"method":"nothing"}',
        '{"jsonrpc":"2.0","id":1}',
        '{"jsonrpc":"2.0","id":1,"method":1}',
        '{"jsonrpc":"2.0","id":1,"method":null}',
        '{"jsonrpc":"2.0","id":1,"method":["nothing"]}',
        '{"jsonrpc":"2.0","id":1,"method":"nothing","params":"bar"}',
        '{"jsonrpc":"2.0","id":1,"method":"nothing","params":null}',
        '{"jsonrpc":"2.0","id":1,"method":"nothing","params":3}',
    ],
)
def test_invalid_request(text):
    table = Table()
    reply = ask(text, table)
    assert (code(reply), reply["id"], table.calls) == (-32600, 1, [])


@pytest.mark.parametrize("text", ["1", '"x"', "null", "true"])
def test_a_request_must_be_an_object(text):
    reply = ask(text)
    assert (code(reply), reply["id"]) == (-32600, None)


def test_an_invalid_request_is_answered_even_without_id():
    reply = ask('{"jsonrpc":"2.0","method":1,"params":"bar"}')  # the specification's own example
    assert (code(reply), reply["id"]) == (-32600, None)


def test_positional_arguments_are_refused_with_a_sentence():
    table = Table()
    reply = ask(request("echo", [1]), table)
    assert (code(reply), table.calls) == (-32602, [])
    assert "named" in reply["error"]["message"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"foobar",
        b'{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]',
        b'{"jsonrpc":"2.0","id":1,"method":"nothing"} x',
        b'{"jsonrpc":"2.0","id":1,"method":"nothing"}{}',
        b'{"jsonrpc":"2.0","id":NaN,"method":"nothing"}',
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":Infinity}}',
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":-Infinity}}',
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":1e999}}',
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":' + b"1" * 5000 + b"}}",
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":123456789012345678901}}',
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":1,"a":2}}',
        b'{"jsonrpc":"2.0","id":1,"method":"nothing","method":"crash"}',
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":"\xff"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":"\xed\xa0\x80"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":"\\ud800"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"\\udc00":1}}',
        b'{"jsonrpc":"2.0","id":"\\ud800","method":"nothing"}',
        b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"nothing"}',
        '{"jsonrpc":"2.0","id":1,"method":"nothing"}'.encode("utf-16"),
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":"\n"}}',
        b"[" * 60000,
        b'{"a":' * 10000,
    ],
)
def test_parse_errors_have_id_null_and_call_nothing(data):
    table = Table()
    reply = ask(data, table)
    assert (code(reply), reply["id"], table.calls) == (-32700, None, [])
    assert "result" not in reply


def test_surrogate_pairs_are_text():
    reply = ask(b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":"\\ud83d\\ude00"}}')
    assert reply["result"] == {"a": "😀"}


def test_depth_is_bounded_and_breadth_is_not():
    deep = "[" * 32 + "]" * 32
    assert code(ask(f'{{"jsonrpc":"2.0","id":1,"method":"echo","params":{{"a":{deep}}}}}')) == -32600
    wide = "[" + "[]," * 1000 + "[]]"
    reply = ask(f'{{"jsonrpc":"2.0","id":1,"method":"echo","params":{{"a":{wide}}}}}')
    assert reply["result"]["a"] == [[]] * 1001


def test_request_is_bounded():
    table = Table()
    big = request("echo", {"a": "x" * jsonrpc.MAX_REQUEST})
    assert code(ask(big, table)) == -32600
    assert table.calls == []


def test_errors_of_the_table_pass():
    assert ask(request("refuse"))["error"] == {"code": -1, "message": "Unknown node id"}
    assert code(ask(request("no_such_method"))) == -32601


def test_a_sentence_is_short_and_inert():
    reply = ask(request("refuse", {"sentence": "\x1b[2J\u202eevil\n" + "x" * 5000}))
    message = reply["error"]["message"]
    assert message.isprintable()
    assert len(message) == jsonrpc.MAX_MESSAGE


@pytest.mark.parametrize("method", ["crash", "nan", "unserialisable", "surrogate"])
def test_a_failure_inside_is_logged_and_never_leaks(method, caplog):
    with caplog.at_level(logging.ERROR):
        reply = ask(request(method))
    assert (code(reply), reply["id"]) == (-32603, 1)
    assert "secret" not in json.dumps(reply)
    assert caplog.records[0].exc_info is not None


def test_the_caller_is_passed_on():
    table = Table()
    viewer = Caller("web", "viewer")
    jsonrpc.handle(table, request("echo", {"a": 1}).encode(), viewer)
    assert table.calls == [("echo", {"a": 1}, viewer)]


@pytest.mark.parametrize("method", ["echo", "refuse", "crash", "no_such_method"])
def test_a_notification_is_carried_out_and_not_answered(method):
    table = Table()
    assert ask(f'{{"jsonrpc":"2.0","method":"{method}"}}', table) is None
    assert [call[0] for call in table.calls] == [method]


def test_a_reply_too_large_says_how_to_ask_for_less():
    assert len(ask(request("long", {"size": jsonrpc.MAX_REPLY - 100}))["result"]) == jsonrpc.MAX_REPLY - 100
    message = ask(request("long", {"size": jsonrpc.MAX_REPLY}))["error"]["message"]
    assert "limit" in message
    assert "offset" in message


def test_batch_of_the_specification():
    reply = ask(
        """[{"jsonrpc":"2.0","method":"echo","params":{"a":1},"id":"1"},
            {"jsonrpc":"2.0","method":"echo","params":{"a":7}},
            {"jsonrpc":"2.0","method":"nothing","id":"2"},
            {"foo":"boo"},
            1,
            {"jsonrpc":"2.0","method":"foo.get","params":{},"id":"5"}]"""
    )
    assert [(item["id"], item.get("result"), item.get("error", {}).get("code")) for item in reply] == [
        ("1", {"a": 1}, None),
        ("2", None, None),
        (None, None, -32600),
        (None, None, -32600),
        ("5", None, -32601),
    ]


def test_empty_batch_is_one_error():
    reply = ask("[]")
    assert (code(reply), reply["id"]) == (-32600, None)


def test_batch_of_notifications_is_silent():
    assert ask('[{"jsonrpc":"2.0","method":"nothing"},{"jsonrpc":"2.0","method":"crash"}]') is None


def test_batch_is_bounded():
    table = Table()
    many = [json.loads(request("nothing", ident=n)) for n in range(jsonrpc.MAX_BATCH)]
    assert len(ask(json.dumps(many), table)) == jsonrpc.MAX_BATCH
    assert code(ask(json.dumps([*many, many[0]]), table)) == -32600
    assert len(table.calls) == jsonrpc.MAX_BATCH


def test_a_batch_shares_the_bound_of_a_reply():
    many = [json.loads(request("long", {"size": 60_000}, ident=n)) for n in range(jsonrpc.MAX_BATCH)]
    reply = jsonrpc.handle(Table(), json.dumps(many).encode(), CALLER)
    assert len(reply) <= jsonrpc.MAX_REPLY
    answers = json.loads(reply)
    assert len(answers) == jsonrpc.MAX_BATCH
    assert [item["id"] for item in answers if "result" in item] == [0, 1, 2]
    assert all("limit" in item["error"]["message"] for item in answers[3:])


def test_a_batch_of_the_longest_errors_fits():
    worst = [
        {"jsonrpc": "2.0", "id": "\x01" * 64, "method": "refuse", "params": {"sentence": "🚪" * 400}},
        {"jsonrpc": "2.0", "id": "\x01" * 64, "method": "refuse", "params": {"sentence": '"' * 400}},
        {"jsonrpc": "2.0", "id": "\x01" * 64, "method": "refuse", "params": {"sentence": "\x01" * 400}},
    ]
    for one in worst:
        reply = jsonrpc.handle(Table(), json.dumps([one]).encode(), CALLER)
        assert len(reply) - 1 <= jsonrpc._RESERVE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": JSON,
        "method": st.sampled_from(["echo", "nothing", "refuse", "crash", "nan"]) | JSON,
        "params": JSON,
    },
)


@settings(max_examples=300, deadline=None)
@given(REQUEST | st.lists(REQUEST | JSON, max_size=5))
def test_any_request_gets_a_valid_answer(value):
    check_answer(jsonrpc.handle(Table(), json.dumps(value).encode(), CALLER))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text('{}[]":,\\u0d8e truefalsn.-+ ', max_size=60).map(str.encode))
def test_any_bytes_get_a_valid_answer(data):
    check_answer(jsonrpc.handle(Table(), data, CALLER))


def check_answer(reply):
    if reply is None:
        return
    assert b"\n" not in reply
    value = json.loads(reply)
    for item in value if isinstance(value, list) else [value]:
        assert item["jsonrpc"] == "2.0"
        assert set(item) in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
        if "error" in item:
            assert isinstance(item["error"]["code"], int)
            assert isinstance(item["error"]["message"], str)
