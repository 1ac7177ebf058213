"""What counts as a failure, and what as a disruption: role, exit code, DisruptionTarget, node."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.operator.worlds import Life, applied, at, deleted

from asyncrl_api.exits import Note
from asyncrl_operator.plan.names import Role
from asyncrl_operator.plan.observed import Ending, Waiting

TARGET = Note("TerminationByKubelet", "The node was low on resource: memory.")
NODES = (
    "NotReady: Kubelet stopped posting node status.",
    "MemoryPressure: kubelet has insufficient memory available",
    "GpuXid: Xid 79",
    "is gone",
)
GPU = NODES[2]
ROLES: tuple[Role, ...] = ("actor", "learner", "parameter-server")
PLACES = {"actor": 0, "learner": 1, "parameter-server": 2}

PODS = [
    # Exit code, DisruptionTarget, the node is ill; what counts it.
    (70, False, False, "failures"),
    (70, False, True, "disruptions"),
    (70, True, False, "disruptions"),
    (70, True, True, "disruptions"),
    (137, False, False, "failures"),
    (137, False, True, "disruptions"),
    (137, True, False, "disruptions"),
    (137, True, True, "disruptions"),
    (143, False, False, "disruptions"),
    (143, False, True, "disruptions"),
    (143, True, False, "disruptions"),
    (143, True, True, "disruptions"),
    (2, False, False, "the run fails"),
    (2, False, True, "the run fails"),
    (2, True, False, "disruptions"),
    (2, True, True, "disruptions"),
]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("problem", NODES)
@pytest.mark.parametrize(("code", "target", "ill", "counted"), PODS)
def test_a_pod_that_failed(
    role: Role, code: int, target: bool, ill: bool, problem: str, counted: str
) -> None:
    life = Life()
    life.run()
    life.now = 10
    life.end(f"{role}-0", code)
    life.change(
        f"{role}-0",
        disruption=TARGET if target else None,
        node_problem=problem if ill else "",
    )
    if role != "learner":
        life.jobs[role] = replace(life.jobs[role], failed=1)
    life.step()
    status = life.known.roles[PLACES[role]]
    found = {"failures": status.failures, "disruptions": status.disruptions}
    if counted == "the run fails":
        assert life.phase == "Failed"
        return
    assert life.phase != "Failed"
    assert {name for name, count in found.items() if count} == {counted}
    assert status.restarts == status.failures


CONTAINERS = [
    # Exit code, why, the node is ill; failures, restarts, disruptions.
    (70, "Error", False, (1, 1, 0)),
    (70, "Error", True, (0, 0, 1)),
    (139, "Error", False, (1, 1, 0)),
    (139, "Error", True, (0, 0, 1)),
    (137, "OOMKilled", False, (1, 1, 0)),
    (137, "OOMKilled", True, (1, 1, 0)),
    (143, "Error", False, (0, 1, 0)),
    (143, "Error", True, (0, 1, 0)),
]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("code", "why", "ill", "counted"), CONTAINERS)
def test_a_container_that_is_restarted_in_place(
    role: Role, code: int, why: str, ill: bool, counted: tuple[int, int, int]
) -> None:
    life = Life()
    life.run()
    life.now = 10
    life.restart(f"{role}-0", code, reason=why)
    life.change(f"{role}-0", ready=False, node_problem=GPU if ill else "")
    life.step()
    for _ in range(2):
        status = life.known.roles[PLACES[role]]
        assert (status.failures, status.restarts, status.disruptions) == counted
        life.change(f"{role}-0", node_problem="" if ill else GPU)
        life.step()  # counted once, whatever becomes of the node


def test_a_pod_beyond_a_limit_of_its_own_failed_by_itself_on_whatever_node() -> None:
    life = Life()
    life.run()
    life.end("learner-0", 137)
    life.change("learner-0", reason="Evicted", node_problem=NODES[1])
    life.step(10)
    learner = life.known.roles[1]
    assert (learner.failures, learner.disruptions) == (1, 0)


def test_of_several_actors_the_newest_failure_says_whether_the_node_is_why() -> None:
    life = Life()
    life.run()
    life.now = 10
    life.restart("actor-0", 70)
    life.step()
    life.now = 20
    life.restart("actor-1", 70)
    life.change("actor-1", node_problem=GPU)
    life.step()
    actors = life.known.roles[0]
    assert (actors.failures, actors.disruptions) == (1, 1)


def crash(life: Life, process: str, second: float, problem: str = GPU, code: int = 70) -> None:
    """A container fails on its node, and the kubelet has restarted it for the failures before."""
    life.now = second
    life.restart(process, code)
    ending = Ending(code, "Error", "CUDA error: ECC", at(second))
    restarts = life.pods[process].restarts - 1
    life.change(process, ready=False, restarts=restarts, ended=ending, node_problem=problem)


def test_a_learner_that_keeps_crashing_on_an_ill_node_goes_elsewhere() -> None:
    life = Life({"runPolicy": {"backoffLimit": 0}})
    life.run()
    for second in (10, 20):
        crash(life, "learner-0", second)
        assert not life.step().delete
        pod = life.pods["learner-0"]
        assert not life.step().delete, "the kubelet tries it again first"
        life.change("learner-0", restarts=pod.restarts + 1, ended=None)
        life.step()
    assert life.known.roles[1].disruptions == 2
    crash(life, "learner-0", 40)
    made = life.step()
    assert deleted(made) == ["job-learner"]
    assert life.condition("Restarting") == ("True", "LearnerLost")
    for word in ("learner-0", "ECC", "exit code 70", "node node-1 GpuXid: Xid 79"):
        assert word in (life.known.message or "")
    learner = life.known.roles[1]
    assert (life.known.attempt, learner.disruptions, learner.failures) == (1, 3, 0)
    del life.pods["learner-0"]
    assert "job-learner" in applied(life.step(41))


def test_it_goes_from_the_back_off_of_the_kubelet_too() -> None:
    life = Life()
    life.run()
    looping = {"ready": False, "node_problem": GPU, "restarts": 2}
    ending = Ending(70, "Error", "", at(5))
    waits = Waiting("CrashLoopBackOff", "back-off 20s")
    beside = Waiting("CrashLoopBackOff", "back-off 20s", "logger")
    life.change("learner-0", ended_before=ending, waiting=beside, **looping)
    assert not life.step(10).delete, "it runs; a sidecar does not"
    life.change("learner-0", waiting=waits, node_problem="")
    assert not life.step(20).delete, "its node is well"
    life.change("learner-0", waiting=None, node_problem=GPU)
    assert not life.step(30).delete, "it runs"
    life.change("learner-0", waiting=waits)
    assert deleted(life.step(40)) == ["job-learner"]


def test_without_a_volume_it_stays_as_long_as_a_run_would_go_on() -> None:
    life = Life({"checkpoint": {}, "runPolicy": {"backoffLimit": 4}})
    life.run()
    for restarts, gone in ((3, False), (4, True)):
        life.change("learner-0", restarts=restarts)
        crash(life, "learner-0", 10 * restarts)
        life.change("learner-0", restarts=restarts)
        assert ("job-learner" in deleted(life.step())) is gone
    assert life.condition("Restarting") == ("True", "CheckpointGone")


def test_so_does_the_parameter_server_and_actors_stay_where_they_are() -> None:
    life = Life()
    life.run()
    for process in ("parameter-server-0", "actor-0"):
        life.change(process, restarts=2)
        crash(life, process, 10)
        life.change(process, restarts=2)
    assert deleted(life.step()) == ["job-parameter-server"]
    life.pods.pop("parameter-server-0")
    assert "job-parameter-server" in applied(life.step(11))


@pytest.mark.parametrize("role", ["learner", "parameter-server"])
def test_the_limit_of_disruptions_counts_what_an_ill_node_did_in_place(role: Role) -> None:
    life = Life({"runPolicy": {"disruptionLimit": 0}})
    life.run()
    life.restart(f"{role}-0", 70, "CUDA error: ECC")
    life.change(f"{role}-0", ready=False, node_problem=GPU)
    life.step(10)
    assert (life.phase, life.known.reason) == ("Failed", "DisruptionLimitExceeded")
    for word in (f"{role}-0", "ECC", "exit code 70", GPU, "lost once"):
        assert word in (life.known.message or "")
