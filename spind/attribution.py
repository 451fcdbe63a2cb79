# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose a connection is, and under which name: the rules of DESIGN 4. Pure.

The device is the party of the home; the node is the other one. The name is the best evidence
there is: what the client said in the connection, an answer that this device was given, an answer
that another one was given, none.
"""

from typing import NamedTuple

from spind.connections import Conn, Connections
from spind.flows import ZERO, Flows
from spind.model import Address, ConnKey, Evidence, format_address, format_mac
from spind.names import Names
from spind.nodes import Kind, Node, Nodes
from spind.sites import registrable_domain


class Attribution(NamedTuple):
    """Whose a connection is: the device's MAC (or address), the site, the host name, the evidence."""

    device: str
    site: str
    name: str
    evidence: Evidence


class Attributor:
    """Enters connections into their table, each with its device and node."""

    def __init__(self, nodes: Nodes, names: Names, flows: Flows, connections: Connections) -> None:
        self._nodes = nodes
        self._names = names
        self._flows = flows
        self._connections = connections

    def describe(self, key: ConnKey) -> Attribution | None:
        """Whose the connection is, in text, as long as it lives."""
        conn = self._connections.get(key)
        if conn is None:
            return None
        mac = conn.device.mac
        device = format_mac(mac) if mac else next(map(format_address, conn.device.addresses), "")
        site = conn.node.domain or format_address(conn.remote)
        return Attribution(device, site, conn.name, conn.evidence)

    def connection(self, key: ConnKey, sender: Node | None, now: float) -> Conn | None:
        """The connection with this key, attributed now if it is new; ``None`` if no device takes part."""
        conn = self._connections.get(key)
        if conn is not None:
            if conn.node.deleted or conn.device.deleted:
                return self.revive(conn, sender, now)
            return conn
        return self.attribute(key, sender, now, answered=False)

    def attribute(self, key: ConnKey, sender: Node | None, now: float, *, answered: bool) -> Conn | None:
        """Enter a new connection; ``None`` where no device takes part. ``sender`` is the device
        that sent its first packet, ``answered`` whether the responder replied."""
        parties = self._parties(key, sender, now, answered=answered)
        if parties is None:
            return None
        device, outbound = parties
        remote = key.dst if outbound else key.src
        node, name, evidence = self._peer(device, remote, now)
        conn = Conn(key, device, node, outbound=outbound, now=now)
        conn.name = name
        conn.evidence = evidence
        self._connections.add(conn, now)
        return conn

    def peer_of_blocked(
        self, key: ConnKey, sender: Node | None, *, up: bool, now: float
    ) -> tuple[Node, Node, str, Evidence] | None:
        """Device, node, name and evidence of a packet that went no further; ``None`` without a device."""
        if up:
            device = sender or self._nodes.device_at(key.src)
            remote = key.dst
        else:
            device = self._nodes.device_at(key.dst)
            remote = key.src
        if device is None:
            return None
        return device, *self._peer(device, remote, now)

    def _parties(
        self, key: ConnKey, sender: Node | None, now: float, *, answered: bool
    ) -> tuple[Node, bool] | None:
        """(the device, whether it is the initiator). An address of the home that never answered is
        not taken for a device: a scan of the home from outside must not invent any."""
        nodes = self._nodes
        # Whose MAC sent it did so, whatever source address it claims.
        device = sender or nodes.device_at(key.src)
        if device is not None:
            return device, True
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
        nodes = self._nodes
        if nodes.is_own(remote):
            return nodes.gateway(now), "", Evidence.NONE
        peer = nodes.device_at(remote)
        if peer is not None:
            return peer, "", Evidence.NONE
        name, evidence = self._names.lookup(device.id, remote, now)
        if name:
            site = nodes.site(name, registrable_domain(name), device.id, now)
            nodes.touch_site_address(site, remote, now)
            return site, name, evidence
        return nodes.site_at(remote, device.id, now), "", Evidence.NONE

    def revive(self, conn: Conn, sender: Node | None, now: float) -> Conn | None:
        """Its device or site was deleted meanwhile: attribute it again, keeping a name it had."""
        device, node = conn.device.heir or conn.device, conn.node.heir or conn.node
        if not device.deleted and not node.deleted:  # merged: its flow has moved already
            conn.device, conn.node = device, node
            conn.flow_key = conn.make_flow_key()
            return conn
        self._connections.remove(conn.key)
        fresh = self.attribute(conn.key, sender, now, answered=True)
        if fresh is not None:
            fresh.done = conn.done
            fresh.counts = ZERO if conn.counts is not None else None
            if conn.name and not fresh.name and fresh.node.kind is Kind.SITE:
                self.rename(fresh, conn.name, conn.evidence, now)
        return fresh

    def rename(self, conn: Conn, name: str, evidence: Evidence, now: float) -> None:
        """Better evidence for the connection's name: what it transferred so far goes along."""
        conn.name = name
        conn.evidence = evidence
        if conn.node.kind is not Kind.SITE:
            return  # a name does not turn a device of the home into a site
        site = self._nodes.site(name, registrable_domain(name), conn.device.id, now)
        self._nodes.touch_site_address(site, conn.remote, now)
        old = conn.flow_key
        conn.node = site
        conn.flow_key = conn.make_flow_key()
        if conn.counts is not None and conn.flow_key != old:
            self._flows.move(old, conn.flow_key, conn.counts, now)
        if conn.counts is not None:
            self._flows.describe(conn.flow_key, name, evidence, now)
