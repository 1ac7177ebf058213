"""How far a run is: counters, returns, throughput, and whether it should stop. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from asyncrl_api.reasons import Reason
from asyncrl_api.spec import Stopping

EPISODES = 100
"""Training episodes whose mean return is reported, the habit of Gymnasium's leaderboards."""

THROUGHPUT_SECONDS = 5.0
"""Window of the reported throughput."""


@dataclass(frozen=True)
class EvaluationScore:
    """Mean undiscounted return of the greedy policy of one version."""

    version: int
    mean_return: float
    episodes: int


class Progress:
    """Counts what is trained; `clock` gives seconds that only grow."""

    def __init__(self, stopping: Stopping, clock: Callable[[], float]) -> None:
        self._stopping = stopping
        self._clock = clock
        self._started = clock()
        self._earlier_seconds = 0.0
        self._returns: deque[float] = deque(maxlen=EPISODES)
        self._window: deque[tuple[float, int]] = deque([(self._started, 0)])
        self.environment_steps = 0
        self.policy_version = 0
        self.evaluation: EvaluationScore | None = None

    @property
    def elapsed(self) -> float:
        """Seconds of training, those before a resume included."""
        return self._earlier_seconds + self._clock() - self._started

    @property
    def episode_return(self) -> float | None:
        """Mean return of the newest training episodes; absent before the first one ends."""
        return fmean(self._returns) if self._returns else None

    @property
    def throughput(self) -> float | None:
        """Environment steps trained per second, recently."""
        (start, first), (end, last) = self._window[0], self._window[-1]
        return (last - first) / (end - start) if end > start else None

    def trained(self, *, steps: int, version: int, returns: Iterable[float]) -> None:
        """One batch was consumed."""
        self.environment_steps += steps
        self.policy_version = version
        self._returns.extend(returns)
        now = self._clock()
        self._window.append((now, self.environment_steps))
        while len(self._window) > 2 and now - self._window[1][0] > THROUGHPUT_SECONDS:
            self._window.popleft()

    def evaluated(self, score: EvaluationScore) -> None:
        """An evaluation came back; an older version than the last one's changes nothing."""
        if self.evaluation is None or score.version >= self.evaluation.version:
            self.evaluation = score

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0 to 1, by its nearest limit."""
        limits = (
            (self.environment_steps, self._stopping.environment_steps),
            (self.policy_version, self._stopping.policy_versions),
            (self.elapsed, self._stopping.wall_time_seconds),
        )
        return min(1.0, max((done / limit for done, limit in limits if limit), default=0.0))

    @property
    def scheduled_fraction(self) -> float:
        """As `fraction`, by steps and versions only: what drives a reproducible schedule.

        The steps of a skipped batch count, as they do towards the end of the run, so that a
        schedule over the steps ends with it.
        """
        limits = (
            (self.environment_steps, self._stopping.environment_steps),
            (self.policy_version, self._stopping.policy_versions),
        )
        return min(1.0, max((done / limit for done, limit in limits if limit), default=0.0))

    def finished(self, *, evaluating: bool) -> Reason | None:
        """The limit that ends the run, if one is reached.

        The target counts for evaluations where there are any, else for training episodes, of which
        there must be enough for a mean.
        """
        stopping = self._stopping
        target = stopping.target_return
        if target is not None:
            if evaluating:
                reached = self.evaluation is not None and self.evaluation.mean_return >= target
            else:
                full = len(self._returns) == EPISODES
                reached = full and fmean(self._returns) >= target
            if reached:
                return Reason.TARGET_RETURN_REACHED
        steps, versions = stopping.environment_steps, stopping.policy_versions
        if steps is not None and self.environment_steps >= steps:
            return Reason.ENVIRONMENT_STEPS_REACHED
        if versions is not None and self.policy_version >= versions:
            return Reason.POLICY_VERSIONS_REACHED
        seconds = stopping.wall_time_seconds
        if seconds is not None and self.elapsed >= seconds:
            return Reason.WALL_TIME_REACHED
        return None

    def state(self) -> dict[str, Any]:
        """For a checkpoint; JSON."""
        score = self.evaluation
        return {
            "environment_steps": self.environment_steps,
            "policy_version": self.policy_version,
            "elapsed": self.elapsed,
            "returns": list(self._returns),
            "evaluation": None
            if score is None
            else [score.version, score.mean_return, score.episodes],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Back to a checkpoint's state."""
        self.environment_steps = state["environment_steps"]
        self.policy_version = state["policy_version"]
        self._earlier_seconds = state["elapsed"]
        self._returns.extend(state["returns"])
        if state["evaluation"] is not None:
            self.evaluation = EvaluationScore(*state["evaluation"])
        self._window = deque([(self._clock(), self.environment_steps)])
