# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzzes the parsers: ``python tests/fuzz/run.py --count 10000000 --jobs 2``.

Prints for each parser how many inputs it understood, called incomplete and refused, and any
input that did something else, with the line that repeats it. Ends with 1 if there was one.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import fuzz_run
import fuzz_targets


def tasks(name: str, seed: int, count: int) -> Iterator[tuple[str, int, int, int]]:
    """Batches of ``count`` inputs in all."""
    for index, done in enumerate(range(0, count, fuzz_run.BATCH)):
        yield name, seed, index, min(fuzz_run.BATCH, count - done)


def outcomes(work: Iterable[tuple[str, int, int, int]], jobs: int) -> Iterator[fuzz_run.Outcome]:
    """Run batches, here or in several processes."""
    if jobs <= 1:
        yield from map(fuzz_run.run_task, work)
        return
    with get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(fuzz_run.run_task, work)


def fuzz(name: str, seed: int, count: int, jobs: int) -> bool:
    """Fuzz one parser and print its line; whether all went well."""
    understood = incomplete = refused = inputs = 0
    seconds = 0.0
    failures: dict[str, fuzz_run.Failure] = {}
    begun = monotonic()
    for outcome in outcomes(tasks(name, seed, count), jobs):
        inputs += outcome.inputs
        understood += outcome.understood
        incomplete += outcome.incomplete
        refused += outcome.refused
        seconds += outcome.seconds
        for failure in outcome.failures:
            known = failures.get(failure.kind)
            if known is None or len(failure.data) < len(known.data):
                failures[failure.kind] = failure
    rate = inputs / seconds if seconds else 0.0
    print(
        f"{name:12} {inputs:>11,} {understood:>11,} {incomplete:>11,} {refused:>11,} {rate:>10,.0f}"
        f" {monotonic() - begun:>8.1f}  {'FAILED' if failures else 'ok'}",
        flush=True,
    )
    for failure in failures.values():
        print(f"\n{failure.reason}\n  {repeat_line(name, failure.data)}\n", flush=True)
    return not failures


def repeat_line(name: str, data: bytes) -> str:
    """Command that tries ``data`` again."""
    return f"python tests/fuzz/run.py --parser {name} --hex {data.hex()}"


def try_one(name: str, text: str) -> bool:
    """Try one input and print what happens; whether that is as it should be."""
    target, data = fuzz_targets.load(name), bytes.fromhex(text)
    wrong = fuzz_run.try_input(target, data)
    if wrong is None:
        try:
            print(target.parse(data))
        except target.refusals as error:
            print(f"refused: {error!r}")
    else:
        print(wrong)
    print(f"{fuzz_run.cpu_seconds(target, data) * 1e6:.1f} us of CPU")
    return wrong is None


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="inputs per parser (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other inputs (%(default)s)")
    parser.add_argument(
        "--parser", action="append", choices=fuzz_targets.names(), help="only this one; repeatable"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--hex", help="try this one input of one --parser")
    options = parser.parse_args(arguments)
    chosen = options.parser or fuzz_targets.names()
    if options.hex is not None:
        if len(chosen) != 1:
            parser.error("--hex needs one --parser")
        return 0 if try_one(chosen[0], options.hex) else 1
    print(
        f"{'parser':12} {'inputs':>11} {'ok':>11} {'incomplete':>11} {'refused':>11}"
        f" {'per CPU-s':>10} {'seconds':>8}"
    )
    results = [fuzz(name, options.seed, options.count, options.jobs) for name in chosen]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
