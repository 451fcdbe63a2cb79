# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own count of each device's traffic, to compare everything else with. Pure, no I/O.

nft rules in the gateway, in a table of their own, count what connection tracking accounts for
(``nf_ct_acct_update`` in the kernel's nf_conntrack_core.c), packet by packet and with the same
length, that of the IP packet as the kernel holds it (a GSO packet is one packet):

* A packet of a *confirmed* connection is accounted before any filter sees it, so it is counted
  first of all in its hook, and a filter that drops it later changes nothing.
* The first packet makes a connection that exists only once it has passed every filter; it is
  counted after them.
* Packets that belong to no connection (invalid, untracked) and ICMP errors about one are not
  accounted at all (``nf_conntrack_in``), and not counted here.

Where a flow table forwards packets past all hooks, these rules would miss them. Then the devices
count instead, each in its own namespace (``device_ruleset``): what goes beyond the home and what
comes from there, with the same lengths, but ICMP errors and packets that the gateway calls
invalid are in it.

Upward a device is known by the frame's MAC, and its source addresses are remembered in a set;
downward it is known by them, since the frame does not exist yet when the packet is forwarded.
"""

from collections.abc import Iterable
from typing import Any

from spind.lab.plan import LAN4, LAN6, LAN_BRIDGE, ULA6, DeviceSpec

TABLE = "lab_count"
SCOPES = ("forward", "gateway")

Counts = tuple[int, int, int, int]
"""Bytes up, bytes down, packets up, packets down."""


def ruleset(devices: Iterable[DeviceSpec]) -> str:
    """The counting table (nft syntax)."""
    specs = list(devices)
    lines = [f"table inet {TABLE} {{"]
    for spec in specs:
        lines += [
            f"  set {spec.name}4 {{ type ipv4_addr; size 65535; flags dynamic; }}",
            f"  set {spec.name}6 {{ type ipv6_addr; size 65535; flags dynamic; }}",
            f"  chain learn_{spec.name} {{",
            f"    add @{spec.name}4 {{ ip saddr }}",
            f"    add @{spec.name}6 {{ ip6 saddr }}",
            "  }",
        ]
        for scope in SCOPES:
            names = [_name(scope, spec, way, family) for way in ("up", "down") for family in (4, 6)]
            lines += [f"  counter {name} {{ }}" for name in names]
            lines += [
                f"  chain {scope}_up_{spec.name} {{",
                f"    meta nfproto ipv4 counter name {_name(scope, spec, 'up', 4)} accept",
                f"    meta nfproto ipv6 counter name {_name(scope, spec, 'up', 6)} accept",
                "  }",
            ]
    lines += [
        "  chain learn {",
        "    type filter hook prerouting priority -190; policy accept;",
        f"    iifname != {LAN_BRIDGE} accept",
        f"    ether saddr vmap {{ {_map(specs, 'learn')} }}",
        "  }",
    ]
    for scope in SCOPES:
        lines += [
            f"  chain {scope} {{",
            f"    iifname {LAN_BRIDGE} ether saddr vmap {{ {_map(specs, scope + '_up')} }}",
            f"    oifname != {LAN_BRIDGE} accept",
        ]
        for spec in specs:
            down4, down6 = _name(scope, spec, "down", 4), _name(scope, spec, "down", 6)
            lines += [
                f"    ip daddr @{spec.name}4 counter name {down4} accept",
                f"    ip6 daddr @{spec.name}6 counter name {down6} accept",
            ]
        lines += ["  }"]
    for hook, scope in (("forward", "forward"), ("input", "gateway"), ("output", "gateway")):
        for when, priority, condition in (
            ("known", -180, "ct status & confirmed == confirmed"),
            ("new", 400, "ct status & confirmed != confirmed"),
        ):
            lines += [
                f"  chain {hook}_{when} {{",
                f"    type filter hook {hook} priority {priority}; policy accept;",
                "    ct state invalid,untracked accept",
                "    ct state related meta l4proto { icmp, ipv6-icmp } accept",
                f"    {condition} jump {scope}",
                "  }",
            ]
    return "\n".join([*lines, "}"]) + "\n"


_HOME4 = f"{LAN4}, 224.0.0.0/4, 255.255.255.255, 0.0.0.0"
_HOME6 = f"{LAN6}, {ULA6}, fe80::/10, ff00::/8, ::"


def device_ruleset() -> str:
    """The counting table of a device's own namespace (nft syntax)."""
    lines = [f"table inet {TABLE} {{"]
    for hook, way, end in (("output", "up", "daddr"), ("input", "down", "saddr")):
        lines += [
            f"  counter {way}4 {{ }}",
            f"  counter {way}6 {{ }}",
            f"  chain {hook} {{",
            f"    type filter hook {hook} priority -400; policy accept;",
            f"    ip {end} != {{ {_HOME4} }} counter name {way}4",
            f"    ip6 {end} != {{ {_HOME6} }} counter name {way}6",
            "  }",
        ]
    return "\n".join([*lines, "}"]) + "\n"


def read_device(listing: dict[str, Any]) -> dict[int, Counts]:
    """Counts per family out of ``nft -j list counters`` in a device's namespace."""
    values = _values(listing)
    result = {}
    for family in (4, 6):
        up, down = values[f"up{family}"], values[f"down{family}"]
        result[family] = (up[0], down[0], up[1], down[1])
    return result


def _values(listing: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {
        entry["counter"]["name"]: (int(entry["counter"]["bytes"]), int(entry["counter"]["packets"]))
        for entry in listing["nftables"]
        if "counter" in entry and entry["counter"]["table"] == TABLE
    }


def _name(scope: str, spec: DeviceSpec, way: str, family: int) -> str:
    return f"{scope}_{spec.name}_{way}{family}"


def _map(specs: list[DeviceSpec], chain: str) -> str:
    return ", ".join(f"{spec.mac} : jump {chain}_{spec.name}" for spec in specs)


def read(listing: dict[str, Any], devices: Iterable[DeviceSpec], scope: str) -> dict[str, dict[int, Counts]]:
    """Counts per device and family out of ``nft -j list counters`` for one of ``SCOPES``."""
    values = _values(listing)
    result: dict[str, dict[int, Counts]] = {}
    for spec in devices:
        for family in (4, 6):
            up = values[_name(scope, spec, "up", family)]
            down = values[_name(scope, spec, "down", family)]
            result.setdefault(spec.name, {})[family] = (up[0], down[0], up[1], down[1])
    return result
