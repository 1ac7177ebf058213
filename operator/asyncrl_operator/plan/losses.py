"""What the loss of a learner's attempt costs: a wait before the next one, and part of a limit.

What ended the process from outside counts against `disruptionLimit`, what it did itself against
`backoffLimit`. Everything follows from times and counters in the status, so that a restart of the
operator neither shortens a wait nor forgets a loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from asyncrl_api.conditions import Conditions
from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJob
from asyncrl_api.status import RoleStatus
from asyncrl_operator.plan.ending import Outcome
from asyncrl_operator.plan.failures import explain_pod, in_a_row
from asyncrl_operator.plan.names import Role
from asyncrl_operator.plan.observed import Observed

FIRST = timedelta(seconds=10)
CAP = timedelta(minutes=5)
"""The back-off of the kubelet for containers: at once, then 10 s, twice as long each time."""


@dataclass(frozen=True)
class Loss:
    """How an attempt of the learner was lost."""

    message: str
    by_itself: bool = False
    """Whether the process failed of its own, and was not disrupted from outside."""


def back_off(losses: int) -> timedelta:
    """How long the attempt waits that follows so many losses in a row."""
    if losses < 2:
        return timedelta()
    # 2 to a large power is of no use, and takes long.
    return min(CAP, FIRST * float(2 ** min(losses - 2, 16)))


def next_start(learner: RoleStatus) -> datetime | None:
    """When the attempt after the newest loss may start."""
    if learner.lost_at is None:
        return None
    return learner.lost_at + back_off(learner.losses)


def counted(learner: RoleStatus, loss: Loss, now: datetime) -> RoleStatus:
    """The counters of the learner with a loss of now."""
    update: dict[str, object] = {
        # The wait is no quiet time.
        "losses": in_a_row(learner.losses, next_start(learner), now) + 1,
        "lost_at": now,
    }
    if loss.by_itself:
        update["restarts"] = learner.restarts + 1
        update["failures"] = in_a_row(learner.failures, learner.failed_at, now) + 1
        update["failed_at"] = now
    else:
        update["disruptions"] = learner.disruptions + 1
    return learner.model_copy(update=update)


def cleared(learner: RoleStatus) -> RoleStatus:
    """Without losses in a row: who suspends and resumes does not want to wait."""
    return learner.model_copy(update={"losses": 0, "lost_at": None})


def too_many(
    job: AsyncRLJob,
    roles: Mapping[Role, RoleStatus],
    before: Mapping[Role, RoleStatus],
    loss: Loss | None,
    observed: Observed,
    conditions: Conditions,
) -> Outcome | None:
    """How the run ends by what was lost now. Actors are made to be lost, and do not count."""
    policy = job.spec.run_policy
    learner = roles["learner"]
    if loss is not None and loss.by_itself and learner.failures > policy.backoff_limit:
        line = f"{loss.message}, failed {learner.failures} times; spec.runPolicy.backoffLimit"
        return Outcome("Failed", Reason.BACKOFF_LIMIT_EXCEEDED, line)
    if _beyond(policy.disruption_limit, learner, before.get("learner")):
        line = loss.message if loss is not None else _lost("learner", observed, conditions)
        return _disrupted("learner", learner, line)
    server = roles["parameter-server"]
    if _beyond(policy.disruption_limit, server, before.get("parameter-server")):
        line = _lost("parameter-server", observed, conditions)
        return _disrupted("parameter server", server, line)
    return None


def _beyond(limit: int | None, now: RoleStatus, before: RoleStatus | None) -> bool:
    """Whether a disruption of now is beyond the limit; who lowers it waits for the next one."""
    new = now.disruptions > (before.disruptions if before is not None else 0)
    return limit is not None and new and now.disruptions > limit


def _disrupted(role: str, status: RoleStatus, line: str) -> Outcome:
    times = "once" if status.disruptions == 1 else f"{status.disruptions} times"
    message = f"{line}; the {role} was lost {times}; spec.runPolicy.disruptionLimit"
    return Outcome("Failed", Reason.DISRUPTION_LIMIT_EXCEEDED, message)


def _lost(role: Role, observed: Observed, conditions: Conditions) -> str:
    """The newest pod of a role that was lost, or failed in place on a node that is ill."""
    pods = [p for p in observed.pods_of(role) if not p.live or (p.restarts and p.blames_node)]
    newest = max(pods, key=lambda pod: pod.created, default=None)
    if newest is not None:
        return explain_pod(newest)
    told = conditions.get("Restarting")
    if told is not None and told.reason == Reason.PARAMETER_SERVER_LOST:
        return told.message
    return f"{role}-0: its pod is gone"
