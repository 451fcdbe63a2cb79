# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon: wires the adapters to the engine, and carries out what the engine wants done.

Owns start, reload and stop, and their order. Holds no state of the home: that is the engine's.

Order of start: addresses before counters, so that the first connections find their devices;
queues before the rules that fill them. At the stop queues go first, too: without a queue the rules
let packets pass, while with the rules the kernel would drop the packets that wait.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from spind import __version__, logs
from spind.api import Api
from spind.audit import to_json
from spind.audit_file import AuditFile
from spind.calls import Caller, NotInForceError, UnavailableError
from spind.capture import Capture
from spind.capture_backend import CaptureRules
from spind.capture_rules import CaptureSpec, bits
from spind.changes import RuleChange
from spind.commands import (
    Command,
    Enforce,
    EnforceElements,
    Json,
    NodeChanged,
    Notice,
    RecordAudit,
    Save,
    SaveState,
    Verdict,
)
from spind.config import Problem
from spind.config_options import Config, DeviceSection, SiteSection
from spind.conntrack import ConntrackReader
from spind.engine import ACCEPT, Engine
from spind.events import Decided, Event, KernelCounters, PacketSeen, Placed, Restore, Tick
from spind.guard import Guard
from spind.jsonrpc import handle
from spind.loop_watch import LoopWatch
from spind.model import parse_mac
from spind.mqtt_pub import MqttPublisher, MqttSettings
from spind.neighbours import NeighbourWatcher
from spind.rpc_socket import RpcSocket, RpcSocketError
from spind.ruleset import Placement
from spind.shapes import node_shape
from spind.store import StateFile, Store, StoreError
from spind.ubus_api import UbusApi

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0

COUNTERS_SECONDS = 10.0
"""How often adapters are asked for their counters: reading the queues' in /proc costs 0.1 ms."""

CLOCK_STEP_SECONDS = 5.0
"""Routers without a battery start at some date and are set by NTP. Slewing is less than this."""

COUNTED_PER_CONNECTION = 4
"""Connections whose counters are followed, for each whose name is known: 350 bytes each, bounded by
the kernel's own table. One that is not followed is counted only when it ends."""

GC_THRESHOLDS = (700, 5, 1_000_000)
"""Young objects are collected as ever; a full collection walks every connection (350 ms at 65,000,
measured), so it is left to ``_collect``."""

GC_SECONDS = 3600.0
GC_CONNECTIONS = 2000
"""A full collection is due once an hour, at a moment with so few connections that it takes some ms."""

READ_ATTEMPTS = 5
"""How often the configuration is read at leisure, while people decide something each time."""

_MQTT_OPTIONS = (
    "pubsub_host",
    "pubsub_port",
    "pubsub_channel_traffic",
    "pubsub_timeout",
    "pubsub_user",
    "pubsub_password",
    "pubsub_tls_ca_file",
    "pubsub_rpc",
)
_CAPTURE_OPTIONS = (
    "capture_backend",
    "iptable_queue_dns",
    "iptable_queue_block",
    "iptable_queue_inspect",
    "ctmark_mask",
)
_BLOCK_OPTIONS = ("block_backend", "block_log_group")
_HOME_OPTIONS = ("lan", "lease_file")
_START_OPTIONS = (
    "mode",
    "pid_file",
    "state_dir",
    "history_dir",
    *(name for name in Config.__slots__ if name.startswith("limit_")),
)
"""Options that only a restart brings into force: what they size or place exists from the start on."""


class Daemon:
    """One running daemon. ``await run()`` returns the exit status."""

    def __init__(self, store: Store, config: Config, problems: list[Problem], log_level: int | None) -> None:
        self._store = store
        self._config = config
        self._problems = problems
        self._log_level = log_level
        self._loop = asyncio.get_running_loop()
        self._state = StateFile(config.state_dir)
        ids, damage = self._state.load()
        given, _ = self._state.load_profiles()
        if damage:
            log.warning("%s", damage)
        self._engine = Engine(
            config.limits,
            ids=ids,
            local=config.mode == "local",
            retain=config.node_cache_retain_time,
            given=given,
            wall_clock=_wall_clock,
        )
        self._audit_file = AuditFile(config.history_dir)
        self._skew = time.time() - self._loop.time()
        self._failed_events = 0
        self._saved = 0
        self._api = Api(self._engine, self._clock, self._decide, self._status, self._hurry)
        self._watch = LoopWatch(self._loop)
        self._neighbours = self._make_neighbours()
        self._neighbours_problem = ""
        self._guard = Guard(self._loop, config.history_dir, self._give, self._is_lan)
        self._queues: list[Capture] = []
        self._rules: CaptureRules | None = None
        self._capture_problem = ""
        self._conntrack = ConntrackReader(
            self._loop,
            self._give,
            config.conntrack_interval,
            limit=config.limits.connections * COUNTED_PER_CONNECTION,
        )
        self._conntrack_problem = ""
        self._mqtt = self._make_mqtt(announce_restart=True)
        self._socket = RpcSocket(self._api, config.rpc_socket)
        self._ubus = UbusApi(self._loop, self._api, config.ubus_socket)
        self._saving: asyncio.Task[None] | None = None
        self._unsaved: SaveState | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._reload_asked = False
        self._stopping = asyncio.Event()
        self._collected = self._loop.time()
        self._counted = float("-inf")
        self._ticker: asyncio.TimerHandle | None = None

    # -- life ----------------------------------------------------------------------------

    async def run(self) -> int:
        """Start, serve until a signal says stop, stop; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stopping.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            await self._socket.start()
        except RpcSocketError as error:
            log.error("%s", error)
            return 1
        pid_file = self._write_pid_file()
        try:
            self._start()
            await self._stopping.wait()
            log.info("stopping")
        finally:
            await self._stop()
            if pid_file is not None:
                with contextlib.suppress(OSError):
                    pid_file.unlink()
        return 0

    def _start(self) -> None:
        log.info("spind %s, mode %s, configuration %s", __version__, self._config.mode, self._store.path)
        self._tell_problems()
        self._load_audit()
        self._give(self._decided())
        self._guard.remember()
        self._start_neighbours()
        self._mqtt.start()
        self._ubus.start()
        self._start_guard()
        self._start_capture()
        try:
            self._conntrack.start()
        except OSError as error:
            self._conntrack_problem = f"no byte counters: {error}"
            log.error("%s", self._conntrack_problem)
        gc.collect()
        gc.freeze()  # modules and settings live as long as we do: no collection looks at them again
        gc.set_threshold(*GC_THRESHOLDS)
        self._watch.start()  # from here on a stall delays packets
        self._tick()

    async def _stop(self) -> None:
        if self._reloading is not None:
            await self._reloading  # or it would start again what is stopped here
        if self._ticker is not None:
            self._ticker.cancel()
        await self._socket.stop()
        self._stop_capture()
        self._guard.stop(remove=not self._config.block_on_stop)
        self._conntrack.stop()
        self._neighbours.stop()
        await self._ubus.stop()
        await self._mqtt.stop()
        self._watch.stop()
        if self._saving is not None:
            await self._saving
        ids = self._engine.nodes.ids()
        if ids:
            await self._write_state(SaveState(ids, dict(self._engine.nodes.given)))
        log.info("stopped")

    def _write_pid_file(self) -> Path | None:
        if not self._config.pid_file:
            return None
        path = Path(self._config.pid_file)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{os.getpid()}\n")
        except OSError as error:
            log.warning("no pid file: %s", error)
            return None
        return path

    # -- adapters ------------------------------------------------------------------------

    def _make_neighbours(self) -> NeighbourWatcher:
        return NeighbourWatcher(
            self._loop,
            self._give,
            self._config.lan,
            self._config.mode,
            on_interfaces=self._interfaces_changed,
            lease_files=tuple(map(Path, self._config.lease_file)),
        )

    def _start_neighbours(self) -> None:
        self._neighbours_problem = ""
        try:
            self._neighbours.start()
        except OSError as error:
            self._neighbours_problem = f"devices are known by their packets only: {error}"
            log.error("%s", self._neighbours_problem)

    def _make_mqtt(self, *, announce_restart: bool) -> MqttPublisher:
        config = self._config
        settings = MqttSettings(
            host=config.pubsub_host,
            port=config.pubsub_port,
            channel_traffic=config.pubsub_channel_traffic,
            keepalive=config.pubsub_timeout,
            user=config.pubsub_user,
            password=config.pubsub_password,
            tls_ca_file=config.pubsub_tls_ca_file,
            rpc=config.pubsub_rpc,
        )
        caller = Caller("mqtt", "owner")
        return MqttPublisher(
            self._loop,
            settings,
            self._snapshot,
            lambda request: handle(self._api, request, caller),
            announce_restart=announce_restart,
        )

    def _snapshot(self) -> list[Command]:
        """The state that a broker should retain."""
        nodes: list[Command] = [
            NodeChanged(node_shape(node)) for node in self._engine.nodes if not node.ignored
        ]
        return nodes + self._engine.current_counters()

    def _start_capture(self) -> None:
        config = self._config
        marks = bits(config.ctmark_mask)
        numbers = (config.iptable_queue_dns, config.iptable_queue_block, config.iptable_queue_inspect)
        spec = CaptureSpec(
            config.mode,
            self._neighbours.rule_interfaces(),
            config.iptable_queue_dns,
            config.iptable_queue_block,
            marks.done,
            queue_inspect=config.iptable_queue_inspect,
            cut_mark=marks.cut,
            inspect_mark=marks.inspect,
        )
        self._capture_problem = ""
        try:
            for number in numbers:
                queue = Capture(
                    self._loop,
                    number,
                    self._packet,
                    self._is_lan,
                    done_mark=marks.done,
                    cut_mark=marks.cut,
                    inspect_mark=marks.inspect,
                    inspect=number == config.iptable_queue_inspect,
                )
                queue.start()
                self._queues.append(queue)
            self._rules = CaptureRules(self._loop, config.capture_backend, spec)
            self._rules.start()
        except (OSError, ValueError) as error:
            # Counters still work without: say so, and go on.
            self._capture_problem = f"no packets are captured, so names are missing: {error}"
            log.error("%s", self._capture_problem)
            self._stop_capture()

    def _start_guard(self) -> None:
        self._give(Placed(self._placement()))
        config = self._config
        self._guard.start(config.block_backend, config.block_log_group, self._engine.policy.ruleset)

    def _placement(self) -> Placement:
        config = self._config
        return Placement(
            config.mode,
            self._neighbours.rule_interfaces(),
            bits(config.ctmark_mask),
            config.block_log_group,
        )

    def _is_lan(self, index: int) -> bool:
        return self._neighbours.is_lan(index)

    def _stop_capture(self) -> None:
        # Queues first, while their rules let packets past: with a hook the kernel drops what waits.
        for queue in self._queues:
            queue.stop()
        self._queues.clear()
        if self._rules is not None:
            self._rules.stop()
            self._rules = None

    def _interfaces_changed(self, interfaces: tuple[str, ...]) -> None:
        log.info("the home's interfaces: %s", ", ".join(interfaces) or "none so far")
        self._give(Placed(self._placement()))
        if self._rules is not None:
            try:
                self._rules.set_interfaces(interfaces)
            except (OSError, ValueError) as error:
                log.error("capture rules for %s: %s", ", ".join(interfaces), error)

    # -- events and commands -------------------------------------------------------------

    def _packet(self, event: PacketSeen) -> Verdict:
        self._conntrack.hurry()
        verdict = ACCEPT
        for command in self._engine.handle(event, self._clock()):
            if type(command) is Verdict:
                verdict = command
            else:
                self._do(command)
        return verdict

    def _give(self, event: Event) -> None:
        # Readers and timers call this: an event that fails must not end them.
        try:
            self._carry_out(self._engine.handle(event, self._clock()))
        except Exception:
            self._failed_events += 1
            log.exception("event failed: %s", type(event).__name__, extra=logs.ONCE)

    def _clock(self) -> float:
        """Unix time; where it was set, what the engine remembers moves along."""
        now = time.time()
        skew = now - self._loop.time()
        if abs(skew - self._skew) > CLOCK_STEP_SECONDS:
            log.warning("the clock was set by %.0f seconds", skew - self._skew)
            self._engine.shift(skew - self._skew)
            self._skew = skew
        return now

    def _carry_out(self, commands: Iterable[Command]) -> None:
        for command in commands:
            self._do(command)

    def _do(self, command: Command) -> None:
        """Carry out one command; what the kernel refuses is tried again, and told by ``status``."""
        if isinstance(command, SaveState):
            self._save_state(command)
        elif isinstance(command, Notice):
            log.log(command.level, "%s", command.message)
        elif isinstance(command, Save):
            self._save_by_itself(command)
        elif isinstance(command, RecordAudit):
            self._append_audit(command.entry)
        else:
            try:
                if self._guard.carry_out(command):
                    return
            except OSError as error:
                log.error("%s", error, extra=logs.ONCE)
                return
            self._mqtt.publish(command)
            self._ubus.publish(command)

    def _decide(self, commands: list[Command]) -> None:
        """Keep a decision in UCI before anybody hears of it; where that fails, it was never made."""
        saves = [command for command in commands if isinstance(command, Save)]
        try:
            if saves:
                self._saved += 1
                self._store.apply([save.after for save in saves])
        except (StoreError, ValueError) as error:
            self._take_back(saves)
            log.error("a decision was not kept: %s", error)
            raise UnavailableError(f"not done, since it cannot be kept: {error}") from error
        self._carry_out(command for command in commands if not isinstance(command, Save))
        for save in saves:
            self._ubus.publish(save)
        enforced = any(isinstance(command, Enforce | EnforceElements) for command in commands)
        problem = str(self._guard.status()["problem"])
        if saves and enforced and problem:
            raise NotInForceError(problem)

    def _take_back(self, saves: list[Save]) -> None:
        """Have the engine as it was before changes that could not be kept."""
        restore = Restore(tuple(save.before for save in reversed(saves)))
        commands = self._engine.handle(restore, self._clock())
        self._carry_out(command for command in commands if not isinstance(command, Save))
        # What the engine wanted of the kernel was not done: have all of it as it is now.
        self._do(Enforce(self._engine.policy.ruleset))

    def _save_by_itself(self, save: Save) -> None:
        """The time decided: a rule is over."""
        try:
            self._saved += 1
            self._store.apply([save.after])
        except (StoreError, ValueError) as error:
            log.error("a rule that is over stays in the configuration: %s", error)
        self._ubus.publish(save)
        entry = self._engine.audit.record(Caller("clock", "spind"), "until", [save], self._clock())
        self._append_audit(to_json(entry))

    def _append_audit(self, entry: Json) -> None:
        try:
            self._audit_file.append(entry)
        except (StoreError, ValueError) as error:
            log.error("the audit list is not kept: %s", error, extra=logs.ONCE)

    def _load_audit(self) -> None:
        """The audit list of before a restart; ids of rules in it are not given again."""
        try:
            lines = self._audit_file.load()
        except StoreError as error:
            log.error("the audit list begins anew: %s", error)
            return
        damaged = self._engine.audit.load(lines)
        if damaged:
            log.warning("%d entries of the audit list cannot be understood", damaged)
        for entry in self._engine.audit:
            for before, _ in entry.changes:
                if isinstance(before, RuleChange):
                    self._engine.rules.reserve(before.id)

    def _save_state(self, state: SaveState) -> None:
        """Write node ids outside the loop: flash is slow. The latest wins."""
        self._unsaved = state
        if self._saving is None or self._saving.done():
            self._saving = self._loop.create_task(self._save_states(), name="save state")

    async def _save_states(self) -> None:
        while self._unsaved is not None:
            state, self._unsaved = self._unsaved, None
            await self._write_state(state)

    async def _write_state(self, state: SaveState) -> None:
        try:
            await self._loop.run_in_executor(None, self._state.save, state.ids, state.profiles)
        except StoreError as error:
            log.warning("ids of devices are not kept: %s", error)

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(TICK_SECONDS, self._tick)
        now = self._loop.time()
        if now - self._counted >= COUNTERS_SECONDS:
            self._counted = now
            self._count()
        self._give(Tick())
        self._collect()

    def _count(self) -> None:
        """Give the engine the adapters' counters, for ``status`` and MQTT."""
        counters = {
            "engine.failed-events": self._failed_events,
            **self._watch.counters(),
            **self._conntrack.counters(),
            **self._neighbours.counters(),
            **self._capture_counters(),
            **self._guard.counters(),
        }
        self._give(KernelCounters(counters))

    def _collect(self) -> None:
        now = self._loop.time()
        if now - self._collected >= GC_SECONDS and len(self._engine.connections) <= GC_CONNECTIONS:
            self._collected = now
            gc.collect()

    def _capture_counters(self) -> dict[str, int]:
        sources = [queue.counters() for queue in self._queues]
        if self._rules is not None:
            sources.append(self._rules.counters())
        totals: dict[str, int] = {}
        for counters in sources:
            for name, value in counters.items():
                totals[name] = totals.get(name, 0) + value
        return totals

    # -- configuration -------------------------------------------------------------------

    def _reload(self) -> None:
        self._reload_asked = True
        if self._reloading is None or self._reloading.done():
            self._reloading = self._loop.create_task(self._reloads(), name="reload")

    async def _reloads(self) -> None:
        while self._reload_asked and not self._stopping.is_set():
            self._reload_asked = False
            try:
                await self._reload_config()
            except Exception:
                log.exception("reload failed")

    async def _reload_config(self) -> None:
        """Read the file again; restart just the adapters whose options changed. A bad file leaves
        everything as it is."""
        try:
            config, problems = await self._read_config()
        except StoreError as error:
            log.error("reload: %s; the configuration in force stays", error)
            return
        old, self._config, self._problems = self._config, config, problems

        def changed(names: Iterable[str]) -> list[str]:
            return [name for name in names if getattr(old, name) != getattr(config, name)]

        log.info("configuration read again")
        self._tell_problems()
        self._set_up_log()
        for name in changed(_START_OPTIONS):
            log.warning("option %s: in force after a restart", name)
        self._engine.retain = config.node_cache_retain_time
        time.tzset()
        self._give(self._decided())
        if changed(("conntrack_interval",)):
            self._conntrack.set_interval(config.conntrack_interval)
        home = bool(changed(_HOME_OPTIONS)) or self._neighbours.outdated()
        if home:
            self._neighbours.stop()
            self._neighbours = self._make_neighbours()
            self._start_neighbours()
        if changed((*_BLOCK_OPTIONS, "ctmark_mask")):
            self._guard.stop(remove=False)
            self._start_guard()
        else:
            self._give(Placed(self._placement()))
        if home or changed(_CAPTURE_OPTIONS):
            self._stop_capture()
            self._start_capture()
        elif self._rules is not None:
            self._rules.check_order()  # procd reloads us also when the firewall has changed
        if changed(_MQTT_OPTIONS):
            elsewhere = changed(("pubsub_host", "pubsub_port", "pubsub_channel_traffic"))
            await self._mqtt.stop(forget=bool(elsewhere))
            self._mqtt = self._make_mqtt(announce_restart=False)
            self._mqtt.start()
        if changed(("ubus_socket",)):
            await self._ubus.stop()
            self._ubus = UbusApi(self._loop, self._api, config.ubus_socket)
            self._ubus.start()
        if changed(("rpc_socket",)):
            await self._move_socket(old.rpc_socket)

    async def _read_config(self) -> tuple[Config, list[Problem]]:
        """Read the file in a thread, since thousands of rules take a second: again, should something be
        decided meanwhile, which is in the file then, and not in what was read."""
        for _ in range(READ_ATTEMPTS):
            store, before = Store(self._store.path), self._saved
            in_force = self._in_force()
            loaded = await self._loop.run_in_executor(None, store.load, in_force)
            if self._saved == before:
                self._store = store
                return loaded
        return self._store.load(self._in_force())

    def _decided(self) -> Decided:
        """What the configuration says people decided."""
        config = self._config
        self._engine.rules.reserve(config.highest_rule_id)
        return Decided(
            config.decided_nodes(),
            config.ignore_ip,
            config.rules,
            config.all_profiles(),
            config.new_device_profile,
            config.doh_resolvers,
            config.refuse_doh,
            config.dots_enabled,
            config.dots_log_only,
        )

    def _in_force(self) -> Config:
        """The configuration with what was decided since it was read: what holds where the file is bad."""
        devices, sites = [], []
        for key, decision in self._engine.nodes.decisions().items():
            try:
                mac = parse_mac(key)
            except ValueError:
                sites.append(SiteSection("", key, decision.name, decision.ignored))
            else:
                devices.append(DeviceSection("", mac, decision.name, decision.profile, decision.ignored))
        return replace(
            self._config,
            devices=tuple(devices),
            sites=tuple(sites),
            ignore_ip=tuple(self._engine.ignored.texts()),
            rules=tuple(self._engine.rules),
            profiles=tuple(p for p in self._engine.decisions.profiles.values() if not p.builtin),
        )

    async def _move_socket(self, old_path: str) -> None:
        fresh = RpcSocket(self._api, self._config.rpc_socket)
        try:
            await fresh.start()
        except RpcSocketError as error:
            log.error("reload: %s; %s stays", error, old_path)
            return
        await self._socket.stop()
        self._socket = fresh

    def _tell_problems(self) -> None:
        for problem in self._problems:
            log.log(logging.WARNING if problem.kind == "bad" else logging.INFO, "%s", problem)

    def _set_up_log(self) -> None:
        level = self._config.log_loglevel if self._log_level is None else self._log_level
        logs.setup(level, use_syslog=self._config.log_usesyslog)

    # -- what only the adapters know -----------------------------------------------------

    def _hurry(self) -> None:
        """Somebody looks: have fresh numbers soon."""
        self._conntrack.hurry()

    def _status(self) -> Json:
        rules = self._rules
        mqtt = self._mqtt.counters
        open_ended = [queue.fail_open for queue in self._queues if not queue.inspects]
        problems = [
            text
            for text in (self._capture_problem, self._conntrack_problem, self._neighbours_problem)
            if text
        ] + self._guard.problems()
        return {
            "mode": self._config.mode,
            "config": {"file": self._store.path, "problems": [str(problem) for problem in self._problems]},
            "problems": problems,
            "interfaces": list(self._neighbours.rule_interfaces()),
            "capture": {
                "backend": rules.backend if rules else "none",
                "reason": rules.reason if rules else self._capture_problem,
                "fail_open": bool(open_ended) and all(open_ended),
                **_group(self._capture_counters(), "capture."),
            },
            "blocking": {**self._guard.status(), **_group(self._guard.counters(), "block.")},
            "conntrack": _group(self._conntrack.counters(), "conntrack."),
            "mqtt": {**mqtt, "connected": bool(mqtt["connected"])},
            "rpc": dict(self._socket.counters),
            "ubus": {**self._ubus.counters, "connected": self._ubus.connected},
            "memory_bytes": _resident_bytes(),
            "cpu_seconds": round(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), 3),
        }


def _wall_clock(now: float) -> tuple[int, int]:
    """Weekday (Monday is 0) and minute of the day, where the home is (TZ, or /etc/localtime)."""
    local = time.localtime(now)
    return local.tm_wday, local.tm_hour * 60 + local.tm_min


def _group(counters: dict[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): value for name, value in counters.items() if name.startswith(prefix)}


def _resident_bytes() -> int:
    """Resident memory of this process in bytes (proc_pid_statm(5))."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * resource.getpagesize()


def main(config_path: str, log_level: int | None = None) -> int:
    """Run the daemon in the foreground; the exit status."""
    store = Store(config_path)
    try:
        config, problems = store.load()
    except StoreError as error:
        sys.stderr.write(f"spind: {error}\n")
        return 1
    logs.setup(config.log_loglevel if log_level is None else log_level, use_syslog=config.log_usesyslog)

    async def serve() -> int:
        return await Daemon(store, config, problems, log_level).run()

    return asyncio.run(serve())
