"""stability.onDegraded carried out: every run here is degraded, by thresholds next to nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e2e.harness import Command, Document, SupervisedRun, gated_document, job_document

from asyncrl_api.status import JobStatus

HAIR_TRIGGERS = {
    "enterUpdates": 2,
    "thresholds": {
        "kl": {"watch": 1e-9, "degraded": 2e-9},
        "maxLogRatio": {"watch": 1e-9, "degraded": 2e-9},
    },
}


def degraded(response: str) -> dict[str, Any]:
    """A `stability` section that answers any update with `response`."""
    return HAIR_TRIGGERS | {"onDegraded": response}


def stable(status: JobStatus) -> tuple[str, str]:
    """Status and reason of the condition Stable."""
    found = next(c for c in status.conditions if c.type == "Stable")
    return found.status, found.reason


def actions(run: SupervisedRun, kind: str) -> float:
    """What the learner's metrics say about actions of one kind."""
    name = f'asyncrl_learner_stability_actions_total{{action="{kind}"}}'
    return run.folder.metrics_of("learner-0").get(name, 0.0)


def test_warn_only_says_so(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    document = gated_document(gate, stability=degraded("warn"))
    with SupervisedRun(document, tmp_path / "run") as run:
        run.until(lambda: actions(run, "Warn") if run.folder.version() > 20 else 0, "a warning")
        run.until(lambda: stable(run.now())[0] == "False", "the condition")
        gate.touch()
        assert run.end().phase == "Complete"
    status = run.now()
    assert stable(status) in {("False", "Degraded"), ("False", "Diverged")}
    assert status.stability is not None
    assert {"HighKL", "HighImportanceRatio"} <= set(status.stability.reasons)
    assert status.staleness is not None
    assert status.staleness.bound == 4
    assert "event=stability action=Warn" in run.folder.words("learner-0")


def test_pace_lowers_the_bound_of_staleness(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    document = gated_document(gate, stability=degraded("pace"), staleness={"max": 8})
    with SupervisedRun(document, tmp_path / "run") as run:
        run.until(lambda: paced(run) <= 4, "a lower bound")
        run.until(lambda: actions(run, "Pace"), "the action is counted")
        run.advances(40)
        gate.touch()
        assert run.end().phase == "Complete"
    rows = run.folder.rows()
    bounds = [row["stalenessBound"] for row in rows]
    assert bounds[0] == 8
    assert min(bounds) <= 4
    # The learner may hold four batches, made when the bound was another.
    for index, row in enumerate(rows):
        assert row["stalenessMax"] <= max(bounds[max(0, index - 4) : index + 1]), row


def paced(run: SupervisedRun) -> int:
    """The bound of staleness that the learner reports."""
    report = run.folder.learner()
    bound = None if report is None else report.staleness.bound
    return 8 if bound is None else bound


def test_suspend_and_fail_end_with_a_checkpoint(tmp_path: Path) -> None:
    suspended = ends(job_document(stability=degraded("suspend")), tmp_path / "suspended", 1)
    assert (suspended.phase, suspended.reason) == ("Suspended", "SuspendedByStability")
    assert (suspended.message or "").startswith(("Degraded: ", "Diverged: "))

    failed = ends(job_document(stability=degraded("fail")), tmp_path / "failed", 1)
    assert (failed.phase, failed.reason) == ("Failed", "StabilityFailed")
    assert "HighKL" in (failed.message or "")

    resumed = ends(job_document(), tmp_path / "suspended", 0, "--resume")
    assert (resumed.phase, resumed.reason) == ("Complete", "PolicyVersionsReached")
    assert stable(resumed)[0] == "True"


def ends(document: Document, path: Path, code: int, *arguments: str) -> JobStatus:
    """Run the command to its end; the final status."""
    with Command(document, path, *arguments) as command:
        assert command.end()[0] == code
        status = command.folder.read_status()
        assert status is not None
        assert status.checkpoint is not None
        assert status.checkpoint.version == command.folder.newest_checkpoint() > 0
        assert status.ledger is not None
        assert status.ledger.balanced
        return status
