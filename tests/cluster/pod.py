"""Pods of tests: one container, as restricted as roles are."""

from __future__ import annotations

from typing import Any

import yaml
from cluster.kubectl import Kubectl, Refused

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(name: str, image: str, command: list[str], **more: Any) -> dict[str, Any]:
    """A pod of one container, as restricted as roles are."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": command,
        "securityContext": RESTRICTED,
        **more,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }


def run_to_end(kubectl: Kubectl, namespace: str, document: dict[str, Any], phase: str) -> str:
    """Run a pod until it is in a phase, and return its log."""
    name = document["metadata"]["name"]
    kubectl("create", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(document))
    ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated}"
    kubectl("wait", "-n", namespace, f"pod/{name}", ended, "--timeout=120s", seconds=150)
    reached = f"--for=jsonpath={{.status.phase}}={phase}"
    try:
        kubectl("wait", "-n", namespace, f"pod/{name}", reached, "--timeout=10s")
    except Refused as error:
        error.add_note(kubectl("logs", "-n", namespace, name))
        raise
    return kubectl("logs", "-n", namespace, name)
