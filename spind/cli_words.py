# SPDX-License-Identifier: GPL-2.0-or-later
"""What people type, and what it means: times, devices, other parties. Pure.

Owns how a word finds one device or party among those that the daemon knows, and what is said where it
finds none or several. Names that people gave count for more than names that devices gave themselves:
nobody's camera may be taken for another by what it calls itself. Must not know any method.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any, NamedTuple

from spind.text import inert

Json = dict[str, Any]

LONGEST = timedelta(days=10 * 365)
"""Nobody means a longer time; for good is without any."""

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_PART = re.compile(r"([0-9]{1,9})\s*(min|[smhdw])\s*")
_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")
_SHOWN = 8


class WordError(ValueError):
    """A word that means nothing, or several things; the sentence says what would do."""


class Party(NamedTuple):
    """What a word means: a ``device`` by MAC, a ``node`` that is known, a ``domain``, or an ``ip`` (prefix).

    ``label`` is for people, with nothing in it that does not print. ``node`` is the id of a device or
    site that is known, else 0.
    """

    label: str
    node: int = 0
    device: str = ""
    domain: str = ""
    ip: str = ""


def parse_duration(text: str) -> timedelta:
    """A length of time such as ``90s``, ``15m``, ``1h30m``, ``2d`` or ``1w``; ``WordError``."""
    at, seconds = 0, 0
    lower = text.lower().strip()
    while at < len(lower):
        found = _PART.match(lower, at)
        if found is None:
            break
        seconds += int(found[1]) * _UNITS[found[2]]
        at = found.end()
    if at < len(lower) or not seconds:
        raise WordError(f"{text!r} is no length of time, such as 15m, 1h30m or 2d")
    if seconds > LONGEST.total_seconds():
        raise WordError(f"{text!r} is longer than ten years: leave it out to mean for good")
    return timedelta(seconds=seconds)


def parse_moment(text: str, now: datetime) -> datetime:
    """A moment after ``now``: ``18:00`` (today or tomorrow), a date, or a date and a time; ``WordError``.

    Both are local times without a zone.
    """
    word = text.strip()
    try:
        if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}", word):
            hour, minute = map(int, word.split(":"))
            moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
            return moment if moment > now else moment + timedelta(days=1)
        moment = datetime.fromisoformat(word)
    except ValueError:
        raise WordError(f"{text!r} is no time, such as 18:00, 2030-01-31 or '2030-01-31 18:00'") from None
    if moment.tzinfo is not None:
        moment = moment.astimezone().replace(tzinfo=None)
    if moment <= now:
        raise WordError(f"{text!r} is over already")
    return moment


def find(word: str, nodes: Iterable[Json], *, devices: bool = True, others: bool = True) -> Party:
    """The one device or other party that ``word`` means, among ``nodes`` of ``list_nodes``; ``WordError``.

    In this order: a MAC; an address or prefix; the name that people gave a device or site, the name
    that a device gave itself, or a known domain; any other domain. ``devices`` and ``others`` say what
    it may be.
    """
    word = word.strip()
    known = [node for node in nodes if node["kind"] != "gateway"]
    if _MAC.fullmatch(word):
        mac = word.lower().replace("-", ":")
        party = next((_party(node) for node in known if node.get("mac") == mac), Party(mac, device=mac))
    elif _is_prefix(word):
        party = _by_address(word, known)
    else:
        party = _by_name(word, known, devices=devices, others=others)
    if party.device and not devices:
        raise WordError(f"{party.label} is a device")
    if not party.device and not others:
        raise WordError(f"{party.label} is no device: give a device's name, address or MAC")
    return party


def _by_address(word: str, nodes: Sequence[Json]) -> Party:
    text = str(ip_network(word, strict=False))
    address = text.removesuffix("/32") if ":" not in text else text.removesuffix("/128")
    holder = next((node for node in nodes if "mac" in node and address in node["ips"]), None)
    return _party(holder) if holder is not None else Party(address, ip=address)


def _by_name(word: str, nodes: Sequence[Json], *, devices: bool, others: bool) -> Party:
    wanted = word.casefold().removesuffix(".")
    possible = [node for node in nodes if (devices if "mac" in node else others)]
    given = [node for node in possible if _given(node).casefold() == wanted]
    found = given or [node for node in possible if _own(node).casefold() == wanted]
    domain = "." in wanted and not any(map(str.isspace, wanted)) and others
    if len(found) == 1 and (given or "mac" not in found[0] or not domain):
        return _party(found[0])
    if found:
        # A device may call itself like a domain: then the word could mean either.
        hint = " or the domain" if domain and all("mac" in node for node in found) else ""
        way = "give its MAC, address or domain, or a name by 'spind rename'"
        raise WordError(f"{_quote(word)} may be {_names(found)}{hint}: {way}")
    if domain:
        return Party(inert(wanted), domain=wanted)
    near = [node for node in possible if wanted and wanted in f"{_given(node)} {_own(node)}".casefold()]
    hint = f"; there is {_names(near)}" if near else ""
    what = "device" if not others else "device or other party" if devices else "party"
    raise WordError(f"there is no {what} called {_quote(word)}{hint}")


def _given(node: Json) -> str:
    """The name that people gave it; ``name`` alone may be the device's own."""
    name = str(node.get("name", ""))
    return name if name != node.get("hostname") else ""


def _own(node: Json) -> str:
    return str(node.get("hostname") or node.get("domain") or "")


def _party(node: Json) -> Party:
    label = inert(str(node["label"]))
    if "mac" in node:
        return Party(label, node=int(node["id"]), device=str(node["mac"]))
    return Party(label, node=int(node["id"]), domain=str(node.get("domain", "")))


def _names(nodes: Sequence[Json]) -> str:
    shown = [
        f"{inert(str(node['label']))} ({node['mac'] if 'mac' in node else _where(node)})"
        for node in nodes[:_SHOWN]
    ]
    more = [f"{len(nodes) - _SHOWN} more"] if len(nodes) > _SHOWN else []
    *first, last = [*shown, *more]
    return f"{', '.join(first)} or {last}" if first else last


def _where(node: Json) -> str:
    return inert(str(node.get("domain") or ", ".join(node["ips"][:2])))


def _quote(word: str) -> str:
    return repr(inert(word, 80))


def _is_prefix(word: str) -> bool:
    try:
        ip_network(word, strict=False)
    except ValueError:
        return False
    return True
