"""kill -9 of every role: who comes back, who never noticed, and what became of the fragments."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from e2e.harness import Folder, SupervisedRun, gated_document, make_job, merged

from asyncrl_api.manifest import dump_manifest


def test_an_actor_and_the_parameter_server_are_replaced_beside_the_learner(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    # With wait, the learner needs the fragment of every ticket: one that is lost stops the run.
    document = gated_document(gate, staleness={"max": 2, "onStale": "wait"})
    with SupervisedRun(document, tmp_path / "run") as run:
        folder = run.folder
        run.until_version(20)
        run.until(lambda: connected(folder) == 2, "both actors are connected")
        learner, survivor = folder.pid("learner-0"), folder.pid("actor-1")

        folder.signal("actor-0", signal.SIGSTOP)
        run.until(lambda: waits_for_one_actor(folder), "everybody waits for actor 0")
        stopped_at = folder.version()
        run.kill("actor-0")
        run.until_version(stopped_at + 5)
        run.until_attempt("actor-0", 1)
        run.until(lambda: run.restarts("actors") == 1, "the restart is counted")
        report = folder.learner()
        assert report is not None
        assert report.ledger.dropped == {"actor_lost": 1}
        assert (folder.pid("actor-1"), folder.pid("learner-0")) == (survivor, learner)

        run.until(lambda: connected(folder) == 2, "actor 0 is connected again")
        folder.signal("actor-0", signal.SIGSTOP)
        run.until(lambda: waits_for_one_actor(folder), "everybody waits for actor 0 again")
        stopped_at = folder.version()
        run.kill("parameter-server-0")
        folder.signal("actor-0", signal.SIGCONT)
        run.until_attempt("parameter-server-0", 1)
        run.until_version(stopped_at + 20)
        after = folder.learner()
        assert after is not None
        # One fragment was in flight and five were queued, of which the learner may not know yet.
        lost = dict(after.ledger.dropped)
        assert lost.pop("actor_lost") == 1
        assert 0 < lost.pop("parameter_server_restart") <= (2 + 1) * 2
        assert lost == {}
        assert (folder.pid("actor-1"), folder.pid("learner-0")) == (survivor, learner)

        gate.touch()
        assert run.end().phase == "Complete"
    final = run.now()
    assert final.ledger is not None
    assert (final.ledger.queued, final.ledger.in_flight) == (0, 0)
    assert final.ledger.trained == 2 * len(folder.rows()), "before and after the restart"
    assert {role.name: role.restarts for role in final.roles} == {
        "actors": 1,
        "learner": 0,
        "parameterServer": 1,
    }


def connected(folder: Folder) -> float:
    """Actors that the parameter server has a connection to."""
    metrics = folder.metrics_of("parameter-server-0")
    return metrics.get("asyncrl_parameter_server_actors_connected", 0)


def waits_for_one_actor(folder: Folder) -> bool:
    """One ticket is out, the gate is closed, the other actor is idle."""
    metrics = folder.metrics_of("parameter-server-0")
    names = ("fragments_in_flight", "fragments_admissible", "actors_idle", "fragments_held")
    return [metrics.get(f"asyncrl_parameter_server_{name}") for name in names] == [1, 0, 1, 0]


def test_a_learner_resumes_and_the_others_stay(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    document = gated_document(gate, checkpoint={"keep": 1000})
    with SupervisedRun(document, tmp_path / "run") as run:
        folder = run.folder
        run.until_version(45)
        others = {name: pid for name, pid in folder.pids().items() if name != "learner-0"}
        run.kill("learner-0")
        newest = folder.newest_checkpoint()  # the next life takes seconds to write one
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
    assert newest >= 40
    assert f"event=resumed version={newest} found=True" in folder.words("learner-0")
    assert "Restarting" in {status.phase for status in run.statuses}
    for version in (20, 40):
        state = folder.state(version)
        assert state["ledger"]["trained"] == 2 * state["updates"], "complete at the checkpoint"


@pytest.mark.parametrize("staleness", [{"max": 0}, {"inject": 3}], ids=["synchronous", "inject"])
def test_with_an_exact_lag_a_new_parameter_server_deals_to_as_many_actors_as_there_are_now(
    staleness: dict[str, int], tmp_path: Path
) -> None:
    """What a change of spec.actors.replicas asks for: the learner and the other actors stay."""
    gate = tmp_path / "gate"
    document = gated_document(
        gate,
        actors={"replicas": 3},
        algorithm={"fragmentsPerBatch": 3},
        staleness=staleness,
    )
    with SupervisedRun(document, tmp_path / "run") as run:
        folder = run.folder
        run.until_version(10)
        stay = {name: folder.pid(name) for name in ("learner-0", "actor-0", "actor-1")}
        for attempt, replicas in enumerate((2, 3), start=1):
            job = make_job(merged(document, {"spec": {"actors": {"replicas": replicas}}}))
            folder.manifest.write_text(dump_manifest(job))
            run.kill("parameter-server-0")
            run.until_attempt("parameter-server-0", attempt)
            before = fragments_of(folder, "actor-2")
            run.advances(20)
            assert (fragments_of(folder, "actor-2") > before + 1) == (replicas == 3)
        assert {name: folder.pid(name) for name in stay} == stay
        gate.touch()
        assert run.end().phase == "Complete"
    told = "event=without_work actor 2 gets no fragments to produce"
    assert folder.words("actor-2").count(told) == 1
    assert told not in folder.words("actor-1")


def fragments_of(folder: Folder, actor: str) -> float:
    """Fragments of an actor that were accepted."""
    return folder.metrics_of(actor).get('asyncrl_actor_fragments_total{outcome="accepted"}', 0)


@pytest.mark.parametrize("process", ["learner-0", "parameter-server-0"])
def test_a_process_that_hangs_is_replaced(process: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    document = gated_document(gate, runPolicy={"stallTimeoutSeconds": 5})
    with SupervisedRun(document, tmp_path / "run") as run:
        run.until_version(20)
        run.folder.signal(process, signal.SIGSTOP)
        run.until_attempt(process, 1)
        run.advances()
        gate.touch()
        assert run.end().phase == "Complete"


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
