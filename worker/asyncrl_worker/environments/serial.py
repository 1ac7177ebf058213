"""Environments stepped one after another in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from asyncrl_worker.environments import faults
from asyncrl_worker.environments.spaces import EnvironmentDescription
from asyncrl_worker.environments.vector import (
    ActionAdapter,
    Actions,
    Bool,
    Float32,
    Progress,
    VectorEnvironment,
    integer_seeds,
)

Environment = gymnasium.Env[Any, Any]


class SerialVectorEnvironment(VectorEnvironment):
    """A plain loop over environments.

    It does what gymnasium's SyncVectorEnv does, but writes straight into the caller's arrays, keeps
    no infos, and knows which of the environments failed.
    """

    def __init__(
        self,
        environments: Sequence[Environment],
        description: EnvironmentDescription,
        *,
        name: str,
        progress: Progress,
    ) -> None:
        self.name = name
        self.environments = len(environments)
        self.description = description
        self.progress = progress
        self._environments = list(environments)
        self._ended = [False] * len(environments)
        space = environments[0].action_space
        self._adapt = ActionAdapter(description, space.shape or (), np.dtype(space.dtype))

    def reset(self, seeds: np.random.SeedSequence, observations: Float32) -> None:
        progress = self.progress
        progress.phase = "reset"
        integers = integer_seeds(seeds, self.environments)
        for i, environment in enumerate(self._environments):
            progress.environment = i
            try:
                self._store(environment.reset(seed=integers[i])[0], observations, i)
            except faults.EnvironmentFault:
                raise
            except (Exception, SystemExit) as error:
                raise faults.raised(self.name, f"at the reset of environment {i}", error) from error
        self._ended = [False] * self.environments
        progress.phase = None

    def step(
        self,
        actions: Actions,
        observations: Float32,
        rewards: Float32,
        terminated: Bool,
        truncated: Bool,
    ) -> None:
        progress = self.progress
        progress.phase = "step"
        progress.step += 1
        ended = self._ended
        shape = self.description.observation_shape
        flat = len(shape) == 1
        rewards[:] = 0.0
        terminated[:] = False
        truncated[:] = False
        i = 0
        try:
            adapted = self._adapt(actions)
            for i, environment in enumerate(self._environments):
                progress.environment = i
                if ended[i]:
                    observation = environment.reset()[0]
                    ended[i] = False
                else:
                    observation, reward, end, cut, _ = environment.step(adapted[i])
                    rewards[i] = reward
                    if end or cut:
                        terminated[i] = end
                        truncated[i] = cut
                        ended[i] = True
                if flat and getattr(observation, "shape", None) == shape:
                    observations[i] = observation
                else:
                    self._store(observation, observations, i)
        except faults.EnvironmentFault:
            raise
        except (Exception, SystemExit) as error:
            where = f"at step {progress.step} of environment {i}"
            raise faults.raised(self.name, where, error) from error
        progress.phase = None

    def close(self) -> None:
        for environment in self._environments:
            environment.close()

    def _store(self, observation: Any, observations: Float32, index: int) -> None:
        array = np.asarray(observation)
        expected = self.description.observation_shape
        if array.shape != expected:
            where = f"at step {self.progress.step} of environment {index}"
            raise faults.wrong_shape(self.name, where, "an observation", array.shape, expected)
        observations[index] = array.reshape(-1)
