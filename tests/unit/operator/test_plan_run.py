"""The course of a run as plan() decides it; the time is virtual."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from unit.operator.worlds import START, Life, applied, at, deleted, with_report

from asyncrl_api.exits import Note
from asyncrl_operator.plan.observed import Waiting
from asyncrl_operator.plan.plan import Plan


def said(outcome: str, reason: str, message: str = "", **report: Any) -> str:
    document = {"outcome": outcome, "reason": reason, "message": message}
    return json.dumps(document | {"report": {"time": "2026-01-01T00:10:00Z", **report}})


def test_everything_is_there_before_the_pods_and_pods_come_in_no_order() -> None:
    life = Life()
    made = life.step()
    kinds = [document["kind"] for document in made.apply]
    assert kinds[-3:] == ["Job"] * 3
    assert {"ConfigMap", "Service", "NetworkPolicy", "PodDisruptionBudget"} <= set(kinds[:-3])
    assert made.certificates
    assert life.phase == "Pending"
    assert life.condition("Running") == ("False", "Starting")


def test_a_second_look_at_the_same_world_says_the_same() -> None:
    life = Life()
    life.run()
    first = life.look()
    status = life.status
    second = life.look()
    assert life.status == status
    assert not second.events
    assert second.apply == first.apply


@pytest.mark.parametrize("code", [1, 2, 74])
def test_fatal_exit_codes_fail_the_run_with_their_line(code: int) -> None:
    life = Life()
    life.run()
    life.end("actor-1", code, '{"reason": "EnvironmentFailed", "message": "reset raised"}')
    life.step(30)
    assert (life.phase, life.known.reason) == ("Failed", "EnvironmentFailed")
    message = life.known.message or ""
    for word in ("actor-1", "reset raised", f"exit code {code}", "node node-1"):
        assert word in message
    assert life.known.completion_time == at(30)


@pytest.mark.parametrize("code", [69, 70, 137, 139, 130, 143])
def test_other_exit_codes_are_the_kubelets_business(code: int) -> None:
    life = Life()
    life.run()
    life.restart("actor-0", code)
    made = life.step(5)
    assert life.phase == "Running"
    assert not made.delete
    actors = life.known.roles[0]
    assert actors.restarts == 1
    assert actors.failures == (0 if code in (130, 143) else 1)


def test_counters_add_up_over_objects_that_come_and_go() -> None:
    life = Life()
    life.run()
    life.restart("actor-0", 70)
    life.step(1)
    life.step(2)
    assert life.known.roles[0].restarts == 1, "counted once"
    life.add("actor", 0)  # another pod in its place has no restarts
    life.step(3)
    life.restart("actor-0", 70)
    life.step(4)
    assert life.known.roles[0].restarts == 2
    life.jobs["actor"] = replace(life.jobs["actor"], failed=3)
    life.step(5)
    assert life.known.roles[0].disruptions == 3
    life.jobs["actor"] = replace(life.jobs["actor"], failed=0, uid="another")
    life.step(6)
    assert life.known.roles[0].disruptions == 3
    assert life.known.restarts == 5


def test_more_failures_in_a_row_than_the_limit_fail_the_run() -> None:
    life = Life({"runPolicy": {"backoffLimit": 2}})
    life.run()
    for second in (10, 20):
        life.now = second
        life.restart("learner-0", 70)
        life.step()
    assert life.phase != "Failed"
    life.now = 700
    life.restart("learner-0", 70)
    life.step()
    assert (life.phase, life.known.roles[1].failures) == ("Running", 1), "ten quiet minutes"
    for second in (710, 720):
        life.now = second
        life.restart("learner-0", 70, '{"reason": "InternalError", "message": "bug"}')
        life.step()
    assert (life.phase, life.known.reason) == ("Failed", "BackoffLimitExceeded")
    assert "learner-0: bug" in (life.known.message or "")


def test_many_actors_that_fail_once_are_not_one_that_fails_often() -> None:
    life = Life({"runPolicy": {"backoffLimit": 2}, "actors": {"replicas": 8}})
    life.run()
    for index in range(8):
        life.now += 1
        life.restart(f"actor-{index}", 137)
        life.step()
    assert life.phase == "Running"
    for _ in range(2):
        life.now += 1
        life.restart("actor-3", 137)
        life.step()
    assert (life.phase, life.known.reason) == ("Failed", "BackoffLimitExceeded")
    assert "actor-3" in (life.known.message or "")


def test_a_lost_learner_is_a_new_attempt_once_it_is_gone() -> None:
    life = Life()
    life.run()
    life.change("learner-0", deleted=at(40))
    made = life.step(10)
    assert life.known.attempt == 1, "known before its pods exist"
    assert life.condition("Restarting") == ("True", "LearnerLost")
    assert deleted(made) == ["job-learner"]
    made = life.step(11)
    assert "job-learner" not in applied(made), "the old one still checkpoints"
    del life.pods["learner-0"]
    made = life.step(20)
    (job,) = [d for d in made.apply if (d["kind"], d["metadata"]["name"]) == ("Job", "job-learner")]
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[command.index("--attempt") + 1] == "1"
    assert life.jobs["parameter-server"].attempt == 0, "it keeps the weights"
    life.add("learner")
    life.step(25)
    assert life.condition("Restarting") == ("False", "Resumed")
    assert (life.phase, life.known.roles[1].disruptions) == ("Running", 1)


def test_a_learner_on_a_node_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    life = Life()
    life.run()
    life.change("learner-0", deleted=at(40))
    life.step(10)
    made = life.step(69)
    assert "job-learner" not in applied(made)
    assert made.look_at == at(70)
    made = life.step(70)
    assert "job-learner" in applied(made)


def test_without_a_volume_a_lost_learner_begins_anew_with_its_server() -> None:
    life = Life({"checkpoint": {}})
    life.run()
    life.change("learner-0", deleted=at(11))
    made = life.step(10)
    assert life.condition("Restarting") == ("True", "CheckpointGone")
    assert set(deleted(made)) == {"job-learner", "job-parameter-server"}
    life.pods.clear()
    made = life.step(12)
    assert {"job-learner", "job-parameter-server"} <= set(applied(made))
    assert life.jobs["parameter-server"].attempt == 1


def test_lost_actors_are_replaced_once_and_then_left_to_the_back_off() -> None:
    life = Life()
    life.run()
    lost = life.pods.pop("actor-1")
    made = life.step(10)
    (pod,) = made.create_pods
    assert made.replaced == (("actor", 1),)
    assert "ActorLost" in [event.reason for event in made.events]
    labels = pod["metadata"]["labels"]
    assert labels["batch.kubernetes.io/job-completion-index"] == "1"
    assert pod["metadata"]["ownerReferences"][0]["uid"] == lost.job_uid
    assert pod["spec"]["hostname"] == "job-actor-1"
    life.observed = replace(life.observed, replaced={("actor", 1): at(10)})
    made = life.step(12)
    assert not made.create_pods
    assert made.look_at == at(20)
    assert life.step(20).create_pods


def test_an_actor_that_was_scaled_away_and_comes_again_is_not_made_twice() -> None:
    life = Life()
    life.run()
    for replicas in (1, 2):
        life.spec = {**life.spec, "actors": {"replicas": replicas}}
        life.generation += 1
        life.step(10)
        life.change("actor-1", deleted=at(20))
        life.step(11)
    made = life.step(12)
    assert life.jobs["actor"].completions == 2
    assert not made.create_pods, "the Job controller makes it, at once"
    assert not made.events


def test_actors_that_never_were_ready_are_not_replaced_out_of_turn() -> None:
    life = Life()
    life.step()
    life.add("parameter-server")
    life.add("learner")
    life.add("actor", 0)
    made = life.step(5)
    assert not made.create_pods


def test_an_eviction_is_told_with_its_reason() -> None:
    life = Life()
    life.run()
    life.change(
        "learner-0",
        deleted=at(40),
        disruption=Note("EvictionByEvictionAPI", "Eviction API: evicting"),
    )
    life.step(10)
    message = life.known.message or ""
    assert "Eviction API: evicting" in message
    assert "node node-1" in message
    assert "job-learner-0" in message


def test_a_node_that_is_ill_is_named() -> None:
    life = Life()
    life.run()
    life.change(
        "learner-0",
        deleted=at(40),
        disruption=Note("DeletionByTaintManager", "Taint manager: deleting"),
        node_problem="NotReady: Kubelet stopped posting node status.",
    )
    life.step(10)
    message = life.known.message or ""
    assert "node node-1 NotReady: Kubelet stopped posting node status." in message


def test_suspend_and_resume() -> None:
    life = Life()
    life.run()
    life.spec["runPolicy"] = {"suspend": True}
    life.generation = 2
    made = life.step(10)
    assert (life.phase, life.known.attempt) == ("Suspending", 1)
    assert deleted(made) == ["job-learner"]
    assert deleted(life.step(11)) == []
    del life.pods["learner-0"]
    assert set(deleted(life.step(12))) == {"job-actor", "job-parameter-server"}
    assert life.phase == "Suspending"
    life.pods.clear()
    made = life.step(13)
    assert (life.phase, life.condition("Suspended")) == ("Suspended", ("True", "SuspendedByUser"))
    assert not made.apply
    life.spec["runPolicy"] = {"suspend": False}
    made = life.step(100)
    assert len(applied(made)) == 3
    assert life.jobs["learner"].attempt == 1
    assert life.condition("Suspended") == ("False", "Resumed")


def test_suspended_by_stability_waits_for_a_person() -> None:
    life = Life({"stability": {"onDegraded": "suspend"}})
    life.run()
    words = said("Suspended", "SuspendedByStability", "Degraded: kl 0.2 above 0.1")
    life.end("learner-0", 0, words)
    life.step(10)
    assert life.phase == "Suspending"
    assert life.condition("Suspended") == ("False", "SuspendedByStability")
    life.pods.clear()
    life.jobs.clear()
    for second in (11, 12, 500):
        made = life.step(second)
        assert not made.apply
    assert life.phase == "Suspended"
    assert life.condition("Suspended") == ("True", "SuspendedByStability")
    assert "kl 0.2" in (life.known.message or "")
    life.spec["runPolicy"] = {"suspend": True}
    life.step(600)
    assert life.condition("Suspended") == ("True", "SuspendedByUser")
    life.spec["runPolicy"] = {"suspend": False}
    made = life.step(601)
    assert len(applied(made)) == 3
    assert life.jobs["learner"].attempt == 1


def test_the_learners_last_word_completes_the_run() -> None:
    life = Life()
    life.run()
    words = said("Complete", "TargetReturnReached", "480", training={"policyVersion": 99})
    life.end("learner-0", 0, words)
    ended = life.pods["learner-0"].ended
    assert ended is not None
    life.observed = replace(life.observed, last_word=ended.report())
    life.step(10)
    assert (life.phase, life.known.reason) == ("Complete", "TargetReturnReached")
    assert life.known.training is not None
    assert life.known.training.policy_version == 99
    assert life.condition("Complete") == ("True", "TargetReturnReached")


def test_the_last_word_is_newer_than_a_report_of_the_same_second() -> None:
    life = Life()
    life.run()
    with_report(life, 600)
    life.step(600)
    life.end("learner-0", 0, said("Complete", "TargetReturnReached", training={"policyVersion": 2}))
    ended = life.pods["learner-0"].ended
    assert ended is not None
    word = ended.report()
    assert word is not None
    assert life.observed.report is not None
    assert word.time == life.observed.report.report.time
    life.observed = replace(life.observed, last_word=word)
    life.step(601)
    assert life.known.training is not None
    assert life.known.training.policy_version == 2


def test_a_server_that_left_before_the_learner_is_not_lost() -> None:
    life = Life()
    life.run()
    life.end("parameter-server-0", 0)
    life.change("learner-0", ready=False)
    for index in range(2):
        life.end(f"actor-{index}", 0)
    life.step(10)
    assert life.phase == "Running"
    life.end("learner-0", 0, said("Complete", "TargetReturnReached"))
    life.step(40)
    assert life.phase == "Complete"
    assert life.condition("Restarting") == ("", "")


def test_clean_up_leaves_time_to_leave_and_then_the_logs() -> None:
    life = Life({"runPolicy": {"ttlSecondsAfterFinished": 60}})
    life.run()
    life.end("learner-0", 0, said("Complete", "TargetReturnReached"))
    life.jobs["learner"] = replace(life.jobs["learner"], complete=True)
    life.step(10)
    made = life.step(11)
    assert not made.apply
    assert made.look_at == at(20)
    made = life.step(20)
    assert set(applied(made)) == {"job-actor", "job-parameter-server"}
    assert all(document["spec"]["suspend"] for document in made.apply)
    made = life.step(69)
    assert (made.delete_job, made.look_at) == (False, at(70))
    assert life.step(70).delete_job


@pytest.mark.parametrize(("policy", "gone"), [("All", 3), ("None", 0)])
def test_other_policies_of_clean_up(policy: str, gone: int) -> None:
    life = Life({"runPolicy": {"cleanPodPolicy": policy}})
    life.run()
    life.end("learner-0", 0, said("Complete", "TargetReturnReached"))
    life.step(10)
    made = life.step(30)
    assert (len(made.delete), made.apply) == (gone, ())


def test_the_active_deadline_counts_from_the_start_and_anew_from_a_resume() -> None:
    life = Life({"runPolicy": {"activeDeadlineSeconds": 100}})
    life.run()
    assert life.look(50).look_at == at(100)
    life.spec["runPolicy"] = {"activeDeadlineSeconds": 100, "suspend": True}
    life.step(60)
    life.pods.clear()
    life.jobs.clear()
    life.step(61)
    life.step(500)
    assert life.phase == "Suspended"
    life.spec["runPolicy"] = {"activeDeadlineSeconds": 100}
    assert life.step(600).look_at == at(700)
    life.step(699)
    assert life.phase == "Pending"
    life.step(700)
    assert (life.phase, life.known.reason) == ("Failed", "DeadlineExceeded")


def test_the_pre_running_deadline_ends_with_the_first_run() -> None:
    life = Life({"runPolicy": {"preRunningDeadlineSeconds": 30}})
    life.step()
    life.step(29)
    assert life.phase == "Pending"
    life.step(30)
    assert (life.phase, life.known.reason) == ("Failed", "DeadlineExceeded")
    other = Life({"runPolicy": {"preRunningDeadlineSeconds": 30}})
    other.run()
    other.step(29)
    other.change("learner-0", ready=False)
    other.step(31)
    assert other.phase != "Failed", "it had run"


def test_actors_that_left_with_a_learner_that_came_back_are_made_anew() -> None:
    life = Life()
    life.run()
    for index in range(2):
        life.end(f"actor-{index}", 0)
    life.jobs["actor"] = replace(
        life.jobs["actor"], complete=True, completed_indexes=frozenset({0, 1})
    )
    life.restart("learner-0", 137)
    made = life.step(30)
    assert not made.delete, "the learner may be about to end, too"
    made = life.step(61)
    assert deleted(made) == ["job-actor"]


def test_a_learner_whose_pod_is_gone_has_still_completed() -> None:
    life = Life()
    life.run()
    life.jobs["learner"] = replace(
        life.jobs["learner"], complete=True, completed_indexes=frozenset({0})
    )
    del life.pods["learner-0"]
    life.step(10)
    assert (life.phase, life.known.reason) == ("Complete", "Finished")


def test_old_reports_turn_the_conditions_unknown_and_the_numbers_stay() -> None:
    life = Life()
    life.run()
    with_report(life, received=10, update=5)
    made = life.step(10)
    assert life.condition("Stable") == ("True", "Healthy")
    assert made.look_at == at(40), "it looks again when the report is old"
    life.step(40)
    assert life.condition("Stable") == ("True", "Healthy")
    life.step(41)
    assert life.condition("Stable") == ("Unknown", "StaleReports")
    assert life.condition("AlignmentHealthy") == ("Unknown", "StaleReports")
    assert life.known.training is not None
    assert life.known.training.policy_version == 5
    with_report(life, received=50, update=6)
    life.step(50)
    assert life.condition("Stable") == ("True", "Healthy")


def test_a_new_operator_trusts_what_its_predecessor_read_until_it_is_old() -> None:
    life = Life()
    life.run()
    with_report(life, received=10, update=5)
    life.step(10)
    life.observed = replace(life.observed, report=None)
    made = life.step(12)
    assert life.condition("Stable") == ("True", "Healthy")
    assert not made.events
    assert made.look_at is not None
    life.step((made.look_at - START).total_seconds() + 1)
    assert life.condition("Stable") == ("Unknown", "StaleReports")


def test_why_pods_do_not_start() -> None:
    life = Life()
    life.step()
    life.add(
        "learner", ready=False, phase="Pending", unschedulable="0/3 nodes: 3 no nvidia.com/gpu"
    )
    life.step(1)
    assert (life.phase, life.known.reason) == ("Pending", "Unschedulable")
    assert life.known.message == "learner-0: 0/3 nodes: 3 no nvidia.com/gpu"
    waiting = Waiting("ImagePullBackOff", "Back-off pulling image nope:1")
    life.add("learner", ready=False, phase="Pending", waiting=waiting)
    life.step(2)
    assert life.known.reason == "ImageUnavailable"
    assert "nope:1" in (life.known.message or "")
    life.observed = replace(life.observed, refusals={"actor": "exceeded quota: cpu"})
    life.step(3)
    assert (life.known.reason, life.known.message) == (
        "PodsRefused",
        "actors: exceeded quota: cpu",
    )


def test_why_a_lost_role_does_not_come_back() -> None:
    life = Life()
    life.run()
    life.change("learner-0", deleted=at(40))
    life.step(10)
    del life.pods["learner-0"]
    life.step(20)
    assert (life.phase, life.known.reason) == ("Restarting", "LearnerLost")
    life.add("learner", ready=False, phase="Pending", unschedulable="0/1 nodes are available")
    life.step(21)
    assert (life.phase, life.known.reason) == ("Restarting", "Unschedulable")
    assert life.known.message == "learner-0: 0/1 nodes are available"
    assert life.condition("Restarting") == ("True", "LearnerLost")


def test_an_ordinary_start_warns_of_nothing_and_a_problem_does() -> None:
    life = Life()
    assert {event.kind for event in life.step().events} == {"Normal"}
    life.add("learner", ready=False, phase="Pending", unschedulable="no node")
    told = {event.reason: event.kind for event in life.step(1).events}
    assert told == {"Unschedulable": "Warning"}


def test_a_new_default_image_is_for_jobs_that_have_no_pods() -> None:
    life = Life({"actors": {"image": "mine:1"}})
    life.run()
    life.settings = replace(life.settings, worker_image="worker:2")
    life.change("learner-0", deleted=at(40))
    life.step(10)
    del life.pods["learner-0"]
    assert images(life.step(20))["job-learner"] == "worker:1", "as its parameter server"
    life.spec["runPolicy"] = {"suspend": True}
    for _ in range(3):
        life.step(30)
        life.pods.clear()
    life.spec["runPolicy"] = {"suspend": False}
    assert images(life.step(50)) == {
        "job-learner": "worker:2",
        "job-parameter-server": "worker:2",
        "job-actor": "mine:1",
    }


def test_an_image_that_is_taken_back_is_no_default() -> None:
    life = Life({"actors": {"image": "wrong:1"}})
    life.step()
    life.spec["actors"] = {}
    life.jobs = {"actor": life.jobs["actor"]}
    assert images(life.look(10))["job-learner"] == "worker:1"


def images(made: Plan) -> dict[str, str]:
    jobs = [document for document in made.apply if document["kind"] == "Job"]
    pods = {job["metadata"]["name"]: job["spec"]["template"]["spec"] for job in jobs}
    return {name: pod["containers"][0]["image"] for name, pod in pods.items()}


def test_what_a_role_reads_changes_its_pods_and_what_it_does_not_read_changes_none() -> None:
    life = Life()
    life.run()
    life.spec["actors"] = {"replicas": 5}
    life.spec["runPolicy"] = {"backoffLimit": 3, "ttlSecondsAfterFinished": 5}
    made = life.step(1)
    assert not made.delete
    assert life.jobs["actor"].completions == 5
    life.spec["learner"] = {"image": "learner:2"}
    made = life.step(2)
    assert deleted(made) == ["job-learner"]
    assert (life.known.attempt, life.known.roles[1].disruptions) == (1, 0)
    life.spec["stopping"] = {"policyVersions": 10}
    life.pods.pop("learner-0")
    life.step(3)
    assert life.jobs["learner"].attempt == 1
    life.spec["staleness"] = {"max": 2}
    made = life.step(4)
    assert set(deleted(made)) == {"job-learner", "job-parameter-server", "job-actor"}
