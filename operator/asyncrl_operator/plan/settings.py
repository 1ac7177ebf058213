"""What the operator was started with, as far as plan() needs it."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_WORKER_IMAGE = "asyncrl-worker:0.1.0"


@dataclass(frozen=True)
class Settings:
    """Defaults for every job, and where the operator itself runs."""

    worker_image: str = DEFAULT_WORKER_IMAGE
    operator_namespace: str = "default"
    report_interval: float = 5.0
    """Seconds between two reports of a learner, and so between new numbers of a status."""
    restart_rules: bool = True
    """Whether containers can be restarted by exit code (Kubernetes 1.35 and later)."""
