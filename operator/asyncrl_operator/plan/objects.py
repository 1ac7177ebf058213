"""The objects of a job beside its pods: Jobs, Service, ConfigMap, policies, claim."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asyncrl_api import labels
from asyncrl_api.manifest import dump_manifest
from asyncrl_api.spec import AsyncRLJob
from asyncrl_operator.plan.names import (
    ATTEMPT,
    HTTP_PORT,
    MANIFEST_KEY,
    OPERATOR_SELECTOR,
    REPORT_PORT,
    TEMPLATE_HASH,
    Owner,
    Role,
)
from asyncrl_operator.plan.observed import Pod, RoleJob
from asyncrl_operator.plan.pods import pod_template, role_spec
from asyncrl_operator.plan.settings import Settings

NO_BACKOFF_LIMIT = 2**31 - 1
"""plan() decides when a role has failed too often."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """An object to delete, of exactly this uid."""

    kind: str
    name: str
    uid: str


def base_objects(job: AsyncRLJob, owner: Owner, settings: Settings) -> tuple[Object, ...]:
    """What pods need before they start; all but the Secret, whose content is no function."""
    found = [config_map(job, owner), service(owner), network_policy(job, owner, settings)]
    found.append(disruption_budget(job, owner))
    volume = job.spec.checkpoint.volume
    if volume is not None and volume.claim is not None:
        claim = volume.claim
        spec: Object = {
            "accessModes": [claim.access_mode],
            "resources": {"requests": {"storage": claim.size}},
        }
        if claim.storage_class_name is not None:
            spec["storageClassName"] = claim.storage_class_name
        found.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": owner.metadata(owner.claim),
                "spec": spec,
            }
        )
    return tuple(found)


def config_map(job: AsyncRLJob, owner: Owner) -> Object:
    """The manifest, as the roles read it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owner.metadata(owner.manifest),
        "data": {MANIFEST_KEY: role_manifest(job)},
    }


def role_manifest(job: AsyncRLJob) -> str:
    """The manifest without what only Kubernetes knows of its metadata, and without defaults.

    The image of the roles may be older than the operator, and refuses a field that it does not
    know: it gets one only where it is set to something.
    """
    metadata = type(job.metadata)(name=job.metadata.name, namespace=job.metadata.namespace)
    return dump_manifest(job.model_copy(update={"metadata": metadata}), defaults=False)


def service(owner: Owner) -> Object:
    """Headless: it gives every pod its host name, and answers before pods are ready.

    Ranks must find rank 0, and everyone the parameter server, to become ready.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owner.metadata(owner.name),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {labels.JOB: owner.name},
        },
    }


def network_policy(job: AsyncRLJob, owner: Owner, settings: Settings) -> Object:
    """The job's pods talk to each other; the operator reads reports, anyone reads metrics."""
    spec = job.spec
    roles = (spec.actors, spec.learner, spec.parameter_server)
    metrics = sorted({role.metrics_port or HTTP_PORT for role in roles})
    mine = {"matchLabels": {labels.JOB: owner.name}}
    operator = {
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": settings.operator_namespace}
        },
        "podSelector": {"matchLabels": dict(OPERATOR_SELECTOR)},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owner.metadata(owner.name),
        "spec": {
            "podSelector": mine,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": mine}]},
                {"from": [operator], "ports": [{"port": REPORT_PORT, "protocol": "TCP"}]},
                {
                    "from": [{"namespaceSelector": {}}],
                    "ports": [{"port": port, "protocol": "TCP"} for port in metrics],
                },
            ],
        },
    }


def disruption_budget(job: AsyncRLJob, owner: Owner) -> Object:
    """Evictions take one learner rank at a time, and none while the learner is resuming.

    With all ranks protected a node with a learner could never be drained.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": owner.metadata(f"{owner.name}-learner", "learner"),
        "spec": {
            # Pods of Jobs allow a number only, and of those that stay.
            "minAvailable": job.spec.learner.replicas - 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {labels.JOB: owner.name, labels.ROLE: "learner"}},
        },
    }


def role_job(job: AsyncRLJob, owner: Owner, role: Role, attempt: int, settings: Settings) -> Object:
    """The Indexed Job of a role: its pods are replaced also while the operator is down."""
    replicas = role_spec(job, role).replicas
    template = pod_template(job, owner, role, attempt, settings)
    metadata = owner.metadata(owner.role_object(role), role)
    metadata["annotations"] = {
        ATTEMPT: str(attempt),
        TEMPLATE_HASH: template_hash(job, role),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": replicas,
            "parallelism": replicas,
            "backoffLimit": NO_BACKOFF_LIMIT,
            # Two learners must never write one folder of checkpoints.
            "podReplacementPolicy": "Failed" if role == "learner" else "TerminatingOrFailed",
            "template": template,
        },
    }


NOT_READ_BY_ROLES = ("runPolicy", "actors", "learner", "parameterServer")
"""Parts of the spec that a change of does not need new pods for."""
READ_BY_LEARNER = ("stopping", "checkpoint")
ELASTIC = ("minReplicas", "maxReplicas")


def template_hash(job: AsyncRLJob, role: Role) -> str:
    """What the user asks of a role's pods: another value means new pods.

    The operator's own part of the template is not in it, nor what has its default, so that a new
    version of the operator, with more fields, leaves the runs alone that it finds.
    """
    spec = job.document(defaults=False)["spec"]
    hidden = NOT_READ_BY_ROLES if role == "learner" else NOT_READ_BY_ROLES + READ_BY_LEARNER
    read = {name: part for name, part in spec.items() if name not in hidden}
    own = role_spec(job, role).model_dump(mode="json", by_alias=True, exclude_defaults=True)
    scaled = (*ELASTIC, "replicas") if role == "actor" else ELASTIC
    asked: list[Any] = [read, {name: part for name, part in own.items() if name not in scaled}]
    if role == "parameter-server" and job.spec.staleness.exact:
        # Each actor's place in every batch is fixed by how many there are.
        asked.append(job.spec.actors.replicas)
    return digest(asked)


def with_running_image(
    job: AsyncRLJob, jobs: Mapping[Role, RoleJob], settings: Settings
) -> Settings:
    """The default image of a job as long as it has Jobs: that of the roles that run by default.

    A new version of the operator brings a new one, and a role that is made anew must not differ
    from those that stay. A Job of an earlier spec says nothing: its image may have been its own.
    """
    for role, current in jobs.items():
        spec = role_spec(job, role)
        own = (spec.template.get("spec") or {}).get("containers") or []
        if spec.image is not None or _image(own, role) is not None:
            continue
        image = _image(current.template["spec"]["containers"], role)
        if image is not None and current.template_hash == template_hash(job, role):
            return replace(settings, worker_image=image)
    return settings


def _image(containers: Sequence[Mapping[str, Any]], name: str) -> str | None:
    return next((c.get("image") for c in containers if c.get("name") == name), None)


def digest(value: Any) -> str:
    """A short digest of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def replacement_pod(job: RoleJob, owner: Owner, pod: Pod | None, index: int) -> Object:
    """A pod in the place of a lost one, as the Job controller would make it after its back-off.

    It is a full member of the Indexed Job: owner, labels, index and the finalizer by which the Job
    controller counts it. `pod` is the lost one, whose uid makes the name, so that two attempts to
    replace the same pod make one pod.
    """
    template = job.template
    metadata: Mapping[str, Any] = template.get("metadata") or {}
    # The template of a stored Job has its tracking labels already.
    name = digest([job.uid, index, None if pod is None else pod.uid])[:5]
    spec = dict(template["spec"]) | {"hostname": f"{job.name}-{index}"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{job.name}-{index}-{name}",
            "namespace": owner.namespace,
            "labels": dict(metadata.get("labels") or {}) | {labels.INDEX: str(index)},
            "annotations": dict(metadata.get("annotations") or {}) | {labels.INDEX: str(index)},
            "finalizers": ["batch.kubernetes.io/job-tracking"],
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": job.name,
                    "uid": job.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": spec,
    }
