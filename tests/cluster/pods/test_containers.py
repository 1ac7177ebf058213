"""Containers that a template brings along: the role's own decides about the run."""

from __future__ import annotations

from typing import Any

from cluster.job import Job
from cluster.kubectl import Kubectl
from cluster.pod import RESTRICTED
from cluster.pods.endless import ENDLESS


def container(name: str, image: str, program: str) -> dict[str, Any]:
    """A container of a user, as restricted as the standard wants it."""
    command = ["python3", "-c", program]
    return {"name": name, "image": image, "command": command, "securityContext": RESTRICTED}


def test_a_run_completes_beside_a_sidecar_that_does_not_end(
    kubectl: Kubectl, restricted: str, base_image: str
) -> None:
    beside = container("beside", base_image, "import time; time.sleep(3600)")
    template = {"spec": {"containers": [{"name": "learner"}, beside]}}
    job = Job(kubectl, restricted, "run")
    spec = {"stopping": {"environmentSteps": 20_000}, "learner": {"template": template}}
    job.apply(ENDLESS | spec | {"runPolicy": {"terminationGracePeriodSeconds": 1}})
    status = job.until(lambda s: s.phase in ("Complete", "Failed"), "it is over")
    assert (status.phase, status.restarts) == ("Complete", 0)
    kubectl(
        *("wait", "-n", restricted, "pods", "-l", job.selector("learner"), "--for=delete"),
        *("--timeout=60s",),
        seconds=90,
    )


def test_an_init_container_that_fails_is_named_and_counted(
    kubectl: Kubectl, restricted: str, base_image: str
) -> None:
    fetch = container("fetch", base_image, "raise SystemExit(3)")
    job = Job(kubectl, restricted, "run")
    template = {"spec": {"initContainers": [fetch]}}
    job.apply(ENDLESS | {"learner": {"template": template}, "runPolicy": {"backoffLimit": 1}})
    status = job.until(lambda s: s.phase == "Failed", "it fails")
    assert status.reason == "BackoffLimitExceeded"
    message = status.message or ""
    for word in ("learner-0", "container fetch", "exit code 3", "failed 2 times"):
        assert word in message
    assert status.last_failure is not None
    assert status.last_failure.exit_code == 3
