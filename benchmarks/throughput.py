"""Environment steps per second, learning included, against two libraries on the same machine.

All sides train CartPole-v1 for the same time, one after another and interleaved, so that a change
of the machine's speed meets all of them. The steady rate leaves out the first fifth of the training
time; the rate with start-up is over the whole life of the command, its start and end included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.options import Options
from benchmarks.ours import EXAMPLES, run_job
from benchmarks.peers import SAMPLE_FACTORY, STABLE_BASELINES3, Peer, prepare, run_driver

ENVIRONMENT = "CartPole-v1"
REPEATS = 5
SECONDS, QUICK_SECONDS = 30, 5
WARM_UP = 0.2
START_UP_SECONDS = 15.0
"""Start and end of a command, for the estimate of the duration only."""

START_UP_DEADLINE = 300.0

Samples = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Rate:
    """Environment steps per second; `staleness` in versions where the side reports it."""

    steady: float
    with_start_up: float
    steps: int
    staleness: float | None = None
    versions: dict[str, str] | None = None


def steady_rate(samples: Samples) -> float:
    """Steps per second between the first sample after the warm-up and the last one.

    `samples` are (seconds, steps so far), by rising time; at least two after the warm-up.
    """
    start, end = samples[0][0], samples[-1][0]
    later = [sample for sample in samples if sample[0] >= start + WARM_UP * (end - start)]
    if len(later) < 2 or later[-1][0] <= later[0][0]:
        raise ValueError(f"{len(samples)} samples are too few for a rate; measure for longer")
    return (later[-1][1] - later[0][1]) / (later[-1][0] - later[0][0])


def ours(seconds: int, seed: int, *, evaluation: bool = True) -> Rate:
    """`asyncrl run examples/cartpole.yaml`, ended by time in place of the target return."""
    overrides = [f"spec.seed={seed}", f"spec.stopping={{wallTimeSeconds: {seconds}}}"]
    if not evaluation:
        overrides.append("spec.evaluation.intervalVersions=null")
    run = run_job(EXAMPLES / "cartpole.yaml", overrides, deadline=seconds + START_UP_DEADLINE)
    samples = [(row["time"], row["environmentSteps"]) for row in run.rows]
    steps = int(samples[-1][1])
    lag = sum(row["stalenessMean"] for row in run.rows) / len(run.rows)
    return Rate(steady_rate(samples), steps / run.seconds, steps, lag)


def peer(which: Peer, seconds: int, seed: int) -> Rate:
    """The peer's driver; its counter is that of the steps it trained on."""
    result = run_driver(
        which,
        ["throughput", ENVIRONMENT, "--seconds", str(seconds), "--seed", str(seed)],
        deadline=seconds + START_UP_DEADLINE,
    )
    samples, process = result.values["samples"], result.process
    steps = int(samples[-1][1])
    return Rate(
        steady_rate(samples),
        steps / (process.ended - process.started),
        steps,
        result.values.get("lag"),
        result.values["versions"],
    )


SIDES: dict[str, Callable[[int, int], Rate]] = {
    "asyncrl": ours,
    "asyncrl, no evaluation": lambda seconds, seed: ours(seconds, seed, evaluation=False),
    str(SAMPLE_FACTORY): lambda seconds, seed: peer(SAMPLE_FACTORY, seconds, seed),
    str(STABLE_BASELINES3): lambda seconds, seed: peer(STABLE_BASELINES3, seconds, seed),
}

TARGETS = {str(SAMPLE_FACTORY): 4.0, str(STABLE_BASELINES3): 8.0}


def run(options: Options) -> dict[str, Any]:
    """Measure every side `repeats` times in turn."""
    seconds = QUICK_SECONDS if options.quick else SECONDS
    rates: dict[str, list[Rate]] = {side: [] for side in SIDES}
    for which in (SAMPLE_FACTORY, STABLE_BASELINES3):
        prepare(which)
    for repeat in range(options.repeats or (1 if options.quick else REPEATS)):
        for side, measure in SIDES.items():
            rate = measure(seconds, repeat)
            rates[side].append(rate)
            options.say(f"{side}: {rate.steady:,.0f} steps/s")
    return {"seconds": seconds, "sides": {side: _summary(of_one) for side, of_one in rates.items()}}


def estimate(options: Options) -> float:
    """Seconds that `run` will take."""
    seconds = QUICK_SECONDS if options.quick else SECONDS
    repeats = options.repeats or (1 if options.quick else REPEATS)
    return repeats * len(SIDES) * (seconds + START_UP_SECONDS)


def _summary(rates: list[Rate]) -> dict[str, Any]:
    lags = [rate.staleness for rate in rates if rate.staleness is not None]
    return {
        "steady": [round(rate.steady) for rate in rates],
        "with_start_up": [round(rate.with_start_up) for rate in rates],
        "steps": [rate.steps for rate in rates],
        "median": median(rate.steady for rate in rates),
        "median_with_start_up": median(rate.with_start_up for rate in rates),
        "staleness": median(lags) if lags else None,
        "versions": rates[0].versions,
    }


def table(data: dict[str, Any]) -> str:
    """Rates, and how many times those of each peer asyncrl's are."""
    own = data["sides"]["asyncrl"]
    lines = [
        "| | steps/s, steady | times | target | steps/s with start-up | times | staleness |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for side, values in data["sides"].items():
        target = TARGETS.get(side)
        times = [own[key] / values[key] for key in ("median", "median_with_start_up")]
        shown = [f"{value:.1f}x" if target else "" for value in times]
        wanted = f"{target:.0f}x" if target else ""
        lag = "" if values["staleness"] is None else f"{values['staleness']:.1f}"
        lines.append(
            f"| {side} | {values['median']:,.0f} | {shown[0]} | {wanted} |"
            f" {values['median_with_start_up']:,.0f} | {shown[1]} | {lag} |"
        )
    lines += ["", _spread(data)]
    return "\n".join(lines)


def _spread(data: dict[str, Any]) -> str:
    parts = [
        f"{side} {min(values['steady']):,} to {max(values['steady']):,}"
        for side, values in data["sides"].items()
    ]
    count = len(data["sides"]["asyncrl"]["steady"])
    return (
        f"Medians of {count} interleaved repetitions of {data['seconds']} s each; from the lowest "
        f"to the highest: {'; '.join(parts)}."
    )
