"""Simulated GPU nodes behind the real scheduler and the real Job controller."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from cluster.kubectl import Kubectl
from cluster.kwok import TOLERATION, Kwok

NODES, GPUS = 4, 8


@pytest.fixture
def nodes(kwok: Kwok) -> Iterator[list[str]]:
    """Four nodes of eight GPUs."""
    names = kwok.add_nodes("gpu", NODES, gpus=GPUS)
    yield names
    kwok.remove_nodes(names)


def gpu_job(name: str, pods: int, gpus: int) -> str:
    """A Job whose pods ask for GPUs."""
    container = {
        "name": "main",
        "image": "not-pulled",
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
    }
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "tolerations": [TOLERATION],
            "containers": [container],
        },
    }
    return yaml.safe_dump(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {
                "completionMode": "Indexed",
                "completions": pods,
                "parallelism": pods,
                "template": template,
            },
        }
    )


def test_pods_fill_the_gpus_and_the_rest_waits(
    kubectl: Kubectl, namespace: str, nodes: list[str]
) -> None:
    kubectl("create", "-n", namespace, "-f", "-", stdin=gpu_job("wide", NODES * 2 + 1, 4))
    ready = f"--for=jsonpath={{.status.ready}}={NODES * 2}"
    kubectl("wait", "-n", namespace, "job/wide", ready, "--timeout=60s", seconds=90)
    pods = kubectl.get("-n", namespace, "pods")["items"]
    placed = [pod["spec"].get("nodeName") for pod in pods]
    assert sorted(name for name in placed if name) == sorted(nodes * 2)
    waiting = "--field-selector=status.phase=Pending"
    (pending,) = kubectl.get("-n", namespace, "pods", waiting)["items"]
    (condition,) = pending["status"]["conditions"]
    assert condition["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition["message"]


def test_a_deleted_pod_is_replaced_by_the_job_controller(
    kubectl: Kubectl, namespace: str, nodes: list[str]
) -> None:
    kubectl("create", "-n", namespace, "-f", "-", stdin=gpu_job("one", 1, 1))
    ready = "--for=jsonpath={.status.ready}=1"
    kubectl("wait", "-n", namespace, "job/one", ready, "--timeout=60s", seconds=90)
    (pod,) = kubectl.get("-n", namespace, "pods")["items"]
    kubectl("delete", "-n", namespace, "pod", pod["metadata"]["name"], "--timeout=30s")
    failed = "--for=jsonpath={.status.failed}=1"
    kubectl("wait", "-n", namespace, "job/one", failed, "--timeout=60s", seconds=90)
