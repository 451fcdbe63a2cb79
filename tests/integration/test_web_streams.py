# SPDX-License-Identifier: GPL-2.0-or-later
"""Live events on a loop: pace, snapshots in slices, resuming, and readers that do not read."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest
from feed_client import Client, parse
from test_engine import CAMERA, CAMERA_V4, CDN, T0, ask, home, packet, transfer

from spind.commands import Command
from spind.engine import Engine
from spind.events import BlockedSeen, SetName
from spind.feed import Feed
from spind.flows import Flows
from spind.model import ConnKey
from spind.web import streams
from spind.web.streams import MAX_SUBSCRIBERS, QUEUE_BYTES, Streams, Subscriber, TooManySubscribers

DEADLINE = 20.0


class Stage:
    """An engine, its feed, and the streams; the engine's time stands still until ``now`` is set."""

    def __init__(self) -> None:
        self.engine: Engine = home()
        self.now = T0
        self.streams = Streams(
            asyncio.get_running_loop(), Feed(self.engine, lambda: self.now, "abc", "1.2.3")
        )

    def told(self, commands: list[Command]) -> None:
        for command in commands:
            self.streams.publish(command)

    def traffic(self, port: int, size: int = 10) -> None:
        self.now += 0.001
        key = ConnKey(6, CAMERA_V4, 40000, CDN, port)
        self.told(transfer(self.engine, key, size, size, self.now))

    async def ready(self, last: str = "") -> tuple[Subscriber, Client]:
        subscriber, client = self.streams.subscribe(last), Client()
        while not client.ready:
            client.take(await anext(subscriber))
        return subscriber, client


def run(scenario: Callable[[Stage], Coroutine[object, object, None]]) -> None:
    async def whole() -> None:
        stage = Stage()
        try:
            await asyncio.wait_for(scenario(stage), DEADLINE)
        finally:
            await stage.streams.stop()

    asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


async def next_delta(subscriber: AsyncIterator[bytes], client: Client) -> dict:
    text = await anext(subscriber)
    client.take(text)
    event, data, _ = parse(text)
    assert event == "delta"
    return data


def test_a_snapshot_and_then_what_changes() -> None:
    async def scenario(stage: Stage) -> None:
        stage.traffic(443)
        subscriber, client = await stage.ready()
        client.check(stage.engine, stage.now)
        assert len(client.flows) == 1
        stage.traffic(80)
        while len(client.flows) < 2 or not client.cells:
            await next_delta(subscriber, client)
        client.check(stage.engine, stage.now)

    run(scenario)


def test_queries_blocks_and_decisions_come_soon_and_traffic_once_a_second() -> None:
    async def scenario(stage: Stage) -> None:
        subscriber, client = await stage.ready()
        began = time.monotonic()
        stage.now += 1
        stage.told(ask(stage.engine, CAMERA, CAMERA_V4, "cdn.example.test", stage.now))
        data = {}
        while not client.queries:
            data = await next_delta(subscriber, client)
        assert time.monotonic() - began < 0.9, "with the next counters, not soon"
        assert client.queries[0]["name"] == "cdn.example.test."
        assert "flows" not in data
        seen = packet(6, CAMERA_V4, 1000, CDN, 443, flags=2)
        stage.told(stage.engine.handle(BlockedSeen(seen, CAMERA, up=True), stage.now))
        while not client.blocked:
            await next_delta(subscriber, client)
        (blocked,) = client.blocked
        assert (blocked["device"], blocked["protocol"], blocked["port"]) == (1, 6, 443)
        assert (blocked["family"], blocked["inbound"]) == (4, False)
        began = time.monotonic()
        stage.told(stage.engine.handle(SetName(1, "Kamera"), stage.now))
        while client.nodes[1].get("name") != "Kamera":
            await next_delta(subscriber, client)
        assert time.monotonic() - began < 0.9
        client.check(stage.engine, stage.now)

    run(scenario)


def test_nothing_is_said_where_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_SECONDS", 0.05)
    monkeypatch.setattr(streams, "PACE_SECONDS", 0.02)

    async def scenario(stage: Stage) -> None:
        stage.traffic(443)
        subscriber, _ = await stage.ready()
        while await anext(subscriber) != streams.KEEP_ALIVE:
            pass  # what was new when it came
        for _ in range(5):
            assert await anext(subscriber) == b": \n\n"

    run(scenario)


def test_who_comes_back_gets_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PACE_SECONDS", 0.02)

    async def scenario(stage: Stage) -> None:
        subscriber, client = await stage.ready()
        stage.traffic(443)
        while not client.flows:
            await next_delta(subscriber, client)
        subscriber.close()
        with pytest.raises(StopAsyncIteration):
            await anext(subscriber)
        deltas = stage.streams.counters["deltas"]
        stage.traffic(80)
        await until(lambda: stage.streams.counters["deltas"] > deltas)
        again = stage.streams.subscribe(client.last_id)
        while len(client.flows) < 2:
            await next_delta(again, client)  # no hello among them
        for stranger in ("", "abd-1", "abc-", "abc-99999", "abc-x", "abc-" + "9" * 60):
            assert parse(await anext(stage.streams.subscribe(stranger)))[0] == "hello"

    run(scenario)


def test_after_a_long_absence_all_is_told_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PACE_SECONDS", 0.01)
    monkeypatch.setattr(streams, "LINGER_SECONDS", 0.05)

    async def scenario(stage: Stage) -> None:
        subscriber, client = await stage.ready()
        stage.traffic(443)
        while not client.flows:
            await next_delta(subscriber, client)
        assert stage.engine.flows.journal is not None
        subscriber.close()
        await until(lambda: stage.engine.flows.journal is None)
        stage.traffic(80)
        again, fresh = await stage.ready(client.last_id)
        fresh.check(stage.engine, stage.now)
        assert len(fresh.flows) == 2
        again.close()

    run(scenario)


def test_a_reader_that_does_not_read_is_dropped_and_the_others_lose_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "PACE_SECONDS", 0.005)
    monkeypatch.setattr(streams, "SOON_SECONDS", 0.005)

    async def scenario(stage: Stage) -> None:
        slow, _ = await stage.ready()
        dropped: list[int] = []
        slow.on_drop = lambda: dropped.append(1)
        quick, client = await stage.ready()
        ports = itertools.cycle(range(1, 400))

        async def read() -> None:
            async for text in quick:
                if text != streams.KEEP_ALIVE:
                    client.take(text)

        reader = asyncio.create_task(read())
        largest = 0
        end = time.monotonic() + DEADLINE
        while not dropped:
            assert time.monotonic() < end
            for _ in range(400):
                stage.traffic(next(ports))
            largest = max(largest, slow.waiting)
            await asyncio.sleep(0.005)
        assert QUEUE_BYTES / 2 < largest <= QUEUE_BYTES
        assert slow.waiting == 0
        assert dropped == [1]
        assert stage.streams.counters["dropped"] == 1
        assert stage.streams.counters["subscribers"] == 1
        with pytest.raises(StopAsyncIteration):
            await anext(slow)
        flow_count = len(stage.engine.flows)
        total = sum(flow.up_bytes for flow in stage.engine.flows.flows())
        await until(lambda: sum(flow["up_bytes"] for flow in client.flows.values()) == total)
        assert len(client.flows) == flow_count
        quick.close()
        await reader

    run(scenario)


def test_a_reader_that_takes_nothing_for_long_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PACE_SECONDS", 0.02)
    monkeypatch.setattr(streams, "STALLED_SECONDS", 0.1)

    async def scenario(stage: Stage) -> None:
        stuck, _ = await stage.ready()
        waiting, client = await stage.ready()
        dropped: list[str] = []
        stuck.on_drop = lambda: dropped.append("stuck")
        waiting.on_drop = lambda: dropped.append("waiting")

        async def read() -> None:
            async for text in waiting:
                client.take(text)

        reader = asyncio.create_task(read())
        stage.traffic(443)
        await until(lambda: bool(dropped))
        assert dropped == ["stuck"]
        assert len(client.flows) == 1
        waiting.close()
        await reader

    run(scenario)


def test_as_many_as_may_be() -> None:
    async def scenario(stage: Stage) -> None:
        subscribers = [stage.streams.subscribe() for _ in range(MAX_SUBSCRIBERS)]
        with pytest.raises(TooManySubscribers) as refused:
            stage.streams.subscribe()
        assert refused.value.retry_after > 0
        subscribers[0].close()
        subscribers[0].close()
        stage.streams.subscribe()
        assert stage.streams.counters["subscribers"] == MAX_SUBSCRIBERS

    run(scenario)


def test_where_more_changes_than_is_followed_all_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PACE_SECONDS", 0.02)

    async def scenario(stage: Stage) -> None:
        subscriber, client = await stage.ready()
        flows: Flows = stage.engine.flows
        assert flows.journal is not None
        flows.journal.overflow()
        stage.traffic(443)
        events = []
        while "ready" not in events:
            text = await anext(subscriber)
            events.append(parse(text)[0])
            client.take(text)
        assert "hello" in events
        client.check(stage.engine, stage.now)
        assert stage.streams.counters["restarts"] == 1

    run(scenario)


def test_the_loop_is_free_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SLICE_SECONDS", 0.0)  # so that each bit of work is a slice

    async def scenario(stage: Stage) -> None:
        for port in range(1, 4000):
            stage.traffic(port)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        clients = await asyncio.gather(*(stage.ready() for _ in range(3)))
        task.cancel()
        assert turns > 4000 / 20, "20 flows are a bit of work"
        for _, client in clients:
            assert len(client.flows) == 3999

    run(scenario)


def test_all_who_come_at_once_share_a_snapshot_and_get_the_deltas_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "PACE_SECONDS", 0.01)
    made = 0
    whole = Feed.snapshot

    def counted(feed: Feed) -> streams.Steps:
        nonlocal made
        made += 1
        return whole(feed)

    monkeypatch.setattr(Feed, "snapshot", counted)

    async def scenario(stage: Stage) -> None:
        for port in range(1, 1000):
            stage.traffic(port)
        first, one = await stage.ready()
        stage.traffic(2000)
        while (6, 2000) not in {key[2:4] for key in one.flows}:
            await next_delta(first, one)
        others = await asyncio.gather(*(stage.ready() for _ in range(10)))
        stage.traffic(2001)
        for subscriber, client in [(first, one), *others]:
            while not {2000, 2001} <= {key[3] for key in client.flows}:
                await next_delta(subscriber, client)
            assert len(client.flows) == 1001
        assert made == 1
        monkeypatch.setattr(streams, "SHARE_SECONDS", 0.0)
        await stage.ready()
        assert made == 2

    run(scenario)


def test_a_snapshot_that_fails_ends_the_streams_that_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_feed: Feed) -> streams.Steps:
        yield b"event: hello\ndata: {}\n\n"
        raise RuntimeError("no home")

    monkeypatch.setattr(Feed, "snapshot", broken)

    async def scenario(stage: Stage) -> None:
        subscribers = [stage.streams.subscribe() for _ in range(3)]
        for subscriber in subscribers:
            assert (await anext(subscriber)).startswith(b"event: hello")
        for subscriber in subscribers:
            with pytest.raises(StopAsyncIteration):
                await anext(subscriber)
        assert stage.streams.counters["subscribers"] == 0

    run(scenario)


def test_the_end_of_the_daemon_ends_all_streams() -> None:
    async def scenario(stage: Stage) -> None:
        subscriber, _ = await stage.ready()
        waiting = asyncio.create_task(anext(subscriber))
        await asyncio.sleep(0)
        await stage.streams.stop()
        with pytest.raises(StopAsyncIteration):
            await waiting
        with pytest.raises(TooManySubscribers):
            stage.streams.subscribe()
        assert stage.engine.flows.journal is None

    run(scenario)
