# SPDX-License-Identifier: GPL-2.0-or-later
"""A short round of fuzzing for every parser, and that the harness finds what it looks for."""

from collections.abc import Callable, Iterator
from time import process_time

import fuzz_run
import fuzz_targets
import pytest
import run
from fuzz_mutate import Mutator
from fuzz_targets import Target

COUNT = 20_000


@pytest.mark.parametrize("name", fuzz_targets.names())
def test_parser_survives(name: str) -> None:
    outcomes = [fuzz_run.run_batch(*task) for task in run.tasks(name, 1, COUNT)]
    for outcome in outcomes:
        for failure in outcome.failures:
            pytest.fail(f"{failure.reason}\n{run.repeat_line(name, failure.data)}")
    assert sum(outcome.inputs for outcome in outcomes) == COUNT
    # Enough of them get past the first checks; else the mutations are of no use.
    assert sum(outcome.understood for outcome in outcomes) > COUNT // 50


@pytest.mark.parametrize("name", fuzz_targets.names())
def test_every_seed_is_valid(name: str) -> None:
    target = fuzz_targets.load(name)
    for seed in target.seeds:
        assert fuzz_run.try_input(target, seed) is None
    understood = 0
    for seed in target.seeds:
        try:
            understood += target.parse(seed) is not None
        except target.refusals:
            pass
    assert understood * 2 >= len(target.seeds)


def test_the_same_seed_gives_the_same_inputs() -> None:
    def some(name: str) -> list[bytes]:
        mutator = Mutator([b"abcdefgh", b"12345678"], [], name)
        inputs = [mutator.next() for _ in range(500)]
        mutator.keep(inputs[7])
        return inputs + [mutator.next() for _ in range(500)]

    assert some("1 dns 0") == some("1 dns 0")
    assert len(set(some("1 dns 0"))) > 700
    assert some("1 dns 0") != some("2 dns 0")


def test_batches_add_up() -> None:
    assert list(run.tasks("dns", 5, 10_000)) == [
        ("dns", 5, 0, 4000),
        ("dns", 5, 1, 4000),
        ("dns", 5, 2, 2000),
    ]
    counts = [fuzz_run.run_batch("dns", 5, 1)._replace(seconds=0) for _ in range(2)]
    assert counts[0] == counts[1]
    assert counts[0].understood + counts[0].incomplete + counts[0].refused == 4000


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Target], None]:
    def register(target: Target) -> None:
        monkeypatch.setattr(fuzz_targets, "_registry", lambda: {"broken": target})

    return register


def raise_on_zero(data: bytes) -> bytes:
    if 0 in data:
        raise KeyError(data)
    return data


def test_an_escaping_exception_is_found(
    broken: Callable[[Target], None], capsys: pytest.CaptureFixture[str]
) -> None:
    broken(Target(raise_on_zero, (ValueError,), [b"abcd"]))
    assert run.main(["--count", "2000"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert "KeyError" in printed
    line = next(line for line in printed.splitlines() if "--hex" in line)
    assert run.main(line.split()[2:]) == 1
    assert "KeyError" in capsys.readouterr().out
    assert run.main(["--hex", "61"]) == 0


def test_a_wrong_answer_is_found(broken: Callable[[Target], None]) -> None:
    def check(_data: bytes, result: bytes) -> None:
        assert len(result) < 8

    broken(Target(lambda data: data, (), [b"abcd"], (), check))
    outcome = fuzz_run.run_batch("broken", 1, 0)
    assert outcome.failures
    assert "AssertionError" in outcome.failures[0].reason


def test_refusals_and_incomplete_inputs_are_told_apart(broken: Callable[[Target], None]) -> None:
    broken(Target(lambda data: raise_on_zero(data) if data[:1] == b"a" else None, (KeyError,), [b"abcd"]))
    outcome = fuzz_run.run_batch("broken", 1, 0)
    assert not outcome.failures
    assert min(outcome.understood, outcome.incomplete, outcome.refused) > 100


def test_a_slow_input_is_found(broken: Callable[[Target], None]) -> None:
    inputs: Iterator[int] = iter(range(1_000_000))
    slow: list[bytes] = []

    def parse(data: bytes) -> bytes:
        if next(inputs) == 70:
            slow.append(data)
        if data in slow:
            until = process_time() + 1.5 * fuzz_run._SLOW
            while process_time() < until:
                pass
        return data

    broken(Target(parse, (), [b"abcdefghijklmnop"]))
    outcome = fuzz_run.run_batch("broken", 1, 0, 200)
    assert {failure.data for failure in outcome.failures} == set(slow)
    assert "of CPU" in outcome.failures[0].reason


def test_jobs_find_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for jobs in ("1", "2"):
        assert run.main(["--parser", "arp", "--count", "20000", "--jobs", jobs]) == 0
        lines.append(capsys.readouterr().out.splitlines()[1].split()[:5])
    assert lines[0] == lines[1]
    assert lines[0][:2] == ["arp", "20,000"]
