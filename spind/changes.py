# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of what people decided, each said by what holds afterwards. Pure.

Owns what can be decided, as the store keeps it. Must not know how it is written (that is
``decided_uci``) nor what follows from it.
"""

from typing import NamedTuple

from spind.profiles import Profile
from spind.rules import Rule


class DeviceChange(NamedTuple):
    """What holds for a device, by its MAC. Empty and false everywhere is nothing decided."""

    mac: str
    name: str
    ignore: bool
    profile: str


class SiteChange(NamedTuple):
    """What holds for a remote party, by its domain or address."""

    key: str
    name: str
    ignore: bool


class RuleChange(NamedTuple):
    """A rule as it is from now on; ``None`` where it is none any more.

    ``section`` is where it stands, as the last ``Store.load`` had it; empty for ``rule<id>``,
    where new ones go as well.
    """

    id: int
    section: str
    rule: Rule | None


class ProfileChange(NamedTuple):
    """A profile as it is from now on, in the section of that name; ``None`` where it is gone."""

    name: str
    profile: Profile | None


class IgnoredChange(NamedTuple):
    """All addresses and prefixes that are ignored by themselves."""

    addresses: tuple[str, ...]


Change = DeviceChange | SiteChange | RuleChange | ProfileChange | IgnoredChange
