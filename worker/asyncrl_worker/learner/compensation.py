"""What the learner does about staleness besides alignment control: small layers, each alone.

Measured for this project (docs/alignment.md, "The stack"): these remove the cause of the
overshoot, GAC guards against what is left. Every layer is the identity at staleness 0, but for
KL feedback, whose gradient is zero there.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

StepSizeRule = Literal["constant", "halfWhenStale", "inverse", "inverseSqrt", "effectiveSampleSize"]
KlFeedbackMode = Literal["off", "fixed", "target"]

HALF_FROM_STALENESS = 4.0
"""Versions from which `halfWhenStale` halves the policy's learning rate."""

KL_BAND = 1.5
"""`target` mode adapts its coefficient when the KL leaves [target / 1.5, 1.5 target]."""

KL_RATE = 0.05
"""Relative change of the coefficient per update, in logarithm."""

KL_COEFFICIENT_RANGE = (1e-4, 1e2)


def momentum(beta1: float, staleness: float) -> float:
    """The momentum law beta1 / (1 + s): asynchrony begets momentum (Mitliagkas et al. 2016).

    `staleness` is the measured mean of the batch, in policy versions.
    """
    return beta1 / (1.0 + staleness)


def step_size(rule: StepSizeRule, *, staleness: float, effective_sample_size: float) -> float:
    """Factor on the policy's learning rate; `effective_sample_size` is normalised to 0..1."""
    match rule:
        case "constant":
            return 1.0
        case "halfWhenStale":
            return 0.5 if staleness >= HALF_FROM_STALENESS else 1.0
        case "inverse":
            return 1.0 / (1.0 + staleness)
        case "inverseSqrt":
            return 1.0 / math.sqrt(1.0 + staleness)
        case "effectiveSampleSize":
            return math.sqrt(effective_sample_size)


class KlFeedback:
    """The coefficient k of the loss (k / 2) (log r)^2: off, fixed, or held at a target KL."""

    def __init__(self, mode: KlFeedbackMode, *, coefficient: float, target: float) -> None:
        self.mode: KlFeedbackMode = mode
        self._target = target
        self.coefficient = 0.0 if mode == "off" else coefficient

    def observe(self, kl: float) -> None:
        """Adapt to the mean KL (nats) of the update just made."""
        if self.mode != "target" or not math.isfinite(kl):
            return
        if kl > self._target * KL_BAND:
            factor = math.exp(KL_RATE)
        elif kl < self._target / KL_BAND:
            factor = math.exp(-KL_RATE)
        else:
            return
        low, high = KL_COEFFICIENT_RANGE
        self.coefficient = min(max(self.coefficient * factor, low), high)

    def load(self, mode: KlFeedbackMode, coefficient: float) -> None:
        """Back to what the run had learned; a coefficient that the manifest gives is not learned,
        and the manifest may have changed since."""
        if mode == self.mode == "target":
            self.coefficient = coefficient


class DisplacementProjection:
    """Refuses to repeat the movement already made since the rollouts (after the optimizer).

    With d = theta_t - theta_{t-s}, the update u and a = <u, d> / |d|^2: if a > 0, u becomes
    u - f a d. Needs theta_{t-s}, so the newest versions of the parameters are kept, at most
    `capacity` of them; a batch older than that uses the oldest one.
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], *, fraction: float, capacity: int
    ) -> None:
        self._parameters = parameters
        self._fraction = fraction
        # The newest entry is the current version, so capacity versions back needs one more.
        self._history: deque[list[Tensor]] = deque(maxlen=capacity + 1)

    @property
    def enabled(self) -> bool:
        """False when the fraction is 0: nothing is kept and nothing is done."""
        return self._fraction > 0

    @torch.no_grad()
    def before(self) -> None:
        """Remember the parameters that the update starts from."""
        if self.enabled:
            self._history.append([p.detach().clone() for p in self._parameters])

    @torch.no_grad()
    def after(self, staleness: float) -> float:
        """Take the repeated part out of the update just made; returns f a, 0 if untouched."""
        back = min(round(staleness), len(self._history) - 1)
        if not self.enabled or back <= 0:
            return 0.0
        start, origin = self._history[-1], self._history[-1 - back]
        along, square = 0.0, 0.0
        for parameter, now, then in zip(self._parameters, start, origin, strict=True):
            displacement = now - then
            along += float(torch.sum((parameter - now) * displacement, dtype=torch.float64))
            square += float(torch.sum(displacement.square(), dtype=torch.float64))
        if along <= 0 or square == 0:
            return 0.0
        removed = self._fraction * along / square
        for parameter, now, then in zip(self._parameters, start, origin, strict=True):
            parameter.sub_(now - then, alpha=removed)
        return removed

    def state(self) -> dict[str, Tensor]:
        """The remembered versions, for a checkpoint."""
        return {
            f"{age}.{index}": tensor
            for age, version in enumerate(self._history)
            for index, tensor in enumerate(version)
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Back to a checkpoint's state."""
        self._history.clear()
        width = len(self._parameters)
        for age in range(len(state) // width if width else 0):
            self._history.append([state[f"{age}.{index}"].clone() for index in range(width)])


def steer(optimizer: torch.optim.Optimizer, *, learning_rate: float, beta1: float) -> None:
    """Set this step's learning rate and momentum (beta1 of Adam, momentum of SGD)."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        if "betas" in group:
            group["betas"] = (beta1, group["betas"][1])
        elif "momentum" in group:
            group["momentum"] = beta1
