"""Jobs on a Kubernetes cluster, through its API server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from asyncrl.backends.api_server import APPLY, MERGE, ApiServer, Deadline, Document, resource_path
from asyncrl.backends.kubeconfig import Cluster, find_cluster
from asyncrl.backends.pod_logs import PodLogs
from asyncrl.backends.refusals import PLURAL, Target
from asyncrl.backends.run_logs import LogLine
from asyncrl.backends.supervisor import Outcome
from asyncrl.backends.watch import ObjectWatch
from asyncrl.errors import JobDeletedError, JobError, JobNotFoundError
from asyncrl_api.errors import ManifestError, Problem
from asyncrl_api.fields import closest
from asyncrl_api.manifest import load_manifest
from asyncrl_api.reasons import Reason
from asyncrl_api.spec import API_VERSION, KIND, AsyncRLJob
from asyncrl_api.status import JobStatus

PREFIX = f"/apis/{API_VERSION}"
FIELD_MANAGER = "asyncrl"
SERVER_METADATA = (
    "creationTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)
"""What `kubectl get -o yaml` shows and nobody may set."""

RELEASE_SECONDS = 60.0
"""How long the operator gets to see that a run which stability suspended is to go on."""
NOT_TRAINED = {
    "actors": ("replicas",),
    "runPolicy": ("suspend", "ttlSecondsAfterFinished", "cleanPodPolicy"),
}
"""What does not make a job another one when its run is over: set by `scale`, `suspend` and
`resume` too, so that the same manifest may say otherwise; or still of effect then."""

Change = Literal["created", "changed", "unchanged"]


@dataclass(frozen=True)
class Job:
    """One job as the API server knows it."""

    name: str
    namespace: str
    created: datetime
    generation: int
    suspend: bool
    status: JobStatus

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended, or stopped; None while it goes on or is about to."""
        status = self.status
        if status.phase == "Complete" or status.phase == "Failed":
            return Outcome(status.phase, status.reason or "", status.message or "")
        seen = status.observed_generation is None or status.observed_generation >= self.generation
        if status.phase == "Suspended" and seen:
            return Outcome("Suspended", status.reason or "", status.message or "")
        return None


class KubernetesClient:
    """The verbs of `asyncrl.client.Client` on a cluster.

    A job is looked for in the namespace that this client submitted it to, else in `namespace`:
    that of the call, or of the context. A manifest may name another one only where no namespace was
    given to the client.

    Every method raises JobError (one line; ClusterUnavailableError where trying again may help), or
    ManifestError where a manifest, or a field of it, is refused.
    """

    def __init__(self, cluster: Cluster, namespace: str | None = None) -> None:
        self.cluster = cluster
        self.namespace = namespace or cluster.namespace
        self._chosen = namespace
        self._namespaces: dict[str, str] = {}
        """Of the jobs that were submitted here."""
        self._server = ApiServer(cluster)

    @classmethod
    def connect(cls, context: str | None = None, namespace: str | None = None) -> KubernetesClient:
        """The cluster of a context of the kubeconfig; nothing is sent yet."""
        return cls(find_cluster(context), namespace)

    def submit(self, manifest: str | Path | AsyncRLJob, overrides: Sequence[str] = ()) -> str:
        """Create the job of a manifest, or bring the one of its name up to it. Returns the name."""
        return self.apply(manifest, overrides)[0].name

    def apply(
        self, manifest: str | Path | AsyncRLJob, overrides: Sequence[str] = ()
    ) -> tuple[Job, Change]:
        """The job as it is after `submit`, and what that did.

        Only what the manifest says is sent: the API server adds the defaults, and what others set
        (an autoscaler, `kubectl scale`) stays where the manifest is silent.
        """
        job = manifest if isinstance(manifest, AsyncRLJob) else load_manifest(manifest, overrides)
        namespace = self._settled_namespace(job)
        document = job.model_dump(
            mode="json", by_alias=True, exclude_unset=True, exclude={"status"}
        )
        document |= {"apiVersion": API_VERSION, "kind": KIND}
        for key in SERVER_METADATA:
            document["metadata"].pop(key, None)
        document["metadata"]["namespace"] = namespace
        target = Target(self.cluster.context, namespace, name=job.name)
        before = self._find(target)
        if before is not None:
            self._refuse_to_change_what_is_over(target, before, document)
        code, after = self._apply(target, document)
        self._namespaces[job.name] = namespace
        if code == 201 or before is None:
            return self._job(after), "created"
        same = before["metadata"]["generation"] == after["metadata"]["generation"]
        return self._job(after), "unchanged" if same else "changed"

    def _apply(self, target: Target, document: Document, **query: str) -> tuple[int, Document]:
        assert target.name is not None
        query |= {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        path = _path(target.namespace, target.name)
        return self._server.request(
            target, "PATCH", path, query=query, body=document, content_type=APPLY
        )

    def _refuse_to_change_what_is_over(
        self, target: Target, before: Document, document: Document
    ) -> None:
        """A job that is over trains no more, so who changes it would take the old end for the new.

        The API server says what the change would be; nothing is written.
        """
        phase = self._job(before).status.phase
        if phase not in ("Complete", "Failed"):
            return
        _, after = self._apply(target, document, dryRun="All")
        if _trained(before["spec"]) != _trained(after["spec"]):
            raise JobError(
                f"{target.name}: is {phase} already, and the manifest is another one; "
                f"`asyncrl delete {target.name} --namespace {target.namespace}`, or rename it in "
                "metadata.name, to train again"
            )

    def namespace_of(self, name: str) -> str:
        """Where the job of this name is looked for."""
        return self._namespaces.get(name, self.namespace)

    def job(self, name: str) -> Job:
        """The job as it is now."""
        document = self._find(self._target(name))
        if document is None:
            raise self._no_such_job(name)
        return self._job(document)

    def jobs(self) -> list[Job]:
        """All jobs of the client's namespace, by name."""
        return self._jobs(self.namespace)

    def _jobs(self, namespace: str) -> list[Job]:
        target = Target(self.cluster.context, namespace)
        _, answer = self._server.request(target, "GET", _path(namespace))
        return sorted((self._job(item) for item in answer["items"]), key=lambda job: job.name)

    def status(self, name: str) -> JobStatus:
        """The status as it is now."""
        return self.job(name).status

    def watch(self, name: str, timeout: float | None = None) -> Iterator[JobStatus]:
        """The status now, at every change and about twice a minute, until the run has ended.

        Also ends after `timeout` seconds.
        """
        return (job.status for job in self.observe(name, timeout))

    def observe(
        self,
        name: str,
        timeout: float | None = None,
        on_cut: Callable[[str], None] | None = None,
    ) -> Iterator[Job]:
        """As `watch`, the whole job; `on_cut` hears of every failure that is bridged."""
        path = _path(self.namespace_of(name))
        watch = ObjectWatch(self._server, self._target(name), path, on_cut=on_cut)
        try:
            for document in watch.run(Deadline(timeout)):
                job = self._job(document)
                yield job
                if job.outcome is not None:
                    return
        except JobDeletedError:
            raise
        except JobNotFoundError:
            raise self._no_such_job(name) from None

    def wait(self, name: str, timeout: float | None = None) -> Outcome:
        """How the run ended. Raises TimeoutError after `timeout` seconds; the job goes on."""
        phase = "Pending"
        for job in self.observe(name, timeout):
            if job.outcome is not None:
                return job.outcome
            phase = job.status.phase
        raise TimeoutError(f"{name}: still {phase} after {timeout:g} s")

    def logs(
        self,
        name: str,
        *,
        role: str | None = None,
        index: int | None = None,
        lines: int | None = None,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        """What the processes of the job wrote; with `follow`, on until the run ends."""
        self.job(name)  # says that there is none, or what the name was meant to be
        logs = PodLogs(self._server, self.cluster.context, self.namespace_of(name), name)
        if not follow:
            return logs.read(role, index, lines)
        return logs.follow(role, index, lines, over=lambda: self._over(name))

    def scale(self, name: str, actors: int) -> None:
        """Ask for another number of actors; the learner goes on meanwhile."""
        try:
            self._patch(name, {"spec": {"replicas": actors}}, "scale")
        except ManifestError as error:
            # The scale subresource calls the field by the name of its own.
            raise ManifestError(
                Problem(p.path.replace("spec.replicas", "spec.actors.replicas"), p.message)
                for p in error.problems
            ) from None

    def suspend(self, name: str) -> None:
        """Checkpoint and stop all roles; returns when this is asked for, not when it is done."""
        self._set_suspend(name, True)

    def resume(self, name: str) -> None:
        """Go on from the checkpoint.

        A run that stability suspended goes on when `suspend` was true and is false again, and the
        operator has to see both. Raises JobError where it does not within RELEASE_SECONDS.
        """
        if _held_by_stability(self.job(name)):
            self._set_suspend(name, True)
            self._await_release(name)
        self._set_suspend(name, False)

    def _await_release(self, name: str) -> None:
        watch = ObjectWatch(self._server, self._target(name), _path(self.namespace_of(name)))
        for document in watch.run(Deadline(RELEASE_SECONDS)):
            if not _held_by_stability(self._job(document)):
                return
        raise JobError(
            f"{name}: suspended by stability, and no operator has taken note of the resume within "
            f"{RELEASE_SECONDS:g} s (spec.runPolicy.suspend is true now); see that one runs for "
            f"namespace {self.namespace_of(name)}, then resume again"
        )

    def delete(self, name: str) -> None:
        """Delete the job and all that belongs to it, without a checkpoint."""
        try:
            self._server.request(
                self._target(name),
                "DELETE",
                self._path(name),
                query={"propagationPolicy": "Background"},
            )
        except JobNotFoundError:
            raise self._no_such_job(name) from None

    def _set_suspend(self, name: str, value: bool) -> None:
        job = self.job(name)
        if job.status.phase in ("Complete", "Failed"):
            verb = "suspend" if value else "resume"
            raise JobError(
                f"{name}: is {job.status.phase}, there is nothing to {verb}; "
                "delete it and submit it again to train anew"
            )
        self._patch(name, {"spec": {"runPolicy": {"suspend": value}}})

    def _patch(self, name: str, body: Document, *subresource: str) -> None:
        try:
            self._server.request(
                self._target(name),
                "PATCH",
                self._path(name, *subresource),
                query={"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"},
                body=body,
                content_type=MERGE,
            )
        except JobNotFoundError:
            raise self._no_such_job(name) from None

    def _over(self, name: str) -> bool:
        document = self._find(self._target(name))
        return document is None or self._job(document).outcome is not None

    def _settled_namespace(self, job: AsyncRLJob) -> str:
        stated = job.metadata.namespace
        if stated is not None and self._chosen is not None and self._chosen != stated:
            raise ManifestError(
                [
                    Problem(
                        "metadata.namespace",
                        f"{stated} is not the --namespace {self._chosen}; leave one of them out",
                    )
                ]
            )
        return stated or self.namespace

    def _find(self, target: Target) -> Document | None:
        assert target.name is not None
        path = _path(target.namespace, target.name)
        try:
            return self._server.request(target, "GET", path)[1]
        except JobNotFoundError:
            return None

    def _no_such_job(self, name: str) -> JobNotFoundError:
        namespace = self.namespace_of(name)
        where = f"namespace {namespace}"
        try:
            names = [job.name for job in self._jobs(namespace)]
        except (JobError, ManifestError):
            return JobNotFoundError(f"{name}: no such job in {where}")
        if not names:
            return JobNotFoundError(
                f"{name}: no such job in {where}, which has none; choose with --namespace"
            )
        match = closest(name, names)
        remedy = f"did you mean '{match}'?" if match else f"there is {', '.join(names[:8])}"
        return JobNotFoundError(f"{name}: no such job in {where}; {remedy}")

    def _job(self, document: Document) -> Job:
        metadata: dict[str, Any] = document["metadata"]
        try:
            status = JobStatus.model_validate(document.get("status") or {})
        except ValidationError as error:
            raise JobError(
                f"{metadata['name']}: its status cannot be read here ({error.error_count()} "
                "fields); bring asyncrl to the version of the operator"
            ) from error
        policy = document["spec"].get("runPolicy") or {}
        return Job(
            name=metadata["name"],
            namespace=metadata["namespace"],
            created=datetime.fromisoformat(metadata["creationTimestamp"]),
            generation=metadata.get("generation", 0),
            suspend=bool(policy.get("suspend")),
            status=status,
        )

    def _target(self, name: str) -> Target:
        return Target(self.cluster.context, self.namespace_of(name), name=name)

    def _path(self, name: str, *subresource: str) -> str:
        return _path(self.namespace_of(name), name, *subresource)


def _trained(spec: Document) -> Document:
    """What decides over how the run went."""
    return spec | {
        part: {key: value for key, value in (spec.get(part) or {}).items() if key not in without}
        for part, without in NOT_TRAINED.items()
    }


def _held_by_stability(job: Job) -> bool:
    """Whether the run stays suspended until `suspend` was true and is false again."""
    reasons = [c.reason for c in job.status.conditions if c.type == "Suspended"]
    return Reason.SUSPENDED_BY_STABILITY in reasons


def _path(namespace: str, *parts: str) -> str:
    return resource_path(PREFIX, namespace, PLURAL, *parts)
