"""What staleness does to consecutive policy gradients, and which remedies bring the return back.

Plain V-trace with Adam's beta1 = .9, no clip and no compensation on CartPole-v1: the mean cosine of
consecutive policy gradients at 0, 4 and 16 versions of lag; and the final return of that run, of
the classic form of alignment control (fixed thresholds .05 and .3, at most 3 skips in a row), of
smaller steps, of a PPO clip, and of skipping by chance as often as the classic form did on the same
seed.
"""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean
from typing import Any

from asyncrl_api.manifest import load_manifest
from benchmarks.bootstrap import mean_interval
from benchmarks.options import Options
from benchmarks.ours import EXAMPLES
from benchmarks.studies import pool
from benchmarks.studies.plain import CLASSIC, PLAIN, random_skips
from benchmarks.studies.summary import cell, paired_difference, seeds, select, share, show
from benchmarks.studies.trial import CARTPOLE, POINTS, Record, Trial, make_trial

LAGS = (0, 4, 16)
SEEDS = 5
OFF, GAC, RANDOM = "GAC off", "GAC classic", "random skips, as often"


def arms() -> dict[str, tuple[str, ...]]:
    """Settings of each arm but the random one, which depends on the classic one's records."""
    rate = load_manifest(EXAMPLES / CARTPOLE.manifest).spec.optimizer.learning_rate
    return {
        OFF: PLAIN,
        GAC: CLASSIC,
        "learning rate / 2": (*PLAIN, f"optimizer.learningRate={rate / 2}"),
        "learning rate / (1 + s)": (*PLAIN, "compensation.stepSize=inverse"),
        "PPO clip": (*PLAIN, "algorithm.name=appo"),
    }


def trials(options: Options) -> list[Trial]:
    """All but those with random skips."""
    return [
        make_trial(CARTPOLE, arm, settings, lag=lag, seed=seed, quick=options.quick)
        for seed in seeds(options, SEEDS)
        for lag in LAGS
        for arm, settings in arms().items()
    ]


def estimate(options: Options) -> float:
    """Seconds, of those trials that are not done yet."""
    first = trials(options)
    return pool.estimate(first, options) * (1 + 1 / len(arms()))


def run(options: Options) -> dict[str, Any]:
    """Train every arm on every seed; the random one after the one it imitates."""
    records = pool.run_trials("signature", trials(options), options)
    classic = [record for record in records if record["arm"] == GAC]
    imitations = random_skips(RANDOM, classic, options)
    records += pool.run_trials("signature, random", imitations, options)
    return {
        "seeds": len(seeds(options, SEEDS)),
        "steps": CARTPOLE.quick_steps if options.quick else CARTPOLE.steps,
        "cosine": {str(lag): _cosine(_select(records, OFF, lag)) for lag in LAGS},
        "return": {
            arm: {str(lag): _compare(records, arm, lag) for lag in LAGS}
            for arm in (*arms(), RANDOM)
        },
    }


def _select(records: list[Record], arm: str, lag: int) -> list[Record]:
    return select(records, arm=arm, lag=lag, environment=CARTPOLE.environment)


def _cosine(records: list[Record]) -> dict[str, Any]:
    """Over the second half of the run, and along it: one mean and interval per bin."""
    halves = [
        fmean(value for value in record["cosines"][POINTS // 2 :] if value is not None)
        for record in records
    ]
    along = []
    for values in zip(*(record["cosines"] for record in records), strict=True):
        known = [value for value in values if value is not None]
        along.append(asdict(mean_interval(known)) if known else None)
    return {"second_half": asdict(mean_interval(halves)), "along": along}


def _compare(records: list[Record], arm: str, lag: int) -> dict[str, Any]:
    ours, off = _select(records, arm, lag), _select(records, OFF, lag)
    difference = paired_difference(
        [record["final_return"] for record in ours], [record["final_return"] for record in off]
    )
    return cell(ours, CARTPOLE) | {"difference": asdict(difference)}


def table(data: dict[str, Any]) -> str:
    """The cosines, then the returns with their paired difference to the unprotected run."""
    lines = [
        "| consecutive policy-gradient cosine | " + " | ".join(f"s = {s}" for s in data["cosine"]),
        "| --- |" + " --- |" * len(data["cosine"]),
        "| plain V-trace, second half of the run | "
        + " | ".join(show(c["second_half"], 2) for c in data["cosine"].values())
        + " |",
        "",
        "| final return | "
        + " | ".join(f"s = {s} | against off" for s in data["cosine"])
        + " | collapsed | skipped, projected at the largest s |",
        "| --- |" + " --- |" * (2 * len(data["cosine"]) + 2),
    ]
    lines[0] += " |"
    for arm, cells in data["return"].items():
        shown = []
        for values in cells.values():
            against = "" if arm == OFF else show(values["difference"], sign=True)
            shown.append(f"{show(values['final'])} | {against}")
        collapsed = sum(values["collapsed"] for values in cells.values())
        last = list(cells.values())[-1]
        did = f"{share(last['skipped'])}, {share(last['projected'])}"
        of = data["seeds"] * len(cells)
        lines.append(f"| {arm} | {' | '.join(shown)} | {collapsed} of {of} | {did} |")
    lines += ["", f"CartPole-v1, {data['steps']:,} steps, {data['seeds']} seeds; {INTERVALS}"]
    return "\n".join(lines)


INTERVALS = (
    "means and 95 % bootstrap intervals over seeds. A final return is the mean of the last 4 of 20 "
    "greedy evaluations of 20 episodes."
)
