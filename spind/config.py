# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the configuration: UCI text to a typed, immutable ``Config``. Pure.

Owns what a bad or unknown value does: it never stops the daemon. It is reported, and what was in
force before (or the default) stays in force, while the rest of the file applies. Must not read a
file (that is ``store``), nor define options (that is ``config_options``).
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any, Literal, NamedTuple

from spind.config_kinds import DOMAIN, FLAG, LISTED_DOMAIN, LISTED_PREFIX, list_of
from spind.config_options import (
    OBSOLETE,
    OPTIONS,
    SECTIONS,
    Config,
    DeviceSection,
    Option,
    SiteSection,
)
from spind.config_rules import highest_rule_id, load_rules
from spind.hostile import NAME_LENGTH, clean_name
from spind.model import Mac, format_address, parse_address, parse_mac
from spind.profiles import BUILTIN, LIST_LIMIT, Profile, parse_profile_name, with_builtin
from spind.rule_fields import LONGEST_TEXT, FieldError, parse_text
from spind.rules import ACTIONS
from spind.uci import Section, Value, parse

__all__ = [
    "MAIN",
    "OPTIONS",
    "PACKAGE",
    "Config",
    "DeviceSection",
    "Problem",
    "SiteSection",
    "load",
]

PACKAGE = "spin"
"""Name of the file in ``/etc/config``."""

MAIN = "spind"
"""Type and name of the main section, as SPIN 1.0 has it."""

_QUEUES = ("iptable_queue_dns", "iptable_queue_block", "iptable_queue_inspect")

_PROFILE_LISTS = tuple(
    Option(name, list_of(kind, LIST_LIMIT), (), "", "", secret=False)
    for name, kind in (
        ("allow_domain", LISTED_DOMAIN),
        ("block_domain", LISTED_DOMAIN),
        ("allow_ip", LISTED_PREFIX),
        ("block_ip", LISTED_PREFIX),
    )
)

_LEFT_OUT = "the section is left out"

MAX_PROBLEMS = 200
"""Problems that are told of one file; whoever has more finds the rest after mending these."""

_NAMED = 10
"""Profiles that are named in a message."""

_SHOWN = 100
"""Characters of a bad value that are repeated in a message."""


class Problem(NamedTuple):
    """Something in the file that is not in force.

    ``kind`` is ``bad`` for a value that is not allowed (``allowed`` says what is) and ``ignored``
    for what has no meaning here (``allowed`` says why, or what to do instead). ``section`` is a
    name, or ``@type[index]`` as ``uci`` has it; ``option`` is empty where the whole section is
    meant. ``in_force`` is what holds instead.
    """

    kind: Literal["bad", "ignored"]
    section: str
    option: str
    value: str
    allowed: str
    in_force: str
    line: int

    def __str__(self) -> str:
        where = f"line {self.line}: {PACKAGE}.{self.section}" + (f".{self.option}" if self.option else "")
        if self.kind == "ignored":
            return f"{where} is ignored: {self.allowed}"
        return f"{where}: {self.value!r} is not allowed, allowed is {self.allowed}; {self.in_force}"


def load(text: str, previous: Config | None = None) -> tuple[Config, list[Problem]]:
    """The configuration that ``text`` describes, and what in it is not in force.

    An option that is not there has its default. One with a bad value keeps its value of
    ``previous``, the configuration that was in force until now (the default, where there is
    none). Raises ``UciError``, and nothing else, where ``text`` is no UCI.
    """
    return _Loader(text, previous or Config()).config()


class _Loader:
    def __init__(self, text: str, previous: Config) -> None:
        self._package = parse(text, PACKAGE)
        self._previous = previous
        self._problems: list[Problem] = []
        self._labels: dict[int, str] = {}
        counts: dict[str, int] = {}
        for section in self._package.sections:
            index = counts[section.type] = counts.get(section.type, -1) + 1
            self._labels[id(section)] = f"@{section.type}[{index}]" if section.anonymous else section.name

    def config(self) -> tuple[Config, list[Problem]]:
        values: dict[str, Any] = {}
        mains = self._package.typed(MAIN)
        main = next((section for section in mains if section.name == MAIN), mains[0] if mains else None)
        if main is not None:
            values = self._main(main)
        for section in self._package.sections:
            if section.type == MAIN:
                if main is not None and section is not main:
                    self._ignored(section, "", f"the settings are those of section {self._label(main)}")
            elif section.type not in SECTIONS:
                self._unknown(section, "", section.type, [MAIN, *SECTIONS])
        profiles = self._profiles()
        known = with_builtin(profiles)
        if main is not None and values.get("new_device_profile", "") not in {"", *known}:
            values["new_device_profile"] = self._unknown_profile(
                main,
                "new_device_profile",
                values["new_device_profile"],
                self._previous.new_device_profile,
                known,
            )
        sections = self._package.sections
        highest = highest_rule_id(sections)
        limit = values.get("limit_rules", OPTIONS["limit_rules"].default)
        rules = load_rules(self._package.typed("rule"), highest, self._previous.rules, limit, self._bad)
        config = Config(
            **values,
            devices=self._devices(known),
            sites=self._sites(),
            rules=rules,
            profiles=profiles,
            highest_rule_id=max(highest, max((rule.id for rule in rules), default=0)),
        )
        self._problems.sort(key=lambda problem: problem.line)
        return config, self._problems

    def _main(self, section: Section) -> dict[str, Any]:
        values = {}
        for name, raw in section.options.items():
            option = OPTIONS.get(name)
            if option is not None:
                values[name] = self._value(section, option, raw)
            elif name in OBSOLETE:
                self._ignored(section, name, OBSOLETE[name])
            else:
                self._unknown(section, name, name, OPTIONS)
        numbers = [values.get(name, OPTIONS[name].default) for name in _QUEUES]
        if len(set(numbers)) < len(numbers):
            last = next(
                name
                for name, number in zip(reversed(_QUEUES), reversed(numbers), strict=True)
                if name in values and numbers.count(number) > 1
            )
            kept = {name: getattr(self._previous, name) for name in _QUEUES}
            in_force = f"{', '.join(f'{name} {number}' for name, number in kept.items())} stay in force"
            allowed = f"different numbers for {', '.join(_QUEUES[:-1])} and {_QUEUES[-1]}"
            self._bad(section, last, str(values[last]), allowed, in_force)
            values |= kept
        return values

    def _value(self, section: Section, option: Option, raw: Value) -> Any:
        """The value of an option in force after ``raw``."""
        kind = option.kind
        kept = getattr(self._previous, option.name)
        if kind.most:
            return self._list(section, option, raw, kept)
        if isinstance(raw, list):
            if len(raw) != 1:
                stays = _stays(kind.show(kept), option)
                self._bad(section, option.name, " ".join(raw), "one value, not a list", stays)
                return kept
            raw = raw[0]
        if not raw:
            return option.default
        try:
            return kind.parse(raw)
        except ValueError:
            self._bad(section, option.name, raw, kind.allowed, _stays(kind.show(kept), option))
            return kept

    def _list(self, section: Section, option: Option, raw: Value, kept: tuple[Any, ...]) -> tuple[Any, ...]:
        """Entries that are allowed, each once; ``kept`` where none is, the default where none is given."""
        kind = option.kind
        entries = raw if isinstance(raw, list) else re.split(r"[,\s]+", raw)
        good: dict[Any, None] = {}
        for entry in filter(None, entries):
            if len(good) >= kind.most:
                self._bad(section, option.name, entry, kind.allowed, "it and those behind it are left out")
                break
            try:
                good[kind.parse(entry)] = None
            except ValueError:
                self._bad(section, option.name, entry, kind.entry, "it is left out")
        if good:
            return tuple(good)
        return kept if any(entries) else tuple(option.default)

    def _devices(self, profiles: Mapping[str, Profile]) -> tuple[DeviceSection, ...]:
        before = {device.mac: device for device in self._previous.devices}
        devices: dict[Mac, DeviceSection] = {}
        for section in self._package.typed("device"):
            text = self._text(section, "mac")
            try:
                mac = parse_mac(text)
            except ValueError:
                mac = b""
            if not any(mac) or mac[0] & 1:  # nothing, or a group's address
                self._bad(section, "mac", text, "the MAC address of a device", _LEFT_OUT)
            elif mac in devices:
                allowed = f"one section per device, and {devices[mac].section} has it"
                self._bad(section, "mac", text, allowed, _LEFT_OUT)
            else:
                known = before.get(mac, DeviceSection("", mac))
                name = self._name(section, known.name)
                profile = self._text(section, "profile")
                if profile and profile not in profiles:
                    profile = self._unknown_profile(section, "profile", profile, known.profile, profiles)
                ignore = self._flag(section, "ignore", known.ignore)
                devices[mac] = DeviceSection(self._label(section), mac, name, profile, ignore)
            self._unknown_options(section)
        return tuple(devices.values())

    def _sites(self) -> tuple[SiteSection, ...]:
        before = {site.key: site for site in self._previous.sites}
        sites: dict[str, SiteSection] = {}
        for section in self._package.typed("site"):
            option = "domain" if "domain" in section.options else "ip"
            text = self._text(section, option)
            try:
                key = format_address(parse_address(text)) if option == "ip" else DOMAIN.parse(text).lower()
            except ValueError:
                self._bad(section, option, text, "a domain, or an ip that is an address", _LEFT_OUT)
            else:
                if key in sites:
                    allowed = f"one section per site, and {sites[key].section} has it"
                    self._bad(section, option, text, allowed, _LEFT_OUT)
                else:
                    known = before.get(key, SiteSection("", key))
                    name = self._name(section, known.name)
                    ignore = self._flag(section, "ignore", known.ignore)
                    sites[key] = SiteSection(self._label(section), key, name, ignore)
            self._unknown_options(section)
        return tuple(sites.values())

    def _profiles(self) -> tuple[Profile, ...]:
        before = BUILTIN | {profile.name: profile for profile in self._previous.profiles}
        profiles = []
        for section in self._package.typed("profile"):
            self._unknown_options(section)
            if section.anonymous:
                self._ignored(section, "", "a profile needs a name: config profile 'name'")
                continue
            try:
                name = parse_profile_name("profile", section.name)
            except FieldError as error:
                self._bad(section, "", section.name, error.allowed, _LEFT_OUT)
                continue
            known = before.get(name, Profile(name, name))
            default = self._text(section, "default") or "allow"
            if default not in ACTIONS:
                self._bad(section, "default", default, "allow or block", _in_force(known.default))
                default = known.default
            lists: dict[str, Any] = {
                option.name: self._list(
                    section, option, section.options.get(option.name, []), getattr(known, option.name)
                )
                for option in _PROFILE_LISTS
            }
            title = self._line(section, "name", NAME_LENGTH, known.title) or name
            description = self._line(section, "description", LONGEST_TEXT, known.description)
            profiles.append(Profile(name, title, description, default)._replace(**lists))
        return tuple(profiles)

    def _unknown_profile(
        self, section: Section, option: str, text: str, kept: str, known: Iterable[str]
    ) -> str:
        """What is in force instead of a profile that does not exist: the last good one, or none."""
        in_force = kept if kept in known else ""
        some = ", ".join(islice(known, _NAMED))
        self._bad(section, option, text, f"the name of a profile, such as {some}", _in_force(in_force))
        return in_force

    def _text(self, section: Section, name: str) -> str:
        """An option that is one value; empty where it is not there."""
        value = section.options.get(name, "")
        if isinstance(value, str):
            return value
        if len(value) == 1:
            return value[0]
        self._bad(section, name, " ".join(value), "one value, not a list", "the option is left out")
        return ""

    def _name(self, section: Section, kept: str) -> str:
        text = self._text(section, "name")
        try:
            return clean_name(text)
        except ValueError as error:
            self._bad(section, "name", text, f"visible text (this one: {error})", _in_force(kept))
            return kept

    def _line(self, section: Section, name: str, longest: int, kept: str) -> str:
        text = self._text(section, name).strip()
        try:
            return parse_text(name, text, longest)
        except FieldError as error:
            self._bad(section, name, text, error.allowed, _in_force(kept))
            return kept

    def _flag(self, section: Section, name: str, kept: bool) -> bool:
        text = self._text(section, name)
        try:
            return bool(FLAG.parse(text)) if text else False
        except ValueError:
            self._bad(section, name, text, FLAG.allowed, _in_force(FLAG.show(kept)))
            return kept

    def _unknown_options(self, section: Section) -> None:
        known = SECTIONS[section.type]
        for name in section.options:
            if name not in known:
                self._unknown(section, name, name, known)

    def _label(self, section: Section) -> str:
        return self._labels[id(section)]

    def _bad(self, section: Section, option: str, value: str, allowed: str, in_force: str) -> None:
        if section.type == MAIN and option in OPTIONS and OPTIONS[option].secret:
            value = "(not shown)"
        if len(value) > _SHOWN:
            value = value[:_SHOWN] + "…"
        self._report("bad", section, option, value, allowed, in_force)

    def _ignored(self, section: Section, option: str, why: str) -> None:
        self._report("ignored", section, option, "", why, "")

    def _unknown(self, section: Section, option: str, name: str, known: Iterable[str]) -> None:
        if len(self._problems) < MAX_PROBLEMS:  # looking for what was meant takes its time
            close = get_close_matches(name[:64], known, n=1)
            what = "option" if option else "section type"
            self._ignored(section, option, f"unknown {what}" + (f"; is {close[0]} meant?" if close else ""))

    def _report(
        self,
        kind: Literal["bad", "ignored"],
        section: Section,
        option: str,
        value: str,
        allowed: str,
        in_force: str,
    ) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            line = section.lines.get(option, section.line)
            label = self._label(section)
            self._problems.append(Problem(kind, label, option, value, allowed, in_force, line))


def _in_force(shown: str) -> str:
    return f"{shown!r} stays in force" if shown else "nothing is set instead"


def _stays(shown: str, option: Option) -> str:
    return "the last good one stays in force" if option.secret else _in_force(shown)
