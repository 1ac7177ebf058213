"""From `helm install` and `kubectl apply` to a trained policy and its numbers."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path
from typing import Any

from cluster.job import Job, condition, version
from cluster.kubectl import Kubectl
from cluster.pods.endless import ENDLESS
from cluster.pods.release import Release
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[3]


def test_the_example_trains_to_its_target(kubectl: Kubectl, restricted: str) -> None:
    kubectl("apply", "-n", restricted, "-f", str(ROOT / "examples" / "cartpole.yaml"))
    complete = ("wait", "-n", restricted, "arl/cartpole", "--for=condition=Complete")
    kubectl(*complete, "--timeout=400s", seconds=420)
    job = Job(kubectl, restricted, "cartpole")
    status = job.status()
    assert status.reason == "TargetReturnReached"
    assert status.training is not None
    assert (status.training.evaluation_return or 0) >= 475
    assert status.alignment is not None
    assert status.alignment.smoothed is not None
    assert status.stability is not None
    assert status.ledger is not None
    assert status.ledger.balanced
    for kind in ("Accepted", "Running", "AlignmentHealthy", "Stable", "Complete"):
        assert condition(status, kind)[1], kind

    # What it says at its end stays, for people and for those who come after them.
    log = kubectl("logs", "-n", restricted, "-l", job.selector("learner"), "--tail=-1")
    assert "event=ended outcome=Complete" in log
    events = kubectl("events", "-n", restricted, "--for", "arl/cartpole")
    assert "TargetReturnReached" in events

    # No pod may ask the API server anything, and none is more than its standard allows.
    for pod in kubectl.get("-n", restricted, "pods")["items"]:
        mounts = pod["spec"]["containers"][0]["volumeMounts"]
        assert not [m for m in mounts if "serviceaccount" in m["mountPath"]]

    job.patch({"runPolicy": {"ttlSecondsAfterFinished": 1}})
    kubectl("wait", "-n", restricted, "arl/cartpole", "--for=delete", "--timeout=60s", seconds=90)
    job.until_gone()


def test_numbers_are_scraped_while_it_trains(
    kubectl: Kubectl, restricted: str, release: Release
) -> None:
    job = Job(kubectl, restricted, "numbers")
    job.apply(ENDLESS)
    seen = job.until(
        lambda s: condition(s, "Running") == ("True", "AllRolesReady") and version(s) > 10,
        "it trains with everyone",
    )
    assert seen.phase == "Running"
    assert seen.staleness is not None

    mine = {"namespace": restricted, "name": "numbers"}
    key = frozenset(mine.items())
    # The status is written a moment before the operator counts it.
    operator = scrape_until(release.pod(), ("asyncrl_job_policy_version", key), 10)
    assert -1 <= operator["asyncrl_job_alignment_cosine", frozenset(mine.items())] <= 1
    running = frozenset((mine | {"condition": "Running"}).items())
    assert operator["asyncrl_job_condition", running] == 1
    assert operator["asyncrl_jobs", frozenset({("phase", "Running")})] == 1
    assert operator["asyncrl_operator_time_to_running_seconds_count", frozenset()] >= 1

    assert release.holder() == release.pod()["metadata"]["name"], "its successor looks for it"

    (learner,), (server,) = job.pods("learner"), job.pods("parameter-server")
    assert scrape(learner)["asyncrl_learner_policy_version", frozenset()] > 10
    for pod in (release.pod(), learner, server):
        assert scrape(pod)["process_resident_memory_bytes", frozenset()] > 0
    assert scrape(server)["asyncrl_parameter_server_actors_connected", frozenset()] == 2
    for actor in job.pods("actor"):
        scrape_until(actor, ("asyncrl_actor_policy_version", frozenset()), 0)

    kubectl("delete", "-n", restricted, "arl", "numbers", "--timeout=60s", seconds=90)
    job.until_gone()
    left = [labels for _, labels in scrape(release.pod()) if mine.items() <= dict(labels).items()]
    assert left == []


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(pod: Any) -> Samples:
    """What Prometheus would read of a pod: values by name and labels."""
    address = f"http://{pod['status']['podIP']}:8080/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape_until(pod: Any, name: tuple[str, frozenset[tuple[str, str]]], beyond: float) -> Samples:
    """The first scrape in which a value is beyond a number."""
    deadline = time.monotonic() + 30
    while True:
        samples = scrape(pod)
        if samples.get(name, 0.0) > beyond:
            return samples
        assert time.monotonic() < deadline, f"{name} is not beyond {beyond}"
        time.sleep(0.2)
