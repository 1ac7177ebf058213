"""Counts and explains the ends of a role's processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from asyncrl_api.exits import FAILURE_MEMORY_SECONDS, Verdict, describe_exit
from asyncrl_api.reasons import Reason
from asyncrl_api.status import Counted, Failure, RoleStatus, one_line
from asyncrl_operator.plan.names import Role
from asyncrl_operator.plan.observed import Observed, Pod

RoleName = Literal["actors", "learner", "parameterServer"]
ROLE_NAMES: Mapping[Role, RoleName] = {
    "actor": "actors",
    "learner": "learner",
    "parameter-server": "parameterServer",
}
"""Names of the roles in the status, as in the spec."""
LINE_LENGTH = 280
"""Of the line about a pod: with what follows it, such as when the learner starts again, it fits."""
CAUSE_LENGTH = 36
"""Of a cause at least, whatever names the others have."""
PROBLEM_LENGTH = 60
"""Of what is wrong with a node: the first of its conditions, as a rule."""


def count(role: Role, before: RoleStatus | None, observed: Observed, desired: int) -> RoleStatus:
    """The counters of a role, with what has happened since they were last written.

    Containers count their restarts and Jobs their lost pods; both counters go with their objects.
    So the status holds sums and, as `counted`, what they contain of the objects that exist. A
    second look at an unchanged world adds nothing, and neither does a restart of the operator.
    """
    before = before or RoleStatus(name=ROLE_NAMES[role])
    pods, job = observed.pods_of(role), observed.jobs.get(role)
    restarts = sum(pod.restarts for pod in pods)
    # A learner is lost as a whole: what became of it is counted where that is decided.
    losses = 0 if job is None or role == "learner" else job.failed
    new_restarts = max(0, restarts - before.counted.restarts)
    new_losses = max(0, losses - before.counted.losses)
    failures, failed_at = before.failures, before.failed_at
    failed = [pod for pod in pods if pod.restarts and _failed(pod)]
    newest = max(failed, key=finished, default=None)
    restarted_on_ill_node = 0
    if new_restarts and newest is not None and newest.blames_node:
        new_restarts, restarted_on_ill_node = 0, new_restarts
    elif new_restarts and newest is not None:
        failures = in_a_row(failures, failed_at, finished(newest)) + new_restarts
        failed_at = finished(newest)
    lost = [pod for pod in pods if pod.lost]
    newest_lost = max(lost, key=lambda pod: pod.created, default=None)
    if new_losses and newest_lost is not None and newest_lost.failed_by_itself:
        lost_at = finished(newest_lost)
        failures = in_a_row(failures, failed_at, lost_at) + new_losses
        new_restarts, new_losses, failed_at = new_restarts + new_losses, 0, lost_at
    return RoleStatus(
        name=ROLE_NAMES[role],
        desired=desired,
        ready=sum(pod.ready and pod.live for pod in observed.current(role)),
        restarts=before.restarts + new_restarts,
        disruptions=before.disruptions + new_losses + restarted_on_ill_node,
        failures=failures,
        failed_at=failed_at,
        losses=before.losses,
        lost_at=before.lost_at,
        counted=Counted(restarts=restarts, losses=losses),
    )


def role_left(before: RoleStatus, observed: Observed) -> RoleStatus:
    """A role of a run that is over: none is wanted, some may not be gone yet."""
    role = next(role for role, name in ROLE_NAMES.items() if name == before.name)
    ready = sum(pod.ready and pod.live for pod in observed.pods_of(role))
    return before.model_copy(update={"desired": 0, "ready": ready})


def in_a_row(failures: int, last: datetime | None, now: datetime | None) -> int:
    """How many of the failures so far are in a row with one of now."""
    if last is None or now is None or (now - last).total_seconds() > FAILURE_MEMORY_SECONDS:
        return 0
    return failures


def _failed(pod: Pod) -> bool:
    ending = pod.newest_ending
    return ending is not None and ending.failed


def finished(pod: Pod) -> datetime:
    """When its process last ended."""
    ending = pod.newest_ending
    return (ending.finished_at if ending else None) or pod.created


def fatal_pod(pods: Sequence[Pod]) -> Pod | None:
    """A pod whose process ended with what trying again does not help; the first one.

    One that was disrupted meanwhile may have failed by that; the next in its place will say.
    """
    found = [
        pod
        for pod in pods
        for ending in (pod.ended, pod.ended_before)
        if ending is not None and ending.verdict is Verdict.FATAL and pod.disruption is None
    ]
    return min(found, key=finished, default=None)


def newest_failure(observed: Observed, before: Failure | None) -> Failure | None:
    """The newest end of a process that was not wanted; of an unchanged world the known one."""
    pods = [pod for pod in observed.pods if _failed(pod)]
    newest = max(pods, key=finished, default=None)
    if newest is None or (before is not None and finished(newest) <= before.time):
        return before
    return failure(newest)


def failure(pod: Pod) -> Failure:
    """Why a pod, or its container, ended."""
    ending = pod.newest_ending
    return Failure(
        process=pod.process,
        pod=pod.name,
        exit_code=ending.exit_code if ending else None,
        reason=reason_of(pod),
        message=_container(pod, "container {}: ") + cause_of(pod),
        node=_node(pod) or None,
        time=finished(pod),
    )


def reason_of(pod: Pod) -> str:
    """Why a pod's process ended, in one CamelCase word."""
    ending = pod.newest_ending
    if ending is not None and ending.reason == "OOMKilled":
        return Reason.OUT_OF_MEMORY
    if ending is not None and ending.note is not None:
        return ending.note.reason
    if ending is not None and ending.container:
        return ending.reason or "Error"
    if pod.disruption is not None:
        return pod.disruption.reason
    return pod.reason or Reason.INTERNAL_ERROR


def cause_of(pod: Pod) -> str:
    """Why a pod's process ended, in one line without its name."""
    ending = pod.newest_ending
    if ending is not None and ending.reason == "OOMKilled":
        return "killed for its memory; raise its memory limit"
    if ending is not None and ending.note is not None:
        line = ending.note.message
        return line.removeprefix(f"{pod.process}: ")
    if pod.disruption is not None:
        return f"{pod.disruption.message or pod.disruption.reason}"
    if pod.message:
        return pod.message
    if ending is None:
        return "its pod is gone"
    last = ending.message.strip().splitlines()
    return describe_exit(ending.exit_code) + (f": {last[-1]}" if last else "")


def _container(pod: Pod, text: str) -> str:
    """The text with the name of the container that ended, if it is not the role's own."""
    ending = pod.newest_ending
    return text.format(ending.container) if ending is not None and ending.container else ""


def _node(pod: Pod) -> str:
    """A pod's node, with what is wrong with it."""
    if pod.node is None:
        return ""
    return f"{pod.node} {one_line(pod.node_problem, PROBLEM_LENGTH)}".rstrip()


def explain_pod(pod: Pod) -> str:
    """Process, pod, container, exit code, cause and node of a pod that ended, in one line.

    Of a long one only the cause is cut: the log has it in full, and nothing else has the rest.
    """
    ending = pod.newest_ending
    facts = f"pod {pod.name}" + _container(pod, ", container {}")
    if ending is not None:
        facts += f", exit code {ending.exit_code}"
    if pod.node is not None:
        facts += f", node {_node(pod)}"
    note = pod.disruption
    if note is not None and note.reason != reason_of(pod):
        facts += f"; {note.reason}"
    room = LINE_LENGTH - len(f"{pod.process}:  ({facts})")
    return f"{pod.process}: {one_line(cause_of(pod), max(room, CAUSE_LENGTH))} ({facts})"
