"""`asyncrl logs` of real pods: lives before and after a restart, new pods, the end of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from cluster.kubectl import Kubectl

from asyncrl.cli.main import main
from asyncrl.client import cluster
from asyncrl_api.labels import JOB, ROLE

EXAMPLE = Path(__file__).parents[2] / "examples" / "cartpole.yaml"
PROGRAM = """
import os, pathlib, sys, time
lived = pathlib.Path("/tmp/lived")
index = os.environ["JOB_COMPLETION_INDEX"]
if index == "0" and not lived.exists():
    lived.touch()
    print("first life", flush=True)
    sys.exit(1)
print("second life" if lived.exists() else "only life", flush=True)
for number in range(100_000):
    print(f"tick {number} of {index}", flush=True)
    time.sleep(0.1)
"""


@pytest.fixture
def actors(
    kubectl: Kubectl,
    kubeconfig: Path,
    base_image: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A job `cartpole` whose two actors tick; the first has been restarted once."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    cluster(namespace=namespace).submit(EXAMPLE)
    container = {
        "name": "actor",
        "image": base_image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", PROGRAM],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    template: dict[str, Any] = {
        "metadata": {"labels": {JOB: "cartpole", ROLE: "actor"}},
        "spec": {
            "restartPolicy": "OnFailure",
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "cartpole-actor"},
        "spec": {
            "completionMode": "Indexed",
            "completions": 2,
            "parallelism": 2,
            "template": template,
        },
    }
    kubectl("create", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(job))
    for index in "01":
        ready = (
            *(
                "wait",
                "-n",
                namespace,
                "pod",
                "-l",
                f"batch.kubernetes.io/job-completion-index={index}",
            ),
            "--for=jsonpath={.status.containerStatuses[0].state.running}",
        )
        kubectl(*ready[:-1], "--for=create", "--timeout=30s", seconds=40)
        kubectl(*ready, "--timeout=120s", seconds=130)
    restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
    first = ("pod", "-l", "batch.kubernetes.io/job-completion-index=0")
    kubectl("wait", "-n", namespace, *first, restarted, "--timeout=60s", seconds=70)
    kubectl(
        *("wait", "-n", namespace, *first, "--timeout=60s"),
        "--for=jsonpath={.status.containerStatuses[0].state.running}",
        seconds=70,
    )
    yield namespace
    kubectl("delete", "-n", namespace, "job", "cartpole-actor", "--wait=true")


def logs(*words: str) -> list[str]:
    done = CliRunner().invoke(main, ["logs", "cartpole", *words])
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_logs_show_every_life_of_every_process(actors: str) -> None:
    n = ("--namespace", actors)
    lines = logs(*n)
    prefixes = {line.partition(" | ")[0].rstrip() for line in lines}
    assert prefixes == {"actor-0", "actor-1"}
    first = [line.partition(" | ")[2] for line in lines if line.startswith("actor-0")]
    assert first[0].startswith("--- cartpole-actor-0-") and first[0].endswith(", start 1")
    assert first[1] == "first life"
    assert first[2].endswith(", start 2")
    assert first[3:5] == ["second life", "tick 0 of 0"]
    one = logs(*n, "--role", "actor", "--index", "1", "--lines", "2")
    assert one[0].endswith(", start 1")
    assert len(one) == 3
    assert all(line.startswith("tick ") for line in one[1:])
    refused = CliRunner().invoke(main, ["logs", "cartpole", *n, "--role", "learner"])
    assert refused.exit_code == 2
    assert "no pod of learner; leave out --role and --index" in refused.stderr


def test_following_goes_on_with_a_new_pod_and_ends_with_the_run(
    actors: str, kubectl: Kubectl, kubeconfig: Path
) -> None:
    words = ["logs", "cartpole", "--namespace", actors, "--follow", "--lines", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncrl.cli.main", *words],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    seen: list[str] = []

    def read_until(word: str) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if word in line:
                return
        raise AssertionError(f"{word!r} is not in {''.join(seen)}")

    read_until("of 1")
    pods = kubectl.get("-n", actors, "pods")["items"]
    (old,) = [p["metadata"]["name"] for p in pods if "actor-1" in p["metadata"]["name"]]
    kubectl("delete", "pod", "-n", actors, old, "--wait=false")
    read_until("actor-1            | only life")
    ticks = [line for line in seen if line.endswith("of 0\n")]
    numbers = [int(line.split("tick ")[1].split()[0]) for line in ticks]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "none twice, none lost"

    status = {"status": {"phase": "Complete"}}
    kubectl(
        *("patch", "asyncrljob", "cartpole", "-n", actors, "--subresource=status"),
        *("--type=merge", "-p", json.dumps(status)),
    )
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
