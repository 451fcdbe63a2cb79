# SPDX-License-Identifier: GPL-2.0-or-later
"""The log: levels, inert lines, and repeating errors once."""

import io
import logging

import pytest

from spind import logs


@pytest.fixture
def root():
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    yield root
    for handler in list(root.handlers):
        if handler not in before[1]:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(before[0])


def test_levels(root):
    out = io.StringIO()
    logs.setup(4, stream=out)
    log = logging.getLogger("spind.x")
    log.error("an error")
    log.warning("a warning")
    log.log(logs.NOTICE, "a notice")
    log.info("an information")
    assert out.getvalue() == "ERROR spind.x: an error\nWARNING spind.x: a warning\n"


@pytest.mark.parametrize(
    ("level", "logged"),
    [(-1, "c"), (0, "c"), (2, "c"), (3, "ce"), (4, "cew"), (5, "cewn"), (6, "cewni"), (7, "cewnid")],
)
def test_syslogs_levels(root, level, logged):
    out = io.StringIO()
    logs.setup(level, stream=out)
    log = logging.getLogger("spind.x")
    for number, letter in zip((50, 40, 30, logs.NOTICE, 20, 10), "cewnid", strict=True):
        log.log(number, letter)
    assert "".join(line[-1] for line in out.getvalue().splitlines()) == logged


@pytest.mark.parametrize(
    ("level", "priority"), [(50, 2), (40, 3), (30, 4), (25, 5), (20, 6), (10, 7), (5, 7)]
)
def test_priorities(level, priority):
    assert logs.syslog_priority(level) == priority


def test_a_second_setup_replaces_the_first(root):
    first, second = io.StringIO(), io.StringIO()
    logs.setup(6, stream=first)
    logs.setup(6, stream=second)
    logging.getLogger("spind.x").info("once")
    assert (first.getvalue(), second.getvalue()) == ("", "INFO spind.x: once\n")


def test_lines_cannot_be_forged(root):
    out = io.StringIO()
    logs.setup(7, stream=out)
    log = logging.getLogger("spind.x")
    log.info("name %s", "evil\nERROR spind.x: forged\x1b[2J\u202e")
    try:
        int("trace\rforged\x1b[2J\u202e", 99)
    except ValueError:
        log.exception("failed")
    error = ValueError("trace\rforged\x1b[2J")
    log.error("failed", exc_info=(ValueError, error, None))
    text = out.getvalue()
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.count("\nERROR spind.x") == 2
    assert "Traceback" in text


def test_syslog(root, monkeypatch):
    lines = []
    monkeypatch.setattr(logs.syslog, "syslog", lambda priority, line: lines.append((priority, line)))
    logs.setup(6, use_syslog=True)
    logging.getLogger("spind.x").warning("a %s", "warning")
    error = ValueError("why")
    logging.getLogger("spind.x").error("failed", exc_info=(ValueError, error, None))
    assert lines[0] == (4, "spind.x: a warning")
    assert lines[1] == (3, "spind.x: failed")
    assert lines[-1] == (3, "ValueError: why")


def test_once(root):
    out = io.StringIO()
    repeats = logs.setup(6, stream=out)
    log = logging.getLogger("spind.x")
    for number in range(100):
        log.warning("malformed: %d", number, extra=logs.ONCE)
    log.warning("normal")
    log.warning("normal")
    log.warning("malformed: %d", 0, extra={"once": "other"})
    logging.getLogger("spind.y").warning("malformed: %d", 0, extra=logs.ONCE)
    assert out.getvalue().splitlines() == [
        "WARNING spind.x: malformed: 0",
        "WARNING spind.x: normal",
        "WARNING spind.x: normal",
        "WARNING spind.x: malformed: 0",
        "WARNING spind.y: malformed: 0",
    ]
    assert repeats.suppressed == 99


def test_the_memory_of_repeats_is_bounded():
    repeats = logs.RepeatFilter(limit=10)

    def passes(text):
        record = logging.LogRecord("x", 30, "", 0, text, None, None)
        record.once = True
        return repeats.filter(record)

    assert all(passes(f"m{number}") for number in range(1000))
    assert len(repeats._seen) == 10
    assert not passes("m999")
    assert passes("m0")
