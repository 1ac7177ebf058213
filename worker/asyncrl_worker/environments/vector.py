"""The environments of one actor, stepped together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asyncrl_worker.environments.spaces import Discrete, EnvironmentDescription

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
Actions = NDArray[np.int64] | NDArray[np.float32]


@dataclass
class Progress:
    """Where the environments are, for a watchdog in another thread to look at.

    Any change is progress. Plain attributes without a clock, as they are written at every step.
    """

    phase: str | None = None  # "making", "reset" or "step" while the environment's code runs
    step: int = 0  # vector steps begun
    environment: int | None = None  # index of the running one, where they run one after another


class VectorEnvironment(ABC):
    """N environments that reset themselves as gymnasium's AutoresetMode.NEXT_STEP says.

    The step after the end of an episode ignores the action, resets, and returns the first
    observation with reward 0 and both flags False.
    """

    name: str
    environments: int
    description: EnvironmentDescription
    progress: Progress

    @abstractmethod
    def reset(self, seeds: np.random.SeedSequence, observations: Float32) -> None:
        """Begin new episodes everywhere, each environment with a seed of its own.

        Args:
            observations: [N, D], receives the first observations.

        Raises:
            EnvironmentFault: the environment raised or returned a wrong shape.
        """

    @abstractmethod
    def step(
        self,
        actions: Actions,
        observations: Float32,
        rewards: Float32,
        terminated: Bool,
        truncated: Bool,
    ) -> None:
        """One step everywhere; the results are written into the arrays.

        Values are not checked for NaN here: the caller does so once for many steps.

        Args:
            actions: [N] int64 from 0, or [N, A] float32, clipped here to the bounds.
            observations: [N, D], receives the next observations.
            rewards, terminated, truncated: [N].

        Raises:
            EnvironmentFault: the environment raised or returned a wrong shape.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the environments hold, child processes included."""


def integer_seeds(seeds: np.random.SeedSequence, count: int) -> list[int]:
    """Seeds as environments accept them: below 2^31, for those that hand them to C."""
    return [int(word) & 0x7FFFFFFF for word in seeds.generate_state(count)]


class ActionAdapter:
    """From the worker's actions to those of the environment's own space."""

    def __init__(
        self, description: EnvironmentDescription, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        action = description.action
        self._shape = shape
        self._dtype = dtype
        self._start = 0
        self._low: Float32 | None = None
        self._high: Float32 | None = None
        if isinstance(action, Discrete):
            self._start = action.start
        else:
            self._low = np.asarray(action.low, dtype=np.float32)
            self._high = np.asarray(action.high, dtype=np.float32)

    def __call__(self, actions: Actions) -> NDArray[Any]:
        """[N] or [N, A] -> [N, *shape of the environment's actions]."""
        if self._low is None or self._high is None:
            return actions + self._start if self._start else actions
        clipped = np.minimum(np.maximum(actions, self._low), self._high)
        return clipped.reshape(len(actions), *self._shape).astype(self._dtype, copy=False)
