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
from asyncrl_api.manifest import load_manifest
from asyncrl_api.model import Model, option
from asyncrl_api.spec import AsyncRLJob, AsyncRLJobSpec
from asyncrl_operator.plan.names import ROLES
from asyncrl_operator.plan.objects import role_manifest, template_hash

GOLDEN = Path(__file__).parent / "golden"
MANIFEST = """
apiVersion: asyncrl.io/v1alpha1
kind: AsyncRLJob
metadata: {name: job}
spec:
  workload: {gymnasium: {id: CartPole-v1}}
"""

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


class Novelty(Model):
    """A part of the spec that a later version has."""

    weight: float = option(1.0, "Its weight.")


class LaterSpec(AsyncRLJobSpec):
    """The spec of a later version."""

    novelty: Novelty = option(Novelty, "A part.")
    hint: str | None = option(None, "Text.")


class LaterJob(AsyncRLJob):
    """The job of a later version."""

    spec: LaterSpec = option(..., "What to train.")


def test_fields_of_a_later_version_leave_what_runs_alone() -> None:
    job = load_manifest(MANIFEST)
    later = LaterJob.model_validate(job.model_dump())
    assert role_manifest(later) == role_manifest(job), "an older image reads it"
    for role in ROLES:
        assert template_hash(later, role) == template_hash(job, role)
    used = later.model_copy(update={"spec": later.spec.model_copy(update={"hint": "x"})})
    assert role_manifest(used) != role_manifest(job)
    assert template_hash(used, "learner") != template_hash(job, "learner")


@pytest.mark.parametrize("sets", [[], ["spec.algorithm.name=impala", "spec.staleness.inject=4"]])
def test_roles_read_the_same_job(sets: list[str]) -> None:
    job = load_manifest(MANIFEST, ["spec.stopping.targetReturn=475", *sets])
    assert load_manifest(role_manifest(job)).spec == job.spec


@pytest.mark.parametrize(
    ("staleness", "changes"),
    [("max=4", False), ("max=0", True), ("inject=4", True), ("inject=0", True)],
)
def test_another_number_of_actors_is_another_plan_of_who_makes_which_fragment(
    staleness: str, changes: bool
) -> None:
    job = load_manifest(MANIFEST, [f"spec.staleness.{staleness}"])
    scaled = load_manifest(MANIFEST, [f"spec.staleness.{staleness}", "spec.actors.replicas=5"])
    changed = {r for r in ROLES if template_hash(scaled, r) != template_hash(job, r)}
    assert changed == ({"parameter-server"} if changes else set())


def learner_pod(life: Life) -> dict[str, Any]:
    jobs = [d for d in life.step().apply if d["kind"] == "Job"]
    (found,) = [d for d in jobs if d["metadata"]["name"] == "job-learner"]
    return found["spec"]["template"]


EMPTY = [
    {"metadata": None},
    {"metadata": {"labels": None, "annotations": None}},
    {"spec": None},
    {"metadata": {"labels": {"team": None}}, "spec": {"nodeSelector": None, "tolerations": None}},
]


@pytest.mark.parametrize("template", EMPTY, ids=str)
def test_parts_of_a_template_with_nothing_below_are_no_parts(template: dict[str, Any]) -> None:
    life = Life({"learner": {"template": template}})
    assert learner_pod(life) == learner_pod(Life())


def test_pods_leave_a_lost_node_soon_whatever_else_they_tolerate() -> None:
    def tolerations(own: list[dict[str, Any]]) -> dict[str | None, int | None]:
        life = Life({"learner": {"template": {"spec": {"tolerations": own}}}})
        found = learner_pod(life)["spec"]["tolerations"]
        return {one.get("key"): one.get("tolerationSeconds") for one in found}

    not_ready, unreachable = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert tolerations([gpu]) == {"nvidia.com/gpu": None, not_ready: 30, unreachable: 30}
    own = {"key": not_ready, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    assert tolerations([own]) == {not_ready: 5, unreachable: 30}
    assert tolerations([{"operator": "Exists"}]) == {None: None}, "of everything, for ever"
