"""A learner of two ranks: one policy, one life."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from e2e.harness import SupervisedRun, gated_document, job_document, make_job
from e2e.plain_loop import LayeredUpdate, train

TWO = {"replicas": 2}


def test_two_ranks_train_what_one_would(tmp_path: Path) -> None:
    """But for the order of additions; after ten updates that is still in the last digits."""
    document = job_document(learner=TWO, staleness={"max": 0}, stopping={"policyVersions": 10})
    with SupervisedRun(document, tmp_path / "run") as run:
        assert run.end().phase == "Complete"
    alone, losses = train(make_job(document), LayeredUpdate)
    tensors = run.folder.tensors(10)
    for name, expected in alone.parameters().items():
        torch.testing.assert_close(tensors[name], expected, rtol=1e-3, atol=1e-4)
    found = [(row["policyLoss"], row["valueLoss"]) for row in run.folder.rows()]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(losses), rtol=1e-3, atol=1e-5)


def test_a_killed_rank_restarts_them_all(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with SupervisedRun(gated_document(gate, learner=TWO), tmp_path / "run") as run:
        folder = run.folder
        run.until_version(25)
        actors = [folder.pid("actor-0"), folder.pid("actor-1")]
        newest = folder.newest_checkpoint()
        run.kill("learner-1")
        run.until_attempt("learner-0", 1)
        run.until_attempt("learner-1", 1)
        run.advances()
        assert run.restarts("learner") == 1
        run.until(
            lambda: {role.name: role.ready for role in run.now().roles}["learner"] == 2,
            "both ranks are ready",
        )
        assert [folder.pid("actor-0"), folder.pid("actor-1")] == actors
        gate.touch()
        assert run.end().phase == "Complete"
    resumed = [
        re.findall(r"event=resumed version=(\d+)", folder.words(f"learner-{rank}"))
        for rank in (0, 1)
    ]
    assert resumed[0] == resumed[1]
    # Rank 0 lives for a moment longer than the one that was killed, and may checkpoint in it.
    assert resumed[0] in ([str(newest)], [str(newest + 20)])
