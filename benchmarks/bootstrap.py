"""Bootstrap confidence intervals: what a few seeds can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its percentile bootstrap interval of 95 %."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float]) -> Interval:
    """Of one value per seed. The resampling itself is seeded: the same values, the same interval.

    With paired samples, pass the differences.
    """
    if not values:
        raise ValueError("no values to average; run the study first")
    array = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(0)
    picks = generator.integers(array.size, size=(RESAMPLES, array.size))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(array[picks].mean(axis=1), [tail, 100 - tail])
    return Interval(float(array.mean()), float(low), float(high))
