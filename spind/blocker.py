# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the blocking rules in the kernel: which back-end, installed, kept up to date, put back.

Owns the choice between nftables and iptables, and what happens when one of them fails or when another
program changes our rules. What shall be blocked is decided in ``spind.ruleset``'s terms by the engine;
how that is said to the kernel is the back-ends' business. Nothing here opens what is blocked: a failed
change leaves the rules of before, and an end leaves all of them unless they shall go.

In mode ``bridge`` packets only meet these rules with br_netfilter's settings, which
``spind.capture_backend`` makes.
"""

import contextlib
import logging
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Sequence
from typing import Protocol

from spind.ruleset import ClassesChange, Ruleset, SetChange

_LOG = logging.getLogger(__name__)

Change = SetChange | ClassesChange

# Seconds until rules that could not be installed are tried again: doubled each time, up to the longest.
_RETRY_SECONDS = 5.0
_RETRY_LONGEST = 60.0

# Where the back-end cannot wait for changes, it is asked for them so often: for so long what another
# program opens is open. Asking iptables takes 0.5 to 1.5 ms, or 4 ms where 30 devices have rules of their
# own (measured).
_POLL_SECONDS = 1.0

# Rules that another program changed are put back at once, but not faster than this. After so many times
# without so many seconds of calm between, somebody insists, and it is done more seldom.
_REPAIR_SECONDS = 0.1
_PATIENCE = 3
_CALM_SECONDS = 30.0
_INSISTED_SECONDS = 5.0

# Kinds of failure that are logged, each once until a problem is over.
_MAX_LOGGED = 20


class Backend(Protocol):
    """A way to say a :class:`Ruleset` to the kernel. All methods may raise ``OSError``; ``install`` and
    ``update`` also ``ValueError``, for what the kernel cannot be told.

    ``install`` replaces all that is there, in a way that nothing is open for a moment, and leaves what
    was there where it fails. After a failed ``update`` only ``install`` is called. ``watch_fd`` is asked
    for once, after the first ``install``; it is readable when rules may have changed (``None``: poll).
    ``changed_by_others`` takes what is there to read, and is false after changes of our own.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def notes(self) -> Sequence[str]: ...  # noqa: D102
    def probe(self) -> None: ...  # noqa: D102
    def install(self, ruleset: Ruleset) -> None: ...  # noqa: D102
    def update(self, changes: Sequence[Change]) -> None: ...  # noqa: D102
    def remove(self) -> None: ...  # noqa: D102
    def counters(self) -> dict[str, int]: ...  # noqa: D102
    def watch_fd(self) -> int | None: ...  # noqa: D102
    def changed_by_others(self) -> bool: ...  # noqa: D102


def _nftables() -> Backend:
    from spind.block_nftables import NftablesBlock  # noqa: PLC0415 - one is needed, not both

    return NftablesBlock()


def _iptables() -> Backend:
    from spind.block_iptables import IptablesBlock  # noqa: PLC0415 - the same

    return IptablesBlock()


def _close(backend: Backend) -> None:
    """Close what a back-end holds open, where it is of the kind that holds something."""
    close = getattr(backend, "close", None)
    if close is not None:
        close()


# In the order of preference.
_BACKENDS: dict[str, Callable[[], Backend]] = {"nftables": _nftables, "iptables": _iptables}


class Blocker:
    """The blocking rules, by ``backend``: ``auto``, ``nftables``, ``iptables``.

    Rules of the other back-end go ``overlap`` seconds after ours are there. Where there are queues, what
    waits in them has passed where ours are by now, before they were, and has yet to meet the others.
    ``mended`` is called whenever rules are back that had not all been there.

    After ``start``, ``backend`` says which one is in use and ``reason`` why; ``problem`` is a sentence
    while the kernel does not have the rules as they should be, and empty otherwise.

    The ruleset is the engine's own object, which goes on changing it: each change is told by ``update``
    or ``install`` after it was made, and whatever puts rules back later reads the object anew.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        backend: str,
        overlap: float = 0.0,
        mended: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._wanted = backend
        self._overlap = overlap
        self._mended = mended
        self._rules: Backend | None = None
        self._ruleset: Ruleset | None = None
        self._others: list[str] = []  # back-ends whose rules of an earlier run have to go
        self._watched: int | None = None
        self._timers: dict[str, TimerHandle] = {}
        self._retry_seconds = _RETRY_SECONDS
        self._repaired_at = float("-inf")
        self._streak = 0  # repairs without calm between
        self._repairs = 0
        self._logged: set[str] = set()
        self.backend = ""
        self.reason = ""
        self.problem = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the back-end cannot do as it should, for the log and ``status``."""
        return tuple(self._rules.notes) if self._rules is not None else ()

    def start(self, ruleset: Ruleset) -> None:
        """Choose a back-end and install the rules, in place of any that an earlier run has left.

        Raises ``OSError`` where no back-end serves or the rules cannot be installed. That is tried again,
        until ``stop``: who can live with ``problem`` for a while may go on.
        """
        self.install(ruleset)

    def install(self, ruleset: Ruleset) -> None:
        """Let ``ruleset`` be what the kernel enforces. ``OSError`` where it cannot be; see ``start``."""
        self._ruleset = ruleset
        self._retry_seconds = _RETRY_SECONDS
        self._install()

    def update(self, changes: Sequence[Change]) -> None:
        """Bring the kernel up to date with changes that the ruleset has by now.

        Where that fails, all is installed anew. ``OSError`` where that fails, too, or while ``problem``
        is being tried again: the changes are then part of it.
        """
        if self._rules is None or self.problem:
            raise OSError(self.problem or "blocking has not been started")
        try:
            self._rules.update(changes)
        except (OSError, ValueError) as error:
            self._complain("a change of the blocking rules failed, installing all of them: %s", error)
            self._install()

    def stop(self, *, remove: bool) -> None:
        """Watch the rules no more; with ``remove`` also take them out, else they go on blocking."""
        if "overlap" in self._timers:
            self._remove_others()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            self._watched = None
        if remove and self._rules is not None:
            try:
                self._rules.remove()
            except OSError as error:
                _LOG.error("blocking rules are left behind: %s", error)
        if self._rules is not None:
            _close(self._rules)
        self._rules = self._ruleset = None

    def counters(self) -> dict[str, int]:
        """Numbers for ``status``."""
        found = {"block.repairs": self._repairs}
        if self._rules is not None:
            with contextlib.suppress(OSError):
                found |= self._rules.counters()
        return found

    def _install(self) -> None:
        """Install all, or say why not and try again later."""
        if self._ruleset is None:
            return
        self._cancel("retry")
        try:
            if self._rules is None:
                self._rules = self._choose()
            self._rules.install(self._ruleset)
        except (OSError, ValueError) as error:
            chosen = self._rules is not None
            self.problem = f"blocking rules are not up to date: {error}" if chosen else str(error)
            self._complain("blocking rules cannot be installed, trying again: %s", error)
            self._timers["retry"] = self._loop.call_later(self._retry_seconds, self._put_back)
            self._retry_seconds = min(2 * self._retry_seconds, _RETRY_LONGEST)
            raise OSError(self.problem) from error
        if self.problem:
            _LOG.warning("blocking rules are in the kernel again")
            self.problem = ""
            self._logged.clear()
        self._retry_seconds = _RETRY_SECONDS
        self._cancel("repair")  # whatever had been changed, it is as it should be
        if not self._overlap:
            self._remove_others()
        elif self._others and "overlap" not in self._timers:
            self._timers["overlap"] = self._loop.call_later(self._overlap, self._remove_others)
        self._watch()

    def _choose(self) -> Backend:
        failures: list[str] = []
        for name, make in _BACKENDS.items():
            if self._wanted not in ("auto", name):
                continue
            with contextlib.ExitStack() as stack:
                try:
                    chosen = make()
                    stack.callback(_close, chosen)
                    chosen.probe()
                except (OSError, ImportError) as error:
                    failures.append(f"{name}: {error}")
                    continue
                stack.pop_all()
            self.backend = name
            self.reason = "; ".join(failures) or f"{name} has all that is needed"
            self._others = [other for other in _BACKENDS if other != name]
            _LOG.info("blocking by %s (%s)", self.backend, self.reason)
            for note in chosen.notes:
                _LOG.warning("blocking by %s: %s", self.backend, note)
            return chosen
        raise OSError("no way to block: " + "; ".join(failures))

    def _remove_others(self) -> None:
        """Remove what an earlier run with another choice has left, now that ours is there."""
        self._cancel("overlap")
        for name in self._others:
            with contextlib.suppress(OSError, ImportError):
                other = _BACKENDS[name]()
                try:
                    other.remove()
                finally:
                    _close(other)
        self._others = []

    def _put_back(self) -> None:
        try:
            self._install()
        except OSError:
            return  # is said, and tried again
        self._mended()

    # -- changes by others --

    def _watch(self) -> None:
        """Begin to wait for changes, or to ask for them."""
        if self._rules is None or self._watched is not None or "poll" in self._timers:
            return
        self._watched = self._rules.watch_fd()
        if self._watched is not None:
            self._loop.add_reader(self._watched, self._look)
        else:
            self._timers["poll"] = self._loop.call_later(_POLL_SECONDS, self._poll)

    def _poll(self) -> None:
        self._look()
        self._timers["poll"] = self._loop.call_later(_POLL_SECONDS, self._poll)

    def _look(self) -> None:
        if self._rules is None:
            return
        try:
            changed = self._rules.changed_by_others()
        except OSError as error:
            self._complain("whether blocking rules were changed is not known: %s", error)
            changed = True
        if not changed or self.problem or "repair" in self._timers:
            return  # or all is going to be installed anyway
        now = self._loop.time()
        if now - self._repaired_at > _CALM_SECONDS:
            self._streak = 0
        pause = _REPAIR_SECONDS if self._streak < _PATIENCE else _INSISTED_SECONDS
        if now - self._repaired_at >= pause:
            self._repair()
        else:
            self._timers["repair"] = self._loop.call_at(self._repaired_at + pause, self._repair)

    def _repair(self) -> None:
        self._cancel("repair")
        self._repaired_at = self._loop.time()
        self._repairs += 1
        self._streak += 1
        if self._streak <= _PATIENCE:
            _LOG.warning("blocking rules were changed by another program: put back")
        if self._streak == _PATIENCE:
            _LOG.warning("should that go on, they are put back every %d seconds", _INSISTED_SECONDS)
        self._put_back()

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _complain(self, sentence: str, error: Exception) -> None:
        """Log a failure, once of its kind."""
        kind = f"{sentence} {error}"
        if kind not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(kind)
            _LOG.error(sentence, error)
