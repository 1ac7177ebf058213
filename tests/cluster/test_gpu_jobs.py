"""Jobs that ask for GPUs, on simulated nodes that have some: real scheduler, real Jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.job import Job, condition
from cluster.kubectl import Kubectl
from cluster.kwok import TOLERATION, Kwok
from cluster.operator_process import start_operator

from asyncrl_api.document import dump_document

WORKLOAD = {"gymnasium": {"id": "CartPole-v1"}}


@pytest.fixture
def operated(kubectl: Kubectl, kubeconfig: Path, namespace: str, tmp_path: Path) -> Iterator[str]:
    """A namespace with an operator."""
    process = start_operator(kubeconfig, tmp_path / "operator.log", "--namespace", namespace)
    yield namespace
    process.stop()


def role(gpus: int, pool: str, **more: Any) -> dict[str, Any]:
    """A role whose pods get GPUs on the nodes of a pool."""
    pod = {"nodeSelector": {"pool": pool}, "tolerations": [TOLERATION], **more.pop("pod", {})}
    resources = {"limits": {"nvidia.com/gpu": gpus}}
    return {"resources": resources, "template": {"spec": pod}, **more}


def server(pool: str) -> dict[str, Any]:
    found = role(0, pool)
    del found["resources"]
    return found


def pool(kubectl: Kubectl, kwok: Kwok, name: str, count: int, gpus: int) -> list[str]:
    nodes = kwok.add_nodes(name, count, gpus=gpus)
    kubectl("label", "node", *nodes, f"pool={name}")
    return nodes


def test_roles_go_where_they_are_asked_to(kubectl: Kubectl, operated: str, kwok: Kwok) -> None:
    fast = pool(kubectl, kwok, "fast", 2, 8)
    slow = pool(kubectl, kwok, "slow", 3, 4)
    try:
        apart = {
            "labelSelector": {"matchLabels": {"asyncrl.io/role": "learner"}},
            "topologyKey": "kubernetes.io/hostname",
        }
        affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
        job = Job(kubectl, operated, "wide")
        job.apply(
            {
                "workload": WORKLOAD,
                "learner": role(8, "fast", replicas=2, pod={"affinity": affinity}),
                "actors": role(2, "slow", replicas=6),
                "parameterServer": server("slow"),
            }
        )
        status = job.until(lambda s: s.phase == "Running" and s.roles[0].ready == 6, "it runs")
        assert condition(status, "Running") == ("True", "AllRolesReady")
        assert sorted(pod["spec"]["nodeName"] for pod in job.pods("learner")) == fast
        actors = [pod["spec"]["nodeName"] for pod in job.pods("actor")]
        assert sorted(actors) == sorted(slow * 2)
        (learner, _) = job.pods("learner")
        limits = learner["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == "8"

        # A seventh finds no GPU, and the six go on.
        kubectl("scale", "-n", operated, "arl/wide", "--replicas=7")
        status = job.until(
            lambda s: "Insufficient nvidia.com/gpu" in _running(s), "it says what is short"
        )
        assert condition(status, "Running") == ("True", "TooFewActors")
        assert status.roles[0].ready == 6
    finally:
        kwok.remove_nodes(fast + slow)


def test_pressure_takes_actors_first(kubectl: Kubectl, operated: str, kwok: Kwok) -> None:
    nodes = pool(kubectl, kwok, "shared", 1, 8)
    classes = {"low": 100, "middle": 500, "high": 1000}
    names = {name: f"{operated}-{name}" for name in classes}
    try:
        for name, value in classes.items():
            kubectl("create", "priorityclass", names[name], f"--value={value}")
        job = Job(kubectl, operated, "shared")
        job.apply(
            {
                "workload": WORKLOAD,
                "learner": role(4, "shared", priorityClassName=names["high"]),
                "actors": role(2, "shared", replicas=2, priorityClassName=names["low"]),
                "parameterServer": server("shared") | {"priorityClassName": names["high"]},
            }
        )
        job.until(lambda s: s.phase == "Running" and s.roles[0].ready == 2, "it runs")
        (learner,) = job.pods("learner")
        container = {
            "name": "main",
            "image": "not-pulled",
            "resources": {"limits": {"nvidia.com/gpu": "2"}},
            "securityContext": {"allowPrivilegeEscalation": False},
        }
        urgent = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "urgent"},
            "spec": {
                "priorityClassName": names["middle"],
                "tolerations": [TOLERATION],
                "nodeSelector": {"pool": "shared"},
                "containers": [container],
            },
        }
        kubectl("apply", "-n", operated, "-f", "-", stdin=dump_document(urgent))
        kubectl("wait", "-n", operated, "pod/urgent", "--for=condition=Ready", "--timeout=60s")
        status = job.until(lambda s: s.roles[0].ready == 1 and s.roles[0].disruptions, "one less")
        assert condition(status, "Running") == ("True", "TooFewActors")
        told = kubectl.get("-n", operated, "events", "--field-selector", "reason=ActorLost")
        assert any("preempt" in event["message"].lower() for event in told["items"]), json.dumps(
            told["items"]
        )
        kubectl("delete", "-n", operated, "pod", "urgent", "--timeout=60s", seconds=90)
        status = job.until(lambda s: s.roles[0].ready == 2, "both again")
        assert status.roles[1].disruptions == 0
        assert [p["metadata"]["uid"] for p in job.pods("learner")] == [learner["metadata"]["uid"]]
    finally:
        kwok.remove_nodes(nodes)
        kubectl("delete", "priorityclass", *names.values(), "--ignore-not-found")


def _running(status: Any) -> str:
    return next((c.message for c in status.conditions if c.type == "Running"), "")
