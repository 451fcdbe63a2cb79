# SPDX-License-Identifier: GPL-2.0-or-later
"""``spind lab ...``: the lab's command line. Reads arguments, calls the lab, prints; decides nothing else."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from spind.lab import behaviours, demo, runtime, traffic
from spind.lab.errors import LabError
from spind.lab.lab import Lab, require_root
from spind.lab.plan import MAX_DEVICES

_DESCRIPTION = """\
A whole home on this machine, in network namespaces: a gateway (DHCP, router advertisements, DNS,
NAT, firewall), devices that behave like a camera, a plug, a television, a phone and a hub, and an
internet with names and servers. Needs root. Nothing outside its namespaces changes.
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``lab`` and its commands. Each sets ``func``, which takes the arguments and returns a status."""
    lab = subparsers.add_parser("lab", help="a home in network namespaces", description=_DESCRIPTION)
    commands = lab.add_subparsers(dest="lab_command", metavar="COMMAND", required=True)

    up = _command(commands, "up", _up, "build a lab and leave it running", "Prints the lab's name.")
    up.add_argument("--name", help="name of the lab (default: one is made)")
    up.add_argument("--seed", type=int, default=1, help="decides what devices do (default: %(default)s)")
    up.add_argument("--devices", type=int, default=5, help=f"1 to {MAX_DEVICES} (default: %(default)s)")
    up.add_argument("--offload", action="store_true", help="forward through an nft flow table")

    down = _command(
        commands, "down", _down, "take labs down", "Ends everything that runs in them and removes all of it."
    )
    which = down.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", metavar="NAME", help="the lab")
    which.add_argument("--all", action="store_true", help="all labs on this machine, whoever uses them")
    which.add_argument("--stale", action="store_true", help="labs whose owner was killed")

    _command(commands, "list", _list, "list labs", "One line for each lab on this machine.")

    execute = _command(
        commands,
        "exec",
        _exec,
        "run a command on one of a lab's machines",
        "NODE is gw (the gateway), net (the internet) or a device. Example:"
        " spind lab exec spl1a2b3 phone -- curl https://www.shop.test/",
    )
    execute.add_argument("name", metavar="NAME", help="the lab")
    execute.add_argument("node", metavar="NODE", help="gw, net or a device")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="what to run")

    busy = _command(
        commands, "traffic", _traffic, "set a lab's devices in motion", "Prints what they did, as a summary."
    )
    busy.add_argument("name", metavar="NAME", help="the lab")
    _traffic_arguments(busy, seconds=30.0)

    show = _command(
        commands,
        "demo",
        _demo,
        "show spind at work",
        "Builds a lab with spind and an MQTT broker in its gateway, sets the devices in motion and shows"
        " what spind sees, here and on a page for browsers, until Ctrl-C. Takes everything down at the end.",
    )
    _traffic_arguments(show, seconds=traffic.MAX_SECONDS)
    show.add_argument(
        "--port",
        type=int,
        metavar="PORT",
        help=f"port of this machine's loopback for the page (default: {demo.PAGE_PORT}, or any that is free)",
    )


def _command(commands: Any, name: str, func: Any, short: str, long: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=short, description=f"{short[0].upper()}{short[1:]}. {long}"
    )
    parser.set_defaults(func=_guarded(func))
    return parser


def _traffic_arguments(parser: argparse.ArgumentParser, seconds: float) -> None:
    parser.add_argument("--seconds", type=float, default=seconds, help="how long (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="decides what devices do (default: the lab's)")
    parser.add_argument(
        "--misbehave",
        action="append",
        default=[],
        metavar="DEVICE:KIND",
        help=f"let a device also do harm; KIND is one of {', '.join(behaviours.MISBEHAVIOURS)}; repeatable",
    )


def _guarded(func: Any) -> Any:
    def guarded(arguments: argparse.Namespace) -> int:
        try:
            require_root()
            return int(func(arguments))
        except LabError as error:
            sys.stderr.write(f"spind lab: {error}\n")
            return 1

    return guarded


def _misbehaviours(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition(":") for word in words]
    for device, _, kind in pairs:
        if not device or not kind:
            raise LabError(f"--misbehave wants DEVICE:KIND, not {device!r}")
    return {device: kind for device, _, kind in pairs}


def _up(arguments: argparse.Namespace) -> int:
    lab = Lab(arguments.name, arguments.seed, arguments.devices, offload=arguments.offload)
    lab.up()
    lab.hand_over()
    sys.stdout.write(f"{lab.name}\n")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    if arguments.stale:
        names = runtime.reap()
    else:
        names = runtime.names() if arguments.all else [arguments.name]
        for name in names:
            runtime.destroy(name)
    for name in names:
        sys.stderr.write(f"{name} is gone\n")
    return 0


def _list(_: argparse.Namespace) -> int:
    for name in runtime.names():
        state = runtime.read_state(name)
        owner = state.get("owner")
        if runtime.is_stale(state):
            condition = "stale"
        else:
            condition = f"used by process {owner['pid']}" if owner else "running"
        devices = " ".join(spec["name"] for spec in state["devices"])
        sys.stdout.write(f"{name}  {condition}  {devices}\n")
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    node = Lab.attach(arguments.name).node(arguments.node)
    words = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not words:
        raise LabError("exec wants a command: spind lab exec NAME NODE -- COMMAND ...")
    argv = node.command(words)
    sys.stdout.flush()
    os.execvpe(argv[0], argv, node.environment())  # noqa: S606 - an argument list, no shell


def _traffic(arguments: argparse.Namespace) -> int:
    lab = Lab.attach(arguments.name)
    misbehave = _misbehaviours(arguments.misbehave)
    report = traffic.run(lab, arguments.seconds, seed=arguments.seed, misbehave=misbehave)
    sys.stdout.write(summary(report))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    seed = 1 if arguments.seed is None else arguments.seed
    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        raise LabError("--port must be 0 (any that is free) to 65535")
    demo.run(arguments.seconds, seed, _misbehaviours(arguments.misbehave), arguments.port)
    return 0


def summary(report: traffic.Report) -> str:
    """What devices did, one line for each device and kind of action."""
    lines = [f"{'DEVICE':<12} {'DID':<10} {'TIMES':>6} {'FAILED':>6} {'SENT':>10} {'RECEIVED':>10}"]
    for device, entries in report.items():
        for what, times in sorted(Counter(entry["do"] for entry in entries).items()):
            these = [entry for entry in entries if entry["do"] == what]
            failed = sum(1 for entry in these if entry["error"])
            sent, received = (readable(sum(entry[key] for entry in these)) for key in ("sent", "received"))
            lines.append(f"{device:<12} {what:<10} {times:>6} {failed:>6} {sent:>10} {received:>10}")
    return "\n".join(lines) + "\n"


def readable(count: int) -> str:
    """Bytes for people, in powers of ten."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m spind.lab``: the lab's commands alone."""
    parser = argparse.ArgumentParser(prog="spind")
    register(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["lab", *(sys.argv[1:] if argv is None else argv)])
    return int(arguments.func(arguments))
