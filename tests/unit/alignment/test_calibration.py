"""The calibrated guard on synthetic cosines: silent while healthy, awake when alignment rises."""

from __future__ import annotations

import math
import random

import pytest

from asyncrl_worker.alignment import AlignmentConfig, HealthyLevel
from asyncrl_worker.alignment.calibration import GuardLimits, autocorrelation

CONFIG = AlignmentConfig()
SEEDS = range(12)


def cosines(
    mean: float,
    deviation: float,
    correlation: float,
    *,
    seed: int,
    updates: int = 1000,
    drift: float = 0.0,
    rise: float = 0.0,
    rise_at: int = 0,
) -> list[float]:
    """First-order autoregressive series around a level that drifts in all by `drift`."""
    generator = random.Random(seed)
    noise = generator.gauss(0.0, 1.0)
    series = []
    for update in range(updates):
        level = mean + drift * update / updates + (rise if update >= rise_at else 0.0)
        spread = deviation / (1.0 - mean**2)
        series.append(math.tanh(math.atanh(max(-0.99, min(0.99, level))) + spread * noise))
        innovation = math.sqrt(1.0 - correlation**2) * generator.gauss(0.0, 1.0)
        noise = correlation * noise + innovation
    return series


def touched(series: list[float]) -> list[int]:
    """Updates at which the guard would act, by the rule of the controller."""
    level = HealthyLevel(
        CONFIG.calibration_updates,
        CONFIG.low_deviations,
        CONFIG.high_deviations,
        CONFIG.smoothing,
    )
    smoothed, acted = 0.0, []
    for update, cosine in enumerate(series):
        smoothed += max(CONFIG.smoothing, 1.0 / (update + 1)) * (cosine - smoothed)
        low = level.low
        alarmed = low is not None and smoothed > low
        if low is not None and alarmed and cosine > low:
            acted.append(update)
        level.observe(cosine, alarmed=alarmed)
    return acted


HEALTHY = {
    "white noise": {"mean": 0.0, "deviation": 0.3, "correlation": 0.0},
    "small policy": {"mean": 0.1, "deviation": 0.6, "correlation": 0.1},
    "large batch": {"mean": 0.2, "deviation": 0.1, "correlation": 0.3},
    "correlated": {"mean": 0.1, "deviation": 0.3, "correlation": 0.5},
    "long memory": {"mean": 0.1, "deviation": 0.2, "correlation": 0.9},
    "negative": {"mean": -0.35, "deviation": 0.4, "correlation": 0.2},
    "low noise": {"mean": 0.9, "deviation": 0.05, "correlation": 0.3},
    "rising": {"mean": -0.3, "deviation": 0.3, "correlation": 0.3, "drift": 0.3},
    "falling": {"mean": 0.4, "deviation": 0.2, "correlation": 0.3, "drift": -0.4},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_silent_on_healthy_runs(name: str) -> None:
    fractions = [len(touched(cosines(**HEALTHY[name], seed=seed))) / 1000 for seed in SEEDS]
    # An autocorrelation of .9 is more than 50 updates can measure.
    bound = 0.02 if name == "long memory" else 0.01
    assert max(fractions) < bound
    assert sum(fractions) / len(fractions) < bound / 5


RISES = {
    "large batch, by .3": ({"mean": 0.1, "deviation": 0.1, "correlation": 0.3, "rise": 0.3}, 15),
    "collapse": ({"mean": 0.1, "deviation": 0.5, "correlation": 0.1, "rise": 0.85}, 12),
    "collapse at noise .3": ({"mean": 0.0, "deviation": 0.3, "correlation": 0.3, "rise": 0.9}, 12),
    "low noise": ({"mean": 0.85, "deviation": 0.03, "correlation": 0.3, "rise": 0.13}, 12),
}


@pytest.mark.parametrize("name", RISES)
def test_wakes_soon_after_a_rise(name: str) -> None:
    shape, delay = RISES[name]
    for seed in SEEDS:
        series = cosines(**shape, seed=seed, updates=400, rise_at=200)
        acted = [update for update in touched(series) if update >= 200]
        assert acted, f"seed {seed}: never"
        assert acted[0] - 200 <= delay
        assert len(acted) > 100, f"seed {seed}: the rise was taken for drift"


def test_slow_rise_is_not_taken_for_drift() -> None:
    for seed in SEEDS:
        series = cosines(0.0, 0.2, 0.2, seed=seed, updates=3000, drift=0.97)
        acted = touched(series)
        assert acted
        assert len([update for update in acted if update > 2700]) > 100


def calibrated(values: list[float], limits: GuardLimits | None = None) -> HealthyLevel:
    level = HealthyLevel(len(values), 3.5, 5.0, 0.2, limits)
    for value in values:
        level.observe(value, alarmed=False)
    assert level.calibrated
    return level


def test_no_thresholds_while_calibrating() -> None:
    level = HealthyLevel(50, 3.5, 5.0, 0.2)
    for _ in range(49):
        level.observe(0.99, alarmed=False)
        assert (level.low, level.high, level.level, level.spread) == (None, None, None, None)
    level.observe(0.99, alarmed=False)
    assert level.calibrated


@pytest.mark.parametrize("start", [60, 150])
def test_aligned_start_is_followed_down_and_its_return_seen(start: int) -> None:
    """Small learning rates begin near 1 on fresh rollouts and settle near .1 with more noise."""
    for seed in SEEDS:
        early = cosines(0.95, 0.03, 0.3, seed=seed, updates=start)
        between = cosines(0.95, 0.1, 0.3, seed=seed + 100, updates=100, drift=-0.85)
        late = cosines(0.1, 0.5, 0.1, seed=seed + 200, updates=1000)
        healthy = early + between + late
        assert len(touched(healthy)) < 0.01 * len(healthy)
        back = cosines(0.97, 0.02, 0.3, seed=seed + 300, updates=200)
        acted = [update - len(healthy) for update in touched(healthy + back)]
        assert 0 <= min(update for update in acted if update >= 0) < 20
        assert len([update for update in acted if update >= 0]) > 150


def test_chance_alignment_at_the_start_is_no_alarm() -> None:
    assert touched([0.99, 0.98, 0.99, *cosines(0.0, 0.3, 0.0, seed=1, updates=200)]) == []


@pytest.mark.parametrize("mean", [-0.9, -0.3, 0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("deviation", [0.0, 0.001, 0.3])
def test_thresholds_keep_their_bounds_and_order(mean: float, deviation: float) -> None:
    signs = [1.0, -1.0] * 25
    level = calibrated([max(-1.0, min(1.0, mean + deviation * sign)) for sign in signs])
    limits = GuardLimits()
    assert level.low is not None
    assert level.high is not None
    assert level.level is not None
    margin = math.tanh(math.atanh(min(0.9999, level.level)) + limits.least_margin)
    assert level.low >= max(margin, limits.least_low)
    if margin > limits.greatest_low:
        assert (level.low, level.high) == (1.0, 1.0)
    else:
        assert level.low <= limits.greatest_low
        assert limits.least_high <= level.high <= limits.greatest_high
        assert level.low < level.high


def test_a_level_without_room_above_it_never_alarms_and_is_followed_down() -> None:
    for seed in SEEDS:
        generator = random.Random(seed)
        high = [1.0 - 0.001 * generator.random() for _ in range(500)]
        assert touched(high) == []
        settled = high[:100] + cosines(0.1, 0.3, 0.1, seed=seed, updates=600)
        assert touched(settled) == []
        back = touched(settled + high)
        assert back and back[0] - len(settled) < 20


def test_noise_that_leaves_no_room_for_its_margin_never_alarms() -> None:
    level = calibrated([0.93 + 0.0699 * sign for sign in ([1.0] * 8 + [-1.0] * 8) * 4])
    assert (level.low, level.high) == (1.0, 1.0)


def test_nothing_is_learned_while_alarmed() -> None:
    level = calibrated([0.1, 0.3] * 25)
    before = level.state()
    for _ in range(100):
        level.observe(0.9, alarmed=True)
    assert level.state() == before


def test_level_follows_down_freely_and_up_to_its_bound() -> None:
    falling = calibrated([0.1, 0.3] * 25)
    rising = calibrated([0.1, 0.3] * 25)
    for _ in range(2000):
        falling.observe(-0.5, alarmed=False)
        rising.observe(0.95, alarmed=False)
    assert falling.level == pytest.approx(-0.5, abs=0.01)
    assert rising.level == pytest.approx(math.tanh(math.atanh(0.2) + GuardLimits().greatest_rise))


def test_spread_is_that_of_the_running_mean() -> None:
    generator = random.Random(5)
    series = [generator.gauss(0.1, 0.2) for _ in range(4000)]
    level = calibrated(series)
    smoothed, means = 0.1, []
    for value in series:
        smoothed += 0.2 * (value - smoothed)
        means.append(smoothed - 0.1)
    measured = math.sqrt(sum(mean * mean for mean in means) / len(means))
    assert level.spread == pytest.approx(measured, rel=0.1)


def test_autocorrelation() -> None:
    generator = random.Random(3)
    series, value = [], 0.0
    for _ in range(4000):
        value = 0.6 * value + generator.gauss(0.0, 1.0)
        series.append(value)
    assert autocorrelation(series) == pytest.approx(0.6, abs=0.05)
    assert autocorrelation([1.0, -1.0] * 10) == 0.0
    assert autocorrelation([0.0] * 10) == 0.0


@pytest.mark.parametrize("updates", [20, 200])
def test_restores_exactly(updates: int) -> None:
    series = cosines(0.1, 0.3, 0.2, seed=2, updates=400)
    first = HealthyLevel(50, 3.5, 5.0, 0.2)
    for cosine in series[:updates]:
        first.observe(cosine, alarmed=False)
    second = HealthyLevel(50, 3.5, 5.0, 0.2)
    second.restore(first.state(), first.samples)
    for cosine in series[updates:]:
        first.observe(cosine, alarmed=False)
        second.observe(cosine, alarmed=False)
    assert first.state() == second.state()
    assert (first.low, first.high) == (second.low, second.high)
