# SPDX-License-Identifier: GPL-2.0-or-later
"""What `spind replay` prints: a JSON line for each connection, or tables for people. Pure.

Owns the two forms of output; everything it is given has been counted and attributed before.
Names come from the network, so that whatever is printed goes through :mod:`spind.text`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from spind.attribution import Attribution
from spind.model import (
    EVIDENCE_RANK,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    Address,
    ConnKey,
    Evidence,
    format_address,
    format_mac,
)
from spind.nodes import Kind, Node, Nodes
from spind.text import inert, json_text
from spind.tracker import Connection

ROWS: Final = 40
"""Sites shown for one device; the rest is summed up in one more row."""

NAMES: Final = 4
"""Host names shown for a site, and services."""

DEVICES: Final = 8192
"""Devices that are told apart; the rest is shown as one."""

PARTIES: Final = 65536
"""Pairs of a device and a site that are told apart; the rest is summed up per device."""

_PROTOCOLS: Final = {
    IPPROTO_ICMP: "icmp",
    IPPROTO_TCP: "tcp",
    IPPROTO_UDP: "udp",
    IPPROTO_ICMPV6: "icmpv6",
}
_ICMP: Final = frozenset((IPPROTO_ICMP, IPPROTO_ICMPV6))
_OTHERS: Final = "(others)"


class Record(NamedTuple):
    """A connection that is over, with whose it was.

    ``outbound`` says that the device opened it; true where no device took part, or two did and
    the device is the one that opened it.
    """

    conn: Connection
    attribution: Attribution | None
    outbound: bool

    @property
    def up(self) -> tuple[int, int]:
        """Packets and IP-layer bytes from the device; from the initiator where there is none."""
        conn = self.conn
        if self.outbound:
            return conn.orig_packets, conn.orig_bytes
        return conn.reply_packets, conn.reply_bytes

    @property
    def down(self) -> tuple[int, int]:
        """Packets and IP-layer bytes to the device."""
        conn = self.conn
        if self.outbound:
            return conn.reply_packets, conn.reply_bytes
        return conn.orig_packets, conn.orig_bytes

    @property
    def site(self) -> str:
        """The other party: a registrable domain, or an address."""
        return self.attribution.site if self.attribution else format_address(self.conn.key.dst)


def protocol_name(proto: int) -> str:
    """Lower-case name of an IP protocol, or its number."""
    return _PROTOCOLS.get(proto, str(proto))


def ports_of(key: ConnKey) -> tuple[int, int]:
    """Ports to print; of ICMP the initiator's type and code stand in their place, as in Zeek."""
    if key.proto in _ICMP:
        return key.dport >> 8, key.dport & 0xFF
    return key.sport, key.dport


def flow_line(record: Record) -> str:
    """Format one connection as a JSON object, without a line end."""
    conn = record.conn
    key = conn.key
    sport, dport = ports_of(key)
    up, down = record.up[1], record.down[1]
    known = record.attribution
    return json_text(
        {
            "proto": protocol_name(key.proto),
            "src": format_address(key.src),
            "sport": sport,
            "dst": format_address(key.dst),
            "dport": dport,
            "packets": conn.orig_packets + conn.reply_packets,
            "bytes": up + down,
            "up_bytes": up,
            "down_bytes": down,
            "first": conn.first,
            "last": conn.last,
            "device": known.device if known else None,
            "site": record.site,
            "name": known.name if known else "",
            "evidence": known.evidence if known else Evidence.NONE,
        }
    )


class Totals(NamedTuple):
    """What was in the file, whatever it belonged to."""

    packets: int
    ip_packets: int
    ip_bytes: int
    other: int
    malformed: Counter[str]
    first: float
    last: float
    connections: int
    evicted: int
    gateways: frozenset[bytes]
    seconds: float
    """How long the reading took."""


class _Party:
    """A device's traffic with one site."""

    __slots__ = ("connections", "down", "evidence", "names", "services", "up")

    def __init__(self) -> None:
        self.up = 0
        self.down = 0
        self.connections = 0
        self.services: dict[str, None] = {}
        self.names: dict[str, None] = {}
        self.evidence: set[Evidence] = set()

    def add(self, record: Record) -> None:
        self.connections += 1
        self.up += record.up[1]
        self.down += record.down[1]
        key = record.conn.key
        proto = protocol_name(key.proto)
        service = f"{proto}/{key.dport}" if key.proto in (IPPROTO_TCP, IPPROTO_UDP) else proto
        if len(self.services) <= NAMES:
            self.services[service if record.outbound else service + " in"] = None
        known = record.attribution
        self.evidence.add(known.evidence if known else Evidence.NONE)
        if known and known.name and len(self.names) <= NAMES:
            self.names[known.name] = None

    def merge(self, other: "_Party") -> None:
        self.connections += other.connections
        self.up += other.up
        self.down += other.down
        self.evidence |= other.evidence


class Summary:
    """Sums up connections per device and site."""

    def __init__(self) -> None:
        # Device as text, empty where none took part.
        self._devices: dict[str, dict[str, _Party]] = {}
        self._parties = 0

    def add(self, record: Record) -> None:
        """Take in one connection."""
        device = record.attribution.device if record.attribution else ""
        if device not in self._devices and len(self._devices) >= DEVICES:
            device = "(other devices)"
        parties = self._devices.setdefault(device, {})
        site = record.site
        party = parties.get(site)
        if party is None:
            if self._parties >= PARTIES:
                site = _OTHERS
            else:
                self._parties += 1
            party = parties.setdefault(site, _Party())
        party.add(record)

    def lines(self, nodes: Nodes, totals: Totals) -> Iterator[str]:
        """Write it all down, for people."""
        yield from _head(totals)
        found = {_node_text(node): node for node in nodes if node.kind is Kind.DEVICE}
        order = sorted(self._devices, key=lambda device: (not device, -self._bytes(device)))
        for device in order:
            yield ""
            yield _device_line(device, found.pop(device, None))
            yield from _table(self._devices[device])
        idle = [_device_line(device, node) for device, node in found.items()]
        if idle:
            yield ""
            yield "Seen without traffic of their own:"
            yield from (f"  {line}" for line in idle[:ROWS])
            if len(idle) > ROWS:
                yield f"  and {len(idle) - ROWS} more"

    def _bytes(self, device: str) -> int:
        return sum(party.up + party.down for party in self._devices[device].values())


def _node_text(node: Node) -> str:
    """Name a device as attribution does."""
    return format_mac(node.mac) if node.mac else next(map(format_address, node.addresses), "")


def _head(totals: Totals) -> Iterator[str]:
    duration = totals.last - totals.first
    yield (
        f"{totals.packets:,} packets, {totals.ip_packets:,} of them IP with {size_text(totals.ip_bytes)}"
        f" in {totals.connections:,} connections"
    )
    if totals.packets:
        line = f"from {_time_text(totals.first)} to {_time_text(totals.last)}: {duration:,.1f} s"
        if duration > 0:
            line += f", {totals.packets / duration:,.1f} packets/s"
            line += f", {size_text(totals.ip_bytes / duration)}/s"
        yield line
    if totals.seconds > 0:
        yield f"read in {totals.seconds:.1f} s, {totals.packets / totals.seconds:,.0f} packets/s"
    if totals.gateways:
        yield f"gateway: {', '.join(sorted(map(format_mac, totals.gateways)))}"
    if totals.other:
        yield f"not IP: {totals.other:,} frames"
    bad = totals.malformed.total()
    if bad:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in totals.malformed.most_common(NAMES))
        yield f"malformed: {bad:,} packets: {reasons}"
    if totals.evicted:
        yield f"the connection table was full: {totals.evicted:,} connections were closed early"


def _device_line(device: str, node: Node | None) -> str:
    if not device:
        return "No device took part"
    if node is None:
        return device
    addresses: Iterable[Address] = sorted(node.addresses, key=lambda address: (len(address), address))
    texts = [text for text in map(format_address, addresses) if text != device]
    shown = texts[:NAMES] + ([f"+{len(texts) - NAMES}"] if len(texts) > NAMES else [])
    label = inert(node.name or node.hostname)
    return "  ".join(part for part in (device, label, ", ".join(shown)) if part)


def _table(parties: dict[str, _Party]) -> Iterator[str]:
    rows = sorted(parties.items(), key=lambda item: item[1].up + item[1].down, reverse=True)
    rest = rows[ROWS:]
    rows = rows[:ROWS]
    if rest:
        merged = _Party()
        for _, party in rest:
            merged.merge(party)
        rows.append((f"({len(rest):,} more)", merged))
    total = _Party()
    for _, party in rows:
        total.merge(party)
    table = [("site", "up", "down", "conns", "services", "evidence", "names")]
    table += [_row(site, party) for site, party in rows]
    table.append(("total", size_text(total.up), size_text(total.down), f"{total.connections:,}", "", "", ""))
    widths = [max(len(row[column]) for row in table) for column in range(6)]
    for site, up, down, conns, services, evidence, names in table:
        line = (
            f"  {site:<{widths[0]}}  {up:>{widths[1]}}  {down:>{widths[2]}}  {conns:>{widths[3]}}"
            f"  {services:<{widths[4]}}  {evidence:<{widths[5]}}  {names}"
        )
        yield line.rstrip()


def _row(site: str, party: _Party) -> tuple[str, str, str, str, str, str, str]:
    kinds = sorted(party.evidence - {Evidence.NONE}, key=EVIDENCE_RANK.__getitem__)
    return (
        inert(site, 60),
        size_text(party.up),
        size_text(party.down),
        f"{party.connections:,}",
        _some(party.services),
        ", ".join(kinds) or "-",
        _some(name for name in party.names if name != site),
    )


def _some(texts: Iterable[str]) -> str:
    found = list(texts)
    return ", ".join([inert(text, 80) for text in found[:NAMES]] + (["..."] if len(found) > NAMES else []))


def size_text(size: float) -> str:
    """Format bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.95 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError


def _time_text(time: float) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):  # a pcapng file can claim any time
        return f"{time:.6g} s"
