# SPDX-License-Identifier: GPL-2.0-or-later
"""The runtime directory of a lab: everything needed to find it, use it and take it down again.

``/run/spind-lab/<name>/`` holds ``lab.json`` (state), ``pids/`` (process id and start time of
each daemon), ``conf/``, ``log/``, ``certs/`` and ``data/``. The directory appears whole, by one
rename, before the first namespace is made: a crash at any moment leaves enough to clean up with.

A lab is stale when the process that owns it has died (its id is free or has another start time),
or the machine was restarted since. A lab that was handed over (``spind lab up``) has no owner.
"""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from spind.lab import netns
from spind.lab.errors import LabError

BASE = Path("/run/spind-lab")
ETC_NETNS = Path("/etc/netns")
_PARTS = ("conf", "log", "certs", "data", "pids", "etc")


def start_time(pid: int) -> int | None:
    """When process ``pid`` started, in clock ticks after boot; ``None`` where there is none.

    proc_pid_stat(5), field 22. A zombie counts as gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def directory(name: str) -> Path:
    """Where the lab ``name`` keeps its files."""
    return BASE / name


def create(name: str, state: dict[str, Any]) -> Path:
    """Make the runtime directory of ``name`` with its state in it; ``LabError`` where it exists."""
    BASE.mkdir(mode=0o755, parents=True, exist_ok=True)
    building = BASE / f".{name}.{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    for part in _PARTS:
        (building / part).mkdir(parents=True)
    write_state(building, state)
    try:
        building.rename(directory(name))
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        raise LabError(f"there is a lab {name} already; take it down first: spind lab down {name}") from None
    return directory(name)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Replace ``lab.json`` in one step."""
    new = path / "lab.json.new"
    new.write_text(json.dumps(state, indent=1))
    new.rename(path / "lab.json")


def read_state(name: str) -> dict[str, Any]:
    """State of the lab ``name``; ``LabError`` where there is no such lab."""
    try:
        state = json.loads((directory(name) / "lab.json").read_text())
    except (OSError, ValueError):
        raise LabError(f"there is no lab {name!r}; see: spind lab list") from None
    if not isinstance(state, dict):
        raise LabError(f"{directory(name)}/lab.json is not a lab's state")
    return state


def names() -> list[str]:
    """Names of all labs on this machine, stale ones included."""
    try:
        return sorted(entry.name for entry in BASE.iterdir() if (entry / "lab.json").is_file())
    except FileNotFoundError:
        return []


def me() -> dict[str, int]:
    """The calling process, as ``lab.json`` names an owner."""
    return {"pid": os.getpid(), "start": start_time(os.getpid()) or 0}


def is_stale(state: dict[str, Any]) -> bool:
    """Whether nobody can take the lab down any more but a reaper."""
    if state.get("boot") != boot_id():
        return True
    owner = state.get("owner")
    return owner is not None and start_time(int(owner["pid"])) != int(owner["start"])


def destroy(name: str) -> None:
    """End the lab's processes, delete its namespaces and its directory. Safe to repeat, and in parallel."""
    state = read_state(name)
    namespaces = [str(namespace) for namespace in state["namespaces"]]
    if state.get("boot") == boot_id():
        _end_recorded(directory(name))
        netns.end_processes(namespaces)
        netns.delete(namespaces)
    for namespace in namespaces:
        (ETC_NETNS / namespace).unlink(missing_ok=True)
    for parent, leaf in ((ETC_NETNS, None), (BASE, directory(name))):
        if leaf is not None:
            shutil.rmtree(leaf, ignore_errors=True)
        try:
            parent.rmdir()  # only where it is empty: nobody else uses it
        except OSError:
            continue


def _end_recorded(path: Path) -> None:
    """End daemons that were started but have perhaps not entered their namespace yet."""
    for file in (path / "pids").glob("*"):
        try:
            pid, _, started = file.read_text().partition(" ")
            descriptor = os.pidfd_open(int(pid))
        except (OSError, ValueError):  # it has ended, or somebody else takes the lab down too
            continue
        try:
            if start_time(int(pid)) == int(started):
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        except ProcessLookupError:
            continue
        finally:
            os.close(descriptor)


def reap() -> list[str]:
    """Destroy every stale lab and half-made directory of a dead process; the names of those labs."""
    reaped = []
    for name in names():
        try:
            if is_stale(read_state(name)):
                destroy(name)
                reaped.append(name)
        except LabError:  # somebody else took it down meanwhile
            continue
    for entry in BASE.glob(".*.*"):
        pid = entry.name.rpartition(".")[2]
        if pid.isdigit() and start_time(int(pid)) is None:
            shutil.rmtree(entry, ignore_errors=True)
    return reaped


def link_etc(namespace: str, target: Path) -> None:
    """Let ``ip netns exec`` in ``namespace`` see the files of ``target`` in /etc (ip-netns(8))."""
    ETC_NETNS.mkdir(exist_ok=True)
    (ETC_NETNS / namespace).symlink_to(target)
