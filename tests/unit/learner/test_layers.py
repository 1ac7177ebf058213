"""The layers of the step one by one, against numpy and against their formulae."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from unit.learner.streams import Stream, make_spec, make_step, record

from asyncrl_worker.environments.spaces import Discrete
from asyncrl_worker.learner.batch import Batch
from asyncrl_worker.learner.compensation import (
    KL_COEFFICIENT_RANGE,
    DisplacementProjection,
    KlFeedback,
    momentum,
    steer,
    step_size,
)
from asyncrl_worker.learner.measures import SplitHalf, measure_importance, measure_staleness
from asyncrl_worker.learner.normalizer import Normalizer
from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.learner.value_scale import ValueScale
from asyncrl_worker.policies.layout import PolicyLayout
from asyncrl_worker.policies.network import ValueNetwork

ONE = Ranks()


def masked(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Numbers [T, N, ...] with an offset, and a mask [T, N] with some of them invalid."""
    rng = np.random.default_rng(seed)
    values = torch.tensor(rng.normal(3.0, 2.0, shape), dtype=torch.float32)
    return values, torch.tensor(rng.random(shape[:2]) < 0.8)


class TestNormalizer:
    def test_batch_by_batch_it_has_the_moments_of_all_data(self) -> None:
        normalizer = Normalizer(3, enabled=True)
        seen = []
        for seed in range(7):
            observations, valid = masked(seed, 4 + seed, 5, 3)
            observations *= 10.0**seed
            normalizer.update(observations, valid, ONE)
            seen.append(observations[valid].numpy().astype(np.float64))
        everything = np.concatenate(seen)
        np.testing.assert_allclose(normalizer.mean.numpy(), everything.mean(0), rtol=1e-12)
        expected = ((everything - everything.mean(0)) / everything.std(0)).clip(-10, 10)
        found = normalizer(torch.tensor(everything, dtype=torch.float32))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)

    def test_it_is_precise_far_from_zero(self) -> None:
        normalizer = Normalizer(1, enabled=True)
        rng = np.random.default_rng(0)
        data = (1e4 + rng.normal(size=(50, 20, 1))).astype(np.float32)
        for rows in np.split(data, 5):
            normalizer.update(torch.tensor(rows), torch.ones(10, 20, dtype=torch.bool), ONE)
        scale = float(normalizer.to_weights()["normalizer.scale"])
        assert scale == pytest.approx(1 / data.astype(np.float64).std(), rel=1e-6)

    def test_switched_off_or_without_data_it_is_the_identity(self) -> None:
        observations, valid = masked(0, 3, 2, 4)
        off, empty = Normalizer(4, enabled=False), Normalizer(4, enabled=True)
        off.update(observations, valid, ONE)
        empty.update(observations, torch.zeros_like(valid), ONE)
        for normalizer in (off, empty):
            assert normalizer(observations) is observations
            weights = normalizer.to_weights()
            assert not bool(weights["normalizer.mean"].any())
            assert bool((weights["normalizer.scale"] == 1).all())

    def test_published_weights_do_not_move_with_later_updates(self) -> None:
        normalizer = Normalizer(2, enabled=True)
        observations, valid = masked(0, 3, 2, 2)
        normalizer.update(observations, valid, ONE)
        published = normalizer.to_weights()
        before = {name: tensor.clone() for name, tensor in published.items()}
        normalizer.update(observations * 5, valid, ONE)
        assert all(torch.equal(published[name], before[name]) for name in before)


class TestValueScale:
    def network(self) -> ValueNetwork:
        layout = PolicyLayout(4, Discrete(2), (8,), "tanh")
        return ValueNetwork(layout, generator=torch.Generator().manual_seed(1))

    def test_predictions_stay_when_the_statistics_move(self) -> None:
        network = self.network()
        scale = ValueScale(network, enabled=True)
        observations, _ = masked(9, 6, 4, 4)
        for seed, (offset, size) in enumerate([(0.0, 1.0), (50.0, 3.0), (-20.0, 300.0)]):
            before = scale.denormalize(network(observations))
            targets, valid = masked(seed, 6, 4)
            scale.update(targets * size + offset, valid, ONE)
            after = scale.denormalize(network(observations))
            assert scale.deviation != 1.0
            torch.testing.assert_close(after, before, atol=1e-5 * scale.deviation, rtol=1e-5)

    def test_the_first_batch_sets_the_statistics_and_later_ones_move_them(self) -> None:
        scale = ValueScale(self.network(), enabled=True)
        targets, valid = masked(1, 6, 4)
        scale.update(targets, valid, ONE)
        kept = targets[valid].numpy()
        assert (scale.mean, scale.deviation) == pytest.approx((kept.mean(), kept.std()), rel=1e-5)
        normal = scale.normalize(targets)[valid]
        assert float(normal.mean()) == pytest.approx(0, abs=1e-5)
        for _ in range(400):
            scale.update(targets * 10, valid, ONE)
        assert scale.mean == pytest.approx(10 * kept.mean(), rel=1e-3)
        assert scale.deviation == pytest.approx(10 * kept.std(), rel=1e-2)

    def test_a_small_spread_far_from_zero_is_not_lost_to_rounding(self) -> None:
        scale = ValueScale(self.network(), enabled=True)
        rng = np.random.default_rng(0)
        targets = torch.tensor(3000.0 + 0.25 * rng.normal(size=(8, 8)), dtype=torch.float32)
        scale.update(targets, torch.ones(8, 8, dtype=torch.bool), ONE)
        assert scale.deviation == pytest.approx(float(targets.double().std(correction=0)), rel=1e-6)

    def test_constant_targets_do_not_divide_by_zero(self) -> None:
        network = self.network()
        scale = ValueScale(network, enabled=True)
        scale.update(torch.full((3, 2), 7.0), torch.ones(3, 2, dtype=torch.bool), ONE)
        assert scale.deviation > 0
        assert all(bool(torch.isfinite(p).all()) for p in network.parameters())

    def test_switched_off_it_is_the_identity(self) -> None:
        network = self.network()
        before = [p.detach().clone() for p in network.parameters()]
        scale = ValueScale(network, enabled=False)
        targets, valid = masked(0, 3, 2)
        scale.update(targets, valid, ONE)
        assert scale.normalize(targets) is targets
        assert scale.denormalize(targets) is targets
        assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))


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


class TestSplitHalf:
    def test_the_halves_are_every_other_environment(self) -> None:
        """The prediction equals 2c / (1 + c) of gradients of the two halves, made one by one."""
        # Plain gradient descent with a rate of 1 shows the gradient.
        spec = make_spec(
            {
                "algorithm.normalizeAdvantages": False,
                "alignment.mode": "observe",
                "optimizer.name": "sgd",
                "optimizer.beta1": 0.0,
                "optimizer.learningRate": 1.0,
                "optimizer.maxGradientNorm": None,
            }
        )
        (batch,) = record(spec, 1, lag=0)

        def gradient(columns: slice) -> Tensor:
            step = make_step(spec)
            before = torch.cat([p.detach().flatten() for p in step.policy_parameters])
            part = Batch(*(getattr(batch, n)[:, columns] for n in Batch.__dataclass_fields__))
            step.update(part)
            after = torch.cat([p.detach().flatten() for p in step.policy_parameters])
            return before - after

        first, second = gradient(slice(0, None, 2)), gradient(slice(1, None, 2))
        expected = float(torch.cosine_similarity(first, second, dim=0))
        step = make_step(spec)
        step.update(batch)
        assert step.split_half.smoothed == pytest.approx(expected, abs=1e-4)
        prediction = 2 * expected / (1 + expected)
        relative = step.split_half.relative(0.3)
        assert relative == (pytest.approx(0.3 / prediction, rel=1e-3) if expected > 0 else None)

    def test_it_is_smoothed_and_ignores_unusable_gradients(self) -> None:
        half = SplitHalf(weight=0.25)
        assert half.relative(0.5) is None
        half.observe([torch.tensor([1.0, 0.0])], [torch.tensor([2.0, 0.0])])  # cosine 1
        half.observe([torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 1.0])])  # cosine 0
        assert half.smoothed == pytest.approx(0.75)
        half.observe([torch.tensor([0.0, 0.0])], [torch.tensor([1.0, 1.0])])
        half.observe([torch.tensor([math.nan, 0.0])], [torch.tensor([1.0, 1.0])])
        assert half.smoothed == pytest.approx(0.75)
        assert half.relative(None) is None

    def test_halves_that_disagree_predict_nothing(self) -> None:
        half = SplitHalf()
        half.observe([torch.tensor([1.0, 0.0])], [torch.tensor([0.5, 0.1])])
        assert half.smoothed is not None
        assert half.smoothed < 0
        assert half.relative(0.5) is None


class TestImportance:
    @settings(deadline=None, max_examples=40)
    @given(
        seed=st.integers(0, 10_000),
        spread=st.sampled_from([0.0, 0.1, 2.0]),
        share=st.sampled_from([0.3, 1.0]),
    )
    def test_against_numpy(self, seed: int, spread: float, share: float) -> None:
        rng = np.random.default_rng(seed)
        log_ratios = rng.normal(0, spread, (5, 4)).astype(np.float32)
        entropy = rng.random((5, 4)).astype(np.float32)
        valid = rng.random((5, 4)) < share
        valid[0, 0] = True
        found = measure_importance(
            torch.tensor(log_ratios),
            torch.tensor(entropy),
            torch.tensor(valid),
            clip=0.2,
            ranks=ONE,
        )
        logs = log_ratios[valid].astype(np.float64)
        r = np.exp(logs)
        assert found.kl == pytest.approx(np.mean(r - 1 - logs), abs=1e-12)
        assert found.max_log_ratio == pytest.approx(np.abs(logs).max())
        assert found.effective_sample_size == pytest.approx(r.sum() ** 2 / (r.size * (r**2).sum()))
        assert found.clipped_fraction == pytest.approx(np.mean(np.abs(r - 1) > 0.2))
        assert found.entropy == pytest.approx(entropy[valid].mean(), rel=1e-6)

    @pytest.mark.parametrize("shift", [900.0, -900.0])
    def test_effective_sample_size_survives_ratios_beyond_float64(self, shift: float) -> None:
        log_ratios = torch.tensor([[shift, shift], [shift + math.log(3.0), -5000.0]])
        found = measure_importance(
            log_ratios, torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool), clip=0.2, ranks=ONE
        )
        # Weights 1, 1, 3, 0 but for a factor.
        assert found.effective_sample_size == pytest.approx(25 / (4 * 11), rel=1e-4)
        assert math.isinf(found.kl) == (shift > 0)
        assert found.max_log_ratio == 5000.0

    def test_invalid_steps_do_not_count_however_wild(self) -> None:
        log_ratios = torch.tensor([[0.1, 3e38], [0.2, -math.inf]])
        valid = torch.tensor([[True, False], [True, False]])
        wild = measure_importance(log_ratios, torch.ones(2, 2), valid, clip=0.2, ranks=ONE)
        tame = measure_importance(
            log_ratios[:, :1], torch.ones(2, 1), valid[:, :1], clip=0.2, ranks=ONE
        )
        assert wild == tame

    def test_without_any_valid_step(self) -> None:
        found = measure_importance(
            torch.ones(2, 2),
            torch.ones(2, 2),
            torch.zeros(2, 2, dtype=torch.bool),
            clip=0.2,
            ranks=ONE,
        )
        assert (found.kl, found.effective_sample_size, found.max_log_ratio) == (0.0, 1.0, 0.0)


class TestStaleness:
    def batch(self, versions: list[int]) -> Batch:
        (batch,) = record(make_spec(), 1, lag=0)
        width = batch.rewards.shape[1]
        rows = torch.tensor(versions).unsqueeze(1).expand(len(versions), width).contiguous()
        return replace(batch, policy_versions=rows, valid=torch.ones_like(batch.valid))

    def test_against_numpy(self) -> None:
        versions = [3, 3, 4, 4, 4, 5, 5, 6, 7, 7, 7, 7]
        found = measure_staleness(self.batch(versions), 8, ONE)
        ages = 8 - np.array(versions)
        assert found.mean == pytest.approx(ages.mean())
        assert found.max == ages.max()
        assert found.p50 == pytest.approx(np.quantile(ages, 0.5, method="inverted_cdf"))
        assert found.p95 == pytest.approx(np.quantile(ages, 0.95, method="inverted_cdf"))

    def test_only_valid_steps_count(self) -> None:
        batch = self.batch([0, *[5] * 11])
        valid = batch.valid.clone()
        valid[0] = False
        found = measure_staleness(replace(batch, valid=valid), 5, ONE)
        assert (found.mean, found.max) == (0.0, 0.0)
        nothing = measure_staleness(replace(batch, valid=torch.zeros_like(valid)), 5, ONE)
        assert nothing.max == 5.0
