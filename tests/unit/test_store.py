# SPDX-License-Identifier: GPL-2.0-or-later
import fcntl
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from uci_binary import UCI

from spind import atomic, uci_file
from spind.config import OPTIONS, Config
from spind.store import STATE_BYTES, StateFile, Store, StoreError
from spind.uci import MAX_BYTES, parse

ROOT = Path(__file__).parent.parent.parent
TEXT = """\
# Ours

config spind 'spind'
	# the broker
	option pubsub_host '192.0.2.1'  # cellar

config device 'printer'
	option mac '02:00:00:00:00:01'
	option name 'Printer'  # first floor
	option profile 'local'

config device
	option mac '02-00-00-00-00-02'
	option ignore 'yes'
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "config" / "spin"
    file.parent.mkdir()
    file.write_text(TEXT)
    return file


@pytest.fixture
def store(path):
    return Store(str(path))


def leftovers(path):
    return [entry.name for entry in path.parent.iterdir() if entry.name != path.name]


def test_load(store):
    config, problems = store.load()
    assert config.pubsub_host == "192.0.2.1"
    assert problems == []


def test_load_passes_on_what_was_in_force(store, path):
    path.write_text("config spind 'spind'\n\toption pubsub_port nonsense\n")
    config, _ = store.load(Config(pubsub_port=1999))
    assert config.pubsub_port == 1999


def test_a_name_changes_its_own_line_only(store, path):
    assert store.save_device("02:00:00:00:00:01", "Drucker", ignore=False) is True
    assert path.read_text() == TEXT.replace("'Printer'", "'Drucker'")
    assert leftovers(path) == []


def test_what_is_so_already_is_not_written(store, path):
    before = path.stat()
    assert store.save_device("02:00:00:00:00:01", "Printer", ignore=False) is False
    assert store.save_device("02:00:00:00:00:02", "", ignore=True) is False
    assert store.save_device("02:00:00:00:00:03", "", ignore=False) is False
    assert store.save_ignored_addresses([]) is False
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_unknown_device_gets_a_section(store, path):
    store.save_device("02-00-00-00-00-0A", "Café 'am Tor' 🖨", ignore=True)
    assert path.read_text() == TEXT + (
        "\nconfig device\n"
        "\toption mac '02:00:00:00:00:0a'\n"
        "\toption name 'Café '\\''am Tor'\\'' 🖨'\n"
        "\toption ignore '1'\n"
    )
    assert store.load()[0].decisions()["02:00:00:00:00:0a"] == ("Café 'am Tor' 🖨", True)


def test_a_section_with_nothing_to_say_goes_and_others_stay(store, path):
    store.save_decisions({"02:00:00:00:00:02": ("", False), "02:00:00:00:00:01": ("", False)})
    assert path.read_text() == TEXT[: TEXT.index("\nconfig device\n")].replace(
        "\toption name 'Printer'  # first floor\n", ""
    )


def test_many_decisions_at_once(store):
    decisions = {f"02:00:00:00:01:{number:02x}": (f"Nr {number}", bool(number % 2)) for number in range(40)}
    decisions |= {
        "Example.ORG": ("News", False),
        "2001:db8:0::1": ("", True),
        "02:00:00:00:00:02": ("", False),
    }
    store.save_decisions(decisions)
    saved = store.load()[0].decisions()
    del decisions["Example.ORG"], decisions["2001:db8:0::1"], decisions["02:00:00:00:00:02"]
    decisions |= {"example.org": ("News", False), "2001:db8::1": ("", True)}
    assert saved == decisions | {"02:00:00:00:00:01": ("Printer", False)}
    store.save_decisions(dict.fromkeys(decisions, ("", False)))
    assert list(store.load()[0].decisions()) == ["02:00:00:00:00:01"]


def test_ignored_addresses(store, path):
    store.save_ignored_addresses(["192.0.2.7", "2001:db8::/32"])
    assert store.load()[0].ignore_ip == ("192.0.2.7", "2001:db8::/32")
    store.save_ignored_addresses(["2001:db8::/32", "10.0.0.0/8"])
    assert store.load()[0].ignore_ip == ("2001:db8::/32", "10.0.0.0/8")
    store.save_ignored_addresses([])
    assert path.read_text() == TEXT


def test_ignored_addresses_without_a_main_section(store, path):
    path.write_text("")
    store.save_ignored_addresses(["192.0.2.7"])
    assert store.load()[0].ignore_ip == ("192.0.2.7",)


@pytest.mark.parametrize("name", ["x" * 65, "a\nb", "a\x1b[2J", "\ud800", "\u202egpj.exe", "a\0b"])
def test_hostile_names_change_nothing(store, path, name):
    with pytest.raises(ValueError):
        store.save_device("02:00:00:00:00:01", name, ignore=True)
    assert path.read_text() == TEXT


@pytest.mark.parametrize(
    "name", ["'; option mode 'local", "\\", '"', "#", "$(reboot)", "x" * 64, "config device"]
)
def test_names_that_look_like_syntax_are_only_names(store, name):
    store.save_device("02:00:00:00:00:01", name, ignore=False)
    config, problems = store.load()
    assert config.devices[0].name == name
    assert (config.mode, problems, len(config.devices)) == ("router", [], 2)


@pytest.mark.parametrize("key", ["a b", "", "x" * 2000, "é.example"])
def test_keys_that_are_none_change_nothing(store, path, key):
    with pytest.raises(ValueError):
        store.save_decisions({"02:00:00:00:00:01": ("New", False), key: ("x", False)})
    with pytest.raises(ValueError):
        store.save_ignored_addresses(["192.0.2.1", key])
    assert path.read_text() == TEXT


def test_mode_owner_and_symlink_are_kept(tmp_path, path):
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    link = tmp_path / "link"
    link.symlink_to("config/spin")
    before = path.stat()
    Store(str(link)).save_device("02:00:00:00:00:01", "Drucker", ignore=False)
    after = path.stat()
    assert link.is_symlink()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert "Drucker" in path.read_text()


def test_bytes_of_others_survive(store, path):
    path.write_bytes(TEXT.encode() + b"\nconfig rule\n\toption comment 'caf\xe9'\n")
    store.save_device("02:00:00:00:00:01", "Drucker", ignore=False)
    assert path.read_bytes().endswith(b"\toption comment 'caf\xe9'\n")


def test_files_that_are_none(store, path):
    path.unlink()
    for call in (store.load, lambda: store.save_ignored_addresses(["192.0.2.1"])):
        with pytest.raises(StoreError, match="No such file"):
            call()
    path.mkdir()
    with pytest.raises(StoreError, match="not a regular file"):
        store.load()
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="not a regular file"):
        store.load()
    path.unlink()
    path.symlink_to(path.name)
    for call in (store.load, lambda: store.save_ignored_addresses(["192.0.2.1"])):
        with pytest.raises(StoreError, match="symbolic links"):
            call()


def test_a_file_that_is_too_large(store, path):
    path.write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(StoreError, match="larger than"):
        store.load()


def test_a_broken_file_is_not_written(store, path):
    path.write_text("config spind 'spind\n")
    with pytest.raises(StoreError, match="line 1"):
        store.load()
    with pytest.raises(StoreError, match="line 1"):
        store.save_device("02:00:00:00:00:01", "x", ignore=False)
    assert path.read_text() == "config spind 'spind\n"
    assert leftovers(path) == []


def test_what_others_wrote_since_is_kept(store, path):
    store.load()
    path.write_text(TEXT.replace("192.0.2.1", "192.0.2.99"))
    store.save_device("02:00:00:00:00:01", "Drucker", ignore=False)
    assert path.read_text() == TEXT.replace("192.0.2.1", "192.0.2.99").replace("'Printer'", "'Drucker'")


def test_a_change_in_the_middle_of_ours_is_kept(store, path, monkeypatch):
    """An editor that takes no lock writes between our reading and our writing."""
    others = iter(["192.0.2.50", "192.0.2.51"])
    real = atomic._fill

    def write(fd, *arguments):
        real(fd, *arguments)
        for address in others:
            path.write_text(TEXT.replace("192.0.2.1'", f"{address}'"))
            break

    monkeypatch.setattr(atomic, "_fill", write)
    store.save_device("02:00:00:00:00:01", "Drucker", ignore=False)
    assert path.read_text() == TEXT.replace("192.0.2.1'", "192.0.2.51'").replace("'Printer'", "'Drucker'")
    assert leftovers(path) == []


def test_a_file_that_never_rests_is_given_up(store, path, monkeypatch):
    real = atomic._fill
    count = iter(range(1000))

    def write(fd, *arguments):
        real(fd, *arguments)
        path.write_text(TEXT + "#" * next(count))

    monkeypatch.setattr(atomic, "_fill", write)
    with pytest.raises(StoreError, match="keep changing"):
        store.save_device("02:00:00:00:00:01", "Drucker", ignore=False)
    assert "Drucker" not in path.read_text()
    assert leftovers(path) == []


def test_writers_do_not_lose_each_others_changes(path):
    def work(number):
        for step in range(10):
            Store(str(path)).save_device(f"02:00:00:00:{number:02x}:00", f"Step {step}", ignore=False)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    names = Store(str(path)).load()[0].decisions()
    assert [names[f"02:00:00:00:{number:02x}:00"] for number in range(1, 5)] == [("Step 9", False)] * 4
    assert leftovers(path) == []


def test_a_lock_is_waited_for(store, path):
    """``uci commit`` holds it while it writes, and then puts a new file in place."""
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=store.save_device, args=("02:00:00:00:00:01", "Drucker", False))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        other = path.with_name(".other")
        other.write_text(TEXT.replace("192.0.2.1", "192.0.2.99"))
        other.rename(path)
    waiting.join(30)
    assert path.read_text() == TEXT.replace("192.0.2.1", "192.0.2.99").replace("'Printer'", "'Drucker'")


def test_a_lock_that_stays_is_given_up(store, path, monkeypatch):
    monkeypatch.setattr(uci_file, "LOCK_SECONDS", 0.1)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="lock"):
            store.save_device("02:00:00:00:00:01", "Drucker", ignore=False)
    assert path.read_text() == TEXT


def run_in(script, *, wrap=()):
    """Run Python code in a process of its own, with this project's modules; what it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*wrap, sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_size_limit_changes_nothing(path):
    out = run_in(f"""
import resource
from spind.store import Store, StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
try:
    Store({str(path)!r}).save_device("02:00:00:00:00:01", "Drucker", ignore=False)
except StoreError as error:
    print(error)
""")
    assert out == f"cannot write {path}: File too large\n"
    assert path.read_text() == TEXT
    assert leftovers(path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20


MOUNTED = """
import subprocess, sys
from pathlib import Path
from spind.store import StateFile, Store, StoreError
where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path({where!r})
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", where], check=True)
file = where / "spin"
file.write_text({text!r})
{prepare}
for call in (
    lambda: Store(str(file)).save_device("02:00:00:00:00:01", "Drucker", ignore=False),
    lambda: StateFile(str(where)).save({{"02:00:00:00:00:01": 1}}),
):
    try:
        call()
    except StoreError as error:
        print(error)
assert file.read_text() == {text!r}
print(sorted(entry.name for entry in where.iterdir()))
"""

FULL = """
with (where / "filler").open("wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
"""
READ_ONLY = 'subprocess.run(["mount", "-o", "remount,ro", where], check=True)'


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="mounts a file system: needs root"
)
@pytest.mark.parametrize(
    ("prepare", "why", "files"),
    [(FULL, "No space left on device", ["filler", "spin"]), (READ_ONLY, "Read-only file system", ["spin"])],
    ids=["full", "read-only"],
)
def test_a_disk_that_is_full_or_read_only_changes_nothing(tmp_path, prepare, why, files):
    script = MOUNTED.format(where=str(tmp_path), text=TEXT, prepare=prepare)
    out = run_in(script, wrap=["unshare", "--mount", "--propagation", "private"])
    assert out.splitlines() == [
        f"cannot write {tmp_path}/spin: {why}",
        f"cannot write {tmp_path}/state.json: {why}",
        str(files),
    ]


@pytest.mark.skipif(UCI is None, reason="the uci program is not installed")
def test_uci_reads_what_was_saved_and_we_read_what_it_commits(store, path, tmp_path):
    def uci(*arguments):
        command = [UCI, "-c", str(path.parent), "-C", str(tmp_path / "none"), "-t", str(tmp_path / "delta")]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=30, check=True
        ).stdout

    store.save_device("02:00:00:00:00:09", "it's 'new'", ignore=True)
    store.save_ignored_addresses(["192.0.2.0/24"])
    assert uci("get", "spin.@device[2].name") == "it's 'new'\n"
    assert uci("get", "spin.spind.ignore_ip") == "192.0.2.0/24\n"
    before = store.load()[0]
    uci("set", "spin.@device[2].name=by uci's hand")
    uci("commit", "spin")
    after = store.load()[0]
    assert after.decisions()["02:00:00:00:00:09"] == ("by uci's hand", True)
    assert after.decisions().keys() == before.decisions().keys()


def test_pyuci_reads_what_was_saved(store, path, tmp_path):
    uci = pytest.importorskip("uci", reason="pyuci is not installed (it needs libuci)")
    store.save_device("02:00:00:00:00:09", "it's 'new'", ignore=True)
    store.save_ignored_addresses(["192.0.2.0/24", "2001:db8::1"])
    binding = uci.Uci(savedir=str(tmp_path / "delta"), confdir=str(path.parent))
    name = parse(path.read_text()).sections[-1].name
    assert binding.get("spin", name, "name") == "it's 'new'"
    assert binding.get("spin", "spind", "ignore_ip") == ("192.0.2.0/24", "2001:db8::1")


IDS = {"02:00:00:00:00:01": 1, "02:00:00:00:00:02": 7}


def test_state_comes_back(tmp_path):
    state = StateFile(str(tmp_path / "var" / "spin"))
    assert state.load() == ({}, "")
    state.save(IDS)
    assert state.load() == (IDS, "")
    state.save({})
    assert state.load() == ({}, "")
    assert leftovers(state.path) == []
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"null",
        b"[" * 100_000,
        b'{"version": 2, "ids": {}}',
        b'{"version": 1, "ids": []}',
        b'{"version": 1, "ids": {"x": 1}}',
        b'{"version": 1, "ids": {"02:00:00:00:00:01": "1"}}',
        b'{"version": 1, "ids": {"02:00:00:00:00:01": true}}',
        b'{"version": 1, "ids": {"02:00:00:00:00:01": 0}}',
        b'{"version": 1, "ids": {"02:00:00:00:00:01": 1e3}}',
        b'{"version": 1, "ids": {"02:00:00:00:00:01": ' + b"9" * 5000 + b"}}",
        b'{"version": 1, "ids": {"02:00:00:00:00:01": 1, "02:00:00:00:00:02": 1}}',
    ],
    ids=lambda content: repr(content[:60]),
)
def test_damaged_state_is_put_aside_and_told(tmp_path, content):
    state = StateFile(str(tmp_path))
    state.path.write_bytes(content)
    ids, problem = state.load()
    assert ids == {}
    assert problem.startswith(f"{state.path} is damaged (")
    assert not state.path.exists()
    assert (tmp_path / "state.json.bad").read_bytes() == content
    state.save(IDS)
    assert state.load() == (IDS, "")


def test_state_of_as_many_devices_as_there_may_be(tmp_path):
    most = int(re.search(r"to (\d+)", OPTIONS["limit_devices"].kind.allowed)[1])
    ids = {f"ff:ff:ff:ff:{n // 256:02x}:{n % 256:02x}": 2**31 - 1 - n for n in range(most)}
    state = StateFile(str(tmp_path))
    state.save(ids)
    assert state.load() == (ids, "")


def test_state_that_is_too_large_is_told_and_replaced(tmp_path):
    state = StateFile(str(tmp_path))
    state.path.write_bytes(b" " * (STATE_BYTES + 1))
    assert state.load() == ({}, f"cannot read {state.path}: larger than {STATE_BYTES} bytes")
    state.save(IDS)
    assert state.load() == (IDS, "")


def test_state_that_cannot_be_read_is_told(tmp_path):
    state = StateFile(str(tmp_path))
    state.path.mkdir()
    ids, problem = state.load()
    assert ids == {}
    assert problem == f"cannot read {state.path}: not a regular file"
    with pytest.raises(StoreError, match="directory"):
        state.save(IDS)


PROFILES = {"02:00:00:00:00:01": "quarantine"}


def test_profiles_that_devices_were_given_come_back(tmp_path):
    state = StateFile(str(tmp_path))
    assert state.load_profiles() == ({}, "")
    state.save(IDS, PROFILES)
    assert state.load() == (IDS, "")
    assert state.load_profiles() == (PROFILES, "")
    state.save(IDS)
    assert state.load_profiles() == ({}, "")


def test_state_of_an_earlier_version_has_no_profiles(tmp_path):
    state = StateFile(str(tmp_path))
    state.path.write_text('{"version": 1, "ids": {"02:00:00:00:00:01": 1}}')
    assert state.load() == ({"02:00:00:00:00:01": 1}, "")
    assert state.load_profiles() == ({}, "")


@pytest.mark.parametrize("profiles", ["[]", '{"x": "local"}', '{"02:00:00:00:00:01": 1}', "1"])
def test_damaged_profiles_are_damaged_state(tmp_path, profiles):
    state = StateFile(str(tmp_path))
    state.path.write_text(f'{{"version": 1, "ids": {{}}, "profiles": {profiles}}}')
    assert "is damaged" in state.load_profiles()[1]
    assert (tmp_path / "state.json.bad").exists()


def test_what_a_killed_process_left_of_the_state_is_swept_away(tmp_path):
    left = tmp_path / ".state.json.0123456789ab"
    left.write_text("x")
    os.utime(left, (1, 1))
    StateFile(str(tmp_path)).load()
    assert list(tmp_path.iterdir()) == []
