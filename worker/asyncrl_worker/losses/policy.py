"""Policy losses per sample, one family: how a sample made by an older policy is weighted.

Every function takes log r = log pi_theta(a) - log pi_behaviour(a) with its gradient, and the
advantage without one, and returns the loss of each sample. At r = 1 each of them has the gradient
of the plain policy gradient, -A grad log pi.
"""

from __future__ import annotations

import torch
from torch import Tensor


def vtrace_policy_gradient(log_ratios: Tensor, advantages: Tensor, *, rho_bar: float) -> Tensor:
    """-sg(min(rho_bar, r)) A log pi (IMPALA, arXiv 1802.01561, section 4.2)."""
    weights = log_ratios.detach().exp().clamp(max=rho_bar)
    # log pi_behaviour is constant, so log r has the gradient of log pi.
    return -weights * advantages * log_ratios


def clipped_surrogate(log_ratios: Tensor, advantages: Tensor, *, clip: float) -> Tensor:
    """-min(r A, clip(r, 1 - clip, 1 + clip) A) (PPO, arXiv 1707.06347, equation 7)."""
    ratios = log_ratios.exp()
    return -torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)


def decoupled_surrogate(
    log_ratios: Tensor, advantages: Tensor, *, clip: float, staleness: Tensor
) -> Tensor:
    """Decoupled PPO: -(pi_prox / pi_behaviour) min(u A, clip(u) A), u = pi_theta / pi_prox.

    Hilton et al. 2021 (arXiv 2110.00641), AReaL (arXiv 2505.24298). The proximal policy is the one
    of one version ago, its log-probability interpolated between the behaviour and the current
    policy by version (AReaL's `prox_logp_method: loglinear`), so that no second forward pass is
    needed. `staleness` [T, N] in versions; at 0 and 1 this is PPO.
    """
    older = ((staleness - 1) / staleness.clamp(min=1)).clamp(min=0)
    log_proximal_ratios = (log_ratios * older).detach()  # log pi_prox - log pi_behaviour
    surrogate = clipped_surrogate(log_ratios - log_proximal_ratios, advantages, clip=clip)
    return log_proximal_ratios.exp() * surrogate


def kl_feedback(log_ratios: Tensor, *, coefficient: float) -> Tensor:
    """(k / 2) (log r)^2: a pull back to the behaviour policy, quadratic in the distance.

    In the Fisher metric this is the feedback -k (theta_t - theta_{t-s}), which makes delayed
    gradient descent stable for every delay s (docs/alignment.md).
    """
    return 0.5 * coefficient * log_ratios.square()
