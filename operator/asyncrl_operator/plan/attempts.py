"""Which Jobs a run needs, which go, and which lost pods are replaced at once.

The learner's ranks live and die together: when a pod of theirs is lost, the whole Job is replaced
by one of the next attempt. The attempt is in the status before its pods exist, so no two learners
share one. A container that ended is another matter: the kubelet restarts it in place. Where that
is in vain because the node is ill, the pod is given up with its Job, which is all the operator may
delete.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from asyncrl_api.exits import Note
from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJob
from asyncrl_operator.plan.failures import explain_pod
from asyncrl_operator.plan.losses import Loss
from asyncrl_operator.plan.names import ROLES, Owner, Role
from asyncrl_operator.plan.objects import (
    Object,
    Reference,
    replacement_pod,
    role_job,
    template_hash,
)
from asyncrl_operator.plan.observed import Observed, Pod, RoleJob
from asyncrl_operator.plan.pods import durable, role_spec
from asyncrl_operator.plan.settings import Settings

REPLACED_AGAIN = timedelta(seconds=10)
"""A pod that is lost sooner than this after its replacement is left to the Job's own back-off."""
LOST_NODE = timedelta(seconds=30)
"""A pod that should be gone for so long is on a node that does not answer."""

MOVED_AFTER = 2
"""Restarts in place after which a container that fails again on an ill node goes elsewhere."""

LEFT_EARLY = timedelta(seconds=60)
"""The learner ends with the others; if it has not after this long, they are needed again."""


@dataclass(frozen=True)
class Work:
    """What to do about the roles' Jobs and pods."""

    apply: tuple[Object, ...] = ()
    delete: tuple[Reference, ...] = ()
    successors: tuple[Object, ...] = ()
    """Jobs that will take the place of those to delete, once these are gone."""
    create_pods: tuple[Object, ...] = ()
    replaced: tuple[tuple[Role, int, str], ...] = ()
    """Role, index and line of the pods that are replaced."""
    look_at: datetime | None = None


@dataclass(frozen=True)
class Attempt:
    """The attempt that the learner should be in."""

    number: int
    why: Note | None = None
    """Why it is a new one, if not for a stop."""
    loss: Loss | None = None
    """By what the one before was lost, if it was."""


def next_attempt(job: AsyncRLJob, attempt: int, observed: Observed, *, stopping: bool) -> Attempt:
    """The attempt that follows from what is observed."""
    current = observed.jobs.get("learner")
    if current is None:
        return Attempt(attempt)
    attempt = max(attempt, current.attempt)
    if current.attempt < attempt:
        return Attempt(attempt)
    if stopping:
        return Attempt(attempt + 1)
    if current.template_hash != template_hash(job, "learner"):
        line = "the learner restarts with its new spec"
        return Attempt(attempt + 1, Note(Reason.SPEC_CHANGED, line))
    loss = _lost_learner(current, observed) or _crashes_on_ill_node(job, "learner", observed)
    if loss is None:
        return Attempt(attempt)
    reason = Reason.LEARNER_LOST if durable(job) else Reason.CHECKPOINT_GONE
    return Attempt(attempt + 1, Note(reason, loss.message), loss)


def _lost_learner(current: RoleJob, observed: Observed) -> Loss | None:
    pods = observed.current("learner")
    lost = [pod for pod in pods if pod.lost]
    if lost:
        return Loss(explain_pod(lost[0]), by_itself=all(pod.failed_by_itself for pod in lost))
    if current.deleting:
        return Loss("learner-0: its Job was deleted")
    seen = observed.seen_ready.get("learner", frozenset())
    missing = sorted(seen - {pod.index for pod in pods} - current.completed_indexes)
    if missing:
        return Loss(f"learner-{missing[0]}: its pod is gone")
    if current.failed:
        return Loss("learner-0: a pod was lost and replaced while the operator was away")
    return None


def _crashes_on_ill_node(job: AsyncRLJob, role: Role, observed: Observed) -> Loss | None:
    """A container that the kubelet restarts in vain, where its node may be why.

    A learner without a volume would begin anew elsewhere: it goes when the run would end instead.
    """
    patience = MOVED_AFTER
    if role == "learner" and not durable(job):
        patience = max(patience, job.spec.run_policy.backoff_limit)
    for pod in observed.current(role):
        if pod.crashes and pod.blames_node and pod.restarts >= patience:
            return Loss(explain_pod(pod))
    return None


def running_work(
    job: AsyncRLJob,
    owner: Owner,
    attempt: int,
    observed: Observed,
    settings: Settings,
    now: datetime,
    learner_at: datetime | None = None,
) -> Work:
    """The Jobs of a run that goes on; a learner that is not there begins at `learner_at`."""
    apply: list[Object] = []
    delete: list[Reference] = []
    successors: list[Object] = []
    pods: list[Object] = []
    replaced: list[tuple[Role, int, str]] = []
    looks: list[datetime] = []
    for role in ROLES:
        current = observed.jobs.get(role)
        if current is None:
            wait = _until_gone(observed.pods_of(role), now)
            if wait is None and role == "learner":
                wait = learner_at
            if wait is None:
                apply.append(role_job(job, owner, role, attempt, settings))
            else:
                looks.append(wait)
        elif (
            _outdated(job, role, current, attempt)
            or _left_early(current, observed, now)
            or (role == "parameter-server" and _crashes_on_ill_node(job, role, observed))
        ):
            if not current.deleting:
                delete.append(Reference("Job", current.name, current.uid))
                successors.append(role_job(job, owner, role, attempt, settings))
        elif not current.deleting:
            if role != "learner" and _left(current, observed):
                looks.append(now + LEFT_EARLY)
            apply.append(role_job(job, owner, role, current.attempt, settings))
            if role != "learner":
                made, look = _replacements(job, owner, current, observed, now)
                pods += [pod for pod, _, _ in made]
                replaced += [(role, index, line) for _, index, line in made]
                looks += look
    return Work(
        tuple(apply),
        tuple(delete),
        tuple(successors),
        tuple(pods),
        tuple(replaced),
        min(looks, default=None),
    )


def stopping_work(observed: Observed, now: datetime) -> Work:
    """End the roles: the learner first, which checkpoints; then the others."""
    learner = observed.jobs.get("learner")
    if learner is not None:
        gone = () if learner.deleting else (Reference("Job", learner.name, learner.uid),)
        return Work(delete=gone)
    wait = _until_gone(observed.pods_of("learner"), now)
    if wait is not None:
        return Work(look_at=wait)
    jobs = [job for job in observed.jobs.values() if not job.deleting]
    return Work(delete=tuple(Reference("Job", job.name, job.uid) for job in jobs))


def stopped(observed: Observed, now: datetime) -> bool:
    """Whether no process of the run is left."""
    return not observed.jobs and _until_gone(observed.pods, now) is None


def _outdated(job: AsyncRLJob, role: Role, current: RoleJob, attempt: int) -> bool:
    if role == "learner":
        return current.attempt < attempt
    if current.template_hash != template_hash(job, role):
        return True
    # A learner that begins anew needs a parameter server that does too.
    return role == "parameter-server" and not durable(job) and current.attempt < attempt


def _left_early(current: RoleJob, observed: Observed, now: datetime) -> bool:
    """Whether a role ended with the run, and the run did not: its learner came back."""
    if current.role == "learner" or not _left(current, observed):
        return False
    ends = [pod.ended.finished_at for pod in observed.current(current.role) if pod.ended]
    newest = max((end for end in ends if end is not None), default=current.created)
    return now - newest > LEFT_EARLY


def _left(current: RoleJob, observed: Observed) -> bool:
    """Whether every process of a role has ended well; with a sidecar its Job does not say so."""
    done = {pod.index for pod in observed.current(current.role) if pod.done}
    return current.complete or (bool(done) and len(done) >= current.completions)


def _until_gone(pods: tuple[Pod, ...], now: datetime) -> datetime | None:
    """When to look again for pods that may still run; None if there are none."""
    waits = []
    for pod in pods:
        if pod.phase in ("Succeeded", "Failed"):
            continue
        if pod.deleted is None:
            waits.append(now + LOST_NODE)
        elif now < pod.deleted + LOST_NODE:
            waits.append(pod.deleted + LOST_NODE)
    return min(waits, default=None)


def _replacements(
    job: AsyncRLJob, owner: Owner, current: RoleJob, observed: Observed, now: datetime
) -> tuple[list[tuple[Object, int, str]], list[datetime]]:
    """Pods in the place of lost ones that had been ready, now and not after the Job's back-off.

    Measured: the Job controller waits 10 s and more before it replaces a lost pod. One that is lost
    again at once is left to it, so that its back-off holds.
    """
    role = current.role
    pods = observed.current(role)
    present = {pod.index for pod in pods if pod.live} | current.completed_indexes
    wanted = range(min(current.completions, role_spec(job, role).replicas))
    made: list[tuple[Object, int, str]] = []
    looks: list[datetime] = []
    for index in wanted:
        if index in present or index not in observed.seen_ready.get(role, frozenset()):
            continue
        lost = [pod for pod in pods if pod.index == index]
        newest = max(lost, key=lambda pod: pod.created, default=None)
        if newest is not None and not newest.lost:
            continue
        before = observed.replaced.get((role, index))
        if before is not None and now - before < REPLACED_AGAIN:
            looks.append(before + REPLACED_AGAIN)
            continue
        line = f"{role}-{index}: its pod is gone" if newest is None else explain_pod(newest)
        made.append((replacement_pod(current, owner, newest, index), index, line))
    return made, looks
