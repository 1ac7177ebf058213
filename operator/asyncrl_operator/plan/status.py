"""The status of a job: conditions, phase, and the numbers of the learner's report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from asyncrl_api.conditions import Conditions, Said, alignment_said, running_said, stable_said
from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJob
from asyncrl_api.status import (
    ActorsStatus,
    JobStatus,
    LearnerReport,
    LedgerStatus,
    Phase,
    RoleStatus,
    TrainingStatus,
)
from asyncrl_operator.plan.attempts import Attempt
from asyncrl_operator.plan.ending import Outcome
from asyncrl_operator.plan.failures import ROLE_NAMES, explain_pod, finished
from asyncrl_operator.plan.names import ROLES, Owner, Role
from asyncrl_operator.plan.observed import CRASH_LOOP, Observed, Pod, Waiting
from asyncrl_operator.plan.settings import Settings

STALE_INTERVALS = 6
STALE_SECONDS = 30.0
"""A report older than so many intervals, and than this, says nothing of now."""
IMAGE_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
)
PROBLEMS = (
    *(Reason.PODS_REFUSED, Reason.UNSCHEDULABLE, Reason.IMAGE_UNAVAILABLE, Reason.POD_BLOCKED),
)
"""Reasons of Running by which a run waits for somebody."""


def stale_after(settings: Settings) -> timedelta:
    """The age from which a report is stale."""
    return timedelta(seconds=max(STALE_SECONDS, STALE_INTERVALS * settings.report_interval))


def is_fresh(received: datetime | None, settings: Settings, now: datetime) -> bool:
    """Whether a report that came at this time says something of now."""
    return received is not None and now - received <= stale_after(settings)


def set_running(
    conditions: Conditions,
    job: AsyncRLJob,
    roles: Mapping[Role, RoleStatus],
    observed: Observed,
    now: datetime,
) -> None:
    """Running: the learner and the parameter server are ready. Actors may come and go."""
    essential = [roles["learner"], roles["parameter-server"]]
    was_running = conditions.holds("Running")
    done = [pod for pod in observed.pods if pod.done and pod.role != "actor"]
    if was_running and done and not conditions.holds("Restarting"):
        return  # the others leave, and what the learner says at its end comes in a moment
    ready = all(role.ready >= role.desired for role in essential)
    started = was_running or roles["actor"].ready > 0
    if ready and started:
        least = job.spec.actors.min_replicas or job.spec.actors.replicas
        ordered = [roles["actor"], *essential]
        said = running_said(ordered, least)
        problem = _problem(observed)
        if said[1] != Reason.ALL_ROLES_READY and problem is not None:
            said = (said[0], said[1], f"{said[2]}; {problem[2]}")
        conditions.set("Running", said, now)
        return
    restarting = conditions.get("Restarting")
    if restarting is not None and restarting.status == "True":
        said = _problem(observed) or ("False", restarting.reason, restarting.message)
    else:
        said = _problem(observed) or _starting(roles)
    conditions.set("Running", said, now)


def _starting(roles: Mapping[Role, RoleStatus]) -> Said:
    counts = ", ".join(f"{roles[r].ready} of {roles[r].desired} {ROLE_NAMES[r]}" for r in ROLES)
    return ("False", Reason.STARTING, f"ready: {counts}")


def _problem(observed: Observed) -> Said | None:
    """Why pods do not come to run, by the most telling of them."""
    for role in ROLES:
        if role in observed.refusals:
            line = f"{ROLE_NAMES[role]}: {observed.refusals[role]}"
            return ("False", Reason.PODS_REFUSED, line)
    live = [pod for pod in observed.pods if pod.live and not pod.ready]
    for pod in live:
        if pod.unschedulable is not None:
            return ("False", Reason.UNSCHEDULABLE, f"{pod.process}: {pod.unschedulable}")
    stuck = _failed_to_start(observed)
    if stuck is not None:
        return ("False", Reason.POD_BLOCKED, explain_pod(stuck))
    for pod in live:
        if pod.waiting is not None and not _restarts(pod.waiting):
            image = pod.waiting.reason in IMAGE_REASONS
            reason = Reason.IMAGE_UNAVAILABLE if image else Reason.POD_BLOCKED
            where = f"container {pod.waiting.container}: " if pod.waiting.container else ""
            detail = pod.waiting.message or pod.waiting.reason
            return ("False", reason, f"{pod.process}: {where}{pod.waiting.reason}: {detail}")
    return None


def _restarts(waiting: Waiting) -> bool:
    """Whether the role's own container is restarted: Restarting and lastFailure tell of that."""
    return waiting.reason == CRASH_LOOP and not waiting.container


def _failed_to_start(observed: Observed) -> Pod | None:
    """The newest pod whose init container failed, unless another in its place has started.

    Where the pod fails with its init container, the next one is new and knows nothing of it. Of a
    lost learner Restarting tells, with when it starts again.
    """
    every = [pod for role in ROLES for pod in observed.current(role)]
    pods = [pod for pod in every if not (pod.role == "learner" and pod.lost)]
    started = {(p.role, p.index) for p in pods if p.live and p.phase == "Running"}
    stuck = [p for p in pods if p.failed_to_start and (p.role, p.index) not in started]
    return max(stuck, key=finished, default=None)


def set_restarting(
    conditions: Conditions,
    roles: Mapping[Role, RoleStatus],
    before: Mapping[Role, RoleStatus],
    observed: Observed,
    attempt: Attempt,
    again: datetime | None,
    now: datetime,
) -> None:
    """Restarting: the learner or the parameter server is lost, and not back yet.

    `again` is when the learner starts again, if it waits.
    """
    wait = "" if again is None else f"; the learner starts again at {again:%Y-%m-%dT%H:%M:%SZ}"
    if attempt.why is not None:
        said: Said = ("True", attempt.why.reason, attempt.why.message + wait)
        conditions.set("Restarting", said, now)
        return
    essential: tuple[Role, ...] = ("learner", "parameter-server")
    for role in essential:
        if conditions.holds("Restarting") and _on_its_way_out(role, observed, attempt.number):
            continue
        ended = _ended_pod(role, roles, before, observed)
        if ended is not None:
            lost = role == "learner"
            reason = Reason.LEARNER_LOST if lost else Reason.PARAMETER_SERVER_LOST
            conditions.set("Restarting", ("True", reason, explain_pod(ended) + wait), now)
            return
    back = all(roles[role].ready >= roles[role].desired for role in essential)
    if back and conditions.holds("Restarting"):
        conditions.set("Restarting", ("False", Reason.RESUMED, ""), now)


def _on_its_way_out(role: Role, observed: Observed, attempt: int) -> bool:
    """Whether another Job takes the place of a role's: why is told already."""
    job = observed.jobs.get(role)
    outdated = role == "learner" and job is not None and job.attempt < attempt
    return outdated or (job is not None and job.deleting)


def _ended_pod(
    role: Role,
    roles: Mapping[Role, RoleStatus],
    before: Mapping[Role, RoleStatus],
    observed: Observed,
) -> Pod | None:
    """The pod by which a role was lost and is not ready again."""
    if roles[role].ready >= roles[role].desired:
        return None
    pods = observed.current(role)
    if any(pod.done for pod in pods):
        return None  # the run is about to end
    gone = [pod for pod in pods if pod.lost]
    dead = [pod for pod in pods if pod.live and pod.ended is not None]
    again = [pod for pod in pods if pod.restarts and not pod.ready]
    found = gone or dead or (again if _counted_more(roles[role], before.get(role)) else [])
    return found[0] if found else None


def _counted_more(now: RoleStatus, before: RoleStatus | None) -> bool:
    if before is None:
        return now.restarts + now.disruptions > 0
    return now.restarts > before.restarts or now.disruptions > before.disruptions


def set_health(
    conditions: Conditions,
    job: AsyncRLJob,
    report: LearnerReport | None,
    received: datetime | None,
    settings: Settings,
    now: datetime,
) -> None:
    """AlignmentHealthy and Stable; Unknown once the newest report is old."""
    fresh = is_fresh(received, settings, now)
    if report is None and fresh:
        return  # an operator that has just started: what its predecessor read still holds
    if report is None or received is None:
        said: Said = ("Unknown", Reason.NO_DATA, "")
        if received is not None:
            said = ("Unknown", Reason.STALE_REPORTS, "the learner does not report")
        conditions.set("AlignmentHealthy", said, now)
        conditions.set("Stable", said, now)
        return
    if not fresh:
        line = f"the newest report is of {received:%Y-%m-%dT%H:%M:%SZ}"
        stale: Said = ("Unknown", Reason.STALE_REPORTS, line)
        conditions.set("AlignmentHealthy", stale, now)
        conditions.set("Stable", stale, now)
        return
    before = conditions.get("AlignmentHealthy")
    mode = job.spec.alignment.mode
    conditions.set("AlignmentHealthy", alignment_said(mode, report.alignment, before), now)
    conditions.set("Stable", stable_said(report, job.spec.staleness), now)


def phase_of(conditions: Conditions, outcome: Outcome | None, *, stopping: bool) -> Phase:
    """The run in one word."""
    if outcome is not None and outcome.phase != "Suspended":
        return outcome.phase
    if conditions.holds("Suspended"):
        return "Suspended"
    if stopping:
        return "Suspending"
    if conditions.holds("Restarting"):
        return "Restarting"
    return "Running" if conditions.holds("Running") else "Pending"


def with_numbers(status: JobStatus, observed: Observed) -> JobStatus:
    """The status with the numbers of the newest report; those of the last one stay without."""
    polled = None if observed.report is None else observed.report.report
    # Times are whole seconds: of the same one, the word that the learner left at its end is newer.
    # They are of the clock of its node, which the next attempt may not share.
    candidates = [report for report in (observed.last_word, polled) if report is not None]
    report = max(candidates, key=lambda report: (report.attempt, report.time), default=None)
    if report is None:
        return status
    known = status.report_time
    if report is not polled and known is not None and report.time < known:
        return status
    seen = observed.report.received if observed.report and report is polled else report.time
    same = status.progress_time is not None and _counters(report) == _counters(status)
    return status.model_copy(
        update={
            "report_time": report.time,
            "progress_time": status.progress_time if same else seen,
            "training": report.training,
            "alignment": report.alignment,
            "stability": report.stability,
            "staleness": report.staleness,
            "ledger": report.ledger,
            "checkpoint": report.checkpoint,
        }
    )


def _counters(known: LearnerReport | JobStatus) -> tuple[object, ...]:
    """What a learner that gets on changes, whatever became of its batches."""
    training, ledger = known.training or TrainingStatus(), known.ledger or LedgerStatus()
    counts = (training.policy_version, training.environment_steps, ledger.trained)
    return (*counts, ledger.dropped)


def actors_status(owner: Owner, observed: Observed) -> ActorsStatus:
    """For the scale subresource."""
    existing = sum(pod.live for pod in observed.pods_of("actor"))
    return ActorsStatus(replicas=existing, selector=owner.pod_selector("actor"))
