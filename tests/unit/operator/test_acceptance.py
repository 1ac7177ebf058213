"""What is not accepted makes nothing, and what runs goes on as if it had not been written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from unit.operator.worlds import Life, applied, at, deleted, with_report

from asyncrl_api.exits import Note
from asyncrl_api.reasons import Reason

REFUSED = Note(Reason.INVALID_SPEC, "Job job-actor: spec.template: Invalid value")
COMPLETE = json.dumps({"outcome": "Complete", "reason": "TargetReturnReached", "message": ""})


def edited(life: Life, **spec: Any) -> None:
    """The user writes another spec, which the API server would not take."""
    life.spec = {**life.spec, **spec}
    life.generation += 1
    life.observed = replace(life.observed, refused=REFUSED)


def test_a_wrong_manifest_makes_nothing_and_names_the_field() -> None:
    life = Life({"algorithm": {"discount": 2}})
    made = life.step()
    assert not made.apply
    assert made.status.phase == "Pending"
    assert life.condition("Accepted") == ("False", "InvalidSpec")
    assert "spec.algorithm.discount" in (life.known.message or "")
    life.spec["algorithm"] = {}
    life.generation = 2
    made = life.step()
    assert life.condition("Accepted") == ("True", "Valid")
    assert applied(made)


def test_what_the_api_server_refuses_makes_nothing() -> None:
    life = Life()
    life.observed = replace(life.observed, refused=REFUSED)
    made = life.step()
    assert not made.apply
    assert not made.certificates
    assert life.condition("Accepted") == ("False", "InvalidSpec")
    assert life.known.message == REFUSED.message


def test_keyword_arguments_of_the_environment_cannot_change() -> None:
    life = Life()
    life.run()
    life.spec["workload"] = {"gymnasium": {"id": "CartPole-v1", "kwargs": {"sutton": True}}}
    made = life.step(5)
    assert life.condition("Accepted") == ("False", "ImmutableField")
    assert "spec.workload.gymnasium.kwargs" in (life.known.message or "")
    assert life.phase == "Running"
    assert not made.delete


@pytest.mark.parametrize("wrong", [{"algorithm": {"discount": 2}}, {"actors": {"replicas": 7}}])
def test_a_job_that_runs_is_looked_after_by_what_was_accepted(wrong: dict[str, Any]) -> None:
    life = Life({"runPolicy": {"activeDeadlineSeconds": 900}})
    life.run()
    with_report(life, received=10)
    life.step(10)
    edited(life, **wrong)
    with_report(life, received=20)
    made = life.step(20)
    assert (life.phase, life.known.reason) == ("Running", "InvalidSpec")
    assert life.condition("Accepted") == ("False", "InvalidSpec")
    assert life.known.observed_generation == 2
    assert [event.reason for event in made.events] == ["InvalidSpec"]
    assert life.jobs["actor"].completions == 2

    # The lost are replaced, and what is not heard of is not called healthy.
    del life.pods["actor-1"]
    assert [pod["metadata"]["name"] for pod in life.step(25).create_pods]
    life.add("actor", 1)
    life.step(60)
    assert life.condition("Stable") == ("Unknown", "StaleReports")
    life.end("learner-0", 137, reason="OOMKilled")
    assert deleted(life.step(70)) == ["job-learner"]
    assert (life.phase, life.known.attempt) == ("Restarting", 1)
    life.step(900)
    assert (life.phase, life.known.reason) == ("Failed", "DeadlineExceeded")


def test_its_run_policy_counts_as_it_is_now() -> None:
    life = Life()
    life.run()
    edited(life, algorithm={"discount": 2}, runPolicy={"suspend": True})
    made = life.step(20)
    assert life.phase == "Suspending"
    assert deleted(made) == ["job-learner"]


def test_a_job_that_ends_completes_and_is_cleaned_up() -> None:
    life = Life()
    life.run()
    edited(life, algorithm={"discount": 2}, runPolicy={"ttlSecondsAfterFinished": 60})
    life.end("learner-0", 0, COMPLETE)
    life.step(20)
    assert (life.phase, life.known.reason) == ("Complete", "TargetReturnReached")
    life.step(79)
    assert life.step(80).delete_job


def test_a_refused_job_that_has_nothing_running_stays_without() -> None:
    life = Life()
    config = next(d for d in life.look().apply if d["kind"] == "ConfigMap")
    life.observed = replace(life.observed, manifest=config["data"]["manifest.yaml"])
    life.observed = replace(life.observed, refused=REFUSED)
    assert not life.step().apply, "its ConfigMap was taken, and a Job not"


def test_of_a_job_that_is_over_the_ttl_counts_also_where_nothing_is_left() -> None:
    life = Life({"runPolicy": {"cleanPodPolicy": "All"}})
    life.run()
    life.end("learner-0", 0, COMPLETE)
    life.step(20)
    life.jobs.clear()
    life.pods.clear()
    edited(life, algorithm={"discount": 2}, runPolicy={"ttlSecondsAfterFinished": 60})
    assert life.step(80).delete_job
    assert (life.phase, life.known.reason) == ("Complete", "TargetReturnReached")


def test_a_manifest_that_somebody_has_spoilt_is_written_again() -> None:
    life = Life()
    life.run()
    life.observed = replace(life.observed, manifest="kind: AsyncRLJob\nspec: 7\n")
    made = life.look(10)
    assert "ConfigMap" in [document["kind"] for document in made.apply]
    assert life.condition("Accepted") == ("True", "Valid")


def test_what_is_over_says_what_it_has_seen_and_that_nothing_is_left() -> None:
    life = Life()
    life.run()
    life.end("learner-0", 0, COMPLETE)
    life.step(20)
    life.generation = 7
    for process in ("actor-0", "actor-1", "parameter-server-0"):
        life.end(process, 0)
    life.step(30)
    assert life.phase == "Complete"
    assert life.known.observed_generation == 7
    assert [(role.name, role.ready, role.desired) for role in life.known.roles] == [
        ("actors", 0, 0),
        ("learner", 0, 0),
        ("parameterServer", 0, 0),
    ]
    assert life.known.completion_time == at(20)
