"""What people do to a run: suspend, resume, scale, delete."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster.job import Job, version
from cluster.kubectl import Kubectl
from cluster.pods.endless import DURABLE, ENDLESS
from cluster.pods.release import Release

from asyncrl_api.document import dump_document


@pytest.fixture
def with_operator(release: Release) -> Iterator[Release]:
    """The operator, and again one at the end."""
    yield release
    release.scale(1)


def test_suspend_loses_no_version_and_resume_goes_on_from_there(
    kubectl: Kubectl, restricted: str, release: Release
) -> None:
    job = Job(kubectl, restricted, "run")
    job.apply(DURABLE)
    job.until(lambda s: s.phase == "Running" and version(s) > 10, "it trains")
    job.patch({"runPolicy": {"suspend": True}})
    release.kill()
    suspended = job.until(lambda s: s.phase == "Suspended", "suspended", 120)
    assert not job.pods("learner") + job.pods("actor") + job.pods("parameter-server")
    assert suspended.checkpoint is not None
    saved = suspended.checkpoint.version
    assert saved == version(suspended), "no version is lost"
    job.patch({"runPolicy": {"suspend": False}})
    release.kill()
    job.until(lambda s: s.phase == "Running" and version(s) > (saved or 0), "it goes on")
    (learner,) = job.pods("learner")
    log = kubectl("logs", "-n", restricted, learner["metadata"]["name"])
    assert f"event=resumed version={saved} found=True" in log
    kubectl("delete", "-n", restricted, "arl", "run", "--timeout=60s", seconds=90)


def test_actors_scale_by_hand_and_by_an_autoscaler(
    kubectl: Kubectl, restricted: str, release: Release
) -> None:
    job = Job(kubectl, restricted, "run")
    job.apply(ENDLESS)
    job.until(lambda s: s.phase == "Running" and version(s) > 0, "it trains")
    (learner,) = job.pods("learner")
    kubectl("scale", "-n", restricted, "arl/run", "--replicas=3")
    release.kill()
    job.until(lambda s: s.roles[0].ready == 3, "three actors")
    kubectl("scale", "-n", restricted, "arl/run", "--replicas=1")
    job.until(lambda s: s.actors and s.actors.replicas == 1, "one actor")

    # There are no metrics here; an autoscaler keeps its least number without them.
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "actors"},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "asyncrl.io/v1alpha1",
                "kind": "AsyncRLJob",
                "name": "run",
            },
            "minReplicas": 2,
            "maxReplicas": 4,
        },
    }
    kubectl("apply", "-n", restricted, "-f", "-", stdin=dump_document(autoscaler))
    job.until(lambda s: s.roles[0].ready == 2, "two actors, by the autoscaler")
    assert [p["metadata"]["uid"] for p in job.pods("learner")] == [learner["metadata"]["uid"]]
    assert job.status().restarts == 0
    kubectl("delete", "-n", restricted, "arl", "run", "--timeout=60s", seconds=90)


def test_an_upgrade_of_the_operator_leaves_what_runs_alone(
    kubectl: Kubectl, restricted: str, release: Release
) -> None:
    job = Job(kubectl, restricted, "run")
    job.apply(ENDLESS)
    job.until(lambda s: s.roles and s.roles[0].ready == 2 and version(s) > 0, "it trains")
    before = uids(job)
    old = release.holder()
    release.upgrade("logLevel=debug")
    seen = job.until(lambda _: release.holder() not in ("", old), "the new one leads")
    status = job.until(lambda s: version(s) > version(seen) + 10, "it is told how it goes on")
    assert uids(job) == before
    assert status.restarts == 0
    kubectl("delete", "-n", restricted, "arl", "run", "--timeout=60s", seconds=90)


def uids(job: Job) -> set[str]:
    """The pods of all roles."""
    roles = ("actor", "learner", "parameter-server")
    return {pod["metadata"]["uid"] for role in roles for pod in job.pods(role)}


def test_delete_leaves_nothing_with_the_operator_down(
    kubectl: Kubectl, restricted: str, with_operator: Release
) -> None:
    job = Job(kubectl, restricted, "run")
    job.apply(DURABLE)
    job.until(lambda s: s.phase == "Running" and version(s) > 0, "it trains")
    with_operator.scale(0)
    kubectl("delete", "-n", restricted, "arl", "run", "--timeout=60s", seconds=90)
    job.until_gone()
