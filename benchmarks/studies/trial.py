"""One run of a study: what is trained, and the name under which its record is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from asyncrl_api.manifest import dump_manifest, load_manifest
from benchmarks.ours import EXAMPLES

ROOT = Path(__file__).parent.parent.parent
SOURCES = ("worker/asyncrl_worker", "benchmarks/studies", "benchmarks/single_process.py")
"""A change of any of these makes new trials of all."""

POINTS = 20
"""Evaluations of a trial, evenly spread, and bins of its cosine."""

EPISODES, QUICK_EPISODES = 20, 2
"""Of one evaluation, each in an environment of its own."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """An environment of the studies.

    steps: environment steps of a trial. floor: the return that counts as 0 %. collapsed: a final
    return below it is a collapse. rate: steps per second in one process, for estimates only.
    """

    environment: str
    manifest: str
    steps: int
    quick_steps: int
    floor: float
    collapsed: float
    rate: float


CARTPOLE = Task("CartPole-v1", "cartpole.yaml", 500_000, 40_000, 0.0, 50.0, 60_000)
ACROBOT = Task("Acrobot-v1", "acrobot.yaml", 500_000, 20_000, -500.0, -400.0, 18_000)


@dataclass(frozen=True)
class Trial:
    """One run: `manifest` is resolved YAML; `skip_rate` replaces alignment control by chance.

    `episodes`: of each of its evaluations. `later_lag`: versions of lag from the middle of the run
    on; chance skips only from there on then.
    """

    task: Task
    arm: str
    lag: int
    seed: int
    manifest: str
    episodes: int
    skip_rate: float | None = None
    later_lag: int | None = None

    @property
    def digest(self) -> str:
        """Of everything that decides the record, the code and torch's version included."""
        own = (self.manifest, str(self.episodes), repr(self.skip_rate), repr(self.later_lag))
        parts = (*own, _code(), version("torch"))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def make_trial(
    task: Task,
    arm: str,
    settings: Sequence[str],
    *,
    lag: int,
    seed: int,
    quick: bool,
    skip_rate: float | None = None,
    later_lag: int | None = None,
) -> Trial:
    """The task's example manifest with `settings` (path=value below spec), `lag` versions late."""
    steps = task.quick_steps if quick else task.steps
    overrides = [
        *(f"spec.{assignment}" for assignment in settings),
        f"spec.stopping={{environmentSteps: {steps}}}",
        f"spec.staleness.inject={lag}",
        f"spec.seed={seed}",
    ]
    manifest = dump_manifest(load_manifest(EXAMPLES / task.manifest, overrides))
    episodes = QUICK_EPISODES if quick else EPISODES
    return Trial(task, arm, lag, seed, manifest, episodes, skip_rate, later_lag)


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for source in SOURCES:
        path = ROOT / source
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        for file in files:
            digest.update(str(file.relative_to(ROOT)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
