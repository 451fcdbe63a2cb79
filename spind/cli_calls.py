# SPDX-License-Identifier: GPL-2.0-or-later
"""The subcommands that ask the running daemon (call, status, top), and what all that ask it need.

Owns where the daemon's socket is found, how long answers are read and how they are printed. ``cli``
imports this only when one of them is chosen.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spind.cli import DEFAULT_CONFIG
from spind.cli_text import UsageError, parse_arguments, readable
from spind.client import DEFAULT_SOCKET, CallError, Client, ClientError
from spind.text import inert, json_text

Json = dict[str, Any]

_PAGE = 500  # items of a page, the daemon's bound


class CommandError(Exception):
    """A subcommand failed; the sentence goes to standard error, ``status`` is its exit status."""

    def __init__(self, sentence: str, status: int = 1) -> None:
        super().__init__(sentence)
        self.status = status


def call(options: argparse.Namespace) -> int:
    """``spind call METHOD [name=value…]``."""
    with daemon(options) as client:
        try:
            params = parse_arguments(options.arguments, options.method, client.call("list_rpc_methods"))
        except UsageError as error:
            raise CommandError(str(error), 2) from error
        result = client.call(options.method, params)
    if result is not None or options.json:
        sys.stdout.write(json_text(result, indent=None if options.json else 2) + "\n")
    return 0


def status(options: argparse.Namespace) -> int:
    """``spind status``."""
    with daemon(options) as client:
        result = client.call("status")
    lines = [json_text(result)] if options.json else readable(result)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def top(options: argparse.Namespace) -> int:
    """``spind top``."""
    from spind.top import run  # noqa: PLC0415  (the others start faster without it)

    with daemon(options) as client:
        return run(client, options.interval, options.count)


@contextmanager
def daemon(options: argparse.Namespace) -> Iterator[Client]:
    """A connection whose failures are those of the subcommand."""
    try:
        with Client(options.socket or _configured_socket(options.config)) as client:
            yield client
    except (ClientError, CallError) as error:
        raise CommandError(inert(str(error))) from error


def pages(client: Client, method: str, params: Json | None = None, size: int = _PAGE) -> Iterator[Json]:
    """All items of a method that answers in pages, or with a list that ``limit`` and ``offset`` cut."""
    offset = 0
    while True:
        answer = client.call(method, {**(params or {}), "limit": size, "offset": offset})
        items = answer["items"] if isinstance(answer, dict) else answer
        yield from items
        offset += len(items)
        if not items or (isinstance(answer, dict) and offset >= answer["total"]):
            return


def nodes(client: Client, **params: Any) -> Iterator[Json]:
    """The nodes that ``list_nodes`` tells."""
    return pages(client, "list_nodes", params)


def say(lines: Iterable[str]) -> None:
    """Print lines for people; nothing in them reaches the terminal that does not print."""
    for line in lines:
        sys.stdout.write(inert(line, 4096) + "\n")


def say_json(value: object) -> None:
    """Print a value for programs."""
    sys.stdout.write(json_text(value) + "\n")


def _configured_socket(given: str | None) -> str:
    """The socket in a configuration file: the one given, or the usual one if it is there."""
    path = given or DEFAULT_CONFIG
    try:
        text = Path(path).read_text("utf-8", "replace")
    except FileNotFoundError as error:
        if given is None:
            return DEFAULT_SOCKET
        raise CommandError(f"{path} does not exist") from error
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    if "rpc_socket" not in text:
        return DEFAULT_SOCKET
    from spind import config, uci  # noqa: PLC0415  (takes longer than the rest together)

    try:
        return str(config.load(text)[0].rpc_socket)
    except uci.UciError as error:
        raise CommandError(f"{path}: {error}") from error
