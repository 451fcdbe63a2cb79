# SPDX-License-Identifier: GPL-2.0-or-later
"""The init script: what procd is told, in files that are compared as text, and what its commands do.

The script runs in the shells that are here, with a stand-in for OpenWrt's rc.common and procd.sh. Where
``SPIND_OPENWRT_ROOT`` names a folder with the real ones (etc/rc.common, lib/functions.sh, lib/functions/,
usr/share/libubox/jshn.sh) and ``jshn`` is on the PATH, these are asked, too, and have to say the same.

``SPIND_UPDATE_GOLDEN=1`` writes the files anew.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FILES = ROOT / "openwrt" / "files"
GOLDEN = HERE.parent / "golden" / "openwrt"

SHELLS = [("/bin/sh",), ("busybox", "sh")]
RELOAD_DELAY = 1000  # milliseconds: PROCD_RELOAD_DELAY of procd.sh

Calls = list[list[str]]


class Router:
    """A folder that the script takes for the root of the file system."""

    def __init__(self, root: Path, shell: Sequence[str]) -> None:
        self.root = root
        self.shell = shell
        self.script = root / "etc/init.d/spin"
        for name in ("etc/init.d", "etc/capabilities", "sbin", "var/run", "usr/libexec"):
            (root / name).mkdir(parents=True)
        text = (FILES / "spind.init").read_text()
        # All paths but those that procd is told.
        for path in ("/etc/spin", "/var/lib", "/sbin/ujail", "/usr/libexec"):
            text = re.sub(rf"(?<![\w/]){path}\b", f"{root}{path}", text)
        for name in ("PIDFILE", "CAPABILITIES"):
            text = re.sub(rf"^{name}=", f"{name}={root}", text, flags=re.MULTILINE)
        self.script.write_text(text)

    def jail(self) -> None:
        self.executable("sbin/ujail", "")
        (self.root / "etc/capabilities/spind.json").write_text("{}")

    def executable(self, path: str, text: str) -> None:
        (self.root / path).write_text(f"#!/bin/sh\n{text}\n")
        (self.root / path).chmod(0o755)

    def run(self, action: str, **config: str) -> Calls:
        """The calls that an action makes."""
        out = self.root / "calls"
        command = f'exec 3>"{out}"; . "{HERE}/openwrt_rc.sh"'
        environment = os.environ | {f"CONFIG_spind_{name}": value for name, value in config.items()}
        # "sh -c TEXT NAME WORDS": the words are $1 and $2.
        subprocess.run(
            [*self.shell, "-c", command, "rc", str(self.script), action],
            env=environment,
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        lines = out.read_text().replace(str(self.root), "").split("\x1f\n")[:-1]
        return [line.split("\x1f") for line in lines]

    def message(self, action: str, **config: str) -> dict[str, Any]:
        return assemble(self.run(action, **config))


def _parameter(kind: str, words: list[str]) -> object:
    """What ``procd_set_param`` makes of its words."""
    if kind in ("env", "data", "limits"):
        return dict(word.split("=", 1) for word in words)
    if kind in ("command", "netdev", "file", "respawn", "watch", "watchdog"):
        return words
    (word,) = words
    if kind in ("nice", "term_timeout"):
        return int(word)
    if kind == "reload_signal":
        return int(signal.Signals[f"SIG{word}"])
    if kind in ("stdout", "stderr", "no_new_privs"):
        return word == "1"
    assert kind in ("pidfile", "user", "group", "seccomp", "capabilities", "facility")
    return word


def assemble(calls: Calls) -> dict[str, Any]:
    """The message that ``ubus call service set`` would be given."""
    message: dict[str, Any] = {}
    instance: dict[str, Any] = {}
    for name, *words in calls:
        if name == "open_service":
            message = {"name": words[0], "script": words[1], "instances": {}, "triggers": []}
        elif name == "open_instance":
            instance = {}
            label = words[0] if words else f"instance{len(message['instances']) + 1}"
            message["instances"][label] = instance
        elif name == "set_param":
            instance[words[0]] = _parameter(words[0], words[1:])
        elif name == "add_jail":
            instance["jail"] = {"name": words[0], **dict.fromkeys(words[1:], True), "mount": {}}
        elif name == "add_reload_trigger":
            for package in words:
                run = ["run_script", message["script"], "reload"]
                condition = ["if", ["eq", "package", package], run]
                message["triggers"].append(["config.change", condition, RELOAD_DELAY])
        else:
            assert name in ("config_load", "close_instance", "close_service", "kill"), name
    return message


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[-1].rpartition("/")[2] + str(len(shell)))
def router(request: pytest.FixtureRequest, tmp_path: Path) -> Router:
    if shutil.which(request.param[0]) is None:
        pytest.skip(f"{request.param[0]} is not installed")
    return Router(tmp_path / "root", request.param)


def _plain(_router: Router) -> dict[str, str]:
    return {}


def _jailed(router: Router) -> dict[str, str]:
    router.jail()
    return {}


def _disabled(_router: Router) -> dict[str, str]:
    return {"enabled": "0"}


CASES = {"plain": _plain, "jailed": _jailed, "disabled": _disabled}


@pytest.mark.parametrize("case", CASES)
def test_what_procd_is_told(case: str, router: Router) -> None:
    message = router.message("start", **CASES[case](router))
    told = json.dumps(message, indent="\t") + "\n"
    golden = GOLDEN / f"procd-{case}.json"
    if os.environ.get("SPIND_UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(told)
    assert told == golden.read_text()


def test_reload_tells_the_same_so_that_procd_compares_files(router: Router) -> None:
    assert router.message("reload") == router.message("start")


@pytest.mark.parametrize(("enabled", "instances"), [("on", 1), ("1", 1), ("", 1), ("no", 0), ("0", 0)])
def test_whether_it_runs_is_an_option(router: Router, enabled: str, instances: int) -> None:
    message = router.message("start", enabled=enabled)
    assert len(message["instances"]) == instances
    # Also without an instance procd has to come back when the option changes.
    assert "spin" in [trigger[1][1][2] for trigger in message["triggers"]]


def test_the_state_outlives_a_reboot(router: Router) -> None:
    router.run("start")
    state = router.root / "var/lib/spin"
    assert state.is_symlink()
    (state / "ids.json").write_text("{}")
    assert [path.name for path in (router.root / "etc/spin").iterdir()] == ["ids.json"]
    assert (router.root / "etc/spin").stat().st_mode & 0o777 == 0o700
    router.run("start")
    assert (state / "ids.json").read_text() == "{}"
    state.unlink()  # as a reboot does
    router.run("start")
    assert (state / "ids.json").read_text() == "{}"


def test_a_state_of_ones_own_stays(router: Router) -> None:
    state = router.root / "var/lib/spin"
    state.mkdir(parents=True)
    router.run("start")
    assert not state.is_symlink()
    assert not (router.root / "etc/spin").exists()


def test_stop_leaves_the_rules_to_the_daemon(router: Router) -> None:
    assert router.run("stop") == [["kill", "spin"]]


def test_purge_waits_for_the_daemon_to_end(router: Router) -> None:
    pidfile = router.root / "var/run/spind.pid"
    purged = router.root / "purged"
    router.executable("usr/libexec/spin-purge", f"test ! -e {pidfile} && touch {purged}")
    pidfile.write_text("1\n")
    sleep = router.root / "sleep"
    router.executable("sleep", f"rm {pidfile}")
    text = router.script.read_text()
    assert "\tsleep 1\n" in text
    router.script.write_text(text.replace("\tsleep 1\n", f"\t{sleep} 1\n"))
    assert router.run("purge") == [["kill", "spin"]]
    assert purged.exists()


def test_it_starts_after_the_network_and_stops_before_it(router: Router) -> None:
    assert router.run("enable") == [["enable", "21", "89"]]


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shell_scripts_are_clean() -> None:
    scripts = [FILES / "spind.init", FILES / "spind.defaults", HERE / "openwrt_rc.sh"]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# -- the script that runs once ---------------------------------------------------------------

_UCI = """
state={root}/uci
case "$*" in
	"-q get spin.spind") grep -q "^spin.spind=" "$state" ;;
	"-q batch") while read -r command words; do echo "$command $words" >>{root}/batch; done
		echo "spin.spind=spind" >>"$state" ;;
	*) exit 2 ;;
esac
"""


@pytest.fixture
def first_boot(router: Router) -> Callable[[], None]:
    """Runs the script of uci-defaults as default_postinst does: sourced, in a subshell."""
    (router.root / "bin").mkdir()
    (router.root / "etc/config").mkdir()
    router.executable("bin/uci", _UCI.format(root=router.root))
    router.executable("bin/pidof", "false")
    router.executable("etc/init.d/rpcd", f'echo "$1" >>{router.root}/rpcd')
    (router.root / "uci").touch()
    script = router.root / "90-spind"
    text = (FILES / "spind.defaults").read_text()
    script.write_text(re.sub(r"/etc/(config|init\.d)/", rf"{router.root}/etc/\1/", text))

    def run() -> None:
        command = [*router.shell, "-c", f'( . "{script}" ) && echo removed']
        environment = os.environ | {"PATH": f"{router.root}/bin:{os.environ['PATH']}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout == "removed\n", done.stderr

    return run


def test_a_shipped_file_is_left_as_it_is(router: Router, first_boot: Callable[[], None]) -> None:
    config = router.root / "etc/config/spin"
    shutil.copyfile(FILES / "spin.uci", config)
    (router.root / "uci").write_text("spin.spind=spind\n")
    first_boot()
    assert config.read_bytes() == (FILES / "spin.uci").read_bytes()
    assert not (router.root / "batch").exists()
    assert (router.root / "rpcd").read_text() == "running\nreload\n"


def test_uci_set_works_with_any_file_that_was_there(router: Router, first_boot: Callable[[], None]) -> None:
    first_boot()
    first_boot()
    assert (router.root / "batch").read_text() == "set spin.spind=spind\ncommit spin\n"
    assert (router.root / "etc/config/spin").stat().st_mode & 0o777 == 0o600


# -- the real rc.common and procd.sh, where they are -----------------------------------------------

OPENWRT = os.environ.get("SPIND_OPENWRT_ROOT", "")


@pytest.mark.skipif(not OPENWRT, reason="SPIND_OPENWRT_ROOT names no folder with OpenWrt's rc.common")
@pytest.mark.parametrize("case", ["plain", "jailed"])
def test_the_real_rc_common_says_the_same(case: str, tmp_path: Path) -> None:
    router = Router(tmp_path / "root", ("bash",))
    shutil.copytree(OPENWRT, router.root, dirs_exist_ok=True)
    (router.root / "var/lock").mkdir(parents=True, exist_ok=True)
    CASES[case](router)
    (router.root / "bin").mkdir(exist_ok=True)
    told_file = router.root / "told"
    router.executable("bin/ubus", f'test "$1 $2 $3" = "call service set" && echo "$4" >>{told_file}')
    environment = os.environ | {
        "PATH": f"{router.root}/bin:{os.environ['PATH']}",
        "IPKG_INSTROOT": str(router.root),
    }
    command = ["bash", router.root / "etc/rc.common", router.script, "start"]
    subprocess.run(command, env=environment, check=True, timeout=60)
    told = json.loads(told_file.read_text().replace("\\/", "/").replace(str(router.root), ""))
    assert told.pop("data", {}) == {}
    assert told == json.loads((GOLDEN / f"procd-{case}.json").read_text())
