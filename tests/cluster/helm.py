"""helm as the administrator of one cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cluster import parts
from cluster.build import build


class Helm:
    """Runs helm in one namespace: `helm("install", "asyncrl", chart)` returns what it prints."""

    def __init__(self, program: Path, kubeconfig: Path, namespace: str) -> None:
        self._command = [str(program), "--kubeconfig", str(kubeconfig), "-n", namespace]

    def __call__(self, *words: str) -> str:
        """Run to the end. Raises AssertionError with what helm says where it fails."""
        done = subprocess.run(
            [*self._command, *words], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def helm() -> Path:
    """The helm program."""
    build(parts.HELM)
    return parts.HELM.program("helm")
