# SPDX-License-Identifier: GPL-2.0-or-later
"""Network namespaces: making, entering, emptying and deleting them.

Owns the calls of iproute2 and of setns(2). It changes nothing outside the namespaces that it is
given, and never ends a process by name: only those whose network namespace is one of the given.
"""

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from spind.lab.errors import LabError
from spind.lab.patience import patient

NETNS_DIR = Path("/run/netns")
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def ip_batch(lines: Iterable[str], namespace: str | None = None) -> None:
    """Carry out ``lines`` in one process of iproute2; ``LabError`` with its words at the first failure."""
    finish_batch(start_batch(lines, namespace))


def start_batch(lines: Iterable[str], namespace: str | None = None) -> subprocess.Popen[str]:
    """As ``ip_batch``, without waiting: hand the result to ``finish_batch``."""
    where = ["-n", namespace] if namespace else []
    process = subprocess.Popen(
        ["ip", *where, "-batch", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None  # noqa: S101 - it was asked for
    process.stdin.write("".join(f"{line}\n" for line in lines))
    process.stdin.close()
    process.stdin = None
    return process


def finish_batch(process: subprocess.Popen[str]) -> None:
    """Wait for a batch; ``LabError`` where it failed."""
    _, errors = process.communicate(timeout=patient(60))
    if process.returncode:
        raise LabError(f"ip -batch failed: {errors.strip()}")


def call_in(namespace: str, function: Callable[[], T]) -> T:
    """Run ``function`` on a thread of its own that has entered ``namespace``; its result or exception.

    Sockets that it makes stay in the namespace afterwards; the calling thread never enters.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            enter(namespace)
            result.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, name=f"in-{namespace}", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


@contextmanager
def visiting(namespace: str) -> Iterator[None]:
    """The calling thread is in ``namespace`` meanwhile, and so is every process that it starts."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        yield
    finally:
        _set(home, "the namespace before")


def enter(namespace: str) -> None:
    """Move the calling thread into ``namespace`` for good."""
    _set(os.open(NETNS_DIR / namespace, os.O_RDONLY | os.O_CLOEXEC), f"namespace {namespace}")


def _set(descriptor: int, what: str) -> None:
    """Enter, and close the descriptor."""
    try:
        if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise LabError(f"cannot enter {what}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def write_sysctls(namespace: str, values: Mapping[str, str], optional: Collection[str] = ()) -> None:
    """Set ``values`` (dotted keys under ``net.``) inside ``namespace``; skip missing ``optional`` ones."""

    def body() -> None:
        for key, value in values.items():
            path = Path("/proc/sys", *key.split("."))
            try:
                path.write_text(value)
            except FileNotFoundError:
                if key not in optional:
                    raise LabError(f"this kernel has no sysctl {key}") from None

    call_in(namespace, body)


def processes_in(namespaces: Iterable[str]) -> list[int]:
    """Ids of all processes whose network namespace is one of ``namespaces``, without our own."""
    wanted = _identities(namespaces)
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and _identity(f"/proc/{pid}/ns/net") in wanted]


def _identities(namespaces: Iterable[str]) -> set[tuple[int, int]]:
    found = (_identity(str(NETNS_DIR / name)) for name in namespaces)
    return {identity for identity in found if identity is not None}


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - one for every process of the machine, repeatedly
    except OSError:  # it has ended
        return None
    return status.st_dev, status.st_ino


def end_processes(namespaces: Collection[str], patience: float = 2.0) -> None:
    """End every process in ``namespaces``: SIGTERM, then after ``patience`` seconds SIGKILL.

    Each one is held by a pid descriptor and its namespace is read again before it is signalled,
    so that a number that the kernel has given to somebody else meanwhile is never hit.
    """
    for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patient(wait)
        first = True
        while pids := processes_in(namespaces):
            if first or number == signal.SIGKILL:
                for pid in pids:
                    _signal_in(pid, _identities(namespaces), number)
            first = False
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        else:
            return
    raise LabError(f"processes {processes_in(namespaces)} do not end")


def _signal_in(pid: int, wanted: Collection[tuple[int, int]], number: signal.Signals) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _identity(f"/proc/{pid}/ns/net") in wanted:
            signal.pidfd_send_signal(descriptor, number)
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # a stopped one would never notice
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def delete(namespaces: Iterable[str]) -> None:
    """Delete those of ``namespaces`` that exist; somebody else deleting them meanwhile is fine."""
    present = [name for name in namespaces if (NETNS_DIR / name).exists()]
    if not present:
        return
    result = subprocess.run(
        ["ip", "-force", "-batch", "-"],
        input="".join(f"netns del {name}\n" for name in present),
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=False,
    )
    left = [name for name in present if (NETNS_DIR / name).exists()]
    if left:
        raise LabError(f"cannot delete namespaces {', '.join(left)}: {result.stderr.strip()}")
