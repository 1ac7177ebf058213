"""Processes, pods and the node are lost, and the run goes on; the operator dies each time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from cluster.job import Job, condition, version
from cluster.kubectl import Kubectl
from cluster.pods.endless import DURABLE, ENDLESS
from cluster.pods.faults import kill_in
from cluster.pods.release import Release

from asyncrl_api.document import dump_document

HUNGRY = '''
import os
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

MARK = "/tmp/has-eaten"


class Hungry(CartPoleEnv):
    """CartPole whose first life in a pod takes more memory than there is, after some steps."""

    steps = 0

    def step(self, action):
        Hungry.steps += 1
        if os.environ.get("HUNGRY") and Hungry.steps > 5000 and not os.path.exists(MARK):
            open(MARK, "w").close()
            meal = bytearray(2 * 2**30)
        return super().step(action)


gymnasium.register("Hungry-v0", entry_point=Hungry, max_episode_steps=500)
'''


@pytest.fixture(scope="module")
def endless(kubectl: Kubectl, release: Release) -> Iterator[Job]:
    """The job `run`, which survives what one test after the other does to it."""
    namespace = "losses"
    kubectl("create", "namespace", namespace)
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    job = Job(kubectl, namespace, "run")
    job.apply(DURABLE)
    yield job
    kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def training(endless: Job) -> Job:
    """The job `run`, which trains and has a checkpoint on its volume."""
    job = endless
    job.until(
        lambda s: s.phase == "Running" and s.checkpoint and (s.checkpoint.version or 0) >= 5,
        "it trains",
    )
    assert len(job.pods("actor")) == 2
    return job


def goes_on(job: Job, seconds: float = 240.0) -> None:
    """Ten versions more than it has now."""
    reached = version(job.status())
    job.until(lambda s: s.phase == "Running" and version(s) > reached + 10, "goes on", seconds)


def uid(pod: Any) -> str:
    found = pod["metadata"]["uid"]
    assert isinstance(found, str)
    return found


def test_an_actor_out_of_memory_is_named_and_comes_back(
    kubectl: Kubectl, restricted: str, release: Release
) -> None:
    module = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "hungry"},
        "data": {"hungry.py": HUNGRY},
    }
    kubectl("apply", "-n", restricted, "-f", "-", stdin=dump_document(module))

    def role(container: str) -> dict[str, Any]:
        code = {"name": "environment", "mountPath": "/opt/environment"}
        path = {"name": "PYTHONPATH", "value": "/opt/asyncrl/code:/opt/environment"}
        pod = {
            "containers": [{"name": container, "volumeMounts": [code], "env": [path]}],
            "volumes": [{"name": "environment", "configMap": {"name": "hungry"}}],
        }
        return {"template": {"spec": pod}}

    actors = role("actor") | {
        "env": [{"name": "HUNGRY", "value": "yes"}],
        "resources": {"limits": {"memory": "1Gi"}},
    }
    workload = {"gymnasium": {"id": "Hungry-v0", "modules": ["hungry"]}}
    job = Job(kubectl, restricted, "hungry")
    job.apply(ENDLESS | {"workload": workload, "actors": actors, "learner": role("learner")})
    status = job.until(lambda s: s.roles and s.roles[0].restarts >= 1, "an actor is killed")
    release.kill()
    status = job.until(
        lambda s: s.roles[0].restarts == 2 and s.roles[0].ready == 2, "they are back"
    )
    assert status.last_failure is not None
    assert status.last_failure.process.startswith("actor-")
    assert status.last_failure.reason == "OutOfMemory"
    assert "raise its memory limit" in (status.last_failure.message or "")
    assert status.roles[1].restarts == 0, "the learner stays"
    goes_on(job)


def test_a_lost_actor_is_replaced_in_seconds_and_nobody_else_notices(training: Job) -> None:
    job = training
    (learner,) = job.pods("learner")
    lost = job.pods("actor")[1]
    name = lost["metadata"]["name"]
    job.kubectl("delete", "-n", job.namespace, "pod", name, "--grace-period=1")
    began = time.monotonic()
    while len(job.pods("actor")) < 2:
        time.sleep(0.05)
    assert time.monotonic() - began < 6.0, "the Job controller alone takes 10 s"
    status = job.until(lambda s: s.roles[0].ready == 2 and s.roles[0].disruptions == 1, "replaced")
    assert condition(status, "Running")[0] == "True"
    assert [uid(pod) for pod in job.pods("learner")] == [uid(learner)]
    assert status.roles[1].restarts == 0
    goes_on(job)


@pytest.mark.usefixtures("cluster")
def test_a_killed_actor_is_restarted_in_place(training: Job, release: Release) -> None:
    actor = training.pods("actor")[0]
    kill_in(uid(actor), "asyncrl_worker.actor.main")
    release.kill()
    status = training.until(
        lambda s: s.roles[0].restarts == 1 and s.roles[0].ready == 2, "restarted in place"
    )
    assert status.last_failure is not None
    assert (status.last_failure.process, status.last_failure.exit_code) == ("actor-0", 137)
    assert uid(training.pods("actor")[0]) == uid(actor)
    goes_on(training)


@pytest.mark.usefixtures("cluster")
def test_a_killed_learner_resumes_from_its_checkpoint(training: Job, release: Release) -> None:
    (learner,) = training.pods("learner")
    kill_in(uid(learner), "asyncrl_worker.learner.main")
    release.kill()
    status = training.until(
        lambda s: s.roles[1].restarts == 1 and s.phase == "Running", "restarted in place"
    )
    assert status.attempt == 0
    assert status.last_failure is not None
    assert (status.last_failure.process, status.last_failure.exit_code) == ("learner-0", 137)
    goes_on(training)
    log = training.kubectl("logs", "-n", training.namespace, learner["metadata"]["name"])
    assert "event=resumed" in log
    assert "found=True" in log


@pytest.mark.usefixtures("cluster")
def test_a_killed_parameter_server_comes_back(training: Job, release: Release) -> None:
    (server,) = training.pods("parameter-server")
    kill_in(uid(server), "asyncrl_worker.parameter_server.main")
    release.kill()
    training.until(
        lambda s: s.roles[2].restarts == 1 and s.phase == "Running", "the parameter server is back"
    )
    goes_on(training)


def test_a_run_waits_for_a_node_and_goes_on_after_a_drain(
    training: Job, release: Release, kubectl: Kubectl
) -> None:
    job = training
    reached = version(job.status())
    (learner,) = job.pods("learner")
    node = learner["spec"]["nodeName"]
    mine = f"--pod-selector=asyncrl.io/job={job.name}"
    try:
        kubectl("drain", node, mine, "--delete-emptydir-data", "--timeout=60s", seconds=90)
        status = job.until(
            lambda s: s.attempt == 1 and condition(s, "Running")[1] == "Unschedulable",
            "it says why it does not run",
        )
        assert status.phase == "Restarting"
        assert "unschedulable" in (status.message or "")
        assert status.checkpoint is not None
        assert (status.checkpoint.version or 0) >= reached, "the learner left a checkpoint"
    finally:
        kubectl("uncordon", node)
    release.kill()
    goes_on(job)
    told = kubectl.get("-n", job.namespace, "events", "--field-selector", "reason=LearnerLost")
    lines = [event["message"] for event in told["items"]]
    name = learner["metadata"]["name"]
    assert any("evicting" in line and name in line for line in lines), lines
