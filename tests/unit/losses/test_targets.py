"""V-trace and GAE against loops over one environment at a time, and against hand computation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from asyncrl_worker.losses.targets import gae, vtrace

Floats = NDArray[np.float64]


@dataclass
class Episodes:
    """Steps [T, N] with NEXT_STEP autoreset: the step after an end only resets."""

    log_ratios: Floats
    rewards: Floats
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    values: Floats  # [T + 1, N]

    def tensors(self, discount: float) -> dict[str, Tensor]:
        ended = self.terminated | self.truncated
        arrays = {
            "rewards": self.rewards,
            "discounts": discount * ~self.terminated,
            "continues": ~ended,
            "values": self.values,
        }
        return {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}


@st.composite
def episodes(draw: st.DrawFn) -> Episodes:
    length, width = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    end_rate = draw(st.sampled_from([0.0, 0.2, 0.5]))
    terminated = np.zeros((length, width), dtype=bool)
    truncated = np.zeros((length, width), dtype=bool)
    valid = np.ones((length, width), dtype=bool)
    just_ended = rng.random(width) < end_rate  # in the fragment before
    for t in range(length):
        valid[t] = ~just_ended
        terminated[t] = valid[t] & (rng.random(width) < end_rate / 2)
        truncated[t] = valid[t] & (rng.random(width) < end_rate / 2)  # may be both
        just_ended = terminated[t] | truncated[t]
    return Episodes(
        log_ratios=rng.normal(0.0, draw(st.sampled_from([0.0, 0.5, 3.0])), (length, width)),
        rewards=rng.normal(size=(length, width)) * valid,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        values=rng.normal(size=(length + 1, width)),
    )


def segments(e: Episodes, n: int) -> list[list[int]]:
    """The valid steps of environment n, one list per (part of an) episode."""
    parts: list[list[int]] = [[]]
    for t in range(len(e.rewards)):
        if e.valid[t, n]:
            parts[-1].append(t)
        if not e.valid[t, n] or e.terminated[t, n] or e.truncated[t, n]:
            parts.append([])
    return [part for part in parts if part]


def bootstrap(e: Episodes, t: int, n: int) -> float:
    """The value after step t: of the final observation where truncated, 0 where terminated."""
    return 0.0 if e.terminated[t, n] else float(e.values[t + 1, n])


def reference_vtrace(
    e: Episodes, discount: float, rho_bar: float, c_bar: float, trace_lambda: float
) -> tuple[Floats, Floats]:
    """IMPALA's equation 1 as it is written, a sum over the rest of the segment for each step."""
    targets, advantages = np.full((2, *e.rewards.shape), np.nan)
    for n in range(e.rewards.shape[1]):
        for part in segments(e, n):
            for i, s in enumerate(part):
                total, trace = 0.0, 1.0
                for t in part[i:]:
                    ratio = math.exp(e.log_ratios[t, n])
                    following = discount * bootstrap(e, t, n)
                    delta = min(rho_bar, ratio) * (e.rewards[t, n] + following - e.values[t, n])
                    total += trace * delta
                    trace *= discount * trace_lambda * min(c_bar, ratio)
                targets[s, n] = e.values[s, n] + total
            for i, s in enumerate(part):
                last = i == len(part) - 1
                after = bootstrap(e, s, n) if last else targets[part[i + 1], n]
                advantages[s, n] = e.rewards[s, n] + discount * after - e.values[s, n]
    return targets, advantages


def reference_gae(e: Episodes, discount: float, gae_lambda: float) -> Floats:
    advantages = np.full(e.rewards.shape, np.nan)
    for n in range(e.rewards.shape[1]):
        for part in segments(e, n):
            for i, s in enumerate(part):
                advantages[s, n] = sum(
                    (discount * gae_lambda) ** k
                    * (e.rewards[t, n] + discount * bootstrap(e, t, n) - e.values[t, n])
                    for k, t in enumerate(part[i:])
                )
    return advantages


@settings(deadline=None, max_examples=80)
@given(
    e=episodes(),
    discount=st.sampled_from([0.0, 0.9, 0.99, 1.0]),
    rho_bar=st.sampled_from([0.5, 1.0, 3.0]),
    c_bar=st.sampled_from([0.3, 1.0]),
    trace_lambda=st.sampled_from([0.0, 0.7, 1.0]),
)
def test_vtrace_is_the_sum_of_the_paper_within_every_episode(
    e: Episodes, discount: float, rho_bar: float, c_bar: float, trace_lambda: float
) -> None:
    found = vtrace(
        log_ratios=torch.tensor(e.log_ratios, dtype=torch.float32),
        **e.tensors(discount),
        rho_bar=rho_bar,
        c_bar=c_bar,
        trace_lambda=trace_lambda,
    )
    targets, advantages = reference_vtrace(e, discount, rho_bar, c_bar, trace_lambda)
    np.testing.assert_allclose(found.values.numpy()[e.valid], targets[e.valid], atol=2e-4)
    np.testing.assert_allclose(found.advantages.numpy()[e.valid], advantages[e.valid], atol=2e-4)


@settings(deadline=None, max_examples=60)
@given(
    e=episodes(),
    discount=st.sampled_from([0.0, 0.9, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.95, 1.0]),
)
def test_gae_is_the_sum_of_the_paper_within_every_episode(
    e: Episodes, discount: float, gae_lambda: float
) -> None:
    found = gae(**e.tensors(discount), gae_lambda=gae_lambda)
    expected = reference_gae(e, discount, gae_lambda)
    np.testing.assert_allclose(found.advantages.numpy()[e.valid], expected[e.valid], atol=1e-4)
    targets = e.values[:-1] + expected
    np.testing.assert_allclose(found.values.numpy()[e.valid], targets[e.valid], atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(e=episodes(), fill=st.sampled_from([-1e3, 7.0]))
def test_nothing_of_an_automatic_reset_reaches_a_valid_step(e: Episodes, fill: float) -> None:
    def valid_results() -> Floats:
        found = vtrace(
            log_ratios=torch.tensor(e.log_ratios, dtype=torch.float32),
            **e.tensors(0.99),
            rho_bar=1.0,
            c_bar=1.0,
        )
        return np.stack([found.values.numpy(), found.advantages.numpy()])[:, e.valid]

    before = valid_results()
    e.rewards[~e.valid] = fill
    e.log_ratios[~e.valid] = fill / 100
    np.testing.assert_array_equal(valid_results(), before)


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32).unsqueeze(1)


def test_on_policy_targets_are_n_step_returns() -> None:
    rewards = column(1.0, 2.0, 3.0)
    found = vtrace(
        log_ratios=torch.zeros(3, 1),
        rewards=rewards,
        discounts=torch.full((3, 1), 0.9),
        continues=torch.ones(3, 1),
        values=column(5.0, -7.0, 11.0, 4.0),
        rho_bar=1.0,
        c_bar=1.0,
    )
    returns = column(1 + 0.9 * 2 + 0.81 * 3 + 0.729 * 4, 2 + 0.9 * 3 + 0.81 * 4, 3 + 0.9 * 4)
    torch.testing.assert_close(found.values, returns)
    same = gae(
        rewards=rewards,
        discounts=torch.full((3, 1), 0.9),
        continues=torch.ones(3, 1),
        values=column(5.0, -7.0, 11.0, 4.0),
        gae_lambda=1.0,
    )
    torch.testing.assert_close(found.advantages, same.advantages)
    torch.testing.assert_close(found.values, same.values)


def test_two_off_policy_steps_by_hand() -> None:
    # r = 2 is cut to 1 by both bars; r = 0.5 scales its difference and its trace.
    found = vtrace(
        log_ratios=column(math.log(0.5), math.log(2.0)),
        rewards=column(1.0, 1.0),
        discounts=torch.full((2, 1), 0.5),
        continues=torch.ones(2, 1),
        values=column(2.0, 4.0, 6.0),
        rho_bar=1.0,
        c_bar=1.0,
    )
    # delta_1 = 1 + 3 - 4 = 0 -> v_1 = 4;  delta_0 = .5 (1 + 2 - 2) = .5 -> v_0 = 2.5
    torch.testing.assert_close(found.values, column(2.5, 4.0))
    torch.testing.assert_close(found.advantages, column(1.0, 0.0))


@pytest.mark.parametrize(("terminated", "expected"), [(True, 1.0), (False, 1.0 + 0.9 * 10.0)])
def test_a_truncation_bootstraps_from_the_final_observation_and_a_termination_does_not(
    terminated: bool, expected: float
) -> None:
    # Step 0 ends the episode, step 1 resets, step 2 belongs to the next episode.
    targets = vtrace(
        log_ratios=torch.zeros(3, 1),
        rewards=column(1.0, 0.0, 100.0),
        discounts=column(0.0 if terminated else 0.9, 0.9, 0.9),
        continues=column(0.0, 1.0, 1.0),
        values=column(3.0, 10.0, 20.0, 30.0),  # row 1: of the final observation
        rho_bar=1.0,
        c_bar=1.0,
    )
    assert targets.values[0, 0] == pytest.approx(expected)
    assert targets.advantages[0, 0] == pytest.approx(expected - 3.0)


def test_exploding_ratios_leave_targets_finite() -> None:
    found = vtrace(
        log_ratios=column(500.0, -500.0, 500.0),
        rewards=torch.ones(3, 1),
        discounts=torch.full((3, 1), 0.9),
        continues=torch.ones(3, 1),
        values=torch.ones(4, 1),
        rho_bar=1.0,
        c_bar=1.0,
    )
    assert bool(torch.isfinite(found.values).all())
    assert bool(torch.isfinite(found.advantages).all())
