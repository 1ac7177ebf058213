"""With its layers off the step is the loop that one would write down, to the bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from unit.learner.streams import (
    BARE,
    Stream,
    changed,
    make_spec,
    make_step,
    train,
)

from asyncrl_worker.learner.batch import Batch
from asyncrl_worker.learner.optimizer import build_optimizer
from asyncrl_worker.losses.policy import (
    clipped_surrogate,
    decoupled_surrogate,
    vtrace_policy_gradient,
)
from asyncrl_worker.losses.targets import gae, vtrace
from asyncrl_worker.policies.network import PolicyNetwork, ValueNetwork

ALGORITHMS = ("appo", "impala", "ppo", "decoupledPpo")
UPDATES = 20


class PlainLoop:
    """An actor-critic as one would write it down, with none of the learner's layers."""

    def __init__(self, settings: dict[str, Any], lag: int) -> None:
        self.spec = spec = make_spec(settings)
        self.stream = Stream(spec, lag=lag)
        generator = torch.Generator().manual_seed(spec.seed)
        layout = make_step(spec).layout
        self.policy = PolicyNetwork(layout, generator=generator)
        self.value = ValueNetwork(layout, generator=generator)
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr=5e-3, betas=(0.9, 0.99), fused=True)
            for net in (self.policy, self.value)
        ]
        self.version = 0

    def train(self, updates: int) -> None:
        for _ in range(updates):
            self.update(self.stream.next(self.policy.to_weights(), self.version))

    def update(self, batch: Batch) -> None:
        distribution = self.policy.distribution(batch.observations[:-1])
        log_ratios = distribution.log_prob(batch.actions) - batch.log_probabilities
        values = self.value(batch.observations)
        advantages, targets = self.estimate(batch, log_ratios.detach(), values.detach())
        losses = self.policy_losses(batch, log_ratios, advantages)
        losses = losses - 0.01 * distribution.entropy()
        valid = batch.valid.to(torch.float32)
        policy_loss = (losses * valid).sum() / valid.sum()
        value_loss = 0.5 * ((values[:-1] - targets).square() * valid).sum() / valid.sum()
        for net, optimizer, loss in zip(
            (self.policy, self.value), self.optimizers, (policy_loss, value_loss), strict=True
        ):
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
        self.version += 1

    def estimate(self, batch: Batch, log_ratios: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        discounts = 0.99 * (~batch.terminated).to(torch.float32)
        continues = (~batch.ended).to(torch.float32)
        if self.spec.algorithm.name in ("appo", "impala"):
            found = vtrace(
                log_ratios=log_ratios,
                rewards=batch.rewards,
                discounts=discounts,
                continues=continues,
                values=values,
                rho_bar=1.0,
                c_bar=1.0,
            )
        else:
            found = gae(
                rewards=batch.rewards,
                discounts=discounts,
                continues=continues,
                values=values,
                gae_lambda=0.95,
            )
        return found.advantages, found.values

    def policy_losses(self, batch: Batch, log_ratios: Tensor, advantages: Tensor) -> Tensor:
        mask = batch.valid.to(torch.float64)
        count = float(mask.sum())
        mean = float((advantages * mask).sum()) / count
        variance = float(((advantages - mean).square() * mask).sum()) / count
        advantages = (advantages - mean) / (math.sqrt(variance) + 1e-8)
        match self.spec.algorithm.name:
            case "impala":
                return vtrace_policy_gradient(log_ratios, advantages, rho_bar=1.0)
            case "decoupledPpo":
                age = (self.version - batch.policy_versions).to(torch.float32)
                return decoupled_surrogate(log_ratios, advantages, clip=0.4, staleness=age)
            case _:
                return clipped_surrogate(log_ratios, advantages, clip=0.4)


def bare(algorithm: str = "appo") -> dict[str, Any]:
    return BARE | {"algorithm.name": algorithm}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_with_every_layer_off_it_is_the_plain_loop_to_the_bit(algorithm: str) -> None:
    settings, lag = bare(algorithm), 3
    plain = PlainLoop(settings, lag)
    plain.train(UPDATES)
    step = make_step(plain.spec)
    train(step, Stream(plain.spec, lag=lag), UPDATES)
    assert step.version == plain.version
    for ours, theirs in ((step.policy, plain.policy), (step.value, plain.value)):
        assert changed(ours.state_dict(), theirs.state_dict()) == set()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_our_optimizers_take_the_steps_of_torchs(name: str) -> None:
    """They leave out what serves torch.compile, and nothing else."""
    spec = make_spec({"optimizer.name": name, "optimizer.weightDecay": 0.01}).optimizer
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizer = build_optimizer(spec, [ours])
    adam = {"lr": 5e-3, "betas": (0.9, 0.99), "weight_decay": 0.01, "fused": True}
    reference: torch.optim.Optimizer
    match name:
        case "adam":
            reference = torch.optim.Adam([theirs], **adam)
        case "adamw":
            reference = torch.optim.AdamW([theirs], **adam)
        case _:
            reference = torch.optim.SGD([theirs], lr=5e-3, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        gradient = torch.randn(7, generator=generator)
        for parameter, one in ((ours, optimizer), (theirs, reference)):
            one.zero_grad()
            parameter.grad = gradient.clone()
            one.step()
    assert torch.equal(ours, theirs)
    assert ours.requires_grad
