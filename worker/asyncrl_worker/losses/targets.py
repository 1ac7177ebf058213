"""Value targets and advantages from time-major rollouts: V-trace and GAE.

Shapes: T steps, N environments. `values` has T + 1 rows: the last one bootstraps. `discounts` is
the discount, 0 where the episode terminated. `continues` is 0 where the episode ended for any
reason, so that nothing flows backwards across an episode's boundary; at a truncation the value of
the final observation, `values[t + 1]`, still bootstraps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """`values`: regression targets [T, N]; `advantages`: unweighted by importance [T, N]."""

    values: Tensor
    advantages: Tensor


def vtrace(
    *,
    log_ratios: Tensor,
    rewards: Tensor,
    discounts: Tensor,
    continues: Tensor,
    values: Tensor,
    rho_bar: float,
    c_bar: float,
    trace_lambda: float = 1.0,
) -> Targets:
    """V-trace targets (Espeholt et al. 2018, IMPALA, arXiv 1802.01561, equations 1 and 4.1).

    The advantages are r + gamma v_{t+1} - V_t. The importance weight min(rho_bar, r) of the
    paper's policy gradient belongs to the loss, so that a clipped surrogate can bring its own.
    """
    ratios = log_ratios.exp()
    rhos = ratios.clamp(max=rho_bar)
    traces = trace_lambda * ratios.clamp(max=c_bar) * continues * discounts
    deltas = rhos * (rewards + discounts * values[1:] - values[:-1])
    corrections = _accumulate(deltas, traces)
    following = torch.cat([corrections[1:], torch.zeros_like(corrections[:1])])
    next_targets = values[1:] + continues * following
    return Targets(
        values=values[:-1] + corrections,
        advantages=rewards + discounts * next_targets - values[:-1],
    )


def gae(
    *,
    rewards: Tensor,
    discounts: Tensor,
    continues: Tensor,
    values: Tensor,
    gae_lambda: float,
) -> Targets:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16)."""
    deltas = rewards + discounts * values[1:] - values[:-1]
    advantages = _accumulate(deltas, discounts * continues * gae_lambda)
    return Targets(values=values[:-1] + advantages, advantages=advantages)


def _accumulate(deltas: Tensor, traces: Tensor) -> Tensor:
    """x_t = delta_t + trace_t x_{t+1}, from the last row backwards."""
    # numpy rows: a torch call costs several microseconds, and this is 2 T of them.
    delta_rows = deltas.numpy(force=True)
    trace_rows = traces.numpy(force=True)
    result = delta_rows.copy()
    for t in range(len(result) - 2, -1, -1):
        result[t] += trace_rows[t] * result[t + 1]
    return torch.from_numpy(result).to(deltas.device)
