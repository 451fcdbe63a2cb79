# SPDX-License-Identifier: GPL-2.0-or-later
"""The password file: who may log in, with which password. Pure.

Owns the file's format, which is ``mosquitto_passwd``'s, so that SPIN 1.0's files go on working and the
broker can use the same one:

    alice:$7$210000$<salt>$<hash>       PBKDF2 with HMAC-SHA-512 (RFC 8018 section 5.2), base64
    bob:$6$<salt>$<hash>                SHA-512 of password and salt, as Mosquitto 1.6 wrote it

A line that is empty or starts with ``#`` says nothing; one that is broken is reported and left out, while
the others hold. Roles are elsewhere (``web.roles``): this format has no place for them.

Must not read or write a file. ``verify`` takes as long as its purpose is: some 0.2 s.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from spind.hostile import NAME_LENGTH, clean_name

ITERATIONS: Final = 210_000
"""Of PBKDF2 with HMAC-SHA-512, as the OWASP Password Storage Cheat Sheet has it since 2023."""

MOST_ITERATIONS: Final = 10_000_000
"""Some 10 s on a PC; more is a mistake."""

SALT_BYTES: Final = 12
"""As ``mosquitto_passwd`` has it."""

LEAST_LENGTH: Final = 8
"""Characters of a new password (NIST SP 800-63B section 5.1.1.2); no rule says which."""

LONGEST: Final = 256
"""Characters of a password, so that nobody can have us hash megabytes."""

MAX_BYTES: Final = 64 * 1024
MAX_ACCOUNTS: Final = 256

_HASH_BYTES: Final = 64
_SHOWN: Final = 5  # problems that are told of one file


class AccountError(ValueError):
    """A name or password that cannot be. The text is for people."""


class Account(NamedTuple):
    """One user. ``iterations`` is 0 for the old kind of hash."""

    name: str
    iterations: int
    salt: bytes
    hash: bytes

    @property
    def stamp(self) -> str:
        """Changes with the password."""
        return hashlib.sha256(self.salt + self.hash).hexdigest()


class Accounts(NamedTuple):
    """What a file says. ``problems`` are sentences about lines that do not hold."""

    by_name: Mapping[str, Account] = MappingProxyType({})
    problems: tuple[str, ...] = ()

    def verify(self, name: str, password: str) -> Account | None:
        """The account, if that is its password; None else. It takes as long whether or not there is one."""
        account = self.by_name.get(name)
        target = account or _NOBODY
        secret = password.encode("utf-8", "surrogatepass")
        if target.iterations:
            found = hashlib.pbkdf2_hmac("sha512", secret, target.salt, target.iterations)
        else:
            found = hashlib.sha512(secret + target.salt).digest()
        # The dearest of the file is what everybody costs.
        missing = max((each.iterations for each in self.by_name.values()), default=0) - target.iterations
        if missing > 0:
            hashlib.pbkdf2_hmac("sha512", secret, target.salt, missing)
        return account if hmac.compare_digest(found, target.hash) else None


_NOBODY: Final = Account("", 0, bytes(SALT_BYTES), bytes(_HASH_BYTES))


def parse(data: bytes) -> Accounts:
    """The accounts in a file's content; never raises."""
    found: dict[str, Account] = {}
    problems: list[str] = []
    for number, line in enumerate(_lines(data), 1):
        try:
            if line and not line.startswith("#"):
                account = _account(line)
                if account.name in found or len(found) >= MAX_ACCOUNTS:
                    reason = f"is there twice, or after {MAX_ACCOUNTS} others: it does not hold"
                    problems.append(f"line {number}: {account.name!r} {reason}")
                else:
                    found[account.name] = account
        except AccountError as error:
            problems.append(f"line {number}: {error}")
    if len(problems) > _SHOWN:
        problems[_SHOWN:] = [f"{len(problems) - _SHOWN} more lines are wrong"]
    return Accounts(found, tuple(problems))


def check_name(name: str) -> str:
    """A user's name; ``AccountError`` says what is wrong with it."""
    try:
        clean = clean_name(name)
    except ValueError as error:
        raise AccountError(f"a name {error}") from error
    if not clean or clean != name or clean.startswith("#") or ":" in clean:
        raise AccountError(
            f"a name has 1 to {NAME_LENGTH} characters, no colon, no space at either end, no # in front"
        )
    return name


def check_password(password: str) -> str:
    """A new password; ``AccountError`` says what is wrong with it."""
    if len(password) < LEAST_LENGTH:
        raise AccountError(f"a password has at least {LEAST_LENGTH} characters; this one has {len(password)}")
    if not is_possible(password):
        raise AccountError(
            f"a password has at most {LONGEST} characters, is UTF-8, and has no line end or NUL"
        )
    return password


def is_possible(password: str) -> bool:
    """Whether it can be anybody's password: all else is refused without a look."""
    if not 0 < len(password) <= LONGEST or any(char in password for char in "\0\n\r"):
        return False
    return not any("\ud800" <= char <= "\udfff" for char in password)  # no UTF-8: no terminal can type it


def put(data: bytes, name: str, password: str, salt: bytes) -> bytes:
    """The file's content with a user's new password; all else stays as it is."""
    check_name(name)
    check_password(password)
    derived = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return _rewrite(data, name, [f"{name}:$7${ITERATIONS}${_text(salt)}${_text(derived)}"])


def remove(data: bytes, name: str) -> bytes:
    """The file's content without a user."""
    return _rewrite(data, name, [])


def mentions(data: bytes, name: str) -> bool:
    """Whether there is a line of this user's, be it a broken one."""
    return any(_about(line, name) for line in _lines(data))


def _rewrite(data: bytes, name: str, lines: list[str]) -> bytes:
    """Put ``lines`` where the first line about a user was, or at the end."""
    kept: list[str] = []
    at = None
    for line in _lines(data):
        if _about(line, name):
            at = len(kept) if at is None else at
        else:
            kept.append(line)
    while kept and not kept[-1]:
        kept.pop()
    at = len(kept) if at is None else min(at, len(kept))
    kept[at:at] = lines
    return "".join(f"{line}\n" for line in kept).encode("utf-8", "surrogateescape")


def _about(line: str, name: str) -> bool:
    return line.partition(":")[0] == name


def _lines(data: bytes) -> list[str]:
    # What is no UTF-8 stays as it is in lines that are not ours. Only \n ends a line, as in C.
    text = data.decode("utf-8", "surrogateescape")
    return [line.removesuffix("\r") for line in text.split("\n")]


def _account(line: str) -> Account:
    name, colon, secret = line.partition(":")
    if not colon:
        raise AccountError("no colon")
    check_name(name)
    fields = secret.split("$")
    if fields[:2] == ["", "7"] and len(fields) == 5:
        iterations = fields[2]
        if not (iterations.isascii() and iterations.isdecimal() and len(iterations) <= 8):
            raise AccountError("no number of iterations")
        if not 0 < int(iterations) <= MOST_ITERATIONS:
            raise AccountError(f"iterations must be 1 to {MOST_ITERATIONS}")
        return Account(name, int(iterations), _bytes(fields[3]), _hash(fields[4]))
    if fields[:2] == ["", "6"] and len(fields) == 4:
        return Account(name, 0, _bytes(fields[2]), _hash(fields[3]))
    raise AccountError(f"{name!r} has no hash of a kind known here: set the password with 'spind passwd'")


def _hash(text: str) -> bytes:
    value = _bytes(text)
    if len(value) != _HASH_BYTES:
        raise AccountError(f"a hash of {len(value)} bytes, not {_HASH_BYTES}")
    return value


def _bytes(text: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AccountError("salt and hash must be base64") from error
    if not 0 < len(value) <= _HASH_BYTES:
        raise AccountError(f"{len(value)} bytes of base64, where 1 to {_HASH_BYTES} may be")
    return value


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
