"""The reference of fields: committed as generated, complete, and readable one field at a time."""

from pathlib import Path

import pytest

from asyncrl_api.errors import ManifestError
from asyncrl_api.fields import fields_of
from asyncrl_api.reasons import Reason
from asyncrl_api.reference import PATH, explain, main, reference_markdown
from asyncrl_api.spec import AsyncRLJob


def test_the_committed_reference_is_the_generated_one() -> None:
    assert PATH.read_text() == reference_markdown(), "run python -m asyncrl_api.reference"


def test_check_finds_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "docs" / "fields.md"
    monkeypatch.setattr("asyncrl_api.reference.PATH", path)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    path.write_text(path.read_text() + "more\n")
    assert main(["--check"]) == 1


def test_every_field_is_described_and_every_reason_listed() -> None:
    text = reference_markdown()
    for path, field in fields_of(AsyncRLJob).walk():
        assert field.description.endswith("."), path
        assert f"`{field.name}`" in text or len(path) == 1
    for reason in Reason:
        assert f"| `{reason}` |" in text


def test_every_row_of_a_table_has_as_many_cells_as_its_header() -> None:
    columns = 0
    for line in reference_markdown().splitlines():
        cells = line.replace("\\|", "").count("|")
        if cells and columns:
            assert cells == columns, line
        columns = cells


def test_every_number_has_a_unit_or_says_that_it_has_none() -> None:
    units: dict[str, int] = {}
    column = type_column = 0
    for line in reference_markdown().splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "").split("|")]
        if "Unit" in cells:
            type_column, column = cells.index("Type"), cells.index("Unit")
        elif line.startswith("| `") and cells[type_column] in ("integer", "number"):
            assert cells[column], line
            units[cells[column]] = units.get(cells[column], 0) + 1
    assert units["policy versions"] > 3 and units["-"] > 3


def test_what_only_a_cluster_does_says_so() -> None:
    """The neighbours of runPolicy that a run on one machine does not look at."""
    cluster = {"preRunningDeadlineSeconds", "disruptionLimit", "ttlSecondsAfterFinished"}
    cluster.add("cleanPodPolicy")
    policy = fields_of(AsyncRLJob).find(("spec", "runPolicy"))
    assert policy is not None
    said = {f.name for f in policy.children if f.description.endswith("Not used on one machine.")}
    assert said == cluster


def test_one_field_is_explained() -> None:
    assert explain("spec.staleness.max").splitlines() == [
        "spec.staleness.max <integer>",
        "  Bound of staleness, kept by admission; 0 is synchronous training. Not used while inject "
        "is set.",
        "  default: 4",
        "  allowed: at least 0 and at most 1024",
        "  unit: policy versions",
    ]
    assert "  onStale <one of> drop: " in explain("spec.staleness")
    assert "  name <text> Name of the variable." in explain("spec.actors.env")


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("spec.actors.env.name", "spec.actors.env.name <text>"),
        ("spec.actors.env[0].name", "spec.actors.env[0].name <text>"),
        ("spec.actors.env[].name", "spec.actors.env[].name <text>"),
        ("metadata.labels.team", "metadata.labels.team <text>"),
    ],
)
def test_what_is_inside_a_list_or_mapping_is_explained(path: str, first: str) -> None:
    assert explain(path).splitlines()[0] == first


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("spec.stalenes", "spec.stalenes: unknown field; did you mean 'staleness'?"),
        ("spec.seed.x", "spec.seed.x: unknown field"),
        ("", ": unknown field; fields here are apiVersion, kind, metadata, spec, status"),
        ("spec.actors.env.nam", "spec.actors.env.nam: unknown field; did you mean 'name'?"),
        (
            "spec.actors.template.spec",
            "spec.actors.template.spec: is not explained here; spec.actors.template takes anything",
        ),
    ],
)
def test_an_unknown_field_cannot_be_explained(path: str, line: str) -> None:
    with pytest.raises(ManifestError) as caught:
        explain(path)
    assert str(caught.value) == line
