# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that captures: ``python -m spind.pcap_child PARENT run PROGRAM ARGUMENT…`` becomes tcpdump,
``… PARENT read INTERFACE FILTER`` reads packets itself, where there is none.

Owns the giving up of privileges: the capturing process is no root where that is possible, it can gain
nothing by running something, and it ends with the daemon that started it, even with one that was
killed. Scapy, which reads the packet socket, is imported here, and so never in the daemon. Writes pcap
to standard output, sentences and the number of lost packets to standard error. Must not be imported.
"""

import contextlib
import ctypes
import grp
import logging
import os
import pwd
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spind.pcap_stream import LINKTYPE_ETHERNET, MAX_RECORD, header

USERS = ("tcpdump", "nobody")
"""Whoever of these there is runs it."""

_LIBC = ctypes.CDLL(None, use_errno=True)

# linux/prctl.h, linux/capability.h
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_NET_RAW = 5, 6, 7, 13

# asm-generic/socket.h, linux/if_packet.h
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_ARPHRD_WITH_ETHERNET_HEADER = (1, 772)  # Ethernet, loopback

_BUFFER = 4 << 20  # bytes of the socket: some 2,000 large packets
_NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)  # the filter that drops everything
_PAUSE_SECONDS = 0.25
"""How long a signal may wait for us to look."""

_LAST_PACKETS = 5000
"""Packets that are still read after the signal, if they are there already."""


def main(arguments: Sequence[str]) -> int:
    """Become or be the capturing process; the exit status."""
    parent, act, *rest = arguments
    if act == "run":
        drop(keep=(_CAP_NET_RAW,))
        die_with(int(parent))
        try:
            os.execv(rest[0], rest)  # noqa: S606 - no shell is the point
        except OSError as error:
            sys.stderr.write(f"cannot run {rest[0]}: {error.strerror}\n")
            return 1
    return read(int(parent), rest[0], bytes.fromhex(rest[1]))


def drop(keep: Sequence[int]) -> None:
    """Give up the user, all capabilities but ``keep``, and the ability to gain any by running a program.

    Where a jail takes the capabilities for another user away, the user stays: a root that may do nothing.
    """
    prctl(_PR_SET_KEEPCAPS, 1)
    user = next(filter(None, map(_user, USERS)), None)
    if os.getuid() == 0 and user is not None and _may_change_user():
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    mask = sum(1 << number for number in keep)
    # struct __user_cap_header_struct and two of __user_cap_data_struct: effective, permitted, inheritable
    head = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _LIBC.capset(head, struct.pack("=6I", mask, mask, mask, 0, 0, 0))
    for number in keep:
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _may_change_user() -> bool:
    """Do we, and so the daemon, have what it takes: to become another user, and to end its processes?"""
    needed = 1 << _CAP_KILL | 1 << _CAP_SETGID | 1 << _CAP_SETUID
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16) & needed == needed
    return False


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        grp.getgrgid(pwd.getpwnam(name).pw_gid)
        return pwd.getpwnam(name)
    except KeyError:
        return None


def die_with(parent: int) -> None:
    """End when the parent does. To be called after ``drop``: a change of user takes it back (prctl(2))."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)  # it has gone meanwhile


def prctl(option: int, *arguments: int) -> int:
    """Call the kernel; the result says whether it worked: an older one may lack an option."""
    words = [ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0)[:4]]
    return int(_LIBC.prctl(ctypes.c_int(option), *words))


# -- reading ourselves -------------------------------------------------------------------


def read(parent: int, interface: str, code: bytes) -> int:
    """Write what the interface sees and the filter lets through, until SIGTERM; the exit status."""
    try:
        logging.getLogger("scapy").setLevel(logging.ERROR)
        from scapy.arch.linux import L2ListenSocket  # noqa: PLC0415 - 40 MB, for this process only
    except ImportError:
        sys.stderr.write("there is neither tcpdump nor scapy on this machine: install one of them\n")
        return 1
    try:
        # iface, promiscuous off, no filter of scapy's (which needs libpcap): ours follows
        source = L2ListenSocket(iface=interface, promisc=False, nofilter=1)
        kernel = source.ins
        kind = kernel.getsockname()[3]
        _prepare(kernel, code)
    except (OSError, ValueError) as error:  # scapy has the latter where there is no such interface
        sys.stderr.write(f"cannot capture on {interface}: {getattr(error, 'strerror', '') or error}\n")
        return 1
    if kind not in _ARPHRD_WITH_ETHERNET_HEADER:
        sys.stderr.write(f"cannot capture on {interface}: it is no Ethernet interface\n")
        return 1
    drop(keep=())
    die_with(parent)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    try:
        _copy(source, stopped)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        sys.stderr.write(f"cannot capture on {interface} any more: {error.strerror or error}\n")
        return 1
    _seen, dropped = struct.unpack("=II", kernel.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    sys.stderr.write(f"{dropped} packets dropped by kernel\n")
    return 0


def _prepare(kernel: socket.socket, code: bytes) -> None:
    """Attach the filter, without anything that came before it was there."""
    with contextlib.suppress(OSError):  # needs CAP_NET_ADMIN
        kernel.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    _attach(kernel, _NOTHING)
    kernel.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            kernel.recv(1)
    _attach(kernel, code)
    kernel.settimeout(_PAUSE_SECONDS)


def _attach(kernel: socket.socket, code: bytes) -> None:
    memory = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(memory))  # struct sock_fprog
    kernel.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _copy(source: Any, stopped: list[int]) -> None:
    """Packets to standard output, until a signal, and then those that came before it."""
    out = sys.stdout.buffer
    out.write(header(LINKTYPE_ETHERNET))
    out.flush()
    record = struct.Struct("=IIII")
    left = _LAST_PACKETS
    while left:
        if stopped:
            left -= 1
            source.ins.setblocking(False)
        try:
            _kind, data, moment = source.recv_raw(MAX_RECORD)
        except TimeoutError:
            continue
        except BlockingIOError:
            return
        seconds = int(moment)
        fraction = min(int((moment - seconds) * 1e6), 999_999)
        out.write(record.pack(seconds, fraction, len(data), len(data)) + data)
        out.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
