"""The pod template of a role."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from asyncrl_api import labels
from asyncrl_api.exits import FATAL_CODES
from asyncrl_api.spec import AsyncRLJob
from asyncrl_api.spec import Role as RoleSpec
from asyncrl_operator.plan.merge import merge
from asyncrl_operator.plan.names import (
    DATA_PORT,
    HTTP_PORT,
    MANIFEST_KEY,
    RENDEZVOUS_PORT,
    REPORT_PORT,
    Owner,
    Role,
)
from asyncrl_operator.plan.settings import Settings

RUN_DIRECTORY = "/run/asyncrl"
TLS_DIRECTORY = "/etc/asyncrl/tls"
MANIFEST_DIRECTORY = "/etc/asyncrl"
USER = 10001
"""User and group of the images; volumes are made writable for the group."""
NODE_LOST_SECONDS = 30
"""A pod leaves a node that has gone after this long, not after the cluster's five minutes."""
START_SECONDS = 60
"""Beyond the stall timeout: imports, and the environments of an actor."""
PROBE_SECONDS = 5


def role_spec(job: AsyncRLJob, role: Role) -> RoleSpec:
    """The part of the manifest about a role."""
    spec = job.spec
    roles = {"actor": spec.actors, "learner": spec.learner}
    return roles.get(role, spec.parameter_server)


def pod_template(
    job: AsyncRLJob, owner: Owner, role: Role, attempt: int, settings: Settings
) -> dict[str, Any]:
    """The PodTemplateSpec of a role, its own template merged over ours."""
    spec = role_spec(job, role)
    pod: dict[str, Any] = {
        "subdomain": owner.name,
        "restartPolicy": "Never" if settings.restart_rules else "OnFailure",
        "terminationGracePeriodSeconds": job.spec.run_policy.termination_grace_period_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(job, owner, role, attempt, settings)],
        "volumes": _volumes(job, owner, role),
    }
    if spec.priority_class_name is not None:
        pod["priorityClassName"] = spec.priority_class_name
    template = {"metadata": {"labels": owner.labels(role)}, "spec": pod}
    merged = merge(template, _filled(spec.template))
    # What selects the pods and tells them apart is not the user's.
    merged["metadata"]["labels"] |= owner.labels(role)
    merged["spec"]["subdomain"] = owner.name
    merged["spec"]["tolerations"] = _tolerations(merged["spec"].get("tolerations") or [])
    return merged


def _filled(template: Mapping[str, Any]) -> dict[str, Any]:
    """The template without the parts that are written with nothing below: `labels:`."""
    filled = {key: part for key, part in template.items() if part is not None}
    if "metadata" in filled:
        metadata = filled["metadata"]
        filled["metadata"] = {key: part for key, part in metadata.items() if part is not None}
    return filled


def _tolerations(own: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The user's, and how long a pod stays on a lost node, unless the user says that too."""
    told = {toleration.get("key") for toleration in own}
    if None in told or "" in told:
        return [*own]  # of everything
    lost = [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": NODE_LOST_SECONDS,
        }
        for state in ("not-ready", "unreachable")
    ]
    return [*own, *(toleration for toleration in lost if toleration["key"] not in told)]


def _container(
    job: AsyncRLJob, owner: Owner, role: Role, attempt: int, settings: Settings
) -> dict[str, Any]:
    spec = role_spec(job, role)
    http = spec.metrics_port or HTTP_PORT
    ports = [{"name": "http", "containerPort": http}]
    if role == "parameter-server":
        ports.append({"name": "data", "containerPort": DATA_PORT})
    if role == "learner":
        ports.append({"name": "report", "containerPort": REPORT_PORT})
    container: dict[str, Any] = {
        "name": role,
        "image": spec.image or settings.worker_image,
        "command": _command(owner, role, attempt, http),
        "env": _environment(job, owner, role),
        "ports": ports,
        "resources": _resources(spec),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(job, owner, role),
        **_probes(job, http),
    }
    if settings.restart_rules:
        # The kubelet restarts what trying again may help, in place, also while the operator is
        # down. What ends for good keeps its pod, and so its log.
        container["restartPolicy"] = "Never"
        container["restartPolicyRules"] = [
            {
                "action": "Restart",
                "exitCodes": {"operator": "NotIn", "values": [0, *FATAL_CODES]},
            }
        ]
    return container


def _command(owner: Owner, role: Role, attempt: int, http: int) -> list[str]:
    module = role.replace("-", "_")
    listening = role == "parameter-server"
    command = [
        *("python", "-m", f"asyncrl_worker.{module}.main"),
        *("--manifest", f"{MANIFEST_DIRECTORY}/{MANIFEST_KEY}"),
        *("--address", f"0.0.0.0:{DATA_PORT}" if listening else owner.address),
        *("--run-directory", RUN_DIRECTORY),
        *("--index", "$(JOB_COMPLETION_INDEX)"),
        *("--attempt", str(attempt)),
        *("--tls", TLS_DIRECTORY),
        *("--http", f"0.0.0.0:{http}"),
    ]
    if role == "learner":
        # Without a checkpoint it begins anew; a container restarted in place goes on from its own.
        command += ["--report", f"0.0.0.0:{REPORT_PORT}", "--resume"]
    return command


def _environment(job: AsyncRLJob, owner: Owner, role: Role) -> list[dict[str, Any]]:
    spec = role_spec(job, role)
    index = {"fieldRef": {"fieldPath": f"metadata.annotations['{labels.INDEX}']"}}
    threads = str(cpu_threads(_merged_resources(job, role)))
    variables: dict[str, dict[str, Any]] = {
        "JOB_COMPLETION_INDEX": {"valueFrom": index},
        "PYTHONUNBUFFERED": {"value": "1"},
        "HOME": {"value": "/tmp"},
        "OMP_NUM_THREADS": {"value": threads},
    }
    if role == "learner":
        variables |= {
            "RANK": {"valueFrom": index},
            "LOCAL_RANK": {"value": "0"},
            "WORLD_SIZE": {"value": str(spec.replicas)},
            "MASTER_ADDR": {"value": f"{owner.role_object('learner')}-0.{owner.name}"},
            "MASTER_PORT": {"value": str(RENDEZVOUS_PORT)},
        }
    variables |= {variable.name: {"value": variable.value} for variable in spec.env}
    return [{"name": name, **value} for name, value in variables.items()]


def cpu_threads(resources: Mapping[str, Any]) -> int:
    """Whole CPUs of the limit, else of the request, at least 1.

    More threads than the limit allows spin against each other.
    """
    for amounts in (resources.get("limits"), resources.get("requests")):
        found = cpus(amounts.get("cpu")) if isinstance(amounts, Mapping) else None
        if found is not None:
            return max(1, math.floor(found))
    return 1


def cpus(quantity: object) -> float | None:
    """A quantity of CPUs as a number; None for what is none, which the API server refuses."""
    text = str(quantity)
    suffixes = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9}
    scale = suffixes.get(text[-1:])
    try:
        found = float(text) if scale is None else float(text[:-1]) * scale
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _merged_resources(job: AsyncRLJob, role: Role) -> Mapping[str, Any]:
    """The resources of a role's container as its pod will have them."""
    spec = role_spec(job, role)
    containers = (spec.template.get("spec") or {}).get("containers") or []
    named = (c for c in containers if isinstance(c, Mapping) and c.get("name") == role)
    own: Mapping[str, Any] = next(named, {})
    over = {"resources": own["resources"]} if "resources" in own else {}
    found = merge({"resources": _resources(spec)}, over).get("resources")
    return found if isinstance(found, Mapping) else {}


def _resources(spec: RoleSpec) -> dict[str, Any]:
    resources = spec.resources.model_dump(mode="json", by_alias=True)
    return {name: amounts for name, amounts in resources.items() if amounts}


def _probes(job: AsyncRLJob, http: int) -> dict[str, Any]:
    start = job.spec.run_policy.stall_timeout_seconds + START_SECONDS

    def get(path: str) -> Mapping[str, Any]:
        return {"httpGet": {"path": path, "port": http}, "timeoutSeconds": PROBE_SECONDS}

    return {
        "startupProbe": {
            **get("/healthz"),
            "periodSeconds": 1,
            "failureThreshold": start,
        },
        "readinessProbe": {**get("/readyz"), "periodSeconds": 1, "failureThreshold": 5},
        "livenessProbe": {**get("/healthz"), "periodSeconds": 10, "failureThreshold": 3},
    }


def durable(job: AsyncRLJob) -> bool:
    """Whether checkpoints outlive the learner's pod."""
    return job.spec.checkpoint.volume is not None


def _mounts(job: AsyncRLJob, owner: Owner, role: Role) -> list[dict[str, Any]]:
    run: dict[str, Any] = {"name": "run", "mountPath": RUN_DIRECTORY}
    volume = job.spec.checkpoint.volume
    if role == "learner" and volume is not None and volume.existing_claim is not None:
        run["subPath"] = f"{owner.name}-{owner.uid}"
    return [
        run,
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
        {"name": "manifest", "mountPath": MANIFEST_DIRECTORY, "readOnly": True},
        {"name": "tls", "mountPath": TLS_DIRECTORY, "readOnly": True},
    ]


def _volumes(job: AsyncRLJob, owner: Owner, role: Role) -> list[dict[str, Any]]:
    run: dict[str, Any] = {"name": "run", "emptyDir": {}}
    volume = job.spec.checkpoint.volume
    if role == "learner" and volume is not None:
        claim = volume.existing_claim or owner.claim
        run = {"name": "run", "persistentVolumeClaim": {"claimName": claim}}
    keys = {"ca.crt": "ca.crt", f"{role}.crt": "tls.crt", f"{role}.key": "tls.key"}
    return [
        run,
        {"name": "tmp", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        {"name": "manifest", "configMap": {"name": owner.manifest}},
        {
            "name": "tls",
            "secret": {
                "secretName": owner.secret,
                "defaultMode": 0o440,
                "items": [{"key": key, "path": path} for key, path in keys.items()],
            },
        },
    ]
