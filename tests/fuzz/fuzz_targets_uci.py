# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz targets: UCI text and the configuration in it."""

import re
from typing import Any

from fuzz_targets import Target

from spind.config import Config, Problem, load
from spind.uci import Package, UciError, decode, dump, encode, parse
from spind.uci_edit import AddSection, RemoveOption, SetList, SetOption, edit

# UCI

UCI = [
    b"config spind 'spind'\n\toption enabled '1'\n\tlist lan 'br-lan'\n\tlist lan '192.168.1.0/24'\n",
    b"package spin\n\nconfig device\n\toption mac \"02:00:c0:ff:ee:01\"\n\toption name 'it'\\''s mine'\n",
    b"config rule 'r1' # comment\n  option action block; option port 23\n  option comment 'two\nlines'\n",
    b'config profile kids\n list block_domain a\\\n.example\n option default "al\\"low"\n',
    "config device\n\toption name 'Käse \U0001f4fa'\n".encode(),
]
UCI_TOKENS = [
    b"config ", b"option ", b"list ", b"package ", b"'", b'"', b"\\", b"\n", b"\r\n", b"#", b";", b" ", b"\t",
    b"\\\n", b"''", b"\0", b"\xff", b"a", b"c ", b"o ", b"l ",
]  # fmt: skip
CONFIG = [
    *UCI,
    b"config spind 'spind'\n\toption mode 'bridge'\n\toption log_loglevel '7'\n\toption pubsub_port '1883'\n",
    b"config spind 'spind'\n\toption ctmark_mask '0xff00'\n\toption pubsub_host '::1'\n\tlist lan '::/8'\n",
    b"config spind 'spind'\n\toption state_dir '/tmp/spin'\n\toption node_cache_retain_time '1800'\n",
    b"config site\n\toption domain 'example.com'\n\toption name 'Ours'\n\toption ignore '1'\n",
    b"config device\n\toption mac '02:00:c0:ff:ee:01'\n\toption ignore 'yes'\n\toption id '7'\n",
]
CONFIG_TOKENS = [
    *UCI_TOKENS, b"'0x", b"99999999999", b"-1", b"/", b"::", b"..", b"option lan '", b"option pubsub_port '",
    b"spind", b"1e9", b"nan", b"\xe2\x80\xae", b"\xed\xa0\x80",
]  # fmt: skip


# Targets

PLAIN = re.compile(r"[A-Za-z0-9_-]+").fullmatch


def check_uci(data: bytes, package: Package) -> None:
    assert encode(decode(data)) == data
    # What we write is read back as what it was, unless it has a type that needs quotes:
    # libuci writes those bare, and so do we.
    if not all(PLAIN(section.type) for section in package.sections):
        return
    written = dump(package)
    again = parse(written)
    assert [(s.type, s.options) for s in again.sections] == [(s.type, s.options) for s in package.sections]


def edited(data: bytes) -> str:
    text = decode(data)
    changes: list[Any] = [AddSection("rule", "added", {"port": "23", "day": ["mon", "it's"]})]
    for section in parse(text).sections[-1:]:
        changes += [
            SetOption(section.name, "name", "a 'b'"),
            SetList(section.name, "lan", ["x", "y z"]),
            RemoveOption(section.name, "option"),
        ]
    return edit(text, changes)


def check_edited(_data: bytes, text: str) -> None:
    added = parse(text).named("added")
    assert added is not None
    assert added.type == "rule"
    assert added.options["port"] == "23"


def check_config(_data: bytes, result: tuple[Config, list[Problem]]) -> None:
    for problem in result[1]:
        assert str(problem)


TARGETS = {
    "uci": Target(lambda data: parse(decode(data)), (UciError,), UCI, UCI_TOKENS, check_uci),
    "uci-edit": Target(edited, (UciError,), UCI, UCI_TOKENS, check_edited),
    "config": Target(lambda data: load(decode(data)), (UciError,), CONFIG, CONFIG_TOKENS, check_config),
}
