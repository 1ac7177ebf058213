"""The CRD on a real API server: accepted, enforced, shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import parts
from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl, install_crd
from unit.api.examples import CHANGES, MINIMAL, RULES, document_with
from unit.api.structural_schema import walk

from asyncrl_api.crd import COLUMNS, root_schema
from asyncrl_api.manifest import load_manifest

ROOT = Path(__file__).parents[2]
BROKEN = [(assignments, path) for assignments, path in RULES if path is not None]
KEPT = [assignments for assignments, path in RULES if path is None]


@pytest.fixture(scope="module", params=[parts.KUBERNETES, parts.OLDEST_KUBERNETES])
def kubectl(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, kubectl: Kubectl
) -> Iterator[Kubectl]:
    """kubectl on API servers of the newest and of the oldest version that is supported."""
    if request.param == parts.KUBERNETES:
        yield kubectl
        return
    # With its controllers: a namespace of a test is complete once it has its service account.
    with ControlPlane(tmp_path_factory.mktemp("oldest"), version=request.param) as oldest:
        install_crd(oldest.kubectl)
        assert f"Server Version: {request.param}" in oldest.kubectl("version")
        yield oldest.kubectl


def text(document: dict[str, Any]) -> str:
    """A document as kubectl reads it from its standard input."""
    return yaml.safe_dump(document)


@pytest.fixture
def job(kubectl: Kubectl, namespace: str) -> Iterator[list[str]]:
    """A minimal job `a`; gives the arguments that select it."""
    kubectl("create", "-n", namespace, "-f", "-", stdin=MINIMAL)
    yield ["-n", namespace, "asyncrljob", "a"]


def rules() -> set[str]:
    """The message of every CEL rule of the CRD, without transition rules."""
    return {
        rule["message"]
        for _, schema in walk(root_schema())
        for rule in schema.get("x-kubernetes-validations", [])
        if "oldSelf" not in rule["rule"]
    }


def test_every_example_manifest_is_accepted(kubectl: Kubectl, namespace: str) -> None:
    examples = sorted((ROOT / "examples").glob("*.yaml"))
    assert examples
    for path in examples:
        kubectl("create", "-n", namespace, "-f", str(path), "--validate=strict")


@pytest.mark.parametrize(("assignments", "path"), BROKEN)
def test_the_api_server_refuses_what_breaks_a_rule(
    kubectl: Kubectl, assignments: list[str], path: str
) -> None:
    said = kubectl.refused(
        "create",
        "--dry-run=server",
        "-f",
        "-",
        stdin=text(document_with(*assignments)),
    )
    assert f"{path}: Invalid value" in said
    assert any(message in said for message in rules())


def test_every_rule_is_refused_by_an_example(kubectl: Kubectl) -> None:
    documents = [
        document_with(*assignments) | {"metadata": {"name": f"a{index}"}}
        for index, (assignments, _) in enumerate(BROKEN)
    ]
    said = kubectl.refused(
        "create",
        "--dry-run=server",
        "-f",
        "-",
        stdin=yaml.safe_dump_all(documents),
    )
    assert {message for message in rules() if message not in said} == set()


def test_the_api_server_accepts_what_keeps_the_rules(kubectl: Kubectl) -> None:
    documents = [
        document_with(*assignments) | {"metadata": {"name": f"a{index}"}}
        for index, assignments in enumerate(KEPT)
    ]
    created = kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(documents))
    assert len(created.splitlines()) == len(KEPT)


def test_an_immutable_field_cannot_change_and_others_can(kubectl: Kubectl, namespace: str) -> None:
    names = [{"metadata": {"name": f"a{number}"}} for number in range(len(CHANGES))]
    jobs = [document_with(*has) | name for (has, _, _), name in zip(CHANGES, names, strict=True)]
    kubectl("create", "-n", namespace, "-f", "-", stdin=yaml.safe_dump_all(jobs))
    command = ["replace", "--dry-run=server", "-n", namespace, "-f", "-"]
    for (has, assignment, path), name in zip(CHANGES, names, strict=True):
        changed = text(document_with(*has, assignment) | name)
        if path is None:
            assert "replaced" in kubectl(*command, stdin=changed)
            continue
        said = kubectl.refused(*command, stdin=changed)
        field, _, _ = said.partition(": Forbidden")
        assert path.startswith(field.split()[-1]), (assignment, said)
        assert "cannot change while the job exists" in said


def test_every_immutable_field_has_an_example() -> None:
    refused = [path for _, _, path in CHANGES if path is not None]
    for rule in root_schema()["properties"]["spec"]["x-kubernetes-validations"]:
        if "oldSelf" in rule["rule"]:
            path = f"spec{rule['fieldPath']}"
            assert any(example.startswith(path) for example in refused), path


def test_defaults_are_stored_as_the_models_have_them(kubectl: Kubectl, job: list[str]) -> None:
    stored = kubectl.get(*job)
    assert stored["spec"] == without_nulls(load_manifest(MINIMAL).document()["spec"])


def test_a_stored_job_loads_as_the_manifest_it_was(kubectl: Kubectl, job: list[str]) -> None:
    stored = kubectl("get", *job, "-o", "yaml")
    assert load_manifest(stored).spec == load_manifest(MINIMAL).spec


def test_an_unknown_field_is_refused_by_name(kubectl: Kubectl) -> None:
    document = document_with()
    document["spec"]["stalness"] = {"max": 1}
    said = kubectl.refused("create", "--validate=strict", "-f", "-", stdin=text(document))
    assert 'unknown field "spec.stalness"' in said


def test_a_name_that_is_too_long_is_refused(kubectl: Kubectl) -> None:
    document = document_with("metadata.name=" + "a" * 41)
    said = kubectl.refused("create", "-f", "-", stdin=text(document))
    assert "metadata.name" in said


def test_columns_short_name_and_category(kubectl: Kubectl, namespace: str, job: list[str]) -> None:
    status = {
        "phase": "Running",
        "reason": "Training",
        "restarts": 3,
        "training": {"policyVersion": 120, "episodeReturn": 212.5},
        "alignment": {"smoothed": 0.25},
        "stability": {"verdict": "Watch"},
        "staleness": {"mean": 3.5},
        "actors": {"replicas": 2, "selector": "asyncrl.io/role=actor"},
        "checkpoint": {"version": 100},
    }
    patch = json.dumps({"status": status})
    kubectl("patch", *job, "--subresource=status", "--type=merge", "-p", patch)
    head, line = kubectl("get", "-n", namespace, "arl").splitlines()
    narrow = [name.upper() for name, _, _, priority, _ in COLUMNS if priority == 0]
    assert head.split() == ["NAME", *narrow]
    assert line.split()[:-1] == ["a", "Running", "120", "212.5", "0.25", "Watch", "3.5", "2"]
    head, line = kubectl("get", "-n", namespace, "asyncrl", "-o", "wide").splitlines()
    assert head.split() == ["NAME", *(name.upper() for name, *_ in COLUMNS)]
    assert line.split()[-3:] == ["100", "3", "Training"]


def test_scale_sets_the_actors_and_keeps_their_bounds(kubectl: Kubectl, namespace: str) -> None:
    document = document_with("spec.actors={replicas: 2, minReplicas: 1, maxReplicas: 4}")
    kubectl("create", "-n", namespace, "-f", "-", stdin=text(document))
    kubectl("scale", "-n", namespace, "asyncrljob/a", "--replicas=4")
    stored = kubectl.get("-n", namespace, "arl", "a")
    assert stored["spec"]["actors"]["replicas"] == 4
    said = kubectl.refused("scale", "-n", namespace, "asyncrljob/a", "--replicas=5")
    assert "must not be greater than maxReplicas" in said
    status = {"status": {"actors": {"replicas": 3, "selector": "asyncrl.io/role=actor"}}}
    kubectl(
        "patch",
        "-n",
        namespace,
        "arl",
        "a",
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps(status),
    )
    scale = json.loads(
        kubectl(
            "get", "--raw", f"/apis/asyncrl.io/v1alpha1/namespaces/{namespace}/asyncrljobs/a/scale"
        )
    )
    assert scale["status"] == {"replicas": 3, "selector": "asyncrl.io/role=actor"}


def test_status_is_written_by_its_subresource_only(kubectl: Kubectl, namespace: str) -> None:
    document = document_with() | {"status": {"phase": "Complete"}}
    kubectl("create", "-n", namespace, "-f", "-", stdin=text(document))
    stored = kubectl.get("-n", namespace, "arl", "a")
    assert "status" not in stored


def test_explain_reads_well(kubectl: Kubectl) -> None:
    said = kubectl("explain", "asyncrljob.spec.staleness")
    assert "How old the data of an update may be." in said
    assert "<no description>" not in kubectl("explain", "arl.spec", "--recursive")


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value
