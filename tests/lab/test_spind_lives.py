# SPDX-License-Identifier: GPL-2.0-or-later
"""spind's life on a gateway: decisions that last, reload, restart, stuck, killed."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from spind_home import Home, Listener

from spind.client import CallError
from spind.lab import Lab, load
from spind.lab.node import wait_until
from spind.lab.patience import patient

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Lab() as lab:
        fresh = Home(lab, block_on_stop="0")
        fresh.start()
        yield fresh
        fresh.stop()


def rules(home: Home) -> str:
    """Everything of ours in the gateway's firewall, without counters."""
    found = []
    for tool in ("iptables-legacy-save", "ip6tables-legacy-save"):
        text = home.lab.gateway.run([tool, "-t", "mangle"]).stdout
        found += [line for line in text.splitlines() if "SPIN" in line.upper()]
    listing = home.lab.gateway.run(["nft", "-s", "list", "tables"]).stdout
    found += [line for line in listing.splitlines() if "spin" in line]
    return "\n".join(re.sub(r"\[\d+:\d+\]", "", line).strip() for line in found)


def device(home: Home, name: str) -> dict[str, object]:
    return next(node for node in home.pages("list_nodes", kind="device") if node["hostname"] == name)


@contextmanager
def pinging(home: Home, name: str = "plug") -> Iterator[Callable[[], tuple[int, int]]]:
    """New connections all the time: each ping is one of its own. Gives (sent, lost) so far."""
    counts = [0, 0]
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            result = home.lab.device(name).run(
                ["ping", "-n", "-c", "1", "-W", str(round(patient(2))), "198.18.0.40"], check=False
            )
            counts[0] += 1
            counts[1] += result.returncode != 0

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lambda: (counts[0], counts[1])
    finally:
        stop.set()
        thread.join()


def answers(home: Home, name: str) -> bool:
    ping = ["ping", "-n", "-c", "1", "-W", "1", "198.18.0.40"]
    return home.lab.device(name).run(ping, check=False).returncode == 0


def test_a_name_is_kept_in_uci_and_survives_a_restart(home: Home) -> None:
    camera = device(home, "camera")
    home.call("set_device_name", node=camera["id"], name="Front door 'n' garden")
    assert "option name 'Front door '\\''n'\\'' garden'" in home.spind.config.read_text()
    ids = {node["mac"]: node["id"] for node in home.pages("list_nodes", kind="device")}
    home.spind.stop()
    home.spind.what, text = "spind", home.spind.config.read_text()
    home.spind.more = text[text.index("config device") :] if "config device" in text else ""
    home.spind.start()
    home.settle()
    assert {node["mac"]: node["id"] for node in home.pages("list_nodes", kind="device")} == ids
    assert home.call("get_device_data", node=camera["id"])["name"] == "Front door 'n' garden"
    home.call("set_device_name", node=camera["id"], name="")


def test_a_decision_that_cannot_be_kept_is_not_made(home: Home) -> None:
    plug = device(home, "plug")
    config = home.spind.config
    real = config.with_suffix(".real")
    config.rename(real)
    config.mkdir()
    try:
        with pytest.raises(CallError, match="cannot be kept"):
            home.call("set_device_name", node=plug["id"], name="Kettle")
    finally:
        config.rmdir()
        real.rename(config)
    assert home.call("get_device_data", node=plug["id"])["name"] == "plug"


def test_editing_the_file_and_sighup_have_the_effect_of_calls(home: Home) -> None:
    hub = device(home, "hub")
    good = home.spind.config.read_text()
    pid = home.lab.gateway.pid("spind")
    assert pid is not None
    section = f"\nconfig device\n\toption mac '{hub['mac']}'\n\toption name 'Bridge'\n\toption ignore '1'\n"
    home.spind.config.write_text(good + section)
    os.kill(pid, signal.SIGHUP)
    wait_until(
        lambda: home.call("get_device_data", node=hub["id"]).get("name") == "Bridge",
        patient(5),
        "the new name",
    )
    assert set(hub["ips"]) <= set(home.call("list_iplist", list="ignore"))

    home.spind.config.write_text(good + "\nconfig device 'torn\n")
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: "the configuration in force stays" in home.log(), patient(5), "the complaint")
    assert home.call("get_device_data", node=hub["id"])["name"] == "Bridge"

    home.spind.config.write_text(good.replace("option pubsub_port '1883'", "option pubsub_port 'x'"))
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: home.call("status")["config"]["problems"], patient(5), "the problem in status")
    (problem,) = home.call("status")["config"]["problems"]
    assert "pubsub_port" in problem
    assert "'x'" in problem
    assert home.call("status")["mqtt"]["connected"]

    home.spind.config.write_text(good)
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: not home.call("list_iplist", list="ignore"), patient(5), "the ignore list to be empty")


def test_ignored_devices_are_left_out_of_messages(home: Home) -> None:
    tv = device(home, "tv")
    home.call("add_iplist_node", list="ignore", node=tv["id"])
    with Listener(home.lab, "SPIN/traffic") as listener:
        load.churn(home.lab, "tv", rate=50, seconds=1)
        load.churn(home.lab, "phone", rate=50, seconds=1)
        home.settle()
        wait_until(lambda: listener.commands("traffic"), patient(10), "traffic of the phone")
        ends = {
            f[e] for m in listener.commands("traffic") for f in m["result"]["flows"] for e in ("from", "to")
        }
    assert tv["id"] not in ends
    assert device(home, "phone")["id"] in ends
    home.call("reset_iplist_ignore")


@pytest.mark.vm
def test_stop_and_start_leave_no_rule_behind_and_lose_no_packet(home: Home) -> None:
    running = rules(home)
    assert running
    with pinging(home) as counts:
        for _ in range(2):
            home.spind.stop()
            assert rules(home) == ""
            home.spind.start()
        wait_until(lambda: counts()[0] >= 5, patient(20), "some pings")
    assert counts()[1] == 0
    assert rules(home) == running
    assert "Traceback" not in home.log()


@pytest.mark.vm
def test_killed_it_lets_traffic_go_on_and_the_next_start_cleans_up(home: Home) -> None:
    running = rules(home)
    with pinging(home) as counts:
        home.spind.stop(signal.SIGKILL)
        # The kernel drops what waited for the dead one's verdict: at most the ping under way.
        held = counts()
        assert held[1] <= 1
        wait_until(lambda: counts()[0] >= held[0] + 6, patient(20), "pings past the dead daemon")
        assert rules(home) == running, "bypass serves: the rules are still there"
        home.spind.start()
        mark = counts()[0]
        wait_until(lambda: counts()[0] >= mark + 3, patient(20), "pings past the new daemon")
    assert counts()[1] <= 1
    assert rules(home) == running


def test_stuck_it_lets_traffic_go_on_and_counts_are_right_again_afterwards(home: Home) -> None:
    seconds = 4
    rate = 200 / patient(1)
    pid = home.lab.gateway.pid("spind")
    assert pid is not None
    with home.counting() as grown:
        free = load.churn(home.lab, "phone", rate=rate, seconds=seconds)
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: answers(home, "plug"), patient(10), "the dead man's switch to let go")
            stuck = load.churn(home.lab, "phone", rate=rate, seconds=seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
        result = grown()
    assert stuck.failed == 0
    assert stuck.completed >= 0.95 * free.completed
    for key, (kernel, counted) in result.items():
        assert counted == kernel, key


def test_the_brokers_view_of_its_life(home: Home) -> None:
    with Listener(home.lab, "SPIN/status") as listener:
        wait_until(lambda: [m[2] for m in listener.messages] == [b"online"], patient(5), "online")
        home.spind.stop(signal.SIGKILL)
        wait_until(lambda: listener.messages[-1][2] == b"offline", patient(10), "the broker's last will")
        home.spind.start()
        wait_until(lambda: listener.messages[-1][2] == b"online", patient(10), "online again")
    home.broker.stop()
    load.churn(home.lab, "phone", rate=20, seconds=1)
    assert home.call("status")["mqtt"]["connected"] is False
    home.broker.start()
    wait_until(
        lambda: home.call("status")["mqtt"]["connected"], patient(30), "the broker again", interval=0.2
    )
    with Listener(home.lab, "SPIN/traffic/node/#") as listener:
        devices = {node["id"] for node in home.pages("list_nodes", kind="device")}
        wait_until(
            lambda: devices <= {json.loads(m[2])["result"]["id"] for m in listener.messages if m[2]},
            patient(10),
            "all devices' retained messages",
        )


def test_status_says_that_the_queues_fail_open(home: Home) -> None:
    assert home.call("status")["capture"]["fail_open"] is True


def test_two_daemons_cannot_have_one_socket(home: Home) -> None:
    second = home.lab.gateway.run(
        home.lab.gateway.python("spind", "run", "-c", home.spind.config), check=False, timeout=patient(20)
    )
    assert second.returncode == 1
    assert home.call("status")["uptime"] >= 0
