"""Jobs that train in real pods, under the restricted standard."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.kubectl import Kubectl
from cluster.operator_process import Job, operator_process

from asyncrl_api.document import dump_document

EXAMPLE = Path(__file__).parents[2] / "examples" / "cartpole.yaml"
ENDLESS = {
    "workload": {"gymnasium": {"id": "CartPole-v1"}},
    "stopping": {"environmentSteps": 10**9},
    "checkpoint": {"intervalVersions": 5, "volume": {"claim": {}}},
    "runPolicy": {"terminationGracePeriodSeconds": 20},
}


@pytest.fixture
def restricted(kubectl: Kubectl, namespace: str) -> str:
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return namespace


@pytest.fixture
def operator(
    kubeconfig: Path, restricted: str, worker_image: str, tmp_path: Path
) -> Iterator[Path]:
    log = tmp_path / "operator.log"
    with operator_process(kubeconfig, restricted, worker_image, log):
        yield log
    print(log.read_text())


@pytest.fixture
def volume(kubectl: Kubectl, restricted: str, tmp_path: Path) -> Iterator[Path]:
    """What a storage class would do for the claim of the job `run`."""
    folder = tmp_path / "volume"
    folder.mkdir()
    folder.chmod(0o777)
    for parent in list(folder.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    document = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{restricted}-run"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": restricted, "name": "run-checkpoints"},
            "hostPath": {"path": str(folder)},
        },
    }
    kubectl("create", "-f", "-", stdin=dump_document(document))
    yield folder
    kubectl("delete", "pv", f"{restricted}-run", "--wait=false")


def condition(status: Any, kind: str) -> tuple[str, str]:
    found = next((c for c in status.conditions if c.type == kind), None)
    return ("", "") if found is None else (found.status, found.reason)


def version(status: Any) -> int:
    return (status.training.policy_version or 0) if status.training else 0


def test_the_example_trains_to_its_target(
    kubectl: Kubectl, restricted: str, operator: Path
) -> None:
    kubectl("apply", "-n", restricted, "-f", str(EXAMPLE))
    job = Job(kubectl, restricted, "cartpole")
    seen = job.until(lambda s: s.phase == "Running" and version(s) > 0, "it runs and reports")
    assert condition(seen, "Running")[0] == "True"
    kubectl(
        *("wait", "-n", restricted, "arl/cartpole", "--for=condition=Complete"),
        "--timeout=400s",
        seconds=420,
    )
    status = job.status()
    assert status.reason == "TargetReturnReached"
    assert status.training is not None
    assert (status.training.evaluation_return or 0) >= 475
    assert status.ledger is not None
    assert status.ledger.balanced
    assert condition(status, "Stable")[0] == "True"
    selector = "asyncrl.io/job=cartpole,asyncrl.io/role=learner"
    log = kubectl("logs", "-n", restricted, "-l", selector, "--tail=-1")
    assert "event=ended outcome=Complete" in log


def test_a_run_goes_on_through_losses_suspension_and_scaling(
    kubectl: Kubectl, restricted: str, operator: Path, volume: Path
) -> None:
    job = Job(kubectl, restricted, "run")
    job.apply(ENDLESS)
    job.until(lambda s: s.phase == "Running" and version(s) > 10, "it trains")
    (learner,) = job.pods("learner")

    # An actor's pod: replaced within two seconds of its end, and nobody else notices.
    lost = job.pods("actor")[1]
    name = lost["metadata"]["name"]
    kubectl("delete", "-n", restricted, "pod", name, "--grace-period=1")
    ended = time.monotonic()
    while len(job.pods("actor")) < 2:
        time.sleep(0.05)
    assert time.monotonic() - ended < 6.0, "the Job controller alone takes 10 s"
    status = job.until(lambda s: s.roles[0].ready == 2 and s.roles[0].disruptions == 1, "replaced")
    assert condition(status, "Running")[0] == "True"
    assert [p["metadata"]["uid"] for p in job.pods("learner")] == [learner["metadata"]["uid"]]

    # The learner's process: restarted in place, from its checkpoint.
    before = job.until(lambda s: s.checkpoint and (s.checkpoint.version or 0) >= 5, "a checkpoint")
    process = learner["metadata"]["uid"]
    kill_in(process, "asyncrl_worker.learner.main")
    status = job.until(
        lambda s: s.roles[1].restarts == 1 and s.phase == "Running" and version(s) > 5,
        "restarted in place",
    )
    assert status.attempt == 0
    assert status.last_failure is not None
    assert status.last_failure.exit_code == 137
    assert version(status) >= (before.checkpoint.version or 0)

    # The learner's pod: the next attempt, from its checkpoint.
    reached = version(job.status())
    evict(kubectl, restricted, learner["metadata"]["name"])
    status = job.until(
        lambda s: s.attempt == 1 and s.phase == "Running" and version(s) > reached, "attempt 1"
    )
    assert status.roles[1].disruptions == 1
    told = kubectl.get("-n", restricted, "events", "--field-selector", "reason=LearnerLost")
    lines = [event["message"] for event in told["items"]]
    assert any("evicting" in line and learner["metadata"]["name"] in line for line in lines), lines

    # The parameter server's process.
    server = job.pods("parameter-server")[0]
    kill_in(server["metadata"]["uid"], "asyncrl_worker.parameter_server.main")
    reached = version(job.status())
    job.until(
        lambda s: s.roles[2].restarts == 1 and s.phase == "Running" and version(s) > reached,
        "the parameter server is back",
    )

    # Scaling, by kubectl scale: the learner keeps its pod.
    (learner,) = job.pods("learner")
    kubectl("scale", "-n", restricted, "arl/run", "--replicas=3")
    job.until(lambda s: s.roles[0].ready == 3, "three actors")
    kubectl("scale", "-n", restricted, "arl/run", "--replicas=1")
    job.until(lambda s: s.actors and s.actors.replicas == 1, "one actor")
    assert [p["metadata"]["uid"] for p in job.pods("learner")] == [learner["metadata"]["uid"]]

    # Suspension: the last word is the checkpoint, and a resume begins there.
    job.patch({"runPolicy": {"suspend": True}})
    suspended = job.until(lambda s: s.phase == "Suspended", "suspended", 120)
    assert not job.pods("learner") + job.pods("actor") + job.pods("parameter-server")
    assert suspended.checkpoint is not None
    saved = suspended.checkpoint.version
    assert saved == version(suspended), "no version is lost"
    job.patch({"runPolicy": {"suspend": False}})
    job.until(lambda s: s.phase == "Running" and version(s) > saved, "it goes on")
    (learner,) = job.pods("learner")
    log = kubectl("logs", "-n", restricted, learner["metadata"]["name"])
    assert f"event=resumed version={saved} found=True" in log
    kubectl("delete", "-n", restricted, "arl", "run", "--timeout=60s")


def evict(kubectl: Kubectl, namespace: str, pod: str) -> None:
    """As kubectl drain does."""
    document = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": namespace},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(document))


def kill_in(pod_uid: str, module: str) -> None:
    """SIGKILL to a role's process of a pod of this machine, as the kernel would."""
    mine = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            groups = (entry / "cgroup").read_text()
        except OSError:
            continue
        inside = pod_uid in groups or pod_uid.replace("-", "_") in groups
        if inside and module.encode() in command:
            mine.append(int(entry.name))
    assert mine, f"no process of {module} in pod {pod_uid}"
    os.kill(min(mine), signal.SIGKILL)
