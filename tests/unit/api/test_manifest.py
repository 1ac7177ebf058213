"""Manifests: what is accepted, and one clear line for each thing that is not."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrl_api.errors import ManifestError
from asyncrl_api.fields import Field, fields_of
from asyncrl_api.manifest import dump_manifest, load_manifest, read_document, set_path, validate
from asyncrl_api.spec import AsyncRLJob

MINIMAL = """\
apiVersion: asyncrl.io/v1alpha1
kind: AsyncRLJob
metadata:
  name: cartpole
spec:
  workload:
    gymnasium:
      id: CartPole-v1
"""


def problems(*assignments: str, text: str = MINIMAL) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load_manifest(text, assignments)
    return str(caught.value).splitlines()


def bounded_fields() -> list[tuple[str, Field]]:
    root = fields_of(AsyncRLJob)
    return [
        (".".join(path), field)
        for path, field in root.walk()
        if path[0] == "spec" and "[]" not in "".join(path) and field.kind in ("integer", "number")
    ]


def test_a_minimal_manifest_gets_every_default() -> None:
    job = load_manifest(MINIMAL)
    assert job.name == "cartpole"
    assert job.spec.workload.gymnasium is not None
    assert job.spec.workload.gymnasium.environments == 16
    assert job.spec.algorithm.name == "appo"
    assert job.spec.algorithm.clip == 0.4
    assert job.spec.stopping.environment_steps == 1_000_000
    assert job.spec.stability.thresholds.kl.degraded == 0.2


def test_the_resolved_manifest_is_the_same_job() -> None:
    job = load_manifest(MINIMAL, ["spec.alignment.mode=off", "metadata.labels.team=1"])
    text = dump_manifest(job)
    assert load_manifest(text) == job
    assert 'mode: "off"' in text or "mode: 'off'" in text
    assert "status" not in text


@pytest.mark.parametrize("line", ["stopping: {}", "stopping: {targetReturn: null}", "stopping:"])
def test_a_run_without_a_limit_gets_the_default_limit(line: str) -> None:
    assert load_manifest(MINIMAL + f"  {line}\n").spec.stopping.environment_steps == 1_000_000


def test_a_run_with_a_limit_gets_no_other() -> None:
    stopping = load_manifest(MINIMAL, ["spec.stopping.targetReturn=475"]).spec.stopping
    assert stopping.target_return == 475
    assert stopping.environment_steps is None


def test_null_is_the_default_where_null_has_no_meaning_and_null_where_it_has() -> None:
    job = load_manifest(MINIMAL + "  actors:\n  optimizer: {beta1: null, maxGradientNorm: null}\n")
    assert job.spec.actors.replicas == 2
    assert job.spec.optimizer.beta1 == 0.5
    assert job.spec.optimizer.max_gradient_norm is None


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        (
            "spec.staleness.max=-1",
            "spec.staleness.max: -1 is less than 0; use 0 for synchronous training",
        ),
        (
            "spec.seed='4'",
            "spec.seed: '4' is text, not an integer; write it without quotes",
        ),
        (
            "spec.seed=4.0",
            "spec.seed: 4.0 is no integer; write it without a decimal point",
        ),
        (
            "spec.seed=true",
            "spec.seed: true is not an integer; use an integer",
        ),
        (
            "spec.optimizer.name=adma",
            "spec.optimizer.name: 'adma' is not one of adam, adamw, sgd; did you mean 'adam'?",
        ),
        (
            "spec.optimizer.beta1=1",
            "spec.optimizer.beta1: 1 is not less than 1; use at least 0 and less than 1",
        ),
        (
            "spec.optimizer.learningRate=.inf",
            "spec.optimizer.learningRate: .inf is not finite; use greater than 0 and at most 10",
        ),
        (
            "spec.optimizer=3",
            "spec.optimizer: 3 is not a mapping; use a mapping",
        ),
        (
            "spec.network.hiddenSizes=[64, 0]",
            "spec.network.hiddenSizes[1]: 0 is less than 1; use at least 1 and at most 16384",
        ),
        (
            "spec.parameterServer.replicas=2",
            "spec.parameterServer.replicas: 2 is greater than 1; "
            "one parameter server serves all actors",
        ),
        (
            "spec.actors.resources.limits={cpu: 0.5}",
            "spec.actors.resources.limits.cpu: 0.5 is no Kubernetes quantity; "
            "use an integer or text such as 500m or 2Gi",
        ),
        (
            "spec.actors.env=[{name: A, value: 1}]",
            'spec.actors.env[0].value: 1 is a number, not text; write "1" in quotes',
        ),
        (
            "spec.alignment={mode: off}",
            "spec.alignment.mode: false is what YAML makes of off, no, on or yes without quotes; "
            'write "off" in quotes',
        ),
        (
            "spec.alignment={low: 0.5, high: 0.3}",
            "spec.alignment.low: 0.5 must not be greater than high; lower low or raise high",
        ),
        (
            "spec.workload={}",
            "spec.workload: must have exactly one kind of workload; "
            "give gymnasium: {id: CartPole-v1}",
        ),
        (
            "spec.workload.gymnasium={}",
            "spec.workload.gymnasium.id: is missing; "
            "use an id of gymnasium.registry, such as CartPole-v1",
        ),
        (
            "spec={}",
            "spec.workload: is missing; add workload: a mapping "
            "(The task to learn; exactly one kind)",
        ),
    ],
)
def test_a_problem_is_one_line_with_path_value_and_remedy(assignment: str, line: str) -> None:
    assert problems(assignment) == [line]


@pytest.mark.parametrize(
    ("block", "line"),
    [
        ("stalenes: {max: 0}", "spec.stalenes: unknown field; did you mean 'staleness'?"),
        (
            "staleness: {on_stale: drop}",
            "spec.staleness.on_stale: unknown field; did you mean 'onStale'?",
        ),
        (
            "learningRate: 1e-3",
            "spec.learningRate: unknown field; did you mean spec.optimizer.learningRate?",
        ),
        (
            "actors: {env: [{nam: A, name: A}]}",
            "spec.actors.env[0].nam: unknown field; did you mean 'name'?",
        ),
        (
            "compensation: {klFeedback: {zzz: 1}}",
            "spec.compensation.klFeedback.zzz: unknown field; "
            "fields here are mode, coefficient, target",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_what_was_probably_meant(block: str, line: str) -> None:
    assert problems(text=f"{MINIMAL}  {block}\n") == [line]


def test_all_problems_are_reported_at_once() -> None:
    lines = problems("spec.seed=-1", "spec.staleness.max=x", "spec.evaluation.episodes=0")
    assert [line.partition(":")[0] for line in lines] == [
        "spec.seed",
        "spec.staleness.max",
        "spec.evaluation.episodes",
    ]


@pytest.mark.parametrize(
    "name", ["", "Cart", "cart_pole", "-cart", "cart-", "cart.pole", "4cart", "c" * 41]
)
def test_a_name_that_pods_and_services_cannot_carry_is_refused(name: str) -> None:
    (line,) = problems(f"metadata.name='{name}'")
    assert line.startswith("metadata.name: ")
    assert "fit into 63" in line


def test_other_metadata_of_kubernetes_and_status_are_accepted() -> None:
    text = MINIMAL.replace(
        "metadata:\n", "metadata:\n  uid: 1\n  creationTimestamp: 2026-01-01T00:00:00Z\n"
    )
    job = load_manifest(text + "status: {phase: Running, unheard: 1}\n")
    assert job.status is None
    assert job.document()["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"


def test_kind_and_api_version_are_checked_first_and_alone() -> None:
    assert problems(text="apiVersion: v1\nkind: Pod\nspec: 3\n") == [
        "apiVersion: 'v1' is not known; use asyncrl.io/v1alpha1",
        "kind: 'Pod' is not known; use AsyncRLJob",
    ]
    assert problems(text="a:\n  b") == [
        "apiVersion: is missing; add apiVersion: asyncrl.io/v1alpha1",
        "kind: is missing; add kind: AsyncRLJob",
    ]


def test_one_job_is_found_among_other_documents() -> None:
    other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
    assert load_manifest(f"---\n{other}---\n{MINIMAL}---\n").name == "cartpole"
    (line,) = problems(text=f"{MINIMAL}---\n{MINIMAL}")
    assert line == "manifest: has 2 AsyncRLJob documents; keep one in a file"
    (line,) = problems(text=f"{other}---\n{other}")
    assert line == "manifest: has 2 documents and no AsyncRLJob; add one"
    (line,) = problems(text="# nothing\n")
    assert line.startswith("manifest: is empty; ")
    (line,) = problems(text="- 1\n- 2\n")
    assert line.startswith("manifest: is [1, 2], not a mapping; ")


def test_a_manifest_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(MINIMAL)
    assert load_manifest(path) == load_manifest(str(path)) == load_manifest(MINIMAL)
    path.write_text(MINIMAL + "  seed: 1\n  seed: 2\n")
    with pytest.raises(ManifestError, match=r"job\.yaml:10:3: key 'seed' is there twice"):
        load_manifest(path)


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("spec.staleness.max=0", ("spec", "staleness", "max"), 0),
        ("spec.optimizer.learningRate=5e-3", ("spec", "optimizer", "learningRate"), 0.005),
        ("spec.alignment.mode=off", ("spec", "alignment", "mode"), "off"),
        ("spec.network.hiddenSizes=[8, 8]", ("spec", "network", "hiddenSizes"), [8, 8]),
        ("spec.actors.image=null", ("spec", "actors", "image"), None),
        ("metadata.labels.a\\.b/c=7", ("metadata", "labels", "a.b/c"), "7"),
        ("metadata.finalizers=[a]", ("metadata", "finalizers"), ["a"]),
        (
            "spec.workload.gymnasium.kwargs.size={a: 1}",
            ("spec", "workload", "gymnasium", "kwargs", "size"),
            {"a": 1},
        ),
        ("spec.actors.env=[{name: A, value: x=y}]", ("spec", "actors", "env", 0, "value"), "x=y"),
    ],
)
def test_set_writes_a_typed_value_at_a_path(
    assignment: str, path: tuple[str | int, ...], value: object
) -> None:
    document = read_document(MINIMAL)
    set_path(document, assignment)
    found: Any = document
    for key in path:
        found = found[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("spec.stalenes.max=0", "spec.stalenes: unknown field; did you mean 'staleness'?"),
        ("staleness.max=0", "staleness: unknown field; did you mean spec.staleness?"),
        ("spec.seed.x=0", "spec.seed.x: unknown field; spec.seed is a plain value"),
        (
            "spec.network.hiddenSizes.0=3",
            "spec.network.hiddenSizes.0: is inside a list; "
            "set spec.network.hiddenSizes=[...] as a whole",
        ),
        ("spec.seed", "spec.seed: is no assignment; write path=value, as in spec.seed=1"),
        ("=3", "=3: is no assignment; write path=value, as in spec.seed=1"),
        ("spec..seed=3", "spec..seed=3: is no assignment; write path=value, as in spec.seed=1"),
    ],
)
def test_set_refuses_a_path_that_does_not_exist(assignment: str, line: str) -> None:
    document = read_document(MINIMAL)
    with pytest.raises(ManifestError) as caught:
        set_path(document, assignment)
    assert str(caught.value) == line
    assert document == read_document(MINIMAL)


def test_set_works_before_validation_and_can_repair_a_manifest() -> None:
    broken = MINIMAL + "  seed: x\n"
    assert load_manifest(broken, ["spec.seed=7"]).spec.seed == 7
    (line,) = problems("spec.staleness.max=0", text=MINIMAL + "  staleness: 3\n")
    assert line == "spec.staleness: is 3, not a mapping; set it as a whole"


@pytest.mark.parametrize(("path", "field"), bounded_fields(), ids=lambda value: str(value)[:60])
def test_every_number_has_bounds_that_hold(path: str, field: Field) -> None:
    assert field.minimum is not None
    assert field.maximum is not None
    step = 1 if field.kind == "integer" else 1e-3 * max(1.0, abs(field.maximum))
    for value in (field.minimum - step, field.maximum + step):
        lines = problems(f"{path}={int(value) if field.kind == 'integer' else value}")
        assert any(line.startswith(f"{path}: ") for line in lines)


@given(st.integers(0, 1024), st.sampled_from(["drop", "wait"]), st.none() | st.integers(0, 1024))
def test_any_valid_staleness_survives_dump_and_load(
    bound: int, on_stale: str, inject: int | None
) -> None:
    document = read_document(MINIMAL)
    document["spec"]["staleness"] = {"max": bound, "onStale": on_stale, "inject": inject}
    job = validate(document)
    assert (job.spec.staleness.max, job.spec.staleness.inject) == (bound, inject)
    assert load_manifest(dump_manifest(job)) == job
