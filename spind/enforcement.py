# SPDX-License-Identifier: GPL-2.0-or-later
"""From decisions to what the kernel and the queues do: keeps policy, home and connections in step. Pure.

Owns the moments: when a device has a new address, when a name has one, when a connection's name comes to
light, when a rule begins to hold for a connection that is running.
"""

from collections import OrderedDict

from spind.attribution import Attributor
from spind.commands import Command, CutConnections, End, Enforce, EnforceElements, KeepName
from spind.connections import Conn, Connections
from spind.decisions import Decisions
from spind.events import BlockedSeen, NameRemembered
from spind.flows import FlowKey, Flows
from spind.model import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, Address, ConnKey, Mac
from spind.named_addresses import UNTOLD
from spind.nodes import Kind, Node, Nodes
from spind.policy import Policy
from spind.rules import Rule

SNI_SECONDS = 3600.0
"""How long an address counts as one of the name that a client said there: no TTL tells."""

ROOT = "."
"""What stands for the empty name in what is kept."""

CUT_KEYS = 4096
"""Connections that were cut and may still be heard of; the one cut longest ago is forgotten."""

REPORTS_PER_SECOND = 20.0
REPORTS_BURST = 100.0
"""Reports of connections that were cut by their names, as many as the kernel makes of blocked packets."""


class Enforcement:
    """Tells the policy what happens, and tells what follows from it."""

    def __init__(
        self,
        nodes: Nodes,
        flows: Flows,
        connections: Connections,
        attributor: Attributor,
        decisions: Decisions,
        policy: Policy,
    ) -> None:
        self._nodes = nodes
        self._flows = flows
        self._connections = connections
        self._attributor = attributor
        self._decisions = decisions
        self._policy = policy
        self.cut = 0
        """Connections that were cut because of their name, or of a new rule."""
        self._cut_keys: OrderedDict[ConnKey, None] = OrderedDict()
        self._reports = REPORTS_BURST
        self._reported = 0.0

    # -- what is to be done --------------------------------------------------------------

    def settle(self) -> list[Command]:
        """What the kernel has to be told of all that happened since the last call."""
        if self._nodes.moved:
            self._move()
        commands: list[Command] = []
        cut: list[tuple[ConnKey, bool]] = []
        ends: list[End] = []
        if self._decisions.touched:
            touched, self._decisions.touched = self._decisions.touched, []
            cut = self._no_longer_allowed(touched, ends)
        if self._policy.pending:
            changes = self._policy.take()
            commands += [
                KeepName(address, name or ROOT, expires)
                for address, name, expires in self._policy.take_names()
            ]
            if changes.restructured:
                commands.append(Enforce(self._policy.ruleset))
            else:
                classes = [changes.classes] if any(changes.classes) else []
                if changes.sets or classes:
                    commands.append(EnforceElements((*changes.sets, *classes)))
        if cut:
            commands.append(CutConnections(cut, tuple(ends)))
        return commands

    def recheck(self) -> None:
        """Look at all connections again, whether they may be."""
        self._decisions.touched.append(None)

    def home_changed(self, prefixes: tuple[tuple[Address, int], ...]) -> None:
        """The home has these prefixes now."""
        self._policy.set_home(prefixes)

    def forget(self, node: Node) -> None:
        """The node is gone."""
        if node.mac is not None:
            self._policy.forget_device(node.mac)

    # -- names ---------------------------------------------------------------------------

    def answered(self, name: str, addresses: list[tuple[Address, float]]) -> None:
        """``name`` has these addresses, each until its time: before any device hears of it."""
        for address, expires in addresses:
            self._policy.learn(address, name, expires)

    def remembered(self, event: NameRemembered) -> None:
        """An address that a name had before a restart."""
        self._policy.remember(event.address, UNTOLD if event.name == ROOT else event.name, event.expires)

    def named(self, conn: Conn, now: float) -> None:
        """The client said the name of its connection."""
        self._policy.claim(conn.remote, conn.name, now + SNI_SECONDS)

    def refuses_name(self, device: Node, name: str) -> bool:
        """May the device not reach ``name``, wherever it is? For answers that are too long to be read."""
        unknown = bytes(4)
        rule = self._policy.decide(device.mac, name, unknown, 6, 443)
        return rule is not None and rule.action == "block" and self._policy.concerns(name)

    # -- connections ---------------------------------------------------------------------

    def blocks(self, conn: Conn) -> bool:
        """May the connection, by the name that it has now, not be?"""
        if self.blocks_name(conn, conn.name):
            return True
        if conn.node.kind is not Kind.DEVICE:
            return False
        # Of two devices the other one has its rules, too: seen from there, this device is the remote party.
        rule = self._rule(conn.node.mac, "", conn, outbound=not conn.outbound)
        return rule is not None and rule.action == "block"

    def _blocks_address(self, conn: Conn) -> bool:
        """Nobody knows the connection's name: is every one that its address has blocked?"""
        names = self._policy.named.names(conn.remote)
        return not conn.name and any(names) and all(self.blocks_name(conn, name) for name in names)

    def blocks_name(self, conn: Conn, name: str) -> bool:
        """Would the connection be blocked if it were to ``name``?"""
        rule = self._rule(conn.device.mac, name, conn, outbound=conn.outbound)
        return rule is not None and rule.action == "block"

    def _rule(self, mac: Mac | None, name: str, conn: Conn, *, outbound: bool) -> Rule | None:
        key = conn.key
        address, port = (key.dst, key.dport) if outbound else (key.src, key.sport)
        if key.proto in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            port = 0
        return self._policy.decide(mac, name, address, key.proto, port)

    def _no_longer_allowed(
        self, touched: list[Rule | Mac | None], ends: list[End]
    ) -> list[tuple[ConnKey, bool]]:
        """Connections that the rules now block, of those that rules or devices in ``touched`` are about. Ends
        of those that are new among them are added to ``ends``."""
        everything = None in touched
        macs = {one for one in touched if isinstance(one, bytes)}
        rules = [one for one in touched if isinstance(one, Rule)]
        for rule in rules:
            if rule.device is not None:
                macs.add(rule.device)
        shared = everything or any(rule.device is None for rule in rules)
        cut: list[tuple[ConnKey, bool]] = []
        for conn in self._connections:
            if not shared and conn.device.mac not in macs and conn.node.mac not in macs:
                continue
            if conn.name:
                # A rule may be new: the name's address has not been one that rules care about.
                self._policy.claim(conn.remote, conn.name, conn.seen + SNI_SECONDS)
            if self.blocks(conn) or self._blocks_address(conn):
                cut.append((conn.key, conn.outbound))
                conn.done = True
                if conn.key not in self._cut_keys:
                    ends += _ends(conn)
                self.note_cut(conn.key)
        return cut

    def note_cut(self, key: ConnKey) -> None:
        """The connection is cut. It is remembered beyond its end in conntrack: what still comes of it would
        begin a new one there, in the middle of what it says."""
        if key not in self._cut_keys:
            self.cut += 1
            self._cut_keys[key] = None
            if len(self._cut_keys) > CUT_KEYS:
                self._cut_keys.popitem(last=False)

    def was_cut(self, key: ConnKey, *, opens: bool) -> bool:
        """Is a packet one of a connection that was cut? Not if it opens the next one with the same key."""
        if opens:
            self._cut_keys.pop(key, None)
        return key in self._cut_keys

    def may_report(self, now: float) -> bool:
        """Is there room for one more report of a connection that was cut?"""
        room = self._reports + max(now - self._reported, 0.0) * REPORTS_PER_SECOND
        self._reports, self._reported = min(room, REPORTS_BURST), now
        if self._reports < 1:
            return False
        self._reports -= 1
        return True

    # -- packets that the kernel blocked -------------------------------------------------

    def blocked(self, event: BlockedSeen, sender: Node | None, now: float) -> tuple[FlowKey, str] | None:
        """Count a blocked packet with its flow; (flow, name), or ``None`` where no device takes part."""
        packet = event.packet
        key = packet.key
        conn = self._connections.get(key)
        turned = ConnKey(key.proto, key.dst, key.dport, key.src, key.sport)
        conn = conn or self._connections.get(turned)
        if conn is not None and not (conn.device.deleted or conn.node.deleted):
            flow_key, name, evidence = conn.flow_key, conn.name, conn.evidence
        else:
            party = self._attributor.peer_of_blocked(key, sender, up=event.up, now=now)
            if party is None:
                return None
            device, node, name, evidence = party
            port = key.dport >> 8 if key.proto in (IPPROTO_ICMP, IPPROTO_ICMPV6) else key.dport
            family = 4 if len(key.src) == 4 else 6
            flow_key = FlowKey(device.id, node.id, key.proto, port, family, not event.up)
        self._flows.block(flow_key, name, evidence, now)
        return flow_key, name

    # -- inside --------------------------------------------------------------------------

    def _move(self) -> None:
        moved, self._nodes.moved = dict.fromkeys(self._nodes.moved), []
        for node in moved:
            if node.mac is None or node.deleted:
                continue
            profile = self._nodes.profile_of(node)
            if profile != self._policy.profile_of(node.mac):
                self._decisions.touched.append(node.mac)
            self._policy.set_device(node.mac, profile, node.addresses)


def _ends(conn: Conn) -> list[End]:
    """The devices' ends of a TCP connection."""
    key = conn.key
    if key.proto != IPPROTO_TCP:
        return []
    opener = (key.src, key.sport, key.dst, key.dport)
    other = (key.dst, key.dport, key.src, key.sport)
    near, far = (opener, other) if conn.outbound else (other, opener)
    sides = ((conn.device.mac, near), (conn.node.mac, far))
    return [End(mac, *side) for mac, side in sides if mac is not None]
