"""What is lost from outside has a limit and a back-off of its own; the time is virtual."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from unit.operator.worlds import VOLUME, Life, applied, at, deleted

from asyncrl_api.exits import Note
from asyncrl_operator.plan.losses import CAP, back_off
from asyncrl_operator.plan.observed import Ending
from asyncrl_operator.plan.plan import Plan

PREEMPTED = Note("PreemptionByScheduler", "preempted by a pod of higher priority")


def lose_learner(life: Life, second: float, **how: Any) -> Plan:
    """The learner's pod goes, at once; the plan of the moment it is seen."""
    how = how or {"deleted": at(second), "disruption": PREEMPTED}
    life.now = second
    life.change("learner-0", ready=False, **how)
    return life.step()


def bring_back(life: Life, second: float) -> None:
    """The pod is gone and the next attempt is ready."""
    life.pods.pop("learner-0", None)
    life.step(second)
    assert "learner" in life.jobs, "it still waits"
    life.add("learner")
    life.step()
    assert life.phase == "Running"


def lose_server(life: Life, second: float) -> None:
    """The Job controller counts a pod of the parameter server that is replaced at once."""
    life.now = second
    job = life.jobs["parameter-server"]
    life.jobs["parameter-server"] = replace(job, failed=job.failed + 1)
    life.change("parameter-server-0", deleted=at(second), ready=False, disruption=PREEMPTED)


def message(life: Life) -> str:
    return life.known.message or ""


def test_losses_beyond_the_limit_fail_the_run_and_name_the_newest() -> None:
    life = Life({"runPolicy": {"disruptionLimit": 2}})
    life.run()
    for second in (1000, 2000):
        lose_learner(life, second)
        assert life.phase == "Restarting"
        bring_back(life, second + 5)
    lost = life.add("learner", node="node-7")
    made = lose_learner(life, 3000)
    assert (life.phase, life.known.reason) == ("Failed", "DisruptionLimitExceeded")
    for word in ("learner-0", "preempted by a pod", lost.name, "node-7", "lost 3 times"):
        assert word in message(life)
    assert "spec.runPolicy.disruptionLimit" in message(life)
    learner = life.known.roles[1]
    assert (learner.disruptions, learner.failures, life.known.attempt) == (3, 0, 2)
    assert not made.apply
    assert life.condition("Restarting") != ("True", "LearnerLost")


def test_a_limit_of_none_at_all_fails_the_run_at_the_first() -> None:
    life = Life({"runPolicy": {"disruptionLimit": 0}})
    life.run()
    lose_learner(life, 10)
    assert life.known.reason == "DisruptionLimitExceeded"
    assert "lost once" in message(life)


def test_without_a_limit_a_run_on_spot_nodes_goes_on_for_days() -> None:
    life = Life({"runPolicy": {"backoffLimit": 0}})
    life.run()
    for number in range(1, 101):
        lose_learner(life, number * 1000)
        bring_back(life, number * 1000 + 5)
    learner = life.known.roles[1]
    assert (life.phase, life.known.attempt) == ("Running", 100)
    assert (learner.disruptions, learner.losses, learner.failures) == (100, 1, 0)


def test_actors_are_made_to_be_lost_and_the_parameter_server_is_not() -> None:
    life = Life({"runPolicy": {"disruptionLimit": 1}})
    life.run()
    life.jobs["actor"] = replace(life.jobs["actor"], failed=50)
    life.step(10)
    assert (life.phase, life.known.roles[0].disruptions) == ("Running", 50)
    lose_server(life, 20)
    life.step()
    assert life.condition("Restarting") == ("True", "ParameterServerLost")
    life.add("parameter-server")
    life.step(30)
    lose_server(life, 40)
    lost = life.pods["parameter-server-0"]
    life.step()
    assert (life.phase, life.known.reason) == ("Failed", "DisruptionLimitExceeded")
    for word in ("parameter-server-0", "preempted", lost.name, "was lost 2 times"):
        assert word in message(life)


def test_one_limit_holds_for_each_of_the_two_roles() -> None:
    life = Life({"runPolicy": {"disruptionLimit": 1}})
    life.run()
    lose_server(life, 10)
    life.step()
    life.add("parameter-server")
    lose_learner(life, 20)
    assert life.phase == "Restarting"


def test_who_lowers_the_limit_waits_for_the_next_loss() -> None:
    life = Life()
    life.run()
    for second in (1000, 2000):
        lose_learner(life, second)
        bring_back(life, second + 5)
        lose_server(life, second + 10)
        life.step()
        life.add("parameter-server")
        life.step()
    life.spec["runPolicy"] = {"disruptionLimit": 1}
    life.step(2500)
    assert [role.disruptions for role in life.known.roles] == [0, 2, 2]
    assert life.phase == "Running"
    lose_learner(life, 3000)
    assert life.known.reason == "DisruptionLimitExceeded"


def test_the_first_restart_is_immediate_and_the_next_ones_wait_longer_each_time() -> None:
    life = Life()
    life.run()
    second, waits = 100.0, []
    for number in range(8):
        made = lose_learner(life, second)
        assert deleted(made) == ["job-learner"]
        assert life.known.attempt == number + 1, "known before it waits"
        life.pods.pop("learner-0")
        made = life.step(second)
        waited = 0.0
        if "job-learner" not in applied(made):
            assert made.look_at is not None
            waited = (made.look_at - at(second)).total_seconds()
            shown = made.look_at.strftime("the learner starts again at %Y-%m-%dT%H:%M:%SZ")
            assert shown in message(life)
            assert life.condition("Restarting") == ("True", "LearnerLost")
            assert "job-learner" not in applied(life.step(second + waited - 1))
            assert not life.look().events, "told once"
        else:
            assert "starts again" not in message(life)
        waits.append(waited)
        bring_back(life, second + waited)
        second += waited + 5
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]


def test_ten_quiet_minutes_clear_the_wait_and_the_wait_itself_is_not_quiet() -> None:
    life = Life()
    life.run()
    for second, start in ((100, 100), (110, 120), (130, 150)):
        lose_learner(life, second)
        bring_back(life, start)
    lose_learner(life, 749)
    assert life.known.roles[1].losses == 4
    bring_back(life, 749 + 40)
    lose_learner(life, 749 + 40 + 601)
    assert life.known.roles[1].losses == 1
    bring_back(life, 749 + 40 + 601)


def test_the_wait_counts_from_the_loss_and_not_from_the_end_of_the_pod() -> None:
    life = Life()
    life.run()
    lose_learner(life, 100)
    bring_back(life, 100)
    lose_learner(life, 105, deleted=at(135))  # it takes its grace period
    assert "job-learner" not in applied(life.step(120)), "it still checkpoints"
    bring_back(life, 125)


def test_a_learner_that_begins_anew_says_so_for_as_long_as_it_waits() -> None:
    life = Life({"checkpoint": {}})
    life.run()
    for second in (10, 20):
        lose_learner(life, second)
        life.step(second + 1)
        assert life.condition("Restarting") == ("True", "CheckpointGone")
        life.pods.clear()
        life.step(second + 2)
        assert life.condition("Restarting") == ("True", "CheckpointGone")
        if second == 10:
            life.add("learner")
            life.add("parameter-server")
            life.step()
    assert "starts again at 2026-01-01T00:00:30Z" in message(life)
    assert "parameter-server" in life.jobs, "it need not wait"
    assert "learner" not in life.jobs
    life.step(30)
    assert "learner" in life.jobs


def test_why_it_was_lost_stays_said_while_the_old_job_is_still_seen() -> None:
    life = Life({"checkpoint": {}})
    life.run()
    lose_learner(life, 10)
    for process in ("learner-0", "parameter-server-0"):
        life.pods.pop(process)
    life.step(11)
    life.add("learner")
    life.add("parameter-server")
    life.step(12)
    life.change("learner-0", ready=False, deleted=at(50), disruption=PREEMPTED)
    life.look(20)
    said = message(life)
    assert "starts again at 2026-01-01T00:00:30Z" in said
    made = life.look(21)
    assert set(deleted(made)) == {"job-learner", "job-parameter-server"}
    gone = [life.jobs["learner"], life.jobs["parameter-server"]]
    life.jobs |= {job.role: replace(job, deleting=True) for job in gone}
    life.change("parameter-server-0", ready=False, deleted=at(50))
    made = life.look(22)
    assert life.condition("Restarting") == ("True", "CheckpointGone")
    assert message(life) == said
    assert not made.events


def test_a_parameter_server_that_is_lost_meanwhile_does_not_hide_the_wait() -> None:
    life = Life()
    life.run()
    lose_learner(life, 10)
    bring_back(life, 10)
    lose_learner(life, 20)
    life.pods.pop("learner-0")
    life.step(21)
    life.change("parameter-server-0", ready=False, deleted=at(22))
    life.step(22)
    assert life.condition("Restarting") == ("True", "ParameterServerLost")
    assert "the learner starts again at 2026-01-01T00:00:30Z" in message(life)


def test_who_suspends_and_resumes_does_not_wait() -> None:
    life = Life()
    life.run()
    lose_learner(life, 10)
    bring_back(life, 10)
    lose_learner(life, 20)
    life.spec["runPolicy"] = {"suspend": True}
    life.pods.clear()
    life.step(21)
    life.step(22)
    assert life.phase == "Suspended"
    life.spec["runPolicy"] = {"suspend": False}
    made = life.step(23)
    assert "job-learner" in applied(made)
    assert life.known.roles[1].disruptions == 2, "what was lost stays counted"


def test_a_pod_beyond_its_own_limit_failed_by_itself() -> None:
    """The kubelet evicts it without a DisruptionTarget; trying again does not help for ever."""
    life = Life({"runPolicy": {"backoffLimit": 1, "disruptionLimit": 0}})
    life.run()
    evicted = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.",
    }
    lose_learner(life, 10, ended=Ending(137, "Error", "", at(10)), **evicted)
    learner = life.known.roles[1]
    assert life.phase == "Restarting"
    assert (learner.disruptions, learner.restarts, learner.failures) == (0, 1, 1)
    bring_back(life, 15)
    lose_learner(life, 20, ended=Ending(137, "Error", "", at(20)), **evicted)
    assert (life.phase, life.known.reason) == ("Failed", "BackoffLimitExceeded")
    assert "ephemeral local storage" in message(life)
    assert "failed 2 times" in message(life)


def test_so_did_a_parameter_server_beyond_its_own_limit() -> None:
    life = Life({"runPolicy": {"backoffLimit": 1, "disruptionLimit": 0}})
    life.run()
    for second in (10, 20):
        life.now = second
        job = life.jobs["parameter-server"]
        life.end("parameter-server-0", 137, reason="Evicted")
        life.step()
        life.jobs["parameter-server"] = replace(job, failed=job.failed + 1)
        life.step()
        server = life.known.roles[2]
        assert (server.disruptions, server.failures) == (0, second // 10)
        if second == 10:
            assert life.phase == "Restarting"
            life.add("parameter-server")
            life.step()
    assert (life.phase, life.known.reason) == ("Failed", "BackoffLimitExceeded")


@pytest.mark.parametrize("losses", [0, 1, 2, 3, 7, 40, 10**6])
def test_the_wait_never_shrinks_and_has_a_cap(losses: int) -> None:
    assert back_off(losses) <= back_off(losses + 1) <= CAP


@pytest.mark.parametrize("volume", [True, False])
def test_a_learner_that_was_replaced_while_the_operator_was_away_is_counted_and_told(
    volume: bool,
) -> None:
    life = Life(VOLUME if volume else {"checkpoint": {}})
    life.run()
    # The Job controller's: another pod of the same Job, and of the lost one only a number is left.
    life.add("learner")
    life.jobs["learner"] = replace(life.jobs["learner"], failed=1)
    made = life.step(30)
    reason = "LearnerLost" if volume else "CheckpointGone"
    assert life.condition("Restarting") == ("True", reason)
    assert life.known.attempt == 1, "whose ranks begin together"
    assert "job-learner" in deleted(made)
    assert ("job-parameter-server" in deleted(made)) is not volume
    (learner,) = (role for role in life.known.roles if role.name == "learner")
    assert learner.disruptions == 1
