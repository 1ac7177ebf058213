"""`python -m benchmarks [NAME...]`: measure, save the numbers, print the tables."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.index import BENCHMARKS, Benchmark, ProgramFailed, aim, available, by_name
from benchmarks.options import Options
from benchmarks.ours import RunFailed
from benchmarks.peers import PeerFailed
from benchmarks.processes import TimedOut

EXPECTED_FAILURES = (PeerFailed, ProgramFailed, RunFailed, TimedOut, OSError, ValueError)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure asyncrl. Without names, everything; on a quiet machine, please.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--list", action="store_true", help="what there is, and how long it takes")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test in minutes; its numbers mean nothing"
    )
    parser.add_argument("--repeats", type=int, help="repetitions, or seeds, per side")
    parser.add_argument(
        "--processes", type=int, default=2, help="trials of a study at once (default 2)"
    )
    parser.add_argument(
        "--results", type=Path, help="folder of the results (default benchmarks/results)"
    )
    parser.add_argument(
        "--render",
        action="store_true",
        help="measure nothing: docs/benchmarks.md and images/ from the results",
    )
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in names]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(names)}")
    if arguments.render and arguments.quick:
        parser.error("--render --quick: a smoke test's numbers are not for the documentation")
    if arguments.processes < 1 or (arguments.repeats is not None and arguments.repeats < 1):
        parser.error("--processes and --repeats: less than 1; use 1 or more")
    return arguments


def main(argv: Sequence[str]) -> int:
    """0 if everything asked for was measured, 1 if something failed."""
    arguments = parse(argv)
    folder = arguments.results or (results.FOLDER / "quick" if arguments.quick else results.FOLDER)
    options = Options(
        quick=arguments.quick,
        repeats=arguments.repeats,
        processes=arguments.processes,
        partial=folder / "partial",
    )
    chosen = [by_name(name) for name in arguments.names] or list(BENCHMARKS)
    if arguments.list:
        return _list(chosen, options)
    if arguments.render:
        return _render(folder)
    command = " ".join(["python -m benchmarks", *argv])
    failed = [
        benchmark.name
        for benchmark in chosen
        if not _measure(benchmark, options, folder, command, asked=bool(arguments.names))
    ]
    if failed:
        options.say(f"not measured: {', '.join(failed)}")
    return 1 if failed else 0


def _list(chosen: Sequence[Benchmark], options: Options) -> int:
    width = max(len(benchmark.name) for benchmark in chosen)
    total = 0.0
    for benchmark in chosen:
        seconds = benchmark.estimate(options)
        total += seconds
        print(f"{benchmark.name:{width}}  {_minutes(seconds)}  {benchmark.title}")
        if benchmark.target:
            print(f"{'':{width}}             {aim(benchmark)}")
    print(f"{'together':{width}}  {_minutes(total)}")
    return 0


def _measure(
    benchmark: Benchmark, options: Options, folder: Path, command: str, *, asked: bool
) -> bool:
    if not available(benchmark):
        options.say(f"{benchmark.name}: not part of this checkout")
        return not asked
    load = os.getloadavg()[0]
    options.say(
        f"{benchmark.name}: {_minutes(benchmark.estimate(options)).strip()}, load {load:.1f}"
    )
    started = time.monotonic()
    try:
        data = benchmark.run(options)
    except EXPECTED_FAILURES as error:
        options.say(f"{benchmark.name}: {error}")
        return False
    results.save(folder, benchmark.name, command, time.monotonic() - started, data)
    print(f"\n## {benchmark.title}\n\n{aim(benchmark)}\n")
    print(benchmark.table(data), flush=True)
    return True


def _render(folder: Path) -> int:
    from benchmarks.document import DOCUMENT, IMAGES, fill  # with figures: matplotlib
    from benchmarks.figures import draw

    for benchmark in BENCHMARKS:
        result = results.load(folder, benchmark.name)
        if result is not None:
            draw(benchmark.name, result.data, IMAGES)
    DOCUMENT.write_text(fill(DOCUMENT.read_text(), folder))
    print(f"written: {DOCUMENT}")
    return 0


def _minutes(seconds: float) -> str:
    return f"{seconds:5.0f} s  " if seconds < 100 else f"{seconds / 60:5.0f} min"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
