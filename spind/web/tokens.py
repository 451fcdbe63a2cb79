# SPDX-License-Identifier: GPL-2.0-or-later
"""Tokens: how programs say who they are (RFC 6750). Pure.

Owns the token file's format: one token a line, of which only the SHA-256 is kept (a token is random and
long, so that nothing slower is needed), with its role and the times in Unix seconds:

    NAME ROLE CREATED EXPIRES SHA256

A line that is broken is reported and left out. Must not read or write a file, nor make randomness.
"""

import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

PREFIX: Final = "spind_"
"""What tokens begin with, so that people and secret scanners see what they are."""

RANDOM_BYTES: Final = 32

ROLES: Final = ("viewer", "owner", "provider")

MAX_BYTES: Final = 64 * 1024
MAX_TOKENS: Final = 256

_HEAD: Final = b"# Tokens of spind, for programs: see 'spind token --help'.\n"
_LONGEST: Final = 128
_SHOWN: Final = 5
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LINE: Final = re.compile(
    r"([A-Za-z0-9_.-]{1,64}) ([a-z]{1,16}) ([0-9]{1,12}) ([0-9]{1,12}) ([0-9a-f]{64})", re.ASCII
)


class TokenError(ValueError):
    """A token that cannot be. The text is for people."""


class Token(NamedTuple):
    """What is known of one; times are Unix seconds."""

    name: str
    role: str
    created: int
    expires: int
    hash: str


class Tokens(NamedTuple):
    """What a file says. ``problems`` are sentences about lines that do not hold."""

    by_hash: Mapping[str, Token] = MappingProxyType({})
    problems: tuple[str, ...] = ()

    def find(self, secret: str, now: float) -> Token | None:
        """Whose token it is; None where it is nobody's, or no longer."""
        if not secret.startswith(PREFIX) or len(secret) > _LONGEST:
            return None
        token = self.by_hash.get(digest(secret))
        return token if token is not None and now < token.expires else None


def digest(secret: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def parse(data: bytes) -> Tokens:
    """The tokens in a file's content; never raises."""
    found: dict[str, Token] = {}
    names: set[str] = set()
    problems: list[str] = []
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or match[2] not in ROLES:
            problems.append(f"line {number}: expected NAME ROLE CREATED EXPIRES SHA256")
        elif match[1] in names or len(found) >= MAX_TOKENS:
            problems.append(f"line {number}: a second token {match[1]}, or more than {MAX_TOKENS}")
        else:
            names.add(match[1])
            found[match[5]] = Token(match[1], match[2], int(match[3]), int(match[4]), match[5])
    if len(problems) > _SHOWN:
        problems[_SHOWN:] = [f"{len(problems) - _SHOWN} more lines are wrong"]
    return Tokens(found, tuple(problems))


def add(data: bytes, token: Token) -> bytes:
    """The file's content with one token more; ``TokenError`` where that cannot be."""
    if not _NAME.fullmatch(token.name):
        raise TokenError("a token's name has 1 to 64 letters, digits, dots, dashes and underscores")
    if token.role not in ROLES:
        raise TokenError(f"a role is one of {', '.join(ROLES)}")
    there = parse(data).by_hash.values()
    if any(each.name == token.name for each in there):
        raise TokenError(f"there is a token {token.name} already: remove it first")
    if len(there) >= MAX_TOKENS:
        raise TokenError(f"there are {MAX_TOKENS} tokens, more are not allowed")
    if not data:
        data = _HEAD
    if not data.endswith(b"\n"):
        data += b"\n"
    return data + " ".join(map(str, token)).encode("ascii") + b"\n"


def remove(data: bytes, name: str) -> bytes:
    """The file's content without a token; ``TokenError`` where there is none of that name."""
    lines = data.split(b"\n")
    kept = [line for line in lines if line.split(b" ")[0] != name.encode("utf-8", "surrogatepass")]
    if len(kept) == len(lines) or not _NAME.fullmatch(name):
        raise TokenError(f"there is no token {name!r:.70}")
    return b"\n".join(kept)
