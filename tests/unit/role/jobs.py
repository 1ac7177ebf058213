"""A manifest and arguments for roles under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asyncrl_api.manifest import load_manifest
from asyncrl_worker.role import RoleArguments

MANIFEST = """\
apiVersion: asyncrl.io/v1alpha1
kind: AsyncRLJob
metadata: {name: test}
spec:
  workload: {gymnasium: {id: CartPole-v1}}
"""


def write_manifest(folder: Path, text: str = MANIFEST) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def make_arguments(folder: Path, **settings: Any) -> RoleArguments:
    given: dict[str, Any] = {
        "role": "learner",
        "job": load_manifest(write_manifest(folder)),
        "address": "unix:/nowhere",
        "run_directory": folder / "run",
    }
    return RoleArguments(**given | settings)


def command_line(folder: Path, *more: str) -> list[str]:
    return [
        *("--manifest", str(folder / "job.yaml")),
        *("--address", "unix:/nowhere"),
        *("--run-directory", str(folder)),
        *more,
    ]
