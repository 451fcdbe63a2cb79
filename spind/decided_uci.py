# SPDX-License-Identifier: GPL-2.0-or-later
"""How decisions are written in UCI: which section and which options. Pure.

Must not touch a file (that is ``store``), nor know how text is changed (that is ``uci_sheet``).
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from spind import profiles, rules
from spind.changes import Change, DeviceChange, IgnoredChange, ProfileChange, RuleChange, SiteChange
from spind.config import MAIN
from spind.config_kinds import DOMAIN, FLAG, PREFIX
from spind.config_options import SECTIONS
from spind.hostile import clean_name
from spind.model import format_address, format_mac, parse_address, parse_mac
from spind.uci import GENERATED, Section, Value
from spind.uci_sheet import Sheet

_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_FLAGS = {"ignore"}


class SectionChange(NamedTuple):
    """A change said as a section: of which type, about what, and what it says from now on."""

    type: str
    keys: tuple[str, ...]
    """What the sheet may know it by, best first: its key, or what it is about."""

    name: str
    """Its name if it is new; empty for an anonymous one."""

    options: Mapping[str, Value] = MappingProxyType({})
    """Every option that the change decides on, empty for those that shall not be."""

    needed: frozenset[str] = frozenset()
    """Options that only say what it is about: a section that says no more goes."""

    gone: bool = False
    """Whether it goes with all that is in it."""


def identity(section: Section) -> str:
    """What a section is about, for ``Sheet.find``; empty where it is about nothing, or by its name."""
    if section.type == MAIN:
        return _about(MAIN, "")
    option = "mac" if section.type == "device" else "domain" if "domain" in section.options else "ip"
    value = section.options.get(option)
    if section.type not in ("device", "site") or not isinstance(value, str):
        return ""
    try:
        type_, meant, key = _node(value)
    except ValueError:
        return ""
    return _about(type_, key) if (type_, meant) == (section.type, option) else ""


def checked(change: Change) -> SectionChange:
    """What a change writes; ``ValueError`` for what may not be written."""
    match change:
        case DeviceChange(mac, name, ignore, profile):
            if profile and not _NAME.fullmatch(profile):
                raise ValueError(f"not the name of a profile: {profile[:64]!r}")
            return _node_change(format_mac(parse_mac(mac)), name, ignore, {"profile": profile})
        case SiteChange(key, name, ignore):
            if _node(key)[0] != "site":
                raise ValueError(f"not a domain or address: {key[:64]!r}")
            return _node_change(key, name, ignore, {})
        case RuleChange():
            return _rule_change(change)
        case ProfileChange(name, profile):
            if not _NAME.fullmatch(name):
                raise ValueError(f"not the name of a profile: {name[:64]!r}")
            if profile is None:
                return SectionChange("profile", (name,), name, gone=True)
            return SectionChange("profile", (name,), name, _options("profile", profiles.to_options(profile)))
        case IgnoredChange(addresses):
            wanted = [str(PREFIX.parse(address)) for address in addresses]
            return SectionChange(MAIN, (MAIN, _about(MAIN, "")), MAIN, {"ignore_ip": wanted})


def setting(option: str, value: str) -> SectionChange:
    """One option of the main section; an empty value takes it away."""
    return SectionChange(MAIN, (MAIN, _about(MAIN, "")), MAIN, {option: value})


def node_decision(key: str, name: str, ignore: bool) -> SectionChange:
    """(name, ignore) of a device by MAC, or of a site; a device's profile stays as it is."""
    return _node_change(key, name, ignore, {})


def apply(sheet: Sheet, change: SectionChange) -> None:
    """Make a change in ``sheet``; what is so already is left as it is written.

    Raises ``ValueError`` (``UciError`` among them) where that is impossible.
    """
    key = _find(sheet, change)
    if change.gone:
        if key:
            sheet.remove(key)
        elif GENERATED.fullmatch(change.keys[0]):  # if it says something else now, we cannot tell
            raise ValueError(f"section {change.keys[0]} is not what it was: somebody else changed the file")
        return
    said = {option for option, value in change.options.items() if value} - change.needed
    if not key:
        if said and sheet.type(change.name):
            raise ValueError(f"section {change.name!r} is of type {sheet.type(change.name)!r}")
        if said:
            sheet.add(change.type, change.name, change.options)
        return
    section = sheet.section(key)
    if change.needed and not said and not section.options.keys() - change.options.keys():
        sheet.remove(key)
        return
    decided = {option: value for option, value in change.options.items() if option not in change.needed}
    different = {option: value for option, value in decided.items() if not _says(section, option, value)}
    if different:
        sheet.set(key, different)


def _find(sheet: Sheet, change: SectionChange) -> str:
    for key in change.keys:
        found = key if sheet.type(key) else sheet.find(key)
        if found and sheet.type(found) == change.type:
            return found
    return ""


def _says(section: Section, option: str, value: Value) -> bool:
    """Whether a section says this already, in whichever words."""
    given = section.options.get(option, "")
    if option in _FLAGS and isinstance(given, str):
        try:
            return bool(given and FLAG.parse(given)) == (value == "1")
        except ValueError:
            return value != "1"
    return given == (value if isinstance(value, str) else list(value))


def _rule_change(change: RuleChange) -> SectionChange:
    if change.id <= 0:
        raise ValueError(f"not the id of a rule: {change.id}")
    own = f"rule{change.id}"
    named = _NAME.fullmatch(change.section) and not GENERATED.fullmatch(change.section)
    name = change.section if named else own
    keys = (change.section, own) if change.section else (own,)
    if change.rule is None:
        return SectionChange("rule", keys, name, gone=True)
    return SectionChange("rule", keys, name, _options("rule", rules.to_options(change.rule)))


def _options(type_: str, said: Mapping[str, Value]) -> dict[str, Value]:
    """All options of a rule or profile: those it has, and those that it has not, empty."""
    if unknown := said.keys() - SECTIONS[type_].keys():
        raise ValueError(f"no options of a {type_}: {', '.join(sorted(unknown))}")
    for value in said.values():
        for text in [value] if isinstance(value, str) else value:
            if _UNPRINTABLE.search(text):
                raise ValueError(f"control characters in {text[:64]!r}")
    return dict(said) | {option: "" for option in SECTIONS[type_] if option not in said}


def _node_change(key: str, name: str, ignore: bool, more: Mapping[str, str]) -> SectionChange:
    type_, option, key = _node(key)
    options: dict[str, Value] = {option: key, "name": clean_name(name), "ignore": "1" if ignore else ""}
    return SectionChange(type_, (_about(type_, key),), "", options | dict(more), frozenset({option}))


def _node(key: str) -> tuple[str, str, str]:
    """Type of the section for a device or site, the option that holds its key, and how it is written."""
    try:
        return "device", "mac", format_mac(parse_mac(key))
    except ValueError:
        pass
    try:
        return "site", "ip", format_address(parse_address(key))
    except ValueError:
        return "site", "domain", str(DOMAIN.parse(key)).lower()


def _about(type_: str, key: str) -> str:
    return f"{type_} {key}"  # no name of a section has a space
