# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that the daemon reads and writes: its UCI configuration and its small state.

Owns what of them is kept in memory, so that one change among ten thousand rules does not read
them all again. How files get to disk is ``atomic``'s and ``uci_file``'s business, what is in the
configuration ``config``'s and ``decided_uci``'s. Everything here blocks (a disk may take its
time): call it from a thread where a loop must go on, one at a time.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from spind import atomic, decided_uci
from spind.atomic import StoreError
from spind.changes import Change, IgnoredChange
from spind.config import Config, Problem, load
from spind.decided_uci import SectionChange
from spind.model import format_mac, parse_mac
from spind.uci import MAX_BYTES, UciError, decode
from spind.uci_file import UciFile
from spind.uci_sheet import Sheet

__all__ = ["StateFile", "Store", "StoreError"]

STATE_BYTES = 4 << 20
"""Size of the state file; 30,000 devices with profiles have 3 MiB."""


class Store:
    """The UCI configuration file."""

    def __init__(self, config_path: str) -> None:
        self.path = config_path
        self._file = UciFile(config_path, MAX_BYTES)
        self._sheet: Sheet | None = None
        self._data = b""  # the file when ``_sheet`` was made of it, or it of ``_sheet``

    def read(self) -> str:
        """The file's text; ``StoreError`` where it cannot be read or is too large."""
        with _reported(f"cannot read {self.path}"):
            return decode(self._file.read())

    def load(self, previous: Config | None = None) -> tuple[Config, list[Problem]]:
        """See ``config.load``; ``StoreError`` where there is no file, or no UCI in it.

        Sections go by what they are called there, until the next call.
        """
        with _reported(f"cannot read {self.path}"):
            data = self._file.read()
        try:
            loaded = load(decode(data), previous)
            self._sheet, self._data = Sheet.cut(data, decided_uci.identity), data
        except UciError as error:
            raise StoreError(f"{self.path}: {error}") from error
        return loaded

    def apply(self, changes: Sequence[Change]) -> bool:
        """Keep what was decided, all of it in one step; what is so already is left as it is written.

        True if the file had to be written. Raises ``ValueError`` for what may not be written,
        ``StoreError`` where the file cannot be: either way nothing was changed.
        """
        return self._apply([decided_uci.checked(change) for change in changes])

    def save_device(self, mac: str, name: str, ignore: bool) -> bool:
        """Keep what was decided about a device; see ``save_decisions``."""
        return self.save_decisions({format_mac(parse_mac(mac)): (name, ignore)})

    def save_decisions(self, decisions: Mapping[str, tuple[str, bool]]) -> bool:
        """Keep (name, ignore) of devices by MAC, and of sites by domain or address; as ``apply``.

        An empty name takes the name away; a section with nothing left to say goes.
        """
        return self._apply([decided_uci.node_decision(key, *value) for key, value in decisions.items()])

    def save_ignored_addresses(self, addresses: Iterable[str]) -> bool:
        """Keep the addresses and prefixes that are ignored by themselves; as ``apply``."""
        return self.apply([IgnoredChange(tuple(addresses))])

    def _apply(self, changes: list[SectionChange]) -> bool:
        made: tuple[Sheet, bytes] | None = None

        def change(data: bytes) -> bytes:
            nonlocal made
            sheet = self._sheet_of(data).copy()
            for one in changes:
                decided_uci.apply(sheet, one)
            made = sheet, sheet.data
            return made[1]

        with _reported(f"cannot write {self.path}"):
            if not self._file.rewrite(change) or made is None:
                return False
        self._sheet, self._data = made
        return True

    def _sheet_of(self, data: bytes) -> Sheet:
        """The sections of ``data``, by the names that they had when the file was loaded."""
        if self._sheet is None or data != self._data:
            sheet = Sheet.cut(data, decided_uci.identity)
            if self._sheet is not None:
                sheet.adopt_keys(self._sheet)
            self._sheet, self._data = sheet, data
        return self._sheet


@contextmanager
def _reported(what: str) -> Iterator[None]:
    with atomic.reported(what):
        try:
            yield
        except UciError as error:
            raise StoreError(f"{what}: {error}") from error


class StateFile:
    """``state.json`` in the state directory: what a restart must not change, and nobody decided.

    Node ids of devices, and the profiles that devices were given when they were new.
    """

    def __init__(self, state_dir: str) -> None:
        self.path = Path(state_dir) / "state.json"
        self._begun = time.time()

    def load(self) -> tuple[dict[str, int], str]:
        """Ids by MAC, and what was wrong (empty if nothing).

        No file is no ids. One that is damaged is renamed to ``state.json.bad`` and its ids are
        lost; the daemon gives new ones.
        """
        state, problem = self._load()
        return state[0], problem

    def load_profiles(self) -> tuple[dict[str, str], str]:
        """Profiles by MAC, and what was wrong; see ``load``."""
        state, problem = self._load()
        return state[1], problem

    def _load(self) -> tuple[tuple[dict[str, int], dict[str, str]], str]:
        atomic.sweep(self.path, self._begun)
        try:
            data = atomic.read(self.path, STATE_BYTES)
        except FileNotFoundError:
            return ({}, {}), ""
        except OSError as error:
            return ({}, {}), f"cannot read {self.path}: {error.strerror}"
        try:
            return _state(data), ""
        except (ValueError, RecursionError) as error:
            aside = self.path.with_name("state.json.bad")
            try:
                self.path.replace(aside)
            except OSError as failed:
                return (
                    {},
                    {},
                ), f"{self.path} is damaged ({error}) and cannot be moved aside: {failed.strerror}"
            return ({}, {}), f"{self.path} is damaged ({error}); it was moved to {aside}"

    def save(self, ids: Mapping[str, int], profiles: Mapping[str, str] | None = None) -> None:
        """Write ids and profiles by MAC, and the directory if need be; ``StoreError`` where that fails.

        Without ``profiles`` there are none any more.
        """
        state: dict[str, object] = {"version": 1, "ids": dict(ids)}
        if profiles:
            state["profiles"] = dict(profiles)
        with atomic.reported(f"cannot write {self.path}"):
            self.path.parent.mkdir(0o755, parents=True, exist_ok=True)
            atomic.replace(self.path, json.dumps(state).encode())


def _state(data: bytes) -> tuple[dict[str, int], dict[str, str]]:
    """Ids and profiles in a state file's content; ``ValueError`` where anything is wrong with it."""
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
    given = state.get("profiles", {})
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given.values()):
        raise ValueError("profiles are not names by MAC")
    return ids, {format_mac(parse_mac(mac)): name for mac, name in given.items()}
