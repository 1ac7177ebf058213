"""The default stack under exact staleness, with and without the guard, on paired seeds.

Everything is as in the example manifests. "with": alignment.mode control, the default. "without":
mode observe, which measures and does nothing. Returns are in percent of the synchronous run of the
same task with the guard, counted from the task's worst return.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.bootstrap import mean_interval
from benchmarks.options import Options
from benchmarks.studies import pool
from benchmarks.studies.signature import INTERVALS
from benchmarks.studies.summary import (
    cell,
    paired_difference,
    percent,
    seeds,
    select,
    share,
    show,
)
from benchmarks.studies.trial import ACROBOT, CARTPOLE, Record, Task, Trial, make_trial

LAGS = (0, 4, 16, 64)
QUICK_LAGS = (0, 4)
SEEDS = 8
TASKS = (CARTPOLE, ACROBOT)
ARMS = {"with": ("alignment.mode=control",), "without": ("alignment.mode=observe",)}


def lags(options: Options) -> tuple[int, ...]:
    """The largest lags need longer runs than a smoke test has."""
    return QUICK_LAGS if options.quick else LAGS


def trials(options: Options) -> list[Trial]:
    """By seed, so that an interrupted study has whole pairs."""
    return [
        make_trial(task, arm, settings, lag=lag, seed=seed, quick=options.quick)
        for seed in seeds(options, SEEDS)
        for task in TASKS
        for lag in lags(options)
        for arm, settings in ARMS.items()
    ]


def estimate(options: Options) -> float:
    """Seconds, of those trials that are not done yet."""
    return pool.estimate(trials(options), options)


def run(options: Options) -> dict[str, Any]:
    """Train everything, then compare."""
    records = pool.run_trials("guard", trials(options), options)
    return {
        "seeds": len(seeds(options, SEEDS)),
        "steps": {
            task.environment: task.quick_steps if options.quick else task.steps for task in TASKS
        },
        "tasks": {
            task.environment: {str(lag): _compare(records, task, lag) for lag in lags(options)}
            for task in TASKS
        },
    }


def _compare(records: list[Record], task: Task, lag: int) -> dict[str, Any]:
    def of(arm: str, at: int) -> list[Record]:
        return select(records, arm=arm, lag=at, environment=task.environment)

    reference = of("with", 0)
    shares = {arm: percent(of(arm, lag), reference, task) for arm in ARMS}
    return {
        "cells": {arm: cell(of(arm, lag), task) for arm in ARMS},
        "percent": {arm: asdict(mean_interval(values)) for arm, values in shares.items()},
        "difference": asdict(paired_difference(shares["with"], shares["without"])),
    }


def table(data: dict[str, Any]) -> str:
    """One row per task and lag."""
    lines = [
        "| task | s | final return | % of synchronous, with the guard | without | the guard's "
        "difference, points | updates touched | collapsed, with / without |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for environment, rows in data["tasks"].items():
        for lag, row in rows.items():
            with_, without = row["cells"]["with"], row["cells"]["without"]
            lines.append(
                f"| {environment} | {lag} | {show(with_['final'], 1)} |"
                f" {show(row['percent']['with'], 1)} | {show(row['percent']['without'], 1)} |"
                f" {show(row['difference'], 1, sign=True)} |"
                f" {share(with_['skipped'] + with_['projected'])} |"
                f" {with_['collapsed']} / {without['collapsed']} of {data['seeds']} |"
            )
    steps = ", ".join(f"{name} {count:,} steps" for name, count in data["steps"].items())
    lines += ["", f"{data['seeds']} seeds, {steps}; {INTERVALS}"]
    return "\n".join(lines)
