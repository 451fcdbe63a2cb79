# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles: what a device may reach, as a template that people choose by name. Pure.

Owns the shipped ones and what a profile means in rules for one device. Must not know which device
has which (that is the configuration's).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from spind.hostile import NAME_LENGTH
from spind.model import Mac, parse_address
from spind.rule_fields import (
    FieldError,
    Prefix,
    parse_domain,
    parse_prefix,
    parse_text,
    show_prefix,
    shown,
    text_of,
)
from spind.rules import ACTIONS, Rule

HOME: Final = "home"
"""The home's prefixes, and what is local to a link: link-local, multicast, broadcast."""

INTERNET: Final = "internet"
"""Everything but private, shared (RFC 6598), link-local, multicast and loopback addresses, and the home."""

LISTS: Final = ("allow_domain", "block_domain", "allow_ip", "block_ip")

LIST_LIMIT: Final = 1024
"""Entries of one list."""

FIELDS: Final = ("name", "description", "default", *LISTS)
"""What people say of a profile, by the names of API arguments and UCI options."""


class Profile(NamedTuple):
    """What devices with this profile may reach."""

    name: str
    """Name of the UCI section, by which devices refer to it."""

    title: str
    """What people call it (option ``name``)."""

    description: str = ""
    default: str = "allow"
    """``allow`` or ``block``: for what nothing lists."""

    allow_domain: tuple[str, ...] = ()
    block_domain: tuple[str, ...] = ()
    allow_ip: tuple[str, ...] = ()
    """Addresses, prefixes, or the words ``home`` and ``internet``."""

    block_ip: tuple[str, ...] = ()
    builtin: bool = False


BUILTIN: Final = {
    profile.name: profile
    for profile in (
        Profile("full", "Full access", "May reach everything.", builtin=True),
        Profile(
            "local",
            "Local network only",
            "May reach the home, and nothing else.",
            "block",
            allow_ip=(HOME,),
            builtin=True,
        ),
        Profile(
            "nointernet",
            "No internet",
            "May reach everything but the internet: other private networks, too.",
            block_ip=(INTERNET,),
            builtin=True,
        ),
        Profile(
            "learned",
            "Only what it already used",
            "May reach the home and what is listed; each device gets a list of what it used.",
            "block",
            allow_ip=(HOME,),
            builtin=True,
        ),
        Profile("quarantine", "Quarantine", "May reach nothing at all.", "block", builtin=True),
    )
}
"""The shipped profiles by name. A section of the configuration with such a name replaces one."""


def with_builtin(profiles: Iterable[Profile]) -> dict[str, Profile]:
    """All profiles by name: the shipped ones, and ``profiles``, which replace those of their names."""
    return BUILTIN | {profile.name: profile for profile in profiles}


def learned(name: str, title: str, domains: Iterable[str], addresses: Iterable[str]) -> Profile:
    """The profile ``learned`` for one device, which has used ``domains`` and ``addresses`` until now.

    Names and addresses that no profile can list (of one label, multicast) are left out, as is what
    goes beyond the limit. They are sorted, and each is there once.
    """
    listed: dict[str, set[str]] = {"allow_domain": set(), "allow_ip": set()}
    for field, texts in (("allow_domain", domains), ("allow_ip", addresses)):
        for text in texts:
            try:
                listed[field].add(parse_entry(field, text))
            except FieldError:
                continue
    allow_ip = sorted(listed["allow_ip"] - {HOME, INTERNET}, key=_by_address)
    return BUILTIN["learned"]._replace(
        name=parse_profile_name("profile", name),
        title=parse_text("name", title, NAME_LENGTH),
        allow_domain=tuple(sorted(listed["allow_domain"])[:LIST_LIMIT]),
        allow_ip=(HOME, *allow_ip[: LIST_LIMIT - 1]),
        builtin=False,
    )


def _by_address(text: str) -> tuple[int, bytes, str]:
    address = parse_address(text.partition("/")[0])
    return len(address), address, text


def parse_profile_name(field: str, text: str) -> str:
    """The name of a profile, which is that of a UCI section."""
    if not re.fullmatch("[A-Za-z0-9_]{1,64}", text):
        raise FieldError(field, text, "a name of at most 64 letters, digits and underscores")
    return text


def parse_entry(field: str, text: str) -> str:
    """An entry of the list ``field``, in its canonical form."""
    if field in ("allow_domain", "block_domain"):
        return parse_domain(field, text)
    if text.lower() in (HOME, INTERNET):
        return text.lower()
    try:
        return show_prefix(parse_prefix(field, text, group=True))
    except FieldError as error:
        raise FieldError(field, text, f"{error.allowed}, home or internet") from None


def parse_profile(fields: Mapping[str, object], name: str) -> Profile:
    """The profile that ``fields``, named as :data:`FIELDS`, describe: API arguments, or UCI options.

    A list may be a sequence, or text whose entries stand apart by commas or spaces. ``FieldError`` (a
    ``ValueError``) says what is wrong.
    """
    for field in fields:
        if field not in FIELDS:
            raise FieldError(field, fields[field], "left out", f"a profile has no field {shown(field)}")
    default = text_of("default", fields.get("default")) or "allow"
    if default not in ACTIONS:
        raise FieldError("default", default, "allow or block")
    return Profile(
        name=parse_profile_name("profile", name),
        title=parse_text("name", text_of("name", fields.get("name")), NAME_LENGTH) or name,
        description=parse_text("description", text_of("description", fields.get("description"))),
        default=default,
        allow_domain=_list("allow_domain", fields),
        block_domain=_list("block_domain", fields),
        allow_ip=_list("allow_ip", fields),
        block_ip=_list("block_ip", fields),
    )


def entries(value: object) -> list[object]:
    """What a list's value consists of: a sequence's items, or words of a text."""
    if isinstance(value, str):
        return [word for word in re.split(r"[,\s]+", value) if word]
    if isinstance(value, Sequence):
        return [item for item in value if item != ""]
    return [] if value is None else [value]


def _list(field: str, fields: Mapping[str, object]) -> tuple[str, ...]:
    items = entries(fields.get(field))
    listed = dict.fromkeys(parse_entry(field, text_of(field, item)) for item in items)
    if len(listed) > LIST_LIMIT:
        sentence = f"{field} has {len(listed)} entries, the limit is {LIST_LIMIT}"
        raise FieldError(field, f"{len(listed)} entries", f"up to {LIST_LIMIT} entries", sentence)
    return tuple(listed)


def to_json(profile: Profile) -> dict[str, Any]:
    """The profile as ``list_profiles`` has it."""
    return {
        "name": profile.name,
        "title": profile.title,
        "description": profile.description,
        "default": profile.default,
        **{field: list(getattr(profile, field)) for field in LISTS},
        "builtin": profile.builtin,
    }


def to_options(profile: Profile) -> dict[str, str | list[str]]:
    """The options and lists of its UCI section; ``parse_profile`` makes the same profile of them."""
    options: dict[str, str | list[str]] = {"name": profile.title}
    if profile.description:
        options["description"] = profile.description
    options["default"] = profile.default
    return options | {field: list(getattr(profile, field)) for field in LISTS if getattr(profile, field)}


_LINK: Final = tuple(
    parse_prefix("", text, group=True)
    for text in ("169.254.0.0/16", "224.0.0.0/4", "255.255.255.255", "fe80::/10", "ff00::/8")
)
_PRIVATE: Final = (
    *(
        parse_prefix("", text)
        for text in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
    ),
    *_LINK,
    (b"\x7f" + bytes(3), 8),
    (bytes(15) + b"\1", 128),
)
_EVERYTHING: Final = ((bytes(4), 0), (bytes(16), 0))


def expand(word: str, home_prefixes: Iterable[Prefix]) -> tuple[list[Prefix], list[Prefix]]:
    """The prefixes that ``home`` or ``internet`` in a list means, and those in them that it does not."""
    if word == HOME:
        return [*home_prefixes, *_LINK], []
    return list(_EVERYTHING), [*_PRIVATE, *home_prefixes]


def profile_rules(profile: Profile, device: Mac, home_prefixes: Iterable[Prefix]) -> list[Rule]:
    """The rules that a profile means for a device, with id 0 and author ``profile``.

    A default of ``block`` is a rule for the device alone; one of ``allow`` needs none. The rules for
    ``internet`` have prefixes of length 0, which ``rules.parse_rule`` refuses to people. What is not
    of the internet has rules that say what the profile's other entries say of it, or its default.
    """
    home = tuple(home_prefixes)
    base = Rule(0, "block", device, author="profile")
    rules = [
        base._replace(action=action, domain=domain)
        for action, domains in (("allow", profile.allow_domain), ("block", profile.block_domain))
        for domain in domains
    ]
    actions: dict[Prefix, str] = {}
    holes: dict[Prefix, None] = {}
    for action, texts in (("block", profile.block_ip), ("allow", profile.allow_ip)):  # allow wins
        for text in texts:
            if text in (HOME, INTERNET):
                prefixes, inside = expand(text, home)
                holes |= dict.fromkeys(inside)
            else:
                prefixes = [parse_prefix("", text, group=True)]
            actions |= dict.fromkeys(prefixes, action)
    # What a hole says must be what would hold if the internet were not listed.
    filled = {hole: _said(actions, hole) or profile.default for hole in holes}
    rules += [base._replace(action=does, prefix=prefix) for prefix, does in (filled | actions).items()]
    if profile.default == "block":
        rules.append(base)
    return rules


def _said(actions: Mapping[Prefix, str], prefix: Prefix) -> str:
    """What the longest prefix around ``prefix``, apart from everything, says; empty where there is none."""
    address, bits = prefix
    number, width = int.from_bytes(address, "big"), len(address) * 8
    for length in range(bits, 0, -1):
        shift = width - length
        around = ((number >> shift << shift).to_bytes(len(address), "big"), length)
        if around in actions:
            return actions[around]
    return ""
