"""kubectl as one user of one cluster."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from cluster import parts
from cluster.build import build

from asyncrl_api.crd import PATH as CRD


class Refused(RuntimeError):
    """kubectl ended with an error; the message is what it wrote to stderr."""


class Kubectl:
    """Runs kubectl with a kubeconfig: `kubectl("get", "pods", "-A")` returns what it prints."""

    def __init__(self, kubeconfig: Path, version: str = parts.KUBERNETES) -> None:
        part = parts.control_plane(version)
        build(part)
        self.program = part.program("kubectl")
        self.kubeconfig = kubeconfig

    def __call__(self, *arguments: str, stdin: str | None = None, seconds: float = 60.0) -> str:
        """Run to the end. Raises Refused, and TimeoutExpired after `seconds`."""
        done = self._run(arguments, stdin, seconds)
        if done.returncode:
            raise Refused(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """`kubectl get ... -o json`, parsed."""
        return json.loads(self("get", *arguments, "-o", "json"))

    def refused(self, *arguments: str, stdin: str | None = None, seconds: float = 60.0) -> str:
        """What kubectl says where it must not succeed. Raises AssertionError where it does."""
        done = self._run(arguments, stdin, seconds)
        assert done.returncode, f"kubectl {' '.join(arguments)}: accepted\n{done.stdout}"
        return done.stderr

    def _run(
        self, arguments: tuple[str, ...], stdin: str | None, seconds: float
    ) -> subprocess.CompletedProcess[str]:
        command = [str(self.program), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds)


def install_crd(kubectl: Kubectl) -> None:
    """Install the CRD of this checkout, and return once the API server serves it."""
    kubectl("apply", "--server-side", "-f", str(CRD))
    kubectl("wait", "--for=condition=Established", "-f", str(CRD), "--timeout=60s", seconds=90)
