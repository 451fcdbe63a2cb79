# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is in the home, as the kernel knows: interfaces, addresses, ARP and NDP; and DHCP leases.

Owns a routing netlink socket and the polling of lease files. Which interface is the home's side is
``spind.links``'; who is a device is the engine's.
"""

import errno
import logging
import stat
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from pathlib import Path
from socket import socket

from spind.events import LeaseSeen, LocalAddresses, NeighbourGone, NeighbourSeen
from spind.links import Links
from spind.model import Address, Mac
from spind.netlink_socket import NETLINK_ROUTE, open_netlink, request
from spind.uci import Package, UciError, decode, parse
from spind.wire import neighbour as rtnetlink
from spind.wire.errors import WireError
from spind.wire.leases import MAX_BYTES, Lease, parse_leases
from spind.wire.neighbour import Neighbour, parse_rtnetlink
from spind.wire.netlink import NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, messages

_LOG = logging.getLogger(__name__)

NeighbourEvent = NeighbourSeen | NeighbourGone | LeaseSeen | LocalAddresses

NETWORK_CONFIG = Path("/etc/config/network")

LEASE_FILES = (
    Path("/tmp/dhcp.leases"),  # noqa: S108 - OpenWrt's dnsmasq
    Path("/var/lib/misc/dnsmasq.leases"),  # Debian's
    Path("/tmp/hosts/odhcpd"),  # noqa: S108 - OpenWrt's odhcpd
)

_GROUPS = (
    rtnetlink.RTNLGRP_LINK,
    rtnetlink.RTNLGRP_NEIGH,
    rtnetlink.RTNLGRP_IPV4_IFADDR,
    rtnetlink.RTNLGRP_IPV6_IFADDR,
)
_BUFFER = 1 << 20  # bytes; an event takes 1 KiB of it
_BYTES = 32_768  # asked for at once

_SLICE_BUFFERS = 30  # an event takes some 10 µs
_LEASE_SECONDS = 2.0

# Neighbours that are remembered. The kernel keeps 1,024 (gc_thresh3) unless it was told otherwise.
# Of those beyond it is not told that they went.
_MAX_NEIGHBOURS = 8_192


class NeighbourWatcher:
    """Emits who is where, ``LocalAddresses`` first, and again whenever it changed.

    ``lan`` and ``mode`` are the options of that name. ``on_interfaces`` is called with the names of
    the interfaces at which rules see the home's packets, whenever these change.
    In mode ``bridge`` the kernel does not tell on which side a neighbour is, and in mode ``local``
    neighbours are not the home: there are no events about neighbours then.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        emit: Callable[[NeighbourEvent], None],
        lan: tuple[str, ...],
        mode: str,
        *,
        on_interfaces: Callable[[tuple[str, ...]], None],
        network_config: Path = NETWORK_CONFIG,
        lease_files: tuple[Path, ...] = LEASE_FILES,
    ) -> None:
        self._loop = loop
        self._emit = emit
        self._mode = mode
        self._on_interfaces = on_interfaces
        self._network_config = network_config
        self._links = Links(lan, mode, _read_network(network_config))
        self._socket: socket | None = None
        self._known: dict[tuple[int, Address], Mac] = {}
        self._told: LocalAddresses | None = None
        self._interfaces: tuple[str, ...] | None = None
        self._leases = [_LeaseFile(path) for path in lease_files]
        self._timer: TimerHandle | None = None
        self._lost = False  # events, since all was read
        self._overruns = 0
        self._malformed = 0

    def start(self) -> None:
        """Subscribe and read what is there: when it returns, ``is_lan`` is right. Raises ``OSError``."""
        self._socket = open_netlink(NETLINK_ROUTE, _GROUPS, _BUFFER)
        self._read_all()
        for word in self._links.missing():
            _LOG.warning("lan: there is no network or interface %s (yet)", word)
        for name in self._links.bridges_named():
            _LOG.warning("lan: %s is a bridge; in mode bridge name its ports on the home's side", name)
        self._loop.add_reader(self._socket.fileno(), self._on_readable)
        self._poll_leases()

    def stop(self) -> None:
        """Close the socket, stop polling."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def is_lan(self, ifindex: int) -> bool:
        """Whether the interface of that index is on the home's side."""
        return self._links.is_lan(ifindex)

    def outdated(self) -> bool:
        """Whether the file of networks has come to say something else about their devices."""
        return not self._links.made_with(_read_network(self._network_config))

    def rule_interfaces(self) -> tuple[str, ...]:
        """Names of the interfaces at which rules see the home's packets, sorted."""
        return self._links.rule_interfaces()

    def capture_interfaces(self) -> tuple[str, ...]:
        """Names of the interfaces at which packets of the home can be read, sorted."""
        return self._links.capture_interfaces()

    def counters(self) -> dict[str, int]:
        """Numbers for ``status``."""
        return {
            "neighbours.known": len(self._known),
            "neighbours.overruns": self._overruns,
            "neighbours.malformed": self._malformed,
        }

    def _on_readable(self) -> None:
        """Take a slice of events."""
        if self._socket is None:
            return
        for _buffer in range(_SLICE_BUFFERS):
            try:
                data = self._socket.recv(_BYTES)
            except BlockingIOError:
                if self._lost:
                    # Not before: what waited was older, and would have the last word.
                    self._lost = False
                    self._read_all()
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._overruns += 1
                self._lost = True
            else:
                self._take(data)
        else:
            if self._lost:
                self._loop.call_soon(self._on_readable)  # should that have been the last: no event will
        self._tell_links()

    def _read_all(self) -> None:
        """Read interfaces, addresses and neighbours anew, and tell what changed.

        The kernel answers a dump request while we read, so that this waits for nothing. Some 10 µs
        an entry: at the start, and after events were lost.
        """
        self._links.clear()
        before, self._known = self._known, {}
        for kind, header in (
            (rtnetlink.RTM_GETLINK, rtnetlink.IFINFOMSG.pack(0, 0, 0, 0, 0, 0)),
            (rtnetlink.RTM_GETADDR, rtnetlink.IFADDRMSG.pack(0, 0, 0, 0, 0)),
        ):
            self._dump(kind, header)
        self._tell_links()
        self._dump(rtnetlink.RTM_GETNEIGH, rtnetlink.NDMSG.pack(0, 0, 0, 0, 0, 0, 0))
        for (ifindex, address), mac in before.items():
            if (ifindex, address) not in self._known:
                self._emit(NeighbourGone(address, mac))

    def _dump(self, kind: int, header: bytes) -> None:
        """Read one table on a socket of its own, so that no event gets in between."""
        with open_netlink(NETLINK_ROUTE) as sock:
            request(sock, kind, NLM_F_DUMP, 1, header)
            while True:
                try:
                    data = sock.recv(_BYTES)
                except BlockingIOError:
                    return
                self._take(data)
                if any(message.type in (NLMSG_DONE, NLMSG_ERROR) for message in messages(data)):
                    return

    def _take(self, data: bytes) -> None:
        try:
            found = parse_rtnetlink(data)
        except WireError:
            self._malformed += 1
            return
        for item in found:
            if isinstance(item, Neighbour):
                self._take_neighbour(item)
            else:
                self._links.apply(item)

    def _take_neighbour(self, item: Neighbour) -> None:
        key = (item.ifindex, item.address)
        if item.mac is None:
            mac = self._known.pop(key, None)
            if mac is not None:
                self._emit(NeighbourGone(item.address, mac))
        elif self._mode == "router" and self._links.is_lan(item.ifindex):
            # What is known is told again when the neighbour has answered: it is there.
            if self._known.get(key) != item.mac or item.confirmed:
                self._emit(NeighbourSeen(item.address, item.mac))
            if key in self._known or len(self._known) < _MAX_NEIGHBOURS:
                self._known[key] = item.mac

    def _tell_links(self) -> None:
        """Tell our addresses and the home's interfaces where they changed."""
        local = self._links.local_addresses()
        if local != self._told:
            self._told = local
            self._emit(local)
        interfaces = self._links.rule_interfaces()
        if interfaces != self._interfaces:
            first = self._interfaces is None
            self._interfaces = interfaces
            self._on_interfaces(interfaces)
            if not first:
                _LOG.info("the home's interfaces are now: %s", ", ".join(interfaces) or "none")
                # Neighbours on a new one may have been told before it was known to be the home's.
                self._dump(rtnetlink.RTM_GETNEIGH, rtnetlink.NDMSG.pack(0, 0, 0, 0, 0, 0, 0))

    def _poll_leases(self) -> None:
        for file in self._leases:
            for lease in file.news(time.time()):
                self._emit(LeaseSeen(lease.mac, lease.address, lease.hostname))
        self._timer = self._loop.call_later(_LEASE_SECONDS, self._poll_leases)


class _LeaseFile:
    """A lease file that is read again when it was written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._seen: set[Lease] = set()

    def news(self, now: float) -> list[Lease]:
        """Leases that hold and that the last reading did not have."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return []
            if not stat.S_ISREG(status.st_mode):
                return []  # a pipe would never end
            with self._path.open("rb") as file:
                text = file.read(MAX_BYTES).decode("utf-8", "replace")
        except OSError:
            self._stamp = None
            return []
        self._stamp = stamp
        leases = {lease for lease in parse_leases(text) if not lease.expires or lease.expires > now}
        news = leases - self._seen
        self._seen = leases
        return sorted(news)


def _read_network(path: Path) -> Package | None:
    try:
        return parse(decode(path.read_bytes()), "network")
    except FileNotFoundError:
        return None
    except (OSError, UciError) as error:
        _LOG.warning("%s: %s", path, error)
        return None
