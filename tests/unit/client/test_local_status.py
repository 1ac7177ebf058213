"""The status document: conditions, phases, and when it is written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from asyncrl.backends.status import StatusBuilder, StatusFile, status_json
from asyncrl.backends.supervisor import Outcome, Policy, Supervisor
from asyncrl.run_folder import RunFolder
from asyncrl_api.conditions import Conditions, stable_said
from asyncrl_api.manifest import load_manifest
from asyncrl_api.staleness import Staleness
from asyncrl_api.status import (
    AlignmentStatus,
    JobStatus,
    LearnerReport,
    StabilityStatus,
    StalenessStatus,
    TrainingStatus,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
EVERYONE = frozenset({"actor-0", "actor-1", "learner-0", "parameter-server-0"})


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def builder(mode: str = "control") -> StatusBuilder:
    text = (
        "apiVersion: asyncrl.io/v1alpha1\nkind: AsyncRLJob\nmetadata: {name: test}\n"
        f"spec: {{workload: {{gymnasium: {{id: CartPole-v1}}}}, alignment: {{mode: '{mode}'}}}}\n"
    )
    return StatusBuilder(load_manifest(text), START)


def build(
    which: StatusBuilder,
    seconds: float,
    report: LearnerReport | None = None,
    *,
    ready: frozenset[str] = EVERYONE,
    restarting: bool = False,
    outcome: Outcome | None = None,
) -> JobStatus:
    supervisor = Supervisor(Policy(actors=2))
    supervisor.begin(0.0)
    return which.build(
        supervisor.units,
        ready,
        report=report,
        restarting=restarting,
        outcome=outcome,
        now=at(seconds),
    )


def report(smoothed: float | None = None, **stability: object) -> LearnerReport:
    return LearnerReport(
        time=START,
        training=TrainingStatus(policy_version=7),
        alignment=AlignmentStatus(
            smoothed=smoothed,
            low=None if smoothed is None else 0.1,
            high=None if smoothed is None else 0.3,
        ),
        stability=StabilityStatus.model_validate(stability),
    )


def condition(status: JobStatus, kind: str) -> tuple[str, str]:
    found = next(c for c in status.conditions if c.type == kind)
    return found.status, found.reason


def test_the_transition_time_moves_only_with_the_status() -> None:
    conditions = Conditions()
    conditions.set("Stable", ("True", "Healthy", ""), at(1))
    conditions.set("Stable", ("True", "Watch", "kl"), at(2))
    (stable,) = conditions.all()
    assert (stable.last_transition_time, stable.reason) == (at(1), "Watch")
    conditions.set("Stable", ("False", "Degraded", "kl"), at(3))
    assert conditions.all()[0].last_transition_time == at(3)


def test_the_phases_of_a_run() -> None:
    which = builder()
    pending = build(which, 0, ready=frozenset())
    assert (pending.phase, condition(pending, "Running")) == ("Pending", ("False", "Starting"))
    assert pending.training is None
    running = build(which, 1, report())
    assert (running.phase, condition(running, "Running")) == ("Running", ("True", "AllRolesReady"))
    assert [(role.name, role.ready, role.desired) for role in running.roles] == [
        ("actors", 2, 2),
        ("learner", 1, 1),
        ("parameterServer", 1, 1),
    ]
    fewer = build(which, 2, report(), ready=EVERYONE - {"actor-1"})
    assert condition(fewer, "Running") == ("True", "TooFewActors")
    assert fewer.conditions[1].last_transition_time == at(1)
    lost = build(which, 3, restarting=True)
    assert condition(lost, "Restarting") == ("True", "LearnerLost")
    assert lost.training == running.training, "the last numbers stay"
    back = build(which, 4, report())
    assert condition(back, "Restarting") == ("False", "Resumed")
    over = build(which, 5, outcome=Outcome("Failed", "DiskFull", "no space"))
    assert condition(over, "Failed") == ("True", "DiskFull")
    assert (over.phase, over.message, over.completion_time) == ("Failed", "no space", at(5))


def test_alignment_is_unhealthy_above_high_until_it_is_below_low() -> None:
    which = builder()
    seen = [
        condition(build(which, second, report(value)), "AlignmentHealthy")[0]
        for second, value in enumerate([None, 0.05, 0.2, 0.31, 0.2, 0.11, 0.09, 0.2])
    ]
    assert seen == ["Unknown", "True", "True", "False", "False", "False", "True", "True"]
    assert condition(build(builder("off"), 0, report()), "AlignmentHealthy") == (
        "Unknown",
        "AlignmentOff",
    )


def test_stability_follows_the_verdict() -> None:
    which = builder()
    assert condition(build(which, 0, report()), "Stable") == ("Unknown", "NoData")
    watch = build(which, 1, report(verdict="Watch"))
    assert condition(watch, "Stable") == ("True", "Watch")
    degraded = build(which, 2, report(verdict="Degraded", reasons=["kl 0.2 above 0.1"]))
    stable = next(c for c in degraded.conditions if c.type == "Stable")
    assert (stable.status, stable.message) == ("False", "kl 0.2 above 0.1")


def test_long_messages_are_cut_to_what_a_status_holds() -> None:
    over = build(builder(), 0, outcome=Outcome("Failed", "InternalError", "x" * 5000))
    assert over.message is not None
    assert over.message.endswith("x...")
    assert len(status_json(over)) < 8000


def test_the_document_has_the_shape_of_the_custom_resource() -> None:
    document = json.loads(status_json(build(builder(), 0, report(0.2))))
    assert document["training"]["policyVersion"] == 7
    assert document["training"]["evaluationReturn"] is None
    assert document["startTime"] == "2026-01-01T00:00:00Z"
    assert {"type", "status", "reason", "message", "lastTransitionTime"} <= set(
        document["conditions"][0]
    )


def test_numbers_are_written_once_a_second_and_turns_at_once(tmp_path: Path) -> None:
    folder, which = RunFolder(tmp_path), builder()
    file = StatusFile(folder)

    def version() -> tuple[str, object]:
        status = JobStatus.model_validate_json(folder.status.read_text())
        return status.phase, status.training and status.training.policy_version

    file.write(build(which, 0))
    assert version() == ("Pending", None)
    file.write(build(which, 1, report()))
    assert version() == ("Running", 7)
    newer = report().model_copy(update={"training": TrainingStatus(policy_version=8)})
    file.write(build(which, 2, newer))
    assert version() == ("Running", 7), "a mere number, right after the last write"
    file.write(build(which, 2, newer), final=True)
    assert version() == ("Running", 8)


@pytest.mark.parametrize(
    ("staleness", "bound", "said"),
    [
        (Staleness(max=8), 8, "kl high"),
        (Staleness(max=8), 2, "paced: staleness bound 2 of 8; kl high"),
        (Staleness(max=8, inject=2), 2, "kl high"),
        (Staleness(max=8), None, "kl high"),
    ],
)
def test_the_condition_says_that_a_run_is_paced(
    staleness: Staleness, bound: int | None, said: str
) -> None:
    degraded = LearnerReport(
        time=START,
        stability=StabilityStatus(verdict="Degraded", reasons=["kl high"]),
        staleness=StalenessStatus(bound=bound),
    )
    assert stable_said(degraded, staleness) == ("False", "Degraded", said)
