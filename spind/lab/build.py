# SPDX-License-Identifier: GPL-2.0-or-later
"""Building a lab, step by step, until every device has its addresses and every server answers.

Owns the order of the steps. What is configured is in ``render``, how a namespace is entered in
``netns``, and taking it all down again in ``runtime``.
"""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spind.lab import certs, counters, dhcp6, netns, plan, render, runtime
from spind.lab.errors import LabError
from spind.lab.node import Device, Node, wait_until
from spind.lab.plan import DEVICE_INTERFACE, SITES

if TYPE_CHECKING:
    from spind.lab.lab import Lab

# What the lab runs, and the Debian package that has it.
PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "openssl": "openssl",
    "busybox": "busybox",
}
READY_SECONDS = 20.0


def check_programs() -> None:
    """``LabError`` with what to install where a program is missing."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        raise LabError(f"the lab needs: apt-get install {' '.join(missing)}")


def build(lab: "Lab") -> None:
    """Make namespaces, links, rules and programs of ``lab``, whose runtime directory exists already."""
    by_namespace = {device.namespace: device.spec for device in lab.devices.values()}
    netns.ip_batch(render.links(lab.gateway.namespace, lab.internet.namespace, by_namespace))
    _configure_links(lab)
    _write_files(lab)
    lab.internet.start("dnsmasq", ["dnsmasq", "-C", lab.root / "conf" / "internet-dns.conf"])
    lab.gateway.start("dnsmasq", ["dnsmasq", "-C", lab.root / "conf" / "gateway-dnsmasq.conf"])
    certs.make(lab.root / "certs", certificate_names())
    lab.internet.start("servers", lab.internet.python("spind.lab.internet", lab.root))
    for device in lab.devices.values():
        _start_dhcp(device)
    for device in lab.devices.values():
        _finish_dhcp(device)
    for device in lab.devices.values():
        _wait_ipv6(device, ula=lab.ula)
    wait_until(partial(_servers_ready, lab), READY_SECONDS, "the internet's servers")


def add_device(lab: "Lab", device: Device) -> None:
    """Plug one more device into a lab that is up, and wait until it has its addresses."""
    gateway = lab.gateway.namespace
    netns.ip_batch(render.device_link(gateway, device.namespace, device.spec))
    _write_resolv_conf(lab, device)
    netns.write_sysctls(device.namespace, render.device_sysctls(device.spec))
    netns.ip_batch([f"link set {render.port_name(device.spec)} master {plan.LAN_BRIDGE} up"], gateway)
    netns.ip_batch(render.DEVICE_LINKS, device.namespace)
    _start_dhcp(device)
    _finish_dhcp(device)
    _wait_ipv6(device, ula=lab.ula)


def _configure_links(lab: "Lab") -> None:
    lines = render.gateway_links(lab.specs, ula=lab.ula)
    rules = render.firewall(offload=lab.offload)
    if lab.counting:
        rules += counters.ruleset(lab.specs)
    # The bridge has to exist before its sysctls do, and those of conntrack come with its module,
    # which the rules load. Nothing passes before everything counts.
    netns.ip_batch(lines[:2], lab.gateway.namespace)
    lab.gateway.run(["nft", "-f", "-"], input=rules)
    netns.write_sysctls(lab.gateway.namespace, render.GATEWAY_SYSCTLS, render.OPTIONAL_SYSCTLS)
    netns.write_sysctls(lab.internet.namespace, render.INTERNET_SYSCTLS)
    batches = [
        netns.start_batch(lines[2:], lab.gateway.namespace),
        netns.start_batch(render.internet_links(), lab.internet.namespace),
    ]
    for device in lab.devices.values():
        netns.write_sysctls(device.namespace, render.device_sysctls(device.spec))
        if lab.counting and lab.offload:
            device.run(["nft", "-f", "-"], input=counters.device_ruleset())
        batches.append(netns.start_batch(render.DEVICE_LINKS, device.namespace))
    for batch in batches:
        netns.finish_batch(batch)


def _write_files(lab: "Lab") -> None:
    conf = lab.root / "conf"
    lab.hosts_dir.mkdir()
    (conf / "internet-dns.conf").write_text(render.internet_dns(SITES, lab.hosts_dir))
    text = render.gateway_dnsmasq(lab.lease_file, ula=lab.ula, lease_seconds=lab.lease_seconds)
    (conf / "gateway-dnsmasq.conf").write_text(text)
    for node in lab.nodes:
        _write_resolv_conf(lab, node)


def _write_resolv_conf(lab: "Lab", node: Node) -> None:
    server = plan.DNS4 if node in (lab.gateway, lab.internet) else plan.GATEWAY4
    etc = lab.root / "etc" / node.name
    etc.mkdir()
    (etc / "resolv.conf").write_text(f"nameserver {server}\n")
    runtime.link_etc(node.namespace, etc)


def _start_dhcp(device: Device) -> None:
    # The client is told to configure nothing: its script would have to be an executable file,
    # and /run is often mounted noexec. Its own words say which address it got.
    device.start(
        "udhcpc",
        [
            *("busybox", "udhcpc", "-f", "-i", DEVICE_INTERFACE, "-s", "/bin/true"),
            *("-x", f"hostname:{device.name}", "-t", "20", "-T", "1", "-A", "1"),
        ],
    )


def _finish_dhcp(device: Device) -> None:
    what = f"{device.name}'s DHCP lease"
    address = wait_until(partial(leased_address, device), READY_SECONDS, what)
    lines = [
        f"addr replace {address}/24 dev {DEVICE_INTERFACE}",
        f"route replace default via {plan.GATEWAY4}",
    ]
    netns.ip_batch(lines, device.namespace)


def leased_address(device: Device) -> str:
    """The address in the DHCP client's log, empty where there is none yet."""
    device.check("udhcpc")
    for line in device.log_file("udhcpc").read_text().splitlines():
        _, found, rest = line.partition("ease of ")
        if found:
            return rest.split()[0].rstrip(",")
    return ""


def _wait_ipv6(device: Device, *, ula: bool) -> None:
    wanted = (2 if ula else 1) * (2 if device.spec.privacy else 1)
    what = f"{device.name}'s IPv6 addresses"
    wait_until(lambda: len(device.addresses(6)) >= wanted, READY_SECONDS, what)
    if device.spec.dhcp6:
        leases = device.call(partial(dhcp6.acquire, DEVICE_INTERFACE, device.mac, device.name))
        lines = [f"addr replace {address}/128 dev {DEVICE_INTERFACE} nodad" for address in leases]
        netns.ip_batch(lines, device.namespace)


def _servers_ready(lab: "Lab") -> bool:
    lab.internet.check("servers")
    lab.internet.check("dnsmasq")
    lab.gateway.check("dnsmasq")
    return lab.control_socket.exists()


def show_logs(root: Path) -> None:
    """Say on standard error what the daemons said last: the reason of a failure is in there."""
    for log in sorted((root / "log").glob("*.log")):
        for words in log.read_text(errors="replace").strip().splitlines()[-5:]:
            os.write(2, f"{log.name}: {words}\n".encode())


def certificate_names() -> dict[str, list[str]]:
    """Certificates of the internet: one for each registrable domain, with all its names."""
    groups: dict[str, list[str]] = {}
    for site in SITES:
        labels = 3 if site.name.endswith(".co.uk") else 2
        domain = ".".join(site.name.split(".")[-labels:])
        names = groups.setdefault(domain, [domain])
        if site.name not in names:
            names.append(site.name)
        if site.wildcard:
            names.append(f"*.{site.name}")
    return groups
