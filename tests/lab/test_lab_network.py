# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's network is a home's: addresses, names, certificates, NAT, firewall, the kernel's counts."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from spind.lab import Lab, LabError, counters, load, plan

pytestmark = pytest.mark.lab


@pytest.mark.vm
def test_devices_have_leases_with_their_names(lab: Lab) -> None:
    leases = {}
    for line in lab.lease_file.read_text().splitlines():
        words = line.split()
        if len(words) == 5 and "." in words[2]:
            leases[words[1]] = (words[2], words[3])
    for device in lab.devices.values():
        assert leases[device.mac] == (device.ipv4, device.name)
        assert ip_address(device.ipv4) in ip_network(plan.LAN4)


def test_devices_have_stable_and_temporary_addresses(lab: Lab) -> None:
    for device in lab.devices.values():
        expected = {plan.stable_address(prefix, device.mac) for prefix in (plan.LAN6, plan.ULA6)}
        assert expected <= set(device.ipv6)
        assert len(device.ipv6) == (4 if device.spec.privacy or device.spec.dhcp6 else 2)


def test_a_device_has_leased_ipv6_addresses(lab: Lab) -> None:
    tv = lab.device("tv")
    stable = {plan.stable_address(prefix, tv.mac) for prefix in (plan.LAN6, plan.ULA6)}
    leased = set(tv.ipv6) - stable
    assert {ip_network((address, 64), strict=False) for address in leased} == {
        ip_network(plan.LAN6),
        ip_network(plan.ULA6),
    }
    lines = [line.split() for line in lab.lease_file.read_text().splitlines()]
    leases = {words[2]: words[3] for words in lines if len(words) == 5 and ":" in words[2]}
    assert leases == dict.fromkeys(leased, "tv")
    tv.run(["ping", "-c", "1", "-W", "2", "-I", leased.pop(), plan.GATEWAY6])


@pytest.mark.parametrize("target", [plan.server4(10), plan.server6(10), plan.GATEWAY4, plan.GATEWAY6])
def test_every_device_reaches_internet_and_gateway(lab: Lab, target: str) -> None:
    for device in lab.devices.values():
        device.run(["ping", "-c", "1", "-W", "2", target])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", ["cam.vendor.test", "www.shop.test", "shop.example.co.uk", "any.wild.test"])
def test_tls_verifies_with_the_labs_authority(lab: Lab, name: str, family: int) -> None:
    phone = lab.device("phone")
    answer = json.loads(phone.run(["curl", "-sS", f"-{family}", f"https://{name}/"]).stdout)
    assert answer["sni"] == answer["host"] == name
    assert answer["local"] in plan.resolve_site(name)
    # IPv4 is translated, IPv6 is not.
    assert answer["remote"] == plan.WAN4 if family == 4 else answer["remote"] in phone.ipv6


def test_a_certificate_of_another_name_is_refused(lab: Lab) -> None:
    argv = ["curl", "-sS", "--resolve", f"cam.evil.test:443:{plan.server4(10)}", "https://cam.evil.test/"]
    with pytest.raises(LabError, match="certificate"):
        lab.device("tv").run(argv)


def test_nobody_comes_in_from_the_internet(lab: Lab) -> None:
    camera = lab.device("camera")
    address = plan.stable_address(plan.LAN6, camera.mac)
    camera.run(["ping", "-c", "1", "-W", "2", plan.server6(10)])
    assert lab.internet.run(["ping", "-c", "1", "-W", "1", address], check=False).returncode != 0
    lab.internet.run(["ping", "-c", "1", "-W", "1", plan.WAN6])


def accounted(lab: Lab, family: int, port: int) -> tuple[int, ...]:
    """What conntrack accounts for on the last TCP connection to ``port``: as the counters have it."""
    argv = ["conntrack", "-L", "-f", f"ipv{family}", "-p", "tcp", "--dport", str(port)]
    (line,) = lab.gateway.run(argv).stdout.splitlines()
    return tuple(int(value) for key in ("bytes", "packets") for value in re.findall(rf"{key}=(\d+)", line))


def counted(lab: Lab, family: int, before: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    after = lab.kernel_counters()["tv"][family]
    return tuple(new - old for new, old in zip(after, before[family], strict=True))


@pytest.mark.vm
@pytest.mark.parametrize("family", [4, 6])
def test_kernel_counters_equal_conntrack_accounting(lab: Lab, family: int) -> None:
    before = lab.kernel_counters()["tv"]
    url = f"http://stream.tv.test:8080/bytes/{3_000_000 + family}"
    lab.device("tv").run(["curl", "-sS", f"-{family}", "-o", "/dev/null", url])
    expected = accounted(lab, family, 8080)
    assert counted(lab, family, before) == expected
    assert expected[1] > 3_000_000


def has_flow_tables() -> bool:
    """Whether this kernel has what ``Lab(offload=True)`` needs, tried in a namespace of its own."""
    rules = "table inet try {\n flowtable try { hook ingress priority 0; devices = { lo }; }\n}\n"
    argv = ["unshare", "--net", "nft", "-f", "-"]
    return subprocess.run(argv, input=rules.encode(), capture_output=True, check=False).returncode == 0


@pytest.mark.vm
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("upload", [False, True])
def test_offloaded_connections_are_counted_too(offloading: Lab, family: int, upload: bool) -> None:
    before = offloading.kernel_counters()["tv"]
    forwarded = forward_hook_packets(offloading)
    result = load.bulk(offloading, "tv", 10_000_000, family=family, upload=upload)
    lines = offloading.gateway.run(["conntrack", "-L", "-f", f"ipv{family}", "-p", "tcp"]).stdout.splitlines()
    (line,) = [line for line in lines if f"sport={result.port} " in line]
    expected = tuple(int(v) for key in ("bytes", "packets") for v in re.findall(rf"{key}=(\d+)", line))
    assert counted(offloading, family, before) == expected
    assert expected[not upload] > 10_000_000
    # Most packets went past the hook, else this tests nothing.
    assert forward_hook_packets(offloading) - forwarded < (expected[2] + expected[3]) / 2


def forward_hook_packets(lab: Lab) -> int:
    argv = ["nft", "-j", "list", "counters", "table", "inet", counters.TABLE]
    found = counters.read(json.loads(lab.gateway.run(argv).stdout), lab.specs, "forward")
    return sum(up + down for families in found.values() for _, _, up, down in families.values())


@pytest.fixture(scope="module")
def offloading() -> Iterator[Lab]:
    if not has_flow_tables() and "SPIND_VM" not in os.environ:
        pytest.skip("this kernel has no nft flow tables")
    with Lab(offload=True) as lab:
        yield lab
