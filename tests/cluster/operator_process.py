"""The operator as a process of this machine, and jobs that train in real pods."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.kubectl import Kubectl

from asyncrl_api.document import dump_document
from asyncrl_api.status import JobStatus

READY_SECONDS = 60.0


@contextmanager
def operator_process(
    kubeconfig: Path, namespace: str, worker_image: str, log: Path, *more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """An operator of one namespace until the context ends, with more options where given."""
    command = [
        *(sys.executable, "-m", "asyncrl_operator", "--namespace", namespace),
        *("--worker-image", worker_image, "--metrics-host", "127.0.0.1"),
        *("--metrics-port", "0", "--report-interval", "1", *more),
    ]
    environment = os.environ | {"KUBECONFIG": str(kubeconfig), "POD_NAMESPACE": namespace}
    with log.open("ab") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    try:
        began = log.stat().st_size
        deadline = time.monotonic() + READY_SECONDS
        while b"event=ready" not in log.read_bytes()[began:]:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


class Job:
    """One AsyncRLJob through kubectl."""

    def __init__(self, kubectl: Kubectl, namespace: str, name: str) -> None:
        self.kubectl = kubectl
        self.namespace = namespace
        self.name = name

    def apply(self, spec: dict[str, Any]) -> None:
        """Create or change it."""
        document = {
            "apiVersion": "asyncrl.io/v1alpha1",
            "kind": "AsyncRLJob",
            "metadata": {"name": self.name},
            "spec": spec,
        }
        self.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=dump_document(document))

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
        selector = f"asyncrl.io/job={self.name},asyncrl.io/role={role}"
        found = self.kubectl.get("-n", self.namespace, "pods", "-l", selector)["items"]
        live = [
            pod
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
            and pod["status"].get("phase") in ("Pending", "Running")
        ]
        index = "batch.kubernetes.io/job-completion-index"
        return sorted(live, key=lambda pod: int(pod["metadata"]["annotations"][index]))

    def in_pod(self, pod: Any, *command: str) -> str:
        """Run a command in a pod's container."""
        return self.kubectl("exec", "-n", self.namespace, pod["metadata"]["name"], "--", *command)
