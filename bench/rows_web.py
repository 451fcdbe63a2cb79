# SPDX-License-Identifier: GPL-2.0-or-later
"""The web interface: what many browsers cost, and how fast the page is with a big home.

The browser is Debian's Chromium without a graphics processor, on the same two processors as the daemon, the
gateway, the devices and the internet: on other machines the page is faster.
"""

import contextlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from bench.bed import COUNTERS_SECONDS, Bed, Program, Running
from bench.figures import Figure, at_least, at_most, exactly
from bench.process import CpuMeter, memory
from bench.rows import Row, Settings
from bench.rows_cost import many_sites
from spind.lab import chromium, plan, traffic, wait_until

STREAMS, RATE = 50, 200
PAGE = "http://127.0.0.1:13026/"
PAGE_SITES, PAGE_CONNECTIONS = 1000, 2000
SIZE = {"width": 1440, "height": 900}

_PAINT = """() => {
  const paints = Object.fromEntries(performance.getEntriesByType('paint').map((e) => [e.name, e.startTime]));
  const files = performance.getEntriesByType('resource');
  const [page] = performance.getEntriesByType('navigation');
  return {
    paint: paints['first-contentful-paint'] ?? 0,
    transferred: page.transferSize + files.reduce((sum, file) => sum + file.transferSize, 0),
    files: files.length + 1,
  };
}"""

# Frames are counted by the browser's own clock for drawing, and stalls by the time between two of them.
_COUNT_FRAMES = """() => {
  const times = [];
  const note = (time) => { times.push(time); if (window.__frames) requestAnimationFrame(note); };
  window.__frames = times;
  requestAnimationFrame(note);
}"""
_FRAMES = """() => {
  const times = window.__frames;
  window.__frames = null;
  const gaps = times.slice(1).map((time, index) => time - times[index]).sort((a, b) => a - b);
  return {
    rate: 1000 * gaps.length / (times[times.length - 1] - times[0]),
    p99: gaps[Math.floor(gaps.length * 0.99)],
    longest: gaps[gaps.length - 1],
  };
}"""


def load(bed: Bed, settings: Settings) -> list[Figure]:
    """50 event streams and 200 calls a second beside the traffic of the home."""
    seconds = min(60.0, 6 * settings.seconds)
    with bed.daemon() as running, ExitStack() as stack:
        traffic.run(bed.lab, 3)
        before = memory(running.pid)
        stack.enter_context(traffic.Traffic(bed.lab, seconds + 5))
        arguments = {"streams": STREAMS, "rate": RATE, "seconds": seconds}
        program = Program(bed.lab.gateway, "spind.lab.webload", json.dumps(arguments))
        stack.callback(program.kill)
        ready = program.read()
        meter = CpuMeter(running.pid)
        stall = running.longest_stall(seconds - 3 * COUNTERS_SECONDS)
        cpu = meter.percent()
        counts, used = running.statistics(), memory(running.pid)
        calls = program.read()
        (node, *_) = running.nodes("device")
        running.call("set_device_name", node=node["id"], name="mark-of-the-end")
        (told,) = program.end(120, "mark-of-the-end\n")
    streams = told["streams"]
    row = "web-load"
    sizes = sum(each["bytes"] for each in streams)
    note = f"{ready['ready']} streams ready after {ready['seconds']:.1f} s; {seconds:g} s; CPU {cpu:.0f} %"
    missed = sum(each["missed"] + (each["snapshots"] - 1) for each in streams) + told["without_marker"]
    data = {"calls": calls, "statistics": counts, "streams": streams}
    return [
        Figure(row, "50 event streams: deltas missed", (missed,), "", exactly(0), 0, note, data),
        Figure(
            row, "200 calls/s: not answered", (calls["failed"],), "", exactly(0), 0, f"of {calls['sent']:,}"
        ),
        Figure(row, "200 calls/s: median", (calls["median_us"] / 1000,), "ms"),
        Figure(row, "200 calls/s: p99", (calls["p99_us"] / 1000,), "ms"),
        Figure(row, "longest loop stall meanwhile", (stall,), "ms", at_most(5)),
        Figure(
            row,
            "memory that 50 streams add",
            (used.own - before.own,),
            "MB",
            None,
            1,
            f"{used.resident:.1f} MB resident; {sizes / len(streams) / seconds / 1000:.1f} kB/s a stream",
        ),
    ]


@contextlib.contextmanager
def _big_home(bed: Bed, settings: Settings) -> Iterator[Running]:
    """30 devices that have looked up 1,000 sites and hold 2,000 connections to them, some of which talk."""
    names = many_sites(bed, PAGE_SITES)
    devices = list(bed.lab.devices.values())
    with ExitStack() as stack:
        running = stack.enter_context(bed.daemon())
        stack.enter_context(bed.program(bed.lab.internet, "server"))
        opened = 0
        for number, device in enumerate(devices):
            mine = range(number, PAGE_CONNECTIONS, len(devices))
            targets = [names[index * 7 % PAGE_SITES] for index in mine]
            arguments: dict[str, Any] = {"targets": targets, "dns": plan.DNS4, "rate": 1000, "beat": 5}
            opened += stack.enter_context(bed.program(device, "hold", **arguments))[1]["open"]
        settings.say(f"  {opened:,} connections")
        wait_until(
            lambda: running.statistics()["engine.sites"] >= PAGE_SITES * 0.99, 30, "all sites to be seen"
        )
        yield running


def page(bed: Bed, settings: Settings) -> list[Figure]:
    """First paint, time to the live graph, and frames while the graph is dragged about."""
    paints, lives, pans, zooms, rests, worst, sizes = [], [], [], [], [], [], []
    shown: dict[str, int] = {}
    with _big_home(bed, settings), chromium.browser(bed.lab.gateway.namespace) as browser:
        for _ in range(max(2, settings.pairs)):  # the first one warms the browser, too
            context = browser.new_context(viewport=SIZE)
            window = context.new_page()
            window.goto(PAGE)
            live = _live(window)
            told = window.evaluate(_PAINT)
            window.wait_for_timeout(5000)  # the graph finds its shape
            rests.append(_frames(window, settings.seconds / 2, None)["rate"])
            before = _place(window)
            pan = _frames(window, settings.seconds / 2, "pan")
            if _place(window) == before:
                raise RuntimeError("the graph was not dragged")
            pans.append(pan["rate"])
            worst.append(pan["longest"])
            zooms.append(_frames(window, settings.seconds / 2, "zoom")["rate"])
            graph = window.evaluate("window.spind.graph.describe()")
            known = window.evaluate("window.spind.home.nodes.size")
            shown = {"nodes": len(graph["nodes"]), "edges": len(graph["edges"]), "known": known}
            paints.append(told["paint"])
            lives.append(live)
            sizes.append(told["transferred"] / 1024)
            context.close()
    row = "web-page"
    note = f"{shown['nodes']} nodes and {shown['edges']} edges drawn, {shown['known']:,} known"
    return [
        Figure(row, "first paint", tuple(paints), "ms", at_most(1000), 0),
        Figure(row, "until the page is live", tuple(lives), "ms", None, 0, note),
        Figure(row, "transferred", tuple(sizes), "KiB", at_most(400), 0),
        Figure(row, "frames/s while the graph is dragged", tuple(pans), "", at_least(50), 0),
        Figure(row, "longest time between two of them", tuple(worst), "ms", None, 0),
        Figure(row, "frames/s while it is zoomed", tuple(zooms), "", None, 0),
        Figure(row, "frames/s while nobody touches it", tuple(rests), "", None, 0),
    ]


def _place(window: Any) -> list[float]:
    """Where the graph's first node is on the page."""
    found: list[float] = window.evaluate(
        "(() => { const [node] = window.spind.graph.describe().nodes; return [node.x, node.y]; })()"
    )
    return found


def _live(window: Any) -> float:
    """Milliseconds from the page's begin until it was live; Playwright's own waiting needs ``eval``."""
    while window.evaluate("window.spind?.home?.status !== 'live'"):
        window.wait_for_timeout(10)
        if window.evaluate("performance.now()") > 60_000:
            raise RuntimeError("the page is not live after a minute")
    passed: float = window.evaluate("performance.now()")
    return passed


def _frames(window: Any, seconds: float, move: str | None) -> dict[str, float]:
    """Frames that the browser draws in so many seconds while the mouse does this."""
    box = window.locator("#graph").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    # A corner of the graph, where no node is that would be dragged instead.
    left, top = box["x"] + 30, box["y"] + 60
    window.mouse.move(*((left, top) if move == "pan" else (x, y)))
    if move == "pan":
        window.mouse.down()
    window.evaluate(_COUNT_FRAMES)
    steps = int(seconds * 60)
    for number in range(steps):
        if move == "pan":
            window.mouse.move(left + 2 + 2 * (number % 100), top + 1 + number % 60)
        elif move == "zoom":
            window.mouse.wheel(0, 40 if number // 20 % 2 else -40)
        window.wait_for_timeout(1000 / 60)
    result: dict[str, float] = window.evaluate(_FRAMES)
    if move == "pan":
        window.mouse.up()
    return result


ROWS = [
    Row("web-load", "50 event streams and 200 calls a second", load),
    Row("web-page", "the page with 30 devices and 1,000 sites: first paint, frames", page, devices=30),
]
