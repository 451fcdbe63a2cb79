# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that the daemon reads and writes: its UCI configuration and its small state.

Owns how they get to disk: whole or not at all, with the mode, owner and symlink that they had,
and never over a change that somebody else made in between. What is in the configuration is
``config``'s and ``uci_edit``'s business. Everything here blocks (a disk may take its time):
call it from a thread where a loop must go on.
"""

import errno
import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from spind.config import MAIN, Config, Problem, load
from spind.config_kinds import DOMAIN, FLAG, PREFIX
from spind.hostile import clean_name
from spind.model import format_address, format_mac, parse_address, parse_mac
from spind.uci import MAX_BYTES, Package, Section, UciError, decode, encode, parse
from spind.uci_edit import AddSection, Change, RemoveOption, RemoveSection, SetList, SetOption, edit

LOCK_SECONDS = 1.0
"""How long to wait for ``uci commit``, which locks the file while it writes."""

_LOCK_POLL_SECONDS = 0.02

_ATTEMPTS = 5
"""How often to start again where the file changed while a change was being made."""


class StoreError(Exception):
    """A file could not be read or written; nothing was changed. The text is for people."""


class Store:
    """The UCI configuration file."""

    def __init__(self, config_path: str) -> None:
        self.path = config_path

    def read(self) -> str:
        """The file's text; ``StoreError`` where it cannot be read or is too large."""
        with _reported(f"cannot read {self.path}"):
            return decode(_read(self.path))

    def load(self, previous: Config | None = None) -> tuple[Config, list[Problem]]:
        """See ``config.load``; ``StoreError`` where there is no file, or no UCI in it."""
        try:
            return load(self.read(), previous)
        except UciError as error:
            raise StoreError(f"{self.path}: {error}") from error

    def save_device(self, mac: str, name: str, ignore: bool) -> bool:
        """Keep what was decided about a device; see ``save_decisions``."""
        return self.save_decisions({format_mac(parse_mac(mac)): (name, ignore)})

    def save_decisions(self, decisions: Mapping[str, tuple[str, bool]]) -> bool:
        """Keep (name, ignore) of devices by MAC, and of sites by domain or address.

        An empty name takes the name away; a section with nothing left to say goes. True if the
        file had to be written. Raises ``ValueError`` for a name that ``clean_name`` refuses or a
        key that is none, ``StoreError`` where the file cannot be written: either way nothing
        was changed.
        """
        checked = {key: (clean_name(name), ignore) for key, (name, ignore) in decisions.items()}

        def change(text: str) -> str:
            for key, (name, ignore) in checked.items():
                text = edit(text, _decision_changes(parse(text), key, name, ignore))
            return text

        return self._rewrite(change)

    def save_ignored_addresses(self, addresses: Iterable[str]) -> bool:
        """Keep the addresses and prefixes that are ignored by themselves; as ``save_decisions``."""
        wanted = [str(PREFIX.parse(address)) for address in addresses]

        def change(text: str) -> str:
            package = parse(text)
            mains = package.typed(MAIN)
            main = next((section for section in mains if section.name == MAIN), mains[0] if mains else None)
            if main is not None:
                return edit(text, [SetList(main.name, "ignore_ip", wanted)])
            return edit(text, [AddSection(MAIN, MAIN, {"ignore_ip": wanted})] if wanted else [])

        return self._rewrite(change)

    def _rewrite(self, change: Callable[[str], str]) -> bool:
        """Put ``change`` of the file's text in the file's place; False where nothing changes."""
        with _reported(f"cannot write {self.path}"):
            path = Path(os.path.realpath(self.path))
            for _ in range(_ATTEMPTS):
                with _locked(path) as before:
                    old = decode(_read(path))
                    new = change(old)
                    if new == old:
                        return False
                    if _replace(path, encode(new), before):
                        return True
        raise StoreError(f"cannot write {self.path}: others keep changing it")


def _decision_changes(package: Package, key: str, name: str, ignore: bool) -> list[Change]:
    """Changes after which ``package`` says (name, ignore) of a device or site."""
    type_, option, key = _section_key(key)
    found = next((s for s in package.typed(type_) if _section_is(s, option, key)), None)
    if found is None:
        said = {"name": name} if name else {}
        said |= {"ignore": "1"} if ignore else {}
        return [AddSection(type_, "", {option: key} | said)] if said else []
    if not name and not ignore and not found.options.keys() - {option, "name", "ignore"}:
        return [RemoveSection(found.name)]
    changes: list[Change] = []
    changes.append(SetOption(found.name, "name", name) if name else RemoveOption(found.name, "name"))
    if ignore != _says_ignore(found):
        changes.append(SetOption(found.name, "ignore", "1") if ignore else RemoveOption(found.name, "ignore"))
    return changes


def _section_key(key: str) -> tuple[str, str, str]:
    """Type of the section for a key, the option that holds it, and how it is written there."""
    try:
        return "device", "mac", format_mac(parse_mac(key))
    except ValueError:
        pass
    try:
        return "site", "ip", format_address(parse_address(key))
    except ValueError:
        return "site", "domain", str(DOMAIN.parse(key)).lower()


def _section_is(section: Section, option: str, key: str) -> bool:
    value = section.options.get(option)
    try:
        return isinstance(value, str) and _section_key(value)[1:] == (option, key)
    except ValueError:
        return False


def _says_ignore(section: Section) -> bool:
    value = section.options.get("ignore", "0")
    try:
        return isinstance(value, str) and bool(FLAG.parse(value))
    except ValueError:
        return False


class StateFile:
    """``state.json`` in the state directory: node ids of devices, so that a restart keeps them."""

    def __init__(self, state_dir: str) -> None:
        self.path = Path(state_dir) / "state.json"

    def load(self) -> tuple[dict[str, int], str]:
        """Ids by MAC, and what was wrong (empty if nothing).

        No file is no ids. One that is damaged is renamed to ``state.json.bad`` and its ids are
        lost; the daemon gives new ones.
        """
        try:
            data = _read(self.path)
        except FileNotFoundError:
            return {}, ""
        except OSError as error:
            return {}, f"cannot read {self.path}: {error.strerror}"
        try:
            return _ids(data), ""
        except (ValueError, RecursionError) as error:
            aside = self.path.with_name("state.json.bad")
            try:
                self.path.replace(aside)
            except OSError as failed:
                return {}, f"{self.path} is damaged ({error}) and cannot be moved aside: {failed.strerror}"
            return {}, f"{self.path} is damaged ({error}); it was moved to {aside}"

    def save(self, ids: Mapping[str, int]) -> None:
        """Write ids by MAC, and the directory if need be; ``StoreError`` where that fails."""
        data = json.dumps({"version": 1, "ids": dict(ids)}).encode()
        with _reported(f"cannot write {self.path}"):
            self.path.parent.mkdir(0o755, parents=True, exist_ok=True)
            _replace(self.path, data, None)


def _ids(data: bytes) -> dict[str, int]:
    """Ids in a state file's content; ``ValueError`` where anything is wrong with it."""
    state = json.loads(data.decode())
    if not isinstance(state, dict) or state.get("version") != 1 or not isinstance(state.get("ids"), dict):
        raise ValueError("not a state file of version 1")
    ids: dict[str, int] = {}
    for mac, number in state["ids"].items():
        if type(number) is not int or not 0 < number < 1 << 31:
            raise ValueError("an id is no positive integer")
        ids[format_mac(parse_mac(mac))] = number
    if len(set(ids.values())) != len(state["ids"]):
        raise ValueError("an id is there twice")
    return ids


@contextmanager
def _reported(what: str) -> Iterator[None]:
    try:
        yield
    except UciError as error:
        raise StoreError(f"{what}: {error}") from error
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror or error}") from error


def _read(path: str | Path) -> bytes:
    """A regular file's content, at most ``MAX_BYTES``."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    with os.fdopen(fd, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MAX_BYTES} bytes")
    return data


@contextmanager
def _locked(path: Path) -> Iterator[os.stat_result]:
    """Hold the lock that ``uci commit`` takes, on the file that is at ``path`` then; its status."""
    deadline = time.monotonic() + LOCK_SECONDS
    while (fd := _try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, "another program holds its lock")
        time.sleep(_LOCK_POLL_SECONDS)
    try:
        yield os.fstat(fd)
    finally:
        os.close(fd)


def _try_lock(path: Path) -> int | None:
    """The locked file's descriptor; ``None`` where another has the lock, or put a new file there."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    locked = False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = os.path.samestat(os.fstat(fd), path.stat())
    except BlockingIOError:
        pass
    finally:
        if not locked:
            os.close(fd)
    return fd if locked else None


def _replace(path: Path, data: bytes, before: os.stat_result | None) -> bool:
    """Put ``data`` in the file's place in one step.

    ``before`` is the file's status before it was read: mode and owner are kept, and where it
    has changed since, nothing is done and the result is False. ``None`` is for a file of ours.
    """
    # Names with a dot are no configuration to uci, which looks at all files of the directory.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write(fd, data, before)
        if before is not None and _changed(before, path.stat()):
            temporary.unlink()
            return False
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


def _write(fd: int, data: bytes, like: os.stat_result | None) -> None:
    """Fill a new file, with mode and owner of another, and see that it is on the disk; close it."""
    with os.fdopen(fd, "w+b") as file:
        file.write(data)
        if like is not None:
            os.fchown(fd, like.st_uid, like.st_gid)
            os.fchmod(fd, stat.S_IMODE(like.st_mode))
        file.flush()
        os.fsync(fd)
        file.seek(0)
        if file.read() != data:
            raise OSError(errno.EIO, "what was written reads back differently")


def _changed(before: os.stat_result, now: os.stat_result) -> bool:
    return (before.st_ino, before.st_size, before.st_mtime_ns) != (now.st_ino, now.st_size, now.st_mtime_ns)
