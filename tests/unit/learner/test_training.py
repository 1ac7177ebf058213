"""Whole runs of CartPole's example in one process, seeded; tests/e2e trains with processes."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

from asyncrl_api.manifest import load_manifest
from benchmarks.ours import EXAMPLES
from benchmarks.single_process import SingleProcess, Update


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def train(*settings: str, steps: int, seed: int = 0) -> list[Update]:
    overrides = [
        *(f"spec.{setting}" for setting in settings),
        f"spec.stopping={{environmentSteps: {steps}}}",
        f"spec.seed={seed}",
    ]
    job = load_manifest(EXAMPLES / "cartpole.yaml", overrides)
    return list(SingleProcess(job).updates())


@pytest.mark.training
@pytest.mark.parametrize("lag", [0, 16])
def test_the_guard_touches_less_than_one_update_in_a_hundred_of_a_healthy_run(lag: int) -> None:
    updates = train(f"staleness.inject={lag}", steps=300_000, seed=3)
    decisions = [update.result.alignment for update in updates]
    touched = [not decision.apply or decision.scale < 1.0 for decision in decisions]
    assert sum(decision.calibrated for decision in decisions) > 200
    assert fmean(touched) < 0.01
    assert max(update.episode_return or 0.0 for update in updates) > 400, "it is a healthy run"


@pytest.mark.training
@pytest.mark.parametrize("algorithm", ["ppo", "decoupledPpo"])
def test_an_algorithm_that_is_not_the_default_learns_from_late_data(algorithm: str) -> None:
    updates = train(f"algorithm.name={algorithm}", "staleness.inject=4", steps=150_000)
    first = updates[10].episode_return
    best = max(update.episode_return or 0.0 for update in updates)
    assert first is not None and first < 60, "nothing is learned yet"
    assert best > 150
    assert updates[-1].result.staleness.mean == 4.0


@pytest.mark.training
def test_a_careful_policy_keeps_what_it_has_learned() -> None:
    """With a value network as slow as the policy, the return fell to a third of its best by now."""
    updates = train("optimizer.learningRate=1e-3", "staleness.inject=0", steps=130_000, seed=1)
    returns = [update.episode_return or 0.0 for update in updates]
    assert max(returns) > 250
    assert returns[-1] > 0.9 * max(returns)
