"""The stability judge's thresholds, from the manifest."""

from __future__ import annotations

from asyncrl_api.stability import Stability
from asyncrl_worker.stability import StabilityThresholds, Threshold


def stability_thresholds(stability: Stability) -> StabilityThresholds:
    """The manifest's `stability.thresholds` for the judge, which knows nothing of manifests."""
    thresholds = stability.thresholds
    return StabilityThresholds(
        kl=Threshold(thresholds.kl.watch, thresholds.kl.degraded),
        max_log_ratio=Threshold(thresholds.max_log_ratio.watch, thresholds.max_log_ratio.degraded),
        effective_sample_size=Threshold(
            thresholds.effective_sample_size.watch, thresholds.effective_sample_size.degraded
        ),
        entropy_fraction=Threshold(
            thresholds.entropy_fraction.watch, thresholds.entropy_fraction.degraded
        ),
        gradient_norm_z_score=Threshold(
            thresholds.gradient_norm_z_score.watch, thresholds.gradient_norm_z_score.degraded
        ),
        relative_alignment=Threshold(
            thresholds.relative_alignment.watch, thresholds.relative_alignment.degraded
        ),
        enter_updates=stability.enter_updates,
        leave_updates=stability.leave_updates,
    )
