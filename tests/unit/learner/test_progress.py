"""Counters, throughput, the schedule's progress and the reasons to stop, on a virtual clock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncrl_api.reasons import Reason
from asyncrl_api.spec import Stopping
from asyncrl_worker.learner.progress import EPISODES, EvaluationScore, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None, **stopping: Any) -> Progress:
    none: dict[str, Any] = dict.fromkeys(
        ("environment_steps", "policy_versions", "target_return", "wall_time_seconds")
    )
    return Progress(Stopping.model_construct(**none | stopping), clock or Clock())


def test_nothing_is_absent_not_zero_before_it_is_known() -> None:
    progress = make()
    assert progress.episode_return is None
    assert progress.throughput is None
    assert progress.evaluation is None
    assert progress.finished(evaluating=True) is None


def test_throughput_is_of_the_last_seconds() -> None:
    clock = Clock()
    progress = make(clock)
    for _ in range(20):  # 100 steps a second
        clock.now += 1
        progress.trained(steps=100, version=1, returns=[])
    assert progress.throughput == pytest.approx(100)
    for _ in range(10):  # then ten times as many
        clock.now += 1
        progress.trained(steps=1000, version=1, returns=[])
    assert progress.throughput == pytest.approx(1000)


def test_throughput_with_updates_further_apart_than_the_window() -> None:
    clock = Clock()
    progress = make(clock)
    for _ in range(4):
        clock.now += 60
        progress.trained(steps=600, version=1, returns=[])
    assert progress.throughput == pytest.approx(10)


def test_the_return_is_of_the_newest_episodes() -> None:
    progress = make()
    progress.trained(steps=1, version=1, returns=[1000.0] * 7)
    progress.trained(steps=1, version=1, returns=[1.0] * EPISODES)
    assert progress.episode_return == 1.0


def test_an_older_evaluation_does_not_replace_a_newer_one() -> None:
    progress = make()
    for version, value in ((10, 5.0), (20, 7.0), (15, 99.0)):
        progress.evaluated(EvaluationScore(version, value, 20))
    assert progress.evaluation == EvaluationScore(20, 7.0, 20)


@pytest.mark.parametrize(
    ("stopping", "reason"),
    [
        ({"environment_steps": 200}, Reason.ENVIRONMENT_STEPS_REACHED),
        ({"policy_versions": 2}, Reason.POLICY_VERSIONS_REACHED),
        ({"wall_time_seconds": 2}, Reason.WALL_TIME_REACHED),
    ],
)
def test_each_limit_ends_the_run_when_it_is_reached(
    stopping: dict[str, Any], reason: Reason
) -> None:
    clock = Clock()
    progress = make(clock, **stopping)
    for version in (1, 2):
        assert progress.finished(evaluating=False) is None
        clock.now += 1
        progress.trained(steps=100, version=version, returns=[])
        assert progress.fraction == pytest.approx(version / 2)
    assert progress.finished(evaluating=False) is reason


def test_a_target_counts_for_evaluations_where_there_are_any() -> None:
    progress = make(target_return=475.0)
    progress.trained(steps=1, version=1, returns=[500.0] * EPISODES)
    assert progress.finished(evaluating=True) is None
    progress.evaluated(EvaluationScore(1, 474.9, 20))
    assert progress.finished(evaluating=True) is None
    progress.evaluated(EvaluationScore(2, 475.0, 20))
    assert progress.finished(evaluating=True) is Reason.TARGET_RETURN_REACHED


def test_without_evaluations_a_target_needs_a_full_window_of_episodes() -> None:
    progress = make(target_return=475.0)
    progress.trained(steps=1, version=1, returns=[500.0] * (EPISODES - 1))
    assert progress.finished(evaluating=False) is None
    progress.trained(steps=1, version=2, returns=[500.0])
    assert progress.finished(evaluating=False) is Reason.TARGET_RETURN_REACHED


def test_the_schedule_does_not_follow_the_clock() -> None:
    clock = Clock()
    progress = make(clock, environment_steps=1000, wall_time_seconds=10)
    clock.now += 9
    progress.trained(steps=100, version=1, returns=[])
    assert progress.scheduled_fraction == pytest.approx(0.1)
    assert progress.fraction == pytest.approx(0.9)
    clock.now += 100
    assert progress.fraction == 1.0


def test_a_resumed_run_goes_on_counting() -> None:
    first_clock, second_clock = Clock(), Clock()
    second_clock.now = 5000.0
    first = make(first_clock, wall_time_seconds=10)
    first_clock.now += 6
    first.trained(steps=300, version=3, returns=[1.0, 2.0])
    first.evaluated(EvaluationScore(2, 1.5, 20))
    state = json.loads(json.dumps(first.state()))

    second = make(second_clock, wall_time_seconds=10)
    second.load(state)
    assert second.state() == first.state()
    assert second.elapsed == pytest.approx(6)
    assert second.throughput is None  # of this process, nothing is known yet
    second_clock.now += 2
    second.trained(steps=100, version=4, returns=[3.0])
    assert second.throughput == pytest.approx(50)
    assert second.environment_steps == 400
    assert second.episode_return == pytest.approx(2.0)
    assert second.finished(evaluating=True) is None
    second_clock.now += 2
    assert second.finished(evaluating=True) is Reason.WALL_TIME_REACHED
