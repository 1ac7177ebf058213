"""The options of gradient alignment control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["off", "observe", "control"]
Projection = Literal["cap", "remove"]
Calibration = Literal["auto", "fixed"]
MemoryDtype = Literal["bfloat16", "float32"]
Memory = Literal["raw", "projected"]


@dataclass(frozen=True)
class AlignmentConfig:
    """What to measure and when to act. Cosines are in [-1, 1], counts in optimizer steps.

    mode: "off" touches nothing; "observe" measures, and drops non-finite gradients only; "control"
        also projects and skips.
    calibration: "auto" sets the thresholds from the run's own healthy level, see `HealthyLevel`;
        "fixed" uses `low` and `high` from the second step on.
    low, high: thresholds of the fixed form: up to `low` pass, up to `high` project, above skip.
        In the automatic form `low` is the least that a capped projection leaves.
    projection: "cap" limits the part of the gradient along the previous one to `low` times its
        norm (automatic form: the healthy cosine times its norm); "remove" takes it away.
    max_skips: longest row of skipped steps. Skipping without end deadlocks: a skipped step changes
        nothing, so the next gradient is just as aligned. 0 never skips.
    adam_damping: report |projected| / |gradient| as `learning_rate_factor`, because Adam
        renormalises the length that the projection removed.
    calibration_updates: comparisons that make up the first healthy level.
    low_deviations, high_deviations: distance of the automatic thresholds from the healthy level,
        in standard deviations of the smoothed cosine.
    smoothing: weight of the newest cosine in the running mean, which the automatic thresholds
        judge beside the cosine itself.
    memory_dtype: type in which the previous gradient is kept.
    memory: which gradient is remembered after a projection. "projected" makes the regimes
        alternate and is there for experiments.

    Raises ValueError, one line that names field, value and remedy.
    """

    mode: Mode = "control"
    calibration: Calibration = "auto"
    low: float = 0.05
    high: float = 0.3
    projection: Projection = "cap"
    max_skips: int = 3
    adam_damping: bool = False
    calibration_updates: int = 50
    low_deviations: float = 3.5
    high_deviations: float = 5.0
    smoothing: float = 0.2
    memory_dtype: MemoryDtype = "bfloat16"
    memory: Memory = "raw"

    def __post_init__(self) -> None:
        choices = {
            "mode": Mode,
            "calibration": Calibration,
            "projection": Projection,
            "memory_dtype": MemoryDtype,
            "memory": Memory,
        }
        for name, kind in choices.items():
            _require(getattr(self, name) in get_args(kind), self, name, f"one of {get_args(kind)}")
        _require(
            0.0 <= self.low <= self.high, self, "low", f"at least 0 and at most high {self.high}"
        )
        _require(self.high <= 1.0, self, "high", "at most 1")
        _require(self.max_skips >= 0, self, "max_skips", "0 or more")
        _require(self.calibration_updates >= 8, self, "calibration_updates", "8 or more")
        _require(self.low_deviations > 0.0, self, "low_deviations", "more than 0")
        _require(
            self.high_deviations >= self.low_deviations,
            self,
            "high_deviations",
            f"at least low_deviations {self.low_deviations}",
        )
        _require(0.0 < self.smoothing <= 1.0, self, "smoothing", "more than 0 and at most 1")


def _require(met: bool, config: AlignmentConfig, name: str, remedy: str) -> None:
    if not met:
        raise ValueError(f"alignment {name}: {getattr(config, name)!r}; use {remedy}")
