"""Jobs that cannot run say why, and run once that is mended."""

from __future__ import annotations

from cluster.job import Job, condition
from cluster.kubectl import Kubectl
from cluster.pods.endless import ENDLESS
from cluster.pods.release import Release

from asyncrl_api.document import dump_document


def test_an_image_that_cannot_be_pulled(
    kubectl: Kubectl, restricted: str, release: Release
) -> None:
    job = Job(kubectl, restricted, "run")
    job.apply(ENDLESS | {"actors": {"image": "localhost:1/none:1"}})
    status = job.until(
        lambda s: condition(s, "Running") == ("False", "ImageUnavailable"), "it says so"
    )
    assert status.phase == "Pending"
    assert "localhost:1/none:1" in (status.message or "")
    release.kill()
    job.patch({"actors": {"image": None}})
    job.until(lambda s: s.phase == "Running", "it runs with the right image")


def test_a_gpu_that_no_node_has(kubectl: Kubectl, restricted: str) -> None:
    job = Job(kubectl, restricted, "run")
    job.apply(ENDLESS | {"learner": {"resources": {"limits": {"nvidia.com/gpu": 1}}}})
    status = job.until(
        lambda s: condition(s, "Running") == ("False", "Unschedulable"), "it says so"
    )
    assert status.phase == "Pending"
    assert "Insufficient nvidia.com/gpu" in (status.message or "")


def test_a_quota_that_is_exceeded(kubectl: Kubectl, restricted: str, release: Release) -> None:
    kubectl("create", "quota", "few", "-n", restricted, "--hard=pods=2")
    quota = ("-n", restricted, "quota/few")
    kubectl("wait", *quota, "--for=jsonpath={.status.hard.pods}=2", "--timeout=60s", seconds=90)
    job = Job(kubectl, restricted, "run")
    job.apply(ENDLESS)
    status = job.until(lambda s: condition(s, "Running")[1] == "PodsRefused", "it says so")
    assert "exceeded quota: few" in (status.message or "")
    release.kill()
    kubectl("patch", *quota, "--type=merge", "-p", '{"spec":{"hard":{"pods":"10"}}}')
    job.until(lambda s: s.phase == "Running" and s.roles[0].ready == 2, "it runs with room")


def test_a_bad_manifest_makes_no_pod(kubectl: Kubectl, restricted: str) -> None:
    job = Job(kubectl, restricted, "run")

    document = dump_document(job.document(ENDLESS | {"staleness": {"max": -1}}))
    line = kubectl.refused("apply", "-n", restricted, "-f", "-", stdin=document)
    assert "spec.staleness.max" in line
    assert "-1" in line

    # What only the roles know: the environments of their image.
    unknown = {"gymnasium": {"id": "NoSuchTask-v0"}}
    job.apply(ENDLESS | {"workload": unknown})
    status = job.until(lambda s: s.phase == "Failed", "it fails")
    assert status.reason == "UnknownEnvironment"
    assert "NoSuchTask-v0" in (status.message or "")
