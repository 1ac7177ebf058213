"""An AsyncRLJob of a test, through kubectl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from cluster.kubectl import Kubectl

from asyncrl_api.document import dump_document
from asyncrl_api.status import JobStatus

OWNED = (
    *("jobs", "pods", "secrets", "configmaps", "services", "networkpolicies"),
    *("poddisruptionbudgets", "persistentvolumeclaims"),
)
"""Kinds of the objects that the operator makes for a job."""


def condition(status: JobStatus, kind: str) -> tuple[str, str]:
    """Status and reason of a condition; empty where there is none."""
    found = next((c for c in status.conditions if c.type == kind), None)
    return ("", "") if found is None else (found.status, found.reason)


def version(status: JobStatus) -> int:
    """The policy version that it reports."""
    return (status.training.policy_version or 0) if status.training else 0


class Job:
    """One AsyncRLJob through kubectl."""

    def __init__(self, kubectl: Kubectl, namespace: str, name: str) -> None:
        self.kubectl = kubectl
        self.namespace = namespace
        self.name = name

    def document(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Its manifest."""
        return {
            "apiVersion": "asyncrl.io/v1alpha1",
            "kind": "AsyncRLJob",
            "metadata": {"name": self.name},
            "spec": spec,
        }

    def apply(self, spec: dict[str, Any]) -> None:
        """Create or change it."""
        document = dump_document(self.document(spec))
        self.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=document)

    def patch(self, spec: dict[str, Any]) -> None:
        """Change some of its spec."""
        text = json.dumps({"spec": spec})
        self.kubectl(*("patch", "-n", self.namespace, "arl", self.name, "--type=merge", "-p", text))

    def status(self) -> JobStatus:
        """Its status."""
        document = self.kubectl.get("-n", self.namespace, "arl", self.name)
        return JobStatus.model_validate(document.get("status") or {})

    def until(
        self, holds: Callable[[JobStatus], Any], what: str, seconds: float = 240.0
    ) -> JobStatus:
        """Wait until the status is as it should be."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status()
            if holds(status):
                return status
            if time.monotonic() > deadline:
                shown = status.model_dump_json(by_alias=True, exclude_none=True, indent=1)
                pods = self.kubectl("get", "-n", self.namespace, "pods", "-o", "wide")
                raise AssertionError(f"not within {seconds:g} s: {what}\n{pods}\n{shown}")
            time.sleep(0.3)

    def pods(self, role: str) -> list[Any]:
        """The live pods of a role, by index."""
        found = self.kubectl.get("-n", self.namespace, "pods", "-l", self.selector(role))["items"]
        live = [
            pod
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
            and pod["status"].get("phase") in ("Pending", "Running")
        ]
        index = "batch.kubernetes.io/job-completion-index"
        return sorted(live, key=lambda pod: int(pod["metadata"]["annotations"][index]))

    def selector(self, role: str) -> str:
        """Label selector of the pods of a role."""
        return f"asyncrl.io/job={self.name},asyncrl.io/role={role}"

    def until_gone(self, seconds: float = 60.0) -> None:
        """Wait until nothing is left of a deleted job, its claim and its Secret included."""
        kinds = ",".join(OWNED)
        mine = ("-n", self.namespace, kinds, "-l", f"asyncrl.io/job={self.name}")
        self.kubectl(
            *("wait", *mine, "--for=delete", f"--timeout={seconds:g}s"), seconds=seconds + 30
        )
        assert not self.kubectl("get", *mine, "-o", "name")
