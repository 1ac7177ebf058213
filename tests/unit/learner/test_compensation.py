"""Compensation of staleness layer by layer, against the formulae."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from unit.learner.streams import Stream, make_spec, make_step

from asyncrl_worker.learner.compensation import (
    KL_COEFFICIENT_RANGE,
    DisplacementProjection,
    KlFeedback,
    momentum,
    steer,
    step_size,
)


class TestMomentumAndStepSize:
    def test_momentum_law(self) -> None:
        assert momentum(0.9, 0.0) == 0.9  # to the bit
        assert momentum(0.9, 2.0) == pytest.approx(0.3)

    @pytest.mark.parametrize(
        ("rule", "staleness", "expected"),
        [
            ("constant", 9.0, 1.0),
            ("halfWhenStale", 3.99, 1.0),
            ("halfWhenStale", 4.0, 0.5),
            ("inverse", 3.0, 0.25),
            ("inverseSqrt", 3.0, 0.5),
            ("effectiveSampleSize", 3.0, 0.6),
            *[(rule, 0.0, 1.0) for rule in ("constant", "halfWhenStale", "inverse", "inverseSqrt")],
        ],
    )
    def test_step_size(self, rule: str, staleness: float, expected: float) -> None:
        found = step_size(rule, staleness=staleness, effective_sample_size=0.36)  # type: ignore[arg-type]
        assert found == pytest.approx(expected)

    def test_steer_sets_adam_and_sgd(self) -> None:
        parameter = torch.nn.Parameter(torch.zeros(1))
        adam = torch.optim.Adam([parameter], betas=(0.9, 0.95))
        sgd = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
        for optimizer in (adam, sgd):
            steer(optimizer, learning_rate=0.25, beta1=0.125)
            assert optimizer.param_groups[0]["lr"] == 0.25
        assert adam.param_groups[0]["betas"] == (0.125, 0.95)
        assert sgd.param_groups[0]["momentum"] == 0.125


class TestKlFeedback:
    @pytest.mark.parametrize(
        ("kl", "factor"),
        [(0.031, math.exp(0.05)), (0.029, 1.0), (0.014, 1.0), (0.0132, math.exp(-0.05))],
    )
    def test_target_mode_adapts_outside_its_band_only(self, kl: float, factor: float) -> None:
        feedback = KlFeedback("target", coefficient=0.1, target=0.02)
        feedback.observe(kl)
        assert feedback.coefficient == pytest.approx(0.1 * factor)

    def test_target_mode_stays_within_its_range_and_ignores_what_is_not_finite(self) -> None:
        feedback = KlFeedback("target", coefficient=0.1, target=0.02)
        for _ in range(500):
            feedback.observe(1.0)
        assert feedback.coefficient == KL_COEFFICIENT_RANGE[1]
        for _ in range(1000):
            feedback.observe(0.0)
        assert feedback.coefficient == KL_COEFFICIENT_RANGE[0]
        feedback.observe(math.nan)
        feedback.observe(math.inf)
        assert feedback.coefficient == KL_COEFFICIENT_RANGE[0]

    def test_fixed_stays_and_off_is_zero(self) -> None:
        for mode, expected in (("fixed", 0.1), ("off", 0.0)):
            feedback = KlFeedback(mode, coefficient=0.1, target=0.02)  # type: ignore[arg-type]
            feedback.observe(9.0)
            assert feedback.coefficient == expected


class TestDisplacementProjection:
    """Two parameters of different shapes, moved by hand."""

    def setup_method(self) -> None:
        self.parameters = [
            torch.nn.Parameter(torch.zeros(2, 2)),
            torch.nn.Parameter(torch.zeros(3)),
        ]

    def flat(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.parameters]).clone()

    def move(self, update: Tensor) -> None:
        with torch.no_grad():
            self.parameters[0].add_(update[:4].reshape(2, 2))
            self.parameters[1].add_(update[4:])

    def step(self, layer: DisplacementProjection, update: Tensor, staleness: float) -> float:
        layer.before()
        self.move(update)
        return layer.after(staleness)

    def walk(self, layer: DisplacementProjection, steps: int) -> list[Tensor]:
        """Some steps without any staleness; returns every version of the parameters."""
        generator = torch.Generator().manual_seed(0)
        versions = [self.flat()]
        for _ in range(steps):
            assert self.step(layer, torch.randn(7, generator=generator), 0.0) == 0.0
            versions.append(self.flat())
        return versions

    @pytest.mark.parametrize("fraction", [0.5, 1.0])
    @pytest.mark.parametrize("lag", [1, 3])
    def test_the_part_along_the_displacement_shrinks_by_the_fraction(
        self, fraction: float, lag: int
    ) -> None:
        layer = DisplacementProjection(self.parameters, fraction=fraction, capacity=4)
        versions = self.walk(layer, 5)
        displacement = versions[-1] - versions[-1 - lag]
        update = 0.6 * displacement + 0.3 * torch.linspace(-1, 1, 7)
        along = float(update @ displacement / displacement.square().sum())
        assert along > 0
        removed = self.step(layer, update, float(lag))
        assert removed == pytest.approx(fraction * along, rel=1e-5)
        expected = versions[-1] + update - fraction * along * displacement
        torch.testing.assert_close(self.flat(), expected)
        left = self.flat() - versions[-1]
        assert float(left @ displacement) == pytest.approx(
            (1 - fraction) * float(update @ displacement), abs=1e-4
        )

    def test_an_update_against_the_displacement_is_left_alone(self) -> None:
        layer = DisplacementProjection(self.parameters, fraction=1.0, capacity=4)
        versions = self.walk(layer, 3)
        update = -0.5 * (versions[-1] - versions[-3])
        assert self.step(layer, update, 2.0) == 0.0
        assert torch.equal(self.flat(), versions[-1] + update)

    def test_without_lag_or_history_nothing_happens(self) -> None:
        layer = DisplacementProjection(self.parameters, fraction=1.0, capacity=4)
        update = torch.ones(7)
        assert self.step(layer, update, 3.0) == 0.0  # the first version has no past
        assert self.step(layer, update, 0.4) == 0.0
        assert torch.equal(self.flat(), 2 * update)

    def test_a_batch_older_than_the_memory_uses_the_oldest_version(self) -> None:
        layer = DisplacementProjection(self.parameters, fraction=1.0, capacity=2)
        versions = self.walk(layer, 6)
        displacement = versions[-1] - versions[-3]
        self.step(layer, displacement.clone(), 50.0)
        torch.testing.assert_close(self.flat(), versions[-1], atol=1e-5, rtol=0)
        assert len(layer.state()) == (2 + 1) * len(self.parameters)

    def test_switched_off_it_keeps_nothing(self) -> None:
        layer = DisplacementProjection(self.parameters, fraction=0.0, capacity=4)
        self.walk(layer, 3)
        assert self.step(layer, torch.ones(7), 2.0) == 0.0
        assert layer.state() == {}

    def test_skipped_updates_do_not_count_as_versions(self) -> None:
        """theta_{t-s} is s versions back, however many batches were skipped between."""
        lag = 2
        spec = make_spec(
            {
                "compensation.displacementProjection": 1.0,
                "alignment.calibration": "fixed",
                "alignment.low": 0.0,
                "alignment.high": 0.2,
            }
        )
        step, stream = make_step(spec), Stream(spec, lag=lag)
        versions: list[list[Tensor]] = []
        outcomes = []
        for _ in range(14):
            if len(versions) == step.version:
                versions.append([p.detach().clone() for p in step.policy_parameters])
            result = step.update(stream.next(step.weights(), step.version))
            outcomes.append(result.outcome)
        assert {"trained", "skipped"} == set(outcomes)
        remembered = step.displacement.state()
        width, newest = len(step.policy_parameters), step.version - 1
        ages = len(remembered) // width
        for age in range(ages):
            for index in range(width):
                expected = versions[newest - (ages - 1 - age)][index]
                assert torch.equal(remembered[f"{age}.{index}"], expected)
