"""The CRD: committed as generated, structural, and of one mind with the models."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator
from unit.api.structural_schema import KEYWORDS, json_schema, walk, with_defaults

from asyncrl_api.crd import PATH, crd_yaml, custom_resource_definition, main, root_schema
from asyncrl_api.errors import ManifestError
from asyncrl_api.manifest import load_manifest, read_document, set_path, validate
from asyncrl_api.status import JobStatus

MINIMAL = """\
apiVersion: asyncrl.io/v1alpha1
kind: AsyncRLJob
metadata: {name: a}
spec: {workload: {gymnasium: {id: CartPole-v1}}}
"""
SCHEMAS = walk(root_schema())
VALIDATOR = Draft4Validator(json_schema(root_schema(), closed=True))


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def test_the_committed_crd_is_the_generated_one() -> None:
    assert PATH.read_text() == crd_yaml(), "run python -m asyncrl_api.crd"
    assert yaml.safe_load(crd_yaml()) == custom_resource_definition()


def test_check_finds_drift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "crd.yaml"
    monkeypatch.setattr("asyncrl_api.crd.PATH", path)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    path.write_text(path.read_text().replace("maximum: 1024", "maximum: 1025", 1))
    assert main(["--check"]) == 1
    assert "run python -m asyncrl_api.crd" in capsys.readouterr().err
    assert main(["--wrong"]) == 2


@pytest.mark.parametrize(("path", "schema"), SCHEMAS, ids=[path or "root" for path, _ in SCHEMAS])
def test_the_schema_is_structural(path: str, schema: dict[str, Any]) -> None:
    assert set(schema) <= KEYWORDS
    if schema.get("x-kubernetes-int-or-string"):
        assert "type" not in schema
        assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    else:
        assert schema["type"] in {"object", "array", "string", "integer", "number", "boolean"}
        assert "anyOf" not in schema
    assert not ("properties" in schema and "additionalProperties" in schema)
    assert schema["type"] == "array" if "items" in schema else True
    assert set(schema.get("required", [])) <= set(schema.get("properties", {}))
    if schema.get("type") == "object" and path != ".metadata":
        assert (
            "properties" in schema
            or "additionalProperties" in schema
            or schema.get("x-kubernetes-preserve-unknown-fields")
        )
    if schema.get("type") == "array":
        assert schema["x-kubernetes-list-type"] in {"atomic", "map"}
    for key in schema.get("x-kubernetes-list-map-keys", []):
        assert key in schema["items"]["required"]
    # The API server's enum check refuses null even where null is allowed.
    if schema.get("nullable"):
        assert "enum" not in schema
    if "default" in schema:
        assert not path.startswith((".status", ".metadata"))
        filled = with_defaults(schema, schema["default"])
        Draft4Validator(json_schema(schema, closed=True)).validate(filled)
    if path.startswith((".spec", ".status")):
        assert schema.get("description") or path.endswith(("[]", "{}"))


def test_lists_and_texts_of_the_spec_are_bounded() -> None:
    for path, schema in SCHEMAS:
        if not path.startswith(".spec"):
            continue
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
        if schema.get("type") == "string" and "enum" not in schema:
            assert "maxLength" in schema, path


def test_rules_are_one_line_and_blame_a_field_of_the_schema() -> None:
    count = 0
    for path, schema in SCHEMAS:
        for rule in schema.get("x-kubernetes-validations", []):
            count += 1
            assert "\n" not in rule["message"]
            inner = schema
            for key in rule.get("fieldPath", "").split(".")[1:]:
                inner = inner["properties"][key]
            for field in re.findall(r"(?:self|oldSelf)((?:\.\w+)+)", rule["rule"]):
                inner = schema
                for key in field.split(".")[1:]:
                    inner = inner["properties"][key]
            assert path.startswith(".spec")
    assert count >= 15


def test_columns_and_scale_point_at_fields_of_their_type() -> None:
    schemas = dict(SCHEMAS)
    version = custom_resource_definition()["spec"]["versions"][0]
    for column in version["additionalPrinterColumns"]:
        if column["jsonPath"] == ".metadata.creationTimestamp":
            assert column["type"] == "date"
        else:
            assert schemas[column["jsonPath"]]["type"] == column["type"], column["name"]
    wide = {c["name"] for c in version["additionalPrinterColumns"] if c["priority"] == 1}
    assert wide == {"Checkpoint", "Restarts", "Reason"}
    scale = version["subresources"]["scale"]
    assert schemas[scale["specReplicasPath"]]["type"] == "integer"
    assert schemas[scale["statusReplicasPath"]]["type"] == "integer"
    assert schemas[scale["labelSelectorPath"]]["type"] == "string"
    assert version["subresources"]["status"] == {}


def test_the_api_server_fills_in_the_same_defaults_as_the_models() -> None:
    document = read_document(MINIMAL)
    stored = with_defaults(root_schema(), document)
    assert stored["spec"] == without_nulls(load_manifest(MINIMAL).document()["spec"])


PATHS = [
    path
    for path, schema in SCHEMAS
    if path.startswith(".spec.")
    and "[]" not in path
    and "{}" not in path
    and "properties" not in schema
]
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.floats(-0.5, 1.5)
    | st.sampled_from(["off", "drop", "adam", "x", "", "-", [], [1], [0], ["a.b"], {}, {"a": 1}])
)


@given(st.sampled_from(PATHS), VALUES)
def test_schema_and_models_accept_the_same_value_of_any_field(path: str, value: Any) -> None:
    document = read_document(MINIMAL)
    *parents, last = path.strip(".").split(".")
    holder = document
    for key in parents:
        holder = holder.setdefault(key, {})
    holder[last] = value
    stored = with_defaults(root_schema(), document)
    schema_accepts = VALIDATOR.is_valid(stored)
    try:
        validate(document)
    except ManifestError as error:
        # What only rules between fields refuse, the schema alone cannot know.
        lines = [problem for problem in error.problems if "must " not in problem.message]
        assert schema_accepts == (not lines), error
    else:
        assert schema_accepts


def test_unknown_fields_are_not_preserved_outside_free_content() -> None:
    free = {path for path, s in SCHEMAS if s.get("x-kubernetes-preserve-unknown-fields")}
    assert free == {
        ".spec.workload.gymnasium.kwargs",
        ".spec.actors.template",
        ".spec.learner.template",
        ".spec.parameterServer.template",
    }


def test_a_status_that_the_models_write_keeps_the_schema(full_status: JobStatus) -> None:
    document = read_document(MINIMAL)
    document["status"] = full_status.model_dump(mode="json", by_alias=True, exclude_none=True)
    VALIDATOR.validate(with_defaults(root_schema(), document))


def test_resolved_manifests_keep_the_schema() -> None:
    document = read_document(MINIMAL)
    set_path(document, "spec.actors.resources.limits={cpu: 2, memory: 1Gi}")
    set_path(document, "spec.actors.env=[{name: A, value: b}]")
    document["spec"] = validate(document).document()["spec"]
    VALIDATOR.validate(with_defaults(root_schema(), document))
