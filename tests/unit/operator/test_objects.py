"""The objects of a job, as the API server gets them: golden files, and what they must never say.

UPDATE_GOLDEN=1 writes the golden files anew; read the difference before committing it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.operator.worlds import SETTINGS, Life

from asyncrl_api.document import dump_document, parse_documents

GOLDEN = Path(__file__).parent / "golden"

CASES: dict[str, dict[str, Any]] = {
    "least": {"checkpoint": {}},
    "everything": {
        "actors": {
            "replicas": 4,
            "minReplicas": 2,
            "priorityClassName": "low",
            "resources": {"limits": {"cpu": "1500m"}},
            "env": [{"name": "OMP_NUM_THREADS", "value": "2"}],
        },
        "learner": {
            "replicas": 2,
            "image": "learner:3",
            "metricsPort": 9100,
            "priorityClassName": "high",
            "resources": {"limits": {"cpu": 4, "nvidia.com/gpu": 1}},
            "template": {
                "metadata": {"annotations": {"team": "rl"}},
                "spec": {
                    "nodeSelector": {"pool": "gpu"},
                    "tolerations": [{"key": "gpu", "operator": "Exists"}],
                    "containers": [
                        {"name": "learner", "env": [{"name": "NCCL_DEBUG", "value": "INFO"}]},
                        {"name": "sidecar", "image": "sidecar:1"},
                    ],
                    "volumes": [{"name": "shared-memory", "emptyDir": {"sizeLimit": "8Gi"}}],
                },
            },
        },
        "checkpoint": {
            "volume": {
                "claim": {
                    "size": "5Gi",
                    "storageClassName": "fast",
                    "accessMode": "ReadWriteMany",
                }
            }
        },
        "runPolicy": {"terminationGracePeriodSeconds": 90},
    },
    "existing-claim": {"checkpoint": {"volume": {"existingClaim": "models"}}},
}


@pytest.mark.parametrize("case", CASES)
def test_objects_are_as_written_down(case: str) -> None:
    life = Life()
    life.spec = {"workload": {"gymnasium": {"id": "CartPole-v1"}}, **CASES[case]}
    text = "---\n".join(dump_document(document) for document in life.step().apply)
    path = GOLDEN / f"{case}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert parse_documents(text) == parse_documents(path.read_text())


@pytest.mark.parametrize("case", CASES)
def test_every_container_keeps_the_restricted_standard(case: str) -> None:
    life = Life()
    life.spec = {"workload": {"gymnasium": {"id": "CartPole-v1"}}, **CASES[case]}
    pods = [d["spec"]["template"]["spec"] for d in life.step().apply if d["kind"] == "Job"]
    assert len(pods) == 3
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        security = pod["containers"][0]["securityContext"]
        assert security == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }


def test_a_role_mounts_its_own_key_only() -> None:
    life = Life()
    for document in life.step().apply:
        if document["kind"] != "Job":
            continue
        role = document["metadata"]["labels"]["asyncrl.io/role"]
        volumes = document["spec"]["template"]["spec"]["volumes"]
        (tls,) = [volume["secret"] for volume in volumes if "secret" in volume]
        assert {item["key"] for item in tls["items"]} == {"ca.crt", f"{role}.crt", f"{role}.key"}


def test_a_template_cannot_take_pods_out_of_the_job() -> None:
    life = Life()
    labels = {"asyncrl.io/role": "learner", "mine": "yes"}
    life.spec["actors"] = {"template": {"metadata": {"labels": labels}}}
    (actors,) = [d for d in life.step().apply if d["metadata"]["name"] == "job-actor"]
    found = actors["spec"]["template"]["metadata"]["labels"]
    assert found["asyncrl.io/role"] == "actor"
    assert found["mine"] == "yes"


def test_clusters_without_restart_rules_restart_on_failure() -> None:
    life = Life(settings=replace(SETTINGS, restart_rules=False))
    (job,) = [d for d in life.step().apply if d["metadata"]["name"] == "job-actor"]
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "OnFailure"
    assert "restartPolicyRules" not in pod["containers"][0]


def test_a_new_operator_leaves_the_pods_alone_that_it_finds() -> None:
    life = Life()
    life.run()
    life.settings = replace(SETTINGS, worker_image="worker:2")
    made = life.step(1)
    assert not made.delete


@pytest.mark.parametrize(
    ("resources", "template", "threads"),
    [
        ({}, {}, "1"),
        ({"limits": {"cpu": 3}}, {}, "3"),
        ({}, {"limits": {"cpu": "6500m"}}, "6"),
        ({}, {"requests": {"cpu": 5}}, "5"),
        ({"limits": {"cpu": 3}}, {"limits": {"cpu": 8}}, "8"),
        ({"limits": {"cpu": 3}}, {"limits": {"memory": "1Gi"}, "requests": {"cpu": 2}}, "3"),
        ({"limits": {"cpu": 3}, "requests": {"cpu": 2}}, {"limits": None}, "2"),
        ({"limits": {"cpu": 3}}, None, "1"),
        ({}, {"limits": {"cpu": "many"}}, "1"),
        ({}, {"limits": {"cpu": "4Ki"}, "requests": ["cpu"]}, "1"),
    ],
)
def test_threads_are_the_cpus_that_the_container_has_in_the_end(
    resources: dict[str, Any], template: dict[str, Any] | None, threads: str
) -> None:
    life = Life()
    own = {"name": "learner", "resources": template}
    beside = {"name": "sidecar", "resources": {"limits": {"cpu": 64}}}
    life.spec["learner"] = {
        "resources": resources,
        "template": {"spec": {"containers": [beside, own]}},
    }
    assert variables(life)["OMP_NUM_THREADS"] == threads


def test_who_sets_the_threads_has_them() -> None:
    life = Life()
    env = [{"name": "OMP_NUM_THREADS", "value": "7"}]
    own = {"name": "learner", "env": env, "resources": {"limits": {"cpu": 4}}}
    life.spec["learner"] = {"template": {"spec": {"containers": [own]}}}
    assert variables(life)["OMP_NUM_THREADS"] == "7"


def variables(life: Life) -> dict[str, Any]:
    """The learner's environment."""
    jobs = [d for d in life.step().apply if d["kind"] == "Job"]
    (job,) = [d for d in jobs if d["metadata"]["name"] == "job-learner"]
    containers = job["spec"]["template"]["spec"]["containers"]
    (own,) = [container for container in containers if container["name"] == "learner"]
    return {variable["name"]: variable.get("value") for variable in own["env"]}
