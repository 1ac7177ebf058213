"""Who reaches the pods of a job where the cluster enforces network policies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from cluster.cluster import Cluster
from cluster.job import Job, condition, version
from cluster.kubectl import Kubectl
from cluster.node import Node
from cluster.pod import pod, run_to_end
from cluster.pods.endless import ENDLESS
from cluster.policies import Policies

PROBE = """
import json, socket, sys, time
addresses, expected = json.loads(sys.argv[1])
def reaches(host, port):
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True
deadline = time.monotonic() + 60
while True:
    found = [reaches(*address) for address in addresses]
    # What a pod may is enforced a moment after it has an address.
    if found == expected or time.monotonic() > deadline:
        break
    time.sleep(0.5)
print(json.dumps(found))
"""

Doors = dict[tuple[str, str], tuple[str, int]]
"""Address and port of what listens, by role and the port's name."""


@pytest.fixture
def elsewhere(kubectl: Kubectl) -> Iterator[str]:
    """A namespace of others."""
    name = "elsewhere"
    kubectl("create", "namespace", name)
    account = ("wait", "-n", name, "serviceaccount/default", "--for=create")
    kubectl(*account, "--timeout=60s", seconds=90)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def test_a_job_trains_and_its_metrics_are_all_that_others_reach(
    kubectl: Kubectl, restricted: str, elsewhere: str, cluster: Cluster, node: Node, base_image: str
) -> None:
    job = Job(kubectl, restricted, "run")

    def check(namespace: str, name: str, expected: set[tuple[str, str]]) -> None:
        found = doors(job)
        wanted = [door in expected for door in found]
        command = ["python3", "-c", PROBE, json.dumps([list(found.values()), wanted])]
        log = run_to_end(kubectl, namespace, pod(name, base_image, command), "Succeeded")
        assert dict(zip(found, json.loads(log), strict=True)) == dict(
            zip(found, wanted, strict=True)
        )

    with Policies(node, cluster.control_plane):
        job.apply(ENDLESS | {"learner": {"replicas": 2}})
        # Connected, and reported, through what the policy lets in.
        seen = job.until(
            lambda s: condition(s, "Running") == ("True", "AllRolesReady") and version(s) > 10,
            "it trains, and the operator is told",
        )
        assert seen.roles[0].ready == 2
        metrics = {(role, "http") for role in ("actor", "learner", "parameter-server")}
        check(restricted, "neighbour", metrics)
        check(elsewhere, "stranger", metrics)

    # The same probe where nothing is enforced: it would have come through.
    everything = metrics | {("learner", "report"), ("parameter-server", "data")}
    check(restricted, "later", everything)


def doors(job: Job) -> Doors:
    """What the job's pods listen on, an actor for all."""
    found: Doors = {}
    for role in ("actor", "learner", "parameter-server"):
        one: Any = job.pods(role)[0]
        for port in one["spec"]["containers"][0]["ports"]:
            found[role, port["name"]] = (one["status"]["podIP"], port["containerPort"])
    return found
