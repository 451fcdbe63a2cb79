# SPDX-License-Identifier: GPL-2.0-or-later
"""``spind passwd``: who may log in to the web page.

Owns how a password is asked for: never on the command line, where others would see it. What is in the
file is ``web.accounts``'s.
"""

import argparse
import getpass
import secrets
import sys
import warnings
from typing import Any

from spind.atomic import StoreError
from spind.cli import DEFAULT_CONFIG
from spind.cli_secrets import content, rewrite, set_option, settings
from spind.config_options import Config
from spind.text import inert
from spind.web import accounts, roles
from spind.web.accounts import AccountError

DEFAULT_FILE = "/etc/spin/passwd"
"""Where the password file is made, if the configuration names none."""

OPTION = "spinweb_password_file"

_EXAMPLES = """\
examples:
  spind passwd alice                    ask for her password, twice
  spind passwd --role viewer guest      who may look, and change nothing
  spind passwd --list
  spind passwd --delete guest
  pwgen 20 1 | spind passwd alice       the password is the first line

Who has no role given is an owner. With --role a user who is there keeps the password. The file is
the one that spinweb_password_file names; if that is not set, it becomes /etc/spin/passwd.
"""


def register(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "passwd",
        help="say who may log in to the web page, and set passwords",
        description="Say who may log in to the web page, and set passwords.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="the user")
    parser.add_argument(
        "-c", "--config", metavar="FILE", default=DEFAULT_CONFIG, help="configuration (default: %(default)s)"
    )
    parser.add_argument("--file", metavar="FILE", help="password file (default: as configured)")
    acts = parser.add_mutually_exclusive_group()
    acts.add_argument("--role", choices=roles.ROLES, help="what the user may do (default: owner)")
    acts.add_argument("--delete", action="store_true", help="the user may not log in any more")
    acts.add_argument("--list", action="store_true", help="list the users")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if bool(options.name) == options.list:
        sys.stderr.write("spind passwd: give the name of a user, or --list\n")
        return 2
    try:
        config = settings(options.config) if options.file is None else Config()
        path = options.file or config.spinweb_password_file
        if options.list:
            return _list(path)
        accounts.check_name(options.name)
        if options.delete:
            return _delete(path, options.name)
        _set(path or DEFAULT_FILE, options.name, options.role)
        if not path:
            set_option(options.config, OPTION, DEFAULT_FILE)
            _say(
                f"{options.config}: {OPTION} is {DEFAULT_FILE} now.",
                "From now on its users log in, and nobody else (on OpenWrt not root, either).",
                "Have the daemon read that: 'service spin reload' on OpenWrt, else send it SIGHUP.",
            )
        if options.role == "provider" and config.spinweb_provider == "off" and options.file is None:
            _say("The role provider lets nobody in until the option spinweb_provider is view or act.")
    except (StoreError, AccountError, _InputError) as error:
        sys.stderr.write(f"spind passwd: {inert(str(error), 1024)}\n")
        return 1
    return 0


class _InputError(Exception):
    """There is no password to be had. The text is for people."""


def _list(path: str) -> int:
    found = accounts.parse(content(path, accounts.MAX_BYTES) if path else b"")
    known = roles.parse(content(path + roles.SUFFIX, roles.MAX_BYTES) if path else b"")
    for name in sorted(found.by_name):
        sys.stdout.write(f"{known.of(name) or '(none)':<9} {inert(name)}\n")
    for where, problems in ((path, found.problems), (path + roles.SUFFIX, known.problems)):
        for problem in problems:
            sys.stderr.write(f"{where}: {inert(problem)}\n")
    if not found.by_name:
        where = f"in {path}" if path else f"yet, since {OPTION} is not set"
        sys.stderr.write(f"There are no users {where}; 'spind passwd NAME' makes one.\n")
    return 0


def _delete(path: str, name: str) -> int:
    if not path or not accounts.mentions(content(path, accounts.MAX_BYTES), name):
        raise AccountError(f"there is no user {name!r}")
    rewrite(path, accounts.MAX_BYTES, lambda data: accounts.remove(data, name))
    _put_role(path, name, "owner")
    _say(f"{name} cannot log in any more.")
    if not accounts.parse(content(path, accounts.MAX_BYTES)).by_name:
        _say("Nobody can log in now.")
    return 0


def _set(path: str, name: str, role: str | None) -> None:
    there = name in accounts.parse(content(path, accounts.MAX_BYTES)).by_name
    before = roles.parse(content(path + roles.SUFFIX, roles.MAX_BYTES)).by_name.get(name, "owner")
    if there and role is not None:
        _put_role(path, name, role)
        _say(f"{name} is {role} now; the password is as it was.")
        return
    password = accounts.check_password(_ask())
    if not there:
        _put_role(path, name, role or "owner")  # first: nobody shall be more than that for a moment
    salt = secrets.token_bytes(accounts.SALT_BYTES)
    rewrite(path, accounts.MAX_BYTES, lambda data: accounts.put(data, name, password, salt))
    what = f"has a new password, as {before or '(none)'}" if there else f"can log in, as {role or 'owner'}"
    _say(f"{name} {what} ({path}).")


def _put_role(path: str, name: str, role: str) -> None:
    beside = path + roles.SUFFIX
    if role != "owner" or name in roles.parse(content(beside, roles.MAX_BYTES)).by_name:
        rewrite(beside, roles.MAX_BYTES, lambda data: roles.put(data, name, role))


def _ask() -> str:
    """A password, from the terminal without echo, or the first line of what comes in."""
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline(4 * accounts.LONGEST + 3)
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise _InputError("the password is no UTF-8") from error
        if not text:
            raise _InputError("no password came in")
        return text.removesuffix("\n").removesuffix("\r")
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)  # it would be shown while it is typed
        try:
            password = accounts.check_password(getpass.getpass("Password: "))
            if getpass.getpass("The same again: ") != password:
                raise _InputError("the two are not the same; nothing was changed")
        except getpass.GetPassWarning as error:
            raise _InputError("this terminal would show the password") from error
        except EOFError as error:
            raise _InputError("no password came in") from error
    return password


def _say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(inert(line) + "\n")
