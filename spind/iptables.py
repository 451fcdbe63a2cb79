# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of iptables and ip6tables through python-iptables: opened, locked, written in one step.

Owns what every user of these tables needs. Which rules stand there is the business of others.
"""

import contextlib
import errno
import fcntl
import importlib
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Any

from spind.lean_import import without
from spind.sockopt import get_option
from spind.wire.errors import WireError
from spind.wire.xtables import Entry, parse_table, read_counters, without_counters

_LOCK_SECONDS = 0.5

# linux/netfilter_ipv4/ip_tables.h, and for IPv6 the same: IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES.
_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = Struct("@32sI5I5III")  # name, hooks; first entry and policy of each; number and size of entries
_ENTRIES = Struct("@32sI0Q")
# The same for struct xt_get_revision, by family: of matches, of targets.
_GET_REVISION = {4: (66, 67), 6: (68, 69)}
_REVISION = Struct("@29sB")
_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_SOCKETS = {4: (socket.AF_INET, socket.IPPROTO_IP), 6: (socket.AF_INET6, socket.IPPROTO_IPV6)}
_ATTEMPTS = 5


def families() -> tuple[int, ...]:
    """Families of addresses that the kernel has: 4, or 4 and 6."""
    return (4, 6) if Path("/proc/net/if_inet6").exists() else (4,)


def library() -> Any:
    """Import python-iptables: 2 MB, and modprobe, that are not needed where nftables serves."""
    try:
        # Where setuptools is installed, its stand-in for distutils would bring 12 MB along (measured).
        with without("distutils"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it forgets to close a pipe
            return importlib.import_module("iptc")
    except ImportError as error:
        raise OSError(f"python-iptables: {error}") from None


def table_in_use(name: str, family: int) -> bool:
    """Whether the kernel has the table: to look into it would make it, and load the library for it."""
    listed = Path("/proc/net/ip_tables_names" if family == 4 else "/proc/net/ip6_tables_names")
    try:
        return name in listed.read_text().split()
    except OSError:
        return False  # the kernel has no iptables of the old kind, or nobody has used it


class TableReader:
    """The chains of a table as the kernel has them. Takes no lock, and no library."""

    def __init__(self, name: str, family: int) -> None:
        self.name = name
        self.family = family
        self._data = b""
        # Entries of the last time without their counters, how to take those out, and what they meant.
        self._last: tuple[int, int, dict[int, str]] = 0, 0, {}
        self._chains: dict[str, list[Entry]] = {}

    def read(self) -> dict[str, list[Entry]]:
        """All chains; none where nobody uses the table. ``OSError`` where the kernel refuses.

        Where only counters have changed since the last time, that takes a tenth of a millisecond.
        """
        if not table_in_use(self.name, self.family):
            self._data, self._chains = b"", {}
            return {}
        data, builtin = _entries(self.name, self.family)
        without, mask, before = self._last
        number = int.from_bytes(data, "little")
        if len(data) != len(self._data) or number & mask != without or builtin != before:
            try:
                self._chains = parse_table(data, self.family, builtin)
                mask = int.from_bytes(without_counters(data, self.family), "little")
            except WireError as error:
                raise OSError(f"iptables: {error}") from None
            self._last = number & mask, mask, builtin
        self._data = data
        return self._chains

    def counters(self, entry: Entry) -> tuple[int, int]:
        """Packets and bytes of a rule that was read last."""
        return read_counters(self._data, entry)


def load_table(name: str, family: int) -> None:
    """``OSError`` where the kernel does not have the table. It is in use from now on."""
    _entries(name, family)


def _entries(name: str, family: int) -> tuple[bytes, dict[int, str]]:
    """The entries of a table, and the built-in chains by the place of their first one."""
    kind, level = _SOCKETS[family]
    with socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for _attempt in range(_ATTEMPTS):
            info = bytearray(_INFO.size)
            info[: len(name)] = name.encode()
            get_option(sock, level, _GET_INFO, info)
            _name, hooks, *rest = _INFO.unpack(info)
            places, size = rest[:5], rest[-1]
            buffer = bytearray(_ENTRIES.pack(name.encode(), size)) + bytes(size)
            try:
                get_option(sock, level, _GET_ENTRIES, buffer)
            except OSError as error:
                if error.errno == errno.EAGAIN:  # it has another size by now
                    continue
                raise
            builtin = {place: _HOOKS[n] for n, place in enumerate(places) if hooks & 1 << n}
            return bytes(buffer[_ENTRIES.size :]), builtin
    raise OSError(errno.EAGAIN, f"iptables: table {name} changes all the time")


def find_extension(name: str, revision: int, family: int, *, target: bool) -> None:
    """``OSError`` where the kernel does not have a match, or a target. Modules are loaded for it."""
    kind, level = _SOCKETS[family]
    with socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        try:
            wanted = bytearray(_REVISION.pack(name.encode(), revision))
            get_option(sock, level, _GET_REVISION[family][target], wanted)
        except OSError as error:
            what = "target" if target else "match"
            text = f"this kernel's IPv{family} has no {what} {name} of revision {revision}: {error.strerror}"
            raise OSError(error.errno, text) from None


@contextlib.contextmanager
def open_table(name: str, family: int, *, write: bool = True) -> Iterator[Any]:
    """Read a table; with ``write`` it is put back in one step if nothing was raised."""
    iptc = library()
    with contextlib.ExitStack() as stack:
        if write:
            stack.enter_context(_lock())
        try:
            table = (iptc.Table if family == 4 else iptc.Table6)(name, autocommit=False)
            table.refresh()
            stack.callback(table.close)
            # The library looks for chains in every table it remembers, and crashes in a closed one.
            stack.callback(type(table)._cache.pop, name, None)  # noqa: SLF001 - there is no other way
            yield table
            if write:
                table.commit()
        except OSError:
            raise
        except Exception as error:
            # Its errors have no common class; the text may end in bytes of libiptc.
            raise OSError(f"iptables: {error}") from error


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Hold the lock of the iptables tools, which read, change and write whole tables like us."""
    path = os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock")
    with Path(path).open("w") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OSError(f"{path} is held by another program") from None
                time.sleep(0.005)
        yield


def entries(table: Any, chain: str) -> list[tuple[Any, str]]:
    """Rules of a chain as libiptc has them, with their targets' names.

    The library's own rule objects need the plug-in of every match and target in use.
    """
    found = []
    entry = table.first_rule(chain)
    while entry:
        found.append((entry, (table.get_target(entry) or b"").decode(errors="replace")))
        entry = table.next_rule(entry)
    return found
