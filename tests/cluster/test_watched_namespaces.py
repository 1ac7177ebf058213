"""An operator of several namespaces outlives the deletion of one, and of its rights in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster.control_plane import ControlPlane
from cluster.helm import Helm
from cluster.kubectl import Kubectl
from cluster.operator_process import start_operator

from asyncrl.client import cluster

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "asyncrl"
HOME, KEPT, DELETED = "watched-ops", "watched-vision", "watched-robots"


@pytest.fixture
def rights(
    control_plane: ControlPlane, kubectl: Kubectl, helm: Path, tmp_path: Path
) -> Iterator[Path]:
    """A kubeconfig of the operator, installed for two namespaces."""
    for namespace in (HOME, KEPT, DELETED):
        kubectl("create", "namespace", namespace)
    release = Helm(helm, control_plane.kubeconfig, HOME)
    watched = f"watchNamespaces={{{KEPT},{DELETED}}}"
    release("install", "asyncrl", str(CHART), "--set", "crds.install=false", "--set", watched)
    document = yaml.safe_load(control_plane.kubeconfig.read_text())
    token = kubectl("create", "token", "asyncrl", "-n", HOME).strip()
    document["users"][0]["user"] = {"token": token}
    path = tmp_path / "operator.kubeconfig"
    path.write_text(yaml.safe_dump(document))
    yield path
    release("uninstall", "asyncrl", "--ignore-not-found")
    kubectl("delete", "namespace", HOME, KEPT, "--wait=false")


def test_the_others_are_served_by_the_next_start(
    control_plane: ControlPlane,
    kubectl: Kubectl,
    rights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    client, log = cluster(namespace=KEPT), tmp_path / "operator.log"
    watched = ("--namespace", KEPT, "--namespace", DELETED)

    def runs(name: str) -> None:
        """Submit a job and wait until its roles are being started."""
        client.submit(ROOT / "examples" / "cartpole.yaml", [f"metadata.name={name}"])
        deadline, pause = time.monotonic() + 60, threading.Event()
        jobs = ("jobs", "-n", KEPT, "-l", f"asyncrl.io/job={name}")
        while len(kubectl.get(*jobs)["items"]) < 3:
            assert time.monotonic() < deadline, operator.tail(40)
            pause.wait(0.2)

    operator = start_operator(rights, log, *watched, home=HOME)
    try:
        kubectl("delete", "namespace", DELETED, "--timeout=60s", seconds=90)
        runs("before")
        operator.stop()
        assert "left_out" not in log.read_text()
        operator = start_operator(rights, log, *watched, home=HOME)
        runs("after")
        assert f"event=left_out namespace={DELETED}" in log.read_text()
    finally:
        operator.stop()
