"""The manifest's defaults are those of the parts that can be used without it."""

from __future__ import annotations

from asyncrl_api.spec import Alignment
from asyncrl_api.stability import Stability
from asyncrl_worker.alignment import AlignmentConfig
from asyncrl_worker.learner.optimizer import alignment_config
from asyncrl_worker.learner.thresholds import stability_thresholds
from asyncrl_worker.stability import StabilityThresholds


def test_of_alignment() -> None:
    assert alignment_config(Alignment()) == AlignmentConfig()


def test_of_stability() -> None:
    assert stability_thresholds(Stability()) == StabilityThresholds()
