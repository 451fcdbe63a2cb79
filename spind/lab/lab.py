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
import signal
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self

from spind.lab import build, counters, netns, plan, runtime
from spind.lab.behaviours import seeded
from spind.lab.errors import LabError
from spind.lab.node import Device, Node, wait_until
from spind.lab.patience import patient
from spind.lab.plan import DEFAULT_DEVICES, DeviceSpec
from spind.lab.resolver import Resolver


class Lab:
    """A home. ``with Lab() as lab:`` builds it, and takes it down at the end of the block.

    ``name`` must be unique on the machine (one is made where it is ``None``); ``seed`` decides
    what the devices do; ``devices`` are specs, or a number of devices; ``ula`` gives the home
    its own IPv6 prefix (RFC 4193) beside the public one; ``counters`` installs the kernel's
    counting rules; ``offload`` forwards established connections through an nft flow table, where
    the kernel has them (then devices count, not the gateway: see ``counters``).
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
        self.devices = {spec.name: Device(spec, f"{self.name}-{spec.name}", self.root) for spec in self.specs}
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
        build.check_programs()
        runtime.reap()
        runtime.create(self.name, self._state(owner=True))
        try:
            build.build(self)
        except BaseException:
            build.show_logs(self.root)
            self.down()
            raise

    def down(self) -> None:
        """End every program in the lab and remove all of it. Does nothing where it is gone already."""
        if self.name in runtime.names():
            runtime.destroy(self.name)
        for node in self.nodes:
            node.collect()

    def add_device(self, spec: DeviceSpec) -> Device:
        """Plug in one more device while the lab is up; it comes back with its addresses.

        The kernel's counters (``kernel_counters``) do not know it.
        """
        plan.check_devices((*self.specs, spec))
        device = Device(spec, f"{self.name}-{spec.name}", self.root)
        self.specs = (*self.specs, spec)
        self.devices[spec.name] = device
        runtime.write_state(self.root, self._state(owner=True))
        build.add_device(self, device)
        return device

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

    # -- the internet's side ---------------------------------------------------------------------

    def server_status(self, *, reset: bool = False) -> dict[str, Any]:
        """What the internet's servers received and sent, per peer and service (``tally.Tally.as_json``)."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(patient(10))
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

    def set_conntrack_timeouts(self, **seconds: int) -> None:
        """Set the gateway's ``net.netfilter.nf_conntrack_<name>`` for each name, in seconds.

        Short ones keep its table small between runs of load, long ones keep what a test reads.
        """
        values = {f"net.netfilter.nf_conntrack_{name}": str(value) for name, value in seconds.items()}
        netns.write_sysctls(self.gateway.namespace, values)

    # -- what the kernel counted ------------------------------------------------------------------

    def kernel_counters(self, scope: str = "forward") -> dict[str, dict[int, counters.Counts]]:
        """``{device: {4: (bytes up, bytes down, packets up, packets down), 6: ...}}`` so far.

        ``scope`` is ``forward`` for what passed through the gateway, ``gateway`` for what
        devices and the gateway itself exchanged.
        """
        if scope not in counters.SCOPES:
            raise LabError(f"not a scope of counters: {scope!r}; there are: {', '.join(counters.SCOPES)}")
        argv = ["nft", "-j", "list", "counters", "table", "inet", counters.TABLE]
        if self.offload and scope == "forward":
            return {
                device.name: counters.read_device(json.loads(device.run(argv).stdout))
                for device in self.devices.values()
            }
        return counters.read(json.loads(self.gateway.run(argv).stdout), self.specs, scope)


def require_root() -> None:
    """``LabError`` where we may not make namespaces."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and needs root: use sudo")
