# SPDX-License-Identifier: GPL-2.0-or-later
"""How many packets arrive at a machine of the lab: counted there, before and beside every other rule.

Owns one nft table per watch. Reading the counters takes some 50 µs and no process, so that they can be
read at the very moment at which something else happened. Shares no code with what the daemon uses to
read its own counters: the test bed must not share the mistakes of what it tests.
"""

import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from spind.lab.errors import LabError
from spind.lab.node import Node

_NETLINK_NETFILTER = 12
_GETOBJ, _NEWOBJ = 0x0A13, 0x0A12  # linux/netfilter/nf_tables.h
_OBJ_TABLE, _OBJ_NAME, _OBJ_TYPE, _OBJ_DATA, _COUNTER_PACKETS = 1, 2, 3, 4, 2
_NFPROTO_INET = 1
_UNREACHABLE = "destination-unreachable"


class Arrived(NamedTuple):
    """Packets since the start: TCP resets (with which a gateway ends connections) are counted apart.

    ``refusals`` are ICMP errors that say "administratively prohibited", which are about a packet and are
    none of the other side's.
    """

    packets: int
    resets: int
    refusals: int

    def since(self, before: "Arrived") -> "Arrived":
        """What came since ``before``."""
        return Arrived(*(now - then for now, then in zip(self, before, strict=True)))


class Watch:
    """Counts what arrives at ``node`` and matches one of ``matches`` and none of ``ignored`` (nft syntax).

    It does as long as the block lasts. ``hook`` is where in the node's IP stack; ``name`` must be unique
    there.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        matches: Sequence[str],
        ignored: Sequence[str] = (),
        hook: str = "prerouting",
    ) -> None:
        self._node = node
        self._table = f"lab_watch_{name}"
        self._matches = matches
        self._ignored = ignored
        self._hook = hook
        self._link: socket.socket | None = None

    def __enter__(self) -> Self:
        refusals = "counter name of_refusals accept"
        lines = [
            f"table inet {self._table} {{",
            *(f"  counter of_{name} {{ }}" for name in Arrived._fields),
            "  chain arrived {",
            "    tcp flags & rst == rst counter name of_resets accept",
            f"    icmp type {_UNREACHABLE} icmp code admin-prohibited {refusals}",
            f"    icmpv6 type {_UNREACHABLE} icmpv6 code admin-prohibited {refusals}",
            "    counter name of_packets accept",
            "  }",
            "  chain base {",
            f"    type filter hook {self._hook} priority -400; policy accept;",
            *(f"    {match} accept" for match in self._ignored),
            *(f"    {match} goto arrived" for match in self._matches),
            "  }",
            "}",
        ]
        self._node.run(["nft", "-f", "-"], input="\n".join(lines) + "\n")
        self._link = self._node.call(
            lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        )
        self._link.settimeout(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._link is not None:
            self._link.close()
        self._node.run(["nft", "delete", "table", "inet", self._table], check=False)

    def read(self) -> Arrived:
        """What has arrived so far."""
        return Arrived(*(self._counter(f"of_{name}") for name in Arrived._fields))

    def _counter(self, name: str) -> int:
        if self._link is None:
            raise LabError(f"{self._table} is not there")
        body = struct.pack("=BBH", _NFPROTO_INET, 0, 0)
        for kind, value in (
            (_OBJ_TABLE, self._table.encode() + b"\0"),
            (_OBJ_NAME, name.encode() + b"\0"),
            (_OBJ_TYPE, struct.pack("!I", 1)),
        ):
            body += struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
        self._link.send(struct.pack("=IHHII", 16 + len(body), _GETOBJ, 1, 1, 0) + body)
        data = self._link.recv(8192)
        if struct.unpack_from("=H", data, 4)[0] != _NEWOBJ:
            raise LabError(f"no counter {name} in {self._table}")
        counter = _attributes(data[20:])[_OBJ_DATA]
        return int.from_bytes(_attributes(counter)[_COUNTER_PACKETS], "big")


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found
