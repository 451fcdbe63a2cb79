# SPDX-License-Identifier: GPL-2.0-or-later
"""What has to outlast the process: decisions in UCI, the audit list, the state file.

Owns that a decision is on disk before anybody hears of it, and that one which cannot be kept was never
made. Must not know what any decision means, nor who hears of it: that is for whoever carries commands out.
"""

import asyncio
import logging
from dataclasses import replace

from spind import logs
from spind.audit import to_json
from spind.audit_file import AuditFile
from spind.calls import Caller, UnavailableError
from spind.changes import RuleChange
from spind.commands import Json, Save, SaveState
from spind.config import Problem
from spind.config_options import Config, DeviceSection, SiteSection
from spind.engine import Engine
from spind.events import Decided
from spind.model import parse_mac
from spind.store import StateFile, Store, StoreError

log = logging.getLogger(__name__)

READ_ATTEMPTS = 5
"""How often the configuration is read at leisure, while people decide something each time."""


class Keeper:
    """The files of one daemon, and its configuration in force: ``config``, with its ``problems``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        config: Config,
        problems: list[Problem],
        state: StateFile,
    ) -> None:
        self.config = config
        self.problems = problems
        self._loop = loop
        self._store = store
        self._state = state
        self._audit_file = AuditFile(config.history_dir)
        self._kept = 0
        self._saving: asyncio.Task[None] | None = None
        self._unsaved: SaveState | None = None

    @property
    def path(self) -> str:
        """Of the configuration file."""
        return self._store.path

    # -- decisions -----------------------------------------------------------------------

    def keep(self, saves: list[Save]) -> None:
        """Have decisions in UCI; ``UnavailableError`` where they cannot be: then nothing was changed."""
        if not saves:
            return
        self._kept += 1
        try:
            self._store.apply([save.after for save in saves])
        except (StoreError, ValueError) as error:
            log.error("a decision was not kept: %s", error)
            raise UnavailableError(f"not done, since it cannot be kept: {error}") from error

    def keep_by_itself(self, save: Save, engine: Engine, now: float) -> None:
        """The time decided: a rule is over."""
        self._kept += 1
        try:
            self._store.apply([save.after])
        except (StoreError, ValueError) as error:
            log.error("a rule that is over stays in the configuration: %s", error)
        entry = engine.audit.record(Caller("clock", "spind"), "until", [save], now)
        self.append_audit(to_json(entry))

    def decided(self, engine: Engine) -> Decided:
        """What the configuration says people decided."""
        config = self.config
        engine.rules.reserve(config.highest_rule_id)
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

    # -- the audit list ------------------------------------------------------------------

    def append_audit(self, entry: Json) -> None:
        """One more entry; a failure is logged, what was decided holds."""
        try:
            self._audit_file.append(entry)
        except (StoreError, ValueError) as error:
            log.error("the audit list is not kept: %s", error, extra=logs.ONCE)

    def load_audit(self, engine: Engine) -> None:
        """The audit list of before a restart; ids of rules in it are not given again."""
        try:
            lines = self._audit_file.load()
        except StoreError as error:
            log.error("the audit list begins anew: %s", error)
            return
        damaged = engine.audit.load(lines)
        if damaged:
            log.warning("%d entries of the audit list cannot be understood", damaged)
        for entry in engine.audit:
            for before, _ in entry.changes:
                if isinstance(before, RuleChange):
                    engine.rules.reserve(before.id)

    # -- the state file ------------------------------------------------------------------

    def save_state(self, state: SaveState) -> None:
        """Write node ids outside the loop: flash is slow. The latest wins."""
        self._unsaved = state
        if self._saving is None or self._saving.done():
            self._saving = self._loop.create_task(self._save_states(), name="save state")

    async def finish(self, engine: Engine) -> None:
        """Write the state as it is at the end."""
        if self._saving is not None:
            await self._saving
        ids = engine.nodes.ids()
        if ids:
            await self._write_state(SaveState(ids, dict(engine.nodes.given)))

    async def _save_states(self) -> None:
        while self._unsaved is not None:
            state, self._unsaved = self._unsaved, None
            await self._write_state(state)

    async def _write_state(self, state: SaveState) -> None:
        try:
            await self._loop.run_in_executor(None, self._state.save, state.ids, state.profiles)
        except StoreError as error:
            log.warning("ids of devices are not kept: %s", error)

    # -- the configuration ---------------------------------------------------------------

    async def reload(self, engine: Engine) -> Config:
        """Read the file again, and return the configuration of before; ``StoreError`` leaves it in force."""
        config, problems = await self._read(engine)
        old, self.config, self.problems = self.config, config, problems
        return old

    async def _read(self, engine: Engine) -> tuple[Config, list[Problem]]:
        """Read the file in a thread, since thousands of rules take a second: again, should something be
        decided meanwhile, which is in the file then, and not in what was read."""
        for _ in range(READ_ATTEMPTS):
            store, before = Store(self._store.path), self._kept
            loaded = await self._loop.run_in_executor(None, store.load, self._in_force(engine))
            if self._kept == before:
                self._store = store
                return loaded
        return self._store.load(self._in_force(engine))

    def _in_force(self, engine: Engine) -> Config:
        """The configuration with what was decided since it was read: what holds where the file is bad."""
        devices, sites = [], []
        for key, decision in engine.nodes.decisions().items():
            try:
                mac = parse_mac(key)
            except ValueError:
                sites.append(SiteSection("", key, decision.name, decision.ignored))
            else:
                devices.append(DeviceSection("", mac, decision.name, decision.profile, decision.ignored))
        return replace(
            self.config,
            devices=tuple(devices),
            sites=tuple(sites),
            ignore_ip=tuple(engine.ignored.texts()),
            rules=tuple(engine.rules),
            profiles=tuple(p for p in engine.decisions.profiles.values() if not p.builtin),
        )

    def tell_problems(self) -> None:
        """Log what is wrong with the file."""
        for problem in self.problems:
            log.log(logging.WARNING if problem.kind == "bad" else logging.INFO, "%s", problem)
