"""The image of the roles runs as pods must: not as root, nothing writable but what is mounted."""

from __future__ import annotations

import json
from typing import Any

import yaml
from cluster.cluster import Cluster
from cluster.kubectl import Kubectl

LOOK_AROUND = """
import importlib, json, os, pathlib, sys
for role in ("actor", "parameter_server"):
    importlib.import_module(f"asyncrl_worker.{role}.main")
light = "torch" not in sys.modules
importlib.import_module("asyncrl_worker.learner.main")
import torch
unwritable = []
for folder in (sys.prefix, "/opt/asyncrl/code", "/etc"):
    try:
        pathlib.Path(folder, "new").touch()
    except OSError as error:
        unwritable.append(error.strerror)
pathlib.Path("/tmp/new").touch()
code = pathlib.Path(sys.modules["asyncrl_worker"].__path__[0])
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "light": light,
    "sum": float(torch.ones(3).sum()),
    "unwritable": unwritable,
    "bytecode": len(list(code.glob("learner/__pycache__/main.*.pyc"))),
}))
"""


def test_the_worker_image_runs_restricted_and_read_only(
    kubectl: Kubectl, namespace: str, worker_image: str
) -> None:
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    pod = worker_pod("look", worker_image, ["python", "-c", LOOK_AROUND])
    kubectl("create", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(pod))
    ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated}"
    kubectl("wait", "-n", namespace, "pod/look", ended, "--timeout=600s", seconds=660)
    log = kubectl("logs", "-n", namespace, "look")
    assert json.loads(log.splitlines()[-1]) == {
        "user": [10001, 10001],
        "light": True,
        "sum": 3.0,
        "unwritable": ["Read-only file system"] * 3,
        "bytecode": 1,
    }


def test_an_image_is_built_once(cluster: Cluster, worker_image: str) -> None:
    again = cluster.images.build("worker")
    assert again.name == worker_image
    assert again.by_digest.startswith("localhost/asyncrl-worker@sha256:")


def worker_pod(name: str, image: str, command: list[str]) -> dict[str, Any]:
    """A pod of the worker image that sets no user: the image must say it."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": command,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "temporary", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": [{"name": "temporary", "emptyDir": {}}],
        },
    }
