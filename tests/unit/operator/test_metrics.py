"""The operator's metrics: what they show of a job, and that they go with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from unit.operator.worlds import Life, at

from asyncrl_api.status import (
    AlignmentStatus,
    Condition,
    JobStatus,
    LearnerReport,
    RoleStatus,
    StabilityStatus,
    TrainingStatus,
)
from asyncrl_operator.metrics import OperatorMetrics
from asyncrl_operator.metrics_reference import PATH, metrics_markdown
from asyncrl_operator.plan.observed import Report
from asyncrl_operator.plan.plan import Plan

KEY = ("default", "job")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def status(phase: str, restarts: int = 0, verdict: str = "Healthy") -> JobStatus:
    return JobStatus.model_validate(
        {
            "phase": phase,
            "roles": [RoleStatus(name="actors", restarts=restarts)],
            "training": TrainingStatus(policy_version=7, episode_return=21.5, throughput=900.0),
            "alignment": AlignmentStatus(smoothed=0.25),
            "stability": StabilityStatus.model_validate({"verdict": verdict}),
            "conditions": [
                Condition(type="Stable", status="True", reason="Healthy", last_transition_time=NOW)
            ],
        }
    )


def lines(metrics: OperatorMetrics, word: str) -> list[str]:
    text = generate_latest(metrics.registry).decode()
    return [line for line in text.splitlines() if word in line and not line.startswith("#")]


def test_a_job_is_shown_and_its_series_go_with_it() -> None:
    metrics = OperatorMetrics()
    metrics.observe(KEY, JobStatus(), status("Running", restarts=2), age=12.0)
    job = 'name="job",namespace="default"'
    assert lines(metrics, "policy_version") == [f"asyncrl_job_policy_version{{{job}}} 7.0"]
    assert lines(metrics, "cosine") == [f"asyncrl_job_alignment_cosine{{{job}}} 0.25"]
    assert 'asyncrl_jobs{phase="Running"} 1.0' in lines(metrics, "asyncrl_jobs")
    assert f'asyncrl_job_stability{{{job},verdict="Healthy"}} 1.0' in lines(metrics, "stability")
    restarts = 'asyncrl_operator_role_restarts_total{cause="failure",role="actors"} 2.0'
    assert restarts in lines(metrics, "restarts")
    assert "asyncrl_operator_time_to_running_seconds_sum 12.0" in lines(metrics, "time_to_running")
    metrics.forget(KEY)
    assert lines(metrics, 'name="job"') == []
    assert 'asyncrl_jobs{phase="Running"} 0.0' in lines(metrics, "asyncrl_jobs")


@pytest.mark.parametrize("phase", ["Complete", "Failed", "Suspended"])
def test_a_job_at_rest_has_no_throughput_and_keeps_what_it_reached(phase: str) -> None:
    metrics = OperatorMetrics()
    before = status("Running")
    metrics.observe(KEY, JobStatus(), before, age=1.0)
    assert len(lines(metrics, "throughput")) == 1
    metrics.observe(KEY, before, status(phase), age=2.0)
    assert lines(metrics, "throughput") == []
    assert len(lines(metrics, "policy_version")) == 1
    metrics.observe(KEY, status(phase), before, age=3.0)
    assert len(lines(metrics, "throughput")) == 1, "resumed"


def test_what_was_counted_is_not_counted_again() -> None:
    metrics = OperatorMetrics()
    before = status("Running", restarts=2)
    metrics.observe(KEY, before, status("Running", restarts=3), age=99.0)
    metrics.observe(KEY, status("Running", restarts=3), status("Running", restarts=3), age=99.0)
    (failures,) = [line for line in lines(metrics, "restarts_total") if "failure" in line]
    assert failures.endswith(" 1.0")
    assert "asyncrl_operator_time_to_running_seconds_count 0.0" in lines(metrics, "time_to_run")


class Watched(Life):
    """A life whose every status is counted, as the operator counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = OperatorMetrics()

    def look(self, seconds: float | None = None) -> Plan:
        before = JobStatus.model_validate(self.status or {})
        made = super().look(seconds)
        self.metrics.observe(KEY, before, made.status, age=self.now)
        return made

    @property
    def starts(self) -> list[str]:
        return lines(self.metrics, "to_running_seconds_count") + lines(
            self.metrics, "to_running_seconds_sum"
        )


STARTED = [
    "asyncrl_operator_time_to_running_seconds_count 1.0",
    "asyncrl_operator_time_to_running_seconds_sum 7.0",
]


def test_the_first_run_is_counted_also_if_the_learner_reports_before_the_actors_come() -> None:
    life = Watched()
    life.step(0)
    life.add("parameter-server")
    life.add("learner")
    report = LearnerReport(time=at(5), update=1)
    life.observed = replace(life.observed, report=Report(report, at(5)))
    life.step(5)
    assert (life.phase, life.known.report_time) == ("Pending", at(5))
    life.add("actor")
    life.step(7)
    assert life.phase == "Running"
    assert life.starts == STARTED


def test_coming_back_is_no_start() -> None:
    life = Watched()
    life.step(0)
    for role in ("parameter-server", "learner", "actor"):
        life.add(role)
    life.step(7)
    life.change("learner-0", ready=False, restarts=1)
    life.step(20)
    assert life.phase == "Restarting"
    life.change("learner-0", ready=True)
    life.step(30)
    assert life.phase == "Running"
    for suspend in (True, False):
        life.spec["runPolicy"] = {"suspend": suspend}
        for _ in range(3):
            life.step(40)
            life.pods.clear()
    for role in ("parameter-server", "learner", "actor"):
        life.add(role)
    life.step(50)
    assert life.phase == "Running"
    assert life.starts == STARTED


def test_a_job_that_was_made_suspended_is_no_slow_start() -> None:
    life = Watched()
    life.spec["runPolicy"] = {"suspend": True}
    life.step(0)
    life.spec["runPolicy"] = {"suspend": False}
    life.step(3600)
    for role in ("parameter-server", "learner", "actor"):
        life.add(role)
    life.step(3610)
    assert life.phase == "Running"
    assert life.starts[0].endswith("count 0.0")


def test_the_reference_is_up_to_date() -> None:
    assert Path(PATH).read_text() == metrics_markdown()
