"""What goes into the judge and what comes out: observables, thresholds, judgement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """State of the run, in rising order of trouble (`rank` 0..3)."""

    HEALTHY = "Healthy"
    WATCH = "Watch"
    DEGRADED = "Degraded"
    DIVERGED = "Diverged"

    @property
    def rank(self) -> int:
        """0 for Healthy to 3 for Diverged."""
        return _ORDER.index(self)


_ORDER = (Verdict.HEALTHY, Verdict.WATCH, Verdict.DEGRADED, Verdict.DIVERGED)


@dataclass(frozen=True, slots=True)
class Observables:
    """What one learner update showed; None where it was not measured (never 0 for absent).

    update: count of consumed batches, rising.
    cosine, smoothed_cosine: of consecutive policy gradients, -1..1, raw and its moving average.
    relative_alignment: cosine over what the two halves of the batch predict for identical
        parameters, 2 c_split / (1 + c_split).
    kl: mean KL divergence from the behaviour policy to the trained one, nats.
    max_log_ratio: largest absolute log importance ratio of the batch.
    effective_sample_size: (sum r)^2 / (n sum r^2), 0..1.
    clipped_fraction: share of samples outside the clip, 0..1. Shown, not judged: with a clip a
        high share is the protection at work.
    entropy: policy entropy, nats. entropy_fraction: of the largest possible, 0..1; None for
        continuous actions, whose entropy has no natural zero.
    gradient_norm: policy gradient before clipping. value_loss, policy_loss: judged for finiteness.
    staleness_mean: versions. episode_return: mean of the recent training episodes.
    parameters_finite: False as soon as a parameter is not.
    """

    update: int
    cosine: float | None = None
    smoothed_cosine: float | None = None
    relative_alignment: float | None = None
    kl: float | None = None
    max_log_ratio: float | None = None
    effective_sample_size: float | None = None
    clipped_fraction: float | None = None
    entropy: float | None = None
    entropy_fraction: float | None = None
    gradient_norm: float | None = None
    value_loss: float | None = None
    staleness_mean: float | None = None
    episode_return: float | None = None
    policy_loss: float | None = None
    parameters_finite: bool | None = None


@dataclass(frozen=True, slots=True)
class Threshold:
    """Severity 1 at `watch`, 2 at `degraded`; where less is worse, watch is the larger one."""

    watch: float
    degraded: float

    def __post_init__(self) -> None:
        if not (0.0 <= self.watch < math.inf and 0.0 <= self.degraded < math.inf):
            raise ValueError(f"{self}: thresholds must be finite and not negative")


@dataclass(frozen=True, slots=True)
class StabilityThresholds:
    """Names as in `spec.stability`; units as in Observables, the z-score in standard deviations.

    return_drop: the share of the return once gained that is lost again. It has no spec field.
    """

    kl: Threshold = Threshold(0.1, 0.2)
    max_log_ratio: Threshold = Threshold(1.5, 3.0)
    effective_sample_size: Threshold = Threshold(0.7, 0.3)
    entropy_fraction: Threshold = Threshold(0.1, 0.02)
    gradient_norm_z_score: Threshold = Threshold(4.0, 8.0)
    relative_alignment: Threshold = Threshold(0.85, 1.0)
    enter_updates: int = 10
    leave_updates: int = 30
    return_drop: Threshold = Threshold(0.5, 0.8)

    def __post_init__(self) -> None:
        for name in ("enter_updates", "leave_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1; use 1 or more")


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict after one update.

    reasons: CamelCase, strongest first, of the latest update that called for this verdict.
    since_update: the update at which this verdict was entered.
    score: this update alone, 0..3, before hysteresis.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    since_update: int
    score: float
