"""Wall time from the start of a command until a policy of its evaluates at a given return.

Both sides are timed from the start of their process to its end and evaluate greedy policies with
20 episodes: asyncrl as its manifest says, Stable-Baselines3 by its EvalCallback. What the peer
spends on evaluating is given apart, because there it is time without training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.options import Options
from benchmarks.ours import EXAMPLES, run_job
from benchmarks.peers import STABLE_BASELINES3, prepare, run_driver

START_UP_DEADLINE = 300.0


@dataclass(frozen=True)
class Task:
    """A target to reach.

    seeds: as many runs per side. interval: environment steps between two evaluations of the peer,
    None where there is no comparison. target_ratio: of the peer's wall time. limit: seconds, after
    which a run counts as not reached. expected: seconds of one run of ours and of the peer's, for
    the estimate only.
    """

    manifest: str
    environment: str
    target: float
    seeds: int
    limit: int
    expected: tuple[float, float]
    interval: int | None = None
    target_ratio: float | None = None


CARTPOLE = Task(
    "cartpole.yaml", "CartPole-v1", 475, 5, 180, (10, 25), interval=5_000, target_ratio=0.6
)
LUNARLANDER = Task(
    "lunarlander.yaml",
    "LunarLander-v3",
    200,
    3,
    900,
    (120, 450),
    interval=25_000,
    target_ratio=0.35,
)
ACROBOT = Task("acrobot.yaml", "Acrobot-v1", -100, 3, 300, (30, 0))
PENDULUM = Task("pendulum.yaml", "Pendulum-v1", -200, 3, 300, (60, 0))


@dataclass(frozen=True)
class Attempt:
    """seconds: None where the target was not reached. best: the last or best evaluation."""

    seed: int
    seconds: float | None
    steps: int
    best: float | None
    evaluation_seconds: float | None = None
    versions: dict[str, str] | None = None


def ours(task: Task, seed: int) -> Attempt:
    """`asyncrl run examples/...`, the whole command."""
    limit = f"spec.stopping.wallTimeSeconds={task.limit}"
    overrides = [f"spec.seed={seed}", f"spec.stopping.targetReturn={task.target}", limit]
    run = run_job(EXAMPLES / task.manifest, overrides, deadline=task.limit + START_UP_DEADLINE)
    evaluations = [r["evaluationReturn"] for r in run.rows if r["evaluationReturn"] is not None]
    reached = run.status["reason"] == "TargetReturnReached"
    best = max(evaluations, default=None)
    steps = run.rows[-1]["environmentSteps"]
    return Attempt(seed, run.seconds if reached else None, steps, best)


def theirs(task: Task, seed: int) -> Attempt:
    """Stable-Baselines3 PPO with the settings of rl-baselines3-zoo and its number of steps."""
    arguments = ["return", task.environment, "--target", str(task.target), "--seed", str(seed)]
    arguments += ["--seconds", str(task.limit), "--interval", str(task.interval)]
    result = run_driver(STABLE_BASELINES3, arguments, deadline=task.limit + START_UP_DEADLINE)
    values, process = result.values, result.process
    seconds = process.ended - process.started if values["reached"] else None
    return Attempt(
        seed,
        seconds,
        values["steps"],
        values["best"],
        values["evaluation_seconds"],
        values["versions"],
    )


def run(task: Task, options: Options) -> dict[str, Any]:
    """Every seed on every side, in turn. A quick run has one seed and does not ask the peer."""
    compared = task.interval is not None and not options.quick
    attempts: dict[str, list[Attempt]] = {"asyncrl": []}
    if compared:
        prepare(STABLE_BASELINES3)
        attempts[str(STABLE_BASELINES3)] = []
    for seed in range(_seeds(task, options)):
        for side, of_one in attempts.items():
            attempt = ours(task, seed) if side == "asyncrl" else theirs(task, seed)
            of_one.append(attempt)
            options.say(f"{task.environment}, seed {seed}, {side}: {_seconds(attempt.seconds)}")
    return {
        "environment": task.environment,
        "target": task.target,
        "target_ratio": task.target_ratio,
        "limit": task.limit,
        "sides": {
            side: {
                "seeds": [attempt.seed for attempt in of_one],
                "seconds": [attempt.seconds for attempt in of_one],
                "steps": [attempt.steps for attempt in of_one],
                "best": [attempt.best for attempt in of_one],
                "evaluation_seconds": [attempt.evaluation_seconds for attempt in of_one],
                "versions": of_one[0].versions,
            }
            for side, of_one in attempts.items()
        },
    }


def estimate(task: Task, options: Options) -> float:
    """Seconds that `run` will take."""
    own, peer = task.expected
    return _seeds(task, options) * (own + (0 if options.quick else peer))


def _seeds(task: Task, options: Options) -> int:
    return options.repeats or (1 if options.quick else task.seeds)


def median_seconds(seconds: Sequence[float | None]) -> float | None:
    """The median, where runs that did not reach the target count as endless; None if it is one."""
    middle = median(math.inf if value is None else value for value in seconds)
    return middle if math.isfinite(middle) else None


def table(data: dict[str, Any]) -> str:
    """Medians, and the ratio to the peer with and without its evaluations."""
    lines = [
        f"| {data['environment']} to {data['target']:g} | reached | median wall time | seeds "
        "| steps, median | of the peer's | target | of the peer's without its evaluations |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    own = median_seconds(data["sides"]["asyncrl"]["seconds"])
    for side, values in data["sides"].items():
        seconds = values["seconds"]
        reached = sum(value is not None for value in seconds)
        ratios = ["", "", ""]
        if side == "asyncrl" and data["target_ratio"]:
            peer = next((v for k, v in data["sides"].items() if k != side), None)
            if peer is not None:
                ratios = _ratios(own, peer, data["target_ratio"])
        lines.append(
            f"| {side} | {reached} of {len(seconds)} | {_seconds(median_seconds(seconds))} |"
            f" {', '.join(_seconds(value) for value in seconds)} |"
            f" {median(values['steps']):,.0f} | {' | '.join(ratios)} |"
        )
    return "\n".join(lines)


def _ratios(own: float | None, peer: dict[str, Any], target: float) -> list[str]:
    seconds = peer["seconds"]
    trained = [
        None if value is None else value - evaluating
        for value, evaluating in zip(seconds, peer["evaluation_seconds"], strict=True)
    ]
    shown = []
    for of_peer in (median_seconds(seconds), median_seconds(trained)):
        shown.append("" if own is None or of_peer is None else f"{own / of_peer:.2f}x")
    return [shown[0], f"{target:g}x", shown[1]]


def _seconds(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.1f} s"
