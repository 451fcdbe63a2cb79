# SPDX-License-Identifier: GPL-2.0-or-later
"""`spind replay FILE --web`: a capture file in the Traffic Monitor.

Owns the clock, which goes by the capture, and what is served: the page, the methods that look, and live
events, on loopback, to whoever can use this machine. Nothing can be decided here: there is no network that
would obey. What is in the file is for ``replay_run`` to find out.
"""

import asyncio
import logging
import secrets
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NoReturn

from spind import __version__
from spind.api import Api
from spind.calls import REFUSED, ApiError, Caller, NotFoundError
from spind.commands import Command
from spind.feed import Feed
from spind.replay_run import Outcome, Playback
from spind.shapes import Json
from spind.web.identity import Identity, Login, LoginError
from spind.web.server import WebServer, WebSettings
from spind.web.streams import Streams

ADDRESS: Final = "127.0.0.1"

PORT: Final = 13027
"""Not the daemon's, which may run on the same machine."""

LONGEST_WAIT: Final = 10.0
"""Seconds that whoever watches waits for the next packet: silences of the capture are cut to it."""

LATE_SECONDS: Final = 0.5
"""So late a packet may be, where there is much to do, before all that follow are as late."""

SLICE_SECONDS: Final = 0.002
"""What packets may take of the loop before the page gets its turn."""

_NAP: Final = 0.002  # seconds; packets that are closer together come together


class CaptureClock:
    """What time it is in the capture, Unix seconds. It stands, or goes ``pace`` times as fast as ours, and
    never beyond ``limit``. It never goes back."""

    def __init__(self, ours: Callable[[], float], now: float) -> None:
        """``ours`` gives seconds of a clock that never jumps."""
        self._ours = ours
        self._now = now  # at our time _since
        self._since = 0.0
        self.pace = 0.0
        self.limit = now

    def __call__(self) -> float:
        """The time now."""
        return min(self._free(), self.limit)

    def run(self, pace: float) -> None:
        """Go from where it stands."""
        self._set(self())
        self.pace = pace

    def stand(self) -> None:
        """Stop at the limit."""
        self._now, self.pace = self.limit, 0.0

    def wait_for(self, moment: float) -> float:
        """Have it go until ``moment``; our seconds until then, 0 or less where the time has come."""
        self.limit = max(self.limit, moment)
        wait = (moment - self._free()) / self.pace
        if wait > LONGEST_WAIT:
            wait = LONGEST_WAIT
            self._set(moment - wait * self.pace)
        elif wait < -LATE_SECONDS:
            self._set(self.limit)  # packets come slower than they did: so does the time
        return wait

    def _free(self) -> float:
        return self._now + (self._ours() - self._since) * self.pace if self.pace else self._now

    def _set(self, now: float) -> None:
        self._now, self._since = now, self._ours()


class OnlyLooking:
    """The table of methods, of which those that change something are refused."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.methods = api.methods

    def call(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """The result of a method; ``ApiError`` where the call is refused."""
        method = self.methods.get(name)
        if method is not None and method.writes:
            raise ApiError(REFUSED, f"{name} is refused: what is shown is a capture file")
        return self._api.call(name, params, caller)


class OpenGate:
    """Whoever can use this machine may look."""

    open = True

    def identify(self, cookie: str, bearer: str, now: float, *, touch: bool = True) -> Identity:  # noqa: ARG002
        """A viewer."""
        return Identity("", "viewer", "open", "viewer")

    async def login(self, _user: str, _password: str, _address: str, _now: float) -> Login:
        """There are no accounts."""
        raise LoginError("nobody has to log in here")

    def logout(self, _cookie: str) -> None:
        """There are no sessions."""


class NoCaptures:
    """Captures of packets, of which there are none."""

    def open(self, number: int, role: str) -> NoReturn:  # noqa: ARG002
        """Refused."""
        raise NotFoundError("there are no captures of a capture file")


class Show:
    """One capture and the server that shows it. ``await run()`` returns when a signal says so."""

    def __init__(self, playback: Playback, name: str, port: int, speed: float | None) -> None:
        """``name`` is what people call the file; ``speed`` that it is played with, once ``run`` is
        called. ``None``: it has been read to its end already, and that is shown."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._playback = playback
        self._name = name
        self._speed = speed
        self.clock = CaptureClock(loop.time, playback.first if speed else playback.now)
        self._feed = Feed(
            playback.engine, self.clock, secrets.token_hex(4), __version__, self._about(speed or 0.0)
        )
        self.streams = Streams(loop, self._feed)
        api = Api(playback.engine, self.clock, _nothing_to_do, self._status)
        settings = WebSettings((ADDRESS,), port)
        self._server = WebServer(loop, OnlyLooking(api), settings, OpenGate(), self.streams, NoCaptures())
        self._over = asyncio.Event()

    async def run(self, told: Callable[[str], None], ended: Callable[[Outcome], None]) -> bool:
        """Serve until SIGINT or SIGTERM; ``False`` where nothing can be served, which the log says.

        ``told`` gets the page's address, ``ended`` what came of a capture that has been played."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._over.set)
        await self._server.start()
        try:
            if not self._server.url:
                return False
            told(self._server.url)
            player = self._loop.create_task(self._play(ended), name="play") if self._speed else None
            await self._over.wait()
            if player is not None:
                player.cancel()
                for result in await asyncio.gather(player, return_exceptions=True):
                    if isinstance(result, Exception):
                        raise result
        finally:
            await self.streams.stop()
            await self._server.stop()
        return True

    async def _play(self, ended: Callable[[Outcome], None]) -> None:
        """Give the engine each packet when its time has come."""
        try:
            await self._feed_all(iter(self._playback), self._speed or 1.0)
        except Exception:
            self._over.set()
            raise
        self.clock.stand()
        self._feed.describe(self._about(0.0))
        ended(self._playback.outcome())

    async def _feed_all(self, times: Iterator[float], speed: float) -> None:
        clock, loop = self.clock, self._loop
        clock.run(speed)
        end = loop.time() + SLICE_SECONDS
        for moment in times:
            wait = clock.wait_for(moment)
            if wait > 0:
                await asyncio.sleep(max(wait, _NAP))
            elif loop.time() >= end:
                await asyncio.sleep(0)
            else:
                continue
            end = loop.time() + SLICE_SECONDS

    def _about(self, pace: float) -> Json:
        return {"capture": self._name, "pace": pace}

    def _status(self) -> Json:
        return {"capture": {"file": self._name, "time": self.clock(), "pace": self.clock.pace}}


def _nothing_to_do(_commands: list[Command]) -> None:
    """There is no network that would obey."""


def show(
    make: Callable[[Callable[[Command], None] | None], Playback],
    name: str,
    port: int,
    speed: float | None,
    told: Callable[[Playback, str], None],
    ended: Callable[[Outcome], None],
) -> bool:
    """Show a capture until SIGINT or SIGTERM; ``False`` where nothing can be served, which the log says.

    ``make`` makes the playback, given who is to hear of the engine's commands. With a ``speed`` it is
    played from its beginning, else read to its end first; ``ended`` gets what came of it. ``told`` gets the
    page's address when there is one.
    """
    logging.basicConfig(level=logging.WARNING, format="spind replay: %(message)s")
    return asyncio.run(_show(make, name, port, speed, told, ended))


async def _show(
    make: Callable[[Callable[[Command], None] | None], Playback],
    name: str,
    port: int,
    speed: float | None,
    told: Callable[[Playback, str], None],
    ended: Callable[[Outcome], None],
) -> bool:
    shows: list[Show] = []

    def publish(command: Command) -> None:
        shows[0].streams.publish(command)

    playback = make(publish if speed else None)
    if playback.broken:
        ended(playback.outcome())
        return True
    if not speed:
        deque(playback, maxlen=0)  # nobody watches yet, so it may take all of the loop
        ended(playback.outcome())
    shows.append(Show(playback, name, port, speed))
    return await shows[0].run(lambda url: told(playback, url), ended)
