"""The examples are valid, short, and say what they train."""

from pathlib import Path

import pytest
from jsonschema import Draft4Validator
from unit.api.structural_schema import json_schema, with_defaults

from asyncrl_api.crd import root_schema
from asyncrl_api.manifest import load_manifest, read_document

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid_here_and_for_the_api_server(path: Path) -> None:
    job = load_manifest(path)
    assert job.name == path.stem
    stored = with_defaults(root_schema(), read_document(path))
    Draft4Validator(json_schema(root_schema(), closed=True)).validate(stored)


def test_twelve_lines_are_enough_for_a_job() -> None:
    (cartpole,) = (path for path in EXAMPLES if path.stem == "cartpole")
    assert len(cartpole.read_text().splitlines()) <= 12
    assert {path.stem for path in EXAMPLES} >= {"acrobot", "cartpole", "lunarlander", "pendulum"}
