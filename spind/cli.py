# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``spind`` and its subcommands.

Owns arguments, exit statuses (0 done, 1 refused or failed, 2 wrong usage) and what is printed
where: results on standard output, sentences about failure on standard error. Each subcommand
imports only what it needs, so that ``spind call`` starts fast and the daemon stays small.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from spind import __version__

DEFAULT_CONFIG = "/etc/config/spin"
LOG_LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")

Subparsers = argparse._SubParsersAction  # noqa: SLF001  (argparse has no public name for it)

# Subcommands with which people decide, in cli_acts: one line for --help.
_ACTS = {
    "block": "keep a device, a party, or a device from a party",
    "allow": "make an exception for a device, a party, or a device and a party",
    "unblock": "take blocks back",
    "rules": "list what is blocked and allowed",
    "rename": "call a device or party by a name",
    "ignore": "hide a device or party from what is shown",
    "unignore": "show it again",
    "profile": "list profiles, or give a device one",
    "audit": "list what was decided, the latest first",
    "undo": "take a decision back",
}

# Subcommands that live in modules of their own, which have register(): (module, one line for --help).
_MODULES = {
    "passwd": ("spind.cli_passwd", "say who may log in to the web page, and set passwords"),
    "token": ("spind.cli_token", "make and list tokens, with which programs log in"),
    "replay": ("spind.replay", "show what a capture file holds, as the daemon would have seen it"),
    "lab": ("spind.lab.cli", "a home in network namespaces, to try and to test"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``spind``; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(words)
    options, rest = parser.parse_known_args(words)
    if rest and options.subcommand == "call" and not any(word.startswith("-") for word in rest):
        options.arguments += rest  # argparse loses positional words behind an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    run: Callable[[argparse.Namespace], int] = getattr(options, "run", None) or options.func
    try:
        status = run(options)
        sys.stdout.flush()  # here, where its failure is handled
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain at exit about the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spind",
        description="Shows and controls what the devices in a home do on the network.",
        epilog="'spind COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"spind {__version__}")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_call(commands)
    _add_status(commands)
    _add_top(commands)
    chosen = next((word for word in words if not word.startswith("-")), "")
    for name, (module, text) in _MODULES.items():
        if name != chosen:
            commands.add_parser(name, help=text)
            continue
        try:
            importlib.import_module(module).register(commands)
        except ModuleNotFoundError as error:
            parser.exit(1, f"spind {name}: not part of this installation ({error.name} is missing)\n")
    for name, text in _ACTS.items():
        if name != chosen:
            commands.add_parser(name, help=text)
        else:
            importlib.import_module("spind.cli_acts").register(name, _add(commands, name, text))
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return parser


def _add(commands: "Subparsers[Any]", name: str, text: str, examples: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_socket(parser: argparse.ArgumentParser) -> None:
    """The options that say where the daemon's socket is."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "-c", "--config", metavar="FILE", help=f"the daemon's configuration (default: {DEFAULT_CONFIG})"
    )
    where.add_argument("--socket", metavar="PATH", help="the daemon's socket (default: as configured)")


def _add_run(commands: "Subparsers[Any]") -> None:
    parser = _add(
        commands,
        "run",
        "run the daemon, in the foreground",
        "  spind run\n  spind run -c ./spin.uci --log-level debug",
    )
    parser.add_argument(
        "-c", "--config", metavar="FILE", default=DEFAULT_CONFIG, help="configuration (default: %(default)s)"
    )
    parser.add_argument("--foreground", action="store_true", help="stay in the foreground (it always does)")
    parser.add_argument(
        "--log-level",
        metavar="LEVEL",
        type=_log_level,
        help="least important level to log, 0 to 7 or a name (error, warning, notice, info, debug);"
        " default: as configured",
    )
    parser.set_defaults(run=_run)


def _add_call(commands: "Subparsers[Any]") -> None:
    parser = _add(
        commands,
        "call",
        "call a method of the running daemon",
        "  spind call list_devices\n"
        "  spind call list_flows device=02:00:00:00:00:01 limit=10\n"
        "  spind call set_device_name node=4 name='Living room'\n"
        "  spind call list_rpc_methods --json | jq -r '.[]|.\"rpc-name\"'",
    )
    parser.add_argument("method", metavar="METHOD", help="a name that list_rpc_methods tells")
    parser.add_argument("arguments", metavar="name=value", nargs="*", help="values as text or JSON")
    parser.add_argument("--json", action="store_true", help="print the result on one line")
    add_socket(parser)
    parser.set_defaults(run=_ask("call"))


def _add_status(commands: "Subparsers[Any]") -> None:
    examples = "  spind status\n  spind status --json | jq .uptime"
    parser = _add(commands, "status", "show how the daemon is doing", examples)
    parser.add_argument("--json", action="store_true", help="print it as JSON on one line")
    add_socket(parser)
    parser.set_defaults(run=_ask("status"))


def _add_top(commands: "Subparsers[Any]") -> None:
    parser = _add(
        commands,
        "top",
        "show live who talks to whom",
        "  spind top\n  spind top --once\n  spind top --interval 10 --count 6 >log",
    )
    parser.add_argument(
        "--interval", metavar="SECONDS", type=_interval, default=2.0, help="between samples (default: 2)"
    )
    times = parser.add_mutually_exclusive_group()
    times.add_argument(
        "--once", action="store_const", const=1, default=0, dest="count", help="one interval, printed"
    )
    times.add_argument("--count", metavar="N", type=_count, default=0, help="this many intervals, printed")
    add_socket(parser)
    parser.set_defaults(run=_ask("top"))


def _log_level(text: str) -> int:
    if text in LOG_LEVELS:
        return LOG_LEVELS.index(text)
    if text in tuple("01234567"):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither 0 to 7 nor one of {', '.join(LOG_LEVELS)}")


def _interval(text: str) -> float:
    value = float(text)
    if not 0.2 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be 0.2 to 3600 seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _run(options: argparse.Namespace) -> int:
    # Until the daemon handles it: a reload at boot must not end it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from spind import daemon  # noqa: PLC0415  (and nothing else imports it)

    return daemon.main(options.config, options.log_level)


def _ask(name: str) -> Callable[[argparse.Namespace], int]:
    """A subcommand of ``cli_calls``, which is imported when it is run."""

    def run(options: argparse.Namespace) -> int:
        from spind import cli_calls  # noqa: PLC0415

        try:
            status: int = getattr(cli_calls, name)(options)
        except cli_calls.CommandError as error:
            sys.stderr.write(f"spind {name}: {error}\n")
            return error.status
        return status

    return run


def _version(_options: argparse.Namespace) -> int:
    sys.stdout.write(f"spind {__version__}\n")
    return 0
