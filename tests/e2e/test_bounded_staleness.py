"""No batch is trained beyond the bound, however slow an actor is or however much is skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.harness import Document, SupervisedRun, gated_document, merged


@pytest.mark.parametrize("on_stale", ["drop", "wait"])
def test_a_slow_actor_does_not_break_the_bound(on_stale: str, tmp_path: Path) -> None:
    """One of the actors takes 20 ms for each step, the time in which the other sends fragments."""
    document = slow_document(tmp_path, staleness={"max": 2, "onStale": on_stale})
    with SupervisedRun(document, tmp_path / "run") as run:
        run.until_version(100)
        (tmp_path / "gate").touch()
        assert run.end().phase == "Complete"
    assert max(row["stalenessMax"] for row in run.folder.rows()) <= 2
    ledger = run.now().ledger
    assert ledger is not None
    stale = ledger.dropped.get("stale", 0)
    if on_stale == "drop":
        assert stale > 0, "the slow actor's fragments came too late"
    else:
        assert stale == 0
        assert max(row["stalenessMax"] for row in run.folder.rows()) > 0
    bound = "worst-case staleness 2 versions: at most (2+1)*2=6 fragments outstanding"
    assert bound in run.folder.words("learner-0")
    assert bound in run.folder.words("parameter-server-0")


def test_skipping_most_updates_starves_nobody(tmp_path: Path) -> None:
    """Any alignment at all is a skip here; each run of three of them frees the fourth update."""
    thresholds = {"calibration": "fixed", "low": 0.0, "high": 0.0, "maxSkips": 3}
    document = gated_document(tmp_path / "gate", alignment=thresholds)
    with SupervisedRun(document, tmp_path / "run") as run:
        run.until_version(60)
        (tmp_path / "gate").touch()
        assert run.end().phase == "Complete"
    status, rows = run.now(), run.folder.rows()
    assert status.ledger is not None
    assert status.alignment is not None
    skipped = sum(row["regime"] == "Skip" for row in rows)
    assert skipped > 0.1 * len(rows)
    assert status.ledger.dropped["skipped"] == 2 * (rows[-1]["update"] - rows[-1]["policyVersion"])
    assert max(row["stalenessMax"] for row in rows) <= 4
    regimes = "".join(row["regime"][0] if row["regime"] else "-" for row in rows)
    assert "SSSS" not in regimes


def slow_document(tmp_path: Path, **spec: object) -> Document:
    """A gated job of which the process that comes first is slow."""
    kwargs = {"slow": str(tmp_path / "slow"), "seconds": 0.02}
    base = {"workload": {"gymnasium": {"kwargs": kwargs, "environments": 1}}}
    return gated_document(tmp_path / "gate", **merged(base, spec))
