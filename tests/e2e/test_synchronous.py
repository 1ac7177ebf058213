"""Deterministic modes of the real layout, compared to the bit with loops in one process."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from asyncrl_worker.telemetry import to_json
from benchmarks.single_process import SingleProcess
from torch import Tensor

from e2e.harness import Command, Document, Folder, SupervisedRun, job_document, make_job, merged
from e2e.plain_loop import (
    NO_LAYERS,
    LayeredUpdate,
    Losses,
    PlainUpdate,
    network_tensors,
    train,
)

SYNCHRONOUS = {"staleness": {"max": 0}}


def assert_same(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Equal to the bit, name by name."""
    assert expected.keys() <= found.keys()
    different = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
    assert not different


def written(losses: list[Losses]) -> list[str]:
    """Losses as metrics.jsonl has them: to six digits."""
    return [to_json({"policyLoss": policy, "valueLoss": value}) for policy, value in losses]


def recorded(folder: Folder) -> list[str]:
    """The same from a run's metrics.jsonl."""
    return written([(row["policyLoss"], row["valueLoss"]) for row in folder.rows()])


def complete(document: Document, path: Path) -> Folder:
    """Run a job to its end."""
    with SupervisedRun(document, path) as run:
        assert run.end().phase == "Complete"
    return run.folder


def test_without_layers_a_synchronous_run_is_a_plain_loop(tmp_path: Path) -> None:
    """Checkpoints on the way begin the environments anew, in the run and in the loop."""
    document = job_document(
        **merged(SYNCHRONOUS, NO_LAYERS), seed=3, checkpoint={"intervalVersions": 25}
    )
    folder = complete(document, tmp_path / "run")
    update, losses = train(make_job(document), PlainUpdate, resets=(25, 50))
    assert_same(update.parameters(), folder.tensors(60))
    assert recorded(folder) == written(losses)
    assert {row["stalenessMax"] for row in folder.rows()} == {0}


@pytest.mark.parametrize("mode", ["off", "observe"])
def test_without_control_the_step_is_that_of_a_loop_without_alignment(mode: str) -> None:
    document = job_document(**merged(SYNCHRONOUS, NO_LAYERS))
    plain, losses = train(make_job(document), PlainUpdate)
    document = merged(document, {"spec": {"alignment": {"mode": mode}}})
    layered, layered_losses = train(make_job(document), LayeredUpdate)
    assert_same(plain.parameters(), layered.parameters())
    assert losses == layered_losses


def test_injected_staleness_is_the_loop_with_old_weights(tmp_path: Path) -> None:
    """The default stack, but for thresholds so low that updates are projected and skipped."""
    document = job_document(
        staleness={"inject": 4},
        alignment={"calibration": "fixed", "low": 0.0, "high": 0.2},
        checkpoint={"intervalVersions": None},
    )
    folder = complete(document, tmp_path / "run")
    loop = SingleProcess(make_job(document))
    results = [update.result for update in loop.updates()]
    assert_same(network_tensors(loop.step.policy, loop.step.value), folder.tensors(60))
    assert recorded(folder) == written([(r.policy_loss, r.value_loss) for r in results])
    assert {result.outcome for result in results} == {"trained", "skipped"}

    rows = folder.rows()
    trained = [row["policyVersion"] - (r.outcome == "trained") for row, r in zip(rows, results)]
    late = [min(version, 4) for version in trained]
    assert [row["stalenessMean"] for row in rows] == late
    assert [row["stalenessMax"] for row in rows] == late
