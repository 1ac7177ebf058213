"""Fixtures of tests against a real Kubernetes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import parts
from cluster.build import build
from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl

from asyncrl_api.crd import PATH as CRD

EXISTING = "ASYNCRL_TEST_KUBECONFIG"
"""Environment variable: the kubeconfig of a cluster to use instead of one of our own."""

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with etcd, controllers and scheduler; no node yet."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


@pytest.fixture(scope="session")
def kubeconfig(request: pytest.FixtureRequest) -> Path:
    """The administrator's kubeconfig, of an existing cluster if the environment names one."""
    existing = os.environ.get(EXISTING)
    if existing:
        return Path(existing)
    control_plane: ControlPlane = request.getfixturevalue("control_plane")
    return control_plane.kubeconfig


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path) -> Kubectl:
    """kubectl as the administrator, with the CRD installed."""
    kubectl = Kubectl(kubeconfig)
    kubectl("apply", "--server-side", "-f", str(CRD))
    kubectl("wait", "--for=condition=Established", "-f", str(CRD), "--timeout=30s")
    return kubectl


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace for one test; what is in it is deleted with it."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def helm() -> Path:
    """The helm program."""
    build(parts.HELM)
    return parts.HELM.program("helm")
