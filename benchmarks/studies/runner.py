"""Runs a trial: trains, evaluates on the way, and sums up."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import torch

from asyncrl_api.manifest import load_manifest
from asyncrl_worker.actor.evaluation import evaluate
from asyncrl_worker.environments.factory import make_vector_environment
from benchmarks.single_process import SingleProcess, Update
from benchmarks.studies.random_skips import RandomSkips
from benchmarks.studies.trial import POINTS, Trial

FINAL = 4
"""The final return is the mean of the last so many evaluations: the last fifth of the trial."""


@dataclass
class Late:
    """What was done from the rise of the lag on: `first`, the first update touched, from 1."""

    touched_before: int
    updates: int = 0
    skipped: int = 0
    projected: int = 0
    first: int | None = None

    def observe(self, update: Update) -> None:
        """Take in one update."""
        decision = update.result.alignment
        self.updates += 1
        self.skipped += not decision.apply
        self.projected += decision.apply and decision.scale < 1.0
        if self.first is None and (not decision.apply or decision.scale < 1.0):
            self.first = self.updates


@dataclass
class Counts:
    """What alignment control did, in updates."""

    updates: int = 0
    skipped: int = 0
    projected: int = 0
    cosines: list[tuple[float, float]] = field(default_factory=list)

    def observe(self, update: Update, progress: float) -> None:
        """Take in one update; `progress` is 0 to 1."""
        decision = update.result.alignment
        self.updates += 1
        self.skipped += not decision.apply
        self.projected += decision.apply and decision.scale < 1.0
        if decision.cosine is not None:
            self.cosines.append((progress, decision.cosine))

    def binned(self) -> list[float | None]:
        """Mean cosine of each of POINTS equal parts of the trial."""
        bins: list[list[float]] = [[] for _ in range(POINTS)]
        for progress, cosine in self.cosines:
            bins[min(POINTS - 1, int(progress * POINTS))].append(cosine)
        return [round(fmean(values), 4) if values else None for values in bins]


def run_trial(trial: Trial) -> dict[str, Any]:
    """The record of a trial: plain JSON values."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    job = load_manifest(trial.manifest)
    total = job.spec.stopping.environment_steps
    assert total is not None
    run = SingleProcess(job)
    late: Late | None = None
    chance: RandomSkips | None = None
    if trial.skip_rate is not None:
        generator = np.random.default_rng([trial.seed, POINTS])
        rate = trial.skip_rate if trial.later_lag is None else 0.0
        chance = RandomSkips(run.step.alignment, rate, generator)
        # mypy: the step needs no more of its controller than `step`.
        run.step.alignment = chance  # type: ignore[assignment]
    environment = make_vector_environment(job.spec.workload, environments=trial.episodes)
    counts = Counts()
    returns: list[float] = []
    for update in run.updates():
        counts.observe(update, update.environment_steps / total)
        if late is not None:
            late.observe(update)
        elif trial.later_lag is not None and update.environment_steps >= total / 2:
            late = Late(counts.skipped + counts.projected)
            run.fall_behind(trial.later_lag)
            if chance is not None and trial.skip_rate is not None:
                chance.rate = trial.skip_rate
        while (
            len(returns) < POINTS
            and update.environment_steps >= total * (len(returns) + 1) / POINTS
        ):
            outcome = evaluate(
                environment,
                run.newest_policy(),
                episodes=trial.episodes,
                seed=[trial.seed, len(returns)],
                proceed=lambda: True,
            )
            assert outcome is not None
            returns.append(fmean(outcome.returns))
    environment.close()
    return {
        "environment": trial.task.environment,
        "arm": trial.arm,
        "lag": trial.lag,
        "seed": trial.seed,
        "final_return": round(fmean(returns[-FINAL:]), 3),
        "returns": [round(value, 2) for value in returns],
        "cosines": counts.binned(),
        "updates": counts.updates,
        "skipped": counts.skipped / counts.updates,
        "projected": counts.projected / counts.updates,
        "late": None if late is None else asdict(late),
        "seconds": round(time.perf_counter() - started, 2),
    }
