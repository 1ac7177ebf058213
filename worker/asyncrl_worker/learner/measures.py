"""What one update says about staleness and importance: numbers for people, control and verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    values = batch.staleness(version)
    if bool(batch.valid.any()):
        values = values[batch.valid]
    values = values.flatten()
    p50, p95 = torch.quantile(values, torch.tensor([0.5, 0.95])).tolist()
    sums = torch.tensor([float(values.sum(dtype=torch.float64)), float(len(values))])
    total, count = ranks.sum(sums.to(torch.float64)).tolist()
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
    """All inputs [T, N]; sums run over every rank. Not finite where the ratios are not."""
    mask = valid.to(torch.float64)
    ratios = log_ratios.to(torch.float64).exp()
    sums = torch.stack(
        [
            mask.sum(),
            ((ratios - 1 - log_ratios) * mask).sum(),
            (ratios * mask).sum(),
            (ratios.square() * mask).sum(),
            (((ratios - 1).abs() > clip) * mask).sum(),
            (entropy * mask).sum(),
        ]
    )
    count, kl, total, squares, clipped, entropies = ranks.sum(sums).tolist()
    largest = ranks.maximum((log_ratios.abs() * valid).max()).item()
    count = max(count, 1.0)
    return ImportanceMeasures(
        kl=kl / count,
        max_log_ratio=float(largest),
        effective_sample_size=total * total / (count * squares) if squares > 0 else 1.0,
        clipped_fraction=clipped / count,
        entropy=entropies / count,
    )


class SplitHalf:
    """The cosine that the two halves of a batch predict for identical parameters.

    c_pred = 2 c_split / (1 + c_split). The quotient c / c_pred does not depend on the batch size;
    it was .40 to .78 when synchronous and .81 to 1.05 when stale (design notes, Stability).
    The halves' cosine is noisy, so it is smoothed over measurements.
    """

    def __init__(self, weight: float = 0.1) -> None:
        self._weight = weight
        self.smoothed: float | None = None

    def observe(self, half: Sequence[Tensor], whole: Sequence[Tensor]) -> None:
        """Gradients of the first half and of the whole batch, the halves adding up to the whole."""
        dot, first, second = 0.0, 0.0, 0.0
        for part, full in zip(half, whole, strict=True):
            rest = full - part
            dot += float(torch.sum(part * rest, dtype=torch.float64))
            first += float(torch.sum(part.square(), dtype=torch.float64))
            second += float(torch.sum(rest.square(), dtype=torch.float64))
        norm = math.sqrt(first * second)
        if not math.isfinite(norm) or norm == 0:
            return
        cosine = dot / norm
        old = self.smoothed
        self.smoothed = cosine if old is None else old + self._weight * (cosine - old)

    def relative(self, cosine: float | None) -> float | None:
        """c / c_pred; absent where the halves do not agree with each other."""
        if cosine is None or self.smoothed is None or self.smoothed <= 0:
            return None
        return cosine * (1 + self.smoothed) / (2 * self.smoothed)
