# SPDX-License-Identifier: GPL-2.0-or-later
"""Netlink sockets: open, subscribe, size the buffer, ask; and the kernel settings that they need.

Owns options only. What the bytes mean is in ``spind.wire``; who reads them, and when, is
the business of ``capture``, ``conntrack`` and ``neighbours``.
"""

import logging
import os
import socket
from pathlib import Path

from spind.wire import netlink

_LOG = logging.getLogger(__name__)

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

# linux/netlink.h, include/asm-generic/socket.h: not in Python's socket module.
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
SO_RCVBUFFORCE = 33


def open_netlink(protocol: int, groups: tuple[int, ...] = (), receive_buffer: int = 0) -> socket.socket:
    """Open a non-blocking netlink socket that is subscribed to the multicast ``groups``.

    ``receive_buffer`` is the bytes of kernel memory that unread messages may take (0: the system's
    default); beyond ``net.core.rmem_max`` it takes CAP_NET_ADMIN, else what is allowed is used.
    Raises ``OSError`` where the kernel lacks the protocol or a group, or refuses it.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setblocking(False)
        if receive_buffer:
            set_receive_buffer(sock, receive_buffer)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except OSError:
        sock.close()
        raise
    return sock


def set_receive_buffer(sock: socket.socket, size: int) -> None:
    """Let unread messages take ``size`` bytes of kernel memory, as far as we may."""
    # The kernel doubles the value for its own overhead and then compares with all of it.
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size // 2)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size // 2)
        granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        _LOG.warning("netlink: receive buffer is %d bytes instead of %d", granted, size)


def event_buffer_size(smallest: int, largest: int, fraction: int = 16) -> int:
    """Bytes for a buffer that survives a stall: 1/``fraction`` of the machine's memory, bounded.

    The memory is taken only while messages wait in it.
    """
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return smallest
    return max(smallest, min(largest, total // fraction))


def request(sock: socket.socket, kind: int, flags: int, seq: int, payload: bytes) -> None:
    """Send one request to the kernel."""
    sock.send(netlink.pack_message(kind, flags | netlink.NLM_F_REQUEST, seq, payload))


def write_sysctl(path: str, value: str) -> str | None:
    """Write ``value`` to ``/proc/sys/<path>`` and return what stood there; ``None`` where it failed.

    Nothing is written where the value stands there already.
    """
    file = Path("/proc/sys") / path
    try:
        before = file.read_text().strip()
        if before != value:
            file.write_text(value + "\n")
    except OSError as error:
        _LOG.warning("cannot set %s to %s: %s", path.replace("/", "."), value, error.strerror)
        return None
    return before


def enable_accounting() -> None:
    """Make the kernel count bytes, and tell of the end of every connection that starts from now on.

    Called by whoever comes first: rules that look at a connection's packets make the kernel count, too,
    but without a word in our log.
    """
    if write_sysctl("net/netfilter/nf_conntrack_acct", "1") == "0":
        _LOG.warning("conntrack: accounting was off: connections older than now have no counters")
    # 2 is the default of new kernels: events only for connections that start while somebody listens.
    # Those that start while the daemon restarts would then end without a word.
    before = write_sysctl("net/netfilter/nf_conntrack_events", "1")
    if before not in (None, "1"):
        _LOG.info("conntrack: events set from %s to 1", before)
