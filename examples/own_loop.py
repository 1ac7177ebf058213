"""Gradient alignment control in a training loop of your own, around any torch optimizer.

    python examples/own_loop.py [SEED]

A small network learns a function from noisy batches; always predicting the mean has a loss of 1.6.
From step 200 on its gradients arrive 16 steps late, as from a worker that fell behind, at a
learning rate that only gradients on time can bear. The rows show what becomes of such a run.

A skipped step makes no new version, so the gradients on their way are then fewer versions late. The
last row takes this help away: there every gradient is 16 versions late, whatever is skipped.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from asyncrl_worker.alignment import AlignmentConfig, GradientAlignment, Regime

STEPS = 1200
LATE_FROM = 200
STALENESS = 16
LEARNING_RATE = 0.025


@dataclass(frozen=True)
class Outcome:
    """Loss on unseen data, of the last 20 steps on time and of the last 200 of all; and how many of
    the late steps were over the thresholds, and skipped."""

    before: float
    after: float
    touched: float
    skipped: float


def batch(generator: torch.Generator, size: int = 64) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(size, 8, generator=generator)
    targets = torch.sin(inputs[:, :1]) + inputs[:, 1:2] * inputs[:, 2:3]
    return inputs, targets + 0.3 * torch.randn(size, 1, generator=generator)


def train(
    config: AlignmentConfig,
    *,
    seed: int,
    staleness: int = STALENESS,
    chance: float = 0.0,
    exact: bool = False,
) -> Outcome:
    """`chance`: of skipping a late step, whatever its gradient. `exact`: late in versions."""
    torch.manual_seed(seed)
    dice = random.Random(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    network = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
    worker = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    guard = GradientAlignment(network.parameters(), config)

    unseen = batch(torch.Generator().manual_seed(99), 1024)
    weights = deque([network.state_dict()], maxlen=staleness + 1)
    losses: list[float] = []
    touched: list[bool] = []
    skipped: list[bool] = []
    for step in range(STEPS):
        late = min(max(0, step - LATE_FROM), len(weights) - 1)
        worker.load_state_dict(weights[-1 - late])
        inputs, targets = batch(generator)
        loss = nn.functional.mse_loss(worker(inputs), targets)
        gradients = torch.autograd.grad(loss, list(worker.parameters()))
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.grad = gradient

        decision = guard.step()  # after backward, before clipping
        apply = decision.apply and (late == 0 or dice.random() >= chance)
        if apply:
            optimizer.step()
        if apply or not exact:
            weights.append({name: value.clone() for name, value in network.state_dict().items()})

        touched.append(decision.regime is not Regime.PASS)
        skipped.append(not apply)
        with torch.no_grad():
            losses.append(float(nn.functional.mse_loss(network(unseen[0]), unseen[1])))
    return Outcome(
        before=fmean(losses[LATE_FROM - 20 : LATE_FROM]),
        after=fmean(losses[-200:]),
        touched=fmean(touched[LATE_FROM:]),
        skipped=fmean(skipped[LATE_FROM:]),
    )


def show(name: str, end: Outcome) -> None:
    shares = f"{end.touched:15.0%} {end.skipped:8.0%}"
    print(f"{name:34} {end.before:11.3f} {end.after:10.3g} {shares}", flush=True)


def main(seed: int = 0) -> None:
    observe, guard = AlignmentConfig(mode="observe"), AlignmentConfig()
    print(f"gradients on time until step {LATE_FROM}, then {STALENESS} steps late; seed {seed}\n")
    print(f"{'':34} {'loss before':>11} {'at the end':>10} {'over threshold':>15} {'skipped':>8}")
    show("on time to the end", train(observe, seed=seed, staleness=0))
    show("without control", train(observe, seed=seed))
    guarded = train(guard, seed=seed)
    show("the guard", guarded)
    show("skipping as often, by chance", train(observe, seed=seed, chance=guarded.skipped))
    show("classic thresholds", train(AlignmentConfig(calibration="fixed"), seed=seed))
    show("the guard, always 16 versions late", train(guard, seed=seed, exact=True))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
