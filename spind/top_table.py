# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``spind top`` shows: samples of flows in, lines of text out; pure.

Owns rates (differences between samples), sorting and layout. It must not read the time, a
terminal or a socket. Names come from the network, so every one goes through ``text.inert``.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from spind.text import inert

MAX_FLOWS = 5000
"""Flows remembered between samples; beyond, those that were silent longest are forgotten."""

_KEY = ("device", "node", "protocol", "port", "family", "inbound")  # what tells flows apart
_RIGHT = 41  # columns of the numbers
_NAME_MIN = 20  # columns of the name

Json = Mapping[str, Any]


class Sort(StrEnum):
    """What comes first."""

    RATE = "rate"
    TOTAL = "total"
    SEEN = "seen"
    NAME = "name"

    def following(self) -> "Sort":
        """The next one, in a circle."""
        order = list(Sort)
        return order[(order.index(self) + 1) % len(order)]


class Row(NamedTuple):
    """One line: a device, or one of its parties. Rates in bytes/s, totals in bytes."""

    name: str
    up_rate: float
    down_rate: float
    total: int
    lastseen: int

    def key(self, sort: Sort) -> tuple[Any, ...]:
        """Sorts first what is to be shown first."""
        if sort is Sort.NAME:
            return (self.name.casefold(),)
        if sort is Sort.SEEN:
            return (-self.lastseen, self.name.casefold())
        if sort is Sort.TOTAL:
            return (-self.total, self.name.casefold())
        return (-(self.up_rate + self.down_rate), -self.lastseen, self.name.casefold())


class _Counted:
    """A flow's counters at its last sample, and its rates since the one before."""

    __slots__ = ("down", "down_rate", "item", "up", "up_rate")

    def __init__(self, item: Json) -> None:
        self.item = item
        self.up = self.down = 0
        self.up_rate = self.down_rate = 0.0


class Table:
    """The flows by device and party, fed by one ``sample`` each interval."""

    def __init__(self) -> None:
        self._flows: dict[tuple[Any, ...], _Counted] = {}
        self._names: dict[int, str] = {}
        self._sampled: float | None = None

    @property
    def unnamed(self) -> set[int]:
        """Nodes that appear in flows and whose name is not known."""
        ends = {int(flow.item[end]) for flow in self._flows.values() for end in ("device", "node")}
        return ends - self._names.keys()

    @property
    def devices(self) -> list[int]:
        """Devices that have flows, by name."""
        return sorted({int(flow.item["device"]) for flow in self._flows.values()}, key=self._name)

    def name_nodes(self, nodes: Iterable[Json]) -> None:
        """Learn names from items of ``list_nodes``."""
        for node in nodes:
            candidates = (node.get("name"), node.get("label"), *node.get("domains", ()), node.get("mac"))
            text = next((str(name) for name in candidates if name), f"node {node['id']}")
            self._names[int(node["id"])] = inert(text, 200)

    def _name(self, ident: int) -> str:
        return self._names.get(ident, f"node {ident}")

    def sample(self, items: Iterable[Json], now: float) -> None:
        """Take in items of ``list_flows``: all flows with traffic since the last sample, at least."""
        elapsed = 0.0 if self._sampled is None else now - self._sampled
        for flow in self._flows.values():
            flow.up_rate = flow.down_rate = 0.0
        for item in items:
            key = tuple(item.get(part) for part in _KEY)
            known = key in self._flows
            flow = self._flows.pop(key) if known else _Counted(item)
            up, down = int(item["up_bytes"]), int(item["down_bytes"])
            # Of a flow not seen before we know the rate only if it is younger than the sample
            # before; counters that went back belong to a new flow of the same name.
            new = self._sampled is not None and int(item["firstseen"]) >= int(self._sampled)
            if elapsed > 0 and (known or new):
                flow.up_rate = max(up - flow.up if up >= flow.up else up, 0) / elapsed
                flow.down_rate = max(down - flow.down if down >= flow.down else down, 0) / elapsed
            flow.item, flow.up, flow.down = item, up, down
            self._flows[key] = flow  # at the end: the first ones are silent longest
        while len(self._flows) > MAX_FLOWS:
            del self._flows[next(iter(self._flows))]
        self._sampled = now

    def rows(self, sort: Sort, device: int | None = None) -> list[tuple[Row, list[Row]]]:
        """Each device (or the one asked for) with its parties, in the order of ``sort``."""
        parties: dict[int, dict[int, list[_Counted]]] = {}
        for flow in self._flows.values():
            owner = int(flow.item["device"])
            if device is None or owner == device:
                parties.setdefault(owner, {}).setdefault(int(flow.item["node"]), []).append(flow)
        groups = []
        for owner, nodes in parties.items():
            sites = [self._row(node, flows) for node, flows in nodes.items()]
            sites.sort(key=lambda row: row.key(sort))
            everything = [flow for flows in nodes.values() for flow in flows]
            groups.append((self._row(owner, everything), sites))
        groups.sort(key=lambda group: group[0].key(sort))
        return groups

    def _row(self, ident: int, flows: list[_Counted]) -> Row:
        return Row(
            self._name(ident),
            sum(flow.up_rate for flow in flows),
            sum(flow.down_rate for flow in flows),
            sum(flow.up + flow.down for flow in flows),
            max(int(flow.item["lastseen"]) for flow in flows),
        )


class View(NamedTuple):
    """How to show the table: size in characters, what first, of which device (or all). ``page`` is where the
    Traffic Monitor is, if not where the daemon says."""

    columns: int = 80
    lines: int = 24
    sort: Sort = Sort.RATE
    device: int | None = None
    keys: bool = True
    page: str = ""


def render(table: Table, status: Json, now: float, view: View) -> list[str]:
    """The screen: at most ``view.lines`` lines of at most ``view.columns`` columns."""
    groups = table.rows(view.sort, view.device)
    up = sum(device.up_rate for device, _ in groups)
    down = sum(device.down_rate for device, _ in groups)
    version = inert(str(status.get("version", "")), 20)
    head = f"spind {version}  running {duration(int(status.get('uptime', 0)))}  {len(groups)} devices"
    name_width = max(view.columns - _RIGHT, _NAME_MIN)
    page = _page(status, view)
    lines = [
        fit(f"{head}  {sum(len(sites) for _, sites in groups)} parties", view.columns),
        fit(f"up {amount(up)}B/s  down {amount(down)}B/s  sorted by {view.sort}{page}", view.columns),
        pad("DEVICE / PARTY", name_width) + f"{'UP/s':>10}{'DOWN/s':>10}{'TOTAL':>12}{'SEEN':>8} ",
    ]
    room = view.lines - len(lines) - int(view.keys)
    lines += _body(groups, now, view.sort, name_width, max(room, 0))
    lines = [fit(line.rstrip(), view.columns) for line in lines[: view.lines]]
    if view.keys and view.lines > 3:
        lines += [""] * (view.lines - len(lines) - 1)
        lines.append(fit("q quit   s sort   d next device   a all devices", view.columns))
    return lines


def _page(status: Json, view: View) -> str:
    """Where the same is to be seen in a browser, if anywhere."""
    web = status.get("web")
    address = view.page or str(web.get("url", "") if isinstance(web, dict) else "")
    return f"  page {inert(address, 60)}" if address else ""


def _body(groups: list[tuple[Row, list[Row]]], now: float, sort: Sort, width: int, room: int) -> list[str]:
    """Devices first; what room they leave goes to the foremost parties, whoever they belong to."""
    shown = groups[:room]
    parties = [(site.key(sort), index) for index, (_, sites) in enumerate(shown) for site in sites]
    counts = [0] * len(shown)
    for _, index in sorted(parties)[: room - len(shown)]:
        counts[index] += 1
    lines = []
    for (device, sites), count in zip(shown, counts, strict=True):
        lines.append(_line(device, "", now, width))
        lines += [_line(site, "  ", now, width) for site in sites[:count]]
    return lines


def _line(row: Row, indent: str, now: float, width: int) -> str:
    seen = int(now) - row.lastseen
    return (
        pad(indent + row.name, width - 1)
        + " "
        + f"{amount(row.up_rate) + 'B':>10}{amount(row.down_rate) + 'B':>10}{amount(row.total) + 'B':>12}"
        + f"{'now' if seen < 5 else duration(seen):>8}"
    )


def amount(value: float) -> str:
    """Three digits and an SI prefix: ``999 ``, ``1.23 k``, ``12.3 M``."""
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5 or prefix == "T":
            break
        value /= 1000
    digits = 0 if not prefix or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {prefix}"


def duration(seconds: int) -> str:
    """The two largest units: ``45s``, ``12m03s``, ``3h20m``, ``2d05h``."""
    seconds = max(seconds, 0)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02}h"


def fit(text: str, width: int) -> str:
    """``text`` cut to ``width`` columns of a terminal (wide characters take two)."""
    if text.isascii():
        return text[:width]
    used = 0
    for index, char in enumerate(text):
        used += _width(char)
        if used > width:
            return text[:index]
    return text


def pad(text: str, width: int) -> str:
    """``text`` in exactly ``width`` columns."""
    text = fit(text, width)
    return text + " " * (width - sum(map(_width, text)))


def _width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
