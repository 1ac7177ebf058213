"""The table of the chart's values: committed as generated, complete, and with every word there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncrl_operator.values_reference import (
    CHART,
    PATH,
    UndescribedError,
    Value,
    values,
    values_markdown,
)

SCHEMA: dict[str, Any] = {
    "properties": {
        "image": {"type": "object", "properties": {"tag": {"type": "string"}}},
        "names": {"type": "array", "items": {"type": "string"}},
        "level": {"enum": ["low", "high"]},
        "free": {"type": "object"},
    }
}


def test_the_committed_page_is_the_generated_one() -> None:
    assert PATH.read_text() == values_markdown(), "run python -m asyncrl_operator.values_reference"


def test_every_value_of_the_schema_is_in_the_table() -> None:
    def leaves(schema: Any, prefix: str = "") -> set[str]:
        found = set()
        for name, below in schema["properties"].items():
            deeper = leaves(below, f"{prefix}{name}.") if "properties" in below else {prefix + name}
            found |= deeper
        return found - {"global"}

    schema = json.loads((CHART / "values.schema.json").read_text())
    shown = values((CHART / "values.yaml").read_text(), schema)
    assert {value.path for value in shown if value.default is not None} == leaves(schema)


def test_a_value_has_the_comment_above_it_its_type_and_its_default() -> None:
    text = """\
# About the file.

# An image,
# by tag.
image:
  # Its tag.
  tag: "1"
# Some names.
names: [a]
# How much.
level: low
# Anything.
free:
  # Not a value of its own.
  cpu: 1
"""
    assert list(values(text, SCHEMA)) == [
        Value("image", "", None, "An image, by tag."),
        Value("image.tag", "text", '"1"', "Its tag."),
        Value("names", "list of text", '["a"]', "Some names."),
        Value("level", "one of low, high", '"low"', "How much."),
        Value("free", "mapping", '{"cpu": 1}', "Anything."),
    ]


@pytest.mark.parametrize("text", ["# About the file.\n\nnames: []\n", "# A name.\n\nnames: []\n"])
def test_a_value_without_a_comment_is_refused_by_name(text: str) -> None:
    with pytest.raises(UndescribedError, match="names: has no comment above it"):
        list(values(text, SCHEMA))
