"""Fixtures of tests against a real Kubernetes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from cluster.cluster import EXISTING, Cluster
from cluster.control_plane import ControlPlane
from cluster.helm import helm as helm
from cluster.kubectl import Kubectl, install_crd
from cluster.kwok import Kwok
from cluster.network import Unavailable
from cluster.node import Node

TIMEOUT = 1200
"""Seconds for one test with its fixtures, of which the first may start a node and load images."""

PODS = {"node", "base_image", "worker_image", "operator_image"}
"""Fixtures of the tests that run real pods."""

ONLY_OURS = f"needs a cluster of its own, and {EXISTING} names another"

T = TypeVar("T")

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder the time that a first fixture takes; mark those with pods.

    With another cluster given, those that ask for ours are skipped: they make its users and nodes,
    or look into its processes.
    """
    folder = Path(__file__).parent
    for item in items:
        if folder not in item.path.parents:
            continue
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))
        fixtures = set(getattr(item, "fixturenames", ()))
        if PODS & fixtures:
            item.add_marker("pods")
        if "cluster" in fixtures and os.environ.get(EXISTING):
            item.add_marker(pytest.mark.skip(reason=ONLY_OURS))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane, with a node as soon as a test asks for `node`."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="session")
def control_plane(cluster: Cluster) -> ControlPlane:
    """An API server with etcd, controllers and scheduler."""
    return cluster.control_plane


@pytest.fixture(scope="session")
def node(cluster: Cluster) -> Node:
    """A node with real pods. Skips where this machine cannot run one; on CI it fails."""
    return _or_skip(lambda: cluster.node)


@pytest.fixture(scope="session")
def base_image(cluster: Cluster, node: Node) -> str:
    """Name of an image with Python and little else, present on the node."""
    image = cluster.images.base()
    cluster.load(image)
    return image.name


@pytest.fixture(scope="session")
def worker_image(request: pytest.FixtureRequest) -> str:
    """Name of the image of the roles, built from this checkout and present on the node."""
    return _image(request, "worker")


@pytest.fixture(scope="session")
def operator_image(request: pytest.FixtureRequest) -> str:
    """Name of the image of the operator, built from this checkout and present on the node."""
    return _image(request, "operator")


@pytest.fixture(scope="session")
def kwok(tmp_path_factory: pytest.TempPathFactory, control_plane: ControlPlane) -> Iterator[Kwok]:
    """Plays simulated nodes, of which there are none yet."""
    with Kwok(tmp_path_factory.mktemp("kwok"), control_plane) as running:
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
    install_crd(kubectl)
    return kubectl


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace for one test; what is in it is deleted with it."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    kubectl("create", "namespace", name)
    # Without its service account no pod can be made by hand.
    account = ("wait", "-n", name, "serviceaccount/default", "--for=create")
    kubectl(*account, "--timeout=60s", seconds=90)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def _image(request: pytest.FixtureRequest, name: str) -> str:
    variable = f"ASYNCRL_TEST_{name.upper()}_IMAGE"
    if EXISTING in os.environ:
        if variable not in os.environ:
            pytest.fail(
                f"with {EXISTING} set, {variable} must name an image that its nodes can pull"
            )
        return os.environ[variable]
    request.getfixturevalue("node")
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.publish(name).name


def _or_skip(make: Callable[[], T]) -> T:
    try:
        return make()
    except Unavailable as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(reason))
