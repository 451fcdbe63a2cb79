# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of option values: what text is allowed, and what it means. Pure.

Must not know which options there are (that is ``config``).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from spind.ignore import parse_prefix
from spind.model import format_address, parse_address
from spind.profiles import parse_entry
from spind.rule_fields import parse_domain


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value.

    ``allowed`` says in words what is allowed, for the log and the documentation. ``parse`` gives
    the value of a text, ``ValueError`` where it is not allowed; ``show`` is its reverse. A kind
    with ``most`` is a list of up to that many such values, written as ``list`` or as one
    ``option`` whose entries stand apart by commas or spaces; ``parse`` and ``show`` are for one,
    and ``entry`` says what is allowed for one.
    """

    allowed: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    most: int = 0
    entry: str = ""


def matching(allowed: str, pattern: str) -> Kind:
    """Text that a regular expression matches as a whole."""
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(text)
        return text

    return Kind(allowed, parse)


def integer(least: int, most: int) -> Kind:
    """A decimal integer in a range."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= most:
            raise ValueError(text)
        return int(text)

    return Kind(f"an integer from {least} to {most}", parse)


def seconds(least: float, most: float) -> Kind:
    """A time in seconds, with a fraction if need be."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) or not least <= float(text) <= most:
            raise ValueError(text)
        return float(text)

    return Kind(f"seconds, from {least:g} to {most:g}", parse, "{:g}".format)


def choice(*words: str) -> Kind:
    """One of a few words."""
    return matching(f"{', '.join(words[:-1])} or {words[-1]}", "|".join(map(re.escape, words)))


def text(longest: int) -> Kind:
    """Printable text that nothing else is known about, such as a user's name."""

    def parse(value: str) -> str:
        if len(value) > longest or not value.isprintable():
            raise ValueError(value)
        return value

    return Kind(f"printable text of at most {longest} characters", parse)


def path(longest: int) -> Kind:
    """An absolute path of at most ``longest`` bytes."""

    def parse(value: str) -> str:
        if not value.startswith("/") or not value.isprintable() or len(value.encode()) > longest:
            raise ValueError(value)
        return value

    return Kind(f"an absolute path of at most {longest} bytes", parse)


def list_of(item: Kind, most: int) -> Kind:
    """Up to ``most`` values of a kind."""
    return Kind(f"up to {most} entries, each {item.allowed}", item.parse, item.show, most, item.allowed)


def _flag(value: str) -> bool:
    if value in {"1", "yes", "on", "true", "enabled"}:
        return True
    if value in {"0", "no", "off", "false", "disabled"}:
        return False
    raise ValueError(value)


def _mask(value: str) -> int:
    if not re.fullmatch("(0[xX])?[0-9a-fA-F]{1,8}", value) or int(value, 16).bit_count() < 3:
        raise ValueError(value)
    return int(value, 16)


def _topic(value: str) -> str:
    if not value.isprintable() or len(value.encode()) > 200 or "+" in value or "#" in value:
        raise ValueError(value)
    return value


def _address(value: str) -> str:
    return format_address(parse_address(value))


def _host(value: str) -> str:
    if ":" in value:
        return _address(value)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", value):
        raise ValueError(value)
    return value


def _server(value: str) -> str:
    try:
        return _address(value)
    except ValueError:
        return parse_domain("name", value)


def _prefix(value: str) -> str:
    if len(value) > 64 or "%" in value:
        raise ValueError(value)
    parse_prefix(value)
    return value


FLAG = Kind("0 or 1", _flag, lambda value: str(int(value)))
"""Besides, the other words that OpenWrt's scripts take for a boolean (``config_get_bool``)."""

MASK = Kind("a mask of 32 bits in hexadecimal, at least three of them set", _mask, "0x{:08x}".format)
"""Bits of a mark: ``ruleset.Marks`` needs three."""

TOPIC = Kind("an MQTT topic of at most 200 printable bytes without + and #", _topic)
"""A topic that one can publish to (MQTT 3.1.1 section 4.7)."""

ADDRESS = Kind("an IP address", _address)
"""An address in text, as sockets take it."""

HOST = Kind("a host name or an IP address", _host)
"""Where to connect to."""

PREFIX = Kind("an IP address or prefix, such as 192.0.2.1 or 2001:db8::/32", _prefix)
"""Host bits may be set, as people write it."""

NETWORK = matching("the name of a network or interface", r"(?!\.{1,2}$)[A-Za-z0-9_.:@-]{1,32}")
"""A network of ``/etc/config/network``, or an interface."""

SOCKET = path(107)
"""The kernel's limit of a socket's path, less the NUL (``sun_path``, unix(7))."""

PATH = path(1024)
"""Of a file or directory."""

PORT = integer(1, 65535)

DOMAIN = matching("a domain", "[!-~]{1,1024}")
"""A name as it comes out of DNS: printable ASCII, odd bytes escaped (RFC 1035 section 5.1)."""

SERVER = Kind("a host name such as dns.example.org or an IP address", _server)
"""A party on the internet; names in lower case."""

PROFILE = matching("the name of a section config profile, or of a shipped profile", "[A-Za-z0-9_]{1,64}")

LISTED_DOMAIN = Kind(
    "a host name or domain such as example.org, no public suffix", partial(parse_entry, "allow_domain")
)
"""In a profile's list."""

LISTED_PREFIX = Kind("an IP address or prefix, home or internet", partial(parse_entry, "allow_ip"))
"""In a profile's list."""
