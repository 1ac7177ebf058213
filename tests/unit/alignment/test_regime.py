"""The definition of gradient alignment control: regimes, projection and its identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from asyncrl_worker.alignment import (
    AlignmentConfig,
    Regime,
    classify,
    gradient_cosine,
    kept_fraction,
    project,
    projected_norm,
    relative_alignment,
    split_half_prediction,
)

LOW, HIGH = 0.05, 0.3
vectors = st.lists(st.floats(-10.0, 10.0, width=32), min_size=4, max_size=4)
fractions = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("cosine", "skips", "expected"),
    [
        (-1.0, 0, Regime.PASS),
        (0.0, 0, Regime.PASS),
        (LOW, 0, Regime.PASS),
        (LOW + 1e-9, 0, Regime.PROJECT),
        (HIGH, 0, Regime.PROJECT),
        (HIGH + 1e-9, 0, Regime.SKIP),
        (1.0, 2, Regime.SKIP),
        (1.0, 3, Regime.PROJECT),
        (1.0, 4, Regime.PROJECT),
        (0.0, 3, Regime.PASS),
    ],
)
def test_regimes(cosine: float, skips: int, expected: Regime) -> None:
    assert classify(cosine, LOW, HIGH, skips, max_skips=3) is expected


def test_no_skips_allowed_projects() -> None:
    assert classify(1.0, LOW, HIGH, 0, max_skips=0) is Regime.PROJECT


def cosine_of(gradient: torch.Tensor, previous: torch.Tensor) -> float:
    return float(gradient @ previous / (gradient.norm() * previous.norm()))


def pair(left: list[float], right: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    gradient = torch.tensor(left, dtype=torch.float64)
    previous = torch.tensor(right, dtype=torch.float64)
    assume(gradient.norm() > 1e-3 and previous.norm() > 1e-3)
    return gradient, previous


@given(vectors, vectors, fractions)
def test_projection_identities(left: list[float], right: list[float], kept: float) -> None:
    gradient, previous = pair(left, right)
    cosine = cosine_of(gradient, previous)
    assume(cosine > 0.0)
    result = project(gradient, previous, kept)
    square = float(gradient @ gradient)
    inner = float(gradient @ previous)
    expected = square - (1 - kept**2) * inner**2 / float(previous @ previous)
    assert float(result @ result) == pytest.approx(expected, rel=1e-9, abs=1e-9 * square)
    assert projected_norm(math.sqrt(square), cosine, kept) == pytest.approx(
        float(result.norm()), abs=1e-6 * math.sqrt(square)
    )
    descent = float(result @ gradient)
    assert descent == pytest.approx(square * (1 - (1 - kept) * cosine**2), abs=1e-9 * square)
    assert descent >= -1e-9 * square


@given(vectors, vectors)
def test_remove_is_orthogonal_to_the_previous(left: list[float], right: list[float]) -> None:
    gradient, previous = pair(left, right)
    cosine = cosine_of(gradient, previous)
    assume(cosine > 0.0)
    result = project(gradient, previous, kept_fraction(cosine, LOW, "remove"))
    assert abs(float(result @ previous)) <= 1e-12 * float(gradient.norm() * previous.norm()) + 1e-12


@given(vectors, vectors)
def test_cap_limits_the_parallel_length(left: list[float], right: list[float]) -> None:
    gradient, previous = pair(left, right)
    cosine = cosine_of(gradient, previous)
    assume(cosine > LOW)
    result = project(gradient, previous, kept_fraction(cosine, LOW, "cap"))
    parallel = float(result @ previous / previous.norm())
    assert parallel == pytest.approx(LOW * float(gradient.norm()), rel=1e-6)


def test_cap_is_continuous_at_low() -> None:
    assert kept_fraction(LOW, LOW, "cap") == 1.0
    assert kept_fraction(LOW + 1e-9, LOW, "cap") == pytest.approx(1.0, abs=1e-7)
    assert kept_fraction(1.0, LOW, "cap") == LOW


@given(vectors, vectors, fractions)
def test_opposed_gradients_stay_as_they_are(
    left: list[float], right: list[float], kept: float
) -> None:
    gradient, previous = pair(left, right)
    assume(float(gradient @ previous) <= 0.0)
    assert torch.equal(project(gradient, previous, kept), gradient)


@given(st.floats(-0.9, 1.0))
def test_split_half_prediction_is_that_of_averaged_noise(split: float) -> None:
    # Halves a, b = signal + noise: <a, b> = s, |a|^2 = s + n; whole batches: s / (s + n / 2).
    signal, noise = split, 1.0 - split
    assume(signal + noise / 2 > 0)
    assert split_half_prediction(split) == pytest.approx(signal / (signal + noise / 2))


def test_split_half_prediction_refuses_its_pole() -> None:
    with pytest.raises(ValueError, match="split cosine: -1"):
        split_half_prediction(-1.0)


def test_relative_alignment() -> None:
    assert relative_alignment(0.4, 0.5) == pytest.approx(0.4 / (2 / 3))
    assert relative_alignment(None, 0.5) is None
    assert relative_alignment(0.4, None) is None
    assert relative_alignment(0.4, -0.2) is None
    assert relative_alignment(0.4, 0.001) is None


def test_gradient_cosine() -> None:
    first = [torch.tensor([[1.0, 0.0]]), torch.tensor([1.0])]
    second = [torch.tensor([[0.0, 3.0]]), torch.tensor([3.0])]
    assert gradient_cosine(first, second) == pytest.approx(0.5)
    assert gradient_cosine(first, [torch.zeros(1, 2), torch.zeros(1)]) is None
    assert gradient_cosine(first, [torch.full((1, 2), math.nan), torch.zeros(1)]) is None


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("mode", "on", "one of"),
        ("projection", "clip", "one of"),
        ("memory_dtype", "float8", "one of"),
        ("low", 0.4, "at most high"),
        ("low", -0.1, "at least 0"),
        ("high", 1.5, "at most 1"),
        ("max_skips", -1, "0 or more"),
        ("calibration_updates", 3, "8 or more"),
        ("low_deviations", 0.0, "more than 0"),
        ("high_deviations", 1.0, "at least low_deviations"),
        ("smoothing", 0.0, "more than 0"),
    ],
)
def test_configuration_errors_name_field_value_and_remedy(
    name: str, value: object, remedy: str
) -> None:
    with pytest.raises(ValueError) as error:
        AlignmentConfig(**{name: value})  # type: ignore[arg-type]
    message = str(error.value)
    assert "\n" not in message
    assert name in message
    assert repr(value) in message
    assert remedy in message
