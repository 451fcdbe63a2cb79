# SPDX-License-Identifier: GPL-2.0-or-later
"""``spind token``: tokens, with which programs log in to the web API.

Owns that a token is shown once, when it is made. What is in the file is ``web.tokens``'s.
"""

import argparse
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

from spind.atomic import StoreError
from spind.cli import DEFAULT_CONFIG
from spind.cli_secrets import content, rewrite, settings
from spind.text import inert
from spind.web import tokens
from spind.web.tokens import Token, TokenError

_EXAMPLES = """\
examples:
  spind token add grafana               may look, for 90 days; prints the token
  spind token add hub --role owner --days 365
  spind token list
  spind token remove grafana

A program sends its token with each request: 'Authorization: Bearer spind_...'. Only a hash of it is
kept: it cannot be shown again.
"""

_DAY = 86400
_MOST_DAYS = 3650


def register(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "token",
        help="make and list tokens, with which programs log in",
        description="Make and list tokens, with which programs log in.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    acts = parser.add_subparsers(dest="act", metavar="ACT", required=True)
    add = _act(acts, "add", "make a token and print it", _add)
    add.add_argument("name", metavar="NAME", help="what it is for")
    add.add_argument(
        "--role", choices=tokens.ROLES, default="viewer", help="what it may do (default: %(default)s)"
    )
    add.add_argument(
        "--days", metavar="N", type=_days, default=90, help="how long it holds (default: %(default)s)"
    )
    _act(acts, "list", "list the tokens", _list)
    _act(acts, "remove", "take a token back", _remove).add_argument("name", metavar="NAME", help="its name")


def _act(
    acts: "argparse._SubParsersAction[Any]",
    name: str,
    text: str,
    act: Callable[[argparse.Namespace, str], None],
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = acts.add_parser(name, help=text)
    parser.add_argument(
        "-c", "--config", metavar="FILE", default=DEFAULT_CONFIG, help="configuration (default: %(default)s)"
    )
    parser.add_argument("--file", metavar="FILE", help="token file (default: as configured)")

    def run(options: argparse.Namespace) -> int:
        try:
            path = options.file or settings(options.config).spinweb_token_file
            act(options, path)
        except (StoreError, TokenError) as error:
            sys.stderr.write(f"spind token: {inert(str(error), 1024)}\n")
            return 1
        return 0

    parser.set_defaults(run=run)
    return parser


def _days(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:6]) <= _MOST_DAYS):
        raise argparse.ArgumentTypeError(f"must be 1 to {_MOST_DAYS}")
    return int(text)


def _add(options: argparse.Namespace, path: str) -> None:
    secret = tokens.PREFIX + secrets.token_urlsafe(tokens.RANDOM_BYTES)
    now = int(time.time())
    token = Token(options.name, options.role, now, now + options.days * _DAY, tokens.digest(secret))
    rewrite(path, tokens.MAX_BYTES, lambda data: tokens.add(data, token))
    sys.stderr.write(f"Token of {token.name}, {token.role}, until {_date(token.expires)}; shown only now:\n")
    sys.stdout.write(secret + "\n")


def _list(_options: argparse.Namespace, path: str) -> None:
    found = tokens.parse(content(path, tokens.MAX_BYTES))
    now = time.time()
    for token in sorted(found.by_hash.values()):
        over = " (expired)" if now >= token.expires else ""
        sys.stdout.write(f"{token.role:<9} until {_date(token.expires)}  {token.name}{over}\n")
    for problem in found.problems:
        sys.stderr.write(f"{path}: {inert(problem)}\n")


def _remove(options: argparse.Namespace, path: str) -> None:
    if not content(path, tokens.MAX_BYTES):
        raise TokenError(f"there is no token {options.name!r:.70}")
    rewrite(path, tokens.MAX_BYTES, lambda data: tokens.remove(data, options.name))
    sys.stdout.write(f"Token {inert(options.name, 64)} is of no use any more.\n")


def _date(moment: int) -> str:
    try:
        return time.strftime("%Y-%m-%d", time.localtime(moment))
    except (OverflowError, ValueError, OSError):
        return "some day"
