# SPDX-License-Identifier: GPL-2.0-or-later
"""The roles of the password file's users. Pure.

Owns the format of the file beside it, which is called as it is with ``.roles`` at the end: one user a
line, ``ROLE NAME``. Who is not in it is an owner, as everybody was in SPIN 1.0.

It is a file of its own for three reasons. The password file has no place for roles, and
``mosquitto_passwd`` throws comments in it away, which would make owners of viewers. As an option of
the configuration a role would hold from the next reload on, while a password holds at once: in between
a new viewer would be an owner. And a role that is misspelt there would be the default instead, while
here it keeps its user out.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from spind.web.accounts import AccountError, check_name

ROLES: Final = ("owner", "viewer", "provider")

SUFFIX: Final = ".roles"

MAX_BYTES: Final = 64 * 1024

_SHOWN: Final = 5  # problems that are told of one file


class Roles(NamedTuple):
    """What a file says; a role that is misspelt, or given twice and differently, is empty."""

    by_name: Mapping[str, str] = MappingProxyType({})
    problems: tuple[str, ...] = ()

    def of(self, name: str) -> str:
        """The role of a user; empty where nobody can tell."""
        return self.by_name.get(name, "owner")


def parse(data: bytes) -> Roles:
    """The roles in a file's content; never raises."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        role, name = _split(line)
        try:
            check_name(name)
        except AccountError as error:
            problems.append(f"line {number}: {error}")
        if role not in ROLES or found.get(name, role) != role:
            problems.append(f"line {number}: {name!r:.70} cannot log in: one of {', '.join(ROLES)}, once")
            role = ""
        found[name] = role
    if len(problems) > _SHOWN:
        problems[_SHOWN:] = [f"{len(problems) - _SHOWN} more lines are wrong"]
    return Roles(found, tuple(problems))


def put(data: bytes, name: str, role: str) -> bytes:
    """The file's content with a user's new role; all else stays as it is."""
    check_name(name)
    if role not in ROLES:
        raise AccountError(f"a role is one of {', '.join(ROLES)}")
    kept = [
        line
        for line in data.decode("utf-8", "surrogateescape").split("\n")
        if line.startswith("#") or _split(line)[1] != name
    ]
    while kept and not kept[-1]:
        kept.pop()
    if role != "owner":
        kept.append(f"{role} {name}")
    return "".join(f"{line}\n" for line in kept).encode("utf-8", "surrogateescape")


def _split(line: str) -> tuple[str, str]:
    words = line.split(None, 1)
    return (words[0], words[1].strip()) if len(words) == 2 else (line.strip(), "")
