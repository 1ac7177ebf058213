"""What the guard does when the user turns the protections off, beside skipping by chance.

Plain V-trace, Adam's beta1 = .9, no compensation, 16 versions late, on CartPole-v1: alignment only
measured; the guard with its calibrated thresholds; the classic fixed thresholds; and for each of
the two a control that skips as often by chance on the same seed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.options import Options
from benchmarks.studies import pool
from benchmarks.studies.plain import CLASSIC, GUARD, PLAIN, random_skips
from benchmarks.studies.signature import INTERVALS
from benchmarks.studies.summary import cell, paired_difference, seeds, select, share, show
from benchmarks.studies.trial import CARTPOLE, Record, Trial, make_trial

LAG = 16
SEEDS = 8
OFF = "GAC off"
CONTROLLERS = {"the guard (auto)": GUARD, "GAC classic (.05, .3)": CLASSIC}


def imitation(controller: str) -> str:
    """The name of the arm that skips by chance as often as `controller`."""
    return f"random skips, as often as {controller}"


def trials(options: Options) -> list[Trial]:
    """All but those with random skips."""
    return [
        make_trial(CARTPOLE, arm, settings, lag=LAG, seed=seed, quick=options.quick)
        for seed in seeds(options, SEEDS)
        for arm, settings in {OFF: PLAIN, **CONTROLLERS}.items()
    ]


def estimate(options: Options) -> float:
    """Seconds, of those trials that are not done yet."""
    return pool.estimate(trials(options), options) * 5 / 3


def run(options: Options) -> dict[str, Any]:
    """Train the controllers, then those that imitate how often they skipped."""
    records = pool.run_trials("unprotected", trials(options), options)
    imitations = [
        trial
        for controller in CONTROLLERS
        for trial in random_skips(imitation(controller), _select(records, controller), options)
    ]
    records += pool.run_trials("unprotected, random", imitations, options)
    off = [record["final_return"] for record in _select(records, OFF)]
    rows = {}
    for arm in (OFF, *(name for c in CONTROLLERS for name in (c, imitation(c)))):
        chosen = _select(records, arm)
        finals = [record["final_return"] for record in chosen]
        rows[arm] = cell(chosen, CARTPOLE) | {"difference": asdict(paired_difference(finals, off))}
    for controller in CONTROLLERS:
        random = rows[imitation(controller)]["final_returns"]
        against = paired_difference(rows[controller]["final_returns"], random)
        rows[controller]["against_random"] = asdict(against)
    steps = CARTPOLE.quick_steps if options.quick else CARTPOLE.steps
    return {"seeds": len(seeds(options, SEEDS)), "steps": steps, "lag": LAG, "arms": rows}


def _select(records: list[Record], arm: str) -> list[Record]:
    return select(records, arm=arm, lag=LAG, environment=CARTPOLE.environment)


def table(data: dict[str, Any]) -> str:
    """One row per arm."""
    lines = [
        "| | final return | against off, paired | against random, paired | skipped | projected "
        "| collapsed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm, row in data["arms"].items():
        off = "" if arm == OFF else show(row["difference"], sign=True)
        random = show(row["against_random"], sign=True) if "against_random" in row else ""
        lines.append(
            f"| {arm} | {show(row['final'])} | {off} | {random} | {share(row['skipped'])} |"
            f" {share(row['projected'])} | {row['collapsed']} of {data['seeds']} |"
        )
    lines += [
        "",
        f"CartPole-v1, s = {data['lag']}, {data['steps']:,} steps, {data['seeds']} seeds; "
        f"{INTERVALS}",
    ]
    return "\n".join(lines)
