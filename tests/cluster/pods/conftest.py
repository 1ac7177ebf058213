"""The operator as its users have it: installed by Helm, a pod of its own image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.cluster import EXISTING
from cluster.helm import Helm
from cluster.kubectl import Kubectl
from cluster.pods.release import NAMESPACE, Release

CHART = Path(__file__).parents[3] / "charts" / "asyncrl"


@pytest.fixture(scope="package")
def release(
    kubectl: Kubectl, kubeconfig: Path, helm: Path, operator_image: str, worker_image: str
) -> Iterator[Release]:
    """`helm install`, for all namespaces, in a namespace under the restricted standard."""
    kubectl("create", "namespace", NAMESPACE)
    kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    run = Helm(helm, kubeconfig, NAMESPACE)
    values = ["--set", "reportIntervalSeconds=1"]
    if EXISTING in os.environ:  # a node of ours has the images by the names that the chart means
        for key, image in (("image", operator_image), ("workerImage", worker_image)):
            repository, _, tag = image.rpartition(":")
            values += ["--set", f"{key}.repository={repository}", "--set", f"{key}.tag={tag}"]
    # Other tests have installed the CRD by kubectl.
    run("install", "asyncrl", str(CHART), *values, "--take-ownership", "--wait")
    release = Release(kubectl, run, CHART)
    yield release
    print(release.log())
    run("uninstall", "asyncrl", "--wait")
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def restricted(kubectl: Kubectl, release: Release, namespace: str) -> str:
    """A namespace under the restricted standard, which the operator looks after."""
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return namespace
