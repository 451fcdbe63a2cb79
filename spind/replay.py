# SPDX-License-Identifier: GPL-2.0-or-later
"""`spind replay FILE`: the command.

Owns the arguments, the order of output, progress and exit status. What is in the file is for
``replay_run`` to find out, how it is printed for ``replay_report``.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, TextIO

from spind.capfile import CapturedPacket, CaptureFileError, read_capture
from spind.commands import Command
from spind.model import parse_mac
from spind.replay_report import Record, Summary, flow_line
from spind.replay_routers import Prefix
from spind.replay_run import Outcome, Playback, replay
from spind.text import inert
from spind.tracker import CONNECTIONS

HELD: Final = CONNECTIONS
"""Ended connections that wait for their turn in the order of output."""

PROGRESS_BYTES: Final = 32 * 1024 * 1024
"""Size of a file from which on progress is worth telling."""


class FlowPrinter:
    """Prints connections as JSON lines, in the order of their first packets.

    A connection waits until the capture is over, since an earlier one may still be alive. Where
    more than ``HELD`` wait, those are printed, in order among themselves.
    """

    def __init__(self, out: TextIO, held: int = HELD) -> None:
        self._out = out
        self._held = held
        self._records: list[Record] = []

    def add(self, record: Record) -> None:
        """Take in one connection."""
        self._records.append(record)
        if len(self._records) >= self._held:
            self.flush()

    def flush(self) -> None:
        """Print what waits."""
        self._records.sort(key=lambda record: (record.conn.first, record.conn.cid))
        for record in self._records:
            self._out.write(flow_line(record) + "\n")
        self._records.clear()


class _Progress:
    """Tells on a terminal how far a large file has been read, once a second."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._told = time.monotonic()
        self._shown = False

    def __call__(self, packets: int, size: int) -> None:
        now = time.monotonic()
        if now - self._told < 1.0:
            return
        self._told = now
        self._shown = True
        # 16 bytes of header a record, as in pcap; of a compressed file the share is not known.
        share = 100 * (size + 16 * packets) / self._size
        text = f"{packets:,} packets" + (f", {share:.0f} %" if share <= 100 else "")
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _progress_for(path: str) -> _Progress | None:
    if path == "-" or not sys.stderr.isatty():
        return None
    try:
        size = Path(path).stat().st_size
    except (OSError, ValueError):
        return None
    return _Progress(size) if size >= PROGRESS_BYTES else None


def _interruptible(packets: Iterator[CapturedPacket]) -> Iterator[CapturedPacket]:
    """Make Ctrl-C the end of the capture, as it is for tcpdump before us in a pipe."""
    count = 0
    try:
        for packet in packets:
            yield packet
            count += 1
    except KeyboardInterrupt as error:
        raise CaptureFileError("interrupted", count) from error


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    # The tables hold no cycles, and only grow: looking for garbage in them costs a fifth of the time.
    gc.set_threshold(20_000, 20, 20)
    if arguments.web:
        return _web(arguments)
    if arguments.port is not None or arguments.play is not None:
        sys.stderr.write("spind replay: --port and --play go with --web\n")
        return 2
    progress = _progress_for(arguments.file)
    printer = FlowPrinter(sys.stdout)
    summary = Summary()
    outcome = replay(
        _interruptible(read_capture(arguments.file)),
        printer.add if arguments.flows else summary.add,
        lan=tuple(arguments.lan),
        gateways=frozenset(arguments.gateway),
        progress=progress,
    )
    if progress is not None:
        progress.clear()
    if arguments.flows:
        printer.flush()
    else:
        for line in summary.lines(outcome.engine.nodes, outcome.totals):
            sys.stdout.write(line + "\n")
    sys.stdout.flush()
    return _tell(arguments.file, outcome.error)


def _tell(file: str, error: CaptureFileError | None) -> int:
    """Say why the file was not read to its end, if so; the exit status."""
    if error is None:
        return 0
    read = error.packets_read
    after = f" after {read:,} packets, which are shown" if read else ""
    sys.stderr.write(f"spind replay: {file}: {error.message}{after}\n")
    return 1


def _web(arguments: argparse.Namespace) -> int:
    """Show the file in the Traffic Monitor; returns the exit status."""
    file: str = arguments.file
    if file == "-" and arguments.play is not None:
        sys.stderr.write("spind replay: --play wants a file: standard input cannot be read at leisure\n")
        return 2
    try:
        from spind import replay_web  # noqa: PLC0415  (which imports the HTTP server)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"spind replay: --web needs {error.name}, which is not installed\n")
        return 1
    progress = _progress_for(file) if arguments.play is None else None
    statuses = [0]

    def make(publish: Callable[[Command], None] | None) -> Playback:
        packets = read_capture(file)
        return Playback(
            _interruptible(packets) if publish is None else packets,
            lambda _record: None,
            lan=tuple(arguments.lan),
            gateways=frozenset(arguments.gateway),
            progress=progress,
            publish=publish,
        )

    def told(playback: Playback, url: str) -> None:
        count = len(playback.engine.nodes.devices)
        what = f"{count} device{'s' if count != 1 else ''}" if arguments.play is None else "the capture"
        sys.stdout.write(f"{url} shows {what} until Ctrl-C.\n")
        sys.stdout.flush()

    def ended(outcome: Outcome) -> None:
        if progress is not None:
            progress.clear()
        statuses.append(_tell(file, outcome.error))

    name = inert(Path(file).name, 100) if file != "-" else "standard input"
    port = replay_web.PORT if arguments.port is None else arguments.port
    served = replay_web.show(make, name, port, arguments.play, told, ended)
    return max(statuses) if served else 1


def _prefix(text: str) -> Prefix:
    network = ip_network(text, strict=False)
    return network.network_address.packed, network.prefixlen


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return port


def _speed(text: str) -> float:
    speed = float(text)
    if not 0.01 <= speed <= 10_000:
        raise argparse.ArgumentTypeError("must be 0.01 to 10000")
    return speed


def register(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the ``replay`` command to the parser of ``spind``."""
    parser = subparsers.add_parser(
        "replay",
        help="show what a capture file holds, as the daemon would have seen it",
        description="Read a capture (pcap or pcapng, gzip or not) through the daemon's engine.",
    )
    parser.add_argument("file", metavar="FILE", help="the capture file, or - for standard input")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--flows", action="store_true", help="print one JSON object a line per connection")
    form.add_argument("--summary", action="store_true", help="print tables for people (the default)")
    form.add_argument(
        "--web", action="store_true", help="show it in the Traffic Monitor, a web page on this machine"
    )
    parser.add_argument(
        "--port", metavar="N", type=_port, help="port of the page (default: 13027; 0: any that is free)"
    )
    parser.add_argument(
        "--play",
        metavar="SPEED",
        type=_speed,
        nargs="?",
        const=1.0,
        help="with --web: play it from its beginning, SPEED times as fast as it happened (default: 1)",
    )
    parser.add_argument(
        "--lan",
        metavar="PREFIX",
        type=_prefix,
        action="append",
        default=[],
        help="a prefix of the home, as 192.168.1.0/24; found out by itself where not given; repeatable",
    )
    parser.add_argument(
        "--gateway",
        metavar="MAC",
        type=parse_mac,
        action="append",
        default=[],
        help="a router's MAC, which then is no device; found out where not given; repeatable",
    )
    parser.set_defaults(run=main)
