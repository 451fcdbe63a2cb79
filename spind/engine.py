# SPDX-License-Identifier: GPL-2.0-or-later
"""The core: events and the time in, commands out. The only place where state changes.

Imports no socket, thread, process or clock, so that the same engine runs live, from a capture
file and in a property test, and gives the same answer.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from spind import inspect
from spind.addresses import PrefixSet
from spind.commands import (
    Command,
    CounterChanged,
    DnsQuerySeen,
    ListChanged,
    NodeChanged,
    NodeDeleted,
    NodeMerged,
    Notice,
    SaveDecision,
    SaveIgnoredAddresses,
    SaveState,
    TrafficReport,
    Verdict,
)
from spind.connections import Conn, Connections
from spind.events import (
    AssignAddress,
    ConnDelta,
    Decided,
    Event,
    IgnoreAddress,
    KernelCounters,
    LeaseSeen,
    LocalAddresses,
    NeighbourGone,
    NeighbourSeen,
    PacketSeen,
    ResetIgnored,
    SetIgnored,
    SetName,
    Tick,
    Traffic,
    TrafficEnd,
)
from spind.flows import ZERO, Counts, Flows
from spind.ignore import IgnoreList
from spind.limits import Limits
from spind.model import IPPROTO_TCP, IPPROTO_UDP, Address, ConnKey, Evidence, Mac, format_address, format_mac
from spind.names import Names
from spind.nodes import Decision, Kind, Node, Nodes
from spind.resolver_streams import ResolverStreams
from spind.shapes import node_shape
from spind.sites import registrable_domain
from spind.wire.dns import parse_message
from spind.wire.errors import WireError
from spind.wire.packet import Packet

DNS_PORT = 53

REPORT_SECONDS = 1.0
"""At least so often traffic is reported while there is some."""

ANNOUNCE_SECONDS = 30.0
"""A node that has traffic is announced again after this long, for its ``lastseen``."""

COUNTER_SECONDS = 10.0
"""How often changed counters are published."""

ACCEPT = Verdict(accept=True, done=False)
ACCEPT_DONE = Verdict(accept=True, done=True)


class Attribution(NamedTuple):
    """Whose a connection is: the device's MAC (or address), the site, the host name, the evidence."""

    device: str
    site: str
    name: str
    evidence: Evidence


class Engine:
    """All state of the daemon's view of the home."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        ids: dict[str, int] | None = None,
        local: bool = False,
        retain: float = 1800.0,
    ) -> None:
        """``ids`` are node ids from before a restart, by MAC. ``local`` makes this host itself the
        device (mode ``local``). ``retain`` is ``node_cache_retain_time`` in seconds."""
        self.limits = limits or Limits()
        self.local = local
        self.retain = retain
        self.nodes = Nodes(self.limits, ids)
        self.names = Names(self.limits)
        self.flows = Flows(self.limits)
        self.connections = Connections(self.limits)
        self.ignored = IgnoreList()
        self.kernel: dict[str, int] = {}
        self.counters: dict[str, int] = {
            "packets": 0,
            "dns-queries": 0,
            "dns-answers": 0,
            "dns-malformed": 0,
            "unattributed-bytes": 0,
            "unattributed-packets": 0,
            "resyncs": 0,
        }
        self.conntrack_entries = 0
        self._resolver_streams = ResolverStreams(self.limits.streams)
        # (from, to, protocol, from port, to port) -> [bytes, packets]
        self._report: dict[tuple[int, int, int, int, int], list[int]] = {}
        self._reported = 0.0
        self._counters_published = 0.0
        self._published: dict[str, int] = {}
        self._saved_ids: dict[str, int] = dict(ids or {})
        self._handlers: dict[type, Callable[..., list[Command]]] = {
            PacketSeen: self._packet,
            Traffic: self._traffic,
            TrafficEnd: self._traffic_end,
            NeighbourSeen: self._neighbour,
            NeighbourGone: self._neighbour_gone,
            LeaseSeen: self._lease,
            LocalAddresses: self._local_addresses,
            Tick: self._tick,
            KernelCounters: self._kernel_counters,
            Decided: self._decided,
            SetName: self._set_name,
            SetIgnored: self._set_ignored,
            IgnoreAddress: self._ignore_address,
            ResetIgnored: self._reset_ignored,
            AssignAddress: self._assign_address,
        }

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event at time ``now`` (Unix seconds); what is to be done about it, in order."""
        return self._handlers[type(event)](event, now)

    def attribution(self, key: ConnKey) -> Attribution | None:
        """Whose the connection is, as long as it lives."""
        conn = self.connections.get(key)
        if conn is None:
            return None
        mac = conn.device.mac
        device = format_mac(mac) if mac else next(map(format_address, conn.device.addresses), "")
        site = conn.node.domain or format_address(conn.remote)
        return Attribution(device, site, conn.name, conn.evidence)

    # -- packets -------------------------------------------------------------------------

    def _packet(self, event: PacketSeen, now: float) -> list[Command]:
        packet = event.packet
        self.counters["packets"] += 1
        sender = self._sender(event, now)
        if packet.fragment:
            return [ACCEPT]
        if DNS_PORT in (packet.dport, packet.sport) and packet.proto in (IPPROTO_UDP, IPPROTO_TCP):
            return self._dns_packet(packet, sender, now)
        conn = self._connection(packet.key, sender, now)
        if packet.proto != IPPROTO_TCP or conn is None or conn.done:
            return [ACCEPT_DONE if conn is None or conn.done else ACCEPT]
        if conn.stream is None:
            conn.stream = inspect.start_of(packet)
            self.connections.keep_stream(conn)
        if not packet.payload:
            return [ACCEPT]
        finding = inspect.feed(conn.stream, packet)
        if finding is None:
            return [ACCEPT]
        self.connections.end_stream(conn)
        if finding.name:
            self._rename(conn, finding.name, finding.evidence, now)
        return [ACCEPT_DONE]

    def _sender(self, event: PacketSeen, now: float) -> Node | None:
        """The device that sent a packet of the home's side, with its address learned."""
        if event.mac is None or not event.from_lan:
            return None
        device = self.nodes.device(event.mac, now)
        if device is not None:
            device.lastseen = now
            self.nodes.learn(device, event.packet.src, now, sure=False)
        return device

    def _dns_packet(self, packet: Packet, sender: Node | None, now: float) -> list[Command]:
        out: list[Command] = []
        asks = packet.dport == DNS_PORT
        key = (
            packet.key if asks else ConnKey(packet.proto, packet.dst, packet.dport, packet.src, packet.sport)
        )
        conn = self._connection(key, sender if asks else None, now)
        if conn is not None:
            conn.done = True  # its name is nothing that its first bytes would tell
        for data in self._resolver_streams.messages(packet):
            try:
                message = parse_message(data)
            except WireError:
                self.counters["dns-malformed"] += 1
                continue
            if message.response:
                answer = self.names.answer(packet.key, message, now)
                if answer is not None:
                    self._answered(answer.device, answer.name, answer.addresses, now, out)
            elif conn is not None and asks:
                name = self.names.query(packet.key, conn.device.id, message, now)
                if name is not None:
                    self._asked(conn.device, name, now, out)
        out.append(ACCEPT)
        return out

    def _asked(self, device: Node, name: str, now: float, out: list[Command]) -> None:
        self.counters["dns-queries"] += 1
        if not name:  # the root
            return
        site = self.nodes.site(name, registrable_domain(name), device.id, now)
        if device.ignored or site.ignored:
            return
        self._announce(device, now, out)
        self._announce(site, now, out)
        out.append(DnsQuerySeen(device.id, site.id, name + "."))

    def _answered(
        self, device_id: int, name: str, addresses: list[Address], now: float, out: list[Command]
    ) -> None:
        self.counters["dns-answers"] += 1
        if not addresses:
            return
        site = self.nodes.site(name, registrable_domain(name), device_id, now)
        for address in addresses:
            self.nodes.touch_site_address(site, address, now)
        self._announce(site, now, out)

    # -- connections ---------------------------------------------------------------------

    def _connection(self, key: ConnKey, sender: Node | None, now: float) -> Conn | None:
        """The connection with this key, attributed now if it is new; ``None`` if no device takes part."""
        conn = self.connections.get(key)
        if conn is not None:
            if conn.node.deleted or conn.device.deleted:
                return self._revive(conn, sender, now)
            return conn
        return self._new_connection(key, sender, now, answered=False)

    def _new_connection(
        self, key: ConnKey, sender: Node | None, now: float, *, answered: bool
    ) -> Conn | None:
        parties = self._parties(key, sender, now, answered=answered)
        if parties is None:
            return None
        device, outbound = parties
        remote = key.dst if outbound else key.src
        node, name, evidence = self._peer(device, remote, now)
        conn = Conn(key, device, node, outbound=outbound, now=now)
        conn.name = name
        conn.evidence = evidence
        self.connections.add(conn, now)
        return conn

    def _parties(
        self, key: ConnKey, sender: Node | None, now: float, *, answered: bool
    ) -> tuple[Node, bool] | None:
        """(the device, whether it is the initiator). An address of the home that never answered is
        not taken for a device: a scan of the home from outside must not invent any."""
        nodes = self.nodes
        device = nodes.device_at(key.src)
        if device is not None:
            return device, True
        if sender is not None:
            return sender, True
        device = nodes.device_at(key.dst)
        if device is not None:
            return device, False
        if nodes.in_home(key.src) and not nodes.is_own(key.src):
            device = nodes.device_without_mac(key.src, now)
            if device is not None:
                return device, True
        if answered and nodes.in_home(key.dst) and not nodes.is_own(key.dst):
            device = nodes.device_without_mac(key.dst, now)
            if device is not None:
                return device, False
        return None

    def _peer(self, device: Node, remote: Address, now: float) -> tuple[Node, str, Evidence]:
        nodes = self.nodes
        if nodes.is_own(remote):
            return nodes.gateway(now), "", Evidence.NONE
        peer = nodes.device_at(remote)
        if peer is not None:
            return peer, "", Evidence.NONE
        name, evidence = self.names.lookup(device.id, remote, now)
        if name:
            site = nodes.site(name, registrable_domain(name), device.id, now)
            nodes.touch_site_address(site, remote, now)
            return site, name, evidence
        return nodes.site_at(remote, device.id, now), "", Evidence.NONE

    def _revive(self, conn: Conn, sender: Node | None, now: float) -> Conn | None:
        """Its device or site was deleted meanwhile: attribute it again, keeping a name it had."""
        self.connections.remove(conn.key)
        fresh = self._new_connection(conn.key, sender, now, answered=True)
        if fresh is not None:
            fresh.done = conn.done
            fresh.counts = ZERO if conn.counts is not None else None
            if conn.name and not fresh.name and fresh.node.kind is Kind.SITE:
                self._rename(fresh, conn.name, conn.evidence, now)
        return fresh

    def _rename(self, conn: Conn, name: str, evidence: Evidence, now: float) -> None:
        """Better evidence for the connection's name: what it transferred so far goes along."""
        conn.name = name
        conn.evidence = evidence
        if conn.node.kind is not Kind.SITE:
            return  # a name does not turn a device of the home into a site
        site = self.nodes.site(name, registrable_domain(name), conn.device.id, now)
        self.nodes.touch_site_address(site, conn.remote, now)
        old = conn.flow_key
        conn.node = site
        conn.flow_key = conn.make_flow_key()
        if conn.counts is not None and conn.flow_key != old:
            self.flows.move(old, conn.flow_key, conn.counts, now)
        if conn.counts is not None:
            self.flows.get(conn.flow_key, now).describe(name, evidence)

    # -- traffic -------------------------------------------------------------------------

    def _traffic(self, event: Traffic, now: float) -> list[Command]:
        for delta in event.deltas:
            self._delta(delta, now)
        return self._gone([], now)

    def _delta(self, delta: ConnDelta, now: float) -> None:
        key = delta.key
        conn = self.connections.get(key)
        if conn is None:
            conn = self._new_connection(key, None, now, answered=delta.reply_packets > 0)
        elif conn.node.deleted or conn.device.deleted:
            conn = self._revive(conn, None, now)
        if conn is None:
            self.counters["unattributed-bytes"] += delta.orig_bytes + delta.reply_bytes
            self.counters["unattributed-packets"] += delta.orig_packets + delta.reply_packets
            return
        if conn.outbound:
            up, down, up_packets, down_packets = (
                delta.orig_bytes, delta.reply_bytes, delta.orig_packets, delta.reply_packets,
            )  # fmt: skip
        else:
            up, down, up_packets, down_packets = (
                delta.reply_bytes, delta.orig_bytes, delta.reply_packets, delta.orig_packets,
            )  # fmt: skip
        self.connections.seen(conn, now)
        fresh = conn.counts is None
        if up_packets or down_packets or fresh:
            flow = self.flows.get(conn.flow_key, now)
            if fresh:
                flow.describe(conn.name, conn.evidence)
            self.flows.count(flow, up, down, up_packets, down_packets, now)
            old = conn.counts or ZERO
            conn.counts = Counts(
                old.up_bytes + up,
                old.down_bytes + down,
                old.up_packets + up_packets,
                old.down_packets + down_packets,
            )
            if up_packets or down_packets:
                self.nodes.seen(conn.device, now)
                self.nodes.seen(conn.node, now)
                self._note(conn, up + down, up_packets + down_packets)
        if delta.ended:
            self.connections.remove(key)

    def _note(self, conn: Conn, size: int, count: int) -> None:
        """Keep a row for the next report, unless people do not want to see it."""
        if conn.device.ignored or conn.node.ignored or self.ignored.hides(conn.key.src, conn.key.dst):
            return
        ends = (conn.device.id, conn.node.id) if conn.outbound else (conn.node.id, conn.device.id)
        key = conn.key
        ports = (0, 0) if key.proto in (1, 58) else (key.sport, key.dport)
        row = (*ends, key.proto, *ports)
        if row not in self._report and len(self._report) >= self.limits.report_rows:
            row = (*ends, key.proto, 0, ports[1])
        cell = self._report.get(row)
        if cell is None:
            self._report[row] = [size, count]
        else:
            cell[0] += size
            cell[1] += count

    def _traffic_end(self, event: TrafficEnd, now: float) -> list[Command]:
        self.conntrack_entries = event.entries
        if event.resynced:
            self.counters["resyncs"] += 1
        return self._gone(self._make_report(now), now)

    def _make_report(self, now: float) -> list[Command]:
        out: list[Command] = []
        rows = self._report
        if not rows:
            return out
        self._report = {}
        self._reported = now
        flows: list[dict[str, object]] = []
        total_size = total_count = 0
        for (source, target, proto, sport, dport), (size, count) in rows.items():
            ends = [self.nodes.by_id.get(source), self.nodes.by_id.get(target)]
            if ends[0] is None or ends[1] is None:
                continue  # the node went away since; the counts stay in list_flows
            for node in ends:
                if node is not None:
                    self._announce(node, now, out)
            flows.append(
                {
                    "from": source,
                    "to": target,
                    "protocol": proto,
                    "from_port": sport,
                    "to_port": dport,
                    "size": size,
                    "count": count,
                }
            )
            total_size += size
            total_count += count
        if flows:
            out.append(TrafficReport(flows, int(now), total_size, total_count))
        return out

    # -- the home's side -----------------------------------------------------------------

    def _neighbour(self, event: NeighbourSeen, now: float) -> list[Command]:
        device = self.nodes.device(event.mac, now)
        if device is not None:
            self.nodes.learn(device, event.address, now, sure=True)
            self.nodes.presence(device, event.address, present=True)
        return self._merged([], now)

    def _neighbour_gone(self, event: NeighbourGone, now: float) -> list[Command]:  # noqa: ARG002 - one signature
        device = self.nodes.device_at(event.address)
        if device is not None and event.mac in (None, device.mac):
            self.nodes.presence(device, event.address, present=False)
        return []

    def _lease(self, event: LeaseSeen, now: float) -> list[Command]:
        device = self.nodes.device(event.mac, now)
        if device is None:
            return []
        self.nodes.learn(device, event.address, now, sure=True)
        if event.hostname and device.hostname != event.hostname:
            device.hostname = event.hostname
            device.changed = True
        return self._merged([], now)

    def _local_addresses(self, event: LocalAddresses, now: float) -> list[Command]:
        if not self.local:
            self.nodes.set_local(event.addresses, event.macs, event.prefixes, now)
            return []
        mac: Mac | None = min(event.macs, default=None)
        device = self.nodes.device(mac, now) if mac is not None else None
        if device is not None:
            self.nodes.claim(device, event.addresses, now)
        return []

    # -- time ----------------------------------------------------------------------------

    def _tick(self, _event: Tick, now: float) -> list[Command]:
        self.connections.expire(now)
        self.names.expire(now)
        self.nodes.expire(now, self.retain)
        out = self._gone([], now)
        if now - self._reported >= REPORT_SECONDS:
            out += self._make_report(now)
        for node in self.nodes:
            if node.changed and not node.ignored:
                self._announce(node, now, out)
        ids = self.nodes.ids()
        if ids != self._saved_ids:
            self._saved_ids = ids
            out.append(SaveState(ids))
        if now - self._counters_published >= COUNTER_SECONDS:
            self._counters_published = now
            out += self._changed_counters()
        return out

    def _announce(self, node: Node, now: float, out: list[Command]) -> None:
        """Tell about a node before something mentions it, if there is anything new to tell."""
        if node.changed or now - node.announced >= ANNOUNCE_SECONDS:
            node.changed = False
            node.announced = now
            out.append(NodeChanged(node_shape(node)))

    def _gone(self, out: list[Command], now: float) -> list[Command]:
        """Tell about nodes that were merged or deleted, and forget their flows."""
        self._merged(out, now)
        if self.nodes.gone:
            for node in self.nodes.gone:
                self.flows.forget_node(node.id)
                out.append(NodeDeleted(node.id))
            self.nodes.gone.clear()
        return out

    def _merged(self, out: list[Command], now: float) -> list[Command]:
        for old, new in self.nodes.merged:
            self.flows.rename_node(old.id, new.id, now)
            for conn in self.connections:
                if old in (conn.device, conn.node):
                    conn.device = new if conn.device is old else conn.device
                    conn.node = new if conn.node is old else conn.node
                    conn.flow_key = conn.make_flow_key()
            self._announce(new, now, out)
            out.append(NodeMerged(old.id, new.id))
            out.append(NodeDeleted(old.id))
        self.nodes.merged.clear()
        return out

    def _kernel_counters(self, event: KernelCounters, now: float) -> list[Command]:  # noqa: ARG002 - one signature
        self.kernel.update(event.values)
        return []

    def statistics(self) -> dict[str, int]:
        """Every counter and table size, by dotted name."""
        return {
            **{f"engine.{name}": value for name, value in self.counters.items()},
            "engine.devices": len(self.nodes.devices),
            "engine.sites": self.nodes.site_count,
            "engine.connections": len(self.connections),
            "engine.flows": len(self.flows),
            "engine.names": self.names.size,
            "engine.devices-evicted": self.nodes.evicted_devices,
            "engine.sites-evicted": self.nodes.evicted_sites,
            "engine.sites-overflowed": self.nodes.overflowed_sites,
            "engine.connections-evicted": self.connections.evicted,
            "engine.flows-evicted": self.flows.evicted,
            "engine.names-evicted": self.names.evicted,
            "engine.answers-unasked": self.names.answers_unasked,
            "engine.window-cells-folded": self.flows.cells_folded,
            "conntrack.entries": self.conntrack_entries,
            **self.kernel,
        }

    def _changed_counters(self) -> list[Command]:
        out: list[Command] = []
        for name, value in self.statistics().items():
            if self._published.get(name) != value:
                self._published[name] = value
                module, _, counter = name.partition(".")
                out.append(CounterChanged(module, counter, "total", value, value))
        return out

    # -- what people decide --------------------------------------------------------------

    def _decided(self, event: Decided, now: float) -> list[Command]:
        self.nodes.decide({key: Decision(*value) for key, value in event.nodes.items()}, now)
        out: list[Command] = []
        for text in event.ignored_addresses:
            try:
                self.ignored.add(text)
            except ValueError as error:
                out.append(Notice(logging.WARNING, f"ignored address left out: {error}"))
        self.ignored.keep(event.ignored_addresses)
        return out

    def _set_name(self, event: SetName, now: float) -> list[Command]:
        node = self.nodes.by_id[event.node]
        node.name = event.name
        node.changed = True
        return self._save(node, now)

    def _set_ignored(self, event: SetIgnored, now: float) -> list[Command]:
        node = self.nodes.by_id[event.node]
        node.ignored = event.ignored
        node.changed = True
        return [*self._save(node, now), self._ignore_changed()]

    def _ignore_address(self, event: IgnoreAddress, now: float) -> list[Command]:
        out: list[Command] = []
        if event.ignored:
            self.ignored.add(event.address)
        elif not self.ignored.remove(event.address):
            out = self._unignore_one(event.address, now)
        return [*out, SaveIgnoredAddresses(self.ignored.texts()), self._ignore_changed()]

    def _unignore_one(self, text: str, now: float) -> list[Command]:
        """An address that is listed because its node is: the node's others stay, by themselves."""
        out: list[Command] = []
        for node in self.nodes:
            addresses = [format_address(address) for address in node.addresses]
            if node.ignored and text in addresses:
                node.ignored = False
                node.changed = True
                out += self._save(node, now)
                for other in addresses:
                    if other != text:
                        self.ignored.add(other)
        return out

    def _reset_ignored(self, _event: ResetIgnored, now: float) -> list[Command]:
        out: list[Command] = []
        for node in self.nodes:
            if node.ignored:
                node.ignored = False
                node.changed = True
                out += self._save(node, now)
        self.ignored.keep(())
        return [*out, SaveIgnoredAddresses([]), self._ignore_changed()]

    def _assign_address(self, event: AssignAddress, now: float) -> list[Command]:
        node = self.nodes.assign(self.nodes.by_id[event.node] if event.node else None, event.address, now)
        out: list[Command] = []
        self._announce(node, now, out)
        return out

    def _save(self, node: Node, now: float) -> list[Command]:
        self.nodes.remember(node)
        out: list[Command] = []
        self._announce(node, now, out)
        if node.decision_key:
            out.append(SaveDecision(node.decision_key, node.name, node.ignored))
        return out

    def _ignore_changed(self) -> ListChanged:
        return ListChanged("ignore", self.ignored_texts())

    def ignored_texts(self) -> list[str]:
        """The ignore list as SPIN 1.0 has it: the addresses of ignored nodes, and those by themselves."""
        texts = dict.fromkeys(
            format_address(address) for node in self.nodes if node.ignored for address in node.addresses
        )
        return list(texts | dict.fromkeys(self.ignored.texts()))


__all__ = ["ACCEPT", "ACCEPT_DONE", "Attribution", "Engine", "PrefixSet"]
