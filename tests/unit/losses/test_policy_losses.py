"""The sample-weight family: values by hand, gradients on and off policy."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from asyncrl_worker.losses.policy import (
    clipped_surrogate,
    decoupled_surrogate,
    kl_feedback,
    vtrace_policy_gradient,
)

Loss = Callable[[Tensor, Tensor], Tensor]

ADVANTAGES = torch.tensor([2.0, -3.0, 0.5])

FAMILY: dict[str, Loss] = {
    "impala": lambda log_r, a: vtrace_policy_gradient(log_r, a, rho_bar=1.0),
    "ppo": lambda log_r, a: clipped_surrogate(log_r, a, clip=0.2),
    "decoupled": lambda log_r, a: decoupled_surrogate(
        log_r, a, clip=0.2, staleness=torch.tensor([0.0, 1.0, 7.0])
    ),
}


def gradient(loss: Loss, log_ratios: Tensor, advantages: Tensor = ADVANTAGES) -> Tensor:
    """d loss / d log pi; log r = log pi - constant."""
    leaf = log_ratios.clone().requires_grad_()
    (result,) = torch.autograd.grad(loss(leaf, advantages).sum(), leaf)
    return result


@pytest.mark.parametrize("name", FAMILY)
def test_on_policy_every_loss_has_the_plain_policy_gradient(name: str) -> None:
    torch.testing.assert_close(gradient(FAMILY[name], torch.zeros(3)), -ADVANTAGES)


def test_vtrace_weight_is_truncated_and_has_no_gradient_of_its_own() -> None:
    log_ratios = torch.tensor([math.log(0.5), math.log(4.0), math.log(0.1)])
    expected = -torch.tensor([0.5, 1.0, 0.1]) * ADVANTAGES
    torch.testing.assert_close(gradient(FAMILY["impala"], log_ratios), expected)


def test_clipped_surrogate_by_hand() -> None:
    log_ratios = torch.tensor([1.5, 0.5, 1.5, 0.5]).log()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    losses = clipped_surrogate(log_ratios, advantages, clip=0.2)
    # min(1.5, 1.2), min(.5, .8), min(-1.5, -1.2), min(-.5, -.8)
    torch.testing.assert_close(losses, -torch.tensor([1.2, 0.5, -1.5, -0.8]))


def test_clipped_surrogate_stops_pushing_outward_and_still_pulls_back() -> None:
    log_ratios = torch.tensor([1.5, 0.5, 1.5, 0.5]).log()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    found = gradient(FAMILY["ppo"], log_ratios, advantages)
    torch.testing.assert_close(found, torch.tensor([0.0, -0.5, 1.5, 0.0]))


def test_decoupled_surrogate_clips_to_the_policy_of_one_version_ago() -> None:
    """log prox - log behaviour = (s - 1) / s log r, so u = r^(1/s)."""
    staleness, log_r = 4.0, math.log(16.0)
    loss = decoupled_surrogate(
        torch.tensor([log_r]), torch.tensor([1.0]), clip=0.2, staleness=torch.tensor([staleness])
    )
    # u = 16^(1/4) = 2 is clipped to 1.2; pi_prox / pi_behaviour = 16^(3/4) = 8
    torch.testing.assert_close(loss, torch.tensor([-8.0 * 1.2]))
    inside = decoupled_surrogate(
        torch.tensor([math.log(1.1) * staleness]),
        torch.tensor([1.0]),
        clip=0.2,
        staleness=torch.tensor([staleness]),
    )
    torch.testing.assert_close(inside, torch.tensor([-(1.1**3) * 1.1]))


def test_decoupled_weight_has_no_gradient() -> None:
    log_ratios = torch.tensor([0.02, 0.02, 0.02])
    found = gradient(FAMILY["decoupled"], log_ratios)
    # -w u A with w = exp((s - 1) / s log r) constant and u = r / w: -r A for every s
    torch.testing.assert_close(found, -log_ratios.exp() * ADVANTAGES)


@pytest.mark.parametrize("staleness", [0.0, 1.0])
def test_decoupled_is_ppo_up_to_one_version(staleness: float) -> None:
    log_ratios = torch.linspace(-1.0, 1.0, 9)
    advantages = torch.linspace(2.0, -2.0, 9)
    decoupled = decoupled_surrogate(
        log_ratios, advantages, clip=0.2, staleness=torch.full((9,), staleness)
    )
    torch.testing.assert_close(decoupled, clipped_surrogate(log_ratios, advantages, clip=0.2))


def test_kl_feedback_is_a_spring_to_the_behaviour_policy() -> None:
    log_ratios = torch.tensor([-0.5, 0.0, 2.0])
    torch.testing.assert_close(
        kl_feedback(log_ratios, coefficient=0.1), torch.tensor([0.0125, 0.0, 0.2])
    )
    spring = gradient(lambda log_r, _: kl_feedback(log_r, coefficient=0.1), log_ratios)
    torch.testing.assert_close(spring, 0.1 * log_ratios)
