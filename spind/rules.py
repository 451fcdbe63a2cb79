# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules that people make: who may not, or may, reach what. Pure.

Owns what a rule is, which ones are allowed and which of two wins. Must not know what addresses names
or devices have (that is the policy's), nor how the kernel enforces it.

Precedence
----------

Of the rules that match a packet, the one that is first by these criteria, in this order, decides:

====  ==========================  =====================================================================
no.   first wins                  why
====  ==========================  =====================================================================
1     owner, provider, detector,  who lives there decides, whatever others say; a detector knows more of
      profile                     one device than a profile, which is for many
2     a device and what; a device more specific wins. A rule for one device is as specific as a rule for
      alone, allowed; what        one party, so that between these allow wins, as SPIN 1.0's list of
      alone; a device alone,      allowed nodes wins over its list of blocked ones
      blocked; neither
3     party and port; party and   more specific wins
      protocol; party; port;
      protocol
4     names before addresses;     a name is who it is, an address only where it is; among names the one
      more labels; longer         with more labels, among addresses the longer prefix is more specific. A
      prefixes                    node that is a device counts as an address of full length
5     allow, block                at equal specificity allow wins
====  ==========================  =====================================================================

*What* is any of node, domain, prefix, port and protocol; the *party* is node, domain or prefix. Rules
that are equal by all five say the same.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from spind.model import IPPROTO_TCP, IPPROTO_UDP, Address, Mac, format_mac, parse_address
from spind.rule_fields import (
    LATEST,
    FieldError,
    parse_device,
    parse_domain,
    parse_node,
    parse_number,
    parse_prefix,
    parse_protocol,
    parse_text,
    show_prefix,
    show_protocol,
    shown,
    text_of,
)
from spind.schedule import parse_schedule

__all__ = [
    "ACTIONS",
    "AUTHORS",
    "FIELDS",
    "FieldError",
    "Rule",
    "describe",
    "parse_rule",
    "rank",
    "to_json",
    "to_options",
]

ACTIONS: Final = ("block", "allow")

AUTHORS: Final = ("owner", "provider", "detector", "profile")
"""In the order of precedence."""

FIELDS: Final = (
    "device",
    "node",
    "domain",
    "ip",
    "port",
    "protocol",
    "action",
    "until",
    "schedule",
    "comment",
)
"""What people say of a rule, by the names of API arguments and UCI options."""

_PARTIES: Final = ("node", "domain", "ip")


class Rule(NamedTuple):
    """One rule, as it is written in the configuration or made by a profile or detector."""

    id: int
    """Positive; 0 for rules that a profile makes."""

    action: str
    """``block`` or ``allow``."""

    device: Mac | None = None
    """Whom it is for; ``None``: all devices."""

    node: str = ""
    """``Node.decision_key`` of the other party: MAC, registrable domain, or address in text."""

    domain: str = ""
    """Host name, lower case, no trailing dot: itself and everything below it."""

    prefix: tuple[Address, int] | None = None
    """(network, bits) of the other party, host bits clear."""

    port: int = 0
    """The other party's port (TCP and UDP); 0: any."""

    protocol: int = 0
    """IP protocol number; 0: any; 1 means ICMP and ICMPv6."""

    until: int = 0
    """Unix seconds at which it ends; 0: never."""

    schedule: str = ""
    """Canonical text of a ``schedule.Schedule``; empty: always."""

    comment: str = ""
    author: str = "owner"
    """One of :data:`AUTHORS`."""

    created: int = 0
    """Unix seconds."""

    section: str = ""
    """Name of the UCI section where it is not ``rule<id>``."""


def parse_rule(
    fields: Mapping[str, object],
    *,
    id: int,  # noqa: A002 - the rule's field
    author: str,
    created: int,
) -> Rule:
    """The rule that ``fields``, named as :data:`FIELDS`, describe: API arguments, or UCI options.

    Values are text or integers; empty and ``None`` are as good as not there. ``node`` is a node's
    decision key. ``FieldError`` (a ``ValueError``) says what is wrong.
    """
    for name in fields:
        if name not in FIELDS:
            raise FieldError(name, fields[name], "left out", f"a rule has no field {shown(name)}")
    texts = {name: text for name in FIELDS if (text := text_of(name, fields.get(name)))}
    action = texts.get("action", "")
    if action not in ACTIONS:
        raise FieldError("action", action, "block or allow")
    if author not in AUTHORS:
        raise FieldError("author", author, ", ".join(AUTHORS[:-1]) + " or " + AUTHORS[-1])
    parties = [name for name in _PARTIES if name in texts]
    if len(parties) > 1:
        sentence = f"{' and '.join(parties)} cannot go together: give one of node, domain and ip"
        raise FieldError(parties[1], texts[parties[1]], f"only one of {' and '.join(parties)}", sentence)
    rule = Rule(
        id=id,
        action=action,
        device=parse_device("device", texts["device"]) if "device" in texts else None,
        node=parse_node("node", texts["node"]) if "node" in texts else "",
        domain=parse_domain("domain", texts["domain"]) if "domain" in texts else "",
        prefix=parse_prefix("ip", texts["ip"]) if "ip" in texts else None,
        port=parse_number("port", texts["port"], 0, 65535) if "port" in texts else 0,
        protocol=parse_protocol("protocol", texts.get("protocol", "any")),
        until=parse_number("until", texts["until"], 0, LATEST) if "until" in texts else 0,
        schedule=_schedule(texts.get("schedule", "")),
        comment=parse_text("comment", texts.get("comment", "")),
        author=author,
        created=created,
    )
    _check(rule)
    return rule


def _schedule(text: str) -> str:
    try:
        return str(parse_schedule(text)) if text else ""
    except ValueError as error:
        sentence = f"schedule: {error}"
        allowed = f"times of the week such as 'mon-fri 22:00-06:30, sat,sun 23:00-08:00' ({error})"
        raise FieldError("schedule", text, allowed, sentence) from None


def _check(rule: Rule) -> None:
    """Refuse what makes no sense together."""
    if rule.port and rule.protocol not in (0, IPPROTO_TCP, IPPROTO_UDP):
        name = show_protocol(rule.protocol)
        sentence = f"port goes with protocol tcp, udp or none, not with {name}"
        raise FieldError("port", rule.port, f"left out where protocol is {name}", sentence)
    if rule.until and rule.until <= rule.created:
        raise FieldError("until", rule.until, f"a time after the rule was made ({rule.created})")
    if rule.device is not None and rule.node == format_mac(rule.device):
        raise FieldError("node", rule.node, "another party than the device itself")
    if rule.device is None and not _what(rule):
        sentence = (
            f"a rule to {rule.action} everything for all devices would "
            f"{'cut the whole home' if rule.action == 'block' else 'undo every other'}: "
            "give device, node, domain, ip, port or protocol"
        )
        raise FieldError(
            "action", rule.action, "there only with device, node, domain, ip, port or protocol", sentence
        )


def _party(rule: Rule) -> bool:
    return bool(rule.node or rule.domain or rule.prefix is not None)


def _what(rule: Rule) -> bool:
    return bool(_party(rule) or rule.port or rule.protocol)


def rank(rule: Rule) -> tuple[int, int, int, int, int, int]:
    """Sorts rules by precedence: the smaller wins. The table in the module's docstring, as numbers."""
    allow = rule.action == "allow"
    party, what = _party(rule), _what(rule)
    alone = 1 if allow else 3
    category = (0 if what else alone) if rule.device is not None else 2 if what else 4
    form = 0 if rule.port else 1 if rule.protocol else 2
    if not party:
        form = 3 if rule.port else 4
    kind, specificity = _specificity(rule) if party else (0, 0)
    return AUTHORS.index(rule.author), category, form, kind, specificity, 0 if allow else 1


def _specificity(rule: Rule) -> tuple[int, int]:
    """(0, labels, negative) of a name, (1, host bits) of an address."""
    if rule.prefix is not None:
        address, bits = rule.prefix
        return 1, len(address) * 8 - bits
    if rule.node and _is_address(rule.node):
        return 1, 0
    return 0, -1 - (rule.node or rule.domain).count(".")


def _is_address(node: str) -> bool:
    """Whether a decision key is a MAC or an IP address."""
    try:
        parse_address(node)
    except ValueError:
        return len(node) == 17 and node.count(":") == 5
    return True


def to_json(rule: Rule) -> dict[str, Any]:
    """The rule as ``list_rules`` has it (API.md 1.2): only the fields that are set."""
    fields: dict[str, Any] = {"id": rule.id, "action": rule.action}
    fields |= {name: value for name, value in _fields(rule) if value}
    return fields | {"author": rule.author, "created": rule.created}


def to_options(rule: Rule) -> dict[str, str]:
    """The options of the rule's UCI section; ``parse_rule`` makes the same rule of them."""
    options = {"action": rule.action}
    options |= {name: str(value) for name, value in _fields(rule) if value}
    return options | {"author": rule.author, "created": str(rule.created)}


def _fields(rule: Rule) -> list[tuple[str, str | int]]:
    return [
        ("device", format_mac(rule.device) if rule.device is not None else ""),
        ("node", rule.node),
        ("domain", rule.domain),
        ("ip", show_prefix(rule.prefix) if rule.prefix is not None else ""),
        ("port", rule.port),
        ("protocol", show_protocol(rule.protocol)),
        ("until", rule.until),
        ("schedule", rule.schedule),
        ("comment", rule.comment),
    ]


def _utc(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def describe(rule: Rule, label: Callable[[str], str], moment: Callable[[int], str] = _utc) -> str:
    """A sentence for people, such as ``camera may not reach tracker.test, until 18:00``.

    ``label`` gives the name of a device or node by its decision key, ``moment`` the text of a Unix
    time.
    """
    if rule.device is not None:
        sentence = label(format_mac(rule.device)) + (
            " may reach " if rule.action == "allow" else " may not reach "
        )
    else:
        sentence = ("every" if rule.action == "allow" else "no") + " device may reach "
    if rule.node:
        sentence += label(rule.node)
    elif rule.prefix is not None:
        sentence += show_prefix(rule.prefix)
    else:
        sentence += rule.domain or "anything"
    parts = []
    if rule.protocol:
        parts.append(show_protocol(rule.protocol).upper())
    if rule.port:
        parts.append(f"port {rule.port}")
    if parts:
        sentence += f" on {' '.join(parts)}"
    if rule.schedule:
        sentence += f", at {rule.schedule}"
    if rule.until:
        sentence += f", until {moment(rule.until)}"
    return sentence
