# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab consists of: addresses, devices and the names of its internet. Pure, no I/O.

Every number that a test may want to compare with stands here once. The address ranges are those
that RFC 2544 (198.18.0.0/15), RFC 5737 (203.0.113.0/24) and RFC 3849 (2001:db8::/32) set aside,
so that nothing here can be mistaken for a party on the real internet.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

from spind.lab.errors import LabError

LAN_BRIDGE = "br-lan"
WAN_INTERFACE = "wan"
DEVICE_INTERFACE = "eth0"
INTERNET_INTERFACE = "isp"

LAN4 = "192.168.8.0/24"
GATEWAY4 = "192.168.8.1"
DHCP4_RANGE = ("192.168.8.50", "192.168.8.250")
LAN6 = "2001:db8:8::/64"
GATEWAY6 = "2001:db8:8::1"
DHCP6_RANGE = ("::1000", "::1fff")
ULA6 = "fd53:5049:4e08::/64"
GATEWAY_ULA6 = "fd53:5049:4e08::1"
GATEWAY_LAN_MAC = "02:00:00:00:08:01"
GATEWAY_WAN_MAC = "02:00:00:00:08:02"
INTERNET_MAC = "02:00:00:00:08:03"

WAN4, WAN4_PEER = "203.0.113.2", "203.0.113.1"
WAN6, WAN6_PEER = "2001:db8:1::2", "2001:db8:1::1"

# The whole of these is local to the internet namespace: any address in them answers.
INTERNET4 = "198.18.0.0/15"
INTERNET6 = "2001:db8:2::/48"
DNS4, DNS6 = "198.18.0.53", "2001:db8:2:1::53"

MAX_DEVICES = 200  # what the DHCP range can serve
_NAME = re.compile(r"[a-z][a-z0-9]{0,10}(-[a-z0-9]{1,8})?\Z")
_DEVICE_NAME = re.compile(r"[a-z][a-z0-9]{0,8}\Z")


@dataclass(frozen=True)
class DeviceSpec:
    """A device of the home.

    ``kind`` names its behaviour (see ``behaviours``). ``privacy`` gives it temporary IPv6
    addresses (RFC 8981) beside the stable one that is made of its MAC; ``dhcp6`` lets it ask for
    leased ones as well (RFC 8415).
    """

    name: str
    kind: str
    mac: str
    privacy: bool = False
    dhcp6: bool = False


@dataclass(frozen=True)
class Site:
    """A name of the lab's internet: an alias (``cname``), or addresses (text)."""

    name: str
    addresses: tuple[str, ...] = ()
    cname: str = ""
    ttl: int = 30
    wildcard: bool = False


def device_mac(index: int) -> str:
    """MAC of the device at ``index``: the first is 02:00:00:00:08:10."""
    return f"02:00:00:00:08:{0x10 + index:02x}"


DEFAULT_DEVICES = (
    DeviceSpec("camera", "camera", device_mac(0)),
    DeviceSpec("plug", "plug", device_mac(1)),
    DeviceSpec("tv", "tv", device_mac(2), dhcp6=True),
    DeviceSpec("phone", "phone", device_mac(3), privacy=True),
    DeviceSpec("hub", "hub", device_mac(4)),
)


def make_devices(count: int) -> tuple[DeviceSpec, ...]:
    """``count`` devices: the five of ``DEFAULT_DEVICES`` first, then more of the same kinds."""
    kinds = [spec.kind for spec in DEFAULT_DEVICES]
    more = (
        DeviceSpec(f"{kinds[index % len(kinds)][:6]}{index}", kinds[index % len(kinds)], device_mac(index))
        for index in range(len(DEFAULT_DEVICES), count)
    )
    return (*DEFAULT_DEVICES[:count], *more)


def check_devices(devices: Sequence[DeviceSpec]) -> None:
    """Raise ``LabError`` where names or MACs repeat, or a name does not fit an interface's name."""
    if not 1 <= len(devices) <= MAX_DEVICES:
        raise LabError(f"a lab has 1 to {MAX_DEVICES} devices, not {len(devices)}")
    for spec in devices:
        if not _DEVICE_NAME.match(spec.name) or spec.name in {"gw", "net"}:
            raise LabError(f"not a device name (up to 9 lower-case letters and digits): {spec.name!r}")
    for what, values in (("names", {d.name for d in devices}), ("MACs", {d.mac for d in devices})):
        if len(values) != len(devices):
            raise LabError(f"two devices have the same {what}")


def check_name(name: str) -> str:
    """The lab's name, or ``LabError`` where it can't be part of a namespace's name."""
    if not _NAME.match(name):
        raise LabError(f"not a lab name (a lower-case letter, then letters and digits, one dash): {name!r}")
    return name


def stable_address(prefix: str, mac: str) -> str:
    """The SLAAC address of ``mac`` in ``prefix`` (a /64 in text): modified EUI-64, RFC 4291 appendix A."""
    raw = bytes.fromhex(mac.replace(":", ""))
    suffix = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return str(IPv6Address(IPv6Address(prefix.partition("/")[0]).packed[:8] + suffix))


def server4(number: int) -> str:
    """IPv4 address of the internet's server ``number``."""
    return f"198.18.0.{number}"


def server6(number: int) -> str:
    """IPv6 address of the internet's server ``number``: the same digits as in the IPv4 address."""
    return f"2001:db8:2:1::{number}"


def _both(number: int) -> tuple[str, str]:
    return server4(number), server6(number)


CDN = _both(20)  # the address that several names share
SITES = (
    Site("cam.vendor.test", _both(10), ttl=60),
    Site("api.plug.test", _both(11)),
    Site("stream.tv.test", _both(12)),
    Site("img.tv.test", cname="a.cdn.test"),
    Site("a.cdn.test", CDN, ttl=5),
    Site("b.cdn.test", CDN, ttl=5),
    Site("edge.cdn.test", CDN, ttl=10),
    Site("shop.cdn.test", cname="edge.cdn.test"),
    Site("www.shop.test", cname="shop.cdn.test"),
    Site("ads.tracker.test", CDN),
    Site("www.news.test", (*_both(21), *_both(22))),
    Site("static.news.test", cname="b.cdn.test"),
    Site("www.example.co.uk", _both(23)),
    Site("shop.example.co.uk", _both(23)),
    Site("www.v4only.test", (server4(24),)),
    Site("www.v6only.test", (server6(25),)),
    Site("plain.http.test", _both(26)),
    Site("short.ttl.test", _both(27), ttl=1),
    Site("time.ntp.test", _both(28)),
    Site("wild.test", _both(29), wildcard=True),
    Site("cloud.hub.test", _both(30)),
    # More addresses than a UDP answer holds: the resolver has to ask again over TCP.
    Site("big.dns.test", tuple(f"198.18.1.{number}" for number in range(1, 121))),
    # A public name for an address of the home (DNS rebinding).
    Site("rebind.test", (GATEWAY4,)),
)


def resolve_site(name: str, sites: Iterable[Site] = SITES) -> tuple[str, ...]:
    """Addresses of ``name`` after its aliases; empty where the lab has no such name."""
    table = {site.name: site for site in sites}
    for _ in range(8):
        site = table.get(name)
        if site is None:
            wild = [s for s in table.values() if s.wildcard and name.endswith("." + s.name)]
            return wild[0].addresses if wild else ()
        if not site.cname:
            return site.addresses
        name = site.cname
    return ()
