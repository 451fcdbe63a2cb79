# SPDX-License-Identifier: GPL-2.0-or-later
"""The core: events and the time in, commands out. The only place where state changes.

Imports no socket, thread, process or clock, so that the same engine runs live, from a capture
file and in a property test, and gives the same answer.
"""

from collections.abc import Callable

from spind import inspect
from spind.attribution import Attribution, Attributor
from spind.audit import Audit
from spind.commands import (
    BlockedReport,
    Command,
    CounterChanged,
    DnsQuerySeen,
    Json,
    NodeChanged,
    NodeDeleted,
    NodeMerged,
    SaveState,
    Verdict,
)
from spind.connections import Conn, Connections
from spind.decisions import Decisions, Outcome
from spind.enforcement import Enforcement
from spind.events import (
    BlockedSeen,
    ConnDelta,
    Event,
    KernelCounters,
    LeaseSeen,
    LocalAddresses,
    NameRemembered,
    NeighbourGone,
    NeighbourSeen,
    PacketSeen,
    Placed,
    Recheck,
    Tick,
    Traffic,
    TrafficEnd,
)
from spind.flows import ZERO, FlowKey, Flows
from spind.ignore import IgnoreList
from spind.limits import Limits
from spind.lookout import Lookout
from spind.model import (
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    Address,
    ConnKey,
    Mac,
    format_address,
)
from spind.names import Names
from spind.nodes import Node, Nodes
from spind.notifications import Notifications
from spind.policy import Policy
from spind.report import TrafficRows
from spind.resolver_streams import ResolverStreams
from spind.rulebook import RuleBook, WallClock
from spind.ruleset import Marks, Placement
from spind.shapes import node_shape
from spind.sites import registrable_domain
from spind.wire.dns import DnsMessage, parse_message, parse_question
from spind.wire.dns_refusal import refuse
from spind.wire.errors import WireError
from spind.wire.packet import Packet

DNS_PORT = 53

DNS_BYTES = 4096
"""Longer messages are not looked into: each would hold the loop for longer than a packet should wait,
and resolvers ask for 1,232 to 4,096 over UDP (RFC 9715)."""

REPORT_SECONDS = 1.0
"""At least so often traffic is reported while there is some."""

ANNOUNCE_SECONDS = 30.0
"""A node that has traffic is announced again after this long, for its ``lastseen``."""

CHANGE_SECONDS = 0.9
"""A node that is known already is announced at most once a second, however often it changes: a site
gets a host name or address with each query."""

COUNTER_SECONDS = 10.0
"""How often changed counters are published."""

SAVE_SECONDS = 300.0
"""Ids are written no more often, and at the end: whoever makes up MACs must not wear out the flash."""

CANARY = "use-application-dns.net"
"""Browsers that get no answer for this name leave DNS to the network (Mozilla's canary domain)."""

ENCRYPTED_DNS_PORTS = (443, 853)

SYN = 0x02
SYN_ACK = 0x12

ACCEPT = Verdict(accept=True, done=False)
ACCEPT_DONE = Verdict(accept=True, done=True)
DROP = Verdict(accept=False)
CUT = Verdict(accept=False, cut=True)
HOLD = Verdict(accept=False, hold=True)

NOWHERE = Placement("router", (), Marks(0, 0, 0), 0)


def utc(now: float) -> tuple[int, int]:
    """Weekday (Monday is 0) and minute of the day at Greenwich: for homes that say nothing else."""
    return (int(now) // 86400 + 3) % 7, int(now) % 86400 // 60


class Engine:
    """All state of the daemon's view of the home."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        ids: dict[str, int] | None = None,
        local: bool = False,
        retain: float = 1800.0,
        given: dict[str, str] | None = None,
        wall_clock: WallClock = utc,
    ) -> None:
        """``ids`` are node ids from before a restart, by MAC, ``given`` the profiles that new devices
        were given. ``local`` makes this host itself the device (mode ``local``). ``retain`` is
        ``node_cache_retain_time`` in seconds. ``wall_clock`` is what schedules go by."""
        self.limits = limits or Limits()
        self.local = local
        self.retain = retain
        self.nodes = Nodes(self.limits, ids)
        self.nodes.given.update(given or {})
        self.names = Names(self.limits)
        self.flows = Flows(self.limits)
        self.connections = Connections(self.limits)
        self.attributor = Attributor(self.nodes, self.names, self.flows, self.connections)
        self.ignored = IgnoreList()
        self.kernel: dict[str, int] = {}
        self.counters: dict[str, int] = {
            "packets": 0,
            "dns-queries": 0,
            "dns-answers": 0,
            "dns-malformed": 0,
            "dns-forged": 0,
            "dns-oversized": 0,
            "dns-refused": 0,
            "inspected": 0,
            "unattributed-bytes": 0,
            "unattributed-packets": 0,
            "resyncs": 0,
        }
        self.conntrack_entries = 0
        self._resolver_streams = ResolverStreams(self.limits.streams)
        self._report = TrafficRows(self.limits.report_rows)
        self.audit = Audit()
        self.policy = Policy(NOWHERE, self.names, self.limits.blocked_addresses)
        self.rules = RuleBook(wall_clock, self.limits.rules)
        self.decisions = Decisions(self.nodes, self.ignored, self.rules, self.policy)
        self.enforcement = Enforcement(
            self.nodes, self.flows, self.connections, self.attributor, self.decisions, self.policy
        )
        self.notifications = Notifications()
        self.lookout = Lookout(self.nodes, self.notifications, self.limits, fresh=not ids)
        self._reported = 0.0
        self._own_mac: Mac | None = None
        self._ids_saved = float("-inf")
        self._counters_published = 0.0
        self._published: dict[str, int] = {}
        self._saved_ids: dict[str, int] = dict(ids or {})
        self._saved_given: dict[str, str] = dict(given or {})
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
            Placed: self._placed,
            Recheck: self._recheck,
            NameRemembered: self._name_remembered,
            BlockedSeen: self._blocked,
        }
        self._rechecks = 0  # readings of conntrack after which all connections are looked at
        self._deciders = self.decisions.handlers()

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event at time ``now`` (Unix seconds); what is to be done about it, in order."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            done = handler(event, now)
            # A device keeps its id: it must not be told gone, and forgotten, once it is back.
            if self.nodes.gone or self.nodes.merged:
                done += self._gone([], now)
            return self._settled(done)
        # What people decide: rare, and what it changed is announced before the rest.
        return self._settled(self._outcome(self._deciders[type(event)](event, now), now))

    def _outcome(self, outcome: Outcome, now: float) -> list[Command]:
        changed, commands = outcome
        out: list[Command] = []
        for node in dict.fromkeys(changed):
            if not node.deleted:
                self._announce(node, now, out, at_once=True)
        return out + commands

    def notify(
        self, now: float, kind: str, key: str, args: tuple[str, ...] = (), device: int = 0, node: int = 0
    ) -> list[Command]:
        """Tell people something, for whoever detects it: see ``Notifications.notify``. What follows is to be
        carried out. Within ``handle`` use ``notifications`` itself: what it has goes along."""
        self.notifications.notify(now, kind, key, args, device, node)
        return self.notifications.take()

    def _settled(self, commands: list[Command]) -> list[Command]:
        """With what the kernel has to be told, and people, if anything."""
        if self.notifications.pending:
            commands += self.notifications.take()
        if self.nodes.moved or self.decisions.touched or self.policy.pending:
            return self.enforcement.settle() + commands
        return commands

    def attribution(self, key: ConnKey) -> Attribution | None:
        """Whose the connection is, as long as it lives."""
        return self.attributor.describe(key)

    def shift(self, delta: float) -> None:
        """The clock was set by ``delta`` seconds: all that is remembered keeps its age."""
        for table in (self.nodes, self.names, self.flows, self.connections, self.policy):
            table.shift(delta)
        self.notifications.shift(delta)
        self.lookout.shift(delta)
        self._reported += delta
        self._counters_published += delta

    # -- packets -------------------------------------------------------------------------

    def _packet(self, event: PacketSeen, now: float) -> list[Command]:
        packet = event.packet
        self.counters["packets"] += 1
        sender = self._sender(event, now)
        if packet.fragment:
            return [DROP if event.inspect else ACCEPT]  # conntrack puts fragments together before us
        if DNS_PORT in (packet.dport, packet.sport) and packet.proto in (IPPROTO_UDP, IPPROTO_TCP):
            return self._dns_packet(event, sender, now)
        if event.inspect:
            return self._inspect(packet, sender, now)
        if sender is None and self._from_outside(packet):
            # From outside, before any firewall has seen it: conntrack tells if it got through.
            return [ACCEPT]
        conn = self.attributor.connection(packet.key, sender, now)
        if conn is not None and packet.proto == IPPROTO_TCP and packet.flags & SYN_ACK == SYN:
            conn = self._opened(conn, packet, sender, now)
        if conn is not None and not conn.outbound:
            conn.done = True  # what a client out there says names us, not the client
        if packet.proto != IPPROTO_TCP or conn is None:
            return [ACCEPT_DONE if conn is None or conn.done else ACCEPT]
        if conn.done:
            # A rule may have come while the packet waited: a mark that it is done would let it pass.
            return [CUT if conn.outbound and self.enforcement.blocks(conn) else ACCEPT_DONE]
        if conn.stream is None:
            conn.stream = inspect.start_of(packet)
            self.connections.keep_stream(conn)
        if not packet.payload:
            return [ACCEPT]
        held = conn.stream.held
        finding = inspect.feed(conn.stream, packet)
        self.connections.stream_grew(conn.stream.held - held)
        if finding is None:
            return [ACCEPT_DONE if conn.done else ACCEPT]
        self.connections.end_stream(conn)
        if not finding.name:
            return [ACCEPT_DONE]
        self._found(conn, finding, now)
        if self.enforcement.blocks(conn):
            return self._cut(conn, packet, now)
        return [ACCEPT_DONE]

    def _opened(self, conn: Conn, packet: Packet, sender: Node | None, now: float) -> Conn | None:
        """A SYN of the connection: what used its addresses and ports before is over. Only the device itself
        can say so, not one that forges its address."""
        if conn.isn not in (-1, packet.seq) and sender in (None, conn.device):
            old, old.before = conn, None
            self.connections.remove(packet.key)
            fresh = self.attributor.attribute(packet.key, sender, now, answered=True)
            if fresh is None:
                return None
            if old.cid:
                fresh.before = old
            conn = fresh
        conn.isn = packet.seq
        return conn

    def _found(self, conn: Conn, finding: inspect.Finding, now: float) -> None:
        """The client has said a name: the connection is to it."""
        asked = conn.name
        self.attributor.rename(conn, finding.name, finding.evidence, now)
        if finding.ech and asked and asked != finding.name:
            self.flows.remark(conn.flow_key, "ech", now)
        self.enforcement.named(conn, now)

    def _inspect(self, packet: Packet, sender: Node | None, now: float) -> list[Command]:
        """A packet to an address that has names which the device may not reach, and others: it must not
        pass before the connection's name is known."""
        self.counters["inspected"] += 1
        key = packet.key
        opens = packet.flags & SYN_ACK == SYN
        if self.enforcement.was_cut(key, opens=opens):
            return [CUT]
        turned = ConnKey(key.proto, key.dst, key.dport, key.src, key.sport)
        if not opens and self.connections.get(turned) is not None:
            return [ACCEPT_DONE]  # an answer to whom it is: the other side opened the connection
        conn = self.attributor.connection(key, sender, now)
        if conn is None or packet.proto != IPPROTO_TCP:
            return [DROP]
        if opens:
            conn = self._opened(conn, packet, sender, now)
            if conn is None:
                return [DROP]
            conn.done = conn.lost = False
            conn.waits = 0.0
            self._begin_stream(conn, packet)
            # Data on a SYN (RFC 7413) does not pass: the client repeats it without.
            return [DROP if packet.payload else ACCEPT]
        if conn.done:  # cut by a rule, or decided before its mark was lost
            blocked = conn.lost or self.enforcement.blocks(conn)
            return self._cut(conn, packet, now) if blocked else [ACCEPT_DONE]
        if not packet.payload:
            return [ACCEPT]
        self._begin_stream(conn, packet)
        stream = conn.stream
        if stream is None:  # there is no room
            return self._cut(conn, packet, now)
        held = stream.held
        finding = inspect.feed(stream, packet)
        if conn.stream is not None:
            self.connections.stream_grew(stream.held - held)
        if finding is None and not conn.done:
            conn.waits = conn.waits or now
            if now - conn.waits < inspect.WAIT_SECONDS:
                return [HOLD]
        self.connections.end_stream(conn)
        asked = conn.name
        if finding is not None and finding.name:
            self._found(conn, finding, now)
            blocked = self.enforcement.blocks(conn)
            if not blocked and finding.ech and asked and asked != finding.name:
                # The name may be a mask, and the one that the device asked for is what is behind it.
                known = any(name == finding.name for name, _ in self.names.at(conn.remote))
                blocked = not known and self.enforcement.blocks_name(conn, asked)
        elif finding is None or finding.unreadable or conn.isn == -1:
            # It may be to any name of the address, some of which are blocked. Of one that began unseen the
            # client makes another, which says its name.
            blocked = True
        else:
            blocked = self.enforcement.blocks(conn)
        return self._cut(conn, packet, now) if blocked else [ACCEPT_DONE]

    def _begin_stream(self, conn: Conn, packet: Packet) -> None:
        """Put together what the client says, from this packet on if nothing has been seen of it."""
        if conn.stream is None:
            conn.stream = inspect.start_of(packet)
            self.connections.keep_stream(conn)

    def _cut(self, conn: Conn, packet: Packet, now: float) -> list[Command]:
        """The connection is to a name that is blocked: it ends, and is reported like what the kernel
        blocks."""
        conn.done = True
        self.enforcement.note_cut(conn.key)
        self.flows.block(conn.flow_key, conn.name, conn.evidence, now)
        if not self.enforcement.may_report(now):
            return [CUT]
        return [*self._blocked_report(conn.flow_key, packet, conn.name, now, up=conn.outbound), CUT]

    def _from_outside(self, packet: Packet) -> bool:
        nodes = self.nodes
        return (
            nodes.device_at(packet.src) is None
            and not nodes.in_home(packet.src)
            and self.connections.get(packet.key) is None
        )

    def _sender(self, event: PacketSeen, now: float) -> Node | None:
        """The device that sent a packet of the home's side, with its address learned."""
        if event.mac is None or not event.from_lan:
            return None
        device = self.nodes.device(event.mac, now)
        if device is not None:
            device.lastseen = now
            self.nodes.learn(device, event.packet.src, now, sure=False)
        return device

    def _dns_packet(self, event: PacketSeen, sender: Node | None, now: float) -> list[Command]:
        packet = event.packet
        out: list[Command] = []
        refused = False
        asks = packet.dport == DNS_PORT
        key = (
            packet.key if asks else ConnKey(packet.proto, packet.dst, packet.dport, packet.src, packet.sport)
        )
        conn = self.attributor.connection(key, sender if asks else None, now)
        if conn is not None:
            conn.done = True  # its name is nothing that its first bytes would tell
        if self._resolver_streams.refused(packet):
            return [DROP]
        for data in self._resolver_streams.messages(packet):
            if len(data) > DNS_BYTES:
                self.counters["dns-oversized"] += 1
                refused |= not asks and self._refuses_oversized(data, packet.dst)
                continue
            try:
                message = parse_message(data)
            except WireError:
                self.counters["dns-malformed"] += 1
                continue
            if message.response:
                # From the home's side only a resolver there may answer, with an address of its own.
                if event.from_lan and (sender is None or self.nodes.device_at(packet.src) is not sender):
                    self.counters["dns-forged"] += 1
                    continue
                refused |= self._refuses(message)
                answer = self.names.answer(packet.key, message, now)
                if answer is not None:
                    self._answered(answer.device, answer.name, answer.addresses, now, out)
                elif len(message.questions) == 1 and message.answers:
                    # Its question was not seen, so its addresses are not believed, and nobody gets them.
                    refused |= self._refuses_name(message.questions[0].name, packet.dst)
            elif conn is not None and asks:
                name = self.names.query(packet.key, conn.device.id, message, now)
                if name is not None:
                    hidden = self.ignored.hides(packet.src)
                    self._asked(conn.device, name, now, out, hidden=hidden)
        if refused:
            self.counters["dns-refused"] += 1
            self._resolver_streams.refuse(packet)
            instead = refuse(event.data)
            out.append(DROP if instead is None else Verdict(accept=True, payload=instead))
        else:
            out.append(ACCEPT)
        return out

    def _refuses(self, message: DnsMessage) -> bool:
        """Is the answer one that devices shall not get? With ``refuse_doh``: the canary's."""
        return self.decisions.refuses_resolvers and any(q.name == CANARY for q in message.questions)

    def _refuses_oversized(self, data: bytes, to: Address) -> bool:
        """Nobody reads the addresses in it: whoever may not reach the name must not get them."""
        try:
            question = parse_question(data)
        except WireError:
            return False
        return question is not None and self._refuses_name(question, to)

    def _refuses_name(self, name: str, to: Address) -> bool:
        device = self.nodes.device_at(to)
        return device is not None and self.enforcement.refuses_name(device, name)

    def _asked(self, device: Node, name: str, now: float, out: list[Command], *, hidden: bool) -> None:
        self.counters["dns-queries"] += 1
        if not name:  # the root
            return
        site = self.nodes.site(name, registrable_domain(name), device.id, now)
        if hidden or device.ignored or site.ignored:
            return
        self._announce(device, now, out)
        self._announce(site, now, out)
        out.append(DnsQuerySeen(device.id, site.id, name + "."))

    def _answered(
        self,
        device_id: int,
        name: str,
        addresses: list[tuple[Address, float]],
        now: float,
        out: list[Command],
    ) -> None:
        self.counters["dns-answers"] += 1
        if not addresses:
            return
        self.enforcement.answered(name, addresses)
        site = self.nodes.site(name, registrable_domain(name), device_id, now)
        for address, _ in addresses:
            self.nodes.touch_site_address(site, address, now)
        device = self.nodes.by_id.get(device_id)
        if not site.ignored and device is not None and not device.ignored:
            self._announce(site, now, out)

    # -- traffic -------------------------------------------------------------------------

    def _traffic(self, event: Traffic, now: float) -> list[Command]:
        for delta in event.deltas:
            self._delta(delta, now)
        return self._gone([], now)

    def _delta(self, delta: ConnDelta, now: float) -> None:
        key = delta.key
        conn = live = self.connections.get(key)
        # Conntrack numbers connections in the order it finds them: this may be the last of an earlier
        # one that had the same addresses and ports.
        late = live is not None and delta.cid < live.cid
        if live is not None and live.before is not None and live.before.cid == delta.cid:
            conn, late = live.before, True
        if conn is None:
            conn = self.attributor.attribute(key, None, now, answered=delta.reply_packets > 0)
        elif conn.node.deleted or conn.device.deleted:
            conn = self.attributor.revive(conn, None, now)
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
        if not late:
            conn.cid = delta.cid
            self.connections.seen(conn, now)
        fresh = conn.counts is None
        if up_packets or down_packets or fresh:
            flow = self.flows.get(conn.flow_key, now)
            conn.flow_key = flow.key  # one key for all connections of a flow
            if fresh:
                flow.describe(conn.name, conn.evidence)
                if self._is_resolver(conn):
                    flow.note = "encrypted-dns"
            self.flows.count(flow, up, down, up_packets, down_packets, now)
            old = conn.counts or ZERO
            # Once nothing can rename it any more, nobody asks what it moved so far.
            conn.counts = ZERO if conn.done else old.plus(up, down, up_packets, down_packets)
            if up_packets or down_packets:
                self.nodes.seen(conn.device, now)
                self.nodes.seen(conn.node, now)
                hidden = conn.device.ignored or conn.node.ignored or self.ignored.hides(key.src, key.dst)
                if not hidden:
                    self._report.add(conn, up + down, up_packets + down_packets)
        if delta.ended and not late:
            self.connections.remove(key)
        elif delta.ended and live is not None:
            live.before = None

    def _is_resolver(self, conn: Conn) -> bool:
        """Does the device use encrypted DNS there? Then names are hidden from us."""
        resolvers = self.decisions.resolvers
        return (
            bool(resolvers)
            and conn.outbound
            and conn.key.dport in ENCRYPTED_DNS_PORTS
            and (conn.name in resolvers or format_address(conn.remote) in resolvers)
        )

    def _traffic_end(self, event: TrafficEnd, now: float) -> list[Command]:
        self.conntrack_entries = event.entries
        if event.resynced:
            self.counters["resyncs"] += 1
        if self._rechecks:
            self._rechecks -= 1
            self.enforcement.recheck()
        return self._gone(self._make_report(now), now)

    def _make_report(self, now: float) -> list[Command]:
        out: list[Command] = []
        self._reported = now
        report, mentioned = self._report.take(self.nodes.by_id, now)
        for node in mentioned:
            self._announce(node, now, out)
        if report is not None:
            out.append(report)
        return out

    # -- the home's side -----------------------------------------------------------------

    def _neighbour(self, event: NeighbourSeen, now: float) -> list[Command]:
        device = self.nodes.device(event.mac, now)
        if device is not None:
            self.nodes.learn(device, event.address, now, sure=True)
            self.nodes.presence(device, event.address, present=True)
        return self._merged([], now)

    def _neighbour_gone(self, event: NeighbourGone, now: float) -> list[Command]:  # noqa: ARG002 - one signature
        device = self.nodes.devices.get(event.mac) if event.mac else self.nodes.device_at(event.address)
        if device is not None:
            self.nodes.presence(device, event.address, present=False)
        return []

    def _lease(self, event: LeaseSeen, now: float) -> list[Command]:
        device = self.nodes.device(event.mac, now)
        if device is None:
            return []
        holder = self.nodes.device_at(event.address)
        self.nodes.learn(
            device, event.address, now, sure=holder is None or event.address not in holder.present
        )
        if event.hostname and device.hostname != event.hostname:
            device.hostname = event.hostname
            device.changed = True
        return self._merged([], now)

    def _local_addresses(self, event: LocalAddresses, now: float) -> list[Command]:
        if not self.local:
            self.nodes.set_local(event.addresses, event.macs, event.prefixes, now)
            self.enforcement.home_changed(event.prefixes)
            return []
        if self._own_mac not in event.macs:  # else it stays what it is: containers bring MACs and take them
            self._own_mac = min(event.macs, default=None)
            self.policy.set_own(self._own_mac)
        device = self.nodes.device(self._own_mac, now) if self._own_mac is not None else None
        if device is not None:
            self.nodes.claim(device, event.addresses, now)
        return []

    # -- what the kernel blocks ----------------------------------------------------------

    def _placed(self, event: Placed, now: float) -> list[Command]:  # noqa: ARG002 - one signature
        self.policy.set_placement(event.placement)
        return []

    def _recheck(self, _event: Recheck, now: float) -> list[Command]:  # noqa: ARG002 - one signature
        # Once conntrack has been read: a reading may be under way that began before.
        self._rechecks = 2
        return []

    def _name_remembered(self, event: NameRemembered, now: float) -> list[Command]:  # noqa: ARG002
        self.enforcement.remembered(event)
        return []

    def _blocked(self, event: BlockedSeen, now: float) -> list[Command]:
        packet = event.packet
        sender = self._sender(PacketSeen(packet, event.mac, event.up), now)
        found = self.enforcement.blocked(event, sender, now)
        if found is None:
            return []
        key, name = found
        return self._blocked_report(key, packet, name, now, up=event.up)

    def _blocked_report(
        self, key: FlowKey, packet: Packet, name: str, now: float, *, up: bool
    ) -> list[Command]:
        """The message that a packet of this flow was blocked, unless nobody wants to see it."""
        device, node = self.nodes.by_id.get(key.device), self.nodes.by_id.get(key.node)
        if device is None or node is None:
            return []
        if device.ignored or node.ignored or self.ignored.hides(packet.src, packet.dst):
            return []
        out: list[Command] = []
        self._announce(device, now, out)
        self._announce(node, now, out)
        source, target = (device, node) if up else (node, device)
        icmp = packet.proto in (IPPROTO_ICMP, IPPROTO_ICMPV6)
        row: Json = {
            "from": source.id,
            "to": target.id,
            "protocol": packet.proto,
            "from_port": 0 if icmp else packet.sport,
            "to_port": 0 if icmp else packet.dport,
            "size": packet.length,
            "count": 1,
        }
        if not key.inbound:
            self.lookout.blocked(device, node, name, now)
        return [*out, BlockedReport(row, key)]

    # -- time ----------------------------------------------------------------------------

    def _tick(self, _event: Tick, now: float) -> list[Command]:
        self.connections.expire(now)
        self.names.expire(now)
        self.policy.expire(now)
        self.nodes.expire(now, self.retain)
        changed, ended = self.decisions.turn(now)
        self.lookout.ended(ended, now)
        self.lookout.tick(self._losses(), now)
        out = self._gone(self._outcome((changed, ended), now), now)
        if now - self._reported >= REPORT_SECONDS:
            out += self._make_report(now)
        for node in self.nodes:
            if node.changed and not node.ignored:
                self._announce(node, now, out)
        ids = self.nodes.ids()
        fresh = ids != self._saved_ids or self.nodes.given != self._saved_given
        if fresh and abs(now - self._ids_saved) >= SAVE_SECONDS:
            self._ids_saved = now
            self._saved_ids = ids
            self._saved_given = dict(self.nodes.given)
            out.append(SaveState(ids, self._saved_given))
        if now - self._counters_published >= COUNTER_SECONDS:
            self._counters_published = now
            out += self._changed_counters()
        return out

    def _announce(self, node: Node, now: float, out: list[Command], *, at_once: bool = False) -> None:
        """Tell about a node before something mentions it, if there is anything new to tell."""
        age = now - node.announced
        due = age >= ANNOUNCE_SECONDS or (
            node.changed and (at_once or not node.announced or age >= CHANGE_SECONDS)
        )
        if due:
            node.changed = False
            node.announced = now
            out.append(NodeChanged(node_shape(node)))

    def _gone(self, out: list[Command], now: float) -> list[Command]:
        """Tell about nodes that were merged or deleted, and forget their flows."""
        self._merged(out, now)
        if self.nodes.gone:
            for node in self.nodes.gone:
                self.flows.forget_node(node.id)
                self.enforcement.forget(node)
                out.append(NodeDeleted(node.id))
            self.nodes.gone.clear()
        return out

    def _merged(self, out: list[Command], now: float) -> list[Command]:
        for old, new in self.nodes.merged:
            self.flows.rename_node(old.id, new.id, now)
            self._announce(new, now, out, at_once=True)
            out.append(NodeMerged(old.id, new.id))
            out.append(NodeDeleted(old.id))
        self.nodes.merged.clear()
        return out

    def _kernel_counters(self, event: KernelCounters, now: float) -> list[Command]:  # noqa: ARG002 - one signature
        self.kernel.update(event.values)
        return []

    def _losses(self) -> dict[str, int]:
        """What tables forgot because they were full."""
        return {
            "engine.devices-evicted": self.nodes.evicted_devices,
            "engine.sites-evicted": self.nodes.evicted_sites,
            "engine.connections-evicted": self.connections.evicted,
            "engine.flows-evicted": self.flows.evicted,
            "engine.names-evicted": self.names.evicted,
            "engine.blocked-addresses-evicted": self.policy.named.evicted,
        }

    def statistics(self) -> dict[str, int]:
        """Every counter and table size, by dotted name."""
        return {
            **{f"engine.{name}": value for name, value in self.counters.items()},
            "engine.devices": len(self.nodes.devices),
            "engine.sites": self.nodes.site_count,
            "engine.connections": len(self.connections),
            "engine.flows": len(self.flows),
            "engine.names": self.names.size,
            **self._losses(),
            "engine.sites-overflowed": self.nodes.overflowed_sites,
            "engine.answers-unasked": self.names.answers_unasked,
            "engine.window-cells-folded": self.flows.cells_folded,
            "engine.rules": len(self.rules),
            "engine.rules-in-force": len(self.policy.ids),
            "engine.blocked-addresses": len(self.policy.named),
            "engine.connections-cut": self.enforcement.cut,
            "engine.notifications-suppressed": self.notifications.suppressed,
            "conntrack.entries": self.conntrack_entries,
            **self.kernel,
        }

    def current_counters(self) -> list[Command]:
        """All counters as they were last published, for a broker that has lost them."""
        return [
            CounterChanged(module, counter, "total", value, value)
            for name, value in self._published.items()
            for module, _, counter in (name.partition("."),)
        ]

    def _changed_counters(self) -> list[Command]:
        out: list[Command] = []
        for name, value in self.statistics().items():
            if self._published.get(name) != value:
                self._published[name] = value
                module, _, counter = name.partition(".")
                out.append(CounterChanged(module, counter, "total", value, value))
        return out
