"""Gradient alignment control around an optimizer step."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from asyncrl_worker.alignment.calibration import HealthyLevel
from asyncrl_worker.alignment.config import AlignmentConfig
from asyncrl_worker.alignment.measure import GradientMemory
from asyncrl_worker.alignment.regime import Regime, classify, kept_fraction, projected_norm

_log = logging.getLogger(__name__)

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class AlignmentDecision:
    """What one step measured and what to do. Numbers that were not measured are None, never 0.

    apply: whether to call optimizer.step(). Where False: no optimizer step, no tick of a scheduler
        that counts these, no weight decay, no new version; the batch counts as consumed.
    regime: what the thresholds call for. In "observe" nothing is done about it, except that a
        non-finite gradient is dropped there too.
    reason: why there was no comparison or no control: "off", "first" (nothing to compare with: at
        start, after rebase, after an unusable gradient), "zero", "non-finite", "calibrating",
        "observing"; None in control.
    cosine, smoothed: of this gradient with the previous one; its running mean.
    scale: |g~| / |g| of what is in .grad now, 1 without projection.
    gradient_norm, projected_norm: L2 norms before and after, over all shards.
    low, high: thresholds in force; None while calibrating.
    calibrated: whether they come from calibration; never with "fixed".
    learning_rate_factor: factor for this step's learning rate, 1 unless `adam_damping`.
    """

    apply: bool
    regime: Regime
    reason: str | None = None
    cosine: float | None = None
    smoothed: float | None = None
    scale: float = 1.0
    gradient_norm: float | None = None
    projected_norm: float | None = None
    low: float | None = None
    high: float | None = None
    calibrated: bool = False
    learning_rate_factor: float = 1.0


class AlignmentState(TypedDict):
    """State of the guard: tensors for safetensors, scalars for JSON."""

    tensors: dict[str, Tensor]
    scalars: dict[str, float | int | str]


_OFF = AlignmentDecision(apply=True, regime=Regime.PASS, reason="off")


class GradientAlignment:
    """Measures each gradient against the previous one and passes, projects or skips the step.

    Call `step` after the backward passes, the data-parallel reduction and the unscaling, and before
    norm clipping. It reads and edits `.grad` of `parameters` in place; DDP and FSDP2 parameters are
    fine, each rank then takes the same decision. Give it the policy's parameters only: the value
    loss of an actor-critic dominates the whole gradient and hides the signal.

    Memory: with bfloat16 two bytes per element of this rank in "observe", four in "control".

    Our reading of Xu et al., arXiv 2603.01501.
    """

    def __init__(self, parameters: Iterable[Tensor], config: AlignmentConfig | None = None) -> None:
        self._config = config or AlignmentConfig()
        self._memory: GradientMemory | None = None
        if self._config.mode != "off":
            self._memory = GradientMemory(
                parameters,
                _DTYPES[self._config.memory_dtype],
                keep_previous=self._config.mode == "control",
            )
        self._healthy: HealthyLevel | None = None
        if self._config.calibration == "auto":
            self._healthy = HealthyLevel(
                self._config.calibration_updates,
                self._config.low_deviations,
                self._config.high_deviations,
                self._config.smoothing,
            )
        self._previous_norm: float | None = None
        self._comparisons = 0
        self._smoothed: float | None = None
        self._skips = 0

    @property
    def config(self) -> AlignmentConfig:
        return self._config

    def step(self) -> AlignmentDecision:
        """Judges the gradients in `.grad`, and in "control" edits them."""
        if self._memory is None:
            return _OFF
        products = self._memory.measure()
        norm = math.sqrt(products.squared_norm) if products.squared_norm >= 0.0 else math.nan
        usable = math.isfinite(norm) and norm > 0.0
        previous_norm, self._previous_norm = self._previous_norm, norm if usable else None
        if not usable:
            return self._unusable(norm)
        if previous_norm is None:
            self._memory.swap()
            return self._uncompared("first", norm)
        cosine = min(1.0, max(-1.0, products.inner / (norm * previous_norm)))
        decision, kept = self._decide(cosine, norm)
        if kept < 1.0:
            remember = self._config.memory == "projected"
            self._memory.project((1.0 - kept) * cosine * norm / previous_norm, remember=remember)
            if remember:
                self._previous_norm = decision.projected_norm or None
        self._memory.swap()
        return decision

    def rebase(self) -> None:
        """Forgets the previous gradient, for a boundary across which none should be compared.

        After a restart from other weights, a change of task, or where an epoch over the same
        rollout batch begins again. Thresholds and smoothing stay.
        """
        self._previous_norm = None

    def state_dict(self) -> AlignmentState:
        """Everything needed to go on bitwise equally on the same rank layout."""
        tensors: dict[str, Tensor] = {}
        scalars: dict[str, float | int | str] = {
            "comparisons": self._comparisons,
            "skips": self._skips,
        }
        if self._smoothed is not None:
            scalars["smoothed"] = self._smoothed
        if self._memory is not None and self._previous_norm is not None:
            scalars["previous_norm"] = self._previous_norm
            tensors["previous"] = self._memory.previous.clone()
        if self._healthy is not None:
            scalars |= {f"healthy.{name}": value for name, value in self._healthy.state().items()}
            if self._healthy.samples:
                tensors["healthy.samples"] = torch.tensor(
                    self._healthy.samples, dtype=torch.float64
                )
        return {"tensors": tensors, "scalars": scalars}

    def load_state_dict(self, state: AlignmentState) -> None:
        """Restores `state_dict`. Without the tensor "previous" it starts as after `rebase`.

        Raises ValueError if "previous" belongs to another model or number of ranks.
        """
        tensors, scalars = state["tensors"], state["scalars"]
        self._comparisons = int(scalars.get("comparisons", 0))
        self._skips = int(scalars.get("skips", 0))
        self._smoothed = _optional(scalars, "smoothed")
        self._previous_norm = None
        if self._memory is not None and "previous" in tensors:
            self._memory.load(tensors["previous"])
            self._previous_norm = _optional(scalars, "previous_norm")
        if self._healthy is not None:
            prefix = "healthy."
            level = {
                name.removeprefix(prefix): float(value)
                for name, value in scalars.items()
                if name.startswith(prefix)
            }
            samples = tensors.get("healthy.samples")
            self._healthy.restore(level, [] if samples is None else samples.tolist())

    def _decide(self, cosine: float, norm: float) -> tuple[AlignmentDecision, float]:
        """Decision on a comparison and the fraction of the parallel part to keep."""
        config = self._config
        low, high = self._thresholds()
        calibrated = self._calibrated
        smoothed = self._smooth(cosine)
        target = self._target()
        regime = Regime.PASS
        if low is not None and high is not None:
            regime = classify(cosine, low, high, self._skips, config.max_skips)
        if self._healthy is not None:
            # One aligned pair of gradients is chance; the guard acts while their mean is too high.
            alarmed = low is not None and smoothed > low
            regime = regime if alarmed else Regime.PASS
            self._calibrate(self._healthy, cosine, alarmed=alarmed)
        self._skips = self._skips + 1 if regime is Regime.SKIP else 0
        acting = config.mode == "control"
        kept = 1.0
        if acting and regime is Regime.PROJECT:
            kept = kept_fraction(cosine, target, config.projection)
        after = projected_norm(norm, cosine, kept)
        scale = after / norm
        reason = "observing" if not acting else "calibrating" if low is None else None
        decision = AlignmentDecision(
            apply=not (acting and regime is Regime.SKIP),
            regime=regime,
            reason=reason,
            cosine=cosine,
            smoothed=smoothed,
            scale=scale,
            gradient_norm=norm,
            projected_norm=after,
            low=low,
            high=high,
            calibrated=calibrated,
            learning_rate_factor=scale if config.adam_damping else 1.0,
        )
        return decision, kept

    @property
    def _calibrated(self) -> bool:
        return self._healthy is not None and self._healthy.calibrated

    def _thresholds(self) -> tuple[float | None, float | None]:
        if self._healthy is None:
            return self._config.low, self._config.high
        return self._healthy.low, self._healthy.high

    def _target(self) -> float:
        """Cosine that a capped projection leaves: the healthy one, or `low` of the classic form."""
        healthy = None if self._healthy is None else self._healthy.level
        return self._config.low if healthy is None else max(self._config.low, healthy)

    def _smooth(self, cosine: float) -> float:
        """Running mean with weight `smoothing`, the plain mean while there are few."""
        self._comparisons += 1
        weight = max(self._config.smoothing, 1.0 / self._comparisons)
        before = 0.0 if self._smoothed is None else self._smoothed
        self._smoothed = before + weight * (cosine - before)
        return self._smoothed

    def _unusable(self, norm: float) -> AlignmentDecision:
        if norm == 0.0:
            return self._uncompared("zero", norm)
        low, high = self._thresholds()
        return AlignmentDecision(
            apply=False,
            regime=Regime.SKIP,
            reason="non-finite",
            smoothed=self._smoothed,
            low=low,
            high=high,
            calibrated=self._calibrated,
        )

    def _uncompared(self, reason: str, norm: float) -> AlignmentDecision:
        low, high = self._thresholds()
        self._skips = 0
        return AlignmentDecision(
            apply=True,
            regime=Regime.PASS,
            reason=reason,
            smoothed=self._smoothed,
            gradient_norm=norm,
            projected_norm=norm,
            low=low,
            high=high,
            calibrated=self._calibrated,
        )

    def _calibrate(self, healthy: HealthyLevel, cosine: float, *, alarmed: bool) -> None:
        before = healthy.calibrated
        healthy.observe(cosine, alarmed=alarmed)
        if before or not healthy.calibrated:
            return
        _log.info(
            "alignment calibrated level=%.3f spread=%.3f low=%.3f high=%.3f",
            _given(healthy.level),
            _given(healthy.spread),
            _given(healthy.low),
            _given(healthy.high),
        )


def _given(value: float | None) -> float:
    if value is None:
        raise AssertionError("alignment thresholds: read before the calibration is complete")
    return value


def _optional(scalars: Mapping[str, float | int | str], name: str) -> float | None:
    return float(scalars[name]) if name in scalars else None
