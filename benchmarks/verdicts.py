"""How often the stability judge calls runs that are well, and whether it calls those that are not.

    OMP_NUM_THREADS=1 python -m benchmarks.verdicts FOLDER [--seeds 0-4] [--tasks cartpole ...]
        [--arms default ...] [--lags async 0 4 16]

Records what FOLDER does not hold yet, one run after another, and prints a table of what today's
judge says of everything in it. `--only-judge` records nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from asyncrl_worker.stability import StabilityJudge, Verdict
from asyncrl_worker.stability.evidence import ReturnDrop
from benchmarks.ours import EXAMPLES
from benchmarks.recordings import Row, observables, read, record, write
from benchmarks.studies.plain import PLAIN

ASYNC = "async"
"""The lag that comes of itself, between processes; a number is an exact lag in one process."""

HOT = ("optimizer.learningRate=0.05", "optimizer.valueLearningRate=0.05")
WARM = ("optimizer.learningRate=0.02", "optimizer.valueLearningRate=0.02")
NO_BONUS = ("algorithm.entropyCoefficient=0",)
MOMENTUM = ("optimizer.beta1=0.9", "compensation.momentumLaw=false")
NO_CLIP = ("algorithm.name=ppo", "algorithm.clip=10")

ARMS: dict[str, tuple[str, ...]] = {
    "default": (),
    "plain": PLAIN,
    "plain-warm": (*PLAIN, *WARM),
    "hot": HOT,
    "hot-no-bonus": (*HOT, *NO_BONUS),
    "warm-no-bonus": (*WARM, *NO_BONUS),
    "momentum-no-bonus": (*MOMENTUM, *NO_BONUS),
    "no-clip": NO_CLIP,
    "no-clip-momentum": (*NO_CLIP, *MOMENTUM),
    "value-hot": ("optimizer.valueLearningRate=1.0",),
}
"""Settings below spec, on top of the task's example. hot and warm: ten and four times CartPole's
learning rate."""

STEPS = {"cartpole": 400_000, "acrobot": 300_000, "pendulum": 1_000_000, "lunarlander": 800_000}

LOST = 2 / 3
"""Share of the return once gained whose loss, to the end of the run, is a collapse."""


@dataclass(frozen=True)
class Judged:
    """A recording as today's judge sees it; counts of updates, and updates of 1 on.

    collapsed: the update after which the return stays lost; None if it does not.
    """

    updates: int
    watched: int
    alarmed: int
    first_alarm: int | None
    collapsed: int | None

    @property
    def share(self) -> float:
        """Of the updates, in Degraded or Diverged."""
        return self.alarmed / self.updates


def judge(rows: Sequence[Row]) -> Judged:
    """Replay a recording."""
    judge, returns = StabilityJudge(), ReturnDrop()
    verdicts, lost = [], []
    for row in rows:
        verdicts.append(judge.observe(observables(row)).verdict)
        if row["episodeReturn"] is not None:
            returns.step(row["episodeReturn"])
        lost.append((returns.drop or 0.0) >= LOST)
    alarms = [verdict.rank >= Verdict.DEGRADED.rank for verdict in verdicts]
    kept = max((index for index, gone in enumerate(lost) if not gone), default=0)
    return Judged(
        updates=len(rows),
        watched=verdicts.count(Verdict.WATCH),
        alarmed=sum(alarms),
        first_alarm=alarms.index(True) + 1 if any(alarms) else None,
        collapsed=kept + 2 if lost[-1] else None,
    )


def table(folder: Path) -> Iterator[str]:
    """One row per task, arm and lag."""
    groups = defaultdict(list)
    for path in sorted(folder.glob("*.jsonl.gz")):
        task, arm, lag, _ = path.name.removesuffix(".jsonl.gz").split(".")
        groups[task, arm, lag].append(judge(read(path)))
    yield "| task | arm | s | runs | Watch | Degraded | runs called | collapsed | of these called |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for (task, arm, lag), runs in groups.items():
        updates = sum(run.updates for run in runs)
        called = [run for run in runs if run.first_alarm is not None]
        collapsed = [run for run in runs if run.collapsed is not None]
        yield (
            f"| {task} | {arm} | {lag} | {len(runs)} |"
            f" {sum(run.watched for run in runs) / updates:.1%} |"
            f" {sum(run.alarmed for run in runs) / updates:.1%} |"
            f" {len(called)}{_at(called)} | {len(collapsed)} | {_found(collapsed)} |"
        )


def _at(called: Sequence[Judged]) -> str:
    """When, and for how long."""
    first = [run.first_alarm for run in called if run.first_alarm is not None]
    if not first:
        return ""
    share = fmean(run.share for run in called)
    return f", at update {min(first)} to {max(first)}, {share:.0%} of theirs"


def _found(collapsed: Sequence[Judged]) -> str:
    """How many, and how many updates before the return was lost for good."""
    leads = [
        run.collapsed - run.first_alarm
        for run in collapsed
        if run.collapsed is not None and run.first_alarm is not None
    ]
    if not leads:
        return "0" if collapsed else "–"
    return f"{len(leads)}, {min(leads)} to {max(leads)} updates before"


def seeds(text: str) -> list[int]:
    """`3` or `0-4`."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main(argv: Sequence[str]) -> int:
    """0 always; what fails, fails with its own error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=seeds, default=seeds("0-4"), metavar="0-4")
    parser.add_argument("--tasks", nargs="+", choices=STEPS, default=["cartpole"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["default"])
    parser.add_argument("--lags", nargs="+", default=["0", "4", "16"])
    parser.add_argument("--only-judge", action="store_true")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if not arguments.only_judge:
        for seed in arguments.seeds:
            for task in arguments.tasks:
                for arm in arguments.arms:
                    for lag in arguments.lags:
                        _record(arguments.folder, task, arm, lag, seed)
    print("\n".join(table(arguments.folder)))
    return 0


def _record(folder: Path, task: str, arm: str, lag: str, seed: int) -> None:
    path = folder / f"{task}.{arm}.{lag}.{seed}.jsonl.gz"
    if path.exists():
        return
    settings = [
        *ARMS[arm],
        f"seed={seed}",
        f"stopping={{environmentSteps: {STEPS[task]}}}",
        *([] if lag == ASYNC else [f"staleness.inject={int(lag)}"]),
    ]
    overrides = [f"spec.{setting}" for setting in settings]
    write(path, record(EXAMPLES / f"{task}.yaml", overrides, processes=lag == ASYNC))
    print(path.name, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
