"""Evaluations that do not come to an end, beside training that goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from e2e.harness import SupervisedRun, gated_document, merged

STALL_SECONDS = 20


@pytest.mark.parametrize(
    ("actors", "staleness"), [(1, {"max": 4}), (2, {"max": 0})], ids=["alone", "exact"]
)
def test_endless_evaluations_are_given_up_and_starve_nobody(
    actors: int, staleness: dict[str, Any], tmp_path: Path
) -> None:
    """Every batch needs the actor that evaluates; by the supervisor's clock nothing stalls."""
    gate = tmp_path / "gate"
    document = merged(
        gated_document(
            gate,
            actors={"replicas": actors},
            staleness=staleness,
            evaluation={"intervalVersions": 5, "episodes": 2},
            runPolicy={"stallTimeoutSeconds": STALL_SECONDS},
        ),
        {"spec": {"workload": {"gymnasium": {"id": "Wavering-v0"}}}},
    )
    with SupervisedRun(document, tmp_path / "run") as run:
        # More than a stall timeout is spent on them.
        run.until(lambda: len(abandoned(run, actors)) >= 3, "evaluations are abandoned")
        assert run.restarts("learner") == 0, "the learner was never called stalled"
        run.advances(5)
        gate.touch()
        outcome = run.end()
        assert (outcome.phase, outcome.reason) == ("Complete", "TargetReturnReached")
    assert run.restarts("learner") == run.restarts("actors") == 0
    versions = abandoned(run, actors)
    assert len(versions) == len(set(versions)), "none is tried again"


def abandoned(run: SupervisedRun, actors: int) -> list[int]:
    """The versions whose evaluation was given up, by the actors' logs."""
    words = "".join(run.folder.words(f"actor-{index}") for index in range(actors))
    return [int(v) for v in re.findall(r"event=evaluation_abandoned version=(\d+)", words)]
