# SPDX-License-Identifier: GPL-2.0-or-later
import errno
import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind import names_journal
from spind.names_journal import ENTRIES, FULL_BYTES, LIVE_BYTES, NamesJournal

V4, V6 = bytes([192, 0, 2, 1]), bytes([0x20, 1, 0xD, 0xB8, *bytes(11), 1])
ROOT = Path(__file__).parents[2]


@pytest.fixture
def journal(tmp_path):
    journal = NamesJournal(str(tmp_path / "history"))
    assert journal.load(0) == []
    return journal


def again(journal, now=0.0):
    return NamesJournal(str(journal.path.parent)).load(now)


def on_disk(journal):
    return sum(entry.stat().st_size for entry in journal.path.parent.iterdir())


def test_what_was_noted_comes_back_in_order(journal):
    journal.note(V4, "a.example", 100)
    journal.note(V6, "b.example", 50)
    journal.note(V6, "a.example", 60)
    journal.note(V4, "a.example", 110)
    assert again(journal) == [(V6, "b.example", 50), (V6, "a.example", 60), (V4, "a.example", 110)]
    assert again(journal, now=59.5) == [(V6, "a.example", 60), (V4, "a.example", 110)]
    assert again(journal, now=110) == []
    assert again(journal) == [], "what had ended is not written again"


def test_only_the_owner_may_read_it(journal):
    journal.note(V4, "a.example", 100)
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.path.parent.stat().st_mode) == 0o700


def test_what_is_known_is_not_written_again(journal):
    journal.note(V4, "a.example", 100)
    before = journal.path.read_bytes()
    journal.note(V4, "a.example", 100)
    journal.note(V4, "a.example", 99)
    assert journal.path.read_bytes() == before
    assert again(journal) == [(V4, "a.example", 100)]


@pytest.mark.parametrize(
    ("address", "name", "expires"),
    [
        (V4, "", 1),
        (V4, "a b", 1),
        (V4, "a\nb", 1),
        (V4, "\x7f", 1),
        (V4, "é.example", 1),
        (V4, "x" * 1025, 1),
        (b"", "a.example", 1),
        (V4 + b"x", "a.example", 1),
        (V4, "a.example", -1),
        (V4, "a.example", 10**15),
    ],
)
def test_what_is_no_name_is_left_out(journal, address, name, expires):
    journal.note(V4, "good.example", 5)
    journal.note(address, name, expires)
    assert again(journal) == [(V4, "good.example", 5)]


def test_each_call_is_one_write(journal, monkeypatch):
    journal.note(V4, "a.example", 100)
    writes = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(data) or real(fd, data))
    journal.note(V6, "b.example", 100)
    assert len(writes) == 1
    assert writes[0].endswith(b" b.example\n")


@pytest.mark.parametrize("cut", range(2, 40))
def test_a_torn_line_is_left_out_and_what_follows_is_not(journal, cut):
    journal.note(V4, "a.example", 100)
    journal.note(V6, "bb.example", 100)
    journal.path.write_bytes(journal.path.read_bytes()[:-cut])
    fresh = NamesJournal(str(journal.path.parent))
    assert fresh.load(0) == [(V4, "a.example", 100)]
    fresh.note(V4, "c.example", 100)
    assert again(fresh) == [(V4, "a.example", 100), (V4, "c.example", 100)]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8), st.binary(max_size=40))
@settings(max_examples=150, deadline=None)
def test_damage_costs_lines_and_invents_none(tmp_path_factory, changes, tail):
    journal = NamesJournal(str(tmp_path_factory.mktemp("journal")))
    journal.load(0)
    good = [(bytes([10, 0, 0, n]), f"host{n}.example", 100 + n) for n in range(8)]
    for entry in good:
        journal.note(*entry)
    data = bytearray(journal.path.read_bytes())
    lines = data.count(b"\n")
    for at, value in changes:
        data[at % len(data)] = value
    journal.path.write_bytes(bytes(data) + tail)
    entries = again(journal)
    assert set(entries) <= set(good)
    assert len(entries) >= lines - 2 * len(changes)


def test_it_stays_bounded_and_keeps_the_newest(journal, monkeypatch):
    monkeypatch.setattr(names_journal, "FULL_BYTES", 40_000)
    monkeypatch.setattr(names_journal, "ENTRIES", 300)
    rng = random.Random("journal")
    newest: dict[tuple[bytes, str], int] = {}
    turns, most = 0, 0
    had_old = False
    for step in range(20_000):
        key = (rng.randrange(1000).to_bytes(4, "big"), f"h{rng.randrange(2)}.example")
        journal.note(*key, step)
        newest.pop(key, None)
        newest[key] = step
        has_old = journal.path.with_name("names.journal.old").exists()
        turns += has_old and not had_old
        had_old = has_old
        if step % 97 == 0:
            most = max(most, on_disk(journal))
        if step % 1009 == 0 or (has_old and step % 31 == 0):
            assert again_without_writing(journal) == dict(list(newest.items())[-300:])
    assert turns > 5
    assert most < 2 * 40_000 + 300 * 60


def again_without_writing(journal):
    """What a start would find now, on a copy."""
    copy = journal.path.parent.with_name("copy")
    copy.mkdir(exist_ok=True)
    for path in copy.iterdir():
        path.unlink()
    for path in journal.path.parent.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    found = NamesJournal(str(copy))
    return {(address, name): expires for address, name, expires in found.load(-1)}


@pytest.mark.parametrize("length", [1, 250, 1024])
def test_real_bounds_hold_for_names_of_any_length(journal, length):
    most = 0
    for number in range(3 * ENTRIES):
        journal.note(number.to_bytes(4, "big"), f"{number:x}".rjust(length, "x"), 100)
        if number % 500 == 0:
            most = max(most, on_disk(journal))
    assert most < 2 * FULL_BYTES
    entries = again(journal)
    assert entries[-1][0] == (3 * ENTRIES - 1).to_bytes(4, "big")
    assert len(entries) == (ENTRIES if length == 1 else LIVE_BYTES // (length + 32))


def test_compact(journal):
    for number in range(50):
        journal.note(V4, f"n{number}.example", 100)
    journal.compact([(V6, "a.example", 7), (V4, "n1.example", 9)])
    journal.note(V6, "b.example", 8)
    assert again(journal) == [(V6, "a.example", 7), (V4, "n1.example", 9), (V6, "b.example", 8)]


def test_a_disk_that_fails_is_told_once_and_harms_nobody(tmp_path, caplog):
    (tmp_path / "history").write_text("in the way")
    journal = NamesJournal(str(tmp_path / "history"))
    assert journal.load(0) == []
    for number in range(10):
        journal.note(V4, f"n{number}.example", 100)
    journal.compact([(V6, "a.example", 7)])
    assert [record.levelname for record in caplog.records if "cannot write" in record.message] == ["WARNING"]


def test_a_full_disk_leaves_no_part_of_a_line(journal, monkeypatch, caplog):
    journal.note(V4, "a.example", 100)
    before = journal.path.read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    journal.note(V4, "b.example", 100)
    monkeypatch.undo()
    assert journal.path.read_bytes() == before
    assert os.strerror(errno.ENOSPC) in caplog.text
    assert again(journal) == [(V4, "a.example", 100)]


def test_a_killed_process_loses_nothing(tmp_path):
    script = """
import sys
from spind.names_journal import NamesJournal
journal = NamesJournal(sys.argv[1])
journal.load(0)
number = 0
while True:
    journal.note((number % 50000).to_bytes(4, "big"), "host.example", number)
    number += 1
    if number % 100 == 0:
        print(number, flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        while int(child.stdout.readline()) < 20_000:
            pass
        child.send_signal(signal.SIGKILL)
        noted = max(map(int, child.stdout.read().split()), default=20_000)
    finally:
        child.kill()
        child.wait(30)
        child.stdout.close()
    entries = NamesJournal(str(tmp_path)).load(-1)
    assert len(entries) == ENTRIES
    last = entries[-1][2]
    assert last >= noted - 1
    assert [expires for _, _, expires in entries] == list(range(last - ENTRIES + 1, last + 1))
