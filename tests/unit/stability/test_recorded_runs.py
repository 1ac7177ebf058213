"""The judge on recorded runs of this project: collapses are called early, healthy runs are not."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from asyncrl_worker.stability import StabilityJudge, Verdict
from benchmarks.recordings import Row, observables, read
from benchmarks.verdicts import judge as judged

RUNS = Path(__file__).parents[2] / "data" / "stability"
HEALTHY, WATCH, DEGRADED, DIVERGED = Verdict

STALE = ["collapse-16", "collapse-16-hot", "collapse-4-hot", "cartpole.plain.16.0"]
STALE += ["cartpole.hot.16.1", "acrobot.hot.16.0"]
IN_STEP = ["cartpole.hot-no-bonus.0.0"]
WELL = ["healthy-0", "healthy-16", "cartpole.default.4.4", "cartpole.default.16.0"]
WELL += ["acrobot.default.16.1", "pendulum.default.4.1"]


def rows(name: str) -> list[Row]:
    return read(RUNS / f"{name}.jsonl.gz")


def verdicts(name: str) -> list[Verdict]:
    judge = StabilityJudge()
    return [judge.observe(observables(row)).verdict for row in rows(name)]


def course(history: list[Verdict]) -> list[Verdict]:
    """The verdicts in their order, without how long each lasted."""
    return [verdict for verdict, _ in groupby(history)]


@pytest.mark.parametrize(
    ("name", "latest"),
    [
        ("collapse-16", 25),
        ("collapse-16-hot", 20),
        ("collapse-4-hot", 60),
        ("cartpole.plain.16.0", 25),
        ("cartpole.hot.16.1", 20),
        ("acrobot.hot.16.0", 35),
    ],
)
def test_a_stale_collapse_is_watched_then_degraded_long_before_the_return_is_lost(
    name: str, latest: int
) -> None:
    run, history = judged(rows(name)), verdicts(name)
    assert run.collapsed is not None
    assert run.first_alarm is not None
    assert run.first_alarm <= latest
    assert run.first_alarm < run.collapsed - 50
    assert course(history)[:3] == [HEALTHY, WATCH, DEGRADED]
    assert HEALTHY not in history[run.first_alarm :]


def test_a_collapse_in_step_is_called_as_the_return_falls() -> None:
    """Nothing is stale here, so no ratio warns: the entropy goes first, and it is all there is."""
    run = judged(rows("cartpole.hot-no-bonus.0.0"))
    assert run.collapsed is not None
    assert run.first_alarm is not None
    assert run.first_alarm < run.collapsed + 10
    assert course(verdicts("cartpole.hot-no-bonus.0.0")) == [HEALTHY, DEGRADED, DIVERGED]


@pytest.mark.parametrize("name", [*STALE, *IN_STEP])
def test_a_collapse_is_diverged_at_last_and_not_at_first(name: str) -> None:
    history = verdicts(name)
    assert history[-1].rank >= DEGRADED.rank
    assert DIVERGED in history
    first = history.index(DIVERGED)
    assert first > history.index(DEGRADED) + 20


@pytest.mark.parametrize("name", WELL[:-1])
def test_a_healthy_run_is_at_most_watched_and_mostly_healthy(name: str) -> None:
    history = verdicts(name)
    assert max(verdict.rank for verdict in history) <= WATCH.rank
    assert history.count(WATCH) < 0.25 * len(history)
    assert history[-1] is HEALTHY


def test_todays_defaults_on_cartpole_are_never_out_of_order() -> None:
    """A KL of .6 for some updates, and a dip of nearly half the return, on the way to 500."""
    assert set(verdicts("cartpole.default.4.4")) == {HEALTHY}
    assert set(verdicts("cartpole.default.16.0")) == {HEALTHY}


def test_a_run_that_goes_up_far_from_its_data_is_watched() -> None:
    """Half of every batch is clipped, and the return rises: worth a look, no reason to act."""
    history = verdicts("pendulum.default.4.1")
    assert set(history) == {HEALTHY, WATCH}
    assert history.index(WATCH) > 400


@pytest.mark.parametrize("name", WELL)
def test_ten_times_the_degraded_kl_in_a_healthy_run_is_called(name: str) -> None:
    """The healthy recordings are quiet because they are healthy, not because nothing is heard."""
    judge = StabilityJudge()
    history = []
    for row in rows(name):
        broken = {**row, "kl": row["kl"] + 2.0, "effectiveSampleSize": 0.2}
        history.append(judge.observe(observables(broken)).verdict)
    assert history[20].rank >= DEGRADED.rank


@pytest.mark.parametrize("name", WELL)
def test_the_same_causes_with_a_lost_return_are_called(name: str) -> None:
    """Twice the degraded KL is no alarm while the return stands, and is one when it is gone."""
    judge = StabilityJudge()
    recorded = rows(name)
    for row in recorded:
        judge.observe(observables({**row, "kl": 0.4}))
    lowest = min(row["episodeReturn"] for row in recorded if row["episodeReturn"] is not None)
    gone = {**recorded[-1], "kl": 0.4, "episodeReturn": lowest}
    assert judge.observe(observables(gone)).verdict.rank <= WATCH.rank
    history = [judge.observe(observables(gone)).verdict for _ in range(40)]
    assert history[-1].rank >= DEGRADED.rank
