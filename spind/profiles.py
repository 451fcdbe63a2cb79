# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles: what a device may reach, as a template that people choose by name. Pure."""

from typing import NamedTuple


class Profile(NamedTuple):
    """What devices with this profile may reach."""

    name: str
    title: str
    description: str = ""
    default: str = "allow"
    allow_domain: tuple[str, ...] = ()
    block_domain: tuple[str, ...] = ()
    allow_ip: tuple[str, ...] = ()
    block_ip: tuple[str, ...] = ()
    builtin: bool = False
