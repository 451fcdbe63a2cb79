# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: exit statuses, where output goes, typed arguments, help."""

import json
import os
import subprocess
import sys

import pytest
from rpc_server import serving
from test_api import Bench

from spind import __version__, cli
from spind.cli_text import UsageError, parse_arguments, readable


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "rpc.sock"
    with serving(Bench().api, path):
        yield str(path)


def spind(capsys, *words):
    """Exit status, standard output, standard error."""
    try:
        status = cli.main(words)
    except SystemExit as error:
        status = error.code
    out = capsys.readouterr()
    return status, out.out, out.err


def test_call_prints_json(capsys, path):
    status, out, err = spind(capsys, "call", "list_devices", "--socket", path)
    assert (status, err) == (0, "")
    assert [node["mac"] for node in json.loads(out)] == ["02:00:00:00:08:11", "02:00:00:00:08:12"]
    assert out.startswith("[\n  {\n")
    status, compact, _ = spind(capsys, "call", "--socket", path, "list_devices", "--json")
    assert (status, json.loads(compact)) == (0, json.loads(out))
    assert compact.count("\n") == 1


def test_call_with_arguments_before_and_behind_options(capsys, path):
    status, out, _ = spind(
        capsys, "call", "list_nodes", "kind=device", "--socket", path, "--json", "limit=1", "offset=1"
    )
    assert status == 0
    assert [node["mac"] for node in json.loads(out)["items"]] == ["02:00:00:00:08:12"]


def test_a_text_argument_stays_text(capsys, path):
    devices = json.loads(spind(capsys, "call", "list_devices", "--socket", path)[1])
    ident = f"node={devices[-1]['id']}"
    status, out, err = spind(capsys, "call", "set_device_name", ident, "name=42", "--socket", path)
    assert (status, out, err) == (0, "", "")
    reply = json.loads(spind(capsys, "call", "get_device_data", ident, "--socket", path)[1])
    assert reply["name"] == "42"
    assert spind(capsys, "call", "set_device_name", ident, "name=", "--json", "--socket", path)[1] == "null\n"


def test_a_refusal_is_status_1_and_a_sentence(capsys, path):
    assert spind(capsys, "call", "get_device_data", "node=99999", "--socket", path) == (
        1,
        "",
        "spind call: Unknown node id\n",
    )
    status, out, err = spind(capsys, "call", "no_such_method", "a=1", "--socket", path)
    assert (status, out) == (1, "")
    assert "no_such_method" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["get_device_data", "node"], "name=value"),
        (["get_device_data", "=5"], "name=value"),
        (["get_device_data", "node=five"], "whole number"),
        (["get_device_data", "node=1", "node=2"], "twice"),
        (["get_device_data", "--nonsense"], "unrecognized"),
        ([], "METHOD"),
    ],
)
def test_wrong_usage_is_status_2(capsys, path, words, sentence):
    status, out, err = spind(capsys, "call", *words, "--socket", path)
    assert (status, out) == (2, "")
    assert sentence in err


def test_no_daemon(capsys, tmp_path):
    for command in (["call", "status"], ["status"], ["top", "--once"]):
        status, out, err = spind(capsys, *command, "--socket", str(tmp_path / "none"))
        assert (status, out) == (1, "")
        assert "spind does not run" in err


def test_the_socket_comes_from_the_configuration(capsys, path, tmp_path):
    config = tmp_path / "spin"
    config.write_text(f"config spind 'spind'\n\toption rpc_socket '{path}'\n")
    assert spind(capsys, "call", "get_flow_block", "-c", str(config)) == (0, "[]\n", "")
    config.write_text("config spind 'spind'\n\toption rpc_socket '/x\n")
    status, _, err = spind(capsys, "status", "-c", str(config))
    assert status == 1
    assert str(config) in err
    status, _, err = spind(capsys, "status", "-c", str(tmp_path / "absent"))
    assert (status, "does not exist" in err) == (1, True)
    status, _, err = spind(capsys, "status", "-c", str(tmp_path))
    assert (status, "cannot read" in err) == (1, True)


def test_status_is_readable(capsys, path):
    status, out, _ = spind(capsys, "status", "--socket", path)
    assert status == 0
    assert out.startswith(f"version: {__version__}\n")
    assert "\n  " in out
    assert json.loads(spind(capsys, "status", "--json", "--socket", path)[1])["version"] == __version__


def test_top_prints_a_snapshot_where_there_is_no_terminal(capsys, path):
    status, out, err = spind(capsys, "top", "--once", "--interval", "0.2", "--socket", path)
    assert (status, err) == (0, "")
    assert "02:00:00:00:08:11" in out
    assert "vendor.test" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    "words",
    [
        ["top", "--count", "0"],
        ["top", "--interval", "nan"],
        ["top", "--interval", "0"],
        ["run", "--log-level", "x"],
        [],
        ["x"],
    ],
)
def test_wrong_words(capsys, words):
    assert spind(capsys, *words)[0] == 2


def test_version(capsys):
    assert spind(capsys, "version") == (0, f"spind {__version__}\n", "")
    assert spind(capsys, "--version") == (0, f"spind {__version__}\n", "")


@pytest.mark.parametrize("command", ["run", "call", "status", "top"])
def test_help_has_examples(capsys, command):
    status, out, _ = spind(capsys, command, "--help")
    assert status == 0
    assert f"examples:\n  spind {command}" in out


@pytest.mark.parametrize("command", ["replay", "lab"])
def test_subcommands_of_other_modules(capsys, command):
    status, out, _ = spind(capsys, command, "--help")
    assert (status, f"spind {command}" in out) == (0, True)
    assert command in spind(capsys, "--help")[1]


def test_a_part_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.setitem(cli._MODULES, "lab", ("spind.no_such_module", "absent"))
    status, _, err = spind(capsys, "lab", "up")
    assert (status, "not part of this installation" in err) == (1, True)
    assert spind(capsys, "version")[0] == 0


def test_call_imports_little():
    """What ``spind call`` does not need would only make it slow."""
    code = (
        "import sys; from spind import cli; cli.main(['call', 'x', '--socket', '/nonexistent/x']);"
        "print(*sorted(m for m in sys.modules if m.startswith('spind') or m in ('asyncio', 'paho', 'scapy')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = {"spind", "spind.cli", "spind.cli_calls", "spind.cli_text", "spind.client", "spind.text"}
    assert set(result.stdout.split()) == expected


def test_output_into_a_closed_pipe(path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "spind", "call", "list_rpc_methods", "--socket", path]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")


METHODS = [
    {
        "rpc-name": "m",
        "rpc-args": [
            {"rpc-arg-name": "s", "rpc-arg-type": "string"},
            {"rpc-arg-name": "i", "rpc-arg-type": "integer"},
            {"rpc-arg-name": "b", "rpc-arg-type": "boolean"},
            {"rpc-arg-name": "c", "rpc-arg-type": "complex"},
        ],
    }
]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("s=42", "42"),
        ("s=", ""),
        ("s=a=b", "a=b"),
        ('s="q"', '"q"'),
        ("i=-7", -7),
        ("b=yes", True),
        ("b=0", False),
        ('c={"a":1}', {"a": 1}),
        ("other=5", 5),
        ("other=text", "text"),
        ("other=[1", "[1"),
    ],
)
def test_values_have_the_type_of_the_argument(word, value):
    assert parse_arguments([word], "m", METHODS) == {word.partition("=")[0]: value}


@pytest.mark.parametrize("word", ["i=1.5", "i=", "b=maybe", "c={", "c=text"])
def test_values_that_do_not_fit(word):
    with pytest.raises(UsageError, match="must be"):
        parse_arguments([word], "m", METHODS)


def test_readable():
    value = {"a": 1234567, "b": True, "c": None, "d": "", "e": [], "f": {"g": ["x", {"h": 1.5}]}}
    value["i"] = "\x1b[2J"
    assert readable(value) == [
        "a: 1,234,567",
        "b: yes",
        "c: -",
        "d: -",
        "e: none",
        "f:",
        "  g:",
        "    - x",
        "    -",
        "      h: 1.5",
        "i: �[2J",
    ]
