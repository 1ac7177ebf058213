"""A run from its start to its end, and what is left of it when its supervisor is killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from e2e.harness import Command, gated_document, is_alive, job_document, until


def test_a_run_completes_and_leaves_a_whole_folder(tmp_path: Path) -> None:
    evaluation = {"intervalVersions": 20, "episodes": 4}
    document = job_document(evaluation=evaluation, checkpoint={"intervalVersions": 25})
    with Command(document, tmp_path / "run") as command:
        statuses = command.statuses()
        code, out, err = command.end()
    folder = command.folder
    assert (code, err) == (0, "")
    assert "Complete" in out
    assert str(folder.report) in out or "report.html" in out

    assert [s.phase for s in statuses[:1]] == ["Pending"]
    assert all(s.ledger.balanced for s in statuses if s.ledger is not None)
    status = statuses[-1]
    assert (status.phase, status.reason) == ("Complete", "PolicyVersionsReached")
    assert {c.type: c.status for c in status.conditions if c.type in ("Complete", "Running")} == {
        "Complete": "True",
        "Running": "False",
    }
    assert [(role.name, role.desired, role.ready, role.restarts) for role in status.roles] == [
        ("actors", 2, 0, 0),
        ("learner", 1, 0, 0),
        ("parameterServer", 1, 0, 0),
    ]
    training, ledger = status.training, status.ledger
    assert training is not None
    assert ledger is not None
    assert training.policy_version == 60
    assert training.progress == 1.0
    assert training.evaluation_return is not None
    assert training.evaluation_return > 0
    # Two fragments to a batch, 8 steps of 4 environments each, less the automatic resets.
    assert ledger.trained == 2 * 60
    assert 0.8 * 60 * 64 < (training.environment_steps or 0) <= 60 * 64
    assert ledger.balanced
    assert (ledger.queued, ledger.in_flight) == (0, 0)
    assert status.staleness is not None
    assert status.staleness.bound == 4

    rows = folder.rows()
    assert [row["update"] for row in rows] == list(range(1, 61))
    assert max(row["stalenessMax"] for row in rows) <= 4
    assert {path.name for path in folder.checkpoints.iterdir()} == {
        "v000000025",
        "v000000050",
        "v000000060",
    }
    assert folder.report.read_text().startswith("<!doctype html>")
    assert list((folder.path / "tensorboard").glob("events.*"))
    names = {"actor-0", "actor-1", "learner-0", "parameter-server-0"}
    assert {path.stem for path in folder.logs.iterdir()} == names
    pids = folder.pids()
    assert set(pids) == names
    assert not [name for name, pid in pids.items() if is_alive(pid)]
    assert json.loads(folder.status.read_text())["training"]["policyVersion"] == 60


def test_no_process_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    document = gated_document(tmp_path / "gate")
    with Command(document, tmp_path / "run") as command:
        folder = command.folder
        command.until(lambda: folder.version() >= 10, "ten versions")
        pids = folder.pids()
        assert len(pids) == 4
        command.process.send_signal(signal.SIGKILL)
        until(lambda: not any(map(is_alive, pids.values())), "the roles end by themselves", 40)
    assert folder.newest_checkpoint() >= 10, "the learner's last act is a checkpoint"
    assert not folder.in_use()
