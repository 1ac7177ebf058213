"""Which layers the default stack needs: it, and others that take one away or add one, on one set of
seeds under exact staleness.

Everything else is as in the example manifests. Returns are in percent of the synchronous run of the
default stack on the same task, counted from the task's worst return: at the end, and as the mean
over the evaluations along the way, which shows how fast a stack learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from benchmarks.bootstrap import mean_interval
from benchmarks.options import Options
from benchmarks.studies import pool
from benchmarks.studies.signature import INTERVALS
from benchmarks.studies.summary import percent, seeds, select, show
from benchmarks.studies.trial import ACROBOT, CARTPOLE, Record, Task, Trial, make_trial

LAGS = (4, 16, 64)
QUICK_LAGS = (4,)
SEEDS = 4
TASKS = (CARTPOLE, ACROBOT)
DEFAULT = "clip, momentum law (the default)"
STACKS: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "clip alone": ("compensation.momentumLaw=false",),
    "the default, step halved when stale": ("compensation.stepSize=halfWhenStale",),
    "the default, KL feedback .1": ("compensation.klFeedback.mode=fixed",),
    "no clip, momentum law, KL held at .02": (
        "algorithm.name=impala",
        "compensation.klFeedback.mode=target",
    ),
}


def trials(options: Options) -> list[Trial]:
    """By seed, so that an interrupted study has whole pairs; the default synchronous too."""
    lags = QUICK_LAGS if options.quick else LAGS
    cells = [(DEFAULT, 0), *((stack, lag) for lag in lags for stack in STACKS)]
    return [
        make_trial(task, stack, STACKS[stack], lag=lag, seed=seed, quick=options.quick)
        for seed in seeds(options, SEEDS)
        for task in TASKS
        for stack, lag in cells
    ]


def estimate(options: Options) -> float:
    """Seconds, of those trials that are not done yet."""
    return pool.estimate(trials(options), options)


def run(options: Options) -> dict[str, Any]:
    """Train everything, then compare."""
    records = pool.run_trials("stacks", trials(options), options)
    lags = QUICK_LAGS if options.quick else LAGS
    tasks = {}
    for task in TASKS:
        reference = _of(records, task, DEFAULT, 0)
        tasks[task.environment] = {
            stack: {
                str(lag): _cell(_of(records, task, stack, lag), reference, task) for lag in lags
            }
            for stack in STACKS
        }
    return {"seeds": len(seeds(options, SEEDS)), "tasks": tasks}


def _of(records: Sequence[Record], task: Task, stack: str, lag: int) -> list[Record]:
    return select(records, arm=stack, lag=lag, environment=task.environment)


def _cell(records: Sequence[Record], reference: Sequence[Record], task: Task) -> dict[str, Any]:
    return {
        "final": asdict(mean_interval(percent(records, reference, task))),
        "on_the_way": asdict(mean_interval(percent(_curves(records), _curves(reference), task))),
        "collapsed": sum(record["final_return"] < task.collapsed for record in records),
    }


def _curves(records: Sequence[Record]) -> list[Record]:
    """With the mean over all evaluations in the place of the final return."""
    return [{**record, "final_return": fmean(record["returns"])} for record in records]


def table(data: dict[str, Any]) -> str:
    """One table per task: a row per stack, and per lag the end and the way there."""
    blocks = []
    for environment, rows in data["tasks"].items():
        lags = list(next(iter(rows.values())))
        heads = [f"s = {lag}, {what}" for lag in lags for what in ("final %", "on the way %")]
        lines = [
            f"| {environment} | {' | '.join(heads)} | collapsed |",
            f"| --- |{' --- |' * (len(heads) + 1)}",
        ]
        for stack, cells in rows.items():
            shown = [show(cells[lag][what]) for lag in lags for what in ("final", "on_the_way")]
            collapsed = sum(cells[lag]["collapsed"] for lag in lags)
            of = data["seeds"] * len(lags)
            lines.append(f"| {stack} | {' | '.join(shown)} | {collapsed} of {of} |")
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, f"{data['seeds']} seeds; {INTERVALS}"])
