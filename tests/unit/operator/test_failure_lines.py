"""The line about a pod that ended: however long its cause, the rest of it is there."""

from __future__ import annotations

import json

from unit.operator.worlds import Life, at

from asyncrl_api.exits import Note
from asyncrl_api.status import LONG_MESSAGE_LENGTH
from asyncrl_operator.plan.failures import explain_pod
from asyncrl_operator.plan.observed import Ending

POD, NODE = "p" * 63, "n" * 63
PROBLEM = "DiskPressure: kubelet has disk pressure; GpuXid: " + "x" * 300
ERROR = "ValueError: " + "a shape that is wrong, " * 20
WORDS = json.dumps({"reason": "InternalError", "message": f"learner-0: {ERROR}"})
EVICTED = Note("EvictionByEvictionAPI", "Eviction API: evicting, " * 20)
WHERE = (f"pod {POD}", f"node {NODE}")


def told(life: Life, kind: str, *words: str) -> None:
    """Both the status and the condition say it, and both were cut."""
    condition = next(c for c in life.known.conditions if c.type == kind)
    for line in (life.known.message or "", condition.message):
        assert len(line) <= LONG_MESSAGE_LENGTH
        assert "..." in line
        for word in (*WHERE, *words):
            assert word in line


def begun(backoff_limit: int = 6) -> Life:
    life = Life({"runPolicy": {"backoffLimit": backoff_limit, "disruptionLimit": 1}})
    life.run()
    life.change("learner-0", name=POD, node=NODE)
    return life


def test_a_run_that_failed() -> None:
    life = begun()
    life.change("learner-0", node_problem=PROBLEM)
    life.end("learner-0", 74, WORDS)
    life.step(10)
    told(life, "Failed", "learner-0: ValueError: a sh", "exit code 74", "DiskPressure: kubelet")
    failure = life.known.last_failure
    assert failure is not None
    assert (failure.pod, failure.exit_code) == (POD, 74)
    assert failure.message.startswith(ERROR[:100])
    assert failure.node == f"{NODE} DiskPressure: kubelet has disk pressure; GpuXid: xxxxxxxx..."


def test_beyond_the_limit_of_failures() -> None:
    life = begun(backoff_limit=0)
    life.restart("learner-0", 70, WORDS)
    life.step(10)
    told(life, "Failed", "learner-0: ValueError: a sh", "exit code 70", "runPolicy.backoffLimit")
    failure = life.known.last_failure
    assert failure is not None
    assert failure.node == NODE


def test_losses_and_the_wait_after_them() -> None:
    life = begun()
    for second in (10, 20):
        gone = {"deleted": at(second), "ready": False, "disruption": EVICTED}
        life.spec["runPolicy"] = {}
        life.now = second
        life.change("learner-0", node_problem=PROBLEM, **gone)
        life.step()
        told(life, "Restarting", "Eviction API: evict", "DiskPressure: kubelet has disk pressure")
        if second == 10:
            life.pods.pop("learner-0")
            life.step()
            life.add("learner", name=POD, node=NODE)
    told(life, "Restarting", "; the learner starts again at 2026-01-01T00:00:30Z")


def test_beyond_the_limit_of_disruptions() -> None:
    life = begun()
    life.spec["runPolicy"] = {"disruptionLimit": 0}
    life.change("learner-0", node_problem=PROBLEM, deleted=at(9), ready=False, disruption=EVICTED)
    life.step(10)
    told(life, "Failed", "Eviction API: evict", "once; spec.runPolicy.disruptionLimit")


def test_what_is_short_is_said_in_full() -> None:
    life = Life()
    life.run()
    pod = life.pods["actor-1"]
    message = '{"reason": "EnvironmentFailed", "message": "actor-1: reset raised"}'
    life.end("actor-1", 2, message)
    life.change("actor-1", node_problem="NotReady: silent")
    life.step(10)
    line = f"actor-1: reset raised (pod {pod.name}, exit code 2, node node-1 NotReady: silent)"
    assert life.known.message == line


def test_whatever_the_names_the_cause_begins_and_the_line_fits() -> None:
    life = begun()
    ending = Ending(1, "Error", ERROR, at(5), container="c" * 63)
    life.change("learner-0", ended=ending, node_problem=PROBLEM)
    line = explain_pod(life.pods["learner-0"])
    assert line.startswith("learner-0: ended with exit code 1")
    assert f"container {'c' * 63}, exit code 1, node {NODE} DiskPressure" in line
    assert len(line) <= LONG_MESSAGE_LENGTH
