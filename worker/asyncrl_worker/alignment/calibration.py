"""The healthy level of a run's gradient alignment, and the thresholds that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

# Keeps Fisher's transform finite at a cosine of 1.
_LARGEST_COSINE = 0.9999
# A cosine is never above it, so as a threshold it never calls for anything.
_NEVER = 1.0


@dataclass(frozen=True)
class GuardLimits:
    """Bounds of the automatic calibration, each with the failure that it prevents.

    adaptation: weight of one update in the slowly moving level, time constant 1 / adaptation.
        Without it a healthy drift would end in an alarm.
    greatest_rise: how far the level may climb above the lowest value it had, in Fisher's z. Without
        it a slow collapse would be taken for drift.
    least_margin: least distance of `low` from the level, in Fisher's z. Without it a run of little
        noise would set off the guard by a trifle.
    greatest_correlation: bound of the measured autocorrelation, which is uncertain after few
        updates.
    least_low, least_high: the thresholds never fall below these cosines; alignment below is
        harmless at any level.
    greatest_low: where level and margin need more than this cosine, there is no room for an alarm.
        Without it the smoothed cosine would have to tell a rise in its fourth decimal.
    greatest_high: `high` never rises above it, so that an alarm can also skip.
    """

    adaptation: float = 0.005
    greatest_rise: float = 0.3
    least_margin: float = 0.15
    greatest_correlation: float = 0.8
    least_low: float = 0.2
    least_high: float = 0.5
    greatest_low: float = 0.995
    greatest_high: float = 0.998


class HealthyLevel:
    """Follows the healthy level of the cosine and gives the thresholds of the guard. Pure.

    A single cosine says little: on a small policy its standard deviation is 0.3 to 0.7 however
    healthy the run is. So the thresholds stand where the *smoothed* cosine, a running mean with
    weight `smoothing`, does not come by chance:

        low, high = tanh(atanh(level) + deviations * spread)

    with the spread of that mean around the level, taken from the standard deviation and the
    autocorrelation of the cosines. The sum is formed after Fisher's transform, because a cosine has
    less room near 1. Where the room is too small, both thresholds are 1: no cosine is above,
    nothing is touched, and the level goes on following the run.

    The first `updates` cosines set level and deviation; until then there are no thresholds. From
    then on both follow the run, because the healthy cosine drifts as a policy learns: at a small
    learning rate it begins near 1, however fresh the rollouts are, and falls as the first, common
    progress is used up. Two bounds keep a real rise from being taken for drift: nothing is learned
    while the run is alarmed, and the level never climbs more than `greatest_rise` above the lowest
    value it had.
    """

    def __init__(
        self,
        updates: int,
        low_deviations: float,
        high_deviations: float,
        smoothing: float,
        limits: GuardLimits | None = None,
    ) -> None:
        self._updates = updates
        self._low_deviations = low_deviations
        self._high_deviations = high_deviations
        self._smoothing = smoothing
        self._limits = limits or GuardLimits()
        self._samples: list[float] = []
        self._count = 0
        self._lowest = 0.0
        self._level = 0.0
        self._deviation = 0.0
        self._correlation = 0.0
        self._calibrated = False

    @property
    def calibrated(self) -> bool:
        return self._calibrated

    @property
    def level(self) -> float | None:
        """The healthy cosine now; None while calibrating."""
        return self._level if self._calibrated else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the smoothed cosine around the level; None while calibrating.

        For first-order autocorrelation r a running mean of weight w has the variance
        w / (2 - w) * (1 + r (1 - w)) / (1 - r (1 - w)) times that of one cosine; the level itself,
        measured on n updates, is uncertain by (1 + r) / (1 - r) / n.
        """
        if not self._calibrated:
            return None
        weight, correlation = self._smoothing, self._correlation
        carried = correlation * (1.0 - weight)
        mean = weight / (2.0 - weight) * (1.0 + carried) / (1.0 - carried)
        level = (1.0 + correlation) / (1.0 - correlation) / self._updates
        return self._deviation * math.sqrt(mean + level)

    @property
    def low(self) -> float | None:
        """Smoothed cosine above which the guard projects, above the level; None while calibrating.

        Never between the level and its margin: an alarm there would come by chance, and would last
        for ever, because nothing is learned while it does.
        """
        limits = self._limits
        low = self._threshold(self._low_deviations, limits.least_low)
        return low if low is None or low <= limits.greatest_low else _NEVER

    @property
    def high(self) -> float | None:
        """Smoothed cosine above which the guard skips, above `low`; None or 1 where `low` is."""
        limits, low = self._limits, self.low
        high = self._threshold(self._high_deviations, limits.least_high)
        if high is None or low == _NEVER:
            return low
        return min(limits.greatest_high, high)

    def observe(self, cosine: float, *, alarmed: bool) -> None:
        """Takes one measured cosine; `alarmed` says that the smoothed cosine is above `low`."""
        if alarmed:
            return
        if self._calibrated:
            self._follow(cosine)
            return
        self._samples.append(cosine)
        if len(self._samples) >= self._updates:
            self._calibrate()

    def _calibrate(self) -> None:
        self._level = self._lowest = fmean(self._samples)
        residuals = [cosine - self._level for cosine in self._samples]
        variance = sum(residual * residual for residual in residuals) / (len(residuals) - 1)
        self._deviation = math.sqrt(variance)
        self._correlation = min(self._limits.greatest_correlation, autocorrelation(residuals))
        self._count = len(self._samples)
        self._samples = []
        self._calibrated = True

    def _follow(self, cosine: float) -> None:
        self._count += 1
        weight = max(self._limits.adaptation, 1.0 / self._count)
        residual = cosine - self._level
        ceiling = math.tanh(_fisher(self._lowest) + self._limits.greatest_rise)
        self._level = min(ceiling, self._level + weight * residual)
        self._lowest = min(self._lowest, self._level)
        variance = self._deviation**2
        self._deviation = math.sqrt(variance + weight * (residual**2 - variance))

    def _threshold(self, deviations: float, least: float) -> float | None:
        limits, spread = self._limits, self.spread
        if spread is None:
            return None
        slope = 1.0 - min(_LARGEST_COSINE, abs(self._level)) ** 2
        margin = deviations * spread / slope
        least_margin = limits.least_margin * deviations / self._low_deviations
        cosine = math.tanh(_fisher(self._level) + max(least_margin, margin))
        return max(least, cosine)

    def state(self) -> dict[str, float]:
        """Scalars of a calibrated level, or an empty mapping while calibrating."""
        if not self._calibrated:
            return {}
        return {
            "count": float(self._count),
            "lowest": self._lowest,
            "level": self._level,
            "deviation": self._deviation,
            "correlation": self._correlation,
        }

    @property
    def samples(self) -> list[float]:
        """The cosines collected so far while calibrating."""
        return list(self._samples)

    def restore(self, state: Mapping[str, float], samples: Sequence[float]) -> None:
        """Takes what `state` and `samples` gave."""
        self._calibrated = bool(state)
        self._samples = [] if state else list(samples)
        if state:
            self._count = int(state["count"])
            self._lowest = state["lowest"]
            self._level = state["level"]
            self._deviation = state["deviation"]
            self._correlation = state["correlation"]


def autocorrelation(residuals: Sequence[float]) -> float:
    """Correlation of neighbours in a series of mean zero, at least 0, corrected for its length.

    The sample value is too low by about (1 + 3 r) / n (Marriott and Pope 1954).
    """
    total = sum(residual * residual for residual in residuals)
    if total == 0.0:
        return 0.0
    count = len(residuals)
    raw = sum(a * b for a, b in pairwise(residuals)) / total
    return max(0.0, (raw * count + 1.0) / (count - 3.0))


def _fisher(cosine: float) -> float:
    return math.atanh(min(_LARGEST_COSINE, max(-_LARGEST_COSINE, cosine)))
