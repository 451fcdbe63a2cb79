# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole home on one machine: gateway, devices and an internet, in network namespaces.

::

    camera ─┐
    plug   ─┤
    tv     ─┼─ br-lan [ gateway: dnsmasq, NAT, firewall, conntrack ] wan ─── isp [ internet: names, servers ]
    phone  ─┤   192.168.8.1          203.0.113.2 / 2001:db8:1::2               198.18.0.0/15
    hub    ─┘   2001:db8:8::1/64                                               2001:db8:2::/48

``Lab`` owns the order in which this is built and taken down, and the way to its parts. It needs
root, and leaves everything outside its own namespaces and its runtime directory as it is (but for
``/etc/netns/<namespace>``, where ip-netns(8) looks for a namespace's resolv.conf, while it is up).
A lab whose owner was killed is removed by the next lab that starts, or by ``spind lab down --stale``.
"""

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import socket
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self

from spind.lab import certs, counters, netns, plan, render, runtime
from spind.lab.behaviours import seeded
from spind.lab.errors import LabError
from spind.lab.node import Device, Node, wait_until
from spind.lab.plan import DEFAULT_DEVICES, SITES, DeviceSpec
from spind.lab.resolver import Resolver

# What the lab runs, and the Debian package that has it.
PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "openssl": "openssl",
    "busybox": "busybox",
}
READY_SECONDS = 20.0


class Lab:
    """A home. ``with Lab() as lab:`` builds it, and takes it down at the end of the block.

    ``name`` must be unique on the machine (one is made where it is ``None``); ``seed`` decides
    what the devices do; ``devices`` are specs, or a number of devices; ``ula`` gives the home
    its own IPv6 prefix (RFC 4193) beside the public one; ``counters`` installs the kernel's
    counting rules; ``offload`` forwards established connections through an nft flow table, where
    the kernel has them (then the counting rules do not see those packets).
    """

    def __init__(
        self,
        name: str | None = None,
        seed: int = 1,
        devices: Sequence[DeviceSpec] | int = DEFAULT_DEVICES,
        *,
        ula: bool = True,
        counters: bool = True,
        offload: bool = False,
        lease_seconds: int = 3600,
    ) -> None:
        self.name = plan.check_name(name or f"spl{secrets.token_hex(3)[:5]}")
        self.seed = seed
        self.specs = plan.make_devices(devices) if isinstance(devices, int) else tuple(devices)
        plan.check_devices(self.specs)
        self.ula = ula
        self.counting = counters
        self.offload = offload
        self.lease_seconds = lease_seconds
        self.root = runtime.directory(self.name)
        self.gateway = Node("gw", f"{self.name}-gw", self.root)
        self.internet = Node("net", f"{self.name}-net", self.root)
        self.devices = {
            spec.name: Device(spec, f"{self.name}-{spec.name}", self.root) for spec in self.specs
        }
        self.lease_file = self.root / "data" / "dhcp.leases"
        self.hosts_dir = self.root / "data" / "names"
        self.ca_file = self.root / "certs" / "ca.pem"
        self.control_socket = self.root / "data" / "internet.sock"

    def __repr__(self) -> str:
        return f"<Lab {self.name}>"

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @classmethod
    def attach(cls, name: str) -> "Lab":
        """The running lab ``name``, whoever built it. It is not taken down when this object goes."""
        state = runtime.read_state(name)
        return cls(
            name,
            int(state["seed"]),
            [DeviceSpec(**spec) for spec in state["devices"]],
            ula=state["ula"],
            counters=state["counters"],
            offload=state["offload"],
            lease_seconds=state["lease_seconds"],
        )

    def device(self, name: str) -> Device:
        """The device ``name``; ``LabError`` where there is none."""
        try:
            return self.devices[name]
        except KeyError:
            raise LabError(f"no device {name!r}; there are: {', '.join(self.devices)}") from None

    def node(self, name: str) -> Node:
        """The gateway (``gw``), the internet (``net``) or a device, by name."""
        return {"gw": self.gateway, "net": self.internet}.get(name) or self.device(name)

    @property
    def nodes(self) -> list[Node]:
        """Every machine of the lab."""
        return [self.gateway, self.internet, *self.devices.values()]

    # -- up and down ---------------------------------------------------------------------------

    def up(self) -> None:
        """Build it, and wait until every device has its addresses and the internet answers.

        ``LabError`` where that fails; what was built is taken down again then.
        """
        require_root()
        missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
        if missing:
            raise LabError(f"the lab needs: apt-get install {' '.join(missing)}")
        runtime.reap()
        runtime.create(self.name, self._state(owner=True))
        try:
            self._build()
        except BaseException:
            self._keep_logs()
            self.down()
            raise

    def down(self) -> None:
        """End every program in the lab and remove all of it. Does nothing where it is gone already."""
        if self.name in runtime.names():
            runtime.destroy(self.name)
        for node in self.nodes:
            node.collect()

    def hand_over(self) -> None:
        """Let the lab live on without this process, until somebody takes it down."""
        for node in self.nodes:
            node.release()
        runtime.write_state(self.root, self._state(owner=False))

    def _state(self, *, owner: bool) -> dict[str, Any]:
        return {
            "name": self.name,
            "seed": self.seed,
            "boot": runtime.boot_id(),
            "owner": runtime.me() if owner else None,
            "namespaces": [node.namespace for node in self.nodes],
            "devices": [vars(spec) for spec in self.specs],
            "ula": self.ula,
            "counters": self.counting,
            "offload": self.offload,
            "lease_seconds": self.lease_seconds,
        }

    def _build(self) -> None:
        by_namespace = {device.namespace: device.spec for device in self.devices.values()}
        netns.ip_batch(render.links(self.gateway.namespace, self.internet.namespace, by_namespace))
        self._configure_links()
        self._write_files()
        self.internet.start("dnsmasq", ["dnsmasq", "-C", self.root / "conf" / "internet-dns.conf"])
        self.gateway.start("dnsmasq", ["dnsmasq", "-C", self.root / "conf" / "gateway-dnsmasq.conf"])
        rules = render.firewall(offload=self.offload)
        if self.counting:
            rules += counters.ruleset(self.specs)
        self.gateway.run(["nft", "-f", "-"], input=rules)
        certs.make(self.root / "certs", certificate_names())
        self.internet.start("servers", self.internet.python("spind.lab.internet", self.root))
        for device in self.devices.values():
            self._start_dhcp(device)
        self._wait_ready()

    def _configure_links(self) -> None:
        # The bridge has to exist before its sysctls do.
        netns.ip_batch(render.gateway_links(self.specs, ula=self.ula)[:2], self.gateway.namespace)
        netns.write_sysctls(self.gateway.namespace, render.GATEWAY_SYSCTLS, render.OPTIONAL_SYSCTLS)
        netns.write_sysctls(self.internet.namespace, render.INTERNET_SYSCTLS)
        batches = [
            netns.start_batch(render.gateway_links(self.specs, ula=self.ula)[2:], self.gateway.namespace),
            netns.start_batch(render.internet_links(), self.internet.namespace),
        ]
        for device in self.devices.values():
            netns.write_sysctls(device.namespace, render.device_sysctls(device.spec))
            batches.append(netns.start_batch(render.DEVICE_LINKS, device.namespace))
        for batch in batches:
            netns.finish_batch(batch)

    def _write_files(self) -> None:
        conf = self.root / "conf"
        self.hosts_dir.mkdir()
        (conf / "internet-dns.conf").write_text(render.internet_dns(SITES, self.hosts_dir))
        text = render.gateway_dnsmasq(self.lease_file, ula=self.ula, lease_seconds=self.lease_seconds)
        (conf / "gateway-dnsmasq.conf").write_text(text)
        for node in self.nodes:
            server = plan.DNS4 if node in (self.gateway, self.internet) else plan.GATEWAY4
            etc = self.root / "etc" / node.name
            etc.mkdir()
            (etc / "resolv.conf").write_text(f"nameserver {server}\n")
            runtime.link_etc(node.namespace, etc)

    def _start_dhcp(self, device: Device) -> None:
        # The client is told to configure nothing: its script would have to be an executable file,
        # and /run is often mounted noexec. Its own words say which address it got.
        device.start(
            "udhcpc",
            [
                *("busybox", "udhcpc", "-f", "-i", plan.DEVICE_INTERFACE, "-s", "/bin/true"),
                *("-x", f"hostname:{device.name}", "-t", "20", "-T", "1", "-A", "1"),
            ],
        )

    def _wait_ready(self) -> None:
        for device in self.devices.values():
            what = f"{device.name}'s DHCP lease"
            address = wait_until(partial(leased_address, device), READY_SECONDS, what)
            netns.ip_batch(
                [
                    f"addr replace {address}/24 dev {plan.DEVICE_INTERFACE}",
                    f"route replace default via {plan.GATEWAY4}",
                ],
                device.namespace,
            )
        for device in self.devices.values():
            wait_until(partial(self._has_ipv6, device), READY_SECONDS, f"{device.name}'s IPv6 addresses")
        wait_until(self._servers_ready, READY_SECONDS, "the internet's servers")

    def _has_ipv6(self, device: Device) -> bool:
        """Whether SLAAC is done: for each prefix one address, and a temporary one if it has those."""
        return len(device.addresses(6)) >= (2 if self.ula else 1) * (2 if device.spec.privacy else 1)

    def _servers_ready(self) -> bool:
        self.internet.check("servers")
        self.internet.check("dnsmasq")
        self.gateway.check("dnsmasq")
        return self.control_socket.exists()

    def _keep_logs(self) -> None:
        """Show what the daemons said before the directory goes: the reason is in there."""
        for log in sorted((self.root / "log").glob("*.log")):
            words = log.read_text(errors="replace").strip().splitlines()[-5:]
            for word in words:
                os.write(2, f"{log.name}: {word}\n".encode())

    # -- the internet's side ---------------------------------------------------------------------

    def server_status(self, *, reset: bool = False) -> dict[str, Any]:
        """What the internet's servers received and sent, per peer and service (``tally.Tally.as_json``)."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            link.connect(str(self.control_socket))
            link.sendall(b"reset\n" if reset else b"status\n")
            with link.makefile("rb") as answer:
                status: dict[str, Any] = json.loads(answer.readline())
        return status

    def set_name(self, name: str, addresses: Sequence[str]) -> None:
        """Give ``name`` (one that the lab does not have itself) these addresses in the internet's DNS.

        They replace those of an earlier call; none take the name away. Answers have a TTL of
        2 s. Comes back once the name server answers so.
        """
        if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", name) or plan.resolve_site(name):
            raise LabError(f"not a name that can be given: {name!r}")
        file = self.hosts_dir / name
        file.write_text("".join(f"{ip_address(address)} {name}\n" for address in addresses))
        # The watch only adds (dnsmasq(8), --hostsdir); the signal makes it read everything anew.
        pid = self.internet.pid("dnsmasq")
        if pid is None:
            raise LabError("the internet's name server does not run")
        os.kill(pid, signal.SIGHUP)
        wanted = {str(ip_address(address)) for address in addresses}
        wait_until(lambda: self._asked(name) == wanted, 5, f"the name server to know {name}")

    def _asked(self, name: str) -> set[str]:
        """What the internet's name server says of ``name`` now."""

        async def ask() -> set[str]:
            resolver = Resolver(plan.DNS4, seeded(name))
            answers = [await resolver.lookup(name, family) for family in (4, 6)]
            return {address for answer in answers for address in answer.addresses}

        return self.internet.call(lambda: asyncio.run(ask()))

    # -- what the kernel counted ------------------------------------------------------------------

    def kernel_counters(self, scope: str = "forward") -> dict[str, dict[int, counters.Counts]]:
        """``{device: {4: (bytes up, bytes down, packets up, packets down), 6: ...}}`` so far.

        ``scope`` is ``forward`` for what passed through the gateway, ``gateway`` for what
        devices and the gateway itself exchanged.
        """
        if scope not in counters.SCOPES:
            raise LabError(f"not a scope of counters: {scope!r}; there are: {', '.join(counters.SCOPES)}")
        argv = ["nft", "-j", "list", "counters", "table", "inet", counters.TABLE]
        return counters.read(json.loads(self.gateway.run(argv).stdout), self.specs, scope)


def leased_address(device: Device) -> str:
    """The address in the DHCP client's log, empty where there is none yet."""
    device.check("udhcpc")
    for line in device.log_file("udhcpc").read_text().splitlines():
        _, found, rest = line.partition("ease of ")
        if found:
            return rest.split()[0].rstrip(",")
    return ""


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


def require_root() -> None:
    """``LabError`` where we may not make namespaces."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and needs root: use sudo")


