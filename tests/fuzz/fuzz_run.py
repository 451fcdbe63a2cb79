# SPDX-License-Identifier: GPL-2.0-or-later
"""Feeds a target with mutated inputs in batches that can be repeated one by one."""

import gc
import traceback
from itertools import repeat
from time import process_time
from typing import NamedTuple

import fuzz_targets
from fuzz_mutate import Mutator
from fuzz_targets import Target

BATCH = 4000
"""Inputs of one batch, which has its own random numbers."""

_SLICE = 50
_SLOW = 0.1
"""CPU seconds that no input may take; a hundred times what the slowest one should."""

_MAX_FAILURES = 5
_KEEP_EVERY = 16


class Failure(NamedTuple):
    """An input that a parser did not take as it should, and what happened."""

    data: bytes
    reason: str

    @property
    def kind(self) -> str:
        """The same for errors that were raised in the same line."""
        return "".join(self.reason.splitlines()[-4:-1])


class Outcome(NamedTuple):
    """Counts of one batch; ``seconds`` of CPU, mutation included."""

    inputs: int
    understood: int
    incomplete: int
    refused: int
    seconds: float
    failures: list[Failure]


def try_input(target: Target, data: bytes) -> str | None:
    """What is wrong with how ``target`` takes ``data``; ``None`` where nothing is."""
    try:
        result = target.parse(data)
        if result is not None and target.check:
            target.check(data, result)
    except target.refusals:
        return None
    except Exception:
        return traceback.format_exc()
    return None


def cpu_seconds(target: Target, data: bytes) -> float:
    """CPU time that ``target`` takes for ``data``, the least of three tries."""
    times = []
    for _ in range(3):
        start = process_time()
        try_input(target, data)
        times.append(process_time() - start)
    return min(times)


def run_batch(name: str, seed: int, index: int, count: int = BATCH) -> Outcome:
    """Run batch ``index`` of target ``name``: the same inputs whenever ``seed`` is the same.

    CPU time is looked at for a slice of inputs at once, because asking for it costs as much as
    mutating one; only the inputs of a slow slice are timed alone.
    """
    target = fuzz_targets.load(name)
    parse, refusals, check = target.parse, target.refusals, target.check
    mutator = Mutator(target.seeds, target.tokens, f"{seed} {name} {index}")
    make, keep = mutator.next, mutator.keep
    understood = incomplete = refused = 0
    failures: list[Failure] = []
    begun = process_time()
    done = 0
    while done < count and len(failures) < _MAX_FAILURES:
        size = min(_SLICE, count - done)
        inputs = [make() for _ in repeat(None, size)]
        started = process_time()
        for data in inputs:
            try:
                result = parse(data)
            except refusals:
                refused += 1
            except Exception:
                failures.append(Failure(data, traceback.format_exc()))
            else:
                if result is None:
                    incomplete += 1
                    continue
                understood += 1
                if check:
                    try:
                        check(data, result)
                    except Exception:
                        failures.append(Failure(data, traceback.format_exc()))
                if not understood % _KEEP_EVERY:
                    keep(data)
        if process_time() - started > _SLOW:
            for data in inputs:
                seconds = cpu_seconds(target, data)
                if seconds > _SLOW:
                    failures.append(Failure(data, f"takes {seconds:.3f} s of CPU"))
        done += size
    return Outcome(done, understood, incomplete, refused, process_time() - begun, failures)


def run_task(task: tuple[str, int, int, int]) -> Outcome:
    """``run_batch`` for a pool of processes."""
    gc.freeze()
    return run_batch(*task)
