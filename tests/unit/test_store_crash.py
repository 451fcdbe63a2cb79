# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that is killed while it writes leaves the file as it was before its last change, or after."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from spind.store import Store
from spind.uci import parse

ROOT = Path(__file__).parents[2]
KILLS = 50
RULES = 300

PROGRAM = """
import os, random, sys
from spind.changes import DeviceChange, RuleChange
from spind.rules import Rule
from spind.store import Store

def change_at_random(seed):
    store = Store(sys.argv[1])
    rules = {rule.id for rule in store.load()[0].rules}
    rng = random.Random(seed)
    step = 0
    while True:
        step += 1
        number = rng.randrange(1, int(sys.argv[2]))
        add = number not in rules or rng.random() < 0.3
        comment = f"step {step} " + "x" * rng.randrange(200)
        rule = Rule(number, "block", domain=f"host{step}.test", comment=comment)
        # Said before the change and after it: what is in flight is known to whoever kills.
        os.write(1, f"begin {number} {rule.comment if add else '-'}\\n".encode())
        device = DeviceChange("02:00:00:00:00:01", f"n{step}", False, "")
        store.apply([RuleChange(number, "", rule if add else None), device])
        rules.add(number) if add else rules.discard(number)
        os.write(1, b"end\\n")

for seed in sys.stdin:  # a process of its own for each, without the time that imports take
    pid = os.fork()
    if not pid:
        change_at_random(seed)
    os.write(1, f"pid {pid}\\n".encode())
    os.waitpid(pid, 0)
    os.write(1, b"dead\\n")
"""


def rules_in(path):
    return {s.name: s.options.get("comment", "") for s in parse(path.read_text()).typed("rule")}


class Killer:
    """Starts processes that make changes, and kills each at some moment."""

    def __init__(self, path):
        self.program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), str(RULES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self._read = b""

    def run(self, seed, lines, seconds):
        """All that the process said; it is killed some time after so many lines."""
        self.program.stdin.write(f"{seed}\n".encode())
        self.program.stdin.flush()
        said = []
        pid = 0
        while not pid or len(said) < lines:
            line = self._line()
            if line.startswith("pid "):
                pid = int(line[4:])
            else:
                said.append(line)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        os.kill(pid, signal.SIGKILL)
        said += iter(self._line, "dead")
        return said

    def _line(self):
        while b"\n" not in self._read:
            assert select.select([self.program.stdout], [], [], 30)[0], "the program does not go on"
            data = os.read(self.program.stdout.fileno(), 65536)
            assert data, "the program has ended"
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def close(self):
        self.program.stdin.close()
        self.program.kill()
        self.program.wait(30)
        self.program.stdout.close()


def follow(state, lines):
    """The states before and after the change in flight, when a child has said ``lines``."""
    after = dict(state)
    for line in lines:
        if line == "end":
            state = dict(after)
        elif line.startswith("begin "):
            _, number, comment = line.split(" ", 2)
            after = dict(state)
            if comment == "-":
                after.pop(f"rule{number}", None)
            else:
                after[f"rule{number}"] = comment
    return state, after


def test_killed_at_random_moments(tmp_path):
    path = tmp_path / "spin"
    path.write_text("# kept\nconfig spind 'spind'\n")
    rng = random.Random("kill")
    state: dict[str, str] = {}
    piled_up = changes = unfinished = 0
    killer = Killer(path)
    try:
        for kill in range(KILLS):
            lines = killer.run(kill, 2 * rng.randrange(1, 12), rng.random() * 0.006)
            before, after = follow(state, lines)
            state = rules_in(path)
            assert state in (before, after)
            changes += lines.count("end")
            left = len(list(tmp_path.iterdir())) - 1
            unfinished += left > 0
            piled_up = max(piled_up, left)
    finally:
        killer.close()
    assert path.read_text().startswith("# kept\n")
    assert changes > KILLS
    assert unfinished, "no kill hit a change while it was written"
    assert piled_up == 1
    Store(str(path)).load()
    assert [entry.name for entry in tmp_path.iterdir()] == ["spin"]
