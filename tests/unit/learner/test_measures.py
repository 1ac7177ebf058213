"""What an update measures, against numpy and explicit gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from unit.learner.streams import make_spec, make_step, record

from asyncrl_worker.learner.batch import Batch
from asyncrl_worker.learner.measures import SplitHalf, measure_importance, measure_staleness
from asyncrl_worker.learner.ranks import Ranks

ONE = Ranks()


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
