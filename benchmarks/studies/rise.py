"""What the guard does when a run that was in step falls behind in its middle.

Plain V-trace without compensation on CartPole-v1, in step for half of the run, then 16 versions
late: alignment only measured; the guard; skipping by chance, as often as the guard did after the
rise on the same seed; the classic thresholds; and the run that stays in step. With Adam's usual
beta1 of .9, where late updates overshoot most; with the default .5; and with .9 and four times the
batch, whose cosines are less noisy, so that a smaller rise stands out.
"""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean, median
from typing import Any

from benchmarks.bootstrap import mean_interval
from benchmarks.options import Options
from benchmarks.studies import pool
from benchmarks.studies.plain import CLASSIC, GUARD, PLAIN
from benchmarks.studies.signature import INTERVALS
from benchmarks.studies.summary import paired_difference, seeds, share, show
from benchmarks.studies.trial import CARTPOLE, POINTS, Record, Trial, make_trial

LAG = 16
SEEDS = 4
BEFORE = 4
"""Evaluations before the rise whose mean is the return before it."""

STACKS = {
    "beta1 .9": (),
    "beta1 .5": ("optimizer.beta1=0.5",),
    "beta1 .9, four times the batch": ("algorithm.fragmentsPerBatch=8",),
}
OFF, AUTO, CHANCE = "GAC off", "the guard (auto)", "random skips, as often as the guard"
CLASSIC_ARM, IN_STEP = "GAC classic (.05, .3)", "in step to the end, GAC off"
ARMS = {OFF: PLAIN, AUTO: GUARD, CLASSIC_ARM: CLASSIC, IN_STEP: PLAIN}


def _trial(arm: str, stack: str, seed: int, options: Options, rate: float | None = None) -> Trial:
    return make_trial(
        CARTPOLE,
        _key(arm, stack),
        (*ARMS.get(arm, PLAIN), *STACKS[stack]),
        lag=0,
        seed=seed,
        quick=options.quick,
        skip_rate=rate,
        later_lag=None if arm == IN_STEP else LAG,
    )


def _key(arm: str, stack: str) -> str:
    return f"{arm}, {stack}"


def trials(options: Options) -> list[Trial]:
    """All but those with random skips."""
    return [
        _trial(arm, stack, seed, options)
        for seed in seeds(options, SEEDS)
        for stack in STACKS
        for arm in ARMS
    ]


def imitations(records: list[Record], options: Options) -> list[Trial]:
    """For each record of the guard, a run that skips as often by chance from the rise on."""
    return [
        _trial(CHANCE, stack, record["seed"], options, _after(record, "skipped"))
        for stack in STACKS
        for record in records
        if record["arm"] == _key(AUTO, stack)
    ]


def estimate(options: Options) -> float:
    """Seconds, of those trials that are not done yet."""
    return pool.estimate(trials(options), options) * (1 + 1 / len(ARMS))


def run(options: Options) -> dict[str, Any]:
    """Train everything, then compare with the run that alignment control leaves alone."""
    records = pool.run_trials("rise", trials(options), options)
    records += pool.run_trials("rise, random", imitations(records, options), options)
    return {
        "seeds": len(seeds(options, SEEDS)),
        "steps": CARTPOLE.quick_steps if options.quick else CARTPOLE.steps,
        "lag": LAG,
        "stacks": {
            stack: {
                arm: _row(_select(records, arm, stack), _select(records, OFF, stack))
                for arm in (IN_STEP, OFF, AUTO, CHANCE, CLASSIC_ARM)
            }
            for stack in STACKS
        },
    }


def _select(records: list[Record], arm: str, stack: str) -> list[Record]:
    chosen = [record for record in records if record["arm"] == _key(arm, stack)]
    return sorted(chosen, key=lambda record: record["seed"])


def _after(record: Record, what: str) -> float:
    late = record["late"]
    return late[what] / late["updates"] if late and late["updates"] else 0.0


def _row(ours: list[Record], off: list[Record]) -> dict[str, Any]:
    finals = [record["final_return"] for record in ours]
    half = POINTS // 2
    before = [fmean(record["returns"][half - BEFORE : half]) for record in ours]
    late = [record["late"] for record in ours if record["late"]]
    return {
        "final_returns": finals,
        "final": asdict(mean_interval(finals)),
        "before": asdict(mean_interval(before)),
        "difference": asdict(paired_difference(finals, [record["final_return"] for record in off])),
        "cosines": [_cosine(ours, half // 2, half), _cosine(ours, half, POINTS)],
        "first": [run["first"] for run in late if run["first"] is not None],
        "touched_before": sum(run["touched_before"] for run in late),
        "skipped": fmean(_after(record, "skipped") for record in ours),
        "projected": fmean(_after(record, "projected") for record in ours),
        "collapsed": sum(value < CARTPOLE.collapsed for value in finals),
    }


def _cosine(records: list[Record], start: int, stop: int) -> float | None:
    known = [c for record in records for c in record["cosines"][start:stop] if c is not None]
    return fmean(known) if known else None


def table(data: dict[str, Any]) -> str:
    """One table per stack, one row per arm."""
    blocks = []
    for stack, arms in data["stacks"].items():
        lines = [
            f"| {stack} | return before the rise | final return | against off, paired "
            "| cosine before, after | first touched, updates after the rise | touched before "
            "| skipped, projected after | collapsed |",
            "| --- |" + " --- |" * 8,
        ]
        for arm, row in arms.items():
            off = "" if arm == OFF else show(row["difference"], sign=True)
            acted = _first(row["first"], data["seeds"]) if arm in (AUTO, CLASSIC_ARM) else ""
            cosines = ", ".join("–" if c is None else f"{c:.2f}" for c in row["cosines"])
            lines.append(
                f"| {arm} | {show(row['before'])} | {show(row['final'])} | {off} | {cosines} |"
                f" {acted} | {row['touched_before']} |"
                f" {share(row['skipped'])}, {share(row['projected'])} |"
                f" {row['collapsed']} of {data['seeds']} |"
            )
        blocks.append("\n".join(lines))
    blocks.append(
        f"CartPole-v1, {data['steps']:,} steps, s = 0 for the first half and {data['lag']} from "
        f"there on, {data['seeds']} seeds; {INTERVALS} The return before the rise is that of the 4 "
        "evaluations before; touched before: updates of all seeds together."
    )
    return "\n\n".join(blocks)


def _first(updates: list[int], of: int) -> str:
    if not updates:
        return "never"
    return f"{median(updates):.0f} ({min(updates)} to {max(updates)}), in {len(updates)} of {of}"
