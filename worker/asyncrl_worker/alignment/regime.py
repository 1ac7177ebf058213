"""The three regimes of gradient alignment control, and the arithmetic that needs no tensor."""

from __future__ import annotations

import math
from enum import Enum

from asyncrl_worker.alignment.config import Projection


class Regime(Enum):
    """What a gradient's alignment with the previous one calls for."""

    PASS = "Pass"
    PROJECT = "Project"
    SKIP = "Skip"


def classify(cosine: float, low: float, high: float, skips: int, max_skips: int) -> Regime:
    """Regime of one cosine after `skips` skipped steps in a row.

    A comparison with NaN is false, so a threshold or cosine of NaN never passes unseen: it must be
    ruled out before.
    """
    if cosine <= low:
        return Regime.PASS
    if cosine > high and skips < max_skips:
        return Regime.SKIP
    return Regime.PROJECT


def kept_fraction(cosine: float, low: float, projection: Projection) -> float:
    """Alpha, the fraction of the parallel part that a projection keeps, in [0, 1].

    "cap" gives low / cosine: the parallel part shrinks to low * |g|, continuous where the cosine
    leaves the pass regime.
    """
    if projection == "remove" or cosine <= 0.0:
        return 0.0
    return min(1.0, max(0.0, low / cosine))


def projected_norm(norm: float, cosine: float, kept: float) -> float:
    """|g~| from |g~|^2 = |g|^2 (1 - (1 - kept^2) cosine^2)."""
    return norm * math.sqrt(max(0.0, 1.0 - (1.0 - kept * kept) * cosine * cosine))


def split_half_prediction(split_cosine: float) -> float:
    """Cosine of two whole batches at identical parameters, from that of the halves of one batch.

    2 c / (1 + c), the Spearman-Brown formula. The domain is (-1, 1]; a negative split cosine is
    noise around zero and gives a negative prediction.
    """
    if not -1.0 < split_cosine <= 1.0:
        raise ValueError(f"split cosine: {split_cosine}; use a cosine above -1 and at most 1")
    return 2.0 * split_cosine / (1.0 + split_cosine)


def relative_alignment(
    cosine: float | None, split_cosine: float | None, *, floor: float = 0.02
) -> float | None:
    """Cosine of consecutive gradients over what the halves of one batch predict for one policy.

    About 0.4 to 0.8 when synchronous and 0.8 to 1.05 when stale, whatever the batch size. None
    where an input is absent or the prediction is below `floor`: that quotient would be noise.
    """
    if cosine is None or split_cosine is None or split_cosine <= 0.0:
        return None
    prediction = split_half_prediction(min(split_cosine, 1.0))
    return cosine / prediction if prediction >= floor else None
