"""Events: every change of a condition is one, and no state lives only in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from asyncrl_api.reasons import CONDITION_MEANINGS, Reason
from asyncrl_api.status import Condition, ConditionStatus, ConditionType, JobStatus
from asyncrl_operator.plan.status import PROBLEMS

Kind = Literal["Normal", "Warning"]

GOOD = {"Accepted", "QuotaReserved", "Running", "AlignmentHealthy", "Stable", "Complete"}
"""Conditions whose absence is what to be warned of; of the others it is their presence."""

EXPECTED = (
    *(Reason.STARTING, Reason.NOT_STARTED, Reason.FINISHED),
    *(Reason.SUSPENDED_BY_USER, Reason.SPEC_CHANGED),
)
"""Reasons that belong to the ordinary life of a job."""

_LOST = (
    Reason.LEARNER_LOST,
    Reason.PARAMETER_SERVER_LOST,
    Reason.CHECKPOINT_GONE,
    Reason.SPEC_CHANGED,
)
_SUSPENDED = (Reason.SUSPENDED_BY_USER, Reason.SUSPENDED_BY_STABILITY)

REASONS: Mapping[tuple[ConditionType, ConditionStatus], tuple[Reason, ...]] = {
    ("Accepted", "True"): (Reason.VALID,),
    ("Accepted", "False"): (
        Reason.INVALID_SPEC,
        Reason.IMMUTABLE_FIELD,
        Reason.NAME_TAKEN,
        Reason.OBJECT_REFUSED,
    ),
    ("Running", "True"): (Reason.ALL_ROLES_READY, Reason.TOO_FEW_ACTORS, Reason.STARTING),
    ("Running", "False"): (Reason.STARTING, *PROBLEMS, *_LOST, *_SUSPENDED, Reason.FINISHED),
    ("Suspended", "True"): _SUSPENDED,
    ("Suspended", "False"): (
        Reason.SUSPENDING,
        Reason.SUSPENDED_BY_STABILITY,  # on its way there
        Reason.RESUMED,
    ),
    ("Restarting", "True"): _LOST,
    ("Restarting", "False"): (Reason.RESUMED, *_SUSPENDED, Reason.FINISHED),
    ("AlignmentHealthy", "True"): (Reason.ALIGNMENT_WITHIN_THRESHOLDS,),
    ("AlignmentHealthy", "False"): (Reason.ALIGNMENT_HIGH,),
    ("AlignmentHealthy", "Unknown"): (
        Reason.CALIBRATING,
        Reason.ALIGNMENT_OFF,
        Reason.NO_DATA,
        Reason.STALE_REPORTS,
    ),
    ("Stable", "True"): (Reason.HEALTHY, Reason.WATCH),
    ("Stable", "False"): (Reason.DEGRADED, Reason.DIVERGED),
    ("Stable", "Unknown"): (Reason.NO_DATA, Reason.STALE_REPORTS),
    ("Complete", "True"): (
        Reason.ENVIRONMENT_STEPS_REACHED,
        Reason.POLICY_VERSIONS_REACHED,
        Reason.TARGET_RETURN_REACHED,
        Reason.WALL_TIME_REACHED,
        Reason.FINISHED,
    ),
    ("Failed", "True"): (
        # What the operator decides.
        Reason.BACKOFF_LIMIT_EXCEEDED,
        Reason.DISRUPTION_LIMIT_EXCEEDED,
        Reason.DEADLINE_EXCEEDED,
        Reason.STALLED,
        Reason.OUT_OF_MEMORY,
        # The last words of roles that end for good.
        Reason.STABILITY_FAILED,
        Reason.STALENESS_VIOLATED,
        Reason.ENVIRONMENT_FAILED,
        Reason.UNKNOWN_ENVIRONMENT,
        Reason.UNSUPPORTED_ENVIRONMENT,
        Reason.INVALID_SPEC,
        Reason.PROTOCOL_MISMATCH,
        Reason.PORT_TAKEN,
        Reason.DISK_FULL,
        Reason.DISK_UNWRITABLE,
        Reason.CHECKPOINT_INVALID,
        Reason.INTERNAL_ERROR,
    ),
}
"""What a condition may say, by its status; a reason of Kubernetes itself may come in Failed too."""

BESIDE: Mapping[Reason, Kind] = {Reason.ACTOR_LOST: "Warning"}
"""Events that are no change of a condition."""


@dataclass(frozen=True)
class Event:
    """An event of a job."""

    kind: Kind
    reason: str
    message: str


def event_beside(reason: Reason, message: str) -> Event:
    """An event that is no change of a condition."""
    return Event(BESIDE[reason], reason, message)


def condition_events(before: JobStatus, after: JobStatus) -> tuple[Event, ...]:
    """One event for each condition whose status or reason changed."""
    known = {c.type: (c.status, c.reason) for c in before.conditions}
    changed = [c for c in after.conditions if known.get(c.type) != (c.status, c.reason)]
    return tuple(_event(condition) for condition in changed)


def event_kind(condition: ConditionType, status: ConditionStatus, reason: str) -> Kind:
    """Whether it is something to be warned of that a condition says this."""
    if condition in GOOD:
        warns = status == "False"
    else:
        warns = condition in ("Failed", "Restarting") and status == "True"
    warns = warns and reason not in EXPECTED
    return "Warning" if warns else "Normal"


def _event(condition: Condition) -> Event:
    meaning = CONDITION_MEANINGS[condition.type] if condition.status == "True" else ""
    detail = condition.message or meaning
    line = f"{condition.type} is {condition.status}" + (f": {detail}" if detail else "")
    kind = event_kind(condition.type, condition.status, condition.reason)
    return Event(kind, condition.reason, line)
