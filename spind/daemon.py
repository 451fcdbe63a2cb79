# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon: wires the adapters to the engine, and carries out what the engine wants done.

Owns start, reload and stop, and their order. Holds no state of the home: that is the engine's.

Order of start: addresses before counters, so that the first connections find their devices.
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
from pathlib import Path

from spind import __version__, intake, logs
from spind.api import Api
from spind.calls import Caller, NotInForceError, UnavailableError
from spind.capture_rules import bits
from spind.captures import Captures
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
from spind.config_options import Config
from spind.conntrack import ConntrackReader
from spind.engine import ACCEPT, Engine
from spind.events import Event, KernelCounters, PacketSeen, Placed, Restore, Tick
from spind.guard import Guard
from spind.intake import Intake
from spind.jsonrpc import handle
from spind.keeper import Keeper
from spind.loop_watch import LoopWatch
from spind.mqtt_pub import MqttPublisher, MqttSettings
from spind.neighbours import NeighbourWatcher
from spind.rpc_socket import RpcSocket, RpcSocketError
from spind.ruleset import Placement
from spind.shapes import node_shape
from spind.sites import registrable_domain
from spind.store import StateFile, Store, StoreError
from spind.ubus_api import UbusApi
from spind.web.side import WebSide

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
        self._log_level = log_level
        self._loop = asyncio.get_running_loop()
        state = StateFile(config.state_dir)
        ids, damage = state.load()
        given, _ = state.load_profiles()
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
        self._keeper = Keeper(self._loop, store, config, problems, state)
        self._skew = time.time() - self._loop.time()
        self._failed_events = 0
        self._captures = Captures(
            self._loop,
            self._interfaces,
            config.capture_limits,
            self._captures_changed,
        )
        self._api = Api(
            self._engine, self._clock, self._decide, self._status, self._hurry, captures=self._captures
        )
        self._watch = LoopWatch(self._loop)
        self._neighbours = self._make_neighbours()
        self._neighbours_problem = ""
        self._guard = Guard(self._loop, config.history_dir, self._give, self._is_lan)
        self._intake = Intake(self._loop, self._packet, self._is_lan)
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
        self._web = WebSide(self._loop, self._engine, self._api, self._captures, self._clock)
        self._reloading: asyncio.Task[None] | None = None
        self._reload_asked = False
        self._stopping = asyncio.Event()
        self._collected = self._loop.time()
        self._counted = float("-inf")
        self._ticker: asyncio.TimerHandle | None = None

    @property
    def _config(self) -> Config:
        """The configuration in force."""
        return self._keeper.config

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
            await self._web.start(self._config, self._ubus.client)
            await self._stopping.wait()
            log.info("stopping")
        finally:
            await self._stop()
            if pid_file is not None:
                with contextlib.suppress(OSError):
                    pid_file.unlink()
        return 0

    def _start(self) -> None:
        registrable_domain("example.org")  # reading the list of suffixes takes 30 ms, when no packet waits
        log.info("spind %s, mode %s, configuration %s", __version__, self._config.mode, self._keeper.path)
        self._keeper.tell_problems()
        self._keeper.load_audit(self._engine)
        self._give(self._keeper.decided(self._engine))
        self._guard.remember()
        self._start_neighbours()
        self._mqtt.start()
        self._ubus.start()
        self._start_guard()
        self._intake.start(self._config, self._neighbours.rule_interfaces())
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
        await self._web.stop()
        await self._captures.stop_all()
        self._intake.stop()
        self._guard.stop(remove=not self._config.block_on_stop)
        self._conntrack.stop()
        self._neighbours.stop()
        await self._ubus.stop()
        await self._mqtt.stop()
        self._watch.stop()
        await self._keeper.finish(self._engine)
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

    def _interfaces(self) -> tuple[str, ...]:
        return self._neighbours.capture_interfaces()

    def _captures_changed(self) -> None:
        self._web.captures_changed()

    def _is_lan(self, index: int) -> bool:
        return self._neighbours.is_lan(index)

    def _interfaces_changed(self, interfaces: tuple[str, ...]) -> None:
        log.info("the home's interfaces: %s", ", ".join(interfaces) or "none so far")
        self._give(Placed(self._placement()))
        self._intake.set_interfaces(interfaces)

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
            self._keeper.save_state(command)
        elif isinstance(command, Notice):
            log.log(command.level, "%s", command.message)
            if command.level >= logging.WARNING:
                trouble = (command.message,)
                self._carry_out(self._engine.notify(self._clock(), "daemon", "daemon.trouble", trouble))
        elif isinstance(command, Save):
            self._save_by_itself(command)
        elif isinstance(command, RecordAudit):
            self._keeper.append_audit(command.entry)
            self._web.publish(command)
        else:
            try:
                if self._guard.carry_out(command):
                    return
            except OSError as error:
                log.error("%s", error, extra=logs.ONCE)
                return
            self._mqtt.publish(command)
            self._ubus.publish(command)
            self._web.publish(command)

    def _decide(self, commands: list[Command]) -> None:
        """Keep a decision in UCI before anybody hears of it; where that fails, it was never made."""
        saves = [command for command in commands if isinstance(command, Save)]
        try:
            self._keeper.keep(saves)
        except UnavailableError:
            self._take_back(saves)
            raise
        self._carry_out(command for command in commands if not isinstance(command, Save))
        for save in saves:
            self._ubus.publish(save)
            self._web.publish(save)
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
        self._ubus.publish(save)
        self._web.publish(save)
        self._keeper.keep_by_itself(save, self._engine, self._clock())

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
            **self._intake.counters(),
            **self._guard.counters(),
        }
        self._give(KernelCounters(counters))

    def _collect(self) -> None:
        now = self._loop.time()
        if now - self._collected >= GC_SECONDS and len(self._engine.connections) <= GC_CONNECTIONS:
            self._collected = now
            gc.collect()

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
            old = await self._keeper.reload(self._engine)
        except StoreError as error:
            log.error("reload: %s; the configuration in force stays", error)
            return
        config = self._config

        def changed(names: tuple[str, ...]) -> list[str]:
            return [name for name in names if getattr(old, name) != getattr(config, name)]

        log.info("configuration read again")
        self._keeper.tell_problems()
        self._set_up_log()
        for name in changed(_START_OPTIONS):
            log.warning("option %s: in force after a restart", name)
        self._engine.retain = config.node_cache_retain_time
        time.tzset()
        self._give(self._keeper.decided(self._engine))
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
        if home or changed(intake.OPTIONS):
            self._intake.stop()
            self._intake.start(config, self._neighbours.rule_interfaces())
        else:
            self._intake.check_order()  # procd reloads us also when the firewall has changed
        if changed(_MQTT_OPTIONS):
            elsewhere = changed(("pubsub_host", "pubsub_port", "pubsub_channel_traffic"))
            await self._mqtt.stop(forget=bool(elsewhere))
            self._mqtt = self._make_mqtt(announce_restart=False)
            self._mqtt.start()
        if changed(("ubus_socket",)):
            await self._ubus.stop()
            self._ubus = UbusApi(self._loop, self._api, config.ubus_socket)
            self._ubus.start()
        await self._web.reload(config, self._ubus.client, changed)
        if changed(("rpc_socket",)):
            await self._move_socket(old.rpc_socket)

    async def _move_socket(self, old_path: str) -> None:
        fresh = RpcSocket(self._api, self._config.rpc_socket)
        try:
            await fresh.start()
        except RpcSocketError as error:
            log.error("reload: %s; %s stays", error, old_path)
            return
        await self._socket.stop()
        self._socket = fresh

    def _set_up_log(self) -> None:
        level = self._config.log_loglevel if self._log_level is None else self._log_level
        logs.setup(level, use_syslog=self._config.log_usesyslog)

    # -- what only the adapters know -----------------------------------------------------

    def _hurry(self) -> None:
        """Somebody looks: have fresh numbers soon."""
        self._conntrack.hurry()

    def _status(self) -> Json:
        mqtt = self._mqtt.counters
        problems = [
            text for text in (self._intake.problem, self._conntrack_problem, self._neighbours_problem) if text
        ] + [*self._guard.problems(), *self._web.problems()]
        return {
            "mode": self._config.mode,
            "config": {
                "file": self._keeper.path,
                "problems": [str(problem) for problem in self._keeper.problems],
            },
            "problems": problems,
            "interfaces": list(self._neighbours.rule_interfaces()),
            "capture": {**self._intake.status(), **_group(self._intake.counters(), "capture.")},
            "blocking": {**self._guard.status(), **_group(self._guard.counters(), "block.")},
            "conntrack": _group(self._conntrack.counters(), "conntrack."),
            "mqtt": {**mqtt, "connected": bool(mqtt["connected"])},
            "rpc": dict(self._socket.counters),
            "ubus": {**self._ubus.counters, "connected": self._ubus.connected},
            "web": self._web.status(),
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
