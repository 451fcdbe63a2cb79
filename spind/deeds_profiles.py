# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods that decide by profiles. Pure."""

from typing import Any

from spind import profiles
from spind.calls import REFUSED, ApiError, NotFoundError
from spind.changes import DeviceChange, ProfileChange
from spind.desk import Desk
from spind.events import PutProfile, Restore, SetProfile
from spind.flows import Flow
from spind.model import format_address, format_mac
from spind.nodes import Kind, Node
from spind.profiles import BUILTIN, Profile
from spind.shapes import Json
from spind.views import fitting

_LEARNED = "learned"


class ProfileDeeds:
    """Gives profiles to devices, makes and changes them."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def list_profiles(self) -> list[Json]:
        """The profiles, each with the devices that have it."""
        nodes = self._desk.engine.nodes
        holders: dict[str, list[str]] = {}
        for mac, device in nodes.devices.items():
            holders.setdefault(nodes.profile_of(device), []).append(format_mac(mac))
        found = self._desk.engine.decisions.profiles
        return fitting(
            {**profiles.to_json(found[name]), "devices": holders.get(name, [])} for name in sorted(found)
        )

    def set_device_profile(self, device: str, profile: str) -> None:
        """Give a device a profile; an empty one takes it back. ``learned`` makes one of what it used."""
        node = self._desk.views.device(device)
        if profile == _LEARNED:
            self._learn(node)
            return
        if profile and profile not in self._desk.engine.decisions.profiles:
            names = ", ".join(sorted(self._desk.engine.decisions.profiles))
            raise NotFoundError(f"profile: there is no profile {profile!r:.70}; there are {names:.300}")
        self._desk.do(SetProfile(node.id, profile))

    def set_profile(self, profile: str, **fields: Any) -> None:
        """Make a profile, or change what is given of one."""
        old = self._desk.engine.decisions.profiles.get(profile)
        if old is not None:
            fields = {**profiles.to_options(old), **fields}
        try:
            made = profiles.parse_profile(fields, profile)
        except ValueError as error:
            raise ApiError(REFUSED, str(error)) from error
        self._desk.do(PutProfile(profile, made))

    def remove_profile(self, profile: str) -> None:
        """Take a profile back; one that comes with spind gets its shipped content again."""
        found = self._desk.engine.decisions.profiles.get(profile)
        if found is None or found.builtin:
            raise NotFoundError(f"profile: there is no profile {profile!r:.70} that was made or changed here")
        nodes = self._desk.engine.nodes
        holders = [device.label for device in nodes.devices.values() if nodes.profile_of(device) == profile]
        if holders and profile not in BUILTIN:
            raise ApiError(REFUSED, f"profile: {', '.join(holders):.200} has it; give that another one first")
        self._desk.do(PutProfile(profile, None))

    def _learn(self, device: Node) -> None:
        """The profile of what this device has used until now, and the device gets it."""
        nodes = self._desk.engine.nodes
        used: list[Flow] = self._desk.engine.flows.flows(device.id)
        parties = {flow.key.node: nodes.by_id.get(flow.key.node) for flow in used if flow.up_packets}
        sites = [node for node in parties.values() if node is not None and node.kind is Kind.SITE]
        name = f"{_LEARNED}_{self._desk.decidable(device.id).replace(':', '')}"
        title = f"Only what {device.label:.40} already used"
        made: Profile = profiles.learned(
            name,
            title,
            [site.domain for site in sites if site.domain],
            [format_address(address) for site in sites if not site.domain for address in site.addresses],
        )
        mac = self._desk.decidable(device.id)
        decision = nodes.decision(mac)
        self._desk.do(
            Restore(
                (
                    ProfileChange(name, made),
                    DeviceChange(mac, decision.name, decision.ignored, name),
                )
            )
        )
