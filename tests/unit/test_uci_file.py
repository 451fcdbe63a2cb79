# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of ours beside those of ``uci commit``, in each order that may happen."""

import fcntl
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from uci_binary import UCI

from spind import uci_file
from spind.atomic import StoreError
from spind.changes import RuleChange
from spind.rules import Rule
from spind.store import Store
from spind.uci import parse
from spind.uci_file import UciFile

TEXT = "# ours\nconfig spind 'spind'\n\toption mode 'router'\n\nconfig other 'other'\n\toption a '1'\n"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "config" / "spin"
    file.parent.mkdir()
    file.write_bytes(b"a\n")
    return file


@pytest.fixture
def file(path):
    return UciFile(str(path), 1 << 20)


def add(text):
    return lambda data: data + text


class Commit:
    """``uci commit`` step by step, as libuci does it (``uci_file_commit`` in its ``file.c``)."""

    def __init__(self, path, text):
        self.path = path
        self.text = text
        self.temporary = path.with_name(".spin.uci-A1b2C3")

    def open(self):
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT)

    def lock(self):
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def write(self):
        data = os.pread(self.fd, 1 << 20, 0)
        self.temporary.write_bytes(data + self.text)

    def unlock(self):
        os.close(self.fd)

    def rename(self):
        self.temporary.rename(self.path)


class Ours:
    """A change of ours in a thread."""

    def __init__(self, file, text):
        self.thread = threading.Thread(target=file.rewrite, args=(add(text),))
        self.thread.start()

    def is_waiting(self):
        self.thread.join(0.1)
        return self.thread.is_alive()

    def finish(self):
        self.thread.join(30)
        assert not self.thread.is_alive()


def others(path):
    return [entry.name for entry in path.parent.iterdir() if entry.name != path.name]


def test_what_is_so_already_is_not_written(file, path):
    before = path.stat()
    assert file.rewrite(lambda data: data) is False
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert file.rewrite(add(b"b\n")) is True
    assert file.read() == b"a\nb\n"
    assert others(path) == []


def test_a_commit_that_has_not_renamed_yet_is_awaited(file, path):
    commit = Commit(path, b"theirs\n")
    commit.open()
    commit.lock()
    commit.write()
    commit.unlock()
    ours = Ours(file, b"ours\n")
    assert ours.is_waiting()
    commit.rename()
    ours.finish()
    assert path.read_bytes() == b"a\ntheirs\nours\n"


def test_a_commit_that_waits_for_our_lock_reads_what_we_wrote(file, path):
    commit = Commit(path, b"theirs\n")
    commit.open()
    file.rewrite(add(b"ours\n"))
    commit.lock()
    commit.write()
    commit.unlock()
    commit.rename()
    assert path.read_bytes() == b"a\nours\ntheirs\n"


@pytest.mark.parametrize("step", ["open", "lock", "write", "unlock"])
def test_a_commit_that_has_the_file_before_our_last_change_is_awaited(file, path, step):
    commit = Commit(path, b"theirs\n")
    commit.open()
    file.rewrite(add(b"one\n"))
    steps = ["lock", "write", "unlock", "rename"]
    for name in steps[: steps.index(step) + 1 if step != "open" else 0]:
        getattr(commit, name)()
    ours = Ours(file, b"two\n")
    assert ours.is_waiting()
    for name in steps[steps.index(step) + 1 if step != "open" else 0 :]:
        getattr(commit, name)()
    ours.finish()
    assert path.read_bytes() == b"a\none\ntheirs\ntwo\n"


def test_what_somebody_else_linked_stays_as_it_is(file, path, tmp_path):
    kept = tmp_path / "kept"
    os.link(path, kept)
    file.rewrite(add(b"ours\n"))
    assert kept.read_bytes() == b"a\n"
    with kept.open("r+b"):
        file.rewrite(add(b"more\n"))
    assert path.read_bytes() == b"a\nours\nmore\n"


def test_a_crashed_commit_is_not_awaited(file, path):
    left = path.with_name(".spin.uci-Zz9999")
    left.write_bytes(b"x")
    long_ago = time.time() - 60
    os.utime(left, (long_ago, long_ago))
    assert file.rewrite(add(b"ours\n")) is True
    assert others(path) == [left.name]


def test_a_commit_that_never_ends_is_given_up(file, path, monkeypatch):
    monkeypatch.setattr(uci_file, "LOCK_SECONDS", 0.05)
    path.with_name(".spin.uci-Zz9999").write_bytes(b"x")
    with pytest.raises(OSError, match="another program is changing it"):
        file.rewrite(add(b"ours\n"))
    assert path.read_bytes() == b"a\n"


def test_one_that_never_closes_the_old_file_is_given_up(file, path, monkeypatch):
    monkeypatch.setattr(uci_file, "LOCK_SECONDS", 0.05)
    with path.open("r+b"):
        file.rewrite(add(b"one\n"))
        with pytest.raises(OSError, match="another program is changing it"):
            file.rewrite(add(b"two\n"))
    file.rewrite(add(b"three\n"))
    assert path.read_bytes() == b"a\none\nthree\n"


def test_descriptors_do_not_pile_up(file, path):
    before = len([*Path("/proc/self/fd").iterdir()])
    for number in range(50):
        with path.open("rb"):  # a reader, which is not awaited
            file.rewrite(add(b"%d\n" % number))
    assert len([*Path("/proc/self/fd").iterdir()]) <= before + 1


@pytest.mark.parametrize("name", [".spin.0123456789ab", ".spin.ffffffffffff"])
def test_what_a_killed_process_left_is_swept_away(path, name):
    left = path.with_name(name)
    left.write_bytes(b"x")
    os.utime(left, (1, 1))
    for keep in (".spin.uci-0123456789", ".spin.0123456789AB", ".spin.0123456789abc", ".other.0123456789ab"):
        path.with_name(keep).write_bytes(b"x")
        os.utime(path.with_name(keep), (1, 1))
    UciFile(str(path), 1 << 20).read()
    assert not left.exists()
    assert len(others(path)) == 4


def test_what_another_process_is_writing_now_is_left_alone(path):
    file = UciFile(str(path), 1 << 20)
    new = path.with_name(".spin.0123456789ab")
    new.write_bytes(b"x")
    soon = time.time() + 1
    os.utime(new, (soon, soon))
    assert file.rewrite(add(b"ours\n")) is True
    assert others(path) == [new.name]


@pytest.fixture
def uci(path, tmp_path):
    if UCI is None:
        pytest.skip("the uci program is not installed")
    path.write_text(TEXT)
    command = [UCI, "-c", str(path.parent), "-C", str(tmp_path / "none"), "-t", str(tmp_path / "delta")]

    def run(*arguments):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    return run


def rule(number):
    return RuleChange(number, "", Rule(number, "block", domain=f"host{number}.test", comment="it's"))


def test_what_others_staged_is_neither_committed_nor_lost(uci, path):
    uci("set", "spin.other.a=2")
    uci("set", "spin.new=other")
    staged = uci("changes", "spin")
    store = Store(str(path))
    store.apply([rule(1)])
    assert uci("changes", "spin") == staged
    assert parse(path.read_text()).named("other").options == {"a": "1"}
    uci("commit", "spin")
    package = parse(path.read_text())
    assert package.named("other").options == {"a": "2"}
    assert package.named("new") is not None
    assert package.named("rule1") is not None


def test_uci_shows_what_was_written(uci, path):
    Store(str(path)).apply([rule(number) for number in (1, 2, 3)])
    shown = uci("show", "spin.rule2").splitlines()
    assert "spin.rule2=rule" in shown
    assert "spin.rule2.domain='host2.test'" in shown
    assert r"spin.rule2.comment='it'\''s'" in shown
    assert path.read_text().startswith("# ours\n")


def test_commits_at_the_same_time_lose_nothing_on_either_side(uci, path):
    count = 200
    failures = []

    def commit_all():
        try:
            for number in range(count):
                uci("set", f"spin.other.k{number}={number}")
                uci("commit", "spin")
        except subprocess.SubprocessError as error:
            failures.append(error)

    theirs = threading.Thread(target=commit_all)
    theirs.start()
    store = Store(str(path))
    for number in range(1, count + 1):
        try:
            store.apply([rule(number)])
        except StoreError as error:
            failures.append(error)
    theirs.join(60)
    assert not failures
    package = parse(path.read_text())
    assert [section.name for section in package.typed("rule")] == [f"rule{n}" for n in range(1, count + 1)]
    assert package.named("other").options.keys() == {"a", *(f"k{number}" for number in range(count))}
    assert others(path) == []
