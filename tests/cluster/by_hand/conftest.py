"""A control plane of its own: its node is played by hand, so no other test may use it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import parts
from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl, install_crd

EXISTING = "ASYNCRL_TEST_CONTROL_PLANE"
"""Environment variable: the kubeconfig of a control plane without nodes, with the CRD."""

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def plane(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The administrator's kubeconfig of a control plane with the CRD; its parameter a version."""
    version = getattr(request, "param", parts.KUBERNETES)
    existing = os.environ.get(EXISTING)
    if existing and version == parts.KUBERNETES:
        yield Path(existing)
        return
    folder = tmp_path_factory.mktemp("by-hand")
    with ControlPlane(folder, version=version) as running:
        install_crd(running.kubectl)
        yield running.kubeconfig


@pytest.fixture
def kubectl(plane: Path) -> Kubectl:
    """kubectl as its administrator."""
    return Kubectl(plane)


@pytest.fixture
def namespace(kubectl: Kubectl, plane: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A namespace for one test, and the operator's kubeconfig."""
    monkeypatch.setenv("KUBECONFIG", str(plane))
    name = f"hand-{os.getpid()}-{next(_numbers)}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    kubectl("delete", "namespace", name, "--wait=false")
