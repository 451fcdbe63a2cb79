# SPDX-License-Identifier: GPL-2.0-or-later
"""A home for tests of blocking with the whole daemon: names, decisions, and what arrives in spite of them."""

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from blocking import Service, Talk, quiet_limits, wait_for
from spind_home import Home

from spind.lab import Lab, plan
from spind.lab.behaviours import seeded
from spind.lab.node import Device
from spind.lab.resolver import Resolver
from spind.lab.watch import Watch

BACKENDS = ["nftables"] if "SPIND_VM" in os.environ else ["nftables", "iptables"]

# Who is blocked stands in these prefixes, who is not, in others: what arrives is counted by them.
TARGETS = {4: "198.18.100.{}", 6: "2001:db8:2:64::{}"}
BESIDE = {4: "198.18.200.{}", 6: "2001:db8:2:c8::{}"}
TARGET_PREFIXES = {4: "198.18.100.0/24", 6: "2001:db8:2:64::/64"}

# name -> number of its address, in TARGETS or BESIDE
SITE_NAME, OTHER_SITE = "www.target.test", "www.beside.test"
HOST_NAME, OTHER_HOST = "ads.mixed.test", "www.mixed.test"
NAMES = {
    SITE_NAME: (TARGETS, 10),
    OTHER_SITE: (BESIDE, 10),
    HOST_NAME: (TARGETS, 20),
    OTHER_HOST: (BESIDE, 20),
}


class Blocks(Home):
    """A home with names for tests, and what arrives of what is blocked counted at both ends."""

    def __init__(self, lab: Lab, backend: str) -> None:
        super().__init__(lab, block_backend=backend)
        self.backend = backend
        self.tv, self.phone = lab.device("tv"), lab.device("phone")

    def start(self) -> None:
        for name, (where, number) in NAMES.items():
            self.lab.set_name(name, [where[4].format(number), where[6].format(number)])
        super().start()
        assert self.call("status")["blocking"]["backend"] == self.backend

    def node_of(self, query: str, kind: str = "site") -> int:
        """The id of the node with an address or domain."""
        found = wait_for(lambda: self.call("list_nodes", kind=kind, query=query)["items"], f"a node {query}")
        (node,) = [n for n in found if query in (n.get("domain"), n.get("mac"), *n["ips"])]
        return int(node["id"])

    def resolve(self, device: str, name: str) -> None:
        """The device asks for the addresses of a name."""

        async def ask() -> None:
            resolver = Resolver(plan.GATEWAY4, seeded(name))
            for family in (4, 6):
                assert (await resolver.lookup(name, family)).addresses

        self.lab.device(device).call(lambda: asyncio.run(ask()))

    def unchanged(self) -> None:
        """Nothing is decided (any more)."""
        assert self.call("list_rules") == []
        ours = {spec.mac for spec in plan.DEFAULT_DEVICES}
        nodes = self.pages("list_nodes", kind="device")
        assert not [node["mac"] for node in nodes if node["mac"] in ours and node["profile"]]


@contextlib.contextmanager
def blocks(backend: str) -> Iterator[Blocks]:
    """Such a home, with a back-end."""
    with Lab() as lab:
        home = Blocks(lab, backend)
        quiet_limits(home)
        home.start()
        yield home
        home.stop()


def arriving_outside(home: Blocks) -> Watch:
    """Counts what arrives in the internet for the targets."""
    matches = (f"ip daddr {TARGET_PREFIXES[4]}", f"ip6 daddr {TARGET_PREFIXES[6]}")
    return Watch(home.lab.internet, "targets", matches)


def arriving_inside(home: Blocks) -> Watch:
    """Counts what arrives at the tv from the targets."""
    matches = (f"ip saddr {TARGET_PREFIXES[4]}", f"ip6 saddr {TARGET_PREFIXES[6]}")
    return Watch(home.tv, "targets", matches)


Decision = Callable[[Blocks, str, str, int], Callable[[], object]]
"""Gets (home, address, protocol, port) and returns what takes the decision back."""


def rule(home: Blocks, **fields: Any) -> Callable[[], object]:
    made = home.call("add_rule", action="block", **fields)
    return functools.partial(home.call, "remove_rule", id=made["id"])


def a_device(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    entry = {"list": "block", "node": home.node_of(home.tv.mac, "device")}
    home.call("add_iplist_node", **entry)
    return functools.partial(home.call, "remove_iplist_node", **entry)


def an_address(home: Blocks, address: str, proto: str, port: int) -> Callable[[], object]:
    home.call("add_iplist_ip", list="block", ip=address)
    return functools.partial(home.call, "remove_iplist_ip", list="block", ip=address)


@contextlib.contextmanager
def blocking_of(home: Blocks, device: Device) -> Iterator[None]:
    """The device is on the list ``block`` meanwhile."""
    entry = {"list": "block", "node": home.node_of(device.mac, "device")}
    home.call("add_iplist_node", **entry)
    try:
        yield
    finally:
        home.call("remove_iplist_node", **entry)


def lan_address(device: Device, version: int) -> str:
    """An address of a device that it speaks from in the home."""
    return device.ipv4 if version == 4 else plan.stable_address(plan.LAN6, device.mac)


def reached(home: Blocks, device: Device, service: Service) -> bool:
    """Can the device reach a service over UDP now?"""
    with Talk(device, service) as talk:
        talk.begin()
        return talk.heard(1)
