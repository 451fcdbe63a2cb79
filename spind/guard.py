# SPDX-License-Identifier: GPL-2.0-or-later
"""All that blocking does outside the engine: rules, cut connections, reports, remembered names.

Owns the adapters and their order: rules are in the kernel before connections are cut and devices hear of it,
and remembered names are on disk before the answer that told them goes on.
"""

import logging
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence

from spind.block_log import BlockLog
from spind.blocker import Blocker
from spind.commands import Command, CutConnections, End, Enforce, EnforceElements, KeepName
from spind.conntrack_delete import ConntrackDeleter
from spind.events import Event, NameRemembered, Recheck
from spind.named_addresses import KEEP_SECONDS
from spind.names_journal import NamesJournal
from spind.nudge import Nudger
from spind.ruleset import Ruleset
from spind.shapes import Json

log = logging.getLogger(__name__)

_OVERLAP_SECONDS = 0.5
"""How long packets may wait in our queues when the back-end is changed by a reload."""


class Guard:
    """Carries out the commands that are about blocking. ``give`` takes events."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        history_dir: str,
        give: Callable[[Event], None],
        is_lan: Callable[[int], bool],
    ) -> None:
        self._loop = loop
        self._give = give
        self._is_lan = is_lan
        self._journal = NamesJournal(history_dir)
        self._blocker: Blocker | None = None
        self._overlap = 0.0  # at the first start, there are no queues yet
        self._deleter: ConntrackDeleter | None = None
        self._log: BlockLog | None = None
        self._nudger = Nudger()
        self._ruleset: Ruleset | None = None
        self._problems: dict[str, str] = {}
        self._cut = 0

    def remember(self) -> None:
        """Give what an earlier run knew of names and their addresses, for as long as it would have."""
        for address, name, expires in self._journal.load(time.time() - KEEP_SECONDS):
            self._give(NameRemembered(address, name, expires))

    def start(self, backend: str, log_group: int, ruleset: Ruleset) -> None:
        """Put the rules into the kernel, in place of those of an earlier run. What fails is a problem that
        ``status`` tells; the rest goes on."""
        self._problems.clear()
        self._blocker = Blocker(self._loop, backend, self._overlap, lambda: self._give(Recheck()))
        self._overlap = _OVERLAP_SECONDS
        try:
            self._blocker.start(ruleset)
        except OSError as error:
            log.error("nothing is blocked: %s", error)
        self._give(Recheck())  # what runs by now may be what rules did not let begin
        self._deleter = ConntrackDeleter()
        try:
            self._deleter.open()
        except OSError as error:
            self._complain(
                "cut", f"running connections that are offloaded go on when they are blocked: {error}"
            )
            self._deleter = None
        self._ruleset = ruleset
        try:
            self._nudger.open()
        except OSError as error:
            self._complain("nudge", f"devices that wait for data do not hear that they are blocked: {error}")
        self._log = BlockLog(self._loop, log_group, self._give, self._is_lan)
        try:
            self._log.start()
        except OSError as error:
            self._complain("log", f"blocked packets are counted, not shown: {error}")
            self._log = None

    def stop(self, *, remove: bool) -> None:
        """Stop. The rules go on blocking, unless ``remove``."""
        if self._log is not None:
            self._log.stop()
            self._log = None
        if self._deleter is not None:
            self._deleter.close()
            self._deleter = None
        self._nudger.close()
        if self._blocker is not None:
            self._blocker.stop(remove=remove)
            self._blocker = None

    def carry_out(self, command: Command) -> bool:
        """Do what the command says, if it is about blocking; False where it is not. ``OSError`` where the
        kernel does not take the rules: they are tried again, and ``status`` says so meanwhile."""
        if isinstance(command, EnforceElements):
            if self._blocker is not None:
                self._blocker.update(command.changes)
        elif isinstance(command, Enforce):
            if self._blocker is not None:
                self._blocker.install(command.ruleset)
        elif isinstance(command, CutConnections):
            if self._deleter is not None:
                self._cut += self._deleter.delete(command.connections)
            self._nudge(command.ends)
        elif isinstance(command, KeepName):
            self._journal.note(command.address, command.name, int(command.expires))
        else:
            return False
        return True

    def counters(self) -> dict[str, int]:
        """Numbers for ``status``."""
        found = {"block.connections_cut": self._cut}
        if self._blocker is not None:
            found |= self._blocker.counters()
        if self._log is not None:
            found |= self._log.counters()
        return found

    def status(self) -> Json:
        """What ``status`` says of blocking."""
        blocker = self._blocker
        if blocker is None:
            return {"backend": "none", "reason": "not started", "problem": "", "notes": []}
        return {
            "backend": blocker.backend or "none",
            "reason": blocker.reason,
            "problem": blocker.problem,
            "notes": list(blocker.notes),
        }

    def problems(self) -> list[str]:
        """Sentences on what does not work."""
        found = list(self._problems.values())
        if self._blocker is not None and self._blocker.problem:
            found.append(self._blocker.problem)
        return found

    def _nudge(self, ends: Sequence[End]) -> None:
        place = self._ruleset.placement if self._ruleset is not None else None
        if ends and place is not None and place.mode != "local":  # our own sockets hear of it by themselves
            self._nudger.nudge(ends, place.interfaces)

    def _complain(self, what: str, sentence: str) -> None:
        self._problems[what] = sentence
        log.error("%s", sentence)
