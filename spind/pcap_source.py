# SPDX-License-Identifier: GPL-2.0-or-later
"""A capturing process on one interface: tcpdump where it is installed, else our own reader.

Owns the process from its start to its end: what it is called with (an argument list, no shell), what
it writes, and that it is gone afterwards. What becomes of the packets is ``captures``' business.
"""

import asyncio
import contextlib
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from pathlib import Path

from spind.pcap_filter import SNAPLEN, Wanted, expression, program
from spind.text import inert

PROGRAM_PATHS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")

CHUNK = 65536
"""Bytes taken at once: some 800 of the smallest packets, 0.5 ms of work."""

GRACE_SECONDS = 2.0
"""What a process has for its last words after it was told to end; then it is killed."""

_SAID_BYTES = 4096
"""The last bytes of standard error that are kept."""

_DROPPED = re.compile(r"^(\d{1,18}) packets? dropped by kernel$", re.MULTILINE)
_NO_ERROR = re.compile(
    r"listening on |verbose output suppressed|\d+ packets? (captured|received|dropped)|dropped privs to "
)
_INTERFACE = re.compile(r"[^\s/-][^\s/]{0,14}")  # as dev_valid_name() in the kernel, but for a dash at first


class SourceError(Exception):
    """The process could not be started, or ended by itself; the sentence says why."""


def find_tcpdump() -> str:
    """Where tcpdump is; empty where it is not installed."""
    for folder in PROGRAM_PATHS:
        path = f"{folder}/tcpdump"
        if os.access(path, os.X_OK) and Path(path).is_file():
            return path
    return ""


def command(tcpdump: str, interface: str, wanted: Wanted) -> list[str]:
    """The argument list of the process; ``ValueError`` where a part of it cannot be.

    The launcher (``pcap_child``) drops privileges and becomes tcpdump.
    """
    if not _INTERFACE.fullmatch(interface):
        raise ValueError(f"there can be no interface {interface!r:.40}")
    # -P: no module beside the current directory, whatever that is
    launcher = [sys.executable, "-P", "-m", "spind.pcap_child", str(os.getpid())]
    if not tcpdump:
        return [*launcher, "read", interface, program(wanted).hex()]
    # -p not promiscuous, -n no names, -U and immediate mode: each packet at once, so that none is
    # lost at the end, -s whole packets
    options = ["-p", "-n", "-U", "--immediate-mode", "-s", str(SNAPLEN), "-w", "-", "-i", interface]
    return [*launcher, "run", tcpdump, *options, expression(wanted)]


class Source:
    """One process. ``await run()`` returns when it has ended."""

    def __init__(self, interface: str, arguments: list[str], take: Callable[[bytes], None]) -> None:
        """``take`` gets what it writes, piece by piece."""
        self.interface = interface
        self.dropped = 0
        """Packets that the kernel could not keep for it; known at the end."""
        self._arguments = arguments
        self._take = take
        self._process: Process | None = None
        self._ending = False
        self._killer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Start it and read it to its end; :class:`SourceError` where the end was not asked for."""
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._arguments, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, limit=CHUNK, env=_environment()
            )
        except OSError as error:
            raise SourceError(f"cannot start {self._arguments[0]}: {error.strerror}") from error
        said = asyncio.create_task(_last_words(process), name=f"capture on {self.interface}: errors")
        try:
            if self._ending:
                self.end()  # asked for while it started
            await self._read(process)
            await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            if self._killer is not None:
                self._killer.cancel()
            words = await said
        dropped = _DROPPED.search(words)
        self.dropped = int(dropped[1]) if dropped else 0
        if not self._ending:
            raise SourceError(_reason(words) or f"the capturing process ended (status {process.returncode})")

    def end(self) -> None:
        """Tell it to end, and kill it should it not."""
        self._ending = True
        if self._process is None or self._process.returncode is not None or self._killer is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        loop = asyncio.get_running_loop()
        self._killer = loop.call_later(GRACE_SECONDS, self._kill)

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _read(self, process: Process) -> None:
        stream = process.stdout
        if stream is None:
            raise SourceError("the capturing process has no output")
        while data := await stream.read(CHUNK):
            self._take(data)
            await asyncio.sleep(0)  # packets that wait for a verdict come first


async def _last_words(process: Process) -> str:
    """The last of what it says on standard error; all of it is read, so that it never waits for us."""
    said = b""
    while process.stderr is not None and (data := await process.stderr.read(_SAID_BYTES)):
        said = (said + data)[-_SAID_BYTES:]
    return said.decode("utf-8", "replace")


def _reason(words: str) -> str:
    """The last line that is about a failure, fit to be shown."""
    lines = [line.strip() for line in words.splitlines() if line.strip() and not _NO_ERROR.search(line)]
    return inert(lines[-1], 300) if lines else ""


def _environment() -> dict[str, str]:
    """Ours is none of its business. Without a home, scapy writes no cache and reads no settings."""
    return {
        "PATH": os.pathsep.join(PROGRAM_PATHS),
        "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": os.devnull,
        "XDG_CACHE_HOME": os.devnull,
        "XDG_CONFIG_HOME": os.devnull,
        "LC_ALL": "C",
        "TZ": "UTC",
    }
