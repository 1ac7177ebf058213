"""The scales of observations and of returns, against numpy over all data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from asyncrl_worker.environments.spaces import Discrete
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
