"""From records to numbers and cells: shared by the studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from benchmarks.bootstrap import Interval, mean_interval
from benchmarks.options import Options
from benchmarks.studies.trial import Record, Task


def seeds(options: Options, default: int) -> range:
    """As many as asked for; two in a quick run, so that there is an interval."""
    return range(options.repeats or (2 if options.quick else default))


def select(records: Iterable[Record], *, arm: str, lag: int, environment: str) -> list[Record]:
    """The records of one cell, by seed."""
    chosen = [
        record
        for record in records
        if (record["arm"], record["lag"], record["environment"]) == (arm, lag, environment)
    ]
    return sorted(chosen, key=lambda record: record["seed"])


def percent(records: Sequence[Record], reference: Sequence[Record], task: Task) -> list[float]:
    """Final returns, one per record, in percent of the reference's mean above the task's floor.

    A reference that learned nothing, as in a quick run, counts as one point above the floor.
    """
    level = max(1.0, fmean(record["final_return"] for record in reference) - task.floor)
    return [100.0 * (record["final_return"] - task.floor) / level for record in records]


def paired_difference(ours: Sequence[float], others: Sequence[float]) -> Interval:
    """Mean difference of values that belong to the same seeds."""
    return mean_interval([a - b for a, b in zip(ours, others, strict=True)])


def cell(records: Sequence[Record], task: Task) -> dict[str, Any]:
    """One arm at one lag: final return with interval, collapses, and what the control did."""
    finals = [record["final_return"] for record in records]
    return {
        "final_returns": finals,
        "final": asdict(mean_interval(finals)),
        "collapsed": sum(value < task.collapsed for value in finals),
        "skipped": fmean(record["skipped"] for record in records),
        "projected": fmean(record["projected"] for record in records),
        "updates": fmean(record["updates"] for record in records),
    }


def show(interval: dict[str, float], digits: int = 0, *, sign: bool = False) -> str:
    """`mean [low, high]` of an interval as JSON holds it."""
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    mean, low, high = (form.format(interval[key]) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def share(fraction: float) -> str:
    """A share of updates in percent."""
    return f"{fraction:.1%}" if fraction else "0"
