"""Deterministic modes of the real layout, compared to the bit with loops in one process."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest
import torch
from e2e.harness import (
    Command,
    Document,
    Folder,
    SupervisedRun,
    is_alive,
    job_document,
    make_job,
    merged,
    until,
)
from e2e.plain_loop import (
    NO_LAYERS,
    LayeredUpdate,
    Losses,
    PlainUpdate,
    network_tensors,
    train,
)
from torch import Tensor

from asyncrl_worker.telemetry import to_json
from benchmarks.single_process import SingleProcess

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
    """Checkpoints begin the environments anew, in both; evaluations disturb nothing."""
    document = job_document(
        **merged(SYNCHRONOUS, NO_LAYERS),
        seed=3,
        checkpoint={"intervalVersions": 25},
        evaluation={"intervalVersions": 10, "episodes": 4},
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
    versions, results = [], []
    for update in loop.updates():
        results.append(update.result)
        versions.append(update.result.version - (update.result.outcome == "trained"))
    assert_same(network_tensors(loop.step.policy, loop.step.value), folder.tensors(60))
    assert recorded(folder) == written([(r.policy_loss, r.value_loss) for r in results])
    assert {result.outcome for result in results} == {"trained", "skipped"}

    rows = folder.rows()
    late = [min(trained_at, 4) for trained_at in versions]
    assert [row["stalenessMean"] for row in rows] == late
    assert [row["stalenessMax"] for row in rows] == late


LONG = job_document(
    **SYNCHRONOUS, stopping={"policyVersions": 500}, checkpoint={"intervalVersions": 50}
)


def test_kill_9_and_resume_change_nothing(tmp_path: Path) -> None:
    """First the learner alone, then everything at once; both go on from the last checkpoint."""
    path = tmp_path / "run"
    with Command(LONG, path, "--quiet") as command:
        folder = command.folder
        command.until(lambda: folder.newest_checkpoint() >= 50, "a checkpoint")
        folder.signal("learner-0", signal.SIGKILL)
        first = command.until(lambda: resumed_versions(folder), "the learner is back")
        command.until(lambda: folder.newest_checkpoint() > first[-1], "the next checkpoint")
        # Held still, lest it writes a last checkpoint when its supervisor is gone.
        folder.signal("learner-0", signal.SIGSTOP)
        command.process.kill()
        command.process.wait()
        folder.signal("learner-0", signal.SIGKILL)
        last = folder.newest_checkpoint()
        until(lambda: not any(map(is_alive, folder.pids().values())), "every role is gone")
    with Command(LONG, path, "--quiet", "--resume") as command:
        assert command.end()[0] == 0
    assert resumed_versions(folder) == [*first, last]
    assert 50 <= first[0] < last < 500

    update, losses = train(make_job(LONG), LayeredUpdate, resets=range(50, 500, 50))
    assert_same(update.parameters(), folder.tensors(500))
    assert recorded(folder) == written(losses)


def test_signals_end_after_a_checkpoint_that_resumes(tmp_path: Path) -> None:
    """SIGTERM, then SIGINT. Each adds one thing to the run: new episodes at its checkpoint."""
    path = tmp_path / "run"
    with Command(LONG, path) as command:
        first = interrupt(command, signal.SIGTERM, at_version=60)
    with Command(LONG, path, "--resume") as command:
        second = interrupt(command, signal.SIGINT, at_version=first + 20)
    with Command(LONG, path, "--quiet", "--resume") as command:
        assert command.end()[0] == 0
    folder = command.folder
    assert resumed_versions(folder) == [first, second]

    resets = {*range(50, 500, 50), first, second}
    update, losses = train(make_job(LONG), LayeredUpdate, resets=resets)
    assert_same(update.parameters(), folder.tensors(500))
    assert recorded(folder) == written(losses)


def interrupt(command: Command, number: int, *, at_version: int) -> int:
    """Send the signal once that version is there; the version of the checkpoint that follows."""
    folder = command.folder
    command.until(lambda: folder.version() >= at_version, f"version {at_version}")
    asked = time.monotonic()
    command.process.send_signal(number)
    code, out, err = command.end()
    assert time.monotonic() - asked < 30, "the grace period"
    assert (code, err) == (130, "")
    assert "--resume" in out
    status = folder.read_status()
    assert status is not None
    assert (status.phase, status.reason) == ("Suspended", "Interrupted")
    assert status.message == "interrupted after its checkpoint"
    assert status.checkpoint is not None
    assert not any(map(is_alive, folder.pids().values()))
    version = folder.newest_checkpoint()
    assert status.checkpoint.version == version
    assert at_version <= version < 500
    return version


def resumed_versions(folder: Folder) -> list[int]:
    """The checkpoints that learners went on from, in order."""
    log = folder.words("learner-0")
    return [int(version) for version in re.findall(r"event=resumed version=(\d+)", log)]
