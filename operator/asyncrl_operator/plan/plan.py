"""plan(): everything that the operator decides. Pure: the world and the time in, what to do out.

The reader may follow it from top to bottom: is the manifest valid, what happened, is the run over,
does it stop, else what does it need. The status that it returns is written before anything else is
done, so that what follows from it (an attempt, an outcome) is known before it is acted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncrl_api.conditions import Conditions, Said
from asyncrl_api.exits import Note
from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJob
from asyncrl_api.status import JobStatus, RoleStatus
from asyncrl_operator.plan.acceptance import accept
from asyncrl_operator.plan.attempts import (
    Attempt,
    Work,
    next_attempt,
    running_work,
    stopped,
    stopping_work,
)
from asyncrl_operator.plan.ending import Outcome, clean_up, conclude, next_deadline
from asyncrl_operator.plan.events import Event, condition_events, event_beside
from asyncrl_operator.plan.failures import ROLE_NAMES, count, newest_failure, role_left
from asyncrl_operator.plan.losses import cleared, counted, next_start, too_many
from asyncrl_operator.plan.names import ROLES, Owner, Role
from asyncrl_operator.plan.objects import (
    Object,
    Reference,
    base_objects,
    role_job,
    with_running_image,
)
from asyncrl_operator.plan.observed import Observed
from asyncrl_operator.plan.pods import durable, role_spec
from asyncrl_operator.plan.settings import Settings
from asyncrl_operator.plan.status import (
    PROBLEMS,
    actors_status,
    is_fresh,
    phase_of,
    set_health,
    set_restarting,
    set_running,
    stale_after,
    with_numbers,
)

CHECKPOINT_LOST = (
    "without spec.checkpoint.volume the checkpoint is gone with its pod; a resume begins anew"
)


@dataclass(frozen=True)
class Plan:
    """What to do, in this order: status, events, objects, deletions, pods."""

    status: JobStatus
    events: tuple[Event, ...] = ()
    certificates: bool = False
    """Whether the Secret with the job's certificates is needed."""
    apply: tuple[Object, ...] = ()
    delete: tuple[Reference, ...] = ()
    successors: tuple[Object, ...] = ()
    """Jobs that will take the place of those to delete: not to make, but to try."""
    create_pods: tuple[Object, ...] = ()
    replaced: tuple[tuple[Role, int], ...] = ()
    delete_job: bool = False
    look_at: datetime | None = None
    """When to plan again although nothing happened."""


@dataclass(frozen=True)
class _Situation:
    """What is known when a job is looked at."""

    job: AsyncRLJob
    owner: Owner
    generation: int | None
    before: JobStatus
    observed: Observed
    settings: Settings
    now: datetime


def plan(
    resource: Mapping[str, Any], observed: Observed, now: datetime, settings: Settings
) -> Plan:
    """The plan for an AsyncRLJob as the API server has it, status included."""
    metadata = resource["metadata"]
    owner = Owner(metadata["name"], metadata["namespace"], metadata["uid"])
    before = JobStatus.model_validate(resource.get("status") or {})
    generation = metadata.get("generation")
    conditions = Conditions(before.conditions, generation)
    over = before.phase in ("Complete", "Failed")
    accepted = accept(resource, observed, over=over)
    job, refusal = accepted.job, accepted.refusal
    valid: Said = ("True", Reason.VALID, "")
    said = valid if refusal is None else ("False", refusal.reason, refusal.message)
    conditions.set("Accepted", said, now)
    if job is None:
        assert refusal is not None
        return _refused(before, conditions, refusal, generation)
    situation = _Situation(job, owner, generation, before, observed, settings, now)
    if over:
        return _after_the_end(situation, conditions)
    return _Run(situation, conditions, refusal).plan()


def _refused(
    before: JobStatus, conditions: Conditions, refusal: Note, generation: int | None
) -> Plan:
    """No pod is made of it."""
    status = before.model_copy(
        update={
            "conditions": conditions.all(),
            "observed_generation": generation,
            "reason": refusal.reason,
            "message": refusal.message,
        }
    )
    status = JobStatus.model_validate(status.model_dump())
    return Plan(status, condition_events(before, status))


def _after_the_end(known: _Situation, conditions: Conditions) -> Plan:
    suspended: dict[Role, Object] = {}
    for role, current in known.observed.jobs.items():
        document = role_job(known.job, known.owner, role, current.attempt, known.settings)
        document["spec"]["suspend"] = True
        suspended[role] = document
    remains = clean_up(known.job, known.before, known.observed, known.now, suspended)
    update = {
        "conditions": conditions.all(),
        "observed_generation": known.generation,
        "roles": [role_left(role, known.observed) for role in known.before.roles],
        "actors": actors_status(known.owner, known.observed),
    }
    status = JobStatus.model_validate(known.before.model_copy(update=update).model_dump())
    return Plan(
        status,
        condition_events(known.before, status),
        apply=remains.suspend,
        delete=remains.delete,
        delete_job=remains.delete_job,
        look_at=remains.look_at,
    )


class _Run:
    """The plan of a run that is not over; one method for each question."""

    def __init__(self, known: _Situation, conditions: Conditions, refusal: Note | None) -> None:
        self._job, self._owner, self._generation = known.job, known.owner, known.generation
        self._before, self._observed, self._now = known.before, known.observed, known.now
        self._settings = with_running_image(known.job, known.observed.jobs, known.settings)
        self._conditions = conditions
        self._refusal = refusal
        roles = {role.name: role for role in known.before.roles}
        self._roles_before = {r: roles[ROLE_NAMES[r]] for r in ROLES if ROLE_NAMES[r] in roles}
        self._held = self._suspended_by_stability()
        self._stopping = known.job.spec.run_policy.suspend or self._held
        self._numbers = with_numbers(known.before, known.observed)

    def plan(self) -> Plan:
        """What to do about it."""
        roles = self._count()
        outcome = None
        if not self._stopping:
            outcome = conclude(
                self._job,
                roles,
                self._observed,
                active_since=self._active_since,
                pre_running=self._pre_running,
                progressed=self._progressed,
                now=self._now,
            )
            if outcome is not None and outcome.phase == "Suspended":
                self._held = self._stopping = True
        attempt = Attempt(self._before.attempt)
        if outcome is None or outcome.phase == "Suspended":
            attempt = next_attempt(
                self._job, attempt.number, self._observed, stopping=self._stopping
            )
        if outcome is None and not self._stopping:
            outcome = self._lose(roles, attempt)
        status = self._status(roles, attempt, outcome)
        events = condition_events(self._before, status)
        if outcome is not None and outcome.phase != "Suspended":
            return Plan(status, events, look_at=self._now)
        work = self._work(attempt.number, roles)
        lost = tuple(
            event_beside(Reason.ACTOR_LOST, line)
            for role, _, line in work.replaced
            if role == "actor"
        )
        return Plan(
            status,
            events + lost,
            certificates=not self._stopping,
            apply=() if self._stopping else self._base() + work.apply,
            delete=work.delete,
            successors=work.successors,
            create_pods=work.create_pods,
            replaced=tuple((role, index) for role, index, _ in work.replaced),
            look_at=self._look_at(work),
        )

    def _suspended_by_stability(self) -> bool:
        """It stays so until the user has set suspend to true and back."""
        condition = self._conditions.get("Suspended")
        return (
            condition is not None
            and condition.reason == Reason.SUSPENDED_BY_STABILITY
            and not self._job.spec.run_policy.suspend
        )

    @property
    def _active_since(self) -> datetime:
        start = self._before.start_time or self._now
        suspended = self._conditions.get("Suspended")
        if suspended is not None and suspended.reason == Reason.RESUMED:
            return max(start, suspended.last_transition_time)
        if suspended is not None and not self._stopping:
            return self._now  # it resumes at this moment
        return start

    @property
    def _pre_running(self) -> bool:
        running = self._conditions.get("Running")
        if running is None:
            return True
        # Kubernetes' times are whole seconds.
        since = self._active_since.replace(microsecond=0)
        return running.status != "True" and running.last_transition_time <= since

    @property
    def _progressed(self) -> datetime | None:
        """A run whose reports do not come may well get on."""
        report = self._observed.report
        fresh = report is not None and is_fresh(report.received, self._settings, self._now)
        return self._numbers.progress_time if fresh else None

    def _count(self) -> dict[Role, RoleStatus]:
        found = {}
        for role in ROLES:
            desired = 0 if self._stopping else role_spec(self._job, role).replicas
            before = self._roles_before.get(role)
            found[role] = count(role, before, self._observed, desired)
        if self._stopping:
            found["learner"] = cleared(found["learner"])
        return found

    def _lose(self, roles: dict[Role, RoleStatus], attempt: Attempt) -> Outcome | None:
        """Count what was lost, and say how the run ends if it was too much."""
        loss, known = attempt.loss, self._roles_before
        if loss is not None:
            roles["learner"] = counted(roles["learner"], loss, self._now)
        return too_many(self._job, roles, known, loss, self._observed, self._conditions)

    def _learner_at(self, roles: dict[Role, RoleStatus]) -> datetime | None:
        """When a lost learner starts again, while that is to come."""
        start = next_start(roles["learner"])
        return start if start is not None and self._now < start else None

    def _work(self, attempt: int, roles: dict[Role, RoleStatus]) -> Work:
        if self._stopping:
            return stopping_work(self._observed, self._now)
        job, owner, observed, settings = self._job, self._owner, self._observed, self._settings
        again = self._learner_at(roles)
        return running_work(job, owner, attempt, observed, settings, self._now, learner_at=again)

    def _base(self) -> tuple[Object, ...]:
        return base_objects(self._job, self._owner, self._settings)

    def _status(
        self,
        roles: dict[Role, RoleStatus],
        attempt: Attempt,
        outcome: Outcome | None,
    ) -> JobStatus:
        now, observed, conditions = self._now, self._observed, self._conditions
        over = outcome is not None and outcome.phase != "Suspended"
        numbers = self._numbers
        self._set_suspended(outcome)
        if outcome is not None and over:
            self._set_over(outcome)
        elif self._stopping:
            if conditions.holds("Restarting"):
                conditions.set("Restarting", ("False", self._suspension, ""), now)
            conditions.set("Running", ("False", self._suspension, ""), now)
        else:
            again = self._learner_at(roles)
            set_restarting(conditions, roles, self._roles_before, observed, attempt, again, now)
            set_running(conditions, self._job, roles, observed, now)
        if not over:
            self._set_health(numbers)
        failure = newest_failure(observed, self._before.last_failure)
        status = numbers.model_copy(
            update={
                "phase": phase_of(conditions, outcome, stopping=self._stopping),
                "reason": None,
                "message": None,
                "conditions": conditions.all(),
                "observed_generation": self._generation,
                "attempt": self._before.attempt if over else attempt.number,
                "restarts": sum(r.restarts + r.disruptions for r in roles.values()),
                "start_time": self._before.start_time or now,
                "completion_time": now if over else None,
                "last_failure": failure,
                "roles": [roles[role] for role in ("actor", "learner", "parameter-server")],
                "actors": actors_status(self._owner, observed),
            }
        )
        reason, message = self._why(status, outcome)
        status = status.model_copy(update={"reason": reason, "message": message})
        return JobStatus.model_validate(status.model_dump())

    @property
    def _suspension(self) -> str:
        return Reason.SUSPENDED_BY_STABILITY if self._held else Reason.SUSPENDED_BY_USER

    def _set_suspended(self, outcome: Outcome | None) -> None:
        conditions, now = self._conditions, self._now
        known = conditions.get("Suspended")
        if not self._stopping:
            if known is not None:
                conditions.set("Suspended", ("False", Reason.RESUMED, ""), now)
            return
        said = known.message if known is not None and self._held else ""
        line = outcome.message if outcome is not None else said
        if stopped(self._observed, now):
            lost = not durable(self._job) and self._before.training is not None
            if lost and not conditions.holds("Suspended"):
                line = f"{line}; {CHECKPOINT_LOST}" if line else CHECKPOINT_LOST
            elif known is not None and known.status == "True":
                line = known.message
            conditions.set("Suspended", ("True", self._suspension, line), now)
        elif self._held:
            conditions.set("Suspended", ("False", self._suspension, line), now)
        else:
            line = "the learner checkpoints and the pods end"
            conditions.set("Suspended", ("False", Reason.SUSPENDING, line), now)

    def _set_over(self, outcome: Outcome) -> None:
        conditions, now = self._conditions, self._now
        conditions.set("Running", ("False", Reason.FINISHED, outcome.message), now)
        if conditions.holds("Restarting"):
            conditions.set("Restarting", ("False", Reason.FINISHED, ""), now)
        kind = outcome.phase
        conditions.set(kind, ("True", outcome.reason, outcome.message), now)

    def _set_health(self, numbers: JobStatus) -> None:
        known = self._observed.report
        report = None if known is None else known.report
        received = self._received(numbers)
        set_health(self._conditions, self._job, report, received, self._settings, self._now)

    def _received(self, status: JobStatus) -> datetime | None:
        known = self._observed.report
        return known.received if known is not None else status.report_time

    def _why(self, status: JobStatus, outcome: Outcome | None) -> tuple[str | None, str | None]:
        if outcome is not None:
            return str(outcome.reason), outcome.message
        kind = {
            "Pending": "Running",
            "Restarting": "Restarting",
            "Suspending": "Suspended",
            "Suspended": "Suspended",
        }.get(status.phase)
        running = self._conditions.get("Running")
        if kind == "Restarting" and running is not None and running.reason in PROBLEMS:
            kind = "Running"  # why it was lost is in the condition; why it does not come back, here
        found = next((c for c in status.conditions if c.type == kind), None)
        if found is not None:
            return found.reason, found.message or None
        refusal = self._refusal
        return (None, None) if refusal is None else (refusal.reason, refusal.message)

    def _look_at(self, work: Work) -> datetime | None:
        looks = [work.look_at]
        if not self._stopping:
            looks.append(next_deadline(self._job, self._active_since, self._pre_running))
        received = self._received(self._before)
        if received is not None:
            stale = received + stale_after(self._settings)
            looks.append(stale if stale > self._now else None)
        return min((look for look in looks if look is not None), default=None)
