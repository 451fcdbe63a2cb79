# SPDX-License-Identifier: GPL-2.0-or-later
"""The blocking client: results, refusals, and every way that a daemon may fail to answer."""

import socket

import pytest
from rpc_server import answering, serving
from test_api import Bench

from spind import client as client_module
from spind.client import CallError, Client, ClientError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rpc.sock"


def test_several_calls_over_one_connection(path):
    with serving(Bench().api, path), Client(str(path)) as client:
        macs = [node["mac"] for node in client.call("list_devices")]
        assert macs == ["02:00:00:00:08:11", "02:00:00:00:08:12"]
        assert client.call("get_flow_block") == []
        assert client.call("list_iplist", {"list": "ignore"}) == []
        assert client.call("reset_iplist_ignore") is None


def test_a_refusal_has_code_and_sentence(path):
    with serving(Bench().api, path), Client(str(path)) as client:
        with pytest.raises(CallError, match="Unknown node id") as error:
            client.call("get_device_data", {"node": 99999})
        assert error.value.code == -1
        with pytest.raises(CallError) as error:
            client.call("no_such_method")
        assert error.value.code == -32601


def test_nobody_there(path):
    with pytest.raises(ClientError, match="spind does not run"):
        Client(str(path))
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with pytest.raises(ClientError, match="spind does not run"):
        Client(str(path))


def test_a_path_that_cannot_be():
    with pytest.raises(ClientError, match="cannot connect"):
        Client("/" + "x" * 200)


def test_no_permission(path, monkeypatch):
    def refuse(_self, _path):
        raise PermissionError(13, "Permission denied")

    # Tests run as root, whom no mode keeps out.
    monkeypatch.setattr(client_module.socket, "socket", type("Socket", (socket.socket,), {"connect": refuse}))
    with pytest.raises(ClientError, match="try as root"):
        Client(str(path))


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (b"", "closed the connection"),
        (b'{"jsonrpc"', "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n", "is not spind"),
        (b"[]\n", "is not spind"),
        (b'{"jsonrpc":"2.0","id":99,"result":1}\n', "is not spind"),
        (b"x" * 600_000 + b"\n", "more than"),
    ],
)
def test_strange_answers(path, reply, sentence):
    with answering(path, reply), Client(str(path)) as client, pytest.raises(ClientError, match=sentence):
        client.call("status")


def test_an_error_without_code_is_still_an_error(path):
    reply = b'{"jsonrpc":"2.0","id":1,"error":{}}\n'
    with answering(path, reply), Client(str(path)) as client, pytest.raises(CallError):
        client.call("status")


def test_a_daemon_that_does_not_answer(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    with Client(str(path), timeout=0.2) as client, pytest.raises(ClientError, match=r"within 0\.2 seconds"):
        client.call("status")
    listener.close()
