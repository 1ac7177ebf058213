"""How an observable becomes evidence: severity scales, and the memories they need."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyncrl_worker.stability.observables import Threshold


def severity(value: float, threshold: Threshold, beyond: float) -> float:
    """Where more is worse: 0 at 0, then 1, 2, 3 at watch, degraded, beyond; linear between."""
    watch, degraded = threshold.watch, threshold.degraded
    if math.isnan(value):
        return 3.0
    if value < watch:
        return max(0.0, value / watch)
    if value < degraded:
        return 1.0 + (value - watch) / (degraded - watch)
    if beyond <= degraded:
        return 2.0
    return min(3.0, 2.0 + (value - degraded) / (beyond - degraded))


def scarcity(share: float, threshold: Threshold) -> float:
    """Severity where less of a 0..1 share is worse; 3 at a tenth of degraded."""
    missing = Threshold(max(0.0, 1.0 - threshold.watch), max(0.0, 1.0 - threshold.degraded))
    return severity(1.0 - share, missing, 1.0 - threshold.degraded / 10.0)


class Latch:
    """Entered after `enter` calls within twice as many updates; left when the last `leave` updates
    hold fewer than half as many calls. A stray call neither raises nor prolongs it."""

    def __init__(self, enter: int, leave: int) -> None:
        self.enter = enter
        # Never shorter than the window of entry, or it would be re-entered as it is left.
        self.leave = max(leave, 2 * enter)
        self.calls: deque[bool] = deque(maxlen=self.leave)
        self.updates_held = 0
        self.held = False

    def step(self, call: bool) -> bool:
        """Whether the latch is held after this update."""
        self.calls.append(call)
        if not self.held:
            self.held = sum(list(self.calls)[-2 * self.enter :]) >= self.enter
            self.updates_held = 0
            return self.held
        self.updates_held += 1
        self.held = self.updates_held < self.leave or 2 * sum(self.calls) >= self.enter
        return self.held

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        calls = "".join("1" if call else "0" for call in self.calls)
        return {"calls": calls, "updates_held": self.updates_held, "held": self.held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.calls = deque((c == "1" for c in state["calls"]), maxlen=self.calls.maxlen)
        self.updates_held, self.held = int(state["updates_held"]), bool(state["held"])


@dataclass(slots=True)
class GradientNorm:
    """z-score of the log gradient norm against the run's own slow mean and deviation."""

    WARM_UP = 20
    WEIGHT = 0.02
    # Below a quarter of a unit of log norm a run is so even that ordinary noise would be 8 sigma.
    LEAST_DEVIATION = 0.25

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def z_score(self, norm: float) -> float | None:
        """Of a finite norm; None during the warm-up and for a norm of 0."""
        if norm <= 0.0:
            return None
        value = math.log(norm)
        z = None
        if self.count >= self.WARM_UP:
            deviation = max(math.sqrt(self.variance), self.LEAST_DEVIATION)
            z = (value - self.mean) / deviation
            # A spike must not become the new normal at once.
            value = min(value, self.mean + 4.0 * deviation)
        self.count += 1
        weight = max(self.WEIGHT, 1.0 / self.count)
        difference = value - self.mean
        self.mean += weight * difference
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference)
        return z


@dataclass(slots=True)
class ReturnDrop:
    """How much of what was gained has been lost again: (best - now) / (best - lowest).

    On a moving average, and only once best and lowest lie a quarter of the larger magnitude apart;
    before that the difference is noise. Any sign of returns will do.
    """

    WEIGHT = 0.1
    LEAST_SPAN = 0.25

    now: float | None = None
    best: float = -math.inf
    lowest: float = math.inf

    def step(self, value: float) -> None:
        """Take in the episode return of one update."""
        self.now = value if self.now is None else self.now + self.WEIGHT * (value - self.now)
        self.best, self.lowest = max(self.best, self.now), min(self.lowest, self.now)

    @property
    def drop(self) -> float | None:
        """0..1, or None while too little was ever gained to speak of a loss."""
        if self.now is None:
            return None
        span = self.best - self.lowest
        if span <= self.LEAST_SPAN * max(abs(self.best), abs(self.lowest)):
            return None
        return (self.best - self.now) / span
