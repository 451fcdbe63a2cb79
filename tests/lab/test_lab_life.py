# SPDX-License-Identifier: GPL-2.0-or-later
"""Labs come and go without a trace: side by side, after kill -9, and when building fails."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spind.lab import Lab, LabError, netns, plan, runtime, wait_until
from spind.lab.cli import main

pytestmark = pytest.mark.lab

REPOSITORY = Path(__file__).resolve().parents[2]
OWNER = """
import sys, time
from spind.lab import Lab
lab = Lab()
lab.up()
print(lab.name, flush=True)
sys.stdin.read()
"""

DIES_AT = """
import os, signal, sys
from spind.lab import Lab, build, certs, netns
module, _, function = sys.argv[1].partition(".")
setattr(globals()[module], function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
Lab(sys.argv[2]).up()
"""


def root_namespace() -> dict[str, str]:
    """What must not change: links, addresses, routes, rules and sysctls outside the lab's namespaces."""
    commands = (
        "ip -o link",
        "ip -o addr",
        "ip route show table all",
        "ip -6 route show table all",
        "nft list ruleset",
        "sysctl -a -r ^net",
    )
    state = {}
    for command in commands:
        words = command.split()
        state[command] = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    moving = ("nf_conntrack_count", "netdev_rss_key")
    running_down = re.compile(r"(valid_lft|preferred_lft|expires) \d+sec")
    for command, text in state.items():
        still = [line for line in text.splitlines() if not any(word in line for word in moving)]
        state[command] = running_down.sub("", "\n".join(still))
    return state


def traces(name: str) -> list[str]:
    """What is left of the lab ``name``."""
    found = [entry.name for entry in netns.NETNS_DIR.glob(f"{name}-*")]
    found += [entry.name for entry in runtime.ETC_NETNS.glob(f"{name}-*")]
    return found + [entry.name for entry in runtime.BASE.glob(f"*{name}*")]


@pytest.mark.usefixtures("lab")  # the first lab loads kernel modules, which bring sysctls of their own
def test_nothing_outside_changes(make_lab: Callable[..., Lab]) -> None:
    before = root_namespace()
    lab = make_lab()
    assert root_namespace() == before
    assert len(traces(lab.name)) == 2 * len(lab.nodes) + 1
    processes = netns.processes_in([node.namespace for node in lab.nodes])
    assert len(processes) >= 3 + len(lab.devices)
    lab.down()
    assert root_namespace() == before
    assert traces(lab.name) == []
    assert not [pid for pid in processes if runtime.start_time(pid) is not None]


def test_two_labs_side_by_side(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    other = make_lab(devices=2)
    assert other.name != lab.name
    assert other.device("camera").mac == lab.device("camera").mac
    for each in (lab, other):
        answer = each.device("camera").run(["curl", "-sS", "http://plain.http.test/"])
        assert json.loads(answer.stdout)["host"] == "plain.http.test"
    other.device("plug").run(["ping", "-c", "1", "-W", "2", other.device("camera").ipv4])
    other.down()
    lab.device("camera").run(["ping", "-c", "1", "-W", "2", plan.server4(10)])


def test_a_killed_owners_lab_is_stale_and_removed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner.stdin, owner.stdout:
        name = owner.stdout.readline().strip()
        assert not runtime.is_stale(runtime.read_state(name))
        assert name not in runtime.reap()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    namespaces = runtime.read_state(name)["namespaces"]
    orphans = netns.processes_in(namespaces)
    assert orphans
    assert runtime.is_stale(runtime.read_state(name))
    # Another lab's test may have reaped it already: what counts is that it is gone.
    runtime.reap()
    assert traces(name) == []
    wait_until(lambda: all(runtime.start_time(pid) is None for pid in orphans), 5, "the orphans' end")


STEPS = ["netns.ip_batch", "build._configure_links", "certs.make", "build._wait_ipv6"]


@pytest.mark.parametrize("step", STEPS)
def test_a_lab_killed_while_it_is_built_is_removed(step: str) -> None:
    name = "spl" + step.rpartition(".")[2].strip("_").replace("_", "")[:7]
    argv = [sys.executable, "-c", DIES_AT, step, name]
    assert subprocess.run(argv, cwd=REPOSITORY, check=False, timeout=60).returncode == -signal.SIGKILL
    runtime.reap()
    assert traces(name) == []


def test_a_failed_build_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spind.lab.render.firewall", lambda **_: "this is no ruleset\n")
    lab = Lab()
    with pytest.raises(LabError, match="nft -f"):
        lab.up()
    assert traces(lab.name) == []


def test_a_name_is_taken_once(lab: Lab) -> None:
    with pytest.raises(LabError, match="already"):
        Lab(lab.name).up()
    assert lab.device("tv").ipv4


@pytest.mark.parametrize("name", ["../x", "Upper", "a b", "", "-a", "a" * 30])
def test_names_that_would_not_fit_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="name"):
        plan.check_name(name)


def test_processes_in_the_lab_end_even_if_they_do_not_want_to(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(devices=1)
    code = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print(1, flush=True); time.sleep(99)"
    stubborn = lab.device("camera").popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert stubborn.stdout.readline() == b"1\n"
    stopped = lab.device("camera").popen(["sleep", "99"])
    wait_until(lambda: stopped.pid in netns.processes_in([lab.device("camera").namespace]), 5, "sleep")
    os.kill(stopped.pid, signal.SIGSTOP)
    lab.down()
    assert stubborn.wait(5) == -signal.SIGKILL
    assert stopped.wait(5) == -signal.SIGTERM
    stubborn.stdout.close()


def test_the_command_line_builds_uses_and_removes_a_lab(capfd: pytest.CaptureFixture[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def spind_lab(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "spind.lab", *words]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)

    name = spind_lab("up", "--devices", "3").stdout.strip()
    try:
        assert main(["list"]) == 0
        assert f"{name}  running  camera plug tv\n" in capfd.readouterr().out
        # Its builder has ended, and it stays: nobody owns it.
        assert name not in runtime.reap()
        result = spind_lab("exec", name, "tv", "--", "curl", "-sS", "https://stream.tv.test/")
        assert json.loads(result.stdout)["sni"] == "stream.tv.test"
        assert spind_lab("exec", name, "tv", "--", "false").returncode == 1
        result = spind_lab("traffic", name, "--seconds", "2", "--misbehave", "plug:portscan")
        assert "scan" in result.stdout, result.stderr
        result = spind_lab("exec", name, "nobody", "--", "true")
        assert (result.returncode, "no device 'nobody'" in result.stderr) == (1, True)
    finally:
        result = spind_lab("down", name)
    assert result.stderr == f"{name} is gone\n"
    assert traces(name) == []
    assert "no lab" in spind_lab("down", name).stderr
