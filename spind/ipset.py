# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of ipset in the kernel, over one netlink socket, without a process for each change.

Owns the socket and the answers. What the messages look like is in ``wire.ipset``; which sets there
shall be is the business of others. All methods raise ``OSError`` where the kernel refuses.

The kernel carries a request out before ``send`` returns, so the answers are there at once.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable

from spind.netlink_socket import NETLINK_NETFILTER, SOL_NETLINK, open_netlink
from spind.sockopt import get_option
from spind.wire import ipset, netlink

_NETLINK_CAP_ACK = 10  # linux/netlink.h: refusals do not repeat the whole request
_BUFFER = 131_072  # a refusal to change elements repeats the request all the same

# linux/netfilter/ipset/ip_set.h: asks for a set's index, by which rules refer to it. The netlink
# command for it came with Linux 4.20.
_SO_IP_SET = 83
_GET_BYNAME = 6
_REQUEST = struct.Struct("@II32s")  # struct ip_set_req_get_set
_INDEX = struct.Struct("@H")
_VERSION = 6

_SMALLEST_HASH = 64
_LARGEST_HASH = 1 << 20
_ROOM = 65_536  # elements; costs nothing until they come


class Ipset:
    """The sets of the network namespace that the object was made in."""

    def __init__(self) -> None:
        self._sequence = 0
        self._socket = open_netlink(NETLINK_NETFILTER)
        self._socket.setsockopt(SOL_NETLINK, _NETLINK_CAP_ACK, 1)

    def close(self) -> None:
        """Close the socket; the sets stay."""
        self._socket.close()

    def headers(self) -> dict[str, ipset.Header]:
        """All sets that there are, by name."""
        self._sequence += 1
        self._socket.send(ipset.list_request(self._sequence))
        found: dict[str, ipset.Header] = {}
        while True:
            data = self._receive()
            found.update((header.name, header) for header in ipset.parse_headers(data))
            for message in netlink.messages(data):
                if message.type in (netlink.NLMSG_DONE, netlink.NLMSG_ERROR):
                    _check(netlink.error_code(data, message), "")
                    return found

    def create(self, name: str, kind: str, family: int, elements: int) -> None:
        """Make an empty set that expects so many elements, and takes twice as many."""
        size = 1 << max(1, elements // 4).bit_length()  # a bucket holds a dozen, and the table can grow
        size = min(max(size, _SMALLEST_HASH), _LARGEST_HASH)
        limit = max(_ROOM, 2 * elements)
        self._change(name, ipset.create_request(self._sequence + 1, name, kind, family, size, limit))

    def destroy(self, name: str) -> None:
        """Take a set out that no rule refers to."""
        self._change(name, ipset.destroy_request(self._sequence + 1, name))

    def change(self, name: str, *, add: bool, elements: Iterable[ipset.Element]) -> None:
        """Add or delete elements; refused where one is there already, or is not. Those before it stay."""
        for request in ipset.change_requests(self._sequence + 1, name, add=add, elements=elements):
            self._change(name, request)

    def index(self, name: str) -> int:
        """The number by which rules refer to the set of that name."""
        buffer = bytearray(_REQUEST.pack(_GET_BYNAME, _VERSION, name.encode()))
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            get_option(sock, socket.IPPROTO_IP, _SO_IP_SET, buffer)
        found = int(_INDEX.unpack_from(buffer, 8)[0])
        if found == 0xFFFF:  # IPSET_INVALID_ID
            raise OSError(errno.ENOENT, f"ipset: there is no set {name}")
        return found

    def _change(self, name: str, request: bytes) -> None:
        self._sequence += 1
        self._socket.send(request)
        while True:
            data = self._receive()
            for message in netlink.messages(data):
                if message.type == netlink.NLMSG_ERROR and message.seq == self._sequence:
                    _check(netlink.error_code(data, message), name)
                    return

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_BUFFER)
        except BlockingIOError:
            raise OSError(errno.EPROTO, "ipset: the kernel does not answer") from None


def _check(number: int, name: str) -> None:
    if number:
        text = ipset.error_text(number) or os.strerror(number)
        raise OSError(number if number < 4096 else errno.EINVAL, f"ipset {name}: {text}")
