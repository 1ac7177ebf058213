"""What happens to pods: they start in any order, are told to end all at once, and come back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from e2e.harness import gated_document
from e2e.pods import Pods

GRACE = 12
EXACT = {"max": 0}
BOUNDED = {"max": 4}


@pytest.mark.parametrize("staleness", [EXACT, BOUNDED], ids=["exact", "bounded"])
def test_a_job_suspended_whole_keeps_its_last_step(
    staleness: dict[str, int], tmp_path: Path
) -> None:
    """All pods get SIGTERM at about the same time, and the parameter server is the first to go."""
    gate = tmp_path / "gate"
    document = gated_document(
        gate,
        staleness=staleness,
        checkpoint={"intervalVersions": None},
        runPolicy={"terminationGracePeriodSeconds": GRACE},
    )
    with Pods(document, tmp_path / "pods") as pods:
        containers = pods.start_all()
        learner = containers["learner-0"]
        pods.until_version(learner, 20)
        server = containers.pop("parameter-server-0")
        server.terminate()
        assert server.end() == 130
        told = time.monotonic()
        report = pods.report(learner)
        for container in containers.values():
            container.terminate()
        codes = {name: container.end() for name, container in containers.items()}
        assert codes == dict.fromkeys(containers, 130)
        assert time.monotonic() - told < GRACE
        version = learner.folder.newest_checkpoint()
        assert report is not None
        assert version >= (report.training.policy_version or 0) >= 20

        containers = pods.start_all("--resume")
        learner = containers["learner-0"]
        gate.touch()
        assert {name: container.end() for name, container in containers.items()} == dict.fromkeys(
            containers, 0
        )
        assert f"event=resumed version={version} found=True" in learner.words()
