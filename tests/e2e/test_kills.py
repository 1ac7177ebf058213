"""kill -9 of every role: who comes back, who never noticed, and what became of the fragments."""

from __future__ import annotations

import random
from pathlib import Path

from e2e.harness import SupervisedRun, gated_document


def test_actor_and_parameter_server_are_replaced_beside_a_living_learner(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with SupervisedRun(gated_document(gate), tmp_path / "run") as run:
        folder = run.folder
        run.until_version(20)
        learner, survivor = folder.pid("learner-0"), folder.pid("actor-1")

        run.kill("actor-0")
        run.until_attempt("actor-0", 1)
        run.advances()
        assert run.restarts("actors") == 1
        assert folder.pid("actor-1") == survivor
        assert folder.pid("learner-0") == learner

        before = folder.learner()
        assert before is not None
        run.kill("parameter-server-0")
        run.until_attempt("parameter-server-0", 1)
        run.advances()
        assert run.restarts("parameterServer") == 1
        assert folder.pid("actor-1") == survivor, "actors connect again"
        assert folder.pid("learner-0") == learner
        after = folder.learner()
        assert after is not None
        assert after.ledger.balanced
        assert after.ledger.trained >= before.ledger.trained, "the ledger lives on"
        # Two batches of two fragments may be on their way; the rest of what was there is lost.
        lost = after.ledger.dropped.get("parameter_server_restart", 0)
        assert 0 < lost <= (4 + 1) * 2
        assert (after.training.policy_version or 0) > (before.training.policy_version or 0)

        gate.touch()
        assert run.end().phase == "Complete"
    final = run.now()
    assert final.ledger is not None
    assert (final.ledger.queued, final.ledger.in_flight) == (0, 0)
    assert final.ledger.trained == 2 * len(folder.rows()), "every batch of every epoch"
    assert final.restarts == 2


def test_a_learner_resumes_and_the_others_stay(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    document = gated_document(gate, checkpoint={"keep": 1000})
    with SupervisedRun(document, tmp_path / "run") as run:
        folder = run.folder
        run.until_version(45)
        others = {name: pid for name, pid in folder.pids().items() if name != "learner-0"}
        run.kill("learner-0")
        run.until_attempt("learner-0", 1)
        run.advances()
        report = folder.learner()
        assert report is not None
        assert report.attempt == 1
        assert report.ledger.balanced
        assert 0 < report.ledger.dropped["learner_restart"] <= (4 + 1) * 2
        assert {name: folder.pid(name) for name in others} == others
        assert run.restarts("learner") == 1
        gate.touch()
        assert run.end().phase == "Complete"
    assert "event=resumed version=40 found=True" in folder.words("learner-0")
    assert "Restarting" in {status.phase for status in run.statuses}
    for version in (20, 40):
        state = folder.state(version)
        assert state["ledger"]["trained"] == 2 * state["updates"], "complete at the checkpoint"


def test_random_kills_never_unbalance_the_ledger(tmp_path: Path) -> None:
    """Eight kills in an order drawn once, some while the last victim is still away."""
    gate = tmp_path / "gate"
    draw = random.Random(7)
    roles = ("actor-0", "actor-1", "parameter-server-0", "actor-0", "learner-0")
    run_policy = {"backoffLimit": 20}
    with SupervisedRun(gated_document(gate, runPolicy=run_policy), tmp_path / "run") as run:
        folder = run.folder
        run.until_version(20)
        for _ in range(8):
            victim = draw.choice(roles)
            run.until_present(victim)
            attempt = folder.attempt(victim)
            run.kill(victim)
            if draw.random() < 0.5:
                run.until_attempt(victim, attempt + 1)
        for name in sorted(set(roles)):
            run.until_present(name)
        run.advances(30)
        gate.touch()
        assert run.end().phase == "Complete"
    ledger = run.now().ledger
    assert ledger is not None
    assert (ledger.queued, ledger.in_flight) == (0, 0)
    assert run.now().restarts == 8
