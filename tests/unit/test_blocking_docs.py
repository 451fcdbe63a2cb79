# SPDX-License-Identifier: GPL-2.0-or-later
"""The worked examples of docs/blocking.md are true: the command line decides, the policy is asked."""

import re
from pathlib import Path

import pytest
from rpc_server import serving
from test_api import Bench
from test_engine import CAMERA, CAMERA_V4, CDN, PHONE, PHONE_V4, T0

from spind import cli
from spind.events import LeaseSeen
from spind.model import parse_address
from spind.rules import AUTHORS

DOCUMENT = Path(__file__).parents[2] / "docs" / "blocking.md"
DEVICES = {"camera": CAMERA, "phone": PHONE}


def examples():
    """(what is decided, connection, result) of each row."""
    text = (
        DOCUMENT.read_text().partition("<!-- examples: begin -->")[2].partition("<!-- examples: end -->")[0]
    )
    rows = [line.strip("|").split("|") for line in text.strip().splitlines()[2:]]
    return [(tuple(re.findall("`([^`]+)`", row[0])), row[1].strip(" `"), row[2].strip()) for row in rows]


def test_there_are_examples():
    assert len(examples()) > 20
    assert {result for _, _, result in examples()} == {"blocked", "allowed"}


@pytest.mark.parametrize(("decided", "connection", "result"), examples())
def test_example(tmp_path, decided, connection, result):
    bench = Bench()
    engine = bench.engine
    engine.handle(LeaseSeen(CAMERA, CAMERA_V4, "camera"), T0 + 2)
    engine.handle(LeaseSeen(PHONE, PHONE_V4, "phone"), T0 + 2)
    path = tmp_path / "rpc.sock"
    with serving(bench.api, path):
        for words in decided:
            assert cli.main([*words.split(), "--socket", str(path)]) == 0
    device, _, to = connection.partition(" → ")
    host, _, port = to.partition(":")
    name, address = ("", parse_address(host)) if host[0].isdigit() else (host, CDN)
    rules = [engine.policy.decide(DEVICES[device], name, address, 6, int(port or 443))]
    peer = engine.nodes.device_at(address)
    if peer is not None:  # its rules are asked, too
        rules.append(
            engine.policy.decide(peer.mac, "", {CAMERA: CAMERA_V4, PHONE: PHONE_V4}[DEVICES[device]], 6, 5000)
        )
    blocked = any(rule is not None and rule.action == "block" for rule in rules)
    assert ("blocked" if blocked else "allowed") == result


def test_authors_are_named_in_their_order():
    assert f"| 1 | {', '.join(AUTHORS)} |" in DOCUMENT.read_text()
