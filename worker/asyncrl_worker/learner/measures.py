"""What one update says about staleness and importance: numbers for people, control and verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asyncrl_worker.alignment import gradient_cosine, relative_alignment
from asyncrl_worker.learner.batch import Batch
from asyncrl_worker.learner.ranks import Ranks


@dataclass(frozen=True)
class Staleness:
    """Of the steps of one batch, in policy versions."""

    mean: float
    p50: float
    p95: float
    max: float


def measure_staleness(batch: Batch, version: int, ranks: Ranks) -> Staleness:
    """Distribution over the valid steps; mean and maximum over every rank, quantiles over this one.

    The mean steers the step, so it must be the same on all ranks. A batch without any valid step
    counts all of its steps.
    """
    values = version - batch.policy_versions
    values = values[batch.valid] if bool(batch.valid.any()) else values.flatten()
    # Staleness is a small integer, so counting beats sorting.
    counts = torch.bincount(values)
    reached = counts.cumsum(0) / len(values)
    p50, p95 = torch.searchsorted(reached, torch.tensor([0.5, 0.95])).tolist()
    sums = torch.tensor([float(values.sum()), float(len(values))], dtype=torch.float64)
    total, count = ranks.sum(sums).tolist()
    largest = float(ranks.maximum(values.max()))
    return Staleness(mean=total / count, p50=p50, p95=p95, max=largest)


@dataclass(frozen=True)
class ImportanceMeasures:
    """Over the valid steps, between the behaviour policies and the current one.

    `kl`: mean of r - 1 - log r in nats, an estimate of KL(behaviour, current) that is never
    negative (Schulman, "Approximating KL divergence", k3). `max_log_ratio`: max |log r|.
    `effective_sample_size`: (sum r)^2 / (n sum r^2), 0..1 (PipelineRL's rl/ess).
    `clipped_fraction`: share of |r - 1| > clip. `entropy`: mean in nats.
    """

    kl: float
    max_log_ratio: float
    effective_sample_size: float
    clipped_fraction: float
    entropy: float


@torch.no_grad()
def measure_importance(
    log_ratios: Tensor, entropy: Tensor, valid: Tensor, *, clip: float, ranks: Ranks
) -> ImportanceMeasures:
    """All inputs [T, N]; sums run over every rank.

    The effective sample size is finite for any finite log ratios, as the weights in it are relative
    to the largest one; `kl` is infinite where a ratio is beyond float64. A batch without any valid
    step has ratios of 1 and no entropy.
    """
    mask = valid.to(torch.float64)
    log_ratios = log_ratios.to(torch.float64).masked_fill(~valid, 0.0)
    extremes = torch.stack([log_ratios, -log_ratios]).masked_fill(~valid, -math.inf)
    highest, lowest = ranks.maximum(extremes.amax(dim=(1, 2))).tolist()
    excess = log_ratios.expm1()  # r - 1
    weights = (log_ratios - highest).exp() * mask
    sums = torch.stack(
        [
            mask.sum(),
            (excess - log_ratios).sum(),
            weights.sum(),
            weights.square().sum(),
            (excess.abs() > clip).sum(),
            (entropy * mask).sum(),
        ]
    )
    count, kl, total, squares, clipped, entropies = ranks.sum(sums).tolist()
    if count == 0:
        return ImportanceMeasures(0.0, 0.0, 1.0, 0.0, 0.0)
    return ImportanceMeasures(
        kl=kl / count,
        max_log_ratio=max(highest, lowest),
        effective_sample_size=total * total / (count * squares),
        clipped_fraction=clipped / count,
        entropy=entropies / count,
    )


class SplitHalf:
    """The cosine that the two halves of a batch predict for identical parameters.

    c_pred = 2 c_split / (1 + c_split). The quotient c / c_pred does not depend on the batch size;
    it was .40 to .78 when synchronous and .81 to 1.05 when stale (docs/alignment.md, "Reading the
    numbers").
    The halves' cosine is noisy, so it is smoothed over measurements.
    """

    def __init__(self, weight: float = 0.1) -> None:
        self._weight = weight
        self.smoothed: float | None = None

    def observe(self, half: Sequence[Tensor], whole: Sequence[Tensor]) -> None:
        """Gradients of one half and of the whole batch, the halves adding up to the whole."""
        cosine = gradient_cosine(
            half, [full - part for part, full in zip(half, whole, strict=True)]
        )
        if cosine is None:
            return
        old = self.smoothed
        self.smoothed = cosine if old is None else old + self._weight * (cosine - old)

    def relative(self, cosine: float | None) -> float | None:
        """c / c_pred; absent where the halves do not agree with each other."""
        return relative_alignment(cosine, self.smoothed)
