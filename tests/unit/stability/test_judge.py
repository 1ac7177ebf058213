"""The judge: which evidence calls for which verdict, and how lasting it must be."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrl_worker.stability import (
    Judgement,
    Observables,
    StabilityJudge,
    StabilityThresholds,
    Threshold,
    Verdict,
)

CALM = Observables(
    update=0,
    cosine=0.05,
    smoothed_cosine=0.05,
    relative_alignment=0.3,
    kl=0.01,
    max_log_ratio=0.5,
    effective_sample_size=0.97,
    clipped_fraction=0.02,
    entropy=0.5,
    entropy_fraction=0.7,
    gradient_norm=0.1,
    value_loss=1.0,
    staleness_mean=4.0,
    episode_return=100.0,
    policy_loss=0.0,
)


def judge_series(
    judge: StabilityJudge, series: list[Observables], start: int = 1
) -> list[Judgement]:
    return [judge.observe(replace(o, update=start + i)) for i, o in enumerate(series)]


def last(judge: StabilityJudge, observables: Observables, count: int, start: int = 1) -> Judgement:
    return judge_series(judge, [observables] * count, start)[-1]


def rising_return(low: float, high: float, count: int, **fields: float) -> list[Observables]:
    steps = [low + (high - low) * i / (count - 1) for i in range(count)]
    return [replace(CALM, episode_return=value, **fields) for value in steps]


def after_a_fall(to: float = 200.0) -> StabilityJudge:
    """The judge of a run whose return rose from 20 to 500 and fell again, for long."""
    judge = StabilityJudge()
    fall = [replace(CALM, episode_return=to)] * 200
    judge_series(judge, [*rising_return(20, 500, 100), *fall])
    return judge


def fallen(**fields: float) -> Observables:
    return replace(CALM, episode_return=200.0, **fields)


def test_a_calm_run_is_healthy_without_reasons() -> None:
    judgement = last(StabilityJudge(), CALM, 200)
    assert judgement.verdict is Verdict.HEALTHY
    assert judgement.reasons == ()
    assert judgement.score < 1


def test_absent_observables_are_no_evidence() -> None:
    judgement = last(StabilityJudge(), Observables(update=0), 200)
    assert judgement == Judgement(Verdict.HEALTHY, (), 0, 0.0)


@pytest.mark.parametrize(
    "alone",
    [
        {"kl": 50.0},
        {"max_log_ratio": 40.0},
        {"effective_sample_size": 0.0001},
        {"max_log_ratio": 40.0, "effective_sample_size": 0.0001},
        {"relative_alignment": 1.5, "cosine": 1.0, "smoothed_cosine": 1.0},
        {"entropy_fraction": 0.0},
    ],
)
def test_one_kind_of_evidence_alone_is_watched_and_never_degraded(alone: dict[str, float]) -> None:
    history = judge_series(StabilityJudge(), [replace(CALM, **alone)] * 300)
    assert {j.verdict for j in history[:9]} == {Verdict.HEALTHY}
    assert {j.verdict for j in history[10:]} == {Verdict.WATCH}


def test_causes_that_do_no_harm_are_watched() -> None:
    """Twice the degraded thresholds while the return stands: what clip and truncation are for."""
    high = {"kl": 0.4, "max_log_ratio": 6.0, "effective_sample_size": 0.25}
    still = judge_series(StabilityJudge(), [replace(CALM, **high)] * 100)
    rising = judge_series(StabilityJudge(), rising_return(20, 500, 200, **high))
    unknown = last(StabilityJudge(), replace(CALM, episode_return=None, **high), 100)
    for history in (still, rising, [unknown]):
        assert history[-1].verdict is Verdict.WATCH
        assert history[-1].reasons[0] == "HighKL"
        assert max(j.score for j in history) < 2


def test_the_same_causes_with_the_return_fallen_are_degraded() -> None:
    judge = after_a_fall()
    history = judge_series(judge, [fallen(kl=0.21)] * 20, 301)
    assert [j.verdict for j in history[:9]] == [Verdict.WATCH] * 9
    assert history[9].verdict is Verdict.DEGRADED
    assert history[9].reasons == ("HighKL", "ReturnFalling")
    assert history[19].since_update == 310
    assert last(after_a_fall(), fallen(kl=0.19), 100, 301).verdict is Verdict.WATCH


@pytest.mark.parametrize(("now", "verdict"), [(250.0, "Watch"), (225.0, "Degraded")])
def test_the_return_has_fallen_when_half_of_the_gain_is_lost(now: float, verdict: str) -> None:
    judge = after_a_fall(now)  # from 456, as its moving average climbs late
    off = replace(CALM, episode_return=now, kl=0.4, max_log_ratio=6.0)
    assert last(judge, off, 100, 301).verdict == verdict


def test_causes_far_beyond_are_degraded_before_any_harm() -> None:
    """The early warning: 1 nat with tails of ratios beyond repair, while the return still rises."""
    far = {"kl": 1.01, "max_log_ratio": 6.0}
    history = judge_series(StabilityJudge(), rising_return(20, 500, 200, **far))
    assert history[8].verdict is Verdict.HEALTHY
    assert history[9].verdict is Verdict.DEGRADED
    assert history[9].reasons == ("HighKL", "HighImportanceRatio")
    nearer = rising_return(20, 500, 200, kl=0.99, max_log_ratio=6.0)
    assert judge_series(StabilityJudge(), nearer)[-1].verdict is Verdict.WATCH


def test_the_largest_ratio_is_one_sample_and_never_more_than_degraded() -> None:
    off = replace(CALM, kl=0.4, max_log_ratio=40.0)
    assert last(StabilityJudge(), off, 100).verdict is Verdict.WATCH
    assert last(after_a_fall(), fallen(max_log_ratio=40.0), 100, 301).score == 2.0


def test_a_second_kind_below_its_own_watch_level_is_only_a_number() -> None:
    off = replace(CALM, kl=5.0, max_log_ratio=2.9)
    assert last(StabilityJudge(), off, 100).score == 1.0


def test_alignment_is_evidence_and_one_level_less_before_a_fall() -> None:
    aligned = {"relative_alignment": 1.2}
    between = replace(CALM, relative_alignment=0.95)
    assert last(StabilityJudge(), between, 100).verdict is Verdict.HEALTHY
    calm = last(StabilityJudge(), replace(CALM, **aligned), 100)
    assert (calm.verdict, calm.score) == (Verdict.WATCH, 1.0)
    harmed = last(after_a_fall(), fallen(**aligned), 100, 301)
    assert harmed.verdict is Verdict.DEGRADED
    assert harmed.reasons == ("GradientsAligned", "ReturnFalling")


def test_alignment_without_lag_is_not_evidence() -> None:
    aligned = replace(CALM, relative_alignment=1.2, staleness_mean=0.0)
    assert last(StabilityJudge(), aligned, 100).verdict is Verdict.HEALTHY
    lagging = replace(aligned, staleness_mean=None)
    assert last(StabilityJudge(), lagging, 100).verdict is Verdict.WATCH


def test_a_solved_task_with_a_deterministic_policy_is_healthy() -> None:
    judge = StabilityJudge()
    judge_series(judge, rising_return(20, 500, 100))
    solved = replace(CALM, episode_return=500.0, entropy_fraction=0.0005)
    assert {j.verdict for j in judge_series(judge, [solved] * 300, 101)} == {Verdict.HEALTHY}


@pytest.mark.parametrize(("start", "best", "end"), [(20, 500, 9), (-500, -90, -500), (0, 1, -1)])
def test_a_dead_policy_is_diverged_although_its_ratios_are_perfect(
    start: float, best: float, end: float
) -> None:
    """A collapsed policy repeats itself: KL 0, ratio 1, gradient 0. Also for negative returns."""
    judge = StabilityJudge()
    judge_series(judge, rising_return(start, best, 100))
    dead = replace(
        CALM,
        episode_return=end,
        entropy_fraction=0.0,
        kl=0.0,
        max_log_ratio=0.0,
        effective_sample_size=1.0,
        gradient_norm=0.0,
    )
    history = judge_series(judge, [dead] * 200, 101)
    assert history[-1].verdict is Verdict.DIVERGED
    assert set(history[-1].reasons) == {"EntropyCollapse", "ReturnFalling"}


def test_falling_return_alone_is_watched() -> None:
    """Plain forgetting, as it happens to synchronous runs too."""
    judge = StabilityJudge()
    judge_series(judge, rising_return(20, 500, 100))
    history = judge_series(judge, [replace(CALM, episode_return=60.0)] * 200, 101)
    assert history[-1].verdict is Verdict.WATCH
    assert history[-1].reasons == ("ReturnFalling",)


def test_noise_of_a_return_that_never_rose_is_no_fall() -> None:
    judge = StabilityJudge()
    noise = [replace(CALM, episode_return=100.0 + 8 * math.sin(i)) for i in range(300)]
    assert {j.verdict for j in judge_series(judge, noise)} == {Verdict.HEALTHY}


def test_causes_alone_are_never_diverged() -> None:
    off = {"kl": 30.0, "max_log_ratio": 15.0, "effective_sample_size": 0.01}
    assert last(StabilityJudge(), replace(CALM, **off), 200).verdict is Verdict.DEGRADED
    history = judge_series(StabilityJudge(), rising_return(20, 500, 200, **off))
    assert history[-1].verdict is Verdict.DEGRADED
    assert last(after_a_fall(), fallen(**off), 200, 301).verdict is Verdict.DIVERGED


def test_a_gradient_spike_is_judged_against_the_runs_own_level() -> None:
    judge = StabilityJudge(StabilityThresholds(enter_updates=1))
    level = [replace(CALM, gradient_norm=1000.0 * (1 + 0.3 * math.sin(i))) for i in range(100)]
    assert judge_series(judge, level)[-1].verdict is Verdict.HEALTHY
    small = judge.observe(replace(CALM, update=101, gradient_norm=1000.0 * math.exp(6 * 0.25)))
    assert small.score < 1.0
    spike = judge.observe(replace(CALM, update=102, gradient_norm=1e6))
    assert spike.reasons == ("GradientNormSpike",)


def test_non_finite_parameters_are_diverged_at_once_and_for_good() -> None:
    judge = StabilityJudge()
    last(judge, CALM, 50)
    lost = judge.observe(replace(CALM, update=51, parameters_finite=False))
    assert lost == Judgement(Verdict.DIVERGED, ("NonFiniteParameters",), 51, 3.0)
    assert last(judge, CALM, 500, 52).verdict is Verdict.DIVERGED


@pytest.mark.parametrize("name", ["value_loss", "policy_loss", "entropy", "gradient_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_number_passes_once_and_ends_the_run_when_it_stays(
    name: str, value: float
) -> None:
    judge = StabilityJudge()
    bad = replace(CALM, **{name: value})
    assert judge_series(judge, [CALM, bad, CALM])[-1].verdict is Verdict.HEALTHY
    lost = last(judge, bad, 10, 4)
    assert lost.verdict is Verdict.DIVERGED
    assert lost.reasons[0].startswith("NonFinite")
    assert last(judge, CALM, 500, 14).verdict is Verdict.DIVERGED


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_ratios_count_as_the_worst(value: float) -> None:
    bad = replace(CALM, kl=value, max_log_ratio=value, effective_sample_size=math.nan)
    judgement = last(StabilityJudge(), bad, 40)
    assert judgement.verdict is Verdict.DEGRADED
    assert judgement.reasons[0] == "HighKL"
    judgement = last(after_a_fall(), replace(bad, episode_return=200.0), 40, 301)
    assert judgement.verdict is Verdict.DIVERGED


def test_a_verdict_is_entered_by_k_of_2k_updates_and_left_after_m_quiet_ones() -> None:
    thresholds = StabilityThresholds(enter_updates=4, leave_updates=12)
    bad = replace(CALM, kl=1.5, max_log_ratio=5.0)
    judge = StabilityJudge(thresholds)
    every_third = [bad if i % 3 == 0 else CALM for i in range(60)]
    assert {j.verdict for j in judge_series(judge, every_third)} == {Verdict.HEALTHY}

    judge = StabilityJudge(thresholds)
    every_second = [bad if i % 2 == 0 else CALM for i in range(60)]
    history = judge_series(judge, every_second)
    assert history[5].verdict is Verdict.HEALTHY
    assert {j.verdict for j in history[6:]} == {Verdict.DEGRADED}

    history = judge_series(judge, [CALM] * 30, 61)
    left = next(i for i, j in enumerate(history) if j.verdict is Verdict.HEALTHY)
    assert 8 <= left <= 12
    assert {j.verdict for j in history[left:]} == {Verdict.HEALTHY}


def test_a_stray_call_does_not_prolong_a_verdict() -> None:
    judge = StabilityJudge(StabilityThresholds(enter_updates=10, leave_updates=30))
    bad = replace(CALM, kl=1.5, max_log_ratio=5.0)
    last(judge, bad, 30)
    stray = [bad if i % 15 == 0 else CALM for i in range(60)]
    assert judge_series(judge, stray, 31)[-1].verdict is Verdict.HEALTHY


def test_thresholds_of_the_user_count() -> None:
    strict = StabilityThresholds(kl=Threshold(0.001, 0.002), max_log_ratio=Threshold(0.1, 0.2))
    assert last(StabilityJudge(), CALM, 60).verdict is Verdict.HEALTHY
    assert last(StabilityJudge(strict), CALM, 20).verdict is Verdict.DEGRADED


def test_thresholds_at_the_ends_of_their_ranges_are_allowed() -> None:
    flat = StabilityThresholds(
        kl=Threshold(0.1, 0.1),
        effective_sample_size=Threshold(0.0, 0.0),
        entropy_fraction=Threshold(1.0, 0.0),
    )
    extreme = replace(CALM, kl=0.1, effective_sample_size=0.0, entropy_fraction=0.0)
    assert last(StabilityJudge(flat), extreme, 20).verdict.rank >= Verdict.WATCH.rank


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_thresholds_must_be_numbers(bad: float) -> None:
    with pytest.raises(ValueError, match="must be finite and not negative"):
        Threshold(bad, 1.0)
    with pytest.raises(ValueError, match="enter_updates: 0 is less than 1"):
        StabilityThresholds(enter_updates=0)


numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
wild = st.builds(
    Observables,
    update=st.just(0),
    relative_alignment=numbers,
    kl=numbers,
    max_log_ratio=numbers,
    effective_sample_size=numbers,
    entropy=numbers,
    entropy_fraction=numbers,
    gradient_norm=numbers,
    value_loss=numbers,
    staleness_mean=numbers,
    episode_return=numbers,
    policy_loss=numbers,
)


@given(st.lists(wild, min_size=1, max_size=60), st.integers(0, 59))
def test_any_numbers_are_judged_and_a_restored_judge_goes_on_exactly(
    series: list[Observables], cut: int
) -> None:
    thresholds = StabilityThresholds(enter_updates=3, leave_updates=5)
    whole, first = StabilityJudge(thresholds), StabilityJudge(thresholds)
    expected = judge_series(whole, series)
    assert all(0.0 <= j.score <= 3.0 for j in expected)

    judge_series(first, series[:cut])
    second = StabilityJudge(thresholds)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    assert judge_series(second, series[cut:], cut + 1) == expected[cut:]
    assert second.state_dict() == whole.state_dict()
