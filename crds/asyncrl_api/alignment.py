"""Gradient Alignment Control: the cosine of consecutive policy gradients, and its guard."""

from __future__ import annotations

from typing import ClassVar, Literal

from asyncrl_api.model import Model, Rule, option


class Deviations(Model):
    """Calibrated thresholds, as distances from the run's own healthy mean."""

    low: float = option(
        3.5,
        "low = mean + this many standard deviations of the smoothed cosine.",
        unit="standard deviations",
        gt=0,
        le=100,
    )
    high: float = option(
        5.0,
        "high = mean + this many standard deviations of the smoothed cosine.",
        unit="standard deviations",
        gt=0,
        le=100,
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            path=("low",),
            cel="self.low <= self.high",
            holds=lambda deviations: deviations.low <= deviations.high,
            message="must not be greater than high; lower low or raise high",
        ),
    )


class Alignment(Model):
    """Our reading of Gradient Alignment Control (Xu et al., arXiv 2603.01501).

    c is the cosine of this policy gradient with the previous one. c <= low: pass. low < c <= high:
    project the gradient. c > high: skip the update.
    """

    mode: Literal["control", "observe", "off"] = option(
        "control",
        "control: measure and act. observe: measure only. off: neither; no gradient is remembered.",
    )
    low: float = option(
        0.05,
        "Cosine up to which an update passes; with calibration fixed.",
        unit="cosine",
        ge=0,
        le=1,
    )
    high: float = option(
        0.3,
        "Cosine above which an update is skipped; with calibration fixed.",
        unit="cosine",
        ge=0,
        le=1,
    )
    projection: Literal["cap", "remove"] = option(
        "cap",
        "What projection leaves of the part along the previous gradient: cap, at most low times "
        "the gradient's length; remove, nothing.",
    )
    max_skips: int = option(
        3,
        "Skips in a row after which an update is projected instead.",
        unit="updates",
        ge=0,
        le=1000,
        remedy="unlimited skipping never ends: a skipped update changes nothing",
    )
    scope: Literal["policy", "all"] = option(
        "policy",
        "Whose gradient is measured and controlled: policy, or all (the value gradient dominates).",
    )
    adam_damping: bool = option(
        False,
        "Multiply a projected update's learning rate by the share of the gradient's length that "
        "is left, which Adam would otherwise restore.",
    )
    calibration: Literal["auto", "fixed"] = option(
        "auto",
        "auto: low and high come from the run's own first updates (calibrationUpdates, "
        "deviations). fixed: as given.",
    )
    calibration_updates: int = option(
        50, "Updates that calibration auto measures.", unit="updates", ge=8, le=100_000
    )
    deviations: Deviations = option(Deviations, "Thresholds of calibration auto.")
    memory_dtype: Literal["bfloat16", "float32"] = option(
        "bfloat16", "Type in which the previous gradient is remembered."
    )
    memory: Literal["raw", "projected"] = option(
        "raw",
        "Which gradient is remembered: raw as computed, or projected as applied (its regimes "
        "alternate).",
    )
    smoothing: float = option(
        0.2, "Weight of the newest cosine in the exponential moving average.", gt=0, le=1
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            path=("low",),
            cel="self.low <= self.high",
            holds=lambda alignment: alignment.low <= alignment.high,
            message="must not be greater than high; lower low or raise high",
        ),
    )
