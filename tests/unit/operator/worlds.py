"""Worlds for plan(): jobs, their objects and pods, as the API server would have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncrl_api import labels
from asyncrl_api.status import JobStatus, LearnerReport, StabilityStatus, TrainingStatus
from asyncrl_operator.memory import Memory
from asyncrl_operator.plan.events import REASONS
from asyncrl_operator.plan.names import MANIFEST_KEY, ROLES, Role
from asyncrl_operator.plan.observed import (
    Ending,
    Observed,
    Pod,
    Report,
    RoleJob,
    parse_job,
    parse_pod,
)
from asyncrl_operator.plan.plan import Plan, plan
from asyncrl_operator.plan.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = Settings(worker_image="worker:1", operator_namespace="asyncrl-system")
VOLUME = {"checkpoint": {"volume": {"claim": {}}}}


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class Life:
    """A job whose plans are carried out by hand: Jobs appear as applied, pods as asked."""

    def __init__(
        self, spec: Mapping[str, Any] | None = None, settings: Settings = SETTINGS
    ) -> None:
        self.spec: dict[str, Any] = {
            "workload": {"gymnasium": {"id": "CartPole-v1"}},
            **VOLUME,
            **(spec or {}),
        }
        self.settings = settings
        self.status: dict[str, Any] | None = None
        self.generation = 1
        self.jobs: dict[Role, RoleJob] = {}
        self.pods: dict[str, Pod] = {}
        self.observed = Observed()
        self.now = 0.0
        self._uids = 0
        self._memory = Memory("job-uid")

    @property
    def resource(self) -> dict[str, Any]:
        return {
            "apiVersion": "asyncrl.io/v1alpha1",
            "kind": "AsyncRLJob",
            "metadata": {
                "name": "job",
                "namespace": "default",
                "uid": "job-uid",
                "generation": self.generation,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": self.spec,
            "status": self.status or {},
        }

    def world(self) -> Observed:
        self._see()
        seen = self._memory.seen_ready()
        pods = tuple(self.pods.values())
        return replace(self.observed, jobs=dict(self.jobs), pods=pods, seen_ready=seen)

    def _see(self) -> None:
        self._memory.see(self.jobs, tuple(self.pods.values()))

    def look(self, seconds: float | None = None) -> Plan:
        """Plan, and keep the status."""
        if seconds is not None:
            self.now = seconds
        made = plan(self.resource, self.world(), at(self.now), self.settings)
        self.status = made.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        check_reasons(made)
        return made

    def step(self, seconds: float | None = None) -> Plan:
        """Plan, and carry the plan out."""
        made = self.look(seconds)
        for document in made.apply:
            if document["kind"] == "Job":
                self._apply_job(document)
            elif document["kind"] == "ConfigMap":
                manifest = document["data"][MANIFEST_KEY]
                self.observed = replace(self.observed, manifest=manifest)
        for reference in made.delete:
            gone = next(job for job in self.jobs.values() if job.uid == reference.uid)
            del self.jobs[gone.role]
        return made

    def _apply_job(self, document: dict[str, Any]) -> None:
        role: Role = document["metadata"]["labels"]["asyncrl.io/role"]
        if role in self.jobs:
            spec = document["spec"]
            self.jobs[role] = replace(
                self.jobs[role],
                completions=spec["completions"],
                suspended=bool(spec.get("suspend")),
            )
            return
        self._uids += 1
        stored = {
            **document,
            "metadata": {
                **document["metadata"],
                "uid": f"uid-{self._uids}",
                "creationTimestamp": at(self.now).strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
        }
        job = parse_job(stored)
        assert job is not None
        self.jobs[role] = job

    def run(self) -> None:
        """Bring every pod up, ready."""
        self.step()
        for role in ROLES:
            for index in range(self.jobs[role].completions):
                self.add(role, index)
        self.step()
        assert self.phase == "Running", self.status

    def add(self, role: Role, index: int = 0, **more: Any) -> Pod:
        """A ready pod of the present Job of a role."""
        self._uids += 1
        pod = Pod(
            name=f"job-{role}-{index}-{self._uids}",
            uid=f"uid-{self._uids}",
            role=role,
            index=index,
            job_uid=self.jobs[role].uid,
            phase="Running",
            created=at(self.now),
            ready=True,
            ready_since=at(self.now),
            node="node-1",
        )
        self.pods[f"{role}-{index}"] = pod = replace(pod, **more)
        self._see()
        return pod

    def change(self, process: str, **more: Any) -> None:
        self.pods[process] = replace(self.pods[process], **more)

    def kubelet_says(
        self, process: str, status: Mapping[str, Any], spec: Mapping[str, Any] | None = None
    ) -> None:
        """A pod has the status, and the containers, that a kubelet would write."""
        pod = self.pods[process]
        owner = {"kind": "Job", "uid": pod.job_uid, "controller": True}
        metadata = {
            "name": pod.name,
            "uid": pod.uid,
            "labels": {labels.ROLE: pod.role},
            "annotations": {labels.INDEX: str(pod.index)},
            "ownerReferences": [owner],
            "creationTimestamp": pod.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        written = {"nodeName": pod.node, **(spec or {})}
        found = parse_pod({"metadata": metadata, "spec": written, "status": status})
        assert found is not None
        self.pods[process] = found
        self._see()

    def restart(self, process: str, code: int, message: str = "", reason: str = "Error") -> None:
        """The kubelet restarted a container in place."""
        pod = self.pods[process]
        ending = Ending(code, reason, message, at(self.now))
        self.change(process, restarts=pod.restarts + 1, ended_before=ending)

    def end(self, process: str, code: int, message: str = "", reason: str = "Error") -> None:
        """A container ended for good."""
        phase = "Succeeded" if code == 0 else "Failed"
        ending = Ending(code, reason, message, at(self.now))
        self.change(process, phase=phase, ready=False, ended=ending)

    @property
    def phase(self) -> str:
        return JobStatus.model_validate(self.status).phase

    @property
    def known(self) -> JobStatus:
        return JobStatus.model_validate(self.status)

    def condition(self, kind: str) -> tuple[str, str]:
        found = next((c for c in self.known.conditions if c.type == kind), None)
        return ("", "") if found is None else (found.status, found.reason)


def with_report(life: Life, received: float, update: int = 1) -> None:
    """The newest report of the learner: so many updates, and all is well."""
    report = LearnerReport(
        time=at(received),
        update=update,
        training=TrainingStatus(policy_version=update),
        stability=StabilityStatus(verdict="Healthy"),
    )
    life.observed = replace(life.observed, report=Report(report, at(received)))


def check_reasons(made: Plan) -> None:
    """Every reason is in the table that docs/events.md shows, whatever the story."""
    for condition in made.status.conditions:
        known = REASONS[condition.type, condition.status]
        assert condition.reason in known, f"{condition.type} is {condition.status}: {condition}"


def applied(made: Plan, kind: str = "Job") -> list[str]:
    return [d["metadata"]["name"] for d in made.apply if d["kind"] == kind]


def deleted(made: Plan) -> list[str]:
    return [reference.name for reference in made.delete]
