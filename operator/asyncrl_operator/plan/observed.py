"""What plan() looks at: the pods and Jobs of one AsyncRLJob, parsed once, and the newest report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from asyncrl_api import labels
from asyncrl_api.exits import Note, Verdict, verdict
from asyncrl_api.status import LearnerReport
from asyncrl_operator.plan.names import ATTEMPT, ROLES, TEMPLATE_HASH, Role

Manifest = Mapping[str, Any]
"""An object of the API server as it is written in JSON."""


@dataclass(frozen=True)
class Ending:
    """How a container ended."""

    exit_code: int
    reason: str
    message: str
    finished_at: datetime | None = None

    @property
    def verdict(self) -> Verdict:
        """What its exit code means; the kernel's OOM killer is a failure of the role."""
        return verdict(self.exit_code)

    def said(self) -> dict[str, Any]:
        """The termination message, where it is a JSON object as the roles write it."""
        try:
            document = json.loads(self.message)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def note(self) -> Note | None:
        """Reason and line of the termination message, if there are any."""
        said = self.said()
        reason, message = said.get("reason"), said.get("message")
        if isinstance(reason, str) and isinstance(message, str) and reason:
            return Note(reason, message)
        return None

    def report(self) -> LearnerReport | None:
        """The learner's last report, if its termination message holds it."""
        try:
            return LearnerReport.model_validate(self.said().get("report"))
        except ValidationError:
            return None


@dataclass(frozen=True)
class Pod:
    """A pod of a role."""

    name: str
    uid: str
    role: Role
    index: int
    job_uid: str
    phase: str
    created: datetime
    deleted: datetime | None = None
    """When it has to be gone: deletionTimestamp, which includes the grace period."""
    ready: bool = False
    ready_since: datetime | None = None
    restarts: int = 0
    ended: Ending | None = None
    """How the container ended, if it is not running again."""
    ended_before: Ending | None = None
    """How the run before the container's present one ended."""
    waiting: Note | None = None
    unschedulable: str | None = None
    disruption: Note | None = None
    reason: str = ""
    message: str = ""
    node: str | None = None
    node_problem: str = ""
    """What its node complains of."""
    ip: str | None = None

    @property
    def process(self) -> str:
        """Role and index, as in learner-0."""
        return f"{self.role}-{self.index}"

    @property
    def live(self) -> bool:
        """Whether it runs or may come to run."""
        return self.deleted is None and self.phase in ("Pending", "Running", "Unknown")

    @property
    def failed_by_itself(self) -> bool:
        """Whether its process failed it, by a limit of its own, and nothing from outside."""
        outside = self.deleted is not None or self.disruption is not None
        failed = self.ended is not None and self.ended.verdict is Verdict.RETRY
        return self.phase == "Failed" and failed and not outside

    @property
    def done(self) -> bool:
        """Whether its process has ended well, and for good."""
        return self.ended is not None and self.ended.verdict is Verdict.DONE

    @property
    def newest_ending(self) -> Ending | None:
        """How its container last ended."""
        return self.ended or self.ended_before


@dataclass(frozen=True)
class RoleJob:
    """The batch Job of a role."""

    name: str
    uid: str
    role: Role
    attempt: int
    template_hash: str
    completions: int
    suspended: bool
    deleting: bool
    failed: int
    complete: bool
    created: datetime
    completed_indexes: frozenset[int]
    template: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """The newest report of the learner."""

    report: LearnerReport
    received: datetime


@dataclass(frozen=True)
class Observed:
    """The world of one job."""

    jobs: Mapping[Role, RoleJob] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    report: Report | None = None
    certificates_end: datetime | None = None
    """When the first of the job's certificates ends; None where there are none."""
    last_word: LearnerReport | None = None
    """What the newest learner that ended said at its end; its pod may be gone already."""
    manifest: str | None = None
    """The manifest that the roles read now."""
    refusals: Mapping[Role, str] = field(default_factory=dict)
    """Why the Job controller could not make the pods of a role."""
    seen_ready: Mapping[Role, frozenset[int]] = field(default_factory=dict)
    """Indexes of the present Jobs whose pods were once ready."""
    replaced: Mapping[tuple[Role, int], datetime] = field(default_factory=dict)
    """When the operator itself last replaced the pod of an index."""
    refused: Note | None = None
    """Why the API server refused an object that the job needs."""

    def pods_of(self, role: Role) -> tuple[Pod, ...]:
        """Every pod of a role, those that end included."""
        return tuple(pod for pod in self.pods if pod.role == role)

    def current(self, role: Role) -> tuple[Pod, ...]:
        """The pods of the present Job of a role."""
        job = self.jobs.get(role)
        return tuple(p for p in self.pods if p.role == role and job and p.job_uid == job.uid)


def parse_time(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it."""
    if not text:
        return None
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def parse_job(manifest: Manifest) -> RoleJob | None:
    """The batch Job of a role; None for a Job that is none."""
    metadata, spec = manifest["metadata"], manifest["spec"]
    status = manifest.get("status") or {}
    annotations = metadata.get("annotations") or {}
    role = _role(metadata)
    if role is None:
        return None
    created = parse_time(metadata.get("creationTimestamp"))
    conditions = status.get("conditions") or []
    return RoleJob(
        name=metadata["name"],
        uid=metadata["uid"],
        role=role,
        attempt=int(annotations.get(ATTEMPT, 0)),
        template_hash=annotations.get(TEMPLATE_HASH, ""),
        completions=int(spec.get("completions") or 0),
        suspended=bool(spec.get("suspend")),
        deleting="deletionTimestamp" in metadata,
        failed=int(status.get("failed") or 0),
        complete=any(c["type"] == "Complete" and c["status"] == "True" for c in conditions),
        created=created or datetime.fromtimestamp(0, UTC),
        completed_indexes=_indexes(status.get("completedIndexes") or ""),
        template=spec["template"],
    )


def parse_pod(manifest: Manifest) -> Pod | None:
    """A pod of a role; None for a pod that is none."""
    metadata, spec = manifest["metadata"], manifest.get("spec") or {}
    status = manifest.get("status") or {}
    role = _role(metadata)
    index = (metadata.get("annotations") or {}).get(labels.INDEX)
    owners = metadata.get("ownerReferences") or []
    owner = next((o["uid"] for o in owners if o.get("controller")), None)
    if role is None or index is None or owner is None:
        return None
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    statuses = status.get("containerStatuses") or []
    main = next((c for c in statuses if c["name"] == role), None) or {}
    state, last = main.get("state") or {}, main.get("lastState") or {}
    created = parse_time(metadata.get("creationTimestamp"))
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        role=role,
        index=int(index),
        job_uid=owner,
        phase=status.get("phase") or "Pending",
        created=created or datetime.fromtimestamp(0, UTC),
        deleted=parse_time(metadata.get("deletionTimestamp")),
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        ready_since=parse_time((conditions.get("Ready") or {}).get("lastTransitionTime")),
        restarts=sum(int(c.get("restartCount") or 0) for c in statuses),
        ended=_ending(state.get("terminated")),
        ended_before=_ending(last.get("terminated")),
        waiting=_waiting(statuses, status.get("initContainerStatuses") or []),
        unschedulable=_unschedulable(conditions.get("PodScheduled")),
        disruption=_disruption(conditions.get("DisruptionTarget")),
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        node=spec.get("nodeName"),
        ip=status.get("podIP"),
    )


def _role(metadata: Manifest) -> Role | None:
    name = (metadata.get("labels") or {}).get(labels.ROLE)
    return next((role for role in ROLES if role == name), None)


def _indexes(text: str) -> frozenset[int]:
    """Indexes as the Job controller writes them: `0,2-4`."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _ending(terminated: Manifest | None) -> Ending | None:
    if not terminated:
        return None
    return Ending(
        exit_code=int(terminated.get("exitCode") or 0),
        reason=terminated.get("reason") or "",
        message=terminated.get("message") or "",
        finished_at=parse_time(terminated.get("finishedAt")),
    )


def _waiting(*statuses: list[Manifest]) -> Note | None:
    for group in statuses:
        for container in group:
            waiting = (container.get("state") or {}).get("waiting")
            if waiting and waiting.get("reason") not in (None, "ContainerCreating"):
                return Note(waiting["reason"], waiting.get("message") or "")
    return None


def _unschedulable(condition: Manifest | None) -> str | None:
    if condition and condition["status"] == "False" and condition.get("reason") == "Unschedulable":
        return condition.get("message") or "no node fits"
    return None


def _disruption(condition: Manifest | None) -> Note | None:
    if condition and condition["status"] == "True":
        return Note(condition.get("reason") or "Disrupted", condition.get("message") or "")
    return None
