# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz targets: the files that say who may log in. Others write them, too, and none may break a login."""

import base64
import hashlib

from fuzz_targets import Target

from spind.web import accounts, roles, tokens
from spind.web.accounts import Accounts
from spind.web.roles import Roles
from spind.web.tokens import Token, Tokens

SALT = bytes(range(12))
HASH = base64.b64encode(hashlib.sha512(b"secret").digest())
PASSWORDS = [
    b"alice:$7$101$AAECAwQFBgcICQoL$" + HASH + b"\n",
    b"# ours\nbob:$6$AAECAwQFBgcICQoL$" + HASH + b"\ncarol:$7$1$AAAA$" + HASH + b"\n",
    "käse und brot:$6$AAAA$".encode() + HASH,
]
ROLES = [b"viewer alice\n", "# ours\nprovider käse und brot\nowner bob\n".encode()]
TOKENS = [
    tokens.add(b"", Token("hub", "owner", 1, 2, "a" * 64)),
    tokens.add(
        tokens.add(b"", Token("a.b-c_d", "viewer", 0, 9, "b" * 64)), Token("x", "provider", 1, 2, "c" * 64)
    ),
]


def read_accounts(data: bytes) -> Accounts | None:
    found = accounts.parse(data)
    return found if found.by_name else None


def check_accounts(data: bytes, found: Accounts) -> None:
    assert len(found.by_name) <= accounts.MAX_ACCOUNTS
    assert all(problem.isprintable() and len(problem) < 500 for problem in found.problems)
    for name, account in found.by_name.items():
        assert accounts.check_name(name) == account.name
        assert 0 <= account.iterations <= accounts.MOST_ITERATIONS
        assert len(account.hash) == 64
        # Removing one user takes nobody else along, unless a second line of the same name takes over.
        rest = accounts.parse(accounts.remove(data, name)).by_name
        assert rest.keys() >= found.by_name.keys() - {name}
        assert name not in rest


def read_roles(data: bytes) -> Roles | None:
    found = roles.parse(data)
    return found if any(found.by_name.values()) else None


def check_roles(data: bytes, found: Roles) -> None:
    assert all(problem.isprintable() and len(problem) < 500 for problem in found.problems)
    assert set(found.by_name.values()) <= {*roles.ROLES, ""}
    after = roles.parse(roles.put(data, "dave", "viewer"))
    assert after.of("dave") == "viewer"
    assert all(after.of(name) == role for name, role in found.by_name.items() if name != "dave")


def read_tokens(data: bytes) -> Tokens | None:
    found = tokens.parse(data)
    return found if found.by_hash else None


def check_tokens(data: bytes, found: Tokens) -> None:
    assert len(found.by_hash) <= tokens.MAX_TOKENS
    assert all(problem.isprintable() and len(problem) < 500 for problem in found.problems)
    for key, token in found.by_hash.items():
        assert key == token.hash
        assert token.role in tokens.ROLES
        rest = tokens.parse(tokens.remove(data, token.name)).by_hash.values()
        assert token.name not in {each.name for each in rest}


TARGETS = {
    "web-passwords": Target(
        read_accounts, (), PASSWORDS, (b"$7$", b"$6$", b":", b"\n", b"#", b"=", b"alice:"), check_accounts
    ),
    "web-roles": Target(
        read_roles, (), ROLES, (b"viewer ", b"owner ", b" ", b"\n", b"#", b"\r", b"alice"), check_roles
    ),
    "web-tokens": Target(
        read_tokens, (), TOKENS, (b" ", b"\n", b"#", b"viewer", b"9999999999"), check_tokens
    ),
}
