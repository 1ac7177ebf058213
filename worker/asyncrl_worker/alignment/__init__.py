"""Gradient alignment control: our reading of GAC (Xu et al., arXiv 2603.01501).

With stale rollouts consecutive policy gradients point the same way and overshoot. This package
measures the cosine of consecutive gradients and passes, projects or skips a step by it. It depends
on torch alone, so it serves any training loop::

    guard = GradientAlignment(policy.parameters(), AlignmentConfig())
    loss.backward()
    if guard.step().apply:
        optimizer.step()
"""

from asyncrl_worker.alignment.calibration import HealthyLevel
from asyncrl_worker.alignment.config import AlignmentConfig
from asyncrl_worker.alignment.controller import (
    AlignmentDecision,
    AlignmentState,
    GradientAlignment,
)
from asyncrl_worker.alignment.measure import gradient_cosine, project
from asyncrl_worker.alignment.regime import (
    Regime,
    classify,
    kept_fraction,
    projected_norm,
    relative_alignment,
    split_half_prediction,
)

__all__ = [
    "AlignmentConfig",
    "AlignmentDecision",
    "AlignmentState",
    "GradientAlignment",
    "HealthyLevel",
    "Regime",
    "classify",
    "gradient_cosine",
    "kept_fraction",
    "project",
    "projected_norm",
    "relative_alignment",
    "split_half_prediction",
]
