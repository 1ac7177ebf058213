"""When a run is over, and what remains of it then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from asyncrl_api.exits import Verdict
from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJob
from asyncrl_api.status import JobStatus, RoleStatus
from asyncrl_operator.plan.failures import explain_pod, fatal_pod, finished, reason_of
from asyncrl_operator.plan.names import ROLES, Role
from asyncrl_operator.plan.objects import Object, Reference
from asyncrl_operator.plan.observed import Ending, Observed, Pod, RoleJob

STALLS = 3
"""Stall timeouts without progress, while every role is ready, after which a run fails: what the
kubelet restarts by then has not helped."""
DRAIN = timedelta(seconds=10)
"""After the learner completed, the others get this long to leave by themselves."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    phase: Literal["Complete", "Failed", "Suspended"]
    reason: str
    message: str


def learner_ending(observed: Observed) -> tuple[Pod, Ending] | None:
    """How rank 0 of the present learner ended, if it did for good.

    Its own container says so, not the pod: a sidecar that runs on keeps that from its last phase.
    """
    for pod in observed.current("learner"):
        if pod.index != 0 or pod.ended is None:
            continue
        if pod.done or pod.phase in ("Succeeded", "Failed"):
            return pod, pod.ended
    return None


def conclude(
    job: AsyncRLJob,
    roles: dict[Role, RoleStatus],
    observed: Observed,
    *,
    active_since: datetime,
    pre_running: bool,
    progressed: datetime | None,
    now: datetime,
) -> Outcome | None:
    """How the run ended, if this is the moment.

    `progressed` is when its learner was last seen to get on, None where nobody knows.
    """
    ended = learner_ending(observed)
    if ended is not None and ended[1].verdict is Verdict.DONE:
        return _completed(ended[1], observed)
    learner = observed.jobs.get("learner")
    if learner is not None and learner.complete and ended is None:
        return _completed(Ending(0, "Completed", ""), observed)  # its pod is gone already
    pods = [pod for role in ROLES for pod in observed.current(role)]
    fatal = fatal_pod(pods)
    if fatal is not None:
        return Outcome("Failed", reason_of(fatal), explain_pod(fatal))
    return (
        _too_many_failures(job, roles, observed)
        or _deadline(job, active_since, pre_running, now)
        or _stalled(job, roles, observed, progressed)
    )


def _completed(ending: Ending, observed: Observed) -> Outcome:
    said = ending.said()
    report = ending.report() or (observed.report.report if observed.report else None)
    outcome = said.get("outcome") or (report.outcome if report else None)
    reason = said.get("reason") or (report.reason if report else None) or Reason.FINISHED
    message = said.get("message") or (report.message if report else None) or ""
    if outcome == "Suspended":
        return Outcome("Suspended", str(reason), str(message))
    return Outcome("Complete", str(reason), str(message))


def _too_many_failures(
    job: AsyncRLJob, roles: dict[Role, RoleStatus], observed: Observed
) -> Outcome | None:
    limit = job.spec.run_policy.backoff_limit
    for role in ROLES:
        if roles[role].failures <= limit:
            continue
        failed = [
            pod
            for pod in observed.current(role)
            if pod.restarts or pod.failed_by_itself
            # Actors fail one by one: many that failed once are not one that failed often.
            if role != "actor" or _failures_of(pod.index, observed) > limit
        ]
        worst = max(failed, key=lambda pod: (pod.restarts, finished(pod)), default=None)
        if worst is not None:
            times = roles[role].failures
            message = f"{explain_pod(worst)}, failed {times} times; spec.runPolicy.backoffLimit"
            return Outcome("Failed", Reason.BACKOFF_LIMIT_EXCEEDED, message)
    return None


def _failures_of(actor: int, observed: Observed) -> int:
    """How often an actor failed, in place or with its pod."""
    pods = [pod for pod in observed.current("actor") if pod.index == actor]
    return sum(pod.restarts + pod.failed_by_itself for pod in pods)


def _deadline(
    job: AsyncRLJob, active_since: datetime, pre_running: bool, now: datetime
) -> Outcome | None:
    for name, seconds in _deadlines(job, pre_running):
        if now >= active_since + timedelta(seconds=seconds):
            because = " and the roles do not run yet" if name.startswith("pre") else ""
            message = f"spec.runPolicy.{name}: {seconds} s are over{because}"
            return Outcome("Failed", Reason.DEADLINE_EXCEEDED, message)
    return None


def _deadlines(job: AsyncRLJob, pre_running: bool) -> list[tuple[str, int]]:
    policy = job.spec.run_policy
    found = [("activeDeadlineSeconds", policy.active_deadline_seconds)]
    if pre_running:
        found.append(("preRunningDeadlineSeconds", policy.pre_running_deadline_seconds))
    return [(name, seconds) for name, seconds in found if seconds is not None]


def next_deadline(job: AsyncRLJob, active_since: datetime, pre_running: bool) -> datetime | None:
    """When `conclude` may have something new to say although nothing happened."""
    ends = [active_since + timedelta(seconds=s) for _, s in _deadlines(job, pre_running)]
    return min(ends, default=None)


def _stalled(
    job: AsyncRLJob,
    roles: dict[Role, RoleStatus],
    observed: Observed,
    progressed: datetime | None,
) -> Outcome | None:
    ready = all(roles[role].ready for role in ROLES)
    seconds = STALLS * job.spec.run_policy.stall_timeout_seconds
    if progressed is None or observed.report is None or not ready:
        return None
    since = [progressed]
    for role in ROLES:
        # One that came back a moment ago has not stalled yet.
        pods = observed.current(role)
        since += sorted(p.ready_since for p in pods if p.ready and p.ready_since)[:1]
    # What became of the run since its last report nobody knows.
    if (observed.report.received - max(since)).total_seconds() < seconds:
        return None
    message = (
        f"learner-0: no progress for {seconds} s while every role was ready; see the logs of the "
        "roles, or raise spec.runPolicy.stallTimeoutSeconds"
    )
    return Outcome("Failed", Reason.STALLED, message)


@dataclass(frozen=True)
class Remains:
    """What to do with a run that is over."""

    suspend: tuple[Object, ...] = ()
    """Jobs to suspend: their running pods go, the ended ones stay with their logs."""
    delete: tuple[Reference, ...] = ()
    delete_job: bool = False
    look_at: datetime | None = None


def clean_up(
    job: AsyncRLJob,
    status: JobStatus,
    observed: Observed,
    now: datetime,
    suspended: dict[Role, Object],
) -> Remains:
    """Pods by cleanPodPolicy once the roles had time to leave, and the job itself by its TTL.

    `suspended` has the Job of each role with `suspend: true`.
    """
    policy = job.spec.run_policy
    ended = status.completion_time or now
    looks: list[datetime] = []
    if policy.ttl_seconds_after_finished is not None:
        due = ended + timedelta(seconds=policy.ttl_seconds_after_finished)
        if now >= due:
            return Remains(delete_job=True)
        looks.append(due)
    drained = ended + DRAIN if status.phase == "Complete" else ended
    suspend: list[Object] = []
    delete: list[Reference] = []
    for role in _in_order(observed.jobs):
        current = observed.jobs[role]
        if current.deleting:
            continue
        if policy.clean_pod_policy == "All" and now >= drained:
            delete.append(Reference("Job", current.name, current.uid))
        elif policy.clean_pod_policy == "Running" and not current.complete:
            if current.suspended:
                continue
            if now < drained:
                looks.append(drained)
            elif role == "learner" or _learner_gone(observed):
                suspend.append(suspended[role])
    return Remains(tuple(suspend), tuple(delete), False, min(looks, default=None))


def _in_order(jobs: Mapping[Role, RoleJob]) -> Sequence[Role]:
    order: tuple[Role, ...] = ("learner", "actor", "parameter-server")
    return [role for role in order if role in jobs]


def _learner_gone(observed: Observed) -> bool:
    """A learner that still checkpoints needs its peers' answers no more, but its time."""
    current: RoleJob | None = observed.jobs.get("learner")
    if current is None or current.complete:
        return True
    return not any(pod.phase in ("Pending", "Running") for pod in observed.current("learner"))
