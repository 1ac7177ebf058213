"""Delayed gradient descent: the exact table, the deadlock of unlimited skipping, its release."""

from __future__ import annotations

import math
from collections import deque

import pytest
import torch

from asyncrl_worker.alignment import AlignmentConfig, GradientAlignment, Regime

# staleness: (critical step, cosine at the edge), rounded as published in docs/alignment.md.
TABLE = {
    0: (2.0, -1.0),
    1: (1.0, 0.5),
    2: (0.618, 0.809),
    4: (0.347, 0.940),
    8: (0.1845, 0.983),
    16: (0.0952, 0.9955),
    32: (0.0483, 0.9988),
}


def critical_step(staleness: int) -> float:
    return 2.0 * math.sin(math.pi / (2 * (2 * staleness + 1)))


def descend(staleness: int, step: float, updates: int) -> tuple[list[float], list[float]]:
    """theta <- theta - step * theta_{t-s} in the plane from a circle: norms and cosines measured.

    At the edge the solution of the recursion is that circle, walked at the angle pi / (2s + 1).
    """
    angle = math.pi / (2 * staleness + 1)
    history = deque(
        (
            torch.tensor([math.cos(angle * t), math.sin(angle * t)], dtype=torch.float64)
            for t in range(-staleness, 1)
        ),
        maxlen=staleness + 1,
    )
    parameter = torch.nn.Parameter(history[-1].clone())
    optimizer = torch.optim.SGD([parameter], lr=step)
    guard = GradientAlignment([parameter], AlignmentConfig(mode="observe", memory_dtype="float32"))
    norms, cosines = [], []
    for _ in range(updates):
        parameter.grad = history[0].clone()
        decision = guard.step()
        if decision.cosine is not None:
            cosines.append(decision.cosine)
        optimizer.step()
        history.append(parameter.detach().clone())
        norms.append(float(parameter.detach().norm()))
    return norms, cosines


@pytest.mark.parametrize("staleness", TABLE)
def test_cosine_at_the_edge_of_stability(staleness: int) -> None:
    published_step, published_cosine = TABLE[staleness]
    assert critical_step(staleness) == pytest.approx(published_step, abs=5e-4)
    norms, cosines = descend(staleness, critical_step(staleness), 4 * staleness + 20)
    assert norms == pytest.approx([1.0] * len(norms), abs=1e-9)
    exact = math.cos(math.pi / (2 * staleness + 1))
    assert exact == pytest.approx(published_cosine, abs=5e-4)
    assert cosines == pytest.approx([exact] * len(cosines), abs=1e-6)


@pytest.mark.parametrize("staleness", TABLE)
def test_stable_below_and_divergent_above_the_edge(staleness: int) -> None:
    updates = 200 + 40 * staleness
    below, _ = descend(staleness, 0.98 * critical_step(staleness), updates)
    above, _ = descend(staleness, 1.02 * critical_step(staleness), updates)
    assert max(below) < 1.1
    assert below[-1] < 0.8
    assert above[-1] > 1.3
    assert above[-1] > 1.1 * above[updates // 2]


STEP = 0.5
UPDATES = 600


def train(config: AlignmentConfig) -> tuple[float, list[Regime]]:
    """Noisy quadratic, gradients 8 versions late, step above the edge: distance and regimes.

    Only an optimizer step makes a version, so after a skip the next gradient is as it was.
    """
    staleness = 8
    generator = torch.Generator().manual_seed(0)
    target = torch.ones(16)
    parameter = torch.nn.Parameter(torch.zeros(16))
    optimizer = torch.optim.SGD([parameter], lr=STEP)
    guard = GradientAlignment([parameter], config)
    versions: deque[torch.Tensor] = deque(maxlen=staleness + 1)
    versions.append(parameter.detach().clone())
    regimes = []
    for _ in range(UPDATES):
        noise = 0.01 * torch.randn(16, generator=generator)
        parameter.grad = versions[0] - target + noise
        decision = guard.step()
        regimes.append(decision.regime)
        if decision.apply:
            optimizer.step()
            versions.append(parameter.detach().clone())
    return float((parameter.detach() - target).norm()), regimes


def longest_row_of_skips(regimes: list[Regime]) -> int:
    return max(map(len, "".join("s" if r is Regime.SKIP else " " for r in regimes).split()))


def test_without_control_it_diverges() -> None:
    assert critical_step(8) < STEP
    distance, _ = train(AlignmentConfig(mode="observe", calibration="fixed"))
    assert not distance < 1e3


def test_unlimited_skipping_deadlocks() -> None:
    distance, regimes = train(AlignmentConfig(calibration="fixed", max_skips=10**9))
    assert distance > 1.0
    assert longest_row_of_skips(regimes) > 0.9 * UPDATES


def test_a_bound_on_skips_frees_it() -> None:
    distance, regimes = train(AlignmentConfig(calibration="fixed", max_skips=3))
    assert distance < 0.2
    assert longest_row_of_skips(regimes) == 3
