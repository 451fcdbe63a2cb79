# SPDX-License-Identifier: GPL-2.0-or-later
"""The load tools do as much as they were told, count it, and pass through the gateway."""

import pytest

from spind.lab import Lab, LabError, load, plan

pytestmark = pytest.mark.lab


def difference(lab: Lab, device: str, family: int, before: dict) -> tuple[int, ...]:
    after = lab.kernel_counters()[device][family]
    return tuple(a - b for a, b in zip(after, before[device][family], strict=True))


@pytest.mark.parametrize("family", [4, 6])
def test_churn_opens_as_many_connections_as_told(lab: Lab, family: int) -> None:
    before = lab.kernel_counters()
    result = load.churn(lab, "phone", family=family, rate=1000, seconds=1)
    assert (result.attempted, result.completed, result.failed, result.skipped) == (1000, 1000, 0, 0)
    assert (result.sent, result.received) == (100_000, 200_000)
    up, down, up_packets, down_packets = difference(lab, "phone", family, before)
    # At least a handshake, a request, a reply and two ends each.
    assert up_packets >= 4 * 1000
    assert down_packets >= 3 * 1000
    assert up > result.sent + up_packets * (20 if family == 4 else 40)
    assert down > result.received + down_packets * (20 if family == 4 else 40)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("upload", [False, True])
def test_bulk_carries_every_byte(lab: Lab, family: int, upload: bool) -> None:
    before = lab.kernel_counters()
    size = 200_000_000
    result = load.bulk(lab, "tv", size, family=family, upload=upload)
    assert result.bytes == size
    up, down, *_ = difference(lab, "tv", family, before)
    assert size < (up if upload else down) < size * 1.05


@pytest.mark.parametrize("family", [4, 6])
def test_latency_measures_each_handshake(lab: Lab, family: int) -> None:
    result = load.latency(lab, "tv", family=family, rate=200, seconds=0.5)
    assert (result.completed, result.failed) == (100, 0)
    assert 0 < result.median_us <= result.p99_us <= result.max_us < 1_000_000


@pytest.mark.parametrize("server", [plan.GATEWAY4, plan.GATEWAY6, plan.DNS4, plan.DNS6])
def test_dns_load_accounts_for_every_query(lab: Lab, server: str) -> None:
    result = load.dns(lab, "hub", rate=500, seconds=1, server=server)
    assert (result.sent, result.answered, result.lost, result.errors) == (500, 500, 0, 0)
    missing = load.dns(lab, "hub", rate=100, seconds=0.2, server=server, zone="nowhere.test")
    assert (missing.answered, missing.errors) == (20, 20)


def test_load_without_bound_is_refused(lab: Lab) -> None:
    with pytest.raises(LabError, match="bounded"):
        load.churn(lab, "tv", rate=1e9)
    with pytest.raises(LabError, match="bounded"):
        load.latency(lab, "tv", seconds=1e9)
    with pytest.raises(LabError, match="bytes"):
        load.bulk(lab, "tv", 1 << 60)
