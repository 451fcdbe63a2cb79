# SPDX-License-Identifier: GPL-2.0-or-later
"""Deletes connections from the kernel's table, so that what runs already meets the rules anew.

Rules judge every packet that they see, so this is only needed for those that they do not see: the
packets of connections that the kernel has offloaded. Owns a netlink socket of its own; ``spind.conntrack``
hears of each end like of any other. Which connections shall go is the engine's business.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Collection, Iterable, Sequence
from errno import ENOENT, EPERM

from spind.logs import ONCE
from spind.model import IPPROTO_UDP, Address, ConnKey
from spind.netlink_socket import NETLINK_NETFILTER, SOL_NETLINK, open_netlink, request
from spind.wire.conntrack import (
    CT_DELETE,
    CT_GET,
    CT_NEW,
    DUMP_ALL,
    Layout,
    delete_entry_request,
    delete_request,
    learn,
)
from spind.wire.errors import WireError
from spind.wire.netlink import (
    HEADER,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    error_code,
    messages,
    pack_message,
)

_LOG = logging.getLogger(__name__)

_NETLINK_CAP_ACK = 10  # linux/netlink.h: an answer shall not quote the request

# Requests in one send. The kernel answers only those that fail, and its answers have to find room in the
# receive buffer, where each takes about a KiB.
_BATCH = 128
_RECEIVE_BUFFER = 512 << 10
_ANSWER_BYTES = 4_096

_DUMP_BYTES = 32_768  # the most that the kernel puts into a piece of a dump

# Up to so many addresses, pieces of a dump are searched for them first, and only entries around them are
# taken apart: a tenth of a microsecond an entry for each address instead of ten.
_FEW = 16

# An entry that no kernel has, to ask whether it could delete one.
_NOBODY = ConnKey(IPPROTO_UDP, bytes(4), 0, bytes(4), 0)


class ConntrackDeleter:
    """Deletes entries. All methods are synchronous; all but ``delete_matching`` belong on one thread.

    ``refused`` counts those that the kernel has and would not delete: offloaded ones, with kernels
    that lack 'ctnetlink: Support offloaded conntrack entry deletion' of Linux 6.4 and its stable series.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self.refused = 0

    def open(self) -> None:
        """Open the socket. Raises ``OSError`` where the kernel has no ctnetlink or refuses it."""
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(_open())
            # A kernel without ctnetlink has other words for it than that there is no such entry.
            error = _delete(sock, [delete_request(_NOBODY, reply=False)]).get(0, ENOENT)
            if error != ENOENT:
                raise OSError(error, f"connections cannot be deleted: {os.strerror(error)}")
            stack.pop_all()
        self._socket = sock

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def delete(self, keys: Iterable[tuple[ConnKey, bool]]) -> int:
        """Delete connections by their keys, and return how many of them there were.

        With each key goes whether the connection is outbound, that is, whether ``key.src`` is the
        device. That only saves time: each is looked for by its initiator's packets and by its
        responder's, since NAT may have changed either's addresses. Raises ``OSError`` where nothing can
        be deleted at all.
        """
        if self._socket is None:
            return 0
        wanted = list(keys)
        first = _delete(self._socket, [delete_request(key, reply=not outbound) for key, outbound in wanted])
        # Of an outbound one, the destination may be translated: a redirected DNS query's is.
        missing = [wanted[index] for index, error in first.items() if error == ENOENT]
        second = _delete(self._socket, [delete_request(key, reply=outbound) for key, outbound in missing])
        self._note([error for error in (*first.values(), *second.values()) if error != ENOENT])
        return len(wanted) - len(first) + len(missing) - len(second)

    def delete_matching(self, addresses: Collection[Address]) -> int:
        """Delete all connections of which ``addresses`` has an end, and return how many there were.

        An end is a key's ``src`` or ``dst``. Reads the whole table: of 50,000 entries this takes 0.15 s
        for a few addresses, 0.1 s of it the kernel's, and 0.7 s for hundreds. Call it on another thread
        where that matters; it has sockets of its own. Raises ``OSError`` where the table cannot be read.
        """
        wanted = frozenset(addresses)
        if not wanted:
            return 0
        with open_netlink(NETLINK_NETFILTER) as sock:
            found = _find(sock, wanted)
        with _open() as sock:
            failed = _delete(sock, found)
        self._note([error for error in failed.values() if error != ENOENT])
        return len(found) - len(failed)

    def _note(self, errors: list[int]) -> None:
        self.refused += len(errors)
        for error in set(errors):
            _LOG.warning("connections that the kernel does not delete: %s", os.strerror(error), extra=ONCE)


def _open() -> socket.socket:
    sock = open_netlink(NETLINK_NETFILTER, (), _RECEIVE_BUFFER)
    with contextlib.suppress(OSError):  # Linux 4.3
        sock.setsockopt(SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    return sock


def _delete(sock: socket.socket, bodies: Sequence[bytes]) -> dict[int, int]:
    """Ask for deletions; errnos of those that failed, by their index in ``bodies``.

    The kernel does all that one ``send`` asks for, and answers, before that returns.
    """
    failed: dict[int, int] = {}
    for first in range(0, len(bodies), _BATCH):
        batch = enumerate(bodies[first : first + _BATCH], first)
        sock.send(b"".join(pack_message(CT_DELETE, NLM_F_REQUEST, index, body) for index, body in batch))
        while True:
            try:
                data = sock.recv(_ANSWER_BYTES)
            except BlockingIOError:
                break
            for message in messages(data):
                if message.type == NLMSG_ERROR:
                    failed[message.seq] = error_code(data, message)
        if EPERM in failed.values():  # answered once for the whole batch
            raise PermissionError(EPERM, "connections cannot be deleted: not permitted")
    return failed


def _find(sock: socket.socket, wanted: frozenset[Address]) -> list[bytes]:
    """Bodies of requests to delete all entries that have one of the addresses."""
    found: list[bytes] = []
    layouts: dict[int, Layout] = {}
    needles = tuple(wanted) if len(wanted) <= _FEW else ()
    request(sock, CT_GET, NLM_F_DUMP, 1, DUMP_ALL)
    while True:
        data = sock.recv(_DUMP_BYTES)
        places = _places(data, needles)
        for message in messages(data):
            if message.type == CT_NEW:
                start, end = message.start - HEADER.size, message.end
                while places and places[-1] < start:
                    places.pop()
                if needles and not (places and places[-1] < end):
                    continue
                try:
                    key = _key(data, start, end, layouts)
                    if key.src in wanted or key.dst in wanted:
                        found.append(delete_entry_request(data, start, end))
                except WireError as error:
                    _LOG.warning("connections to delete: %s", error, extra=ONCE)
            elif message.type in (NLMSG_DONE, NLMSG_ERROR):
                failure = error_code(data, message)
                if failure:
                    raise OSError(failure, f"connections cannot be read: {os.strerror(failure)}")
                return found


def _places(data: bytes, needles: tuple[bytes, ...]) -> list[int]:
    """Where any of the needles begins, the last place first."""
    places = []
    for needle in needles:
        place = data.find(needle)
        while place >= 0:
            places.append(place)
            place = data.find(needle, place + 1)
    return sorted(places, reverse=True)


def _key(data: bytes, start: int, end: int, layouts: dict[int, Layout]) -> ConnKey:
    """Key of an entry, the fast way where the last of its length had the same layout."""
    layout = layouts.get(end - start)
    if layout is None or not layout.matches(data, start):
        layout = learn(data, start, end)[1]
        layouts[layout.length] = layout
    return layout.key(data, start)
