"""How conditions follow from what is known of a run; pure, the time comes in.

The local supervisor and the operator share these rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from asyncrl_api.reasons import Reason
from asyncrl_api.staleness import Staleness
from asyncrl_api.status import (
    AlignmentStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    LearnerReport,
    RoleStatus,
)

Said = tuple[ConditionStatus, str, str]
"""What a condition says: status, reason, message."""


class Conditions:
    """The conditions of a run; `lastTransitionTime` moves only when a status changes."""

    def __init__(self, known: Iterable[Condition] = (), generation: int | None = None) -> None:
        self._conditions: dict[ConditionType, Condition] = {c.type: c for c in known}
        self._generation = generation

    def set(self, kind: ConditionType, said: Said, now: datetime) -> None:
        """Say what holds now."""
        status, reason, message = said
        old = self._conditions.get(kind)
        changed = old is None or old.status != status
        self._conditions[kind] = Condition(
            type=kind,
            status=status,
            reason=str(reason),
            message=message,
            last_transition_time=now if old is None or changed else old.last_transition_time,
            observed_generation=self._generation,
        )

    def get(self, kind: ConditionType) -> Condition | None:
        """The condition of this type, if it was ever set."""
        return self._conditions.get(kind)

    def holds(self, kind: ConditionType) -> bool:
        """Whether the condition is True."""
        condition = self._conditions.get(kind)
        return condition is not None and condition.status == "True"

    def all(self) -> list[Condition]:
        """Every condition, in the order they were first set."""
        return list(self._conditions.values())


def alignment_said(mode: str, alignment: AlignmentStatus, previous: Condition | None) -> Said:
    """Unhealthy above `high`, healthy again from `low` on: that width is the hysteresis."""
    if mode == "off":
        return ("Unknown", Reason.ALIGNMENT_OFF, "")
    level = alignment.smoothed
    if level is None or alignment.low is None or alignment.high is None:
        return ("Unknown", Reason.CALIBRATING, "")
    was_high = previous is not None and previous.status == "False"
    if level > alignment.high or (was_high and level > alignment.low):
        message = f"smoothed cosine {level:+.2f}, thresholds {alignment.low:+.2f} and "
        return ("False", Reason.ALIGNMENT_HIGH, f"{message}{alignment.high:+.2f}")
    return ("True", Reason.ALIGNMENT_WITHIN_THRESHOLDS, "")


def stable_said(report: LearnerReport, staleness: Staleness) -> Said:
    """True for the verdicts Healthy and Watch. What `onDegraded: pace` does about it comes first.

    `staleness` is that of the spec.
    """
    verdict, bound = report.stability.verdict, report.staleness.bound
    if verdict is None:
        return ("Unknown", Reason.NO_DATA, "")
    status: ConditionStatus = "True" if verdict in ("Healthy", "Watch") else "False"
    reasons = list(report.stability.reasons)
    if staleness.inject is None and bound is not None and bound < staleness.max:
        reasons.insert(0, f"paced: staleness bound {bound} of {staleness.max}")
    return (status, verdict, "; ".join(reasons))


def running_said(roles: Sequence[RoleStatus], least_actors: int) -> Said:
    """What Running says of a run whose learner works: the actors may still be fewer than asked."""
    if all(role.ready >= role.desired for role in roles):
        return ("True", Reason.ALL_ROLES_READY, "")
    actors = next(role for role in roles if role.name == "actors")
    message = f"{actors.ready} of {actors.desired} actors are ready"
    if actors.ready < least_actors:
        return ("True", Reason.TOO_FEW_ACTORS, message)
    return ("True", Reason.STARTING, message)
