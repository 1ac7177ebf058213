"""What the chart grants the operator is what it uses: the audit log of the API server tells."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.control_plane import ControlPlane
from cluster.helm import Helm
from cluster.kubectl import Kubectl
from cluster.operator_process import start_operator
from cluster.processes import Process

from asyncrl.client import cluster

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "asyncrl"
ACCOUNT = "system:serviceaccount:ops:asyncrl"
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [ACCOUNT]}],
}

Right = tuple[str, str, str]
"""API group, resource with subresource, verb."""

OWNERS = "admission plugin OwnerReferencesPermissionEnforcement, for owners that block deletion"
UNUSED_HERE: dict[Right, str] = {
    ("", "nodes", "get"): "why a pod failed that ran on a node",
    ("", "pods", "create"): "a lost pod that ran is replaced at once",
    ("asyncrl.io", "asyncrljobs/finalizers", "update"): OWNERS,
    ("batch", "jobs/finalizers", "update"): OWNERS,
    ("coordination.k8s.io", "leases", "create"): "the first operator of all; here one was lost",
}
"""Rights that the life of the jobs below, on a cluster without nodes, does not need; what does."""


class Audited(ControlPlane):
    """A control plane whose API server writes down what the operator asks for."""

    def _run(self, name: str, *command: str | Path) -> Process:
        if name == "kube-apiserver":
            policy = self.folder / "audit.yaml"
            policy.write_text(yaml.safe_dump(POLICY))
            command += (f"--audit-policy-file={policy}", f"--audit-log-path={self.audit}")
        return super()._run(name, *command)

    @property
    def audit(self) -> Path:
        """One JSON object per request of the operator."""
        return self.folder / "audit.log"

    def asked(self) -> list[dict[str, Any]]:
        """The requests so far."""
        if not self.audit.exists():
            return []
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    with Audited(tmp_path_factory.mktemp("audited")) as running:
        yield running


LOST_HOLDER = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": "asyncrl", "namespace": "ops"},
    "spec": {"holderIdentity": "asyncrl-5d8f7c-lost", "leaseDurationSeconds": 15},
}


@pytest.fixture
def operator(audited: Audited, helm: Path, tmp_path: Path) -> Iterator[Process]:
    """The operator as the chart lets it be: its service account, its rights."""
    kubectl = audited.kubectl
    for namespace in ("ops", "team"):
        kubectl("create", "namespace", namespace)
    Helm(helm, audited.kubeconfig, "ops")("install", "asyncrl", str(CHART))
    kubectl("wait", "--for=condition=Established", "crd/asyncrljobs.asyncrl.io", "--timeout=60s")
    kubectl("create", "-f", "-", stdin=yaml.safe_dump(LOST_HOLDER))
    document = yaml.safe_load(audited.kubeconfig.read_text())
    token = kubectl("create", "token", "asyncrl", "-n", "ops").strip()
    document["users"][0]["user"] = {"token": token}
    kubeconfig = tmp_path / "operator.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(document))
    log = tmp_path / "operator.log"
    process = start_operator(kubeconfig, log, "--lease", "asyncrl", home="ops")
    yield process
    process.stop()


def until(find: Callable[[], Any], what: str) -> None:
    deadline, pause = time.monotonic() + 120, threading.Event()
    while not find():
        assert time.monotonic() < deadline, what
        pause.wait(0.2)


def granted(kubectl: Kubectl) -> set[Right]:
    """What the ClusterRole of the operator, and its Role for the Lease, let it do."""
    rules = kubectl.get("clusterrole", "asyncrl")["rules"]
    rules += kubectl.get("-n", "ops", "role", "asyncrl-lease")["rules"]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(requests: list[dict[str, Any]]) -> set[Right]:
    """What was asked for, less what everybody may ask."""
    rights = set()
    for request in requests:
        reference = request.get("objectRef", {})
        if "resource" not in reference:
            continue
        parts = [reference["resource"], reference.get("subresource")]
        resource = "/".join(part for part in parts if part)
        right = (reference.get("apiGroup", ""), resource)
        rights.add((*right, request["verb"]))
        # A server-side apply that makes an object needs the right to create it too.
        if (request["verb"], request["responseStatus"]["code"]) == ("patch", 201):
            rights.add((*right, "create"))
    return rights


def test_the_operator_is_granted_what_it_uses(
    audited: Audited, operator: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl = audited.kubectl
    monkeypatch.setenv("KUBECONFIG", str(audited.kubeconfig))
    client = cluster(namespace="team")
    volume = "spec.checkpoint.volume.claim.size=1Gi"
    name = client.submit(ROOT / "examples" / "cartpole.yaml", [volume])
    mine = ("-n", "team", "-l", f"asyncrl.io/job={name}")

    def pods() -> list[str]:
        return [pod["metadata"]["name"] for pod in kubectl.get("pods", *mine)["items"]]

    until(lambda: len(pods()) == 4, f"four pods\n{operator.tail(40)}")
    client.scale(name, 3)
    until(lambda: len(pods()) == 5, f"five pods\n{operator.tail(40)}")
    client.scale(name, 1)
    until(lambda: len(pods()) == 3, f"three pods\n{operator.tail(40)}")
    kubectl("delete", "pod", "-n", "team", *[p for p in pods() if "-actor-" in p], "--now")
    until(lambda: len(pods()) == 3, f"the lost one is replaced\n{operator.tail(40)}")
    client.suspend(name)
    until(lambda: not pods(), f"no pods\n{operator.tail(40)}")
    until(lambda: client.status(name).phase == "Suspended", f"Suspended\n{operator.tail(40)}")
    client.resume(name)
    until(lambda: len(pods()) == 3, f"pods again\n{operator.tail(40)}")
    limits = ["metadata.name=late", "spec.runPolicy.preRunningDeadlineSeconds=1"]
    limits += ["spec.runPolicy.ttlSecondsAfterFinished=0"]
    client.submit(ROOT / "examples" / "cartpole.yaml", limits)
    until(
        lambda: [job.name for job in client.jobs()] == [name],
        f"the late one is cleaned up\n{operator.tail(40)}",
    )

    requests = audited.asked()
    refused = [r for r in requests if r["responseStatus"]["code"] in (401, 403)]
    assert [(r["verb"], r["requestURI"]) for r in refused] == []
    may, did = granted(kubectl), used(requests)
    assert did - may == set(), "allowed by another role"
    assert may - did == set(UNUSED_HERE)
