"""A run that everyone is ready for and that does not get on fails; one that nobody hears of not."""

from __future__ import annotations

from dataclasses import replace

from unit.operator.worlds import SETTINGS, Life, at, with_report

from asyncrl_api.status import TrainingStatus
from asyncrl_operator.plan.observed import Report


def stuck() -> Life:
    """Everyone is ready, and the newest update was seen at 0 s; 30 s are too long."""
    life = Life({"runPolicy": {"stallTimeoutSeconds": 10}})
    life.run()
    with_report(life, received=0)
    life.step(0)
    return life


def test_a_stall_while_everyone_is_ready_fails_the_run() -> None:
    life = stuck()
    with_report(life, received=29)
    life.step(29)
    assert life.phase == "Running"
    life.change("actor-0", ready=False)
    life.change("actor-1", ready=False)
    with_report(life, received=31)
    life.step(31)
    assert life.phase == "Running", "it waits for actors"
    life.change("actor-0", ready=True, ready_since=at(32))
    with_report(life, received=61)
    life.step(61)
    assert life.phase == "Running", "it has had data since 32 s"
    with_report(life, received=62)
    life.step(62)
    assert (life.phase, life.known.reason) == ("Failed", "Stalled")


def test_a_learner_that_gets_on_does_not_stall() -> None:
    life = stuck()
    for second in range(10, 200, 10):
        with_report(life, received=second, update=second)
        life.step(second)
        assert life.known.progress_time == at(second)
    assert life.phase == "Running"


def test_a_run_whose_reports_do_not_come_is_not_failed_for_it() -> None:
    life = stuck()
    for second in (31, 100, 3600, 86400):
        life.step(second)
        assert life.phase == "Running"
    assert life.condition("Stable") == ("Unknown", "StaleReports")
    with_report(life, received=86410, update=9000)
    life.step(86410)
    assert (life.phase, life.condition("Stable")) == ("Running", ("True", "Healthy"))


def test_another_operator_goes_on_counting() -> None:
    life = stuck()
    life.observed = replace(life.observed, report=None)
    life.step(20)
    with_report(life, received=25)
    life.step(25)
    assert life.known.progress_time == at(0), "the counters are those of the status"
    with_report(life, received=30)
    life.step(30)
    assert (life.phase, life.known.reason) == ("Failed", "Stalled")


def test_reports_that_come_seldom_are_waited_for() -> None:
    life = Life({"runPolicy": {"stallTimeoutSeconds": 10}}, replace(SETTINGS, report_interval=600))
    life.run()
    for second in (0, 600):
        with_report(life, received=second, update=1 + second)
        life.step(second)
        life.step(second + 300)
        assert life.phase == "Running", "what became of it since, nobody knows"
    with_report(life, received=1200, update=601)
    life.step(1200)
    assert (life.phase, life.known.reason) == ("Failed", "Stalled")


def test_a_learner_on_a_node_whose_clock_is_behind_is_believed() -> None:
    life = stuck()
    report = life.observed.report
    assert report is not None
    for second in range(5, 200, 5):
        behind = report.report.model_copy(
            update={
                "attempt": 1,
                "time": at(second - 400),
                "training": TrainingStatus(policy_version=second),
            }
        )
        life.observed = replace(life.observed, report=Report(behind, at(second)))
        life.step(second)
        assert life.known.training == behind.training
    assert life.phase == "Running"


def test_the_word_of_the_attempt_before_is_not_newer_for_its_clock() -> None:
    life = stuck()
    report = life.observed.report
    assert report is not None
    word = report.report.model_copy(update={"time": at(500), "attempt": 0})
    newer = TrainingStatus(policy_version=77)
    polled = report.report.model_copy(update={"time": at(10), "attempt": 1, "training": newer})
    life.observed = replace(life.observed, report=Report(polled, at(20)), last_word=word)
    life.step(20)
    assert life.known.training == newer
