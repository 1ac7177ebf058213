"""Every benchmark: what it measures, how long that takes, and how its numbers become a table."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import throughput, time_to_return
from benchmarks.options import Options
from benchmarks.processes import run_to_end
from benchmarks.studies import guard, rise, signature, stacks, unprotected


@dataclass(frozen=True)
class Benchmark:
    """`run` measures and returns JSON values; `table` makes markdown of them; `estimate` is in
    seconds on two quiet cores; `target` is what we ask of ourselves, if that is a number."""

    name: str
    title: str
    target: str | None
    run: Callable[[Options], dict[str, Any]]
    table: Callable[[dict[str, Any]], str]
    estimate: Callable[[Options], float]


class ProgramFailed(Exception):
    """A benchmark that is a program of its own did not end well. One line."""


PROGRAM_DEADLINE = 1800.0
QUICK_ARGUMENTS = {"benchmarks.alignment_cost": ("--repetitions", "1")}


def _program(module: str, options: Options) -> dict[str, Any]:
    """Run a module that prints its own markdown."""
    arguments: tuple[str, ...] = QUICK_ARGUMENTS.get(module, ()) if options.quick else ()
    finished = run_to_end([sys.executable, "-m", module, *arguments], deadline=PROGRAM_DEADLINE)
    if finished.returncode != 0:
        raise ProgramFailed(f"{module}: exit code {finished.returncode}: {finished.last_error}")
    return {"markdown": finished.output.strip()}


def _printed(data: dict[str, Any]) -> str:
    return str(data["markdown"])


def _seconds(quick: float, full: float, options: Options) -> float:
    return quick if options.quick else full


def _time_to_return(
    task: time_to_return.Task, name: str, title: str, target: str | None
) -> Benchmark:
    return Benchmark(
        name,
        title,
        target,
        partial(time_to_return.run, task),
        time_to_return.table,
        partial(time_to_return.estimate, task),
    )


BENCHMARKS = (
    Benchmark(
        "throughput",
        "CartPole-v1, environment steps per second, learning included",
        "4x sample-factory, 8x Stable-Baselines3",
        throughput.run,
        throughput.table,
        throughput.estimate,
    ),
    _time_to_return(
        time_to_return.CARTPOLE,
        "cartpole",
        "Wall time to an evaluated return of 475 on CartPole-v1, start-up included",
        "0.6x Stable-Baselines3",
    ),
    _time_to_return(
        time_to_return.LUNARLANDER,
        "lunarlander",
        "Wall time to an evaluated return of 200 on LunarLander-v3, start-up included",
        "0.35x Stable-Baselines3",
    ),
    _time_to_return(
        time_to_return.ACROBOT, "acrobot", "Acrobot-v1 to an evaluated return of -100", None
    ),
    _time_to_return(
        time_to_return.PENDULUM, "pendulum", "Pendulum-v1 to an evaluated return of -200", None
    ),
    Benchmark(
        "alignment-cost",
        "Gradient alignment control per optimizer step, at 1M and 100M parameters",
        "1.3x the memory-bandwidth limit, and under 10 % of the whole step at 1M",
        partial(_program, "benchmarks.alignment_cost"),
        _printed,
        partial(_seconds, 20.0, 60.0),
    ),
    Benchmark(
        "weights-transfer",
        "Weights of 100 MB to 8 actors",
        "0.8x raw loopback",
        partial(_program, "benchmarks.weights_transfer"),
        _printed,
        partial(_seconds, 30.0, 60.0),
    ),
    Benchmark(
        "signature",
        "Consecutive policy-gradient cosine under staleness, and what brings the return back",
        None,
        signature.run,
        signature.table,
        signature.estimate,
    ),
    Benchmark(
        "guard",
        "The default stack under exact staleness, with and without the guard",
        "at least 98 % of synchronous; under 1 % of updates touched; no measurable cost",
        guard.run,
        guard.table,
        guard.estimate,
    ),
    Benchmark(
        "stacks",
        "Which layers the default stack needs",
        None,
        stacks.run,
        stacks.table,
        stacks.estimate,
    ),
    Benchmark(
        "unprotected",
        "The guard where the user turned the protections off, beside skipping by chance",
        None,
        unprotected.run,
        unprotected.table,
        unprotected.estimate,
    ),
    Benchmark(
        "rise",
        "The guard where a run in step falls 16 versions behind in its middle",
        None,
        rise.run,
        rise.table,
        rise.estimate,
    ),
)


def aim(benchmark: Benchmark) -> str:
    """What it should reach, in one line; nothing where the result is shown as it is."""
    return f"Our target: {benchmark.target}." if benchmark.target else ""


def by_name(name: str) -> Benchmark:
    """Raises KeyError for an unknown name."""
    return {benchmark.name: benchmark for benchmark in BENCHMARKS}[name]


def available(benchmark: Benchmark) -> bool:
    """Whether the program of a benchmark is part of this checkout."""
    run = benchmark.run
    if isinstance(run, partial) and run.func is _program:
        return importlib.util.find_spec(run.args[0]) is not None
    return True
