"""The judge on recorded runs of this project: collapses are called early, healthy runs are not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from asyncrl_worker.stability import Observables, StabilityJudge, Verdict

RUNS = Path(__file__).parents[2] / "data" / "stability"
COLLAPSES = ["collapse-16", "collapse-16-hot", "collapse-4-hot"]
HEALTHY = ["healthy-0", "healthy-16"]


def rows(name: str) -> list[dict[str, Any]]:
    with gzip.open(RUNS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def observables(row: dict[str, Any]) -> Observables:
    return Observables(
        update=row["update"],
        cosine=row["cosine"],
        smoothed_cosine=row["smoothed"],
        relative_alignment=row["relative"],
        kl=row["kl"],
        max_log_ratio=row["maxLogRatio"],
        effective_sample_size=row["effectiveSampleSize"],
        clipped_fraction=row["clippedFraction"],
        entropy=row["entropy"],
        entropy_fraction=row["entropyFraction"],
        gradient_norm=row["gradientNorm"],
        value_loss=row["valueLoss"],
        staleness_mean=row["stalenessMean"],
        episode_return=row["episodeReturn"],
        policy_loss=row["policyLoss"],
    )


def verdicts(name: str) -> list[Verdict]:
    judge = StabilityJudge()
    return [judge.observe(observables(row)).verdict for row in rows(name)]


def final_collapse(name: str) -> int:
    """The index after which the return stays under a third of its best: collapsed for good."""
    returns = [row["episodeReturn"] or 0.0 for row in rows(name)]
    third = max(returns) / 3
    return max(i for i, value in enumerate(returns) if value >= third) + 1


@pytest.mark.parametrize("name", COLLAPSES)
def test_a_collapse_is_called_degraded_long_before_the_return_is_lost(name: str) -> None:
    history = verdicts(name)
    collapsed = final_collapse(name)
    assert collapsed < len(history), "the recording does not end collapsed"
    first = next(i for i, verdict in enumerate(history) if verdict.rank >= Verdict.DEGRADED.rank)
    assert first < 50
    assert first < collapsed - 50
    assert all(verdict.rank >= Verdict.DEGRADED.rank for verdict in history[first:])


@pytest.mark.parametrize("name", COLLAPSES)
def test_a_collapse_ends_diverged(name: str) -> None:
    history = verdicts(name)
    assert history[-1] is Verdict.DIVERGED
    assert Verdict.DIVERGED not in history[:30]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_at_most_watched_and_mostly_healthy(name: str) -> None:
    history = verdicts(name)
    assert max(verdict.rank for verdict in history) <= Verdict.WATCH.rank
    assert history.count(Verdict.HEALTHY) > 0.85 * len(history)


@pytest.mark.parametrize("name", HEALTHY)
def test_ten_times_the_degraded_kl_in_a_healthy_run_is_called(name: str) -> None:
    """The healthy recordings are quiet because they are healthy, not because nothing is heard."""
    judge = StabilityJudge()
    history = []
    for row in rows(name):
        broken = row | {"kl": row["kl"] + 1.0, "effectiveSampleSize": 0.2}
        history.append(judge.observe(observables(broken)).verdict)
    assert history[20].rank >= Verdict.DEGRADED.rank
