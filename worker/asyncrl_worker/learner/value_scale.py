"""The scale of returns: the value network works in units of it, whatever the task's rewards are."""

from __future__ import annotations

import torch
from torch import Tensor

from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.policies.network import ValueNetwork

LEAST_WEIGHT = 0.02
"""Weight of the newest batch in the moving statistics, once there were 1 / LEAST_WEIGHT batches."""

LEAST_DEVIATION = 1e-4


class ValueScale:
    """Moving mean and deviation of the value targets, with PopArt (van Hasselt et al. 2016).

    The network predicts (V - mean) / deviation. When the statistics move, its last layer is
    rescaled so that every prediction V stays what it was (arXiv 1602.07714, equations 5 to 8).
    Without this, a learning rate that suits the policy takes hundreds of updates to reach the
    returns of CartPole, and the advantages are noise until then.
    """

    def __init__(self, network: ValueNetwork, *, enabled: bool) -> None:
        self._network = network
        self._enabled = enabled
        self.mean = 0.0
        self.deviation = 1.0
        self._square = 0.0
        self._batches = 0

    def denormalize(self, predictions: Tensor) -> Tensor:
        """From the network's units to returns; the input itself when switched off."""
        return predictions * self.deviation + self.mean if self._enabled else predictions

    def normalize(self, targets: Tensor) -> Tensor:
        """From returns to the network's units."""
        return (targets - self.mean) / self.deviation if self._enabled else targets

    @torch.no_grad()
    def update(self, targets: Tensor, valid: Tensor, ranks: Ranks) -> None:
        """Take in the targets [T, N] of a batch, after the step that trained on them."""
        if not self._enabled:
            return
        mask = valid.to(torch.float64)
        targets = targets.to(torch.float64)  # the variance is a small difference of large numbers
        sums = torch.stack([mask.sum(), (targets * mask).sum(), (targets.square() * mask).sum()])
        count, total, squares = ranks.sum(sums).tolist()
        if count == 0:
            return
        self._batches += 1
        weight = max(LEAST_WEIGHT, 1.0 / self._batches)
        mean = self.mean + weight * (total / count - self.mean)
        self._square += weight * (squares / count - self._square)
        deviation = max(self._square - mean * mean, LEAST_DEVIATION**2) ** 0.5
        *_, last = self._network.body.linear_layers()
        last.weight.mul_(self.deviation / deviation)
        last.bias.mul_(self.deviation).add_(self.mean - mean).div_(deviation)
        self.mean, self.deviation = mean, deviation

    def state(self) -> list[float]:
        """For a checkpoint; the rescaled layer is the network's own state."""
        return [self.mean, self.deviation, self._square, float(self._batches)]

    def load(self, state: list[float]) -> None:
        """Back to a checkpoint's state."""
        self.mean, self.deviation, self._square = state[:3]
        self._batches = int(state[3])
