"""Gradient alignment control in a training loop of your own, around any torch optimizer.

    python examples/own_loop.py

A small network learns a function from noisy batches. After 200 steps its gradients begin to arrive
16 versions late, as from workers that fell behind. The same run with and without the guard shows
what late gradients do to the cosine of consecutive gradients, and what the guard makes of it.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asyncrl_worker.alignment import AlignmentConfig, GradientAlignment, Regime

STEPS = 800
LATE_FROM = 200
STALENESS = 16
LEARNING_RATE = 0.03


@dataclass(frozen=True)
class Outcome:
    """What one run ended with: cosines before and after the delay, final loss, steps touched."""

    cosine_before: float
    cosine_after: float
    touched_before: int
    touched_after: int
    loss: float


def batch(generator: torch.Generator, size: int = 64) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(size, 8, generator=generator)
    targets = torch.sin(inputs[:, :1]) + inputs[:, 1:2] * inputs[:, 2:3]
    return inputs, targets + 0.3 * torch.randn(size, 1, generator=generator)


def train(config: AlignmentConfig) -> Outcome:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    network = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
    worker = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    guard = GradientAlignment(network.parameters(), config)

    versions = deque([network.state_dict()], maxlen=STALENESS + 1)
    cosines: list[float] = []
    touched: list[bool] = []
    for step in range(STEPS):
        late = min(STALENESS, max(0, step - LATE_FROM), len(versions) - 1)
        worker.load_state_dict(versions[-1 - late])
        inputs, targets = batch(generator)
        loss = nn.functional.mse_loss(worker(inputs), targets)
        gradients = torch.autograd.grad(loss, list(worker.parameters()))
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.grad = gradient

        decision = guard.step()  # after backward, before clipping
        if decision.apply:
            optimizer.step()
            versions.append({name: value.clone() for name, value in network.state_dict().items()})

        touched.append(decision.regime is not Regime.PASS)
        if decision.cosine is not None:
            cosines.append(decision.cosine)
    with torch.no_grad():
        inputs, targets = batch(torch.Generator().manual_seed(2), 4096)
        final = float(nn.functional.mse_loss(network(inputs), targets))
    return Outcome(
        cosine_before=statistics.fmean(cosines[:LATE_FROM]),
        cosine_after=statistics.fmean(cosines[LATE_FROM:]) if len(cosines) > LATE_FROM else 0.0,
        touched_before=sum(touched[:LATE_FROM]),
        touched_after=sum(touched[LATE_FROM:]),
        loss=final,
    )


def main() -> None:
    runs = {
        "without (observe)": AlignmentConfig(mode="observe"),
        "with the guard": AlignmentConfig(),
        "classic, fixed .05/.3": AlignmentConfig(calibration="fixed"),
    }
    print(f"gradients on time until step {LATE_FROM}, then {STALENESS} versions late\n")
    print(f"{'':22} {'cosine':>17} {'steps over threshold':>22} {'final loss':>11}")
    for name, config in runs.items():
        end = train(config)
        cosines = f"{end.cosine_before:5.2f} then {end.cosine_after:5.2f}"
        steps = f"{end.touched_before:d} then {end.touched_after:d}"
        print(f"{name:22} {cosines:>17} {steps:>22} {end.loss:11.3f}")


if __name__ == "__main__":
    main()
