# SPDX-License-Identifier: GPL-2.0-or-later
"""Texts that set a lab up: ip batches, sysctls, nft rulesets, dnsmasq configurations. Pure, no I/O."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from spind.lab import plan
from spind.lab.plan import DeviceSpec, Site


def links(gateway: str, internet: str, devices: dict[str, DeviceSpec]) -> list[str]:
    """Batch that makes the namespaces and every veth pair with both ends inside them at once.

    ``devices`` maps a namespace to its device. Nothing appears in the caller's namespace, not
    even for a moment.
    """
    lines = [f"netns add {name}" for name in (gateway, internet, *devices)]
    lines.append(
        f"link add {plan.WAN_INTERFACE} address {plan.GATEWAY_WAN_MAC} netns {gateway} type veth"
        f" peer name {plan.INTERNET_INTERFACE} address {plan.INTERNET_MAC} netns {internet}"
    )
    lines += [_device_cable(gateway, namespace, spec) for namespace, spec in devices.items()]
    return lines


def device_link(gateway: str, namespace: str, spec: DeviceSpec) -> list[str]:
    """Batch that makes the namespace and the veth pair of one device more."""
    return [f"netns add {namespace}", _device_cable(gateway, namespace, spec)]


def _device_cable(gateway: str, namespace: str, spec: DeviceSpec) -> str:
    return (
        f"link add {port_name(spec)} netns {gateway} type veth"
        f" peer name {plan.DEVICE_INTERFACE} address {spec.mac} netns {namespace}"
    )


def port_name(spec: DeviceSpec) -> str:
    """The bridge port in the gateway that ``spec`` is plugged into."""
    return f"lan-{spec.name}"


def gateway_links(devices: Iterable[DeviceSpec], *, ula: bool) -> list[str]:
    """Batch for the gateway: bridge, addresses, default routes. ``nodad``: they are ours alone."""
    lan6 = [plan.GATEWAY6, plan.GATEWAY_ULA6] if ula else [plan.GATEWAY6]
    return [
        "link set lo up",
        # No STP: a port forwards at once. No snooping: no querier has to be waited for.
        f"link add {plan.LAN_BRIDGE} address {plan.GATEWAY_LAN_MAC} type bridge stp_state 0 mcast_snooping 0",
        *(f"link set {port_name(spec)} master {plan.LAN_BRIDGE} up" for spec in devices),
        f"link set {plan.LAN_BRIDGE} up",
        f"link set {plan.WAN_INTERFACE} up",
        f"addr add {plan.GATEWAY4}/24 dev {plan.LAN_BRIDGE}",
        *(f"addr add {address}/64 dev {plan.LAN_BRIDGE} nodad" for address in lan6),
        f"addr add {plan.WAN4}/30 dev {plan.WAN_INTERFACE}",
        f"addr add {plan.WAN6}/64 dev {plan.WAN_INTERFACE} nodad",
        f"route add default via {plan.WAN4_PEER}",
        f"route add ::/0 via {plan.WAN6_PEER}",
    ]


def internet_links() -> list[str]:
    """Batch for the internet: every address of its two ranges is local, the home is behind its WAN."""
    return [
        "link set lo up",
        f"link set {plan.INTERNET_INTERFACE} up",
        f"addr add {plan.WAN4_PEER}/30 dev {plan.INTERNET_INTERFACE}",
        f"addr add {plan.WAN6_PEER}/64 dev {plan.INTERNET_INTERFACE} nodad",
        f"route add local {plan.INTERNET4} dev lo",
        f"route add local {plan.INTERNET6} dev lo",
        f"addr add {plan.DNS4}/32 dev lo",
        f"addr add {plan.DNS6}/128 dev lo nodad",
        f"route add {plan.LAN6} via {plan.WAN6}",
    ]


DEVICE_LINKS = ("link set lo up", f"link set {plan.DEVICE_INTERFACE} up")

GATEWAY_SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    f"net.ipv6.conf.{plan.LAN_BRIDGE}.accept_dad": "0",
    f"net.ipv6.conf.{plan.WAN_INTERFACE}.accept_dad": "0",
    f"net.ipv6.conf.{plan.WAN_INTERFACE}.accept_ra": "0",
    "net.netfilter.nf_conntrack_acct": "1",
    # As on a router: frames between LAN ports stay away from the IP hooks.
    "net.bridge.bridge-nf-call-iptables": "0",
    "net.bridge.bridge-nf-call-ip6tables": "0",
}
# These exist only where the module that owns them is loaded.
OPTIONAL_SYSCTLS = frozenset(key for key in GATEWAY_SYSCTLS if key.startswith("net.bridge."))

INTERNET_SYSCTLS = {
    f"net.ipv6.conf.{plan.INTERNET_INTERFACE}.accept_dad": "0",
    f"net.ipv6.conf.{plan.INTERNET_INTERFACE}.accept_ra": "0",
    "net.ipv4.ip_local_port_range": "1024 65535",
    # Scans must be answered as fast as they come: a real scan meets many hosts, not one.
    "net.ipv4.icmp_ratelimit": "0",
    "net.ipv4.tcp_invalid_ratelimit": "0",
    "net.core.somaxconn": "8192",
    "net.ipv4.tcp_max_syn_backlog": "8192",
}


def device_sysctls(spec: DeviceSpec) -> dict[str, str]:
    """Sysctls of a device. Duplicate address detection runs as in life, with a short wait."""
    interface = plan.DEVICE_INTERFACE
    return {
        "net.ipv4.conf.all.rp_filter": "0",
        f"net.ipv4.conf.{interface}.rp_filter": "0",
        f"net.ipv6.conf.{interface}.accept_ra": "1",
        f"net.ipv6.conf.{interface}.router_solicitation_delay": "0",
        f"net.ipv6.conf.{interface}.router_solicitation_interval": "1",
        f"net.ipv6.conf.{interface}.use_tempaddr": "2" if spec.privacy else "0",
        f"net.ipv6.neigh.{interface}.retrans_time_ms": "100",
        "net.ipv4.ip_local_port_range": "1024 65535",
    }


def firewall(*, offload: bool) -> str:
    """The gateway's own firewall and NAT, as a usual home router has them (nft syntax)."""
    flowtable = (
        f"flowtable fast {{ hook ingress priority 0; counter;"
        f" devices = {{ {plan.LAN_BRIDGE}, {plan.WAN_INTERFACE} }}; }}\n"
        if offload
        else ""
    )
    add_flow = "meta l4proto { tcp, udp } ct state established flow add @fast\n" if offload else ""
    return f"""\
table inet lab_fw {{
  {flowtable}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != {plan.WAN_INTERFACE} accept
    ct state established,related accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    {add_flow}
    ct state established,related accept
    iifname {plan.LAN_BRIDGE} oifname {plan.WAN_INTERFACE} accept
    iifname {plan.LAN_BRIDGE} oifname {plan.LAN_BRIDGE} accept
  }}
}}
table ip lab_nat {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname {plan.WAN_INTERFACE} masquerade
  }}
}}
"""


def internet_dns(sites: Sequence[Site], hosts_dir: Path) -> str:
    """Configuration of dnsmasq as the internet's name server: it knows every name there is, and asks nobody.

    It answers over UDP and TCP, marks its answers authoritative, follows aliases over zones as
    a provider's resolver does, sets TC where an answer is too long, says NXDOMAIN to the rest.
    ``hosts_dir`` is watched: a hosts file put there adds names while it runs.
    """
    lines = [
        *_common(),
        f"listen-address={plan.DNS4},{plan.DNS6}",
        "local=/#/",
        "local-ttl=2",
        "cache-size=0",
        "dns-forward-max=5000",
        f"hostsdir={hosts_dir}",
    ]
    for site in sites:
        if site.cname:
            lines.append(f"cname={site.name},{site.cname},{site.ttl}")
        elif site.wildcard:
            lines += [f"address=/{site.name}/{address}" for address in site.addresses]
        else:
            lines += [f"host-record={site.name},{address},{site.ttl}" for address in site.addresses]
    return "\n".join(lines) + "\n"


def gateway_dnsmasq(lease_file: Path, *, ula: bool, lease_seconds: int) -> str:
    """Configuration of dnsmasq as the home's DHCP and DHCPv6 server, router advertiser and DNS forwarder."""
    first4, last4 = plan.DHCP4_RANGE
    first6, last6 = plan.DHCP6_RANGE
    lines = [
        *_common(),
        f"interface={plan.LAN_BRIDGE}",
        "no-ping",  # a lease at once: nobody else can have the address
        "dhcp-authoritative",
        f"dhcp-leasefile={lease_file}",
        f"dhcp-range={first4},{last4},{lease_seconds}",
        # Prefixes are taken from the bridge's own addresses: SLAAC, and DHCPv6 for who asks.
        f"dhcp-range={first6},{last6},constructor:{plan.LAN_BRIDGE},slaac,64,{lease_seconds}",
        "enable-ra",
        f"ra-param={plan.LAN_BRIDGE},60,1800",
        f"dhcp-option=option6:dns-server,[{plan.GATEWAY_ULA6 if ula else plan.GATEWAY6}]",
        "domain=lan",
        "local=/lan/",
        "expand-hosts",
        f"server={plan.DNS4}",
        "dns-forward-max=5000",
        "cache-size=2000",
    ]
    return "\n".join(lines) + "\n"


def _common() -> list[str]:
    return [
        "keep-in-foreground",
        "no-hosts",
        "no-resolv",
        "no-poll",
        "bind-interfaces",
        "log-facility=-",
        "user=root",  # the runtime directory is root's
        "pid-file=",
    ]
