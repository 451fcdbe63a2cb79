# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo: a home, spind in its gateway, all devices busy; the page, and ``spind top`` on what spind sees.

Owns the order of things from the first line to the clean stop. What is shown comes from the
daemon alone, through its public interface.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from spind import top
from spind.client import Client, ClientError
from spind.lab import traffic
from spind.lab.errors import LabError
from spind.lab.lab import Lab
from spind.lab.node import wait_until
from spind.lab.relay import Relay
from spind.lab.stack import Broker, Spind

REFRESH_SECONDS = 1.0
PAGE_PORT = 13026  # the daemon's default, in the gateway; outside as well where it is free
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
LOG_REFRESH_SECONDS = 5.0  # where there is no terminal to paint over


def run(seconds: float, seed: int, misbehave: dict[str, str], port: int | None = None) -> None:
    """Show the home for ``seconds``, or until Ctrl-C, ``q`` or SIGTERM; then take everything down.

    ``port`` of this machine's loopback leads to the page; by default it is any that is free.
    """
    say("building a home in network namespaces ...")
    with _interrupted(), contextlib.suppress(KeyboardInterrupt), Lab(seed=seed) as lab:
        Broker(lab).start()
        daemon = Spind(lab)
        daemon.start()
        say(f"lab {lab.name}: {len(lab.devices)} devices, an internet, a gateway with spind and a broker")
        say(f"look inside: spind lab exec {lab.name} gw -- mosquitto_sub -t 'SPIN/#' -v")
        say(f"         or: spind lab exec {lab.name} phone -- curl https://www.shop.test/")
        with _page(lab, port) as relay, traffic.Traffic(lab, seconds, seed=seed, misbehave=misbehave):
            say(f"Traffic Monitor: http://127.0.0.1:{relay.port}/")
            signal.setitimer(signal.ITIMER_REAL, seconds)
            watch(daemon, f"http://127.0.0.1:{relay.port}/")
        daemon.stop()
    say("stopped; nothing of the lab is left")


def watch(daemon: Spind, page: str = "") -> None:
    """``spind top``, with the address of the page, until it is interrupted; ``LabError`` where the daemon
    goes away."""
    interval = REFRESH_SECONDS if sys.stdout.isatty() else LOG_REFRESH_SECONDS
    try:
        with Client(str(daemon.rpc_socket)) as client:
            top.run(client, interval, page=page)
    except ClientError as error:
        gateway = daemon.lab.gateway
        with contextlib.suppress(LabError):  # its socket closes a moment before it is gone
            wait_until(lambda: gateway.pid(daemon.what) is None, 2, "spind's end")
        gateway.check(daemon.what)  # says more where it has ended
        raise LabError(str(error)) from error


def _page(lab: Lab, port: int | None) -> Relay:
    if port is not None:
        return Relay(lab.gateway, PAGE_PORT, port)
    try:
        return Relay(lab.gateway, PAGE_PORT, PAGE_PORT)
    except LabError:
        return Relay(lab.gateway, PAGE_PORT)


def say(words: str) -> None:
    """One line of progress, on standard error."""
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _interrupted() -> Iterator[None]:
    """Let SIGTERM and the alarm end things as Ctrl-C does, once: what is ending is not disturbed again."""
    ending = False

    def interrupt(_: int, __: FrameType | None) -> None:
        nonlocal ending
        if not ending:
            ending = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _ENDINGS}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
