"""Environments that are stepped as a batch: vectorised by their author, or in own processes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from asyncrl_api.reasons import Reason
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


class BatchedVectorEnvironment(VectorEnvironment):
    """A gymnasium VectorEnv whose autoreset mode is NEXT_STEP; the caller has checked that."""

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        description: EnvironmentDescription,
        *,
        name: str,
        progress: Progress,
    ) -> None:
        self.name = name
        self.environments = vector.num_envs
        self.description = description
        self.progress = progress
        self._vector = vector
        self._shape = (vector.num_envs, *description.observation_shape)
        space = vector.single_action_space
        self._adapt = ActionAdapter(description, space.shape or (), np.dtype(space.dtype))

    def reset(self, seeds: np.random.SeedSequence, observations: Float32) -> None:
        progress = self.progress
        progress.phase = "reset"
        integers = integer_seeds(seeds, self.environments)
        try:
            if isinstance(self._vector, AsyncVectorEnv):
                observation, _ = self._vector.reset(seed=[*integers])
            else:
                # One seed, from which it draws the initial states of all its environments.
                observation, _ = self._vector.reset(seed=integers[0])
        except (Exception, SystemExit) as error:
            raise self._failed("at a reset", error) from error
        self._store(observation, observations)
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
        try:
            observation, reward, end, cut, _ = self._vector.step(self._adapt(actions))
        except (Exception, SystemExit) as error:
            raise self._failed(f"at vector step {progress.step}", error) from error
        self._store(observation, observations)
        self._copy("reward", reward, rewards)
        self._copy("terminated flag", end, terminated)
        self._copy("truncated flag", cut, truncated)
        progress.phase = None

    def close(self) -> None:
        if isinstance(self._vector, AsyncVectorEnv):
            # Never wait for an environment that may hang. Not by SIGTERM, which is gymnasium's way:
            # forked processes have inherited this role's handler for it.
            for process in self._vector.processes:
                process.kill()
            self._vector.close(terminate=True)
        else:
            self._vector.close()

    def _store(self, observation: Any, observations: Float32) -> None:
        array = np.asarray(observation)
        if array.shape != self._shape:
            raise faults.wrong_shape(
                self.name, self._where(), "a batch of observations", array.shape, self._shape
            )
        observations[:] = array.reshape(observations.shape)

    def _copy(self, what: str, values: Any, target: NDArray[Any]) -> None:
        array = np.asarray(values)
        if array.shape != target.shape:
            raise faults.wrong_shape(
                self.name, self._where(), f"a batch with one {what} each", array.shape, target.shape
            )
        target[:] = array

    def _where(self) -> str:
        return f"at vector step {self.progress.step}"

    def _failed(self, where: str, error: Exception | SystemExit) -> faults.EnvironmentFault:
        if isinstance(error, EOFError | ConnectionError):
            return faults.EnvironmentFault(
                Reason.ENVIRONMENT_FAILED,
                f"a process of '{self.name}' ended {where}; look for a crash or too little memory",
            )
        return faults.raised(self.name, where, error)
