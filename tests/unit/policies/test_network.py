"""The learner's networks: initial weights, distributions, and the blob for the actors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from asyncrl_api.algorithm import Network
from asyncrl_worker.environments.spaces import Continuous, Discrete, EnvironmentDescription
from asyncrl_worker.policies.layout import PolicyLayout
from asyncrl_worker.policies.network import (
    Categorical,
    DiagonalGaussian,
    PolicyNetwork,
    ValueNetwork,
)

DISCRETE = PolicyLayout(4, Discrete(3), (32, 16), "tanh")
CONTINUOUS = PolicyLayout(4, Continuous(2, (-1.0, -2.0), (1.0, 2.0)), (32,), "silu", -0.7)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_initial_weights_depend_on_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = PolicyNetwork(DISCRETE, generator=generator(5)).to_weights()
    before = torch.get_rng_state()
    torch.manual_seed(2)
    second = PolicyNetwork(DISCRETE, generator=generator(5)).to_weights()
    other = PolicyNetwork(DISCRETE, generator=generator(6)).to_weights()
    torch.manual_seed(1)
    PolicyNetwork(DISCRETE, generator=generator(5))
    ValueNetwork(DISCRETE, generator=generator(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["policy.0.weight"], other["policy.0.weight"])


def test_layers_are_orthogonal_and_the_policy_starts_nearly_uniform() -> None:
    weights = PolicyNetwork(DISCRETE, generator=generator()).to_weights()
    first = weights["policy.0.weight"]
    torch.testing.assert_close(first.T @ first, 2.0 * torch.eye(4), atol=1e-5, rtol=0)
    head = weights["policy.2.weight"]
    torch.testing.assert_close(head @ head.T, 1e-4 * torch.eye(3), atol=1e-8, rtol=0)
    assert not any(weights[f"policy.{i}.bias"].any() for i in range(3))
    with torch.no_grad():
        network = PolicyNetwork(DISCRETE, generator=generator())
        entropy = network.distribution(torch.randn(50, 4)).entropy()
    assert float(entropy.min()) > 0.999 * math.log(3)


@pytest.mark.parametrize("layout", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_the_blob_is_what_the_layout_says(layout: PolicyLayout) -> None:
    network = PolicyNetwork(layout, generator=generator())
    weights = network.to_weights()
    layout.check_weights({name: tensor.numpy() for name, tensor in weights.items()})
    assert list(weights) == list(layout.weight_shapes())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1.0
    assert not torch.equal(network.to_weights()["policy.0.bias"], weights["policy.0.bias"])


def test_categorical_agrees_with_torch_distributions() -> None:
    logits = torch.randn(7, 5, 4, generator=generator())
    actions = torch.randint(0, 4, (7, 5), generator=generator())
    ours = Categorical(torch.log_softmax(logits, -1))
    theirs = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())


def test_gaussian_agrees_with_torch_distributions() -> None:
    mean = torch.randn(7, 5, 3, generator=generator())
    actions = torch.randn(7, 5, 3, generator=generator(1))
    log_std = torch.tensor([-1.0, 0.0, 0.7])
    ours = DiagonalGaussian(mean, log_std)
    theirs = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())


def test_every_parameter_gets_a_gradient() -> None:
    for layout in (DISCRETE, CONTINUOUS):
        network = PolicyNetwork(layout, generator=generator())
        distribution = network.distribution(torch.randn(6, 4, generator=generator()))
        actions = torch.zeros(6, dtype=torch.int64) if layout is DISCRETE else torch.ones(6, 2)
        (distribution.log_prob(actions).sum() + distribution.entropy().sum()).backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def test_values_have_the_shape_of_the_batch() -> None:
    values = ValueNetwork(CONTINUOUS, generator=generator())(torch.randn(6, 5, 4))
    assert values.shape == (6, 5)


def test_layout_from_spec() -> None:
    description = EnvironmentDescription(6, (2, 3), Discrete(4))
    network = Network(hidden_sizes=[9, 8], activation="relu", initial_log_std=-1.0)
    layout = PolicyLayout.from_spec(description, network)
    assert layout == PolicyLayout(6, Discrete(4), (9, 8), "relu", -1.0)
    assert layout.weight_shapes()["policy.2.weight"] == (4, 8)
    assert "policy.log_std" not in layout.weight_shapes()


def test_initial_spread_is_that_of_the_layout() -> None:
    weights = PolicyNetwork(CONTINUOUS, generator=generator()).to_weights()
    np.testing.assert_allclose(weights["policy.log_std"].numpy(), [-0.7, -0.7])
