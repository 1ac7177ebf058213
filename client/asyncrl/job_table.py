"""Several jobs, one line each, with the columns of `kubectl get asyncrljobs`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from asyncrl.numbers import ABSENT, clock, number, signed, whole

if TYPE_CHECKING:
    from asyncrl.backends.kubernetes import Job

HEADINGS = (
    "NAME",
    "PHASE",
    "VERSION",
    "RETURN",
    "ALIGNMENT",
    "STABILITY",
    "STALENESS",
    "ACTORS",
    "AGE",
)


def job_table(jobs: Iterable[Job], now: datetime) -> str:
    """Lines of equal columns, the headings first."""
    rows = [HEADINGS, *(_row(job, now) for job in jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _row(job: Job, now: datetime) -> tuple[str, ...]:
    status = job.status
    training, alignment = status.training, status.alignment
    stability, staleness, actors = status.stability, status.staleness, status.actors
    version = training.policy_version if training else None
    return (
        job.name,
        status.phase,
        ABSENT if version is None else str(version),
        number(training.episode_return) if training else ABSENT,
        signed(alignment.smoothed) if alignment else ABSENT,
        (stability.verdict if stability else None) or ABSENT,
        whole(staleness.mean) if staleness else ABSENT,
        str(actors.replicas) if actors else ABSENT,
        clock(max(0.0, (now - job.created).total_seconds())),
    )
