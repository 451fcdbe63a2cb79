# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the configuration: UCI text to a typed, immutable ``Config``. Pure.

Owns what a bad or unknown value does: it never stops the daemon. It is reported, and what was in
force before (or the default) stays in force, while the rest of the file applies. Must not read a
file (that is ``store``), nor give meaning to rules and profiles, nor define options (that is
``config_options``).
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from spind.config_kinds import DOMAIN, FLAG
from spind.config_options import (
    OBSOLETE,
    OPTIONS,
    SECTIONS,
    Config,
    DeviceSection,
    Option,
    OtherSection,
    SiteSection,
)
from spind.hostile import clean_name
from spind.model import Mac, format_address, parse_address, parse_mac
from spind.uci import Section, Value, parse

__all__ = [
    "MAIN",
    "OPTIONS",
    "PACKAGE",
    "Config",
    "DeviceSection",
    "OtherSection",
    "Problem",
    "SiteSection",
    "load",
]

PACKAGE = "spin"
"""Name of the file in ``/etc/config``."""

MAIN = "spind"
"""Type and name of the main section, as SPIN 1.0 has it."""

_LEFT_OUT = "the section is left out"

MAX_PROBLEMS = 200
"""Problems that are told of one file; whoever has more finds the rest after mending these."""

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
        config = Config(
            **values,
            devices=self._devices(),
            sites=self._sites(),
            rules=self._others("rule"),
            profiles=self._others("profile"),
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
        queues = ("iptable_queue_dns", "iptable_queue_block")
        if len({values.get(name, OPTIONS[name].default) for name in queues}) == 1:
            last = next(name for name in reversed(queues) if name in values)
            kept = {name: getattr(self._previous, name) for name in queues}
            in_force = f"{kept[queues[0]]} and {kept[queues[1]]} stay in force"
            self._bad(section, last, str(values[last]), "different numbers for the two queues", in_force)
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

    def _devices(self) -> tuple[DeviceSection, ...]:
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

    def _others(self, type_: str) -> tuple[OtherSection, ...]:
        return tuple(
            OtherSection(
                self._label(section),
                MappingProxyType(
                    {k: v if isinstance(v, str) else tuple(v) for k, v in section.options.items()}
                ),
                section.line,
            )
            for section in self._package.typed(type_)
        )

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
