# SPDX-License-Identifier: GPL-2.0-or-later
"""spind on a gateway that forwards through a flow table, as OpenWrt does: nothing may go uncounted.

This needs a kernel with nft flow tables; in the virtual machine there is one.
"""

import os
from collections.abc import Iterator

import pytest
from spind_home import Home

from spind.lab import Lab, load
from spind.lab.errors import LabError
from spind.lab.patience import patient

pytestmark = [pytest.mark.lab, pytest.mark.vm]


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    try:
        lab = Lab(offload=True)
        lab.up()
    except LabError as error:
        if "SPIND_VM" in os.environ:
            raise
        pytest.skip(f"no flow tables in this kernel: {error}")
    try:
        fresh = Home(lab)
        fresh.start()
        yield fresh
        fresh.stop()
    finally:
        lab.down()


@pytest.mark.parametrize("family", [4, 6])
def test_bytes_of_offloaded_connections_are_counted(home: Home, family: int) -> None:
    size = round(50_000_000 / patient(1))
    with home.counting() as grown:
        load.bulk(home.lab, "tv", size, family=family)
        load.bulk(home.lab, "tv", size, family=family, upload=True)
        kernel, counted = grown()["tv", family]
    assert counted == kernel
    assert min(counted[:2]) > size


def test_capture_runs_on_nft_queue(home: Home) -> None:
    capture = home.call("status")["capture"]
    assert capture["backend"] == "nftables"
    assert capture["received"] > 0
