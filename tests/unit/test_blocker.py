# SPDX-License-Identifier: GPL-2.0-or-later
"""Which back-end blocks, and what happens when it fails or when others change its rules."""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import pytest

from spind import blocker
from spind.blocker import Blocker, Change
from spind.ruleset import Marks, Placement, Ruleset, SetChange

CHANGE = SetChange("site", (b"\xcb\0\x71\5",))


class Clock:
    """What a Blocker needs of an event loop, with a time that the test moves."""

    class Handle:
        def __init__(self, call: Callable[[], None]) -> None:
            self.call: Callable[[], None] | None = call

        def cancel(self) -> None:
            self.call = None

    def __init__(self) -> None:
        self.now = 1000.0
        self.readers: dict[int, Callable[[], None]] = {}
        self._due: list[tuple[float, int, Clock.Handle]] = []
        self._count = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Handle:
        handle = self.Handle(call)
        heapq.heappush(self._due, (when, next(self._count), handle))
        return handle

    def call_later(self, delay: float, call: Callable[[], None]) -> Handle:
        return self.call_at(self.now + delay, call)

    def add_reader(self, descriptor: int, call: Callable[[], None]) -> None:
        self.readers[descriptor] = call

    def remove_reader(self, descriptor: int) -> None:
        del self.readers[descriptor]

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, handle = heapq.heappop(self._due)
            if handle.call is not None:
                handle.call()
        self.now = end

    @property
    def waits(self) -> bool:
        return any(handle.call for _, _, handle in self._due)


class Kernel:
    """Back-ends that note in one list what was asked of them."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.fails: dict[str, str] = {}
        self.changed = False
        self.error: type[Exception] = OSError
        self.watch: int | None = 9
        self.installed: set[str] = set()
        self.rulesets: list[Ruleset] = []
        self.open = 0

    def take(self) -> list[str]:
        did, self.did = self.did, []
        return did


class Fake:
    def __init__(self, kernel: Kernel, name: str) -> None:
        self.name = name
        self.notes: Sequence[str] = (f"{name} is slow",)
        self._kernel = kernel
        kernel.open += 1

    def close(self) -> None:
        self._kernel.open -= 1

    def _do(self, what: str) -> None:
        self._kernel.did.append(f"{self.name} {what}")
        failure = self._kernel.fails.get(what) or self._kernel.fails.get(f"{self.name} {what}")
        if failure:
            raise self._kernel.error(failure)

    def probe(self) -> None:
        self._do("probe")

    def install(self, ruleset: Ruleset) -> None:
        self._kernel.rulesets.append(ruleset)
        self._do("install")
        self._kernel.installed.add(self.name)

    def update(self, changes: Sequence[Change]) -> None:
        assert list(changes) == [CHANGE]
        self._do("update")

    def remove(self) -> None:
        assert self._kernel.installed, "something is open"
        self._do("remove")
        self._kernel.installed.discard(self.name)

    def counters(self) -> dict[str, int]:
        self._do("counters")
        return {"block.packets": 7}

    def watch_fd(self) -> int | None:
        return self._kernel.watch

    def changed_by_others(self) -> bool:
        self._do("look")
        changed, self._kernel.changed = self._kernel.changed, False
        return changed


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    for name in ("nftables", "iptables"):
        monkeypatch.setitem(blocker._BACKENDS, name, lambda name=name: Fake(made, name))
    return made


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    yield made
    assert not made.waits, "a timer is left"
    assert not made.readers


def ruleset() -> Ruleset:
    return Ruleset(Placement("router", ("br-lan",), Marks(1, 2, 4), 5))


@pytest.fixture
def make(clock: Clock, kernel: Kernel) -> Iterator[Callable[[str], Blocker]]:
    made: list[Blocker] = []

    def build(backend: str = "auto") -> Blocker:
        made.append(Blocker(cast("asyncio.AbstractEventLoop", clock), backend))
        return made[-1]

    yield build
    for each in made:
        each.stop(remove=False)
    assert not kernel.open, "a back-end holds something"


def disturb(kernel: Kernel, clock: Clock) -> None:
    """Another program changes the rules."""
    kernel.changed = True
    clock.readers[9]()


def test_the_first_that_serves_is_taken_and_the_other_goes_after_it_is_there(
    kernel: Kernel, make: Callable[..., Blocker]
) -> None:
    blocking = make()
    blocking.start(ruleset())
    assert kernel.take() == ["nftables probe", "nftables install", "iptables remove"]
    assert blocking.backend == "nftables"
    assert blocking.reason == "nftables has all that is needed"
    assert blocking.notes == ("nftables is slow",)
    assert blocking.problem == ""
    blocking.install(ruleset())
    assert kernel.take() == ["nftables install"]


def test_the_other_stays_for_a_while_where_packets_may_wait_for_it(kernel: Kernel, clock: Clock) -> None:
    kernel.installed.add("iptables")
    for seconds in (0.5, 0.1):
        blocking = Blocker(cast("asyncio.AbstractEventLoop", clock), "nftables", overlap=0.5)
        blocking.start(ruleset())
        blocking.install(ruleset())
        assert kernel.take() == ["nftables probe", "nftables install", "nftables install"]
        clock.pass_time(0.4)
        assert kernel.take() == []
        if seconds < 0.4:
            blocking.stop(remove=False)  # nobody else would see to it
        else:
            clock.pass_time(seconds)
        assert kernel.take() == ["iptables remove"]
        blocking.stop(remove=False)
        assert kernel.take() == []


def test_the_second_is_taken_where_the_first_does_not_serve(
    kernel: Kernel, make: Callable[..., Blocker]
) -> None:
    kernel.fails["nftables probe"] = "no nf_tables"
    kernel.fails["nftables remove"] = "no nf_tables"
    blocking = make()
    blocking.start(ruleset())
    assert kernel.take() == ["nftables probe", "iptables probe", "iptables install", "nftables remove"]
    assert blocking.backend == "iptables"
    assert blocking.reason == "nftables: no nf_tables"


def test_a_module_that_is_not_there_does_not_serve(
    kernel: Kernel, make: Callable[..., Blocker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Fake:
        raise ImportError("No module named 'iptc'")

    monkeypatch.setitem(blocker._BACKENDS, "iptables", missing)
    blocking = make()
    blocking.start(ruleset())
    assert kernel.take() == ["nftables probe", "nftables install"]
    with pytest.raises(OSError, match="no way to block: iptables: No module"):
        make("iptables").start(ruleset())


def test_one_that_is_wanted_is_not_replaced(kernel: Kernel, make: Callable[..., Blocker]) -> None:
    blocking = make("iptables")
    kernel.fails["iptables probe"] = "no ipset"
    with pytest.raises(OSError, match=r"^no way to block: iptables: no ipset$"):
        blocking.start(ruleset())
    assert kernel.take() == ["iptables probe"], "what nftables had goes on blocking"
    assert blocking.backend == ""
    assert blocking.problem == "no way to block: iptables: no ipset"


def test_a_start_that_failed_is_tried_again(
    kernel: Kernel, clock: Clock, make: Callable[..., Blocker]
) -> None:
    blocking = make()
    kernel.fails = {"probe": "not yet"}
    with pytest.raises(OSError, match="no way to block: nftables: not yet; iptables: not yet"):
        blocking.start(ruleset())
    assert blocking.counters() == {"block.repairs": 0}
    kernel.fails = {}
    kernel.take()
    clock.pass_time(5.0)
    assert kernel.take() == ["nftables probe", "nftables install", "iptables remove"]
    assert blocking.problem == ""


def test_changes_are_told(kernel: Kernel, make: Callable[..., Blocker]) -> None:
    blocking = make()
    blocking.start(ruleset())
    kernel.take()
    blocking.update([CHANGE])
    assert kernel.take() == ["nftables update"]


def test_a_change_that_fails_is_answered_by_an_installation_and_logged_once(
    kernel: Kernel, make: Callable[..., Blocker], caplog: pytest.LogCaptureFixture
) -> None:
    blocking, rules = make(), ruleset()
    blocking.start(rules)
    kernel.take()
    kernel.fails["update"] = "no such element"
    for _ in range(3):
        blocking.update([CHANGE])
        assert kernel.take() == ["nftables update", "nftables install"]
    assert kernel.rulesets[-1] is rules
    assert blocking.problem == ""
    assert caplog.text.count("no such element") == 1


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_what_cannot_be_installed_is_tried_again_more_and_more_seldom(
    kernel: Kernel,
    clock: Clock,
    make: Callable[..., Blocker],
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    blocking, rules = make(), ruleset()
    kernel.error = error
    blocking.start(rules)
    kernel.fails = {"update": "broken", "install": "out of memory"}
    with pytest.raises(OSError, match="out of memory"):
        blocking.update([CHANGE])
    assert blocking.problem == "blocking rules are not up to date: out of memory"
    kernel.take()
    for pause in (5, 10, 20, 40, 60, 60):
        clock.pass_time(pause - 0.001)
        assert kernel.take() == []
        clock.pass_time(0.001)
        assert kernel.take() == ["nftables install"]
    assert caplog.text.count("out of memory") == 1
    with pytest.raises(OSError, match="not up to date"):
        blocking.update([CHANGE])
    assert kernel.take() == [], "it is part of what is tried again"
    kernel.fails = {}
    clock.pass_time(60)
    assert kernel.take() == ["nftables install"]
    assert kernel.rulesets[-1] is rules
    assert blocking.problem == ""
    assert "in the kernel again" in caplog.text
    clock.pass_time(600)
    blocking.update([CHANGE])
    assert kernel.take() == ["nftables update"]
    kernel.fails["install"] = "out of memory"
    with pytest.raises(OSError, match="out of memory"):
        blocking.install(rules)
    assert caplog.text.count("cannot be installed") == 2
    clock.pass_time(5)
    assert kernel.take() == ["nftables install"] * 2


def test_who_installs_does_not_wait(kernel: Kernel, clock: Clock, make: Callable[..., Blocker]) -> None:
    blocking = make()
    blocking.start(ruleset())
    kernel.fails["install"] = "busy"
    with pytest.raises(OSError, match="busy"):
        blocking.install(ruleset())
    kernel.fails = {}
    wanted = ruleset()
    blocking.install(wanted)
    assert blocking.problem == ""
    assert kernel.rulesets[-1] is wanted
    kernel.take()
    clock.pass_time(600)
    assert kernel.take() == []


def test_what_others_change_is_put_back_at_once(
    kernel: Kernel, clock: Clock, make: Callable[..., Blocker], caplog: pytest.LogCaptureFixture
) -> None:
    blocking, rules = make(), ruleset()
    blocking.start(rules)
    kernel.take()
    clock.readers[9]()
    assert kernel.take() == ["nftables look"], "it was we"
    disturb(kernel, clock)
    assert kernel.take() == ["nftables look", "nftables install"]
    assert kernel.rulesets[-1] is rules
    assert blocking.counters()["block.repairs"] == 1
    assert "blocking rules were changed by another program: put back" in caplog.text


def test_who_insists_is_answered_every_five_seconds(
    kernel: Kernel, clock: Clock, make: Callable[..., Blocker], caplog: pytest.LogCaptureFixture
) -> None:
    """Another program takes out our rules all the time, for a minute."""
    blocking = make()
    blocking.start(ruleset())
    began = clock.now
    at: list[float] = []
    while clock.now < began + 60:
        kernel.take()
        disturb(kernel, clock)
        clock.pass_time(0.01)
        at += [clock.now - began] * kernel.take().count("nftables install")
    assert at[:3] == pytest.approx([0.01, 0.11, 0.21], abs=0.011)
    pauses = [later - sooner for sooner, later in itertools.pairwise(at[2:])]
    assert pauses == pytest.approx([5.0] * len(pauses), abs=0.011)
    assert len(at) == 3 + 11
    assert blocking.counters()["block.repairs"] == len(at)
    assert caplog.text.count("put back") == 4
    clock.pass_time(31)
    kernel.take()
    disturb(kernel, clock)
    assert kernel.take() == ["nftables look", "nftables install"], "calm was between"


def test_a_change_right_after_a_repair_is_not_forgotten(
    kernel: Kernel, clock: Clock, make: Callable[..., Blocker]
) -> None:
    blocking = make()
    blocking.start(ruleset())
    disturb(kernel, clock)
    kernel.take()
    disturb(kernel, clock)
    disturb(kernel, clock)
    assert kernel.take() == ["nftables look"] * 2
    clock.pass_time(0.1)
    assert kernel.take() == ["nftables install"]
    disturb(kernel, clock)
    kernel.take()
    blocking.install(ruleset())
    clock.pass_time(1)
    assert kernel.take() == ["nftables install"], "which has put back all"


def test_changes_are_asked_for_where_one_cannot_wait_for_them(
    kernel: Kernel, clock: Clock, make: Callable[..., Blocker]
) -> None:
    kernel.watch = None
    blocking = make()
    blocking.start(ruleset())
    kernel.take()
    clock.pass_time(3)
    assert kernel.take() == ["nftables look"] * 3
    kernel.changed = True
    clock.pass_time(1)
    assert kernel.take() == ["nftables look", "nftables install"]
    blocking.install(ruleset())
    kernel.take()
    clock.pass_time(2)
    assert kernel.take() == ["nftables look"] * 2, "asked once, however often rules are installed"


def test_where_the_back_end_cannot_tell_rules_are_put_back(
    kernel: Kernel, clock: Clock, make: Callable[..., Blocker], caplog: pytest.LogCaptureFixture
) -> None:
    blocking = make()
    blocking.start(ruleset())
    kernel.take()
    kernel.fails["look"] = "events were lost"
    clock.readers[9]()
    assert kernel.take() == ["nftables look", "nftables install"]
    assert caplog.text.count("events were lost") == 1


def test_a_repair_that_fails_is_tried_again(
    kernel: Kernel, clock: Clock, make: Callable[..., Blocker]
) -> None:
    blocking = make()
    blocking.start(ruleset())
    kernel.fails["install"] = "busy"
    disturb(kernel, clock)
    assert "busy" in blocking.problem
    kernel.take()
    disturb(kernel, clock)
    assert kernel.take() == ["nftables look"], "all is going to be installed anyway"
    kernel.fails = {}
    clock.pass_time(5)
    assert kernel.take() == ["nftables install"]
    assert blocking.problem == ""


@pytest.mark.parametrize("watch", [9, None])
def test_the_end_leaves_the_rules_unless_they_shall_go(
    kernel: Kernel, clock: Clock, make: Callable[..., Blocker], watch: int | None
) -> None:
    kernel.watch = watch
    for remove in (False, True):
        blocking = make()
        blocking.start(ruleset())
        kernel.fails["install"] = "busy"
        with pytest.raises(OSError, match="busy"):
            blocking.install(ruleset())
        kernel.fails = {}
        kernel.take()
        blocking.stop(remove=remove)
        assert kernel.take() == (["nftables remove"] if remove else [])
        assert not clock.waits
        assert not clock.readers
        with pytest.raises(OSError, match="not"):
            blocking.update([CHANGE])


def test_rules_that_cannot_go_are_no_reason_to_stay(
    kernel: Kernel, make: Callable[..., Blocker], caplog: pytest.LogCaptureFixture
) -> None:
    blocking = make()
    blocking.start(ruleset())
    kernel.fails["nftables remove"] = "busy"
    blocking.stop(remove=True)
    assert "blocking rules are left behind: busy" in caplog.text


def test_counters_are_the_back_ends_as_well(
    kernel: Kernel, make: Callable[..., Blocker], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    blocking = make()
    blocking.start(ruleset())
    assert blocking.counters() == {"block.repairs": 0, "block.packets": 7}
    kernel.fails["counters"] = "busy"
    assert blocking.counters() == {"block.repairs": 0}
    assert "blocking by nftables (nftables has all that is needed)" in caplog.text
    assert "blocking by nftables: nftables is slow" in caplog.text
