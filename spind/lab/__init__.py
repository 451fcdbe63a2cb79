# SPDX-License-Identifier: GPL-2.0-or-later
"""A home in network namespaces: demo, test bed and benchmark bed. ``from spind.lab import Lab``."""

from spind.lab.errors import LabError
from spind.lab.lab import Lab
from spind.lab.node import Device, Node, wait_until
from spind.lab.plan import DEFAULT_DEVICES, SITES, DeviceSpec, make_devices

__all__ = [
    "DEFAULT_DEVICES",
    "SITES",
    "Device",
    "DeviceSpec",
    "Lab",
    "LabError",
    "Node",
    "make_devices",
    "wait_until",
]
