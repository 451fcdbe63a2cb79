# SPDX-License-Identifier: GPL-2.0-or-later
"""``spind top``: rates, layout as text, hostile names, and the live screen on a real pseudo-terminal."""

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rpc_server import serving
from test_api import Bench

from spind.top_table import MAX_FLOWS, Sort, Table, View, amount, duration, fit, pad, render

T0 = 1_000_000.0


def flow(device, node, up, down, *, port=443, first=T0, last=T0):
    return {
        "device": device,
        "node": node,
        "name": "",
        "evidence": "sni",
        "protocol": 6,
        "port": port,
        "family": 4,
        "inbound": False,
        "up_bytes": up,
        "down_bytes": down,
        "firstseen": int(first),
        "lastseen": int(last),
    }


def named(*names):
    table = Table()
    table.name_nodes({"id": ident, "label": name} for ident, name in enumerate(names, 1))
    return table


def screen(table, now=T0 + 2, **view):
    return render(table, {"version": "2.0", "uptime": 3725}, now, View(**view))


def test_a_screen_of_80_by_24():
    table = named("television", "phone", "stream.test", "news.test")
    table.sample([flow(1, 3, 1000, 50_000), flow(2, 3, 0, 0), flow(2, 4, 10, 20, last=T0 - 7000)], T0)
    table.sample([flow(1, 3, 3000, 3_050_000, last=T0 + 2), flow(2, 3, 500, 500, last=T0 + 2)], T0 + 2)
    lines = screen(table)
    assert lines[:8] == [
        "spind 2.0  running 1h02m  2 devices  3 parties",
        "up 1.25 kB/s  down 1.50 MB/s  sorted by rate",
        "DEVICE / PARTY                               UP/s    DOWN/s       TOTAL    SEEN",
        "television                                1.00 kB   1.50 MB     3.05 MB     now",
        "  stream.test                             1.00 kB   1.50 MB     3.05 MB     now",
        "phone                                       250 B     250 B     1.03 kB     now",
        "  stream.test                               250 B     250 B     1.00 kB     now",
        "  news.test                                   0 B       0 B        30 B   1h56m",
    ]
    assert len(lines) == 24
    assert lines[-1].startswith("q quit")
    assert max(map(len, lines)) <= 80


def test_sorting():
    table = named("b-dev", "a-dev", "x", "y")
    table.sample([flow(1, 3, 100, 0, last=T0 - 9), flow(2, 4, 5, 0), flow(2, 3, 5, 0, last=T0 - 1)], T0)
    table.sample([flow(2, 4, 9, 0)], T0 + 2)

    def order(sort):
        return [(device.name, [site.name for site in sites]) for device, sites in table.rows(sort)]

    assert order(Sort.RATE) == [("a-dev", ["y", "x"]), ("b-dev", ["x"])]
    assert order(Sort.TOTAL) == [("b-dev", ["x"]), ("a-dev", ["y", "x"])]
    assert order(Sort.SEEN) == [("a-dev", ["y", "x"]), ("b-dev", ["x"])]
    assert order(Sort.NAME) == [("a-dev", ["x", "y"]), ("b-dev", ["x"])]
    assert [Sort.RATE.following(), Sort.NAME.following()] == [Sort.TOTAL, Sort.RATE]


def test_one_device():
    table = named("one", "two", "x")
    table.sample([flow(1, 3, 1, 1), flow(2, 3, 1, 1)], T0)
    text = "\n".join(screen(table, device=2))
    assert "two" in text
    assert "one" not in text


@pytest.mark.parametrize(
    ("before", "after", "first", "rate"),
    [
        (100, 300, T0 - 50, 100),  # went on
        (300, 300, T0 - 50, 0),  # silent
        (300, 40, T0 + 1, 20),  # a new flow of the same name
        (None, 60, T0 + 1, 30),  # new since the sample before
        (None, 60, T0 - 50, 0),  # older, but not shown before: its rate is not known
    ],
)
def test_rates(before, after, first, rate):
    table = named("d", "x")
    table.sample([] if before is None else [flow(1, 2, before, 0, first=T0 - 50)], T0)
    table.sample([flow(1, 2, after, 0, first=first)], T0 + 2)
    assert table.rows(Sort.RATE)[0][0].up_rate == rate


def test_a_flow_that_is_not_sampled_has_no_rate():
    table = named("d", "x")
    table.sample([flow(1, 2, 0, 0)], T0)
    table.sample([flow(1, 2, 100, 0)], T0 + 1)
    table.sample([], T0 + 2)
    assert table.rows(Sort.RATE)[0][0].up_rate == 0
    table.sample([flow(1, 2, 150, 0)], T0 + 3)
    assert table.rows(Sort.RATE)[0][0].up_rate == 50


def test_flows_are_bounded_and_the_silent_go_first():
    table = named("d", "x")
    table.sample([flow(1, 2, 1, 0, port=port) for port in range(MAX_FLOWS)], T0)
    table.sample([flow(1, 2, 2, 0, port=0), flow(1, 2, 1, 0, port=MAX_FLOWS)], T0 + 1)
    ports = {counted.item["port"] for counted in table._flows.values()}
    assert len(ports) == MAX_FLOWS
    assert {0, MAX_FLOWS} <= ports
    assert 1 not in ports


def test_unnamed_nodes_are_told():
    table = Table()
    table.sample([flow(1, 2, 1, 1)], T0)
    assert table.unnamed == {1, 2}
    table.name_nodes([{"id": 1, "name": "Fred", "label": "other"}, {"id": 2}])
    assert table.unnamed == set()
    ((device, (site,)),) = table.rows(Sort.RATE)
    assert (device.name, site.name) == ("Fred", "node 2")


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[999;999H\u202eevil\nnext\r\t\x9b31m"


def test_hostile_names_are_inert():
    table = named(HOSTILE, "x" * 500 + HOSTILE, "テレビ" * 50)
    table.sample([flow(1, 2, 1, 1), flow(1, 3, 1, 1)], T0)
    lines = render(table, {"version": HOSTILE, "uptime": 1}, T0, View())
    assert all(line.isprintable() for line in lines)
    assert any("evil" in line for line in lines)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=30), st.integers(1, 120), st.integers(1, 60))
def test_a_screen_never_grows_beyond_the_terminal(names, columns, lines):
    table = named(*names)
    count = len(names)
    flows = [flow(i % 5 % count + 1, i % count + 1, i * 10**6, i, port=i) for i in range(60)]
    table.sample(flows, T0)
    shown = screen(table, columns=columns, lines=lines)
    assert len(shown) <= lines
    for line in shown:
        assert line.replace("\u200d", "").isprintable()
        assert fit(line, columns) == line


def test_width_of_characters():
    assert fit("テレビ", 5) == "テレ"
    assert pad("テレビ", 8) == "テレビ  "
    assert pad("e\u0301x", 4) == "e\u0301x  "
    assert pad("abc", 2) == "ab"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 "),
        (999, "999 "),
        (999.6, "1.00 k"),
        (1234, "1.23 k"),
        (12345, "12.3 k"),
        (123456, "123 k"),
        (999_600, "1.00 M"),
        (5e9, "5.00 G"),
        (7.5e15, "7500 T"),
    ],
)
def test_amount(value, text):
    assert amount(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (59, "59s"), (60, "1m00s"), (3723, "1h02m"), (90_000, "1d01h"), (10**8, "1157d09h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


class Terminal:
    """``spind top`` on a pseudo-terminal of 80 by 24."""

    def __init__(self, path, *options):
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        command = [sys.executable, "-m", "spind", "top", "--interval", "0.2", "--socket", str(path), *options]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
        self.text = ""

    def expect(self, text, count=1):
        end = time.monotonic() + 60
        while self.text.count(text) < count:
            assert time.monotonic() < end, self.text[-3000:]
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += os.read(self.master, 65536).decode()

    def press(self, keys):
        self.text = ""
        os.write(self.master, keys)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(tmp_path):
    path = tmp_path / "rpc.sock"
    with serving(Bench().api, path):
        terminal = Terminal(path)
        yield terminal
        terminal.close()


def test_keys_and_the_terminal_afterwards(terminal):
    terminal.expect("\x1b[?1049h")
    terminal.expect("sorted by rate", 2)  # it goes on by itself
    terminal.expect("vendor.test")
    terminal.press(b"s")
    terminal.expect("sorted by total")
    terminal.press(b"d")
    terminal.expect("1 devices")
    terminal.press(b"ass")
    terminal.expect("sorted by seen")
    terminal.press(b"q")
    terminal.expect("\x1b[?1049l")
    assert terminal.process.wait(60) == 0
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_interrupt_leaves_the_terminal_as_it_was(terminal):
    terminal.expect("sorted by rate")
    terminal.process.send_signal(signal.SIGINT)
    terminal.expect("\x1b[?1049l")
    assert terminal.process.wait(60) == 0
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_the_daemon_goes_away(tmp_path):
    path = tmp_path / "rpc.sock"
    with serving(Bench().api, path):
        terminal = Terminal(path)
        terminal.expect("sorted by rate")
    terminal.expect("\x1b[?1049l")
    terminal.expect("spind top: ")
    assert terminal.process.wait(60) == 1
    assert termios.tcgetattr(terminal.slave) == terminal.before
    terminal.close()
