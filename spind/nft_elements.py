# SPDX-License-Identifier: GPL-2.0-or-later
"""nftables over netlink sockets of our own: elements, counters, what is there, who changes it.

Owns two sockets and what the kernel answers on them. It knows neither rules nor classes. What is
asked here is answered by the kernel before ``send`` returns, so nothing ever waits.
"""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from spind.netlink_socket import NETLINK_NETFILTER, SOL_NETLINK, open_netlink, request
from spind.wire import nftables
from spind.wire.errors import WireError
from spind.wire.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, error_code, messages
from spind.wire.nftables import ChainThere, ElementsChange, SetThere

_NFNLGRP_NFTABLES = 7
_NETLINK_CAP_ACK = 10  # errors without the message that failed
_SO_SNDBUFFORCE = 32
_SO_ATTACH_FILTER = 26
_BUFFER = 1 << 16

# A dump that somebody's change crosses is asked for again, this often.
_DUMPS = 5

# Events that may wait: a person's transaction of some 10,000 elements. Our own are not even queued.
_EVENTS_BYTES = 4 << 20
# Datagrams, of up to 4 KiB, that one look takes: less than a millisecond of work.
_EVENTS_PER_LOOK = 16

Found = TypeVar("Found")


class NftSocket:
    """Requests and their answers. Methods raise ``OSError`` with what the kernel says."""

    def __init__(self) -> None:
        self._sock = open_netlink(NETLINK_NETFILTER)
        self._sock.setsockopt(SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self.port: int = self._sock.getsockname()[0]
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def change_elements(self, changes: Iterable[ElementsChange], table: str) -> None:
        """Make all changes to sets of a table of family inet, or none."""
        self._drain()
        batch, wanted = nftables.pack_elements(changes, table, self._next())
        if wanted == self._sequence:
            return  # nothing to do
        self._sequence = wanted
        if len(batch) > self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2:
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(batch))
        self._sock.send(batch)
        for data in self._answers():
            for message in messages(data):
                if message.type != NLMSG_ERROR:
                    continue
                code = error_code(data, message)
                if code:
                    raise OSError(code, f"nftables: elements of {table}: {os.strerror(code)}")
                if message.seq == wanted:
                    return
        raise OSError(errno.EIO, "nftables: no answer")

    def counter(self, table: str, name: str, family: int = nftables.NFPROTO_INET) -> tuple[int, int]:
        """Packets and bytes of a counter; (0, 0) where there is none."""
        self._drain()
        request(
            self._sock,
            nftables.NFT_MSG_GETOBJ,
            0,
            self._next(),
            nftables.counter_request(table, name, family),
        )
        for data in self._answers():
            return nftables.parse_counters(data) or (0, 0)
        return 0, 0

    def chains(self, table: str, family: int = nftables.NFPROTO_INET) -> list[ChainThere]:
        """Chains of a table."""
        found = self._dump(nftables.NFT_MSG_GETCHAIN, family, nftables.parse_chains)
        return [each for each in found if each.table == table and each.family == family]

    def sets(self, table: str, family: int = nftables.NFPROTO_INET) -> list[SetThere]:
        """Sets and maps of a table, without their elements."""
        found = self._dump(nftables.NFT_MSG_GETSET, family, nftables.parse_sets)
        return [each for each in found if each.table == table and each.family == family]

    def _dump(self, kind: int, family: int, parse: Callable[[bytes], Iterator[Found]]) -> list[Found]:
        for _attempt in range(_DUMPS):
            self._drain()
            request(self._sock, kind, NLM_F_DUMP, self._next(), nftables.dump_request(family))
            found: list[Found] = []
            whole = True
            for data in self._answers():
                found += parse(data)
                heads = list(messages(data))
                whole = whole and not any(head.flags & NLM_F_DUMP_INTR for head in heads)
                last = heads[-1]
                if last.type in (NLMSG_DONE, NLMSG_ERROR):
                    code = error_code(data, last)
                    if code not in (0, errno.EINTR):
                        raise OSError(code, f"nftables: {os.strerror(code)}")
                    whole = whole and code == 0
                    break
            if whole:
                return found
        raise OSError(errno.EINTR, "nftables: the rules change all the time")

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        return self._sequence

    def _answers(self) -> Iterator[bytes]:
        while True:
            try:
                data = self._sock.recv(_BUFFER)
            except BlockingIOError:
                return
            yield data

    def _drain(self) -> None:
        """What is left of an earlier answer, after an error, is not for the next request."""
        for _data in self._answers():
            pass


class NftWatch:
    """Tells whether others touch a table (of family inet or bridge), or things in it by a prefix.

    ``ours`` are ports of netlink sockets whose changes do not count; the kernel does not even queue
    them for us. That what a process does comes from a socket whose port is its PID is the kernel's
    habit, not its promise; so transactions that end with a child's PID do not count, either.
    """

    def __init__(self, table: str, prefix: str, ours: Sequence[int]) -> None:
        self._table = table
        self._prefix = prefix
        self._ours = tuple(ours)
        self._process = 0
        self._pending = False
        self._sock = open_netlink(NETLINK_NETFILTER, receive_buffer=_EVENTS_BYTES)
        try:
            self._ignore(self._ours)
            self._sock.setsockopt(SOL_NETLINK, 1, _NFNLGRP_NFTABLES)
        except OSError:
            self._sock.close()
            raise

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def fileno(self) -> int:
        """Readable where somebody changed something of nftables."""
        return self._sock.fileno()

    def expect(self, process: int) -> None:
        """From now on, do not count changes by this process, our child; 0: it has ended."""
        if process:
            self._process = process  # kept, since its events may still wait to be read
        self._ignore((*self._ours, process) if process else self._ours)

    def touched(self, datagrams: int = _EVENTS_PER_LOOK) -> bool | None:
        """Read what waits, up to ``datagrams``: ``True`` if something was touched, or may have been.

        ``None`` where more waits to be read and nothing was found so far.
        """
        for _datagram in range(datagrams):
            try:
                data = self._sock.recv(_BUFFER)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return True
            if self._judge(data):
                return True
        return None

    def _judge(self, data: bytes) -> bool:
        """A transaction counts when its end says who it was."""
        try:
            touched, process = nftables.parse_events(data, self._table, self._prefix)
        except WireError:
            return True
        self._pending = self._pending or touched
        if not process:
            return False
        counts = self._pending and process != self._process
        self._pending = False
        return counts

    def _ignore(self, ports: Sequence[int]) -> None:
        """Let the kernel drop what begins with a message from one of these ports.

        All messages of a datagram are of one transaction. The filter is classic BPF
        (``linux/filter.h``), which loads in network order what netlink has in the host's.
        """
        code = [(0x20, 0, 0, 12)]  # load nlmsg_pid
        for left, port in zip(range(len(ports), 0, -1), ports, strict=True):
            swapped = struct.unpack("!I", struct.pack("=I", port))[0]
            code.append((0x15, left, 0, swapped))  # equal: to the end
        code += [(0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)]  # pass; drop
        filled = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in code))
        program = struct.pack("@HP", len(code), ctypes.addressof(filled))
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
