"""Running mean and scale of the observations; part of the policy, so they travel with it."""

from __future__ import annotations

import torch
from torch import Tensor

from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.policies.layout import OBSERVATION_LIMIT

EPSILON = 1e-8


class Normalizer:
    """Parallel update of mean and variance (Chan et al. 1979) over all valid observations.

    `update` belongs after the gradient step: the batch is judged with the normaliser that its
    newest behaviour policy had, and the next version brings the next normaliser.
    """

    def __init__(self, size: int, *, enabled: bool) -> None:
        self.enabled = enabled
        self.count = 0.0
        self.mean = torch.zeros(size, dtype=torch.float64)
        self.squares = torch.zeros(size, dtype=torch.float64)  # sum of squared deviations
        self._mean32 = torch.zeros(size)
        self._scale32 = torch.ones(size)

    def __call__(self, observations: Tensor) -> Tensor:
        """Normalised observations [..., D]; the input itself when switched off or without data."""
        if self.count == 0:
            return observations
        return ((observations - self._mean32) * self._scale32).clamp_(
            -OBSERVATION_LIMIT, OBSERVATION_LIMIT
        )

    def update(self, observations: Tensor, valid: Tensor, ranks: Ranks) -> None:
        """Take in the observations [T, N, D] of valid steps [T, N] from every rank."""
        if not self.enabled:
            return
        rows = observations[valid].to(torch.float64)
        sums = torch.cat([torch.tensor([float(len(rows))], dtype=torch.float64), rows.sum(0)])
        sums = ranks.sum(sums)
        count = float(sums[0])
        if count == 0:
            return
        mean = sums[1:] / count
        squares = ranks.sum((rows - mean).square().sum(0))
        total = self.count + count
        delta = mean - self.mean
        self.squares += squares + delta.square() * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total
        self._refresh()

    def to_weights(self) -> dict[str, Tensor]:
        """Mean and scale float32 [D], as actors get them."""
        return {"normalizer.mean": self._mean32, "normalizer.scale": self._scale32}

    def state(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint."""
        count = torch.tensor([self.count], dtype=torch.float64)
        return {"count": count, "mean": self.mean, "squares": self.squares}

    def load(self, state: dict[str, Tensor]) -> None:
        """Back to a checkpoint's state."""
        self.count = float(state["count"][0])
        self.mean = state["mean"].clone()
        self.squares = state["squares"].clone()
        if self.count:
            self._refresh()

    def _refresh(self) -> None:
        self._mean32 = self.mean.to(torch.float32)
        variance = self.squares / self.count
        self._scale32 = (1.0 / (variance + EPSILON).sqrt()).to(torch.float32)
