# SPDX-License-Identifier: GPL-2.0-or-later
"""`spind replay FILE`: the command.

Owns the arguments, the order of output, progress and exit status. What is in the file is for
``replay_run`` to find out, how it is printed for ``replay_report``.
"""

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, TextIO

from spind.capfile import CapturedPacket, CaptureFileError, read_capture
from spind.model import parse_mac
from spind.replay_report import Record, Summary, flow_line
from spind.replay_routers import Prefix
from spind.replay_run import replay
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
    if outcome.error is not None:
        read = outcome.error.packets_read
        after = f" after {read:,} packets, which are shown" if read else ""
        sys.stderr.write(f"spind replay: {arguments.file}: {outcome.error.message}{after}\n")
        return 1
    return 0


def _prefix(text: str) -> Prefix:
    network = ip_network(text, strict=False)
    return network.network_address.packed, network.prefixlen


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
