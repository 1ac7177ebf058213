"""The examples learn, with their defaults, in the real process layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.harness import TESTS, Document, SupervisedRun

from asyncrl_api.manifest import read_document

EXAMPLES = TESTS.parent / "examples"


def example(name: str) -> Document:
    """The manifest of an example."""
    return read_document(EXAMPLES / f"{name}.yaml")


@pytest.mark.training
@pytest.mark.parametrize(
    ("name", "target"), [("cartpole", 475), ("acrobot", -100), ("pendulum", -200)]
)
def test_an_example_reaches_its_target(name: str, target: int, tmp_path: Path) -> None:
    document = example(name)
    assert document["spec"]["stopping"]["targetReturn"] == target
    with SupervisedRun(document, tmp_path / name) as run:
        outcome = run.end(seconds=240)
    assert (outcome.phase, outcome.reason) == ("Complete", "TargetReturnReached")
    status = run.now()
    assert status.training is not None
    assert (status.training.evaluation_return or 0.0) >= target
    assert status.alignment is not None
    touched = (status.alignment.projected_fraction or 0) + (status.alignment.skipped_fraction or 0)
    assert touched <= 0.02, "the guard leaves a healthy run alone, but for a stray update or two"
    assert max(row["stalenessMax"] for row in run.folder.rows()) <= 4
