# SPDX-License-Identifier: GPL-2.0-or-later
"""A device's life: ``python -m spind.lab.device '<json>'``, run in the device's namespace.

The argument is a ``Life`` as JSON. Starts each action at its time, listens on the LAN as such
devices do, and prints one JSON object a line for everything that it has done, the last one being
``{"finished": true, ...}``. Ends by itself after ``seconds`` and a little grace, or on SIGTERM.
"""

import asyncio
import contextlib
import json
import signal
import sys
from dataclasses import dataclass

from spind.lab import behaviours
from spind.lab.patience import patient
from spind.lab.perform import Performer, trust_context
from spind.lab.resolver import Resolver

MAX_AT_ONCE = 64
GRACE_SECONDS = 12.0


@dataclass(frozen=True)
class Life:
    """What a device needs to know: who it is, how long it lives, whom it may ask for names."""

    name: str
    kind: str
    seed: int
    seconds: float
    peers: tuple[str, ...]
    misbehave: str
    dns: str


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What listens on the LAN: returns what it gets."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def live(life: Life) -> None:
    """Perform all actions of ``life`` and report them on standard output."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listener = await asyncio.start_server(_echo, "0.0.0.0", behaviours.LAN_PORT)  # noqa: S104 - in the namespace
    random = behaviours.seeded(f"{life.seed}/{life.name}/choices")
    performer = Performer(Resolver(life.dns, random), trust_context(), random)
    places = asyncio.Semaphore(MAX_AT_ONCE)
    counts = {"actions": 0, "errors": 0}

    async def one(action: behaviours.Action) -> None:
        async with places:
            results = await performer.perform(action)
        counts["actions"] += len(results)
        counts["errors"] += sum(1 for done in results if done.error)
        sys.stdout.write("".join(json.dumps(done.as_json()) + "\n" for done in results))

    start = loop.time()
    tasks: set[asyncio.Task[None]] = set()
    todo = behaviours.actions(life.kind, life.name, life.seed, life.seconds, life.peers, life.misbehave)
    for order, action in enumerate(todo):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(start + action.at):
                await stop.wait()
        if stop.is_set():
            break
        task = asyncio.create_task(one(action), name=f"{action.do}-{order}")
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(start + life.seconds):
            await stop.wait()
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=0 if stop.is_set() else patient(GRACE_SECONDS))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        counts["errors"] += len(late)
    listener.close()
    sys.stdout.write(json.dumps({"finished": True, **counts}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    words = json.loads(sys.argv[1])
    asyncio.run(live(Life(**{**words, "peers": tuple(words["peers"])})))
