"""The tests with a cluster that is there already, as with one of a cloud."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cluster.__main__ as command
import pytest
from cluster import parts
from cluster.cluster import EXISTING

ROOT = Path(__file__).parents[2]
ONLY_OURS = (
    "tests/cluster/test_gpu_jobs.py",
    "tests/cluster/test_kwok.py",
    "tests/cluster/test_command.py::test_what_is_forbidden_names_the_user_and_the_role_to_ask_for",
    "tests/cluster/pods/test_losses.py::test_a_killed_learner_resumes_from_its_checkpoint",
    "tests/cluster/pods/test_network.py",
)


def test_what_needs_a_cluster_of_ours_is_skipped_and_says_so(tmp_path: Path) -> None:
    # There is no such cluster: whatever is not skipped fails at once.
    environment = os.environ | {EXISTING: str(tmp_path / "kubeconfig")}
    words = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *ONLY_OURS]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ skipped in", done.stdout, re.MULTILINE), done.stdout
    assert f"{EXISTING} names another" in done.stdout


def test_no_node_and_no_image_is_built_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[parts.Part] = []
    monkeypatch.setenv(EXISTING, "kubeconfig")
    monkeypatch.setattr(command, "build", lambda *given: built.extend(given))
    monkeypatch.delattr(command, "Images")
    assert command.main(["build"]) == 0
    assert parts.ETCD in built, "some tests have a control plane of their own"
    assert not {part.name for part in built} & {"kubernetes-node", "coredns", "kube-router", "kwok"}
