"""A control for alignment control: skipping as often, but by chance."""

from __future__ import annotations

import dataclasses

import numpy as np

from asyncrl_worker.alignment import AlignmentDecision, GradientAlignment, Regime


class RandomSkips:
    """Stands in for a GradientAlignment that observes, and skips a step with probability `rate`.

    What the gradients say has no influence: if a controller that skips as often does no better, it
    was the fewer steps that helped, not the choice of them.
    """

    def __init__(
        self, observer: GradientAlignment, rate: float, generator: np.random.Generator
    ) -> None:
        self._observer = observer
        self.rate = rate
        self._generator = generator

    def step(self) -> AlignmentDecision:
        """Measures like the observer; a step in which it drops a gradient stays dropped."""
        decision = self._observer.step()
        if decision.apply and self._generator.random() < self.rate:
            return dataclasses.replace(decision, apply=False, regime=Regime.SKIP)
        return decision
