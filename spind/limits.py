# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounds of the tables that network input can grow, with what happens at each bound."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Sizes of the engine's tables; the config's ``limit_*`` options set them."""

    devices: int = 512
    """Devices. At the bound the one unseen for longest that nobody decided about goes."""

    sites: int = 4096
    """Remote parties. At the bound the one unseen for longest that nobody decided about goes."""

    sites_per_device: int = 1024
    """Remote parties that one device brought up. Beyond it, new nameless addresses are counted
    under one shared node, and new names push out the device's own oldest, so that a port scan
    or a flood of names costs its author's view and nobody else's."""

    addresses_per_node: int = 64
    """Addresses of one node; the oldest goes."""

    domains_per_node: int = 64
    """Host names of one node; the oldest goes."""

    names: int = 16384
    """Answers remembered, as (address, device, name); the least recently answered address goes."""

    queries: int = 4096
    """DNS queries waiting for their answer; the oldest goes."""

    connections: int = 65536
    """Connections with their attribution. At the bound the one unseen for longest goes; its
    later traffic is attributed anew, without what its first packets told."""

    flows: int = 16384
    """Flows. At the bound the one unseen for longest goes; its counts stay in the device's
    total."""

    window_cells: int = 30000
    """Cells (device, node, time step) of the ten-minute time series; beyond it new pairs of a
    step are counted under (device, 0)."""

    report_rows: int = 400
    """Rows of one ``traffic`` message: as many as are written as JSON in 1.5 ms. Further connections
    share a row per pair of nodes and port."""

    streams: int = 1024
    """TCP streams being put together for DNS, ClientHello or HTTP head; the oldest goes."""

    rules: int = 20000
    """Rules. At the bound another one is refused; of a file the first ones count."""

    blocked_addresses: int = 8192
    """Addresses remembered of names that rules speak of; the least recently answered goes."""


class CaptureLimits(NamedTuple):
    """Bounds of packet captures, which people start: ``limit_captures``, ``limit_capture_seconds`` and
    ``limit_capture_bytes``."""

    captures: int = 4
    """Captures, running or kept for download. At the bound the oldest that has ended goes; where all of
    them are running, another one is refused."""

    seconds: int = 3600
    """Seconds that one may take."""

    bytes: int = 32 * 1024 * 1024
    """Size of one, in memory."""
