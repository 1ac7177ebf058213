"""Rules between fields mean the same in Python and in the CEL of the CRD."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.api.examples import CHANGES, RULES, document_with
from unit.api.structural_schema import with_defaults

from asyncrl_api.crd import root_schema
from asyncrl_api.errors import ManifestError
from asyncrl_api.manifest import immutable_changes, validate


class Value:
    """A mapping whose keys CEL selects with a dot; null counts as absent."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def __getattr__(self, name: str) -> Any:
        value = self.content[name]
        return Value(value) if isinstance(value, dict) else value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and self.content == other.content

    __hash__ = None  # type: ignore[assignment]

    def has(self, path: str) -> bool:
        value: Any = self.content
        for key in path.split("."):
            if not isinstance(value, dict) or value.get(key) is None:
                return False
            value = value[key]
        return True


def evaluate(rule: str, value: dict[str, Any], old: dict[str, Any] | None = None) -> bool:
    """The verdict of a CEL rule, for the part of CEL that the rules use."""
    python = re.sub(r"has\((self|oldSelf)\.([\w.]+)\)", r"\1.has('\2')", rule)
    python = python.replace("||", " or ").replace("&&", " and ")
    python = re.sub(r"!(?!=)", " not ", python)
    names = {"self": Value(value), "oldSelf": Value(old or {})}
    verdict = eval(python, {"__builtins__": {}}, names)
    assert isinstance(verdict, bool)
    return verdict


def broken_in_cel(
    schema: dict[str, Any], value: Any, path: str = "", old: Any = None
) -> set[tuple[str, str]]:
    """(path, message) of every rule of the CRD that the value breaks; transitions only with old."""
    if not isinstance(value, dict):
        return set()
    broken = set()
    for rule in schema.get("x-kubernetes-validations", []):
        if ("oldSelf" in rule["rule"]) != (old is not None):
            continue
        if not evaluate(rule["rule"], value, old):
            broken.add((path + rule.get("fieldPath", ""), rule["message"]))
    for name, below in schema.get("properties", {}).items():
        if name in value and old is None:
            broken |= broken_in_cel(below, value[name], f"{path}.{name}")
    return broken


def verdicts(document: dict[str, Any]) -> tuple[set[tuple[str, str]], set[str]]:
    """What breaks in CEL, and the lines of Python."""
    schema = root_schema()["properties"]["spec"]
    cel = broken_in_cel(schema, with_defaults(schema, document["spec"]), "spec")
    try:
        validate(document)
    except ManifestError as error:
        return cel, {str(problem) for problem in error.problems}
    return cel, set()


@pytest.mark.parametrize(("assignments", "broken"), RULES)
def test_python_and_cel_refuse_the_same_with_the_same_words(
    assignments: list[str], broken: str | None
) -> None:
    cel, python = verdicts(document_with(*assignments))
    if broken is None:
        assert (cel, python) == (set(), set())
        return
    ((path, message),) = cel
    (line,) = python
    assert path == broken
    assert line.startswith(f"{broken}: ")
    assert line.endswith(message)


SMALL = st.none() | st.integers(1, 4)
SHARE = st.sampled_from([0.1, 0.5, 0.9])


@given(
    replicas=st.integers(1, 4),
    least=SMALL,
    most=SMALL,
    ranks=st.integers(1, 7),
    environments=st.integers(1, 12),
    low=SHARE,
    high=SHARE,
    limits=st.dictionaries(
        st.sampled_from(["environmentSteps", "policyVersions", "targetReturn", "wallTimeSeconds"]),
        st.none() | st.just(5),
    ),
    schedule=st.sampled_from(["constant", "linear"]),
)
def test_python_and_cel_agree_on_any_combination(
    replicas: int,
    least: int | None,
    most: int | None,
    ranks: int,
    environments: int,
    low: float,
    high: float,
    limits: dict[str, int | None],
    schedule: str,
) -> None:
    document = document_with()
    document["spec"] |= {
        "workload": {"gymnasium": {"id": "A-v0", "environments": environments}},
        "actors": {"replicas": replicas, "minReplicas": least, "maxReplicas": most},
        "learner": {"replicas": ranks},
        "stopping": limits,
        "optimizer": {"schedule": schedule},
        "alignment": {"low": low, "high": high},
    }
    cel, python = verdicts(document)
    assert bool(cel) == bool(python)


def test_variables_named_twice_are_refused_by_the_model_and_by_the_list_type() -> None:
    document = document_with("spec.actors.env=[{name: A}, {name: A, value: b}]")
    with pytest.raises(ManifestError) as caught:
        validate(document)
    assert str(caught.value) == (
        "spec.actors.env: must name every variable once; remove the duplicate"
    )
    env = root_schema()["properties"]["spec"]["properties"]["actors"]["properties"]["env"]
    assert env["x-kubernetes-list-type"] == "map"
    assert env["x-kubernetes-list-map-keys"] == ["name"]


@pytest.mark.parametrize(
    "template",
    [
        "{spec: nonsense}",
        "{metadata: []}",
        "{metadata: {labels: [a]}}",
        "{spec: {containers: {name: actor}}}",
        "{spec: {initContainers: [fetch]}}",
        "{spec: {volumes: [{name: a}, b]}}",
        "{spec: {containers: [{name: actor, env: {A: b}}]}}",
        "{spec: {containers: [{name: actor, resources: {limits: 2}}]}}",
    ],
)
def test_a_template_of_another_shape_than_a_pods_is_refused(template: str) -> None:
    with pytest.raises(
        ManifestError, match=r"spec\.actors\.template: is no PodTemplateSpec; write"
    ):
        validate(document_with(f"spec.actors.template={template}"))


@pytest.mark.parametrize("template", ["{}", "{spec: null}", "{spec: {containers: null}}"])
def test_a_template_may_leave_anything_out(template: str) -> None:
    validate(document_with(f"spec.actors.template={template}"))


@pytest.mark.parametrize(("has", "assignment", "changed"), CHANGES)
def test_python_and_cel_refuse_the_same_changes(
    has: list[str], assignment: str, changed: str | None
) -> None:
    before, after = document_with(*has), document_with(*has, assignment)
    schema = root_schema()["properties"]["spec"]
    cel = broken_in_cel(
        schema,
        with_defaults(schema, after["spec"]),
        "spec",
        with_defaults(schema, before["spec"]),
    )
    found = immutable_changes(validate(before).spec, validate(after).spec)
    if changed is None:
        assert not cel
        assert found == []
        return
    ((path, message),) = cel
    (problem,) = found
    assert changed.startswith(path)
    assert problem.path == changed
    assert problem.message.endswith(message)


def test_changed_keyword_arguments_are_found_where_the_api_server_cannot() -> None:
    old = validate(document_with("spec.workload.gymnasium.kwargs={a: 1, b: 2}")).spec
    new = validate(document_with("spec.workload.gymnasium.kwargs={a: 1, b: 3, c: 4}")).spec
    assert [str(problem) for problem in immutable_changes(old, new)] == [
        "spec.workload.gymnasium.kwargs.b: 3 (was 2) cannot change while the job exists; "
        "create a job of another name",
        "spec.workload.gymnasium.kwargs.c: 4 (was null) cannot change while the job exists; "
        "create a job of another name",
    ]


def test_one_kind_of_volume_cannot_take_the_place_of_another() -> None:
    before = document_with("spec.checkpoint.volume={claim: {}}")
    after = document_with("spec.checkpoint.volume={existingClaim: a}")
    schema = root_schema()["properties"]["spec"]
    stored = [with_defaults(schema, document["spec"]) for document in (after, before)]
    ((path, _),) = broken_in_cel(schema, stored[0], "spec", stored[1])
    assert path == "spec.checkpoint.volume"
    changes = immutable_changes(validate(before).spec, validate(after).spec)
    assert [problem.path for problem in changes] == [f"{path}.claim", f"{path}.existingClaim"]
