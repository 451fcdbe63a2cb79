# SPDX-License-Identifier: GPL-2.0-or-later
import os
import stat

import pytest

from spind.audit_file import ENTRIES, ENTRY_BYTES, MAX_BYTES, AuditFile
from spind.store import StoreError


@pytest.fixture
def audit(tmp_path):
    return AuditFile(str(tmp_path / "run" / "history"))


def fresh(audit):
    return AuditFile(str(audit.path.parent))


def test_entries_come_back_in_order(audit):
    assert audit.load() == []
    entries = [{"n": 1, "what": "é\n'\x00"}, {"n": 2, "before": None, "after": [1, {"a": True}]}, {}]
    for entry in entries:
        audit.append(entry)
    assert audit.load() == entries
    assert fresh(audit).load() == entries
    assert audit.path.read_bytes().count(b"\n") == 3
    assert stat.S_IMODE(audit.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(audit.path.parent.stat().st_mode) == 0o700


def test_an_entry_is_one_write(audit, monkeypatch):
    audit.append({"n": 0})
    writes = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(data) or real(fd, data))
    audit.append({"n": 1})
    assert writes == [b'{"n":1}\n']


def test_the_newest_are_kept(audit):
    for number in range(ENTRIES + 2 * (ENTRIES // 4) + 100):
        audit.append({"n": number})
        if number % 50 == 0:
            assert audit.path.read_bytes().count(b"\n") <= ENTRIES + ENTRIES // 4
            assert [entry["n"] for entry in audit.load()] == list(range(number + 1))[-ENTRIES:]
    assert [entry["n"] for entry in fresh(audit).load()] == list(range(number + 1))[-ENTRIES:]
    assert [path.name for path in audit.path.parent.iterdir()] == ["audit.jsonl"]


def test_large_entries_are_bounded_by_bytes(audit):
    text = "x" * (ENTRY_BYTES - 100)
    for number in range(50):
        audit.append({"n": number, "text": text})
        assert audit.path.stat().st_size <= MAX_BYTES
    kept = [entry["n"] for entry in audit.load()]
    assert kept == list(range(50))[-len(kept) :]
    assert len(kept) * ENTRY_BYTES > MAX_BYTES // 2


@pytest.mark.parametrize(
    "tail", [b'{"n":', b'{"n":3}', b"\xff\xfe", b"[1]\n", b"null\n", b"[" * 30_000, b"\n\n"]
)
def test_what_is_torn_is_left_out_and_what_follows_is_not(audit, tail):
    audit.append({"n": 1})
    with audit.path.open("ab") as file:
        file.write(tail)
    again = fresh(audit)
    before = again.load()
    assert before[0] == {"n": 1}
    again.append({"n": 2})
    assert again.load() == [*before, {"n": 2}]


def test_what_is_no_entry_changes_nothing(audit):
    audit.append({"n": 1})
    before = audit.path.read_bytes()
    for entry in ({"text": "x" * ENTRY_BYTES}, {"n": float("nan")}):
        with pytest.raises(ValueError):
            audit.append(entry)
    assert audit.path.read_bytes() == before


def test_a_full_disk_leaves_no_part_of_an_entry(audit, monkeypatch):
    audit.append({"n": 1})
    before = audit.path.read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    with pytest.raises(StoreError, match="No space left"):
        audit.append({"n": 2})
    monkeypatch.undo()
    assert audit.path.read_bytes() == before
    audit.append({"n": 3})
    assert audit.load() == [{"n": 1}, {"n": 3}]


def test_what_cannot_be_written_or_read_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    audit = AuditFile(str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"cannot write .*audit\.jsonl"):
        audit.append({"n": 1})
    audit = AuditFile(str(tmp_path))
    audit.path.mkdir()
    with pytest.raises(StoreError, match="not a regular file"):
        audit.load()
    with pytest.raises(StoreError, match="directory"):
        audit.append({"n": 1})
