# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules that people make: who may not, or may, reach what. Pure.

Owns what a rule is, which ones are allowed and which of two wins. Must not know what names or
devices have for addresses (that is the policy), nor how the kernel enforces it.
"""

from typing import NamedTuple

from spind.model import Address, Mac


class Rule(NamedTuple):
    """One rule, as it is written in the configuration or made by a profile or detector."""

    id: int
    action: str
    device: Mac | None = None
    node: str = ""
    domain: str = ""
    prefix: tuple[Address, int] | None = None
    port: int = 0
    protocol: int = 0
    until: int = 0
    schedule: str = ""
    comment: str = ""
    author: str = "owner"
    created: int = 0
    section: str = ""
