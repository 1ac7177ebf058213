"""The learner's step: what each outcome changes, and that each layer does its part."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from unit.learner.streams import (
    BARE,
    Stream,
    changed,
    make_spec,
    make_step,
    record,
    snapshot,
    train,
    with_nan_reward,
)

ALGORITHMS = ("appo", "impala", "ppo", "decoupledPpo")
UPDATES = 20


def bare(algorithm: str = "appo") -> dict[str, Any]:
    return BARE | {"algorithm.name": algorithm}


def test_observing_changes_no_parameter() -> None:
    results = []
    for mode in ("off", "observe"):
        spec = make_spec({"alignment.mode": mode, "alignment.calibration": "fixed"})
        step = make_step(spec)
        decisions = train(step, Stream(spec, lag=4), UPDATES)
        results.append((snapshot(step), decisions))
    (off, _), (observed, decisions) = results
    assert changed(off, observed) == {"split_half"}
    cosines = [result.alignment.cosine for result in decisions]
    assert cosines[0] is None
    assert None not in cosines[1:]
    assert all(result.alignment.apply for result in decisions)
    # It would have acted: observing is not the same as having nothing to do.
    assert any(result.alignment.regime.value != "Pass" for result in decisions)


ALWAYS_SKIP = {
    "alignment.calibration": "fixed",
    "alignment.low": 0.0,
    "alignment.high": 1e-6,
    "alignment.maxSkips": 1000,
}


def test_a_skip_leaves_the_policy_its_optimizer_the_normaliser_and_the_version() -> None:
    spec = make_spec(ALWAYS_SKIP | {"compensation.displacementProjection": 1.0})
    step, stream = make_step(spec), Stream(spec)
    train(step, stream, 3)
    batch = stream.next(step.weights(), step.version)
    step.update(batch)
    before = snapshot(step)
    result = step.update(batch)  # the same batch again: aligned
    assert result.outcome == "skipped"
    assert result.version == int(before["version"])
    assert changed(before, snapshot(step)) == {"value", "value_optimizer", "value_scale"}


def test_with_scope_all_a_skip_leaves_the_value_network_too() -> None:
    spec = make_spec(ALWAYS_SKIP | {"alignment.scope": "all"})
    step, stream = make_step(spec), Stream(spec)
    train(step, stream, 3)
    batch = stream.next(step.weights(), step.version)
    step.update(batch)
    before = snapshot(step)
    assert step.update(batch).outcome == "skipped"
    assert changed(before, snapshot(step)) == set()


@pytest.mark.parametrize("scope", ["policy", "all"])
def test_alignment_remembers_the_gradients_of_its_scope_and_no_other(scope: str) -> None:
    spec = make_spec({"alignment.scope": scope})
    step = make_step(spec)
    train(step, Stream(spec), 1)
    controlled = [*step.policy_parameters, *(step.value_parameters if scope == "all" else [])]
    remembered = step.alignment.state_dict()["tensors"]["previous"]
    assert remembered.numel() == sum(parameter.numel() for parameter in controlled)


ALWAYS_PROJECT = {
    "alignment.calibration": "fixed",
    "alignment.low": 0.0,
    "alignment.high": 1.0,
}


def test_alignment_measures_before_the_norm_clip_and_what_it_projects_is_then_clipped() -> None:
    limit = 1e-3
    spec = make_spec(ALWAYS_PROJECT | {"optimizer.maxGradientNorm": limit})
    step = make_step(spec)
    # The same batch after a step that small: aligned.
    batch = Stream(spec).next(step.weights(), step.version)
    step.update(batch)
    projected = step.update(batch).alignment
    assert projected.scale < 1.0
    assert projected.gradient_norm is not None and projected.gradient_norm > 10 * limit
    assert step.alignment.state_dict()["scalars"]["previous_norm"] == projected.gradient_norm
    assert projected.projected_norm is not None and projected.projected_norm > limit
    applied = torch.cat([_flat(parameter.grad) for parameter in step.policy_parameters])
    assert float(applied.norm()) == pytest.approx(limit, rel=1e-3)


def _flat(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.flatten()


@pytest.mark.parametrize("mode", ["off", "observe", "control"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_batch_with_a_nan_reward_changes_nothing(mode: str, algorithm: str) -> None:
    settings = {
        "alignment.mode": mode,
        "algorithm.name": algorithm,
        "compensation.klFeedback.mode": "target",
        "compensation.klFeedback.target": 1e-9,
        "compensation.displacementProjection": 0.5,
        "compensation.stepSize": "effectiveSampleSize",
    }
    spec = make_spec(settings)
    step, stream = make_step(spec), Stream(spec, lag=2)
    train(step, stream, 3)
    before = snapshot(step)
    batch = stream.next(step.weights(), step.version)
    result = step.update(with_nan_reward(batch))
    assert result.outcome == "non_finite"
    assert math.isnan(result.policy_loss)
    assert changed(before, snapshot(step)) == set()
    after = step.update(batch)
    assert after.outcome == "trained"
    assert all(bool(torch.isfinite(p).all()) for p in step.policy_parameters)


@pytest.mark.parametrize("mode", ["off", "control"])
def test_a_policy_gradient_that_alone_is_not_finite_drops_the_step(mode: str) -> None:
    spec = make_spec({"alignment.mode": mode, "algorithm.name": "ppo"})
    step, stream = make_step(spec), Stream(spec)
    train(step, stream, 2)
    batch = stream.next(step.weights(), step.version)
    log_probabilities = batch.log_probabilities.clone()
    log_probabilities[0, 0] = math.nan
    before = snapshot(step)
    result = step.update(replace(batch, log_probabilities=log_probabilities))
    assert result.outcome == "non_finite"
    assert math.isfinite(result.value_loss)  # GAE does not look at the ratios
    assert changed(before, snapshot(step)) == set()


def test_the_normaliser_is_that_of_the_version_and_moves_after_the_step() -> None:
    spec = make_spec()
    step, stream = make_step(spec), Stream(spec)
    batch = stream.next(step.weights(), 0)
    step.update(batch)
    seen = batch.observations[:-1][batch.valid]
    torch.testing.assert_close(step.weights()["normalizer.mean"], seen.mean(0))
    # Nothing was stale and both sides normalise alike: the first batches have a ratio of 1.
    following = stream.next(step.weights(), step.version)
    result = step.update(following)
    assert result.importance.max_log_ratio < 1e-4


LAYERS: dict[str, dict[str, Any]] = {
    "alignment": {"alignment.mode": "control"} | ALWAYS_PROJECT,
    "momentum law": {"compensation.momentumLaw": True},
    "kl feedback": {"compensation.klFeedback.mode": "fixed"},
    "kl target": {
        "compensation.klFeedback.mode": "target",
        "compensation.klFeedback.coefficient": 1.0,
    },
    "half step": {"compensation.stepSize": "halfWhenStale"},
    "inverse step": {"compensation.stepSize": "inverse"},
    "inverse root step": {"compensation.stepSize": "inverseSqrt"},
    "sample size step": {"compensation.stepSize": "effectiveSampleSize"},
    "displacement": {"compensation.displacementProjection": 1.0},
    "normalised observations": {"algorithm.normalizeObservations": True},
    "normalised values": {"algorithm.normalizeValues": True},
    "raw advantages": {"algorithm.normalizeAdvantages": False},
    "reward scale": {"algorithm.rewardScale": 0.1},
    "entropy": {"algorithm.entropyCoefficient": 0.1},
    "value rate": {"optimizer.valueLearningRate": 1e-2},
    "norm": {"optimizer.maxGradientNorm": 0.01},
}

IDENTITY_WITHOUT_LAG = (
    "momentum law",
    "half step",
    "inverse step",
    "inverse root step",
    "displacement",
)


def parameters_after(settings: dict[str, Any], lag: int, updates: int = 16) -> dict[str, Tensor]:
    spec = make_spec(settings)
    step = make_step(spec)
    train(step, Stream(spec, lag=lag), updates)
    return {name: p.detach() for name, p in snapshot(step).items() if name.startswith("policy.")}


@pytest.fixture(scope="module")
def stale() -> dict[str, Tensor]:
    return parameters_after(bare(), 6)


@pytest.fixture(scope="module")
def fresh() -> dict[str, Tensor]:
    return parameters_after(bare(), 0)


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_alone_makes_a_difference_when_stale(
    layer: str, stale: dict[str, Tensor]
) -> None:
    assert changed(stale, parameters_after(bare() | LAYERS[layer], 6)) == {"policy"}


@pytest.mark.parametrize("layer", IDENTITY_WITHOUT_LAG)
def test_compensation_is_the_identity_without_lag(layer: str, fresh: dict[str, Tensor]) -> None:
    assert changed(fresh, parameters_after(bare() | LAYERS[layer], 0)) == set()


def test_kl_feedback_vanishes_without_lag(fresh: dict[str, Tensor]) -> None:
    # log r is rounding only, so the first update is the same but for that.
    one = parameters_after(bare(), 0, updates=1)
    fed = parameters_after(bare() | LAYERS["kl feedback"], 0, updates=1)
    for name, parameter in one.items():
        torch.testing.assert_close(fed[name], parameter, atol=1e-4, rtol=0)


def test_feedback_pulls_back_from_beyond_the_ratio_limit() -> None:
    """With an advantage of nothing, the only force is the spring, however far away."""
    spec = make_spec(
        bare("ppo")
        | LAYERS["kl feedback"]
        | {"algorithm.normalizeAdvantages": False, "algorithm.entropyCoefficient": 0.0}
    )
    step, stream = make_step(spec), Stream(spec)
    batch = stream.next(step.weights(), 0)
    far = replace(
        batch,
        rewards=torch.zeros_like(batch.rewards),
        log_probabilities=batch.log_probabilities - 50.0,
    )
    for parameter in step.value_parameters:
        parameter.detach().zero_()
    before = step.policy.distribution(batch.observations[:-1]).log_prob(batch.actions).mean()
    result = step.update(far)
    after = step.policy.distribution(batch.observations[:-1]).log_prob(batch.actions).mean()
    assert result.importance.max_log_ratio > 40
    assert result.gradient_norm > 0
    assert after < before


def test_the_linear_schedule_reaches_zero() -> None:
    spec = make_spec(bare() | {"optimizer.schedule": "linear", "optimizer.valueLearningRate": 2e-3})
    step, stream = make_step(spec), Stream(spec)
    rates = []
    for progress in (0.0, 0.25, 1.0):
        before = snapshot(step)
        batch = stream.next(step.weights(), step.version)
        rates.append(step.update(batch, progress=progress).learning_rate)
        groups = (step.policy_optimizer.param_groups[0], step.value_optimizer.param_groups[0])
        assert [group["lr"] for group in groups] == pytest.approx(
            [5e-3 * (1 - progress), 2e-3 * (1 - progress)]
        )
    assert rates == pytest.approx([5e-3, 3.75e-3, 0.0])
    moved = changed(before, snapshot(step))
    assert not {"policy", "value"} & moved


def test_damping_shortens_a_projected_step() -> None:
    spec = make_spec(bare() | LAYERS["alignment"] | {"alignment.adamDamping": True})
    results = train(make_step(spec), Stream(spec, lag=4), 12)
    projected = [r for r in results if r.alignment.scale != 1.0]
    assert projected
    for result in projected:
        assert result.learning_rate == pytest.approx(5e-3 * result.alignment.scale)


def test_entropy_bonus_raises_entropy() -> None:
    def entropy(coefficient: float) -> float:
        settings = bare("impala") | {
            "algorithm.normalizeAdvantages": False,
            "algorithm.rewardScale": 1e-6,
            "algorithm.entropyCoefficient": coefficient,
            "optimizer.maxGradientNorm": None,
        }
        spec = make_spec(settings)
        step, stream = make_step(spec), Stream(spec)
        with torch.no_grad():  # a policy that prefers action 0
            step.policy_parameters[-1].copy_(torch.tensor([2.0, 0.0]))
        return train(step, stream, 10)[-1].importance.entropy

    assert entropy(1.0) > entropy(0.0) + 0.05


def test_advantages_are_normalised_over_valid_steps_alone() -> None:
    spec = make_spec()
    step = make_step(spec)
    advantages = torch.tensor([[1.0, 50.0], [3.0, 5.0]])
    valid = torch.tensor([[True, False], [True, True]])
    normalized = step._normalize(advantages, valid)
    kept = normalized[valid]
    expected = (torch.tensor([1.0, 3.0, 5.0]) - 3.0) / math.sqrt(8 / 3)
    torch.testing.assert_close(kept, expected)


def test_continuous_actions_train_too() -> None:
    spec = make_spec({"algorithm.rewardScale": 0.1}, environment="Pendulum-v1")
    step = make_step(spec)
    before = snapshot(step)
    results = train(step, Stream(spec, lag=2), 6)
    assert {result.outcome for result in results} == {"trained"}
    assert results[-1].entropy_fraction is None
    assert {"policy", "value"} <= changed(before, snapshot(step))
    assert step.policy.log_std is not None
    assert not bool(torch.equal(step.policy.log_std.detach(), torch.zeros(1)))


@pytest.mark.parametrize("normalize", [True, False])
def test_with_value_scale_the_size_of_rewards_does_not_matter(normalize: bool) -> None:
    """Where the value function starts at 0, rewards 1024 times as large train the same policy."""

    def policy(scale: float) -> Tensor:
        settings = {"algorithm.rewardScale": scale, "algorithm.normalizeValues": normalize}
        spec = make_spec(settings)
        step = make_step(spec)
        with torch.no_grad():
            for parameter in step.value_parameters[-2:]:
                parameter.zero_()
        train(step, Stream(spec, lag=2), 12)
        return torch.cat([p.detach().flatten() for p in step.policy_parameters])

    # The mean: under Adam the few parameters with next to no gradient move by its rounding.
    difference = float((policy(1.0) - policy(1024.0)).abs().mean())
    assert difference < 1e-3 if normalize else difference > 4e-3


def test_epochs_and_minibatches_make_steps_of_one_version() -> None:
    spec = make_spec({"algorithm.epochs": 2, "algorithm.minibatches": 3})
    step, stream = make_step(spec), Stream(spec)
    first, second = train(step, stream, 2)
    assert (first.version, second.version) == (1, 2)
    for optimizer in (step.policy_optimizer, step.value_optimizer):
        assert int(optimizer.state_dict()["state"][0]["step"]) == 2 * 2 * 3
    # Consecutive batches are compared, not the minibatches of one.
    assert first.alignment.cosine is None
    assert second.alignment.cosine is not None


def test_one_epoch_of_one_minibatch_is_part_of_more() -> None:
    once, more = make_spec(), make_spec({"algorithm.epochs": 3})
    batch = record(once, 1, lag=0)[0]
    measured = [make_step(spec).update(batch) for spec in (once, more)]
    assert measured[0].importance == measured[1].importance
    assert measured[0].policy_loss == measured[1].policy_loss


def test_the_normaliser_takes_in_every_minibatch_once() -> None:
    spec = make_spec({"algorithm.epochs": 2, "algorithm.minibatches": 3})
    step = make_step(spec)
    batch = Stream(spec).next(step.weights(), step.version)
    step.update(batch)
    assert step.normalizer.count == batch.environment_steps


def test_minibatches_are_every_environment_once() -> None:
    batch = record(make_spec(), 1, lag=0)[0]
    parts = [batch.every(4, offset) for offset in range(4)]
    rows = {tuple(column.flatten().tolist()) for column in batch.observations.unbind(1)}
    found = [
        tuple(column.flatten().tolist()) for part in parts for column in part.observations.unbind(1)
    ]
    assert len(found) == batch.observations.shape[1]
    assert set(found) == rows


def test_a_skip_leaves_out_every_epoch() -> None:
    spec = make_spec(ALWAYS_SKIP | {"algorithm.epochs": 3, "algorithm.minibatches": 2})
    step, stream = make_step(spec), Stream(spec)
    train(step, stream, 3)
    batch = stream.next(step.weights(), step.version)
    step.update(batch)
    before = snapshot(step)
    assert step.update(batch).outcome == "skipped"
    assert changed(before, snapshot(step)) == {"value", "value_optimizer", "value_scale"}


def test_a_minibatch_that_is_not_finite_ends_the_update() -> None:
    spec = make_spec({"algorithm.minibatches": 2, "algorithm.epochs": 2})
    step, stream = make_step(spec), Stream(spec)
    train(step, stream, 1)
    batch = stream.next(step.weights(), step.version)
    rewards = batch.rewards.clone()
    rewards[0, 1] = math.nan  # of the second minibatch
    before = int(step.policy_optimizer.state_dict()["state"][0]["step"])
    assert step.update(replace(batch, rewards=rewards)).outcome == "trained"
    assert int(step.policy_optimizer.state_dict()["state"][0]["step"]) == before + 1
    assert all(bool(torch.isfinite(p).all()) for p in step.policy_parameters)


@pytest.mark.parametrize("scope", ["policy", "all"])
def test_the_halves_of_the_policy_gradient_say_nothing_of_another(scope: str) -> None:
    """With scope all the judge would take a cosine of .9 over a prediction for the policy's."""
    spec = make_spec({"alignment.scope": scope})
    step = make_step(spec)
    step.split_half.smoothed = 0.5
    results = train(step, Stream(spec, lag=4), 12)
    assert all(result.alignment.cosine is not None for result in results[1:])
    known = {result.relative_alignment is not None for result in results[1:]}
    assert known == {scope == "policy"}
    assert (step.split_half.smoothed == 0.5) is (scope == "all")
