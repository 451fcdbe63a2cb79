# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON shapes of nodes and flows, as recorded from SPIN 1.0 and as API.md has them. Pure."""

from spind.flows import Flow
from spind.model import format_address, format_mac
from spind.nodes import Node

Json = dict[str, object]


def node_shape(node: Node) -> Json:
    """A node as ``get_device_data`` and ``nodeInfo`` have it, keys in the recorded order.

    ``name`` is the one people gave, else the one the device gave itself. Host names end in a
    dot, as SPIN 1.0 has them.
    """
    shape: Json = {"id": node.id}
    name = node.name or node.hostname
    if name:
        shape["name"] = name
    if node.mac is not None:
        shape["mac"] = format_mac(node.mac)
    if node.blocked:
        shape["is_blocked"] = True
    if node.excepted:
        shape["is_excepted"] = True
    shape["lastseen"] = int(node.lastseen)
    shape["ips"] = [format_address(address) for address in node.addresses]
    shape["domains"] = [name + "." for name in node.domains]
    return shape


def node_details(node: Node) -> Json:
    """A node as ``list_nodes`` has it: the recorded shape, and what it lacks."""
    shape = node_shape(node)
    shape["kind"] = str(node.kind)
    shape["label"] = node.label
    shape["domain"] = node.domain
    shape["hostname"] = node.hostname
    shape["firstseen"] = int(node.firstseen)
    shape["is_ignored"] = node.ignored
    shape["is_blocked"] = node.blocked
    shape["is_excepted"] = node.excepted
    if node.mac is not None:
        # IEEE 802: the second lowest bit of the first octet; phones change such MACs per network.
        shape["mac_is_random"] = bool(node.mac[0] & 2)
    return shape


def flow_shape(flow: Flow, *, turned: bool = False) -> Json:
    """A flow as ``list_flows`` has it. ``turned`` shows a flow between two devices from the side
    of the other one."""
    key = flow.key
    device, node = (key.node, key.device) if turned else (key.device, key.node)
    up, down = (flow.down_bytes, flow.up_bytes) if turned else (flow.up_bytes, flow.down_bytes)
    packets = (flow.down_packets, flow.up_packets) if turned else (flow.up_packets, flow.down_packets)
    shape: Json = {
        "device": device,
        "node": node,
        "name": flow.name,
        "evidence": str(flow.evidence),
        "protocol": key.proto,
        "port": 0 if flow.is_icmp else key.port,
        "family": key.family,
        "inbound": key.inbound is not turned,
        "up_bytes": up,
        "down_bytes": down,
        "up_packets": packets[0],
        "down_packets": packets[1],
        "firstseen": int(flow.firstseen),
        "lastseen": int(flow.lastseen),
        "blocked": flow.blocked,
    }
    if flow.note:
        shape["note"] = flow.note
    if flow.is_icmp:
        shape["icmp_type"] = key.port
    return shape
