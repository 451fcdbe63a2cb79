# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods that decide about nodes, one by one: names, the lists of SPIN 1.0, flow blocks. Pure."""

from spind.calls import REFUSED, ApiError, DeniedError
from spind.decisions import LISTS, is_address_alone, listed_key
from spind.desk import Desk
from spind.events import AssignAddress, IgnoreAddress, PutRules, ResetIgnored, SetIgnored, SetName
from spind.hostile import clean_name
from spind.ignore import parse_prefix
from spind.model import parse_address
from spind.nodes import Node
from spind.rules import Rule
from spind.shapes import Json
from spind.views import fitting, is_flow_block


class NodeDeeds:
    """Decides about nodes and addresses."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def set_device_name(self, node: int, name: str) -> None:
        """Give a node a name; an empty one takes it back."""
        self._desk.decidable(node)
        try:
            name = clean_name(name)
        except ValueError as error:
            raise ApiError(REFUSED, f"name: {error}") from error
        self._desk.do(SetName(node, name))

    def set_ignore(self, node: int, ignore: bool) -> None:
        """Hide a node from views, or show it again."""
        self._desk.decidable(node)
        self._desk.do(SetIgnored(node, ignored=bool(ignore)))

    def node_add_ip(self, node: int, ipaddr: str) -> None:
        """Give a node an address by hand; node 0 makes a new one."""
        try:
            address = parse_address(ipaddr)
        except ValueError as error:
            raise ApiError(REFUSED, "Invalid IP address") from error
        if node:
            self._desk.views.node(node)
        if self._desk.engine.nodes.has_address(address):
            raise ApiError(REFUSED, "IP address already assigned to a node")
        self._desk.do(AssignAddress(node, address))

    # -- the lists of SPIN 1.0 -----------------------------------------------------------

    def list_iplist(self, list: str) -> list[str]:  # noqa: A002 - the argument's name on the wire
        """The addresses of a list."""
        self._check_list(list)
        return self._desk.engine.decisions.list_texts(list)

    def add_iplist_node(self, list: str, node: int) -> None:  # noqa: A002
        """Put a node on a list; it stays there with all its addresses."""
        self._check_decides(list)
        key = self._desk.decidable(node)
        if list == "ignore":
            self._desk.do(SetIgnored(node, ignored=True))
        elif not self._listed(list, key):
            device = self._desk.engine.nodes.by_id[node].mac
            fields = {"action": list} | ({"device": key} if device is not None else {"node": key})
            self._desk.do(PutRules((self._desk.new_rule(fields),)))

    def remove_iplist_node(self, list: str, node: int) -> None:  # noqa: A002
        """Take a node off a list."""
        self._check_decides(list)
        key = self._desk.decidable(node)
        if list == "ignore":
            self._desk.do(SetIgnored(node, ignored=False))
        else:
            self._desk.remove_rules(self._listed(list, key))

    def add_iplist_ip(self, list: str, ip: str) -> None:  # noqa: A002
        """Put an address or prefix on a list. A device's address means the device, with all it has."""
        self._check_decides(list)
        self._prefix(ip)
        device = self._device_at(ip)
        if device is not None and list != "ignore":
            self.add_iplist_node(list, device.id)
            return
        try:
            if list == "ignore":
                self._desk.do(IgnoreAddress(ip, ignored=True))
                return
        except ValueError as error:
            raise ApiError(REFUSED, f"ip: {error}") from error
        fields = {"action": list, "ip": ip}
        if not self._same_address(self._desk.rule(fields)):
            self._desk.do(PutRules((self._desk.new_rule(fields),)))

    def remove_iplist_ip(self, list: str, ip: str) -> None:  # noqa: A002
        """Take an address or prefix off a list."""
        self._check_decides(list)
        self._prefix(ip)
        if list == "ignore":
            self._desk.do(IgnoreAddress(ip, ignored=False))
            return
        there = self._same_address(self._desk.rule({"action": list, "ip": ip}))
        device = self._device_at(ip)
        if device is not None:
            there += self._listed(list, device.decision_key)
        if not there and ip in self._desk.engine.decisions.list_texts(list):
            sentence = f"ip: {ip} is on the list because its node is; remove_iplist_node takes that off"
            raise ApiError(REFUSED, sentence)
        self._desk.remove_rules(there)

    def reset_iplist_ignore(self) -> None:
        """Ignore nothing any more."""
        self._desk.do(ResetIgnored())

    # -- flow blocks ---------------------------------------------------------------------

    def set_flow_block(self, node1: int, node2: int, block: int) -> None:
        """Block or allow again what two nodes exchange; one of them is a device."""
        first, second = self._desk.views.node(node1), self._desk.views.node(node2)
        if first.mac is None:
            first, second = second, first
        if first.mac is None:
            raise ApiError(REFUSED, "node1, node2: one of them must be a device of the home")
        self._flow_block(first, second, block=block)

    def set_device_flow_block(self, device: str, node: int, block: int) -> None:
        """Block or allow again what a device exchanges with a node."""
        self._flow_block(self._desk.views.device(device), self._desk.views.node(node), block=block)

    def get_flow_block(self) -> list[Json]:
        """Pairs of nodes that are blocked."""
        return fitting({"node1": one, "node2": other} for one, other, _ in self._desk.views.flow_blocks())

    def _flow_block(self, device: Node, node: Node, *, block: int) -> None:
        if block not in (0, 1):
            raise ApiError(REFUSED, "block must be 0 or 1")
        key = self._desk.decidable(node.id)
        there = tuple(
            rule.id
            for rule in self._desk.engine.rules
            if rule.action == "block"
            and is_flow_block(rule)
            and (rule.device, rule.node) in ((device.mac, key), (node.mac, self._desk.decidable(device.id)))
        )
        if not block:
            self._desk.remove_rules(there)
        elif not there:
            fields = {"action": "block", "device": self._desk.decidable(device.id), "node": key}
            self._desk.do(PutRules((self._desk.new_rule(fields),)))

    # -- inside --------------------------------------------------------------------------

    def _listed(self, name: str, key: str) -> tuple[int, ...]:
        """The rules that put a node on a list."""
        return tuple(
            rule.id for rule in self._desk.engine.rules if rule.action == name and listed_key(rule) == key
        )

    def _same_address(self, wanted: Rule) -> tuple[int, ...]:
        return tuple(
            rule.id
            for rule in self._desk.engine.rules
            if rule.action == wanted.action and is_address_alone(rule) and rule.prefix == wanted.prefix
        )

    def _device_at(self, text: str) -> Node | None:
        """The device that has an address; ``None`` for prefixes, too."""
        try:
            return self._desk.engine.nodes.device_at(parse_address(text))
        except ValueError:
            return None

    def _check_list(self, name: str) -> None:
        if name not in LISTS:
            raise ApiError(REFUSED, "Unknown ip list name, should be 'ignore', 'block', or 'allow'")

    def _check_decides(self, name: str) -> None:
        self._check_list(name)
        if name == "ignore" and self._desk.caller.role == "provider":
            raise DeniedError("what is shown is for the owner of the home only")

    def _prefix(self, text: str) -> None:
        try:
            parse_prefix(text)
        except ValueError as error:
            raise ApiError(REFUSED, "Invalid IP address") from error
