"""Specs of jobs that train until somebody ends them."""

from __future__ import annotations

from typing import Any

ENDLESS: dict[str, Any] = {
    "workload": {"gymnasium": {"id": "CartPole-v1"}},
    "stopping": {"environmentSteps": 10**9},
}

DURABLE: dict[str, Any] = ENDLESS | {
    "checkpoint": {"intervalVersions": 5, "volume": {"claim": {}}},
    "runPolicy": {"terminationGracePeriodSeconds": 20},
}
"""With checkpoints that outlive the learner's pod."""
