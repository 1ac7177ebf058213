"""Pods of several containers: init containers fail them, sidecars neither start nor end them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from unit.operator.worlds import Life, applied, at, deleted

from asyncrl_operator.children import _is_ended_learner
from asyncrl_operator.plan.names import Role

FETCH = {"initContainers": [{"name": "fetch"}]}
PROXY = {"initContainers": [{"name": "proxy", "restartPolicy": "Always"}]}
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
INITIALIZING = {"waiting": {"reason": "PodInitializing"}}


def ended(code: int, second: float = 0.0, message: str = "", reason: str = "") -> dict[str, Any]:
    reason = reason or ("Completed" if code == 0 else "Error")
    finished = at(second).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = {"exitCode": code, "reason": reason, "message": message, "finishedAt": finished}
    return {"terminated": told}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def container(name: str, state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "state": state, **more}


def starting(role: Role, *inits: dict[str, Any], phase: str = "Pending") -> dict[str, Any]:
    """The status of a pod that is not through with its init containers."""
    return {
        "phase": phase,
        "conditions": [
            {"type": "Initialized", "status": "False", "reason": "ContainersNotInitialized"},
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
        ],
        "initContainerStatuses": list(inits),
        "containerStatuses": [container(role, INITIALIZING)],
    }


def started(
    *containers: dict[str, Any], ready: bool = True, inits: tuple[dict[str, Any], ...] = ()
) -> dict[str, Any]:
    """The status of a pod whose containers have started."""
    return {
        "phase": "Running",
        "conditions": [
            {"type": "Initialized", "status": "True"},
            {"type": "Ready", "status": "True" if ready else "False"},
        ],
        "initContainerStatuses": list(inits),
        "containerStatuses": list(containers),
    }


def begun(role: Role = "learner") -> Life:
    """A run whose other roles are ready, and this role's first pod is made."""
    life = Life({"actors": {"replicas": 1}})
    life.step()
    for other in ("parameter-server", "learner", "actor"):
        life.add(other)  # type: ignore[arg-type]
    life.change(f"{role}-0", ready=False, phase="Pending")
    return life


def message(life: Life) -> str:
    return life.known.message or ""


@pytest.mark.parametrize("state", [RUNNING, waits("PodInitializing"), waits("ContainerCreating")])
def test_an_init_container_that_runs_is_an_ordinary_start(state: dict[str, Any]) -> None:
    life = begun()
    life.kubelet_says("learner-0", starting("learner", container("fetch", state)), FETCH)
    made = life.step(5)
    assert (life.phase, life.condition("Running")) == ("Pending", ("False", "Starting"))
    assert not [event for event in made.events if event.kind == "Warning"]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (waits("ErrImagePull", "fetch:9: not found"), "ImageUnavailable"),
        (waits("ImagePullBackOff", "Back-off pulling image fetch:9"), "ImageUnavailable"),
        (waits("CreateContainerConfigError", 'secret "fetch:9" not found'), "PodBlocked"),
    ],
)
def test_what_blocks_an_init_container_is_told_with_its_name(
    state: dict[str, Any], reason: str
) -> None:
    for spec in (FETCH, PROXY):
        life = begun()
        name = spec["initContainers"][0]["name"]
        life.kubelet_says("learner-0", starting("learner", container(name, state)), spec)
        life.step(5)
        assert (life.phase, life.known.reason) == ("Pending", reason)
        assert message(life).startswith(f"learner-0: container {name}: ")
        assert "fetch:9" in message(life)


@pytest.mark.parametrize("role", ["learner", "parameter-server", "actor"])
def test_an_init_container_that_fails_in_place_fails_the_run_beyond_the_limit(role: Role) -> None:
    """With restartPolicy OnFailure the kubelet restarts it where it is."""
    life = begun(role)
    life.spec["runPolicy"] = {"backoffLimit": 2}
    process = f"{role}-0"
    for count in (1, 2, 3):
        assert life.phase != "Failed", count
        last = ended(1, 10 * count, "no such bucket\n")
        fetch = container("fetch", waits("CrashLoopBackOff"), restartCount=count, lastState=last)
        life.kubelet_says(process, starting(role, fetch), FETCH)
        life.step(10 * count)
        if count == 1:
            assert life.condition("Running") == ("False", "PodBlocked")
            failure = life.known.last_failure
            assert failure is not None
            assert (failure.process, failure.exit_code, failure.reason) == (process, 1, "Error")
            assert failure.message == "container fetch: ended with exit code 1: no such bucket"
            for word in (process, "container fetch", "exit code 1", "no such bucket"):
                assert word in message(life)
    assert (life.phase, life.known.reason) == ("Failed", "BackoffLimitExceeded")
    for word in (process, "container fetch", "exit code 1", "no such bucket", "failed 3 times"):
        assert word in message(life)


def test_while_it_is_tried_again_nothing_else_is_told() -> None:
    life = begun("actor")
    last = ended(1, 10, "no such bucket")
    for state in (waits("CrashLoopBackOff"), RUNNING, last, waits("CrashLoopBackOff")):
        fetch = container("fetch", state, restartCount=1, lastState=last)
        life.kubelet_says("actor-0", starting("actor", fetch), FETCH)
        made = life.step()
        assert life.condition("Running") == ("False", "PodBlocked")
        assert "no such bucket" in message(life)
    assert not made.events
    done = container("fetch", ended(0, 20), restartCount=1, lastState=last)
    status = started(container("actor", RUNNING), inits=(done,))
    life.kubelet_says("actor-0", status, FETCH)
    life.step(20)
    assert (life.phase, life.known.roles[0].failures) == ("Running", 1)


def test_a_learner_whose_init_container_fails_it_fails_the_run_beyond_the_limit() -> None:
    """With restartPolicy Never the pod goes with it."""
    life = begun()
    life.spec["runPolicy"] = {"backoffLimit": 2, "disruptionLimit": 0}
    second = 0.0
    for count in (1, 2, 3):
        second += 60
        life.now = second
        fetch = container("fetch", ended(2, second, '{"reason": "No", "message": "no bucket"}'))
        life.kubelet_says("learner-0", starting("learner", fetch, phase="Failed"), FETCH)
        life.step()
        learner = life.known.roles[1]
        assert (learner.failures, learner.disruptions) == (count, 0)
        if count < 3:
            assert life.condition("Restarting") == ("True", "LearnerLost")
            assert life.known.reason == "LearnerLost"
            assert ("starts again at" in message(life)) is (count == 2)
            for word in ("learner-0", "container fetch", "exit code 2", "no bucket"):
                assert word in message(life)
            del life.pods["learner-0"]
            life.step(second + 30)
            life.add("learner", ready=False, phase="Pending")
    assert (life.phase, life.known.reason) == ("Failed", "BackoffLimitExceeded")
    assert "container fetch" in message(life)
    failure = life.known.last_failure
    assert failure is not None
    assert (failure.exit_code, failure.reason) == (2, "Error")


def test_so_does_an_actor_and_a_new_pod_in_its_place_does_not_hide_why() -> None:
    life = begun("actor")
    life.spec["runPolicy"] = {"backoffLimit": 2}
    for count in (1, 2, 3):
        life.now = second = 10.0 * count
        fetch = container("fetch", ended(1, second, "no bucket"))
        life.kubelet_says("actor-0", starting("actor", fetch, phase="Failed"), FETCH)
        life.pods[f"failed-{count}"] = life.pods.pop("actor-0")
        life.jobs["actor"] = replace(life.jobs["actor"], failed=count)
        life.step()
        if count == 3:
            break
        life.add("actor", ready=False, phase="Pending")
        life.kubelet_says("actor-0", starting("actor", container("fetch", RUNNING)), FETCH)
        life.step(second + 5)
        assert life.condition("Running") == ("False", "PodBlocked")
        assert "container fetch" in message(life)
    actors = life.known.roles[0]
    assert (actors.failures, actors.disruptions) == (3, 0)
    assert (life.phase, life.known.reason) == ("Failed", "BackoffLimitExceeded")


def test_a_pod_that_starts_in_its_place_is_no_longer_blocked() -> None:
    life = begun("actor")
    fetch = container("fetch", ended(1, 10, "no bucket"))
    life.kubelet_says("actor-0", starting("actor", fetch, phase="Failed"), FETCH)
    life.pods["failed"] = life.pods.pop("actor-0")
    life.step(10)
    assert life.condition("Running") == ("False", "PodBlocked")
    life.add("actor", ready=False)
    life.kubelet_says("actor-0", started(container("actor", RUNNING), ready=False), FETCH)
    life.step(20)
    assert life.condition("Running") == ("False", "Starting")


def test_a_start_that_went_well_at_last_is_no_failure_and_no_problem() -> None:
    life = begun()
    fetch = container("fetch", ended(0, 5), restartCount=2, lastState=ended(1, 3, "no bucket"))
    life.kubelet_says("learner-0", started(container("learner", RUNNING), inits=(fetch,)), FETCH)
    life.step(10)
    assert life.condition("Running") == ("True", "AllRolesReady")
    assert life.known.roles[1].failures == 2, "they were failures, once"
    life.step(20)
    assert life.known.roles[1].failures == 2


def test_sidecars_neither_block_nor_fail() -> None:
    life = begun()
    beside = container("logger", RUNNING, restartCount=30, lastState=ended(1, 9))
    proxy = container("proxy", RUNNING, restartCount=40, lastState=ended(1, 9), started=True)
    status = started(beside, container("learner", RUNNING), inits=(proxy,))
    life.kubelet_says("learner-0", status, PROXY)
    life.step(10)
    assert life.condition("Running") == ("True", "AllRolesReady")
    learner = life.known.roles[1]
    assert (learner.restarts, learner.failures, life.known.last_failure) == (0, 0, None)
    status = started(
        container("learner", RUNNING),
        container("logger", waits("CrashLoopBackOff", "back-off 10s"), restartCount=31),
        ready=False,
    )
    life.kubelet_says("learner-0", status, PROXY)
    life.step(20)
    assert life.condition("Running") == ("False", "PodBlocked")
    assert "learner-0: container logger: CrashLoopBackOff: back-off 10s" in message(life)


@pytest.mark.parametrize("code", [0, 1])
def test_a_sidecar_that_ended_is_why_its_pod_is_not_ready(code: int) -> None:
    life = begun()
    over = container("logger", ended(code, 9))
    status = started(over, container("learner", RUNNING), ready=False)
    life.kubelet_says("learner-0", status)
    life.step(10)
    assert life.condition("Running") == ("False", "PodBlocked")
    assert f": ended with exit code {code}; its pod is not ready" in message(life)
    assert "learner-0: container logger: " in message(life)
    status = started(over, container("learner", ended(70, 11)), ready=False)
    life.kubelet_says("learner-0", status)
    life.step(12)
    assert life.condition("Running") == ("False", "LearnerLost"), "its own container comes first"


def test_the_role_that_crashes_is_restarting_and_not_blocked() -> None:
    life = begun()
    life.step()
    crashed = container(
        "learner", waits("CrashLoopBackOff"), restartCount=1, lastState=ended(70, 10)
    )
    life.kubelet_says("learner-0", started(crashed, ready=False))
    life.step(10)
    assert life.condition("Running") == ("False", "LearnerLost")


@pytest.mark.parametrize("policy", ["Running", "All", "None"])
def test_a_run_is_complete_when_its_learner_is_whatever_runs_beside_it(policy: str) -> None:
    life = begun()
    life.spec["runPolicy"] = {"cleanPodPolicy": policy}
    beside = container("logger", RUNNING)
    life.kubelet_says("learner-0", started(container("learner", RUNNING), beside))
    life.step(5)
    assert life.phase == "Running"
    words = '{"outcome": "Complete", "reason": "TargetReturnReached", "message": "480"}'
    over = started(container("learner", ended(0, 10, words)), beside, ready=False)
    life.kubelet_says("learner-0", over)
    life.step(10)
    assert (life.phase, life.known.reason) == ("Complete", "TargetReturnReached")
    assert not applied(life.step(19))
    made = life.step(20)
    if policy == "None":
        assert not made.delete
        assert not made.apply
        return
    if policy == "All":
        assert "job-learner" in deleted(made)
        return
    assert applied(made) == ["job-learner"], "suspended, which ends the sidecar"
    assert made.apply[0]["spec"]["suspend"]
    del life.pods["learner-0"]
    assert set(applied(life.step(21))) == {"job-actor", "job-parameter-server"}


def test_a_learner_with_a_sidecar_that_fails_goes_on_in_place() -> None:
    life = begun()
    beside = container("logger", RUNNING)
    life.step()
    crashed = container("learner", ended(70, 10))
    life.kubelet_says("learner-0", started(crashed, beside, ready=False))
    made = life.step(10)
    assert life.phase == "Restarting"
    assert not made.delete
    fatal = container("learner", ended(2, 20, "no such environment"))
    life.kubelet_says("learner-0", started(fatal, beside, ready=False))
    life.step(20)
    assert life.phase == "Failed"


def test_who_is_done_is_not_lost_with_a_sidecar() -> None:
    life = Life({"learner": {"replicas": 2}})
    life.run()
    for role, process in (("learner", "learner-1"), ("actor", "actor-1")):
        status = started(container(role, ended(0, 10)), container("logger", ended(1, 11)))
        life.kubelet_says(process, status | {"phase": "Failed"})
    made = life.step(12)
    assert life.known.attempt == 0
    assert not made.delete
    assert not made.create_pods


def test_actors_with_sidecars_that_left_too_early_are_made_anew() -> None:
    life = begun()
    life.step()
    status = started(container("actor", ended(0, 10)), container("logger", RUNNING), ready=False)
    life.kubelet_says("actor-0", status)
    made = life.step(30)
    assert (made.delete, made.look_at) == ((), at(90)), "the learner may be about to end, too"
    assert deleted(life.step(71)) == ["job-actor"]


def test_the_last_word_is_the_learners_and_not_its_sidecars() -> None:
    metadata = {
        "labels": {"asyncrl.io/role": "learner"},
        "annotations": {"batch.kubernetes.io/job-completion-index": "0"},
    }
    running, over = container("learner", RUNNING), container("learner", ended(0))
    beside = container("logger", ended(0))
    for own, known in ((running, False), (over, True)):
        status = {"containerStatuses": [own, beside]}
        assert _is_ended_learner({"metadata": metadata, "status": status}) is known
