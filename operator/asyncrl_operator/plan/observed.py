"""What plan() looks at: the pods and Jobs of one AsyncRLJob, parsed once, and the newest report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from asyncrl_api import labels
from asyncrl_api.exits import Note, Verdict, describe_exit, verdict
from asyncrl_api.status import LearnerReport
from asyncrl_operator.plan.names import ATTEMPT, ROLES, TEMPLATE_HASH, Role

Manifest = Mapping[str, Any]
"""An object of the API server as it is written in JSON."""

ORDINARY = ("ContainerCreating", "PodInitializing")
"""What every container waits for on its way to run."""
CRASH_LOOP = "CrashLoopBackOff"


@dataclass(frozen=True)
class Ending:
    """How a container ended."""

    exit_code: int
    reason: str
    message: str
    finished_at: datetime | None = None
    container: str = ""
    """Its name, if it is an init container and not the role's own."""

    @property
    def verdict(self) -> Verdict:
        """What its exit code means; the kernel's OOM killer is a failure of the role.

        The codes that end a run for good are the roles' own; 1 is any failure elsewhere.
        """
        found = verdict(self.exit_code)
        return Verdict.RETRY if self.container and found is Verdict.FATAL else found

    @property
    def failed(self) -> bool:
        """Whether it ended by a failure: neither well, nor because it was asked to."""
        return self.verdict in (Verdict.RETRY, Verdict.FATAL)

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
        if self.container:
            return None  # whatever it wrote, it does not speak as a role does
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
class Waiting:
    """What a container waits for, beyond what every container does."""

    reason: str
    message: str
    container: str = ""
    """Its name, if it is not the role's own."""


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
    initialized: bool = True
    """Whether its init containers are through."""
    restarts: int = 0
    """Of the role's container and of init containers; what runs beside it may restart."""
    ended: Ending | None = None
    """How the role's container ended, if it is not running again, or an init container failed."""
    ended_before: Ending | None = None
    """How the run before the container's present one ended."""
    waiting: Waiting | None = None
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
    def blames_node(self) -> bool:
        """Whether its node is ill, and its process ended by no limit of its own."""
        ending = self.newest_ending
        memory = ending is not None and ending.reason == "OOMKilled"
        return bool(self.node_problem) and not memory and self.reason != "Evicted"

    @property
    def crashes(self) -> bool:
        """Whether its process, or an init container, failed and does not run again yet."""
        ending, waiting = self.newest_ending, self.waiting
        if not self.live or ending is None or not ending.failed:
            return False
        if self.ended is not None or waiting is None:
            return self.ended is not None
        return waiting.reason == CRASH_LOOP and waiting.container == ending.container

    @property
    def failed_by_itself(self) -> bool:
        """Whether its process failed it, by a limit of its own, and nothing from outside."""
        outside = self.deleted is not None or self.disruption is not None or self.blames_node
        failed = self.ended is not None and self.ended.verdict is Verdict.RETRY
        return self.phase == "Failed" and failed and not outside

    @property
    def done(self) -> bool:
        """Whether its process has ended well, and for good; a sidecar may still run."""
        return self.ended is not None and self.ended.verdict is Verdict.DONE

    @property
    def lost(self) -> bool:
        """Whether it has gone, or goes, before its process ended well."""
        return not self.live and self.phase != "Succeeded" and not self.done

    @property
    def failed_to_start(self) -> bool:
        """Whether an init container failed, and so far in vain."""
        ending = self.newest_ending
        return not self.initialized and ending is not None and ending.failed

    @property
    def newest_ending(self) -> Ending | None:
        """How its container, or an init container before it, last ended."""
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
    beside = list(status.get("containerStatuses") or [])
    main = next((c for c in beside if c["name"] == role), None) or {}
    before = list(status.get("initContainerStatuses") or [])
    inits = _without_sidecars(before, spec)
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
        initialized=(conditions.get("Initialized") or {}).get("status") != "False",
        restarts=sum(int(c.get("restartCount") or 0) for c in (main, *inits)),
        ended=_ending(main, "state") or _failed_init(inits, "state"),
        ended_before=_ending(main, "lastState") or _failed_init(inits, "lastState"),
        waiting=_waiting(role, [*before, main, *beside]) or _ended_beside(main, beside),
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


def _without_sidecars(statuses: Sequence[Manifest], spec: Manifest) -> list[Manifest]:
    """The init containers that end before the role's container starts."""
    declared = spec.get("initContainers") or []
    sidecars = {c["name"] for c in declared if c.get("restartPolicy") == "Always"}
    return [status for status in statuses if status["name"] not in sidecars]


def _ending(status: Manifest, state: str, container: str = "") -> Ending | None:
    terminated = (status.get(state) or {}).get("terminated")
    if not terminated:
        return None
    return Ending(
        exit_code=int(terminated.get("exitCode") or 0),
        reason=terminated.get("reason") or "",
        message=terminated.get("message") or "",
        finished_at=parse_time(terminated.get("finishedAt")),
        container=container,
    )


def _failed_init(statuses: Sequence[Manifest], state: str) -> Ending | None:
    """How the newest init container ended that failed; they run one after the other."""
    endings = [_ending(status, state, status["name"]) for status in statuses]
    return next((e for e in reversed(endings) if e is not None and e.exit_code != 0), None)


def _waiting(role: Role, statuses: Sequence[Manifest]) -> Waiting | None:
    """What the first container that is held up waits for."""
    for container in statuses:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, *ORDINARY):
            name = "" if container["name"] == role else container["name"]
            return Waiting(waiting["reason"], waiting.get("message") or "", name)
    return None


def _ended_beside(main: Manifest, statuses: Sequence[Manifest]) -> Waiting | None:
    """A sidecar that ended while the role runs: the pod is never ready again without it."""
    if "running" not in (main.get("state") or {}):
        return None
    for status in statuses:
        ending = _ending(status, "state", status["name"])
        if ending is not None:
            line = f"{describe_exit(ending.exit_code)}; its pod is not ready without it"
            return Waiting(ending.reason or "Terminated", line, status["name"])
    return None


def _unschedulable(condition: Manifest | None) -> str | None:
    if condition and condition["status"] == "False" and condition.get("reason") == "Unschedulable":
        return condition.get("message") or "no node fits"
    return None


def _disruption(condition: Manifest | None) -> Note | None:
    if condition and condition["status"] == "True":
        return Note(condition.get("reason") or "Disrupted", condition.get("message") or "")
    return None
