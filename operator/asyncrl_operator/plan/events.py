"""Events: every change of a condition is one, and no state lives only in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asyncrl_api.reasons import CONDITION_MEANINGS, Reason
from asyncrl_api.status import Condition, JobStatus

GOOD = {"Accepted", "QuotaReserved", "Running", "AlignmentHealthy", "Stable", "Complete"}
"""Conditions whose absence is what to be warned of; of the others it is their presence."""

EXPECTED = (
    *(Reason.STARTING, Reason.NOT_STARTED, Reason.FINISHED),
    *(Reason.SUSPENDED_BY_USER, Reason.SPEC_CHANGED),
)
"""Reasons by which such a condition is False in the ordinary life of a job."""


@dataclass(frozen=True)
class Event:
    """An event of a job."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def condition_events(before: JobStatus, after: JobStatus) -> tuple[Event, ...]:
    """One event for each condition whose status or reason changed."""
    known = {c.type: (c.status, c.reason) for c in before.conditions}
    changed = [c for c in after.conditions if known.get(c.type) != (c.status, c.reason)]
    return tuple(_event(condition) for condition in changed)


def _event(condition: Condition) -> Event:
    if condition.type in GOOD:
        warns = condition.status == "False" and condition.reason not in EXPECTED
    else:
        warns = condition.type in ("Failed", "Restarting") and condition.status == "True"
    meaning = CONDITION_MEANINGS[condition.type] if condition.status == "True" else ""
    detail = condition.message or meaning
    line = f"{condition.type} is {condition.status}" + (f": {detail}" if detail else "")
    return Event("Warning" if warns else "Normal", condition.reason, line)
