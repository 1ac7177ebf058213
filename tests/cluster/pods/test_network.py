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
import json, socket, sys
def reaches(host, port):
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True
print(json.dumps([reaches(*address) for address in json.loads(sys.argv[1])]))
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

    def reached(namespace: str, name: str) -> set[tuple[str, str]]:
        found = doors(job)
        command = ["python3", "-c", PROBE, json.dumps(list(found.values()))]
        log = run_to_end(kubectl, namespace, pod(name, base_image, command), "Succeeded")
        return {door for door, open_ in zip(found, json.loads(log), strict=True) if open_}

    with Policies(node, cluster.control_plane):
        job.apply(ENDLESS | {"learner": {"replicas": 2}})
        # Connected, and reported, through what the policy lets in.
        seen = job.until(
            lambda s: condition(s, "Running") == ("True", "AllRolesReady") and version(s) > 10,
            "it trains, and the operator is told",
        )
        assert seen.roles[0].ready == 2
        metrics = {(role, "http") for role in ("actor", "learner", "parameter-server")}
        assert reached(restricted, "neighbour") == metrics
        assert reached(elsewhere, "stranger") == metrics

    # The same probe where nothing is enforced: it would have come through.
    everything = metrics | {("learner", "report"), ("parameter-server", "data")}
    assert reached(restricted, "later") == everything


def doors(job: Job) -> Doors:
    """What the job's pods listen on, an actor for all."""
    found: Doors = {}
    for role in ("actor", "learner", "parameter-server"):
        one: Any = job.pods(role)[0]
        for port in one["spec"]["containers"][0]["ports"]:
            found[role, port["name"]] = (one["status"]["podIP"], port["containerPort"])
    return found
