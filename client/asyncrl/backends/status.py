"""Merges what the supervisor and the learner know into the status of the run, and writes it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from asyncrl.backends.supervisor import Outcome
from asyncrl.backends.unit import Role, Unit
from asyncrl.run_folder import RunFolder
from asyncrl_api.conditions import Conditions, Said, alignment_said, running_said, stable_said
from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJob
from asyncrl_api.status import JobStatus, LearnerReport, Phase, RoleStatus
from asyncrl_worker.atomic import write_atomically

WRITE_SECONDS = 1.0


class StatusBuilder:
    """Builds the status of one run; pure, the time comes in."""

    def __init__(self, job: AsyncRLJob, started: datetime) -> None:
        self._alignment_mode = job.spec.alignment.mode
        self._staleness = job.spec.staleness
        self._least_actors = job.spec.actors.min_replicas or job.spec.actors.replicas
        self._started = started
        self._conditions = Conditions()
        self._report: LearnerReport | None = None

    def build(
        self,
        units: Iterable[Unit],
        ready: frozenset[str],
        *,
        report: LearnerReport | None,
        restarting: bool,
        outcome: Outcome | None,
        now: datetime,
    ) -> JobStatus:
        """The status now. `report` may be None: then the numbers of the last one stay."""
        self._report = report or self._report
        units = tuple(units)
        roles = [_role(name, role, units, ready) for name, role in ROLE_NAMES]
        phase = self._phase(restarting, outcome)
        self._set_conditions(phase, roles, outcome, now)
        known = self._report
        attempt = max(unit.attempt for unit in units if unit.role is Role.LEARNER)
        return JobStatus(
            phase=phase,
            reason=str(outcome.reason) if outcome else None,
            message=outcome.message if outcome else None,
            conditions=self._conditions.all(),
            attempt=attempt,
            restarts=sum(role.restarts + role.disruptions for role in roles),
            start_time=self._started,
            completion_time=now if outcome else None,
            roles=roles,
            training=known.training if known else None,
            alignment=known.alignment if known else None,
            stability=known.stability if known else None,
            staleness=known.staleness if known else None,
            ledger=known.ledger if known else None,
            checkpoint=known.checkpoint if known else None,
        )

    def _phase(self, restarting: bool, outcome: Outcome | None) -> Phase:
        if outcome is not None:
            return outcome.phase
        if restarting:
            return "Restarting"
        return "Running" if self._report is not None else "Pending"

    def _set_conditions(
        self, phase: Phase, roles: list[RoleStatus], outcome: Outcome | None, now: datetime
    ) -> None:
        report = self._report
        over: Said = ("False", Reason.FINISHED, outcome.message if outcome else "")
        no: Said = ("False", Reason.NOT_STARTED if phase == "Pending" else Reason.RESUMED, "")
        conditions = self._conditions
        conditions.set("Accepted", ("True", Reason.VALID, ""), now)
        conditions.set("Running", over if outcome else self._running(phase, roles), now)
        lost: Said = ("True", Reason.LEARNER_LOST, "the learner resumes from its checkpoint")
        if phase == "Restarting" or conditions.get("Restarting"):
            conditions.set("Restarting", lost if phase == "Restarting" else no, now)
        if report is not None:
            before = conditions.get("AlignmentHealthy")
            alignment = alignment_said(self._alignment_mode, report.alignment, before)
            conditions.set("AlignmentHealthy", alignment, now)
            conditions.set("Stable", stable_said(report, self._staleness), now)
        if outcome is not None:
            conditions.set(outcome.phase, ("True", outcome.reason, outcome.message), now)

    def _running(self, phase: Phase, roles: list[RoleStatus]) -> Said:
        if phase != "Running":
            return ("False", Reason.STARTING, "")
        return running_said(roles, self._least_actors)


ROLE_NAMES: tuple[tuple[str, Role], ...] = (
    ("actors", Role.ACTOR),
    ("learner", Role.LEARNER),
    ("parameterServer", Role.PARAMETER_SERVER),
)


def _role(name: str, role: Role, units: tuple[Unit, ...], ready: frozenset[str]) -> RoleStatus:
    mine = [unit for unit in units if unit.role is role]
    return RoleStatus.model_validate(
        {
            "name": name,
            "desired": sum(len(unit.members) for unit in mine),
            "ready": sum(str(member) in ready for unit in mine for member in unit.running),
            "restarts": sum(unit.restarts for unit in mine),
            "disruptions": sum(unit.disruptions for unit in mine),
        }
    )


class StatusFile:
    """status.json: replaced at once when the state changes, once a second for mere numbers."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.status
        self._written: JobStatus | None = None
        self._written_at = float("-inf")

    def write(self, status: JobStatus, *, final: bool = False) -> None:
        """Write if there is something new. Raises OSError."""
        now = time.monotonic()
        fresh = self._written is not None and now - self._written_at < WRITE_SECONDS
        if status == self._written or (fresh and not final and not self._turned(status)):
            return
        write_atomically(self._path, status_json(status).encode())
        self._written, self._written_at = status, now

    def _turned(self, status: JobStatus) -> bool:
        old = self._written
        return (
            old is None
            or old.phase != status.phase
            or old.roles != status.roles
            or [c.status for c in old.conditions] != [c.status for c in status.conditions]
        )


def status_json(status: JobStatus) -> str:
    """The status as the custom resource shows it: camelCase, absent numbers as null."""
    return json.dumps(status.model_dump(mode="json", by_alias=True), indent=2) + "\n"


def utc_now() -> datetime:
    """The time with its zone."""
    return datetime.now(UTC)
