"""The actors' numpy policy is the learner's torch network, and samples what it says."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncrl_worker.environments.spaces import ActionSpace, Continuous, Discrete
from asyncrl_worker.policies.inference import InferencePolicy
from asyncrl_worker.policies.layout import (
    OBSERVATION_LIMIT,
    Activation,
    MalformedWeights,
    PolicyLayout,
)
from asyncrl_worker.policies.network import PolicyNetwork

BOX = Continuous(2, (-1.0, -1.0), (1.0, 1.0))


def make(
    action: ActionSpace, *, activation: Activation = "tanh", hidden: tuple[int, ...] = (16, 8)
) -> tuple[PolicyNetwork, dict[str, Any]]:
    """A network away from its initial weights, and its blob with a normaliser."""
    layout = PolicyLayout(5, action, hidden, activation, initial_log_std=-0.5)
    generator = torch.Generator().manual_seed(1)
    network = PolicyNetwork(layout, generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    weights = network.to_weights() | {
        "normalizer.mean": torch.linspace(-1, 1, 5),
        "normalizer.scale": torch.linspace(0.5, 4, 5),
    }
    return network, {name: tensor.numpy() for name, tensor in weights.items()}


def normalised(observations: np.ndarray[Any, Any], weights: dict[str, Any]) -> torch.Tensor:
    scaled = (observations - weights["normalizer.mean"]) * weights["normalizer.scale"]
    return torch.from_numpy(scaled).clamp(-OBSERVATION_LIMIT, OBSERVATION_LIMIT)


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("action", [Discrete(2), Discrete(7), BOX], ids=str)
def test_equals_the_network(action: ActionSpace, activation: Activation) -> None:
    network, weights = make(action, activation=activation)
    policy = InferencePolicy(network.layout, weights, version=3)
    rng = np.random.default_rng(0)
    # Far enough out that normalised values are clipped.
    observations = rng.normal(scale=3, size=(64, 5)).astype(np.float32)
    actions, log_probabilities = policy.act(observations, rng)
    with torch.no_grad():
        distribution = network.distribution(normalised(observations, weights))
        wanted = distribution.log_prob(torch.from_numpy(actions))
        outputs = network(normalised(observations, weights))
    assert log_probabilities.dtype == np.float32
    # A density multiplies the rounding of the means by their distance in standard deviations.
    tolerance = 1e-6 if isinstance(action, Discrete) else 5e-6
    np.testing.assert_allclose(log_probabilities, wanted.numpy(), rtol=tolerance, atol=tolerance)
    greedy = policy.act_greedy(observations)
    if isinstance(action, Discrete):
        assert actions.dtype == np.int64
        np.testing.assert_array_equal(greedy, outputs.argmax(-1).numpy())
    else:
        assert actions.dtype == np.float32
        np.testing.assert_allclose(greedy, outputs.numpy(), rtol=1e-5, atol=1e-6)


def test_hidden_layers_may_be_absent_and_batches_may_change_their_size() -> None:
    network, weights = make(Discrete(3), hidden=())
    policy = InferencePolicy(network.layout, weights)
    observations = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    for size in (9, 1, 4):
        with torch.no_grad():
            wanted = network(normalised(observations[:size], weights)).argmax(-1)
        np.testing.assert_array_equal(policy.act_greedy(observations[:size]), wanted.numpy())


def test_without_a_normaliser_observations_are_not_clipped() -> None:
    network, _ = make(Discrete(3), hidden=())
    weights = {name: tensor.numpy() for name, tensor in network.to_weights().items()}
    policy = InferencePolicy(network.layout, weights)
    observations = np.full((1, 5), 1000.0, dtype=np.float32)
    _, log_probabilities = policy.act(observations, np.random.default_rng(0))
    with torch.no_grad():
        unclipped = network.distribution(torch.from_numpy(observations))
    assert isinstance(policy.act_greedy(observations), np.ndarray)
    assert log_probabilities[0] == pytest.approx(
        float(unclipped.log_prob(torch.from_numpy(policy.act_greedy(observations)))[0])
    )


def fixed_logits(logits: list[float]) -> InferencePolicy:
    layout = PolicyLayout(1, Discrete(len(logits)), (), "tanh")
    tensors = {
        "policy.0.weight": np.zeros((len(logits), 1), dtype=np.float32),
        "policy.0.bias": np.array(logits, dtype=np.float32),
        "normalizer.mean": np.zeros(1, dtype=np.float32),
        "normalizer.scale": np.ones(1, dtype=np.float32),
    }
    return InferencePolicy(layout, tensors)


def test_samples_follow_the_distribution() -> None:
    logits = [0.0, 1.0, -1.0, 2.0, -3.0]
    draws = 100_000
    policy = fixed_logits(logits)
    actions, _ = policy.act(np.zeros((draws, 1), dtype=np.float32), np.random.default_rng(0))
    expected = np.exp(logits) / np.exp(logits).sum() * draws
    counts = np.bincount(actions, minlength=5)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 18.5  # 99.9 % quantile of chi-square with 4 degrees of freedom


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_extreme_logits_neither_overflow_nor_leave_the_actions(
    logits: list[float], seed: int
) -> None:
    policy = fixed_logits(logits)
    observations = np.zeros((32, 1), dtype=np.float32)
    actions, log_probabilities = policy.act(observations, np.random.default_rng(seed))
    assert ((actions >= 0) & (actions < len(logits))).all()
    assert np.isfinite(log_probabilities).all()
    assert (log_probabilities <= 1e-6).all()


def test_continuous_samples_have_mean_and_spread_of_the_gaussian() -> None:
    layout = PolicyLayout(1, BOX, (), "tanh")
    tensors = {
        "policy.0.weight": np.zeros((2, 1), dtype=np.float32),
        "policy.0.bias": np.array([1.5, -20.0], dtype=np.float32),
        "policy.log_std": np.log(np.array([0.5, 2.0], dtype=np.float32)),
        "normalizer.mean": np.zeros(1, dtype=np.float32),
        "normalizer.scale": np.ones(1, dtype=np.float32),
    }
    draws = 200_000
    policy = InferencePolicy(layout, tensors)
    actions, _ = policy.act(np.zeros((draws, 1), dtype=np.float32), np.random.default_rng(0))
    assert actions.shape == (draws, 2)
    error = 4 / np.sqrt(draws)
    np.testing.assert_allclose(actions.mean(0), [1.5, -20.0], atol=2.0 * error)
    np.testing.assert_allclose(actions.std(0), [0.5, 2.0], rtol=error)


def test_log_probabilities_stay_exact_where_the_spread_is_tiny() -> None:
    layout = PolicyLayout(1, Continuous(1, (-9.0,), (9.0,)), (), "tanh")
    tensors = {
        "policy.0.weight": np.zeros((1, 1), dtype=np.float32),
        "policy.0.bias": np.array([5.0], dtype=np.float32),
        "policy.log_std": np.array([-9.0], dtype=np.float32),
        "normalizer.mean": np.zeros(1, dtype=np.float32),
        "normalizer.scale": np.ones(1, dtype=np.float32),
    }
    policy = InferencePolicy(layout, tensors)
    observations = np.zeros((256, 1), dtype=np.float32)
    actions, log_probabilities = policy.act(observations, np.random.default_rng(0))
    standard = (actions[:, 0].astype(np.float64) - 5.0) * np.exp(9.0)
    wanted = -0.5 * standard**2 + 9.0 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_probabilities, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy.9.weight": np.zeros(1, np.float32)}, "unknown tensors ['policy.9.weight']"),
        ({"policy.0.bias": None}, "missing tensors ['policy.0.bias']"),
        (
            {"policy.0.bias": np.zeros(3, np.float32)},
            "policy.0.bias: float32 [3], expected float32 [16]",
        ),
        (
            {"policy.1.bias": np.zeros(8)},
            "policy.1.bias: float64 [8], expected float32 [8]",
        ),
        ({"normalizer.mean": np.full(5, np.nan, np.float32)}, "normalizer.mean: not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    network, weights = make(Discrete(3))
    weights = {name: value for name, value in (weights | change).items() if value is not None}
    with pytest.raises(MalformedWeights) as raised:
        InferencePolicy(network.layout, weights)
    assert message in str(raised.value)
